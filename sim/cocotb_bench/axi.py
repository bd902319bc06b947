# SPDX-License-Identifier: Apache-2.0
"""AXI4 memory for verification: back-pressure on every channel, interleaving, errors on any beat.

Plain Python, one call per clock cycle and port; knows nothing of the simulator. Every broken rule
of a master raises :class:`ProtocolError`.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from hwgen.isa.instructions import BEAT_BYTES, INSTRUCTION_BYTES, Instruction, encode
from hwgen.sim.cocotb_bench import bins

PAGE = 4096
ID_FETCH = 1
_INCREMENTING = 1
_SIZE_16_BYTES = 4


#: A load without thresholds, from far behind the memory image.
_STRAY_LOAD = Instruction(
    "LOAD_WORDS", {"address": (1 << 28) - 1, "port_stride": 0, "words": 16, "destination": 0}
)


class ProtocolError(Exception):
    """A master broke a rule of AXI4 or of the memory map."""


@dataclass
class Region:
    """Addresses ``base`` up of external memory; a burst beyond ``window`` bytes breaks a rule."""

    name: str
    base: int
    data: bytearray
    writable: bool = False
    window: int | None = None  #: None: all


@dataclass
class Target:
    """One error response to give: on the ``skip``-th matching beat."""

    channel: str  #: R or B
    kind: str  #: weights, fetch, load, store; empty: any
    response: str  #: key of :data:`bins.RESPONSES`
    position: str = ""  #: R: first, middle or last beat; empty: any
    place: str = ""  #: name of a part of the memory; empty: anywhere
    port: int | None = None  #: None: any
    least: int = bins.CROWD  #: bursts outstanding at the port at that moment
    most: int | None = None
    skip: int = 0
    address: int | None = None  #: of the burst that got the error, once given


@dataclass
class _Burst:
    identifier: int
    address: int
    beats: int
    kind: str
    done: int = 0
    due: int = 0  #: earliest cycle of the (first) response


@dataclass(frozen=True)
class Chances:
    """Chance per cycle, in 0..1, that a channel moves."""

    ar: float = 1.0
    r: float = 1.0
    aw: float = 1.0
    w: float = 1.0
    b: float = 1.0
    axil_aw: float = 1.0
    axil_w: float = 1.0
    axil_b: float = 1.0
    axil_ar: float = 1.0
    axil_r: float = 1.0
    interleave: float = 0.5  #: that R changes to the other ID where both are owed
    b_delay: int = 0  #: cycles from the last beat to the earliest response
    overrun_delay: int = 0  #: cycles by which fetches beyond END come late, at least


@dataclass
class Memory:
    """External memory behind all ports, and what is wanted of it now."""

    regions: list[Region]
    weights: list[tuple[int, int]]  #: [first, end) addresses of tile regions
    places: dict[str, tuple[int, int]]  #: [first, end) addresses of what has a name
    program_end: int  #: address behind the last instruction
    hits: Counter[str]
    rng: random.Random
    chances: Chances = field(default_factory=Chances)
    target: Target | None = None
    dead: bool = False  #: answers nothing, accepts nothing
    requested: Counter[str] = field(default_factory=Counter)  #: bursts by kind

    def region(self, address: int, size: int, *, write: bool) -> tuple[Region, int]:
        """The region that holds a burst, and the offset in it."""
        for region in self.regions:
            offset = address - region.base
            end = len(region.data) if region.window is None else region.window
            if offset >= 0 and offset + size <= end:
                if write and not region.writable:
                    raise ProtocolError(f"Write to {region.name} at {address:#x}")
                return region, offset
        raise ProtocolError(f"Burst of {size} bytes at {address:#x} lies in no region")

    def kind(self, identifier: int, address: int) -> str:
        """Kind of a read."""
        if identifier == ID_FETCH:
            return "fetch"
        if any(first <= address < end for first, end in self.weights):
            return "weights"
        return "load"

    def response(
        self, channel: str, burst: _Burst, position: str, outstanding: int, port: int = 0
    ) -> tuple[int, list[str]]:
        """Response of a beat: 0, or the target's error, once; and the bins that it is for."""
        target = self.target
        if (
            target is None
            or target.address is not None
            or target.channel != channel
            or target.kind not in ("", burst.kind)
            or target.position not in ("", position)
            or target.port not in (None, port)
            or not target.least <= outstanding <= (target.most or outstanding)
        ):
            return 0, []
        if burst.kind == "fetch" and burst.address + burst.done * BEAT_BYTES >= self.program_end:
            return 0, []  # prefetched beyond END and never used
        places = [
            name for name, (first, end) in self.places.items() if first <= burst.address < end
        ]
        if target.place and target.place not in places:
            return 0, []
        if target.skip:
            target.skip -= 1
            return 0, []
        target.address = burst.address
        name = target.response
        hits = [bins.error(channel, place, name) for place in places]
        if outstanding >= bins.CROWD:
            hits.append(bins.error(channel, burst.kind, name, position, port))
        if outstanding == 1:
            hits.append(bins.error(channel, burst.kind, name, port=port, alone=True))
        return bins.RESPONSES[name], hits


def check_burst(name: str, address: int, length: int, size: int, burst: int) -> int:
    """Beats of a legal request."""
    beats = length + 1
    if size != _SIZE_16_BYTES or burst != _INCREMENTING or address % BEAT_BYTES:
        raise ProtocolError(f"{name} at {address:#x}: size {size}, burst {burst}")
    if address // PAGE != (address + beats * BEAT_BYTES - 1) // PAGE:
        raise ProtocolError(f"{name} of {beats} beats at {address:#x} crosses 4 KiB")
    return beats


class ReadPort:
    """Slave of AR and R of one port.

    Beats of different IDs may alternate within bursts; those of one ID keep the order of requests.
    ``rdata`` and the other outputs hold until the beat is taken.
    """

    def __init__(self, memory: Memory, number: int) -> None:
        """A quiet port of the memory."""
        self.memory = memory
        self.number = number
        self.queues: dict[int, deque[_Burst]] = {}
        self.arready = False
        self.rvalid = False
        self.rid = self.rresp = self.rdata = 0
        self.rlast = False
        self._chosen: int | None = None
        self._hits: list[str] = []  # of the beat on offer
        self._refused_in_crowd = False
        self._stray: _Burst | None = None  #: in which a stray instruction comes
        self._now = 0

    @property
    def outstanding(self) -> int:
        """Bursts accepted and not yet ended."""
        return sum(map(len, self.queues.values()))

    def request(self, identifier: int, address: int, length: int, size: int, burst: int) -> None:
        """AR was taken."""
        beats = check_burst("Read", address, length, size, burst)
        self.memory.region(address, beats * BEAT_BYTES, write=False)
        kind = self.memory.kind(identifier, address)
        self.memory.requested[kind] += 1
        if self._refused_in_crowd:
            self.memory.hits[bins.stall("AR", kind, port=self.number)] += 1
            self._refused_in_crowd = False
        entry = _Burst(identifier, address, beats, kind)
        if kind == "fetch" and address >= self.memory.program_end:
            self.memory.hits[bins.OVERRUN] += 1
            entry.due = self._now + self.memory.chances.overrun_delay
        self.queues.setdefault(identifier, deque()).append(entry)

    def taken(self) -> None:
        """R was taken."""
        if not self.rvalid:
            raise ProtocolError("R was taken without an offer")
        self.memory.hits.update(self._hits)
        queue = self.queues[self.rid]
        queue[0].done += 1
        if self.rlast:
            queue.popleft()
            if not queue:
                del self.queues[self.rid]
        self.rvalid = False

    def step(self, *, refused: bool) -> None:
        """Choose the outputs of the next cycle; ``refused``: AR was offered and not taken."""
        memory, chances, rng = self.memory, self.memory.chances, self.memory.rng
        self._now += 1
        outstanding = self.outstanding
        if refused and outstanding >= bins.CROWD:
            self._refused_in_crowd = True
        self.arready = not memory.dead and rng.random() < chances.ar
        owed = [key for key, queue in self.queues.items() if queue[0].due <= self._now]
        if self.rvalid or not owed:
            return
        change = len(owed) > 1 and rng.random() < chances.interleave
        if change or self._chosen not in owed:
            self._chosen = rng.choice(owed)
        burst = self.queues[self._chosen][0]
        position = bins.position_of(burst.done, burst.beats)
        if memory.dead or rng.random() >= chances.r:
            if outstanding >= bins.CROWD:
                memory.hits[bins.stall("R", burst.kind, position, self.number)] += 1
            return
        region, offset = memory.region(burst.address, burst.beats * BEAT_BYTES, write=False)
        start = offset + burst.done * BEAT_BYTES
        self.rid = burst.identifier
        self.rlast = burst.done == burst.beats - 1
        self.rresp, self._hits = memory.response("R", burst, position, outstanding, self.number)
        self.rdata = int.from_bytes(region.data[start : start + BEAT_BYTES], "little")
        if self.rresp:
            # The data of an error mean nothing. The worst that they could be as an instruction,
            # with the beat behind them, is a load that is sound but for its address.
            self.rdata = rng.getrandbits(8 * BEAT_BYTES)
            self._stray = burst if burst.kind == "fetch" and burst.done % 2 == 0 else None
        if self._stray is burst:
            stray = encode(_STRAY_LOAD, start // INSTRUCTION_BYTES)
            half = burst.done % 2 * BEAT_BYTES
            self.rdata = int.from_bytes(stray[half : half + BEAT_BYTES], "little")
            if half:
                self._stray = None
        self.rvalid = True


class WritePort:
    """Slave of AW, W and B; W may come before its AW, B comes after both."""

    def __init__(self, memory: Memory) -> None:
        """A quiet port of the memory."""
        self.memory = memory
        self.requests: deque[_Burst] = deque()  # AW taken, B not
        self.filled = 0  # of these, how many have all their data
        self.beats: deque[tuple[int, bool]] = deque()  # taken, not yet in the memory
        self.awready = self.wready = self.bvalid = False
        self.bresp = 0
        self._w_beat = 0  # of the burst that W is in
        self._hits: list[str] = []  # of the response on offer
        self._now = 0

    @property
    def outstanding(self) -> int:
        """Bursts whose address was taken and whose response was not."""
        return len(self.requests)

    @property
    def quiet(self) -> bool:
        """Nothing is owed by either side."""
        return not self.requests and not self.beats

    def request(self, identifier: int, address: int, length: int, size: int, burst: int) -> None:
        """AW was taken."""
        if identifier:
            raise ProtocolError(f"AWID must be 0, not {identifier}")
        beats = check_burst("Write", address, length, size, burst)
        self.memory.region(address, beats * BEAT_BYTES, write=True)
        self.memory.requested["store"] += 1
        self.requests.append(_Burst(0, address, beats, "store"))

    def data(self, word: int, strobe: int, last: bool) -> None:
        """W was taken."""
        if strobe != (1 << BEAT_BYTES) - 1:
            raise ProtocolError(f"WSTRB must be all ones, not {strobe:#x}")
        self.beats.append((word, last))
        self._w_beat = 0 if last else self._w_beat + 1

    def taken(self) -> None:
        """B was taken."""
        if not self.bvalid:
            raise ProtocolError("B was taken without an offer")
        self.memory.hits.update(self._hits)
        self.requests.popleft()
        self.filled -= 1
        self.bvalid = False

    def _store(self) -> None:
        while self.beats and self.filled < len(self.requests):
            burst = self.requests[self.filled]
            word, last = self.beats.popleft()
            region, offset = self.memory.region(burst.address, burst.beats * BEAT_BYTES, write=True)
            start = offset + burst.done * BEAT_BYTES
            region.data[start : start + BEAT_BYTES] = word.to_bytes(BEAT_BYTES, "little")
            burst.done += 1
            if last != (burst.done == burst.beats):
                raise ProtocolError(f"WLAST of beat {burst.done} of {burst.beats}")
            if last:
                self.filled += 1
                burst.due = self._now + self.memory.chances.b_delay

    def step(self, *, aw_refused: bool, w_refused: bool, w_last: bool) -> None:
        """Choose the outputs of the next cycle."""
        memory, chances, rng = self.memory, self.memory.chances, self.memory.rng
        self._now += 1
        crowd = self.outstanding >= bins.CROWD
        if crowd and aw_refused:
            memory.hits[bins.stall("AW", "store")] += 1
        if crowd and w_refused:
            position = "first" if self._w_beat == 0 else "last" if w_last else "middle"
            memory.hits[bins.stall("W", "store", position)] += 1
        self._store()
        self.awready = not memory.dead and rng.random() < chances.aw
        self.wready = not memory.dead and rng.random() < chances.w
        if self.bvalid or not self.filled:
            return
        held = self._now < self.requests[0].due
        if memory.dead or held or rng.random() >= chances.b:
            if crowd:
                memory.hits[bins.stall("B", "store")] += 1
            return
        self.bresp, self._hits = memory.response("B", self.requests[0], "", self.outstanding)
        self.bvalid = True
