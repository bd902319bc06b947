# SPDX-License-Identifier: Apache-2.0
"""LOAD engine: bursts, where beats go and in which cycle, windows; the constant FIFO."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwgen.columns import dense
from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    BEAT_BYTES,
    CHECKED_BITS,
    OFFSET_BITS,
    Instruction,
    encode,
)
from hwgen.program.machine.load import LOAD_FLUSH, LOAD_GAP, LOAD_TURN
from hwgen.rtl.elementwise import WRITTEN_ENTRIES
from hwgen.rtl.load import TABLE_BEATS, ConstantFifo, LoadEngine

from .stalls import Chance, Context, simulate

IMAGE_BASE, INPUT_BASE = 0x5_0000_2000, 0x7_0000_1000
BANK = 6
BANK_WORDS = 1024
WINDOW = 1 << 24


def config_of(rows: int, ports: int) -> AcceleratorConfig:
    return AcceleratorConfig(
        rows=rows, groups=dense(rows), memory_ports=ports, burst_beats=4, queue_depth=3
    )


def memory_beat(address: int) -> int:
    """What external memory holds at a beat's address."""
    return (address // BEAT_BYTES + 1) * 0xB504_F333_F9DE_6484_597D_89B3_754A_BE9F % (1 << 128)


def memory_bytes(first: int, beats: int) -> bytes:
    return b"".join(
        memory_beat(first + BEAT_BYTES * b).to_bytes(BEAT_BYTES, "little") for b in range(beats)
    )


@dataclass
class Expected:
    """From the definition of a command."""

    beats: int  #: on every port that takes part
    first: list[int]  #: address of a port's first beat
    weights: list[int] = field(default_factory=list)
    constants: list[tuple[int, int]] = field(default_factory=list)
    layernorm: list[tuple[int, int, int]] = field(default_factory=list)
    table: list[tuple[int, int, int]] = field(default_factory=list)
    written: dict[tuple[int, int], int] = field(default_factory=dict)  #: (word, byte) -> value


def expect(config: AcceleratorConfig, given: Instruction) -> Expected:
    """What a load does, byte by byte."""
    wide = {"LOAD_TILES": config.memory_ports, "LOAD_WORDS": config.word_ports}
    ports = wide.get(given.opcode, 1)
    base = INPUT_BASE if given.opcode == "LOAD_IMAGE" else IMAGE_BASE
    stride = given["port_stride"] if ports > 1 else 0
    first = [base + BEAT_BYTES * (given["address"] + p * stride) for p in range(ports)]
    if given.opcode == "LOAD_TILES":
        result = Expected(given["beats"], first)
        beat = 0

        def wide_beat() -> int:
            nonlocal beat
            values = [memory_beat(start + BEAT_BYTES * beat) for start in first]
            beat += 1
            return sum(value << 128 * p for p, value in enumerate(values))

        for _ in range(given["tiles"]):
            last = given["constant_beats"] - 1
            result.constants += [(wide_beat(), int(b == last)) for b in range(last + 1)]
            result.weights += [wide_beat() for _ in range(given["weight_beats"])]
        assert beat == given["beats"]
        return result
    if given.opcode == "LOAD_WORDS":
        result = Expected(given["words"] * config.rows // (ports * BEAT_BYTES), first)
        parts = [memory_bytes(start, result.beats) for start in first]
        beats = [part[BEAT_BYTES * b :][:BEAT_BYTES] for b in range(result.beats) for part in parts]
        for k, value in enumerate(b"".join(beats)):
            result.written[given["destination"] + k // config.rows, k % config.rows] = value
        return result
    if given.opcode == "LOAD_IMAGE":
        result = Expected(given["beats"], first)
        size = 1 << given["group_log2"]
        pixels = iter(memory_bytes(first[0], result.beats))
        for row in range(given["patch_rows"]):
            for line in range(given["lines"]):
                for patch in range(given["patches"]):
                    for k in range(given["groups"] * size):
                        byte = line * given["groups"] * size + k
                        word = given["destination"] + byte // config.rows * given["stride"]
                        word += row * given["patches"] + patch
                        result.written[word, byte % config.rows] = next(pixels) ^ 0x80
        return result
    count = given["beats"] if given.opcode == "LOAD_LAYERNORM" else TABLE_BEATS
    result = Expected(count, first)
    if given.opcode == "LOAD_LAYERNORM":
        result.layernorm = [
            (given["slot"], b, memory_beat(first[0] + BEAT_BYTES * b)) for b in range(count)
        ]
        return result
    for index, word in enumerate(range(0, BEAT_BYTES * count, WRITTEN_ENTRIES)):
        entries = memory_bytes(first[0], count)[word : word + WRITTEN_ENTRIES]
        result.table.append((given["slot"], index, int.from_bytes(entries, "little")))
    return result


@dataclass
class Run:
    """Cycles."""

    accepted: list[int] = field(default_factory=list)
    bursts: list[list[int]] = field(default_factory=list)  #: by port
    beats: list[int] = field(default_factory=list)  #: of port 0
    weights: list[int] = field(default_factory=list)
    constants: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    outside: int | None = None


@dataclass(frozen=True)
class Pace:
    """Per cent of the cycles: bursts are taken, beats come, streams are taken, words written."""

    burst: int = 100
    beat: int = 100
    take: int = 100
    write: int = 100


def run_engine(
    config: AcceleratorConfig,
    commands: Sequence[Instruction],
    pace: Pace = Pace(),
    *,
    ahead: int = 1 << 20,
    window: int = WINDOW,
    seed: int = 0,
) -> Run:
    """Run loads; a port holds at most ``ahead`` beats asked for and not yet taken."""
    ports = range(config.memory_ports)
    expected = [expect(config, command) for command in commands]
    burst_chance, beat_chance = (
        [Chance(percent, [seed, i, p]) for p in ports]
        for i, percent in enumerate((pace.burst, pace.beat))
    )
    take_chance = [Chance(pace.take, [seed, 3, i]) for i in range(2)]
    write_chance = Chance(pace.write, [seed, 4])
    unit = LoadEngine(config)
    run = Run(bursts=[[] for _ in ports])

    def all_of(name: str) -> list:
        return [item for one in expected for item in getattr(one, name)]

    streams = {name: all_of(name) for name in ("weights", "constants", "layernorm", "table")}
    # Every port's bursts: they end at multiples of the longest, counted on port 0.
    wanted: list[list[tuple[int, int]]] = [[] for _ in ports]
    for one in expected:
        position = 0
        while position < one.beats:
            place = (one.first[0] // BEAT_BYTES + position) % config.burst_beats
            length = min(one.beats - position, config.burst_beats - place)
            for p, start in enumerate(one.first):
                wanted[p].append((start + BEAT_BYTES * position, length))
            position += length

    async def bench(ctx: Context) -> None:
        fifos: list[deque[int]] = [deque() for _ in ports]
        there = [False for _ in ports]
        held_burst: list[tuple[int, int] | None] = [None for _ in ports]
        count = dict.fromkeys(streams, 0)
        held_write: tuple[int, int, int] | None = None
        held: dict[str, object] = dict.fromkeys(("weights", "constants"))
        memory: dict[tuple[int, int], int] = {}
        cycle = quiet = 0
        # What was handed over may still wait for a slow stream.
        rest = 12 if pace.take == 100 else 80
        for name, base in (("image", IMAGE_BASE), ("input", INPUT_BASE)):
            ctx.set(getattr(unit, f"{name}_base"), base)
            ctx.set(getattr(unit, f"{name}_window"), window)
        while quiet < rest:
            number = len(run.accepted)
            ctx.set(unit.i_command.valid, int(number < len(commands)))
            if number < len(commands):
                word = int.from_bytes(encode(commands[number], 0), "little")
                ctx.set(unit.i_command.payload, word & ((1 << CHECKED_BITS) - 1))
            for p in ports:
                room = len(fifos[p]) < ahead
                ctx.set(getattr(unit, f"o_burst{p}").ready, int(room and burst_chance[p]()))
                there[p] = bool(fifos[p]) and (there[p] or beat_chance[p]())
                beats = getattr(unit, f"i_beats{p}")
                ctx.set(beats.valid, int(there[p]))
                ctx.set(beats.payload, memory_beat(fifos[p][0]) if there[p] else cycle)
            for name, chance in zip(("weights", "constants"), take_chance, strict=True):
                ctx.set(getattr(unit, f"o_{name}").ready, int(chance()))
            ctx.set(unit.write.ready, int(write_chance()))
            # Outputs.
            for name, times in (("weights", run.weights), ("constants", run.constants)):
                stream = getattr(unit, f"o_{name}")
                value: object = None
                if ctx.get(stream.valid):
                    if name == "weights":
                        value = ctx.get(stream.payload)
                    else:
                        value = (ctx.get(stream.payload.data), ctx.get(stream.payload.last))
                    assert held[name] in (None, value)
                    if ctx.get(stream.ready):
                        assert value == streams[name][count[name]], (name, count[name])
                        count[name] += 1
                        times.append(cycle)
                        value = None
                held[name] = value
            for name in ("layernorm", "table"):
                if ctx.get(getattr(unit, f"{name}_valid")):
                    ports_of = (f"{name}_slot", f"{name}_index", f"{name}_data")
                    slot, index, value = (ctx.get(getattr(unit, port)) for port in ports_of)
                    value %= 1 << (128 if name == "layernorm" else 8 * WRITTEN_ENTRIES)
                    assert (slot, index, value) == streams[name][count[name]]
                    count[name] += 1
            write = None
            if ctx.get(unit.write.valid):
                write = tuple(
                    ctx.get(getattr(unit.write, name)) for name in ("address", "data", "enable")
                )
                assert held_write in (None, write)
                if ctx.get(unit.write.ready):
                    where, value_bytes, enable = write
                    for byte in range(config.rows):
                        if enable >> byte & 1:
                            memory[where, byte] = value_bytes >> 8 * byte & 0xFF
                    run.writes.append(cycle)
                    write = None
            held_write = write
            if ctx.get(unit.done):
                one = expected[len(run.done)]
                assert {key: memory.get(key) for key in one.written} == one.written
                memory = {key: v for key, v in memory.items() if key not in one.written}
                assert not memory, "only what belongs to the command is written"
                run.done.append(cycle)
            if number < len(commands) and ctx.get(unit.i_command.ready):
                run.accepted.append(cycle)
            for p in ports:
                stream = getattr(unit, f"o_burst{p}")
                burst = None
                if ctx.get(stream.valid):
                    burst = (ctx.get(stream.payload.address), ctx.get(stream.payload.length) + 1)
                    assert held_burst[p] in (None, burst)
                    if ctx.get(stream.ready):
                        assert burst == wanted[p][len(run.bursts[p])]
                        run.bursts[p].append(cycle)
                        fifos[p].extend(burst[0] + BEAT_BYTES * b for b in range(burst[1]))
                        burst = None
                held_burst[p] = burst
                if there[p] and ctx.get(getattr(unit, f"i_beats{p}").ready):
                    fifos[p].popleft()
                    there[p] = False
                    if p == 0:
                        run.beats.append(cycle)
            if ctx.get(unit.outside) and run.outside is None:
                run.outside = ctx.get(unit.outside_address)
            await ctx.tick()
            cycle += 1
            quiet += len(run.done) == len(commands) or run.outside is not None
            assert cycle < 30_000, "stands still"
        if run.outside is None:
            assert count == {name: len(values) for name, values in streams.items()}
            assert not any(fifos)
            assert not memory

    simulate(unit, bench)
    return run


def tiles(address: int, count: int, constants: int, weights: int, stride: int = 512) -> Instruction:
    fields = {"address": address, "port_stride": stride, "tiles": count}
    fields |= {"constant_beats": constants, "weight_beats": weights}
    return Instruction("LOAD_TILES", fields | {"beats": count * (constants + weights)})


def words(address: int, count: int, destination: int, stride: int = 512) -> Instruction:
    fields = {"address": address, "port_stride": stride, "words": count}
    return Instruction("LOAD_WORDS", fields | {"destination": (BANK << OFFSET_BITS) + destination})


def image(address: int, loops: tuple[int, int, int, int], log2: int) -> Instruction:
    patch_rows, lines, patches, groups = loops
    total = patch_rows * lines * patches * groups << log2
    fields = {"address": address, "destination": (BANK << OFFSET_BITS) + 7, "stride": 40}
    fields |= {"patch_rows": patch_rows, "lines": lines, "patches": patches, "groups": groups}
    return Instruction("LOAD_IMAGE", fields | {"group_log2": log2, "beats": -(-total // 16)})


def layernorm(address: int, beats: int, slot: int) -> Instruction:
    return Instruction("LOAD_LAYERNORM", {"address": address, "beats": beats, "slot": slot})


def table(address: int, slot: int) -> Instruction:
    return Instruction("LOAD_TABLE", {"address": address, "slot": slot})


#: Every kind behind every other, short and long, tiles without constants or weights.
COMMANDS = (
    tiles(3, 3, 4, 2),
    words(1000, 5, 100),
    tiles(77, 2, 1, 0),
    image(9, (3, 4, 3, 3), 0),
    tiles(5000, 1, 2, 15),
    tiles(10, 2, 0, 5),
    layernorm(33, 7, 1),
    image(2, (1, 5, 4, 3), 2),
    table(64, 1),
    image(30, (2, 2, 2, 2), 4),
    layernorm(2, 1, 0),
    words(6, 1, 0),
    table(1, 0),
    tiles(8, 1, 3, 9),
)
PACES = {
    "free": Pace(),
    "slow memory": Pace(burst=30, beat=40),
    "slow engines": Pace(take=30, write=40),
    "all slow": Pace(50, 60, 50, 70),
}


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
@pytest.mark.parametrize(("rows", "ports"), [(16, 1), (32, 2), (32, 3), (64, 2)])
def test_all_kinds(rows: int, ports: int, pace: Pace) -> None:
    run_engine(config_of(rows, ports), COMMANDS, pace, ahead=12, seed=ports)


#: Command accepted -> first burst offered; from one burst to the next.
FIRST_BURST = 3
NEXT_BURST = 2


def test_cycles_of_requests() -> None:
    run = run_engine(config_of(16, 2), [tiles(0, 2, 4, 12), tiles(64, 1, 4, 4)])
    for bursts in run.bursts:
        first = run.accepted[0] + FIRST_BURST
        assert bursts[:8] == list(range(first, first + 8 * NEXT_BURST, NEXT_BURST))
        assert bursts[8] == run.accepted[1] + FIRST_BURST


def test_cycles_of_tiles() -> None:
    """A wide beat a cycle; LOAD_TURN between the parts of a tile, LOAD_GAP between commands."""
    run = run_engine(config_of(16, 2), [tiles(0, 3, 4, 10), tiles(64, 1, 2, 6)])
    # The memory delivers two beats a cycle from the first burst on: it is always ahead.
    steps = ([*[1] * 3, 1 + LOAD_TURN, *[1] * 9, 1 + LOAD_TURN] * 3)[:-1]
    assert np.diff(run.beats[:42]).tolist() == steps
    assert run.done[0] == run.beats[41] + LOAD_TURN
    assert run.beats[42] == run.done[0] + 1 + LOAD_GAP
    assert np.subtract(sorted([*run.weights, *run.constants]), run.beats).tolist() == [1] * 50


def test_cycles_of_words_and_images() -> None:
    """A beat a cycle, a group a cycle; done LOAD_FLUSH after the last word was handed over."""
    for ports, command, cycles in (
        (1, words(0, 6, 3), 12),
        (2, words(0, 6, 3), 6),
        (3, words(0, 6, 3), 12),
        (1, image(0, (2, 4, 2, 2), 3), 32),
        (1, image(0, (1, 8, 2, 1), 4), 16),
    ):
        run = run_engine(config_of(32, ports), [command, command])
        assert np.diff(run.writes[:cycles]).tolist() == [1] * (cycles - 1)
        assert run.done[0] == run.writes[cycles - 1] + LOAD_FLUSH - 1
        assert run.writes[cycles] == run.done[0] + 1 + LOAD_GAP + 1


def test_cycles_of_parameters_and_tables() -> None:
    """A beat a cycle; of a table WRITTEN_ENTRIES a cycle."""
    words_of_beat = BEAT_BYTES // WRITTEN_ENTRIES
    for command, beats, cycles in (
        (layernorm(0, 9, 0), 9, 1),
        (table(0, 1), TABLE_BEATS, words_of_beat),
    ):
        run = run_engine(config_of(16, 1), [command, command])
        assert np.diff(run.beats[:beats]).tolist() == [cycles] * (beats - 1)
        assert run.done[0] == run.beats[beats - 1]
        assert run.beats[beats] == run.done[0] + LOAD_GAP + cycles


@pytest.mark.parametrize("room", (0, -1))
@pytest.mark.parametrize("port", (0, 1))
def test_a_load_beyond_its_window_is_not_begun(room: int, port: int) -> None:
    command = tiles(40, 2, 2, 6, stride=100)
    end = 40 + 100 + 16
    if port == 0:  # port 1 lies before it
        command = words(40, 16, 0)
        end = 40 + 16
    run = run_engine(config_of(16, 2), [command], window=end + room)
    if room == 0:
        assert run.outside is None
    else:
        assert run.outside == IMAGE_BASE + BEAT_BYTES * (40 + 100 * port)
        assert not any(run.bursts)


def test_constant_fifo_keeps_order_and_mark() -> None:
    config = AcceleratorConfig(rows=16, groups=dense(16), constant_fifo_beats=16)
    unit = ConstantFifo(config)
    rng = np.random.default_rng(3)
    given = [(int(rng.integers(1 << 40)), int(rng.integers(2))) for _ in range(200)]
    got: list[tuple[int, int]] = []

    async def bench(ctx) -> None:
        sent = 0
        while len(got) < len(given):
            there = sent < len(given) and bool(rng.integers(3))
            value, last = given[min(sent, len(given) - 1)]
            ctx.set(unit.i_stream.valid, there)
            ctx.set(unit.i_stream.payload, {"data": value, "last": last})
            # Slow at first, so that it fills up.
            ctx.set(unit.o_stream.ready, bool(rng.integers(8 if len(got) < 40 else 2) == 0))
            if ctx.get(unit.o_stream.valid) and ctx.get(unit.o_stream.ready):
                beat = unit.o_stream.payload
                got.append((ctx.get(beat.data), ctx.get(beat.last)))
            taken = there and ctx.get(unit.i_stream.ready)
            await ctx.tick()
            sent += taken

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert got == given
