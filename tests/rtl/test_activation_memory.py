# SPDX-License-Identifier: Apache-2.0
"""Random traffic on all ports at once, every cycle against a model: grants, words, refusals."""

from __future__ import annotations

from functools import cache
from itertools import accumulate

import numpy as np
import pytest
from amaranth import Cat, Module, Signal
from amaranth.back import verilog
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import BLOCK_WORDS, AcceleratorConfig, bank_slices
from hwgen.isa.banks import READERS, WRITERS, banks_of
from hwgen.isa.instructions import BANK_BITS, OFFSET_BITS, Engine
from hwgen.rtl.activation_memory import ActivationMemory
from hwgen.sim.engine_bench import OPTIONS
from hwgen.sim.unit_bench import run_unit
from hwgen.timings import READ_LATENCY

pytestmark = pytest.mark.verilator

#: A bank of one word; banks of two and of three slices.
CONFIG = AcceleratorConfig(rows=16, bank_words=(11, 8, 1100, 3, 4, 1, 3500))
#: Offsets that lie outside some banks.
ODD = (0, 4, 11, 1100, 3500, (1 << OFFSET_BITS) - 1)
#: Words of each bank that are used: some, and the ends of every slice.
WORDS = [
    sorted({*range(5), *ODD, *ends, *(end - 1 for end in ends)} & {*range(words)})
    for words in CONFIG.bank_words
    for ends in [{*accumulate(bank_slices(words))}]
]
PORTS = [(engine, False) for engine in READERS] + [(engine, True) for engine in WRITERS]
ADDRESS = 20
BYTES = CONFIG.rows
ERROR_LATENCY = 4  #: cycles from a grant to ``range_error``
#: Of a request: valid, address; of a write also enables and data.
REQUEST = {False: 1 + ADDRESS, True: 1 + ADDRESS + BYTES + 8 * BYTES}


class Bench(wiring.Component):
    """A word of the input stream is the requests of one cycle, one of the output the answers."""

    def __init__(self) -> None:
        self.memory = ActivationMemory(CONFIG)
        answers = len(PORTS) + len(READERS) * (1 + 8 * BYTES) + 1 + 32 + 32
        super().__init__(
            {
                "i": In(stream.Signature(sum(REQUEST[write] for _, write in PORTS))),
                "o": Out(stream.Signature(answers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = self.memory
        cycle, given = Signal(32), self.i.payload
        m.d.sync += cycle.eq(cycle + 1)
        m.d.comb += [self.o.valid.eq(self.i.valid), self.i.ready.eq(self.o.ready)]
        for engine, write in PORTS:
            port = memory.port(engine, write=write)
            m.d.comb += [port.valid.eq(self.i.valid & given[0]), port.address.eq(given[1:])]
            if write:
                m.d.comb += Cat(port.enable, port.data).eq(given[1 + ADDRESS :])
            given = given[REQUEST[write] :]
        ports = [memory.port(engine, write=write) for engine, write in PORTS]
        m.d.comb += self.o.payload.eq(
            Cat(
                *(port.ready for port in ports),
                *(Cat(port.data_valid, port.data) for port in ports[: len(READERS)]),
                memory.range_error,
                memory.range_address,
                cycle,
            )
        )
        return m


Request = tuple[int, int, int]  #: address, enables, data
Requests = dict[tuple[Engine, bool], Request]


def meet(engine: Engine, other: Engine, write: bool) -> bool:
    """Whether two engines share a bank, so that one waits for the other."""
    return bool(set(banks_of(engine, write=write)) & set(banks_of(other, write=write)))


class Model:
    """The memory's contract, from its documentation."""

    def __init__(self) -> None:
        self.banks = [[0] * words for words in CONFIG.bank_words]
        self.requests: list[Requests] = []
        self.granted: list[set[tuple[Engine, bool]]] = []
        self.reads: list[dict[Engine, int | None]] = []  #: None: refused, whatever is returned
        self.errors: list[set[int]] = []

    def step(self, requests: Requests) -> set[tuple[Engine, bool]]:
        """The ports that are granted in a cycle."""
        granted, errors, writes = set(), set(), []
        reads: dict[Engine, int | None] = {}
        before: list[tuple[Engine, bool, int]] = []
        for (engine, write), (address, enable, data) in requests.items():
            bank, offset = address >> OFFSET_BITS, address % (1 << OFFSET_BITS)
            blocked = any(
                (kind, wanted) == (write, bank) and meet(engine, other, write)
                for other, kind, wanted in before
            )
            before.append((engine, write, bank))
            if blocked:
                continue
            granted.add((engine, write))
            legal = bank in banks_of(engine, write=write)
            inside = legal and offset < CONFIG.bank_words[bank]
            if not inside:
                errors.add(address)
            elif write:
                writes.append((bank, offset, enable, data))
            if not write:
                reads[engine] = self.banks[bank][offset] if inside else None
        for bank, offset, enable, data in writes:
            mask = sum(0xFF << 8 * byte for byte in range(BYTES) if enable >> byte & 1)
            self.banks[bank][offset] = self.banks[bank][offset] & ~mask | data & mask
        self.requests.append(requests)
        self.granted.append(granted)
        self.reads.append(reads)
        self.errors.append(errors)
        return granted

    def words(self) -> list[int]:
        """The requests as words of the bench's input."""
        words = []
        for requests in self.requests:
            word = position = 0
            for port in PORTS:
                if port in requests:
                    address, enable, data = requests[port]
                    written = (enable | data << BYTES) << 1 + ADDRESS if port[1] else 0
                    word |= (1 | address << 1 | written) << position
                position += REQUEST[port[1]]
            words.append(word)
        return words


@cache
def text() -> str:
    bench = Bench()
    return "\n".join(
        [verilog.convert(bench, name="bench", emit_src=False), *bench.memory.leaves().values()]
    )


def filled() -> Model:
    """Zeros have been written to every word that is used."""
    model = Model()
    for bank, words in enumerate(WORDS):
        writer = next(e for e in WRITERS if bank in banks_of(e, write=True))
        for offset in words:
            model.step({(writer, True): (bank << OFFSET_BITS | offset, 0xFFFF, 0)})
    return model


def traffic(seed: int, cycles: int, *, wild: bool) -> Model:
    """Requests held until they are granted; ``wild``: on any address now and then.

    Banks are sought in turns, so that all ports of one meet.
    """
    rng = np.random.default_rng(seed)
    model, held = filled(), {}
    for cycle in range(cycles):
        favourite, chance = cycle // 40 % len(CONFIG.bank_words), rng.choice([0.3, 0.9])
        for engine, write in PORTS:
            if (engine, write) in held or rng.random() > chance:
                continue
            legal = banks_of(engine, write=write)
            sought = favourite in legal and rng.random() < 0.7
            bank = favourite if sought else int(rng.choice(legal))
            offset = int(rng.choice(WORDS[bank]))
            if wild and rng.random() < 0.02:
                bank = int(rng.integers(1 << BANK_BITS))
                offset = int(rng.choice(ODD))
            enable = int(rng.integers(1 << 16)) if rng.random() < 0.5 else 0xFFFF
            data = int.from_bytes(rng.bytes(BYTES), "little")
            held[engine, write] = bank << OFFSET_BITS | offset, enable, data
        granted = model.step({port: held[port] for port in PORTS if port in held})
        held = {port: request for port, request in held.items() if port not in granted}
    return model


def check(model: Model) -> None:
    words = model.words()
    answers = run_unit(text(), "bench", words, len(words), options=OPTIONS).integers()
    first = 0
    for cycle, answer in enumerate(answers):
        for port in PORTS:
            # Ready of a port that asks for nothing says nothing.
            if port in model.requests[cycle]:
                assert answer & 1 == (port in model.granted[cycle]), (cycle, port)
            answer >>= 1
        reads = model.reads[cycle - READ_LATENCY] if cycle >= READ_LATENCY else {}
        for engine in READERS:
            assert answer & 1 == (engine in reads), (cycle, engine)
            if (expected := reads.get(engine)) is not None:
                assert answer >> 1 & (1 << 8 * BYTES) - 1 == expected, (cycle, engine)
            answer >>= 1 + 8 * BYTES
        wrong = model.errors[cycle - ERROR_LATENCY] if cycle >= ERROR_LATENCY else set()
        assert answer & 1 == bool(wrong), cycle
        assert not wrong or answer >> 1 & (1 << 32) - 1 in wrong, cycle
        first = answer >> 33 if cycle == 0 else first
        assert answer >> 33 == first + cycle, "a cycle without requests came between"


@pytest.mark.parametrize("wild", [False, True])
def test_random_traffic(wild: bool) -> None:
    model = traffic(1 + wild, 4_000, wild=wild)
    assert wild == any(model.errors)
    waits = {
        port
        for requests, granted in zip(model.requests, model.granted, strict=True)
        for port in set(requests) - granted
    }
    # All that share a bank with one before them.
    assert waits == {
        (engine, write)
        for clients, write in ((READERS, False), (WRITERS, True))
        for index, engine in enumerate(clients)
        if any(
            set(banks_of(engine, write=write)) & set(banks_of(other, write=write))
            for other in clients[:index]
        )
    }
    check(model)


def test_every_engine_at_every_bank() -> None:
    """What is a path is granted and done, everything else refused."""
    model = filled()
    for bank in range(1 << BANK_BITS):
        for engine, write in PORTS:
            data = int.from_bytes(bytes([16 * bank + engine] * BYTES), "little")
            model.step({(engine, write): (bank << OFFSET_BITS, 0xFFFF, data)})
            assert bool(model.errors[-1]) == (bank not in banks_of(engine, write=write))
    # What was refused has written nothing.
    for bank in range(len(CONFIG.bank_words)):
        reader = next(e for e in READERS if bank in banks_of(e, write=False))
        model.step({(reader, False): (bank << OFFSET_BITS, 0, 0)})
    for _ in range(ERROR_LATENCY):
        model.step({})
    check(model)


def test_slices() -> None:
    """As many blocks as without slices, or a few more where a LUT could not choose among them."""
    for words in (1, 512, 513, 2364, 4728, 9456, 4097, 61_500, 127_000, 1 << 17):
        slices = bank_slices(words)
        assert sum(slices) >= words and len(slices) <= 4
        sizes = [1 << (depth - 1).bit_length() for depth in slices]
        ends = accumulate(slices)
        assert all((end - d) % s == 0 for end, d, s in zip(ends, slices, sizes, strict=True))
        blocks = sum(max(size // BLOCK_WORDS, 1) for size in sizes)
        assert blocks <= 1.06 * -(-words // BLOCK_WORDS)
        assert sum(slices) == words or blocks > -(-words // BLOCK_WORDS)
    assert bank_slices(61_500) == (1 << 15, 1 << 15)
    assert bank_slices(2364) == (2048, 316)
    assert bank_slices(9456) == (8192, 1024, 240)
