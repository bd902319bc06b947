# SPDX-License-Identifier: Apache-2.0
"""The cocotb test: runs the scenarios of a job in one simulation and writes a report.

Everything below :func:`run_scenarios` is plain Python that advances one clock cycle per ``next``:
cocotb is entered once per cycle.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from hwgen.isa.instructions import INSTRUCTION_BYTES, Engine
from hwgen.isa.registers import BY_NAME
from hwgen.sim.cocotb_bench import bins
from hwgen.sim.cocotb_bench.axi import Chances, Memory, ProtocolError, ReadPort, Region, WritePort
from hwgen.sim.cocotb_bench.harness import control_layout, seen_layout
from hwgen.sim.cocotb_bench.program import TestFrame
from hwgen.sim.cocotb_bench.runner import read_job, write_report

Cycles = Generator[None, None, Any]

#: Above 4 GiB: the upper halves of the base registers count.
IMAGE_BASE, INPUT_BASE, OUTPUT_BASE = 0x1_0000_0000, 0x2_4000_0000, 0x3_8000_0000


class Bench:
    """The design with its memory and its host, seen once per cycle.

    ``seen`` and the fields named by the layout describe the last clock edge; what is chosen in
    :meth:`step` is driven before the next one.
    """

    def __init__(self, frame: TestFrame, dut: Any) -> None:
        """The frame's memory around the wrapper ``dut``."""
        self.frame = frame
        self.dut = dut
        self.ports = frame.config.memory_ports
        self.controls = control_layout(self.ports)
        self.layout = seen_layout(self.ports)
        self.hits: Counter[str] = Counter()
        self.rng = random.Random(1)
        self.cycle = 0
        self.rst = False
        self.done_before = False  #: a frame has ended since the last reset
        #: Sums over all writes into each bank: at the start of a frame, and of one whole frame.
        self.banks_before: list[int] = []
        self.bank_writes: list[int] | None = None
        self.seen = dict.fromkeys(self.layout, 0)
        self.axil = dict.fromkeys(("awvalid", "wvalid", "bready", "arvalid", "rready"), 0)
        self.output = Region("output", OUTPUT_BASE, bytearray(len(frame.output)), True)
        self.image = Region("image", IMAGE_BASE, bytearray(frame.image))
        self.input = Region("input", INPUT_BASE, bytearray(frame.input_bytes))
        places = {
            name: (IMAGE_BASE + first, IMAGE_BASE + end)
            for name, (first, end) in frame.loads.items()
        }
        places["image"] = (INPUT_BASE, INPUT_BASE + len(frame.input_bytes))
        places[bins.FIRST_FETCH] = (IMAGE_BASE, IMAGE_BASE + 1)
        first, end = frame.last_store
        places[bins.LAST_STORE] = (OUTPUT_BASE + first, OUTPUT_BASE + end)
        self.memory = Memory(
            [self.image, self.input, self.output],
            [(IMAGE_BASE + first, IMAGE_BASE + end) for first, end in frame.weights],
            places,
            IMAGE_BASE + frame.instructions * INSTRUCTION_BYTES,
            self.hits,
            self.rng,
        )
        self.connect_memory()

    def connect_memory(self) -> None:
        """Forget what is on the bus (a hard reset takes both sides)."""
        self.reads = [ReadPort(self.memory, p) for p in range(self.ports)]
        self.writes = WritePort(self.memory)
        self._driven = [-1] * self.ports

    # One cycle -----------------------------------------------------------------------------------

    def decode(self, seen: int) -> None:
        """Take the vector of the last edge apart."""
        for name, field in self.layout.items():
            self.seen[name] = seen >> field.low & field.mask

    def step(self) -> None:
        """What the last edge did, and what to drive before the next."""
        seen = self.seen
        self.cycle += 1
        if seen["broken"]:
            raise ProtocolError(f"Rule of a channel broken, flags {int(self.dut.broken.value):#x}")
        for p, port in enumerate(self.reads):
            if seen[f"r{p}_taken"]:
                port.taken()
            if seen[f"ar{p}_taken"]:
                port.request(*self._request(f"ar{p}_payload"))
            port.step(refused=bool(seen[f"ar{p}_refused"]))
            if port.rvalid and port.rdata != self._driven[p]:
                getattr(self.dut, f"m_axi{p}_rdata").value = self._driven[p] = port.rdata
        writes = self.writes
        if seen["b_taken"]:
            writes.taken()
        if seen["aw_taken"]:
            writes.request(*self._request("aw_payload"))
        if seen["w_taken"]:
            payload = int(self.dut.w_payload.value)
            writes.data(payload & (1 << 128) - 1, payload >> 128 & 0xFFFF, bool(payload >> 144))
        writes.step(
            aw_refused=bool(seen["aw_refused"]),
            w_refused=bool(seen["w_refused"]),
            w_last=bool(seen["w_last"]),
        )
        for channel in bins.AXIL:
            if seen[f"axil_{channel.lower()}_refused"]:
                self.hits[bins.axil_stall(channel)] += 1
        if seen["axil_ar_taken"] and seen["axil_aw_taken"]:
            self.hits[bins.AXIL_REQUESTS] += 1
        if seen["axil_r_taken"] and seen["axil_b_taken"]:
            self.hits[bins.AXIL_RESPONSES] += 1
        if seen["soft_reset"]:
            for phase in self.phases():
                self.hits[bins.reset("soft", phase)] += 1

    def _request(self, name: str) -> tuple[int, int, int, int, int]:
        payload = int(getattr(self.dut, name).value)
        address = payload >> 2 & (1 << 64) - 1
        length = payload >> 66 & 0xFF
        return payload & 3, address, length, payload >> 74 & 7, payload >> 77 & 3

    def control(self) -> int:
        """The control vector for the next edge."""
        value = int(self.rst)
        fields = self.controls
        for p, port in enumerate(self.reads):
            value |= port.arready << fields[f"m_axi{p}_arready"].low
            if port.rvalid:
                value |= 1 << fields[f"m_axi{p}_rvalid"].low
                value |= port.rlast << fields[f"m_axi{p}_rlast"].low
                value |= port.rid << fields[f"m_axi{p}_rid"].low
                value |= port.rresp << fields[f"m_axi{p}_rresp"].low
        writes = self.writes
        value |= writes.awready << fields["m_axi0_awready"].low
        value |= writes.wready << fields["m_axi0_wready"].low
        if writes.bvalid:
            value |= 1 << fields["m_axi0_bvalid"].low
            value |= writes.bresp << fields["m_axi0_bresp"].low
        for name, bit in self.axil.items():
            value |= bit << fields[f"s_axil_{name}"].low
        return value

    # State ---------------------------------------------------------------------------------------

    def active(self, engine: Engine) -> bool:
        """Whether an engine has an instruction."""
        return bool(self.seen["active"] >> engine & 1)

    def phases(self) -> list[str]:
        """Phases of the frame in the last cycle; several engines may be at work."""
        seen = self.seen
        if not seen["running"]:
            return ["idle after" if self.done_before else "before start"]
        found = []
        if self.active(Engine.LOAD) and seen["loads_done"] == self.frame.image_load:
            found.append("image load")
        for engine, phase in (
            (Engine.MATMUL, "matmul"),
            (Engine.DRAIN, "drain"),
            (Engine.SOFTMAX, "softmax"),
            (Engine.LAYERNORM, "layernorm"),
            (Engine.STORE, "store"),
        ):
            if self.active(engine):
                found.append(phase)
        if seen["end_held"]:
            found.append("waiting for END")
        return found

    def bank_digests(self) -> list[int]:
        """Sum over all writes so far into each bank, modulo 2^64."""
        count = len(self.frame.config.bank_words)
        return [int(getattr(self.dut, f"bank{b}_digest").value) for b in range(count)]

    def check_quiet(self, what: str = "The reset") -> None:
        """Nothing may be on the bus now that ``what`` has ended."""
        owed = [port.outstanding for port in self.reads]
        if any(owed) or not self.writes.quiet:
            writes = self.writes
            raise ProtocolError(
                f"{what} ended with {owed} reads, {writes.outstanding} writes and "
                f"{len(writes.beats)} beats of data on the bus"
            )

    # Host ----------------------------------------------------------------------------------------

    def wait(self, cycles: int) -> Cycles:
        """Let cycles pass."""
        for _ in range(cycles):
            yield

    def write(self, name: str, value: int, strobe: int = 15, byte: int = 0) -> Cycles:
        """Write a register: address (of its ``byte``) and data in their own time."""
        chances, random_ = self.memory.chances, self.rng.random
        self.dut.s_axil_awaddr.value = BY_NAME[name].offset + byte
        self.dut.s_axil_wdata.value = value
        self.dut.s_axil_wstrb.value = strobe
        axil, seen = self.axil, self.seen
        address = data = False  # taken
        for _ in range(100_000):
            if not address and not axil["awvalid"]:
                axil["awvalid"] = random_() < chances.axil_aw
            if not data and not axil["wvalid"]:
                axil["wvalid"] = random_() < chances.axil_w
            axil["bready"] = random_() < chances.axil_b
            yield
            if seen["axil_aw_taken"]:
                address, axil["awvalid"] = True, 0
            if seen["axil_w_taken"]:
                data, axil["wvalid"] = True, 0
            if seen["axil_b_taken"]:
                axil["bready"] = 0
                if not (address and data):
                    raise ProtocolError(f"{name}: response before address and data")
                if int(self.dut.axil_b_payload.value):
                    raise ProtocolError(f"{name}: BRESP is not OKAY")
                return
        raise ProtocolError(f"{name}: no response to a write")

    def read(self, name: str, byte: int = 0) -> Cycles:
        """Read a register by the address of one of its bytes."""
        chances, random_ = self.memory.chances, self.rng.random
        self.dut.s_axil_araddr.value = BY_NAME[name].offset + byte
        axil, seen = self.axil, self.seen
        taken = False
        for _ in range(100_000):
            if not taken and not axil["arvalid"]:
                axil["arvalid"] = random_() < chances.axil_ar
            axil["rready"] = random_() < chances.axil_r
            yield
            if seen["axil_ar_taken"]:
                taken, axil["arvalid"] = True, 0
            if seen["axil_r_taken"]:
                axil["rready"] = 0
                payload = int(self.dut.axil_r_payload.value)
                if not taken or payload >> 32:
                    raise ProtocolError(f"{name}: RRESP {payload >> 32}, requested {taken}")
                return payload & 0xFFFF_FFFF
        raise ProtocolError(f"{name}: no response to a read")

    def pipeline(self, writes: list[tuple[str, int]], reads: list[str]) -> Cycles:
        """Write and read at once, each channel as fast as it goes; returns ``(values, spans)``.

        The host waits for no response before the next request. A span says how many writes had
        been answered when the read was offered, and how many requested when it was taken.
        """
        chances, random_ = self.memory.chances, self.rng.random
        axil, seen = self.axil, self.seen
        values: list[int] = []
        spans: list[tuple[int, int]] = []
        done = dict.fromkeys(("aw", "w", "b", "ar"), 0)
        answered = 0  # writes, when the read on offer was offered
        total = {"aw": len(writes), "w": len(writes), "ar": len(reads)}
        for _ in range(100_000):
            for channel in ("aw", "w", "ar"):
                valid, index = f"{channel}valid", done[channel]
                if axil[valid] or index == total[channel]:
                    continue
                if random_() >= getattr(chances, f"axil_{channel}"):
                    continue
                axil[valid] = 1
                if channel == "aw":
                    self.dut.s_axil_awaddr.value = BY_NAME[writes[index][0]].offset
                elif channel == "w":
                    self.dut.s_axil_wdata.value = writes[index][1]
                    self.dut.s_axil_wstrb.value = 15
                else:
                    self.dut.s_axil_araddr.value = BY_NAME[reads[index]].offset
                    answered = done["b"]
            axil["bready"] = random_() < chances.axil_b
            axil["rready"] = random_() < chances.axil_r
            yield
            for channel in ("aw", "w", "ar"):
                if seen[f"axil_{channel}_taken"]:
                    axil[f"{channel}valid"] = 0
                    done[channel] += 1
            if seen["axil_ar_taken"]:
                spans.append((answered, min(done["aw"], done["w"])))
            if seen["axil_b_taken"]:
                done["b"] += 1
                if done["b"] > min(done["aw"], done["w"]):
                    raise ProtocolError("A response before address and data")
            if seen["axil_r_taken"]:
                values.append(int(self.dut.axil_r_payload.value) & 0xFFFF_FFFF)
                if len(values) > done["ar"]:
                    raise ProtocolError("Data without a request")
            if len(values) == len(reads) and done["b"] == len(writes):
                axil["bready"] = axil["rready"] = 0
                return values, spans
        raise ProtocolError("Writes and reads at once do not end")

    def hard_reset(self) -> Cycles:
        """Reset both sides of all buses for some cycles; leaves the host's registers to be set."""
        for phase in self.phases():
            self.hits[bins.reset("hard", phase)] += 1
        self.axil.update(dict.fromkeys(self.axil, 0))
        self.memory.dead = False
        self.memory.target = None
        self.rst = True
        for _ in range(self.rng.randint(1, 4)):
            self.connect_memory()
            yield
            # The edges under reset count for nothing; the first ones without it are quiet.
        self.connect_memory()
        self.rst = False
        self.done_before = False
        yield


@cocotb.test()
async def run_scenarios(dut: Any) -> None:
    """Run the scenarios of the job."""
    from hwgen.sim.cocotb_bench.host import ScenarioError, recover
    from hwgen.sim.cocotb_bench.scenarios import SCENARIOS

    frame, jobs, stop = read_job()
    bench = Bench(frame, dut)
    control, seen = dut.control, dut.seen
    edge = FallingEdge(dut.clk)

    async def run(cycles: Cycles, ceiling: int) -> None:
        """Advance a scenario to its end."""
        end = bench.cycle + ceiling
        last = -1
        for _ in cycles:
            value = bench.control()
            if value != last:
                control.value = last = value
            await edge
            bench.decode(int(seen.value))
            bench.step()
            if bench.cycle > end:
                raise ScenarioError(f"not finished after {ceiling} cycles")

    dut.control.value = 1
    for name in ("awaddr", "wdata", "wstrb", "araddr"):
        getattr(dut, f"s_axil_{name}").value = 0
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(4):
        await edge
    results = []
    for job in jobs:
        job = dict(job)
        kind, seed = job.pop("kind"), job.pop("seed")
        ceiling = job.pop("ceiling", 400_000)
        bench.rng.seed(seed)
        bench.memory.chances = Chances(**job.pop("chances", {}))
        start, problem = bench.cycle, None
        try:
            await run(SCENARIOS[kind](bench, **job), ceiling)
        except (ProtocolError, ScenarioError) as error:
            problem = f"{error} (cycle {bench.cycle - start}, phases {bench.phases()})"
            bench.memory.chances = Chances()
            if not stop:
                await run(recover(bench), 1000)
        results.append(
            {"kind": kind, "seed": seed, **job, "cycles": bench.cycle - start, "error": problem}
        )
        if problem and stop:
            break
    write_report({"results": results, "bins": dict(bench.hits), "cycles": bench.cycle})
