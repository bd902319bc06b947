# SPDX-License-Identifier: Apache-2.0
"""STATIONARY engine: what the shadow registers hold at every swap, exact cycles; corner turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from amaranth.sim import Simulator

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import MAXIMUM_GROUPS, OFFSET_BITS, StationarySource
from hwgen.program.machine.stationary import (
    COLUMNS_EMIT,
    COLUMNS_SETTLE,
    OPERAND_START,
    ROWS_INJECT,
)
from hwgen.program.weight_timing import pass_timing
from hwgen.rtl.corner_turn import CornerTurn
from hwgen.rtl.stationary import StationaryEngine
from hwgen.timings import READ_LATENCY

from .planes import Weights, block_sizes, random_command, random_weights, row_value

#: What a pass leaves in the shadow registers: per group the rows, none for a group without.
Shadow = list[list[int]]

BANK = 3 << OFFSET_BITS
BANK_WORDS = 2048


@dataclass(frozen=True)
class Operand:
    """A command of V or K in the bank that is read."""

    source: StationarySource
    base: int
    stride: int
    tiles: int
    passes: int
    limit: int
    pass_tokens: int = 0  #: V

    def shadows(self, config: AcceleratorConfig, words: npt.NDArray[np.uint8]) -> list[Shadow]:
        """From the definition, element by element."""
        rows = config.rows
        columns = config.attention_columns
        valid = columns if self.source == StationarySource.COLUMNS else config.value_columns
        shadows = []
        for tile in range(self.tiles):
            for number in range(self.passes):
                cells = np.zeros((rows, columns), np.int64)
                for chain_row in range(rows):
                    place = rows - 1 - chain_row
                    index = number * rows + place
                    if self.source == StationarySource.ROWS:
                        if place >= self.pass_tokens:
                            continue
                        index = number * self.pass_tokens + place
                    for column in range(valid):
                        channel, token = tile * valid + column, index
                        if self.source == StationarySource.COLUMNS:
                            channel, token = index, tile * valid + column
                        if token < self.limit:
                            word = self.base + channel // rows * self.stride + token
                            cells[chain_row, column] = words[word, channel % rows]
                shadow: Shadow = []
                for group in config.groups:
                    wide = group.weight_bits == 8
                    own = group.columns if wide else group.columns // 2 if group.paired else 0
                    piece, cells = cells[:, :own], cells[:, own:]
                    if group.paired:
                        # value == 16 * (upper + carry) + lower, all signed
                        signed = np.where(piece > 127, piece - 256, piece)
                        lower = (signed + 8) % 16 - 8
                        carry = lower < 0
                        upper = (signed - lower) // 16 - carry
                        assert upper.min() >= -8 and upper.max() <= 7
                        piece = np.hstack([lower & 15, upper & 15 | carry << 4])
                    bits = group.cell_bits
                    shadow.append([row_value(row, bits) for row in piece] if own else [])
                shadows.append(shadow)
        return shadows


Command = Weights | Operand


@dataclass
class Run:
    """When things happened, cycles since the reset; passes in their order."""

    full: list[int] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    beats: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Chances:
    """Per cent, per cycle: a beat comes, a read is granted, a full pass is swapped."""

    beat: int = 100
    grant: int = 100
    swap: int = 100


def run_engine(
    config: AcceleratorConfig,
    commands: Sequence[Command],
    *,
    chances: Chances = Chances(),
    swap_after: int = 4,
    seed: int = 0,
) -> Run:
    """Run commands back to back; every pass is compared when it becomes full.

    Args:
        config: the design.
        commands: in their order.
        chances: of what the engine waits for.
        swap_after: least cycles from full to the swap.
        seed: of all contents and stalls.
    """
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (BANK_WORDS, config.rows), dtype=np.uint8)
    beats: list[int] = []
    expected: list[Shadow] = []
    payloads: list[dict[str, int]] = []
    counts: list[int] = []
    planes_names = [f"planes{g}" for g in range(MAXIMUM_GROUPS)]
    for given in commands:
        if isinstance(given, Weights):
            more, passes = random_command(
                rng, config.groups, given, config.rows, config.wide_beat_bits
            )
            beats += more
            for codes in passes:
                shadow: Shadow = [
                    [row_value(row, group.cell_bits) for row in cells]
                    for group, cells in zip(config.groups, codes, strict=False)
                ]
                expected.append(shadow + [[] for _ in config.groups[len(codes) :]])
            counts.append(len(passes))
            planes = (*given.planes, *[0] * (MAXIMUM_GROUPS - len(given.planes)))
            fields = {"source": StationarySource.WEIGHTS, "slices": given.slices}
            fields |= {"carry": given.carry, "tiles": given.tiles, "passes": given.passes}
            payloads.append(fields | dict(zip(planes_names, planes, strict=True)))
        else:
            shadows = given.shadows(config, words)
            expected += shadows
            counts.append(len(shadows))
            fields = {"source": given.source, "base": BANK + given.base, "stride": given.stride}
            fields |= {"tiles": given.tiles, "passes": given.passes, "limit": given.limit}
            fields |= {"pass_tokens": given.pass_tokens}
            payloads.append(fields | {"slices": 1})
    ends = np.cumsum(counts).tolist()
    engine = StationaryEngine(config)
    groups = range(len(config.groups))
    run = Run()

    async def bench(ctx) -> None:
        layout = engine.i_command.payload.shape()
        shadow: Shadow = [[] for _ in groups]
        flight: list[int | None] = [None] * READ_LATENCY
        offered = was_full = False
        held: int | None = None
        beat = cycle = idle = moved = 0
        while len(run.swapped) < len(expected) or idle < 20:
            idle += len(run.swapped) == len(expected)
            # Inputs.
            number = len(run.accepted)
            ctx.set(engine.i_command.valid, number < len(payloads))
            if number < len(payloads):
                ctx.set(engine.i_command.payload, layout.const(payloads[number]))
            offered = beat < len(beats) and (offered or rng.integers(100) < chances.beat)
            ctx.set(engine.weights.valid, int(offered))
            ctx.set(engine.weights.payload, beats[beat] if offered else 0)
            ctx.set(engine.read.ready, int(rng.integers(100) < chances.grant))
            address = flight.pop(0)
            noise = rng.bytes(config.rows)
            word = noise if address is None else words[address].tobytes()
            ctx.set(engine.read.data, int.from_bytes(word, "little"))
            # Rows, and what is full.
            for g in groups:
                if ctx.get(getattr(engine, f"weight_valid{g}")):
                    moved = cycle
                    assert ctx.get(getattr(engine, f"weight_row{g}")) == len(shadow[g])
                    shadow[g].append(ctx.get(getattr(engine, f"weight_data{g}")))
            full = ctx.get(engine.full)
            if full and not was_full:
                run.full.append(cycle)
            if full:
                passes = len(run.full)
                assert shadow == expected[passes - 1], f"pass {passes - 1}"
            due = full and cycle >= run.full[-1] + swap_after
            swap = due and rng.integers(100) < chances.swap
            ctx.set(engine.swapped, int(swap))
            if swap:
                run.swapped.append(cycle)
                shadow = [[] for _ in groups]
            was_full = full and not swap
            # Handshakes.
            if ctx.get(engine.done):
                run.done.append(cycle)
                assert len(run.full) == ends[len(run.done) - 1] - 1, "done with its last row"
            if number < len(payloads) and ctx.get(engine.i_command.ready):
                run.accepted.append(cycle)
            if offered and ctx.get(engine.weights.ready):
                beat += 1
                offered = False
                run.beats.append(cycle)
            wanted = ctx.get(engine.read.address) if ctx.get(engine.read.valid) else None
            assert held is None or wanted == held, "a request holds until granted"
            granted = wanted is not None and ctx.get(engine.read.ready)
            if wanted is not None:
                assert BANK <= wanted < BANK + BANK_WORDS
            flight.append(wanted - BANK if wanted is not None and granted else None)
            held = None if granted else wanted
            await ctx.tick()
            cycle += 1
            assert cycle - moved < 2000, "stands still"
        assert beat == len(beats)
        assert len(run.done) == len(commands)
        assert shadow == [[] for _ in groups]

    simulator = Simulator(engine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return run


def design(text: str, *, rows: int = 16, ports: int = 1) -> AcceleratorConfig:
    return AcceleratorConfig(
        rows=rows, groups=parse_groups(text), memory_ports=ports, constant_fifo_beats=1024
    )


def values(
    config: AcceleratorConfig, *, tiles: int, passes: int, spare: int = 0, fewer: int = 0
) -> Operand:
    """V of ``passes`` passes less ``spare`` rows; passes of ``fewer`` tokens less than rows."""
    held = config.rows - fewer
    limit = passes * held - spare
    return Operand(StationarySource.ROWS, 5, limit + 3, tiles, passes, limit, held)


def keys(config: AcceleratorConfig, *, tiles: int, passes: int, spare: int = 0) -> Operand:
    """K of ``tiles`` tiles less ``spare`` columns."""
    limit = tiles * config.attention_columns - spare
    return Operand(StationarySource.COLUMNS, 40, limit + 1, tiles, passes, limit)


#: One group as attention has it: half a word, a word, several; then odd and mixed ones.
SHAPES = (
    ("dual:8:8", 1),
    ("dual:16:8", 1),
    ("dual:32:8", 2),
    ("dual:58:8", 4),
    ("dual:6:8,digits:8:8,digits:10:4", 1),
    ("dual:10:8,digits:12:4+4,digits:6:4", 1),
    ("dual:22:8,digits:6:6,digits:70:3,digits:10:1", 2),
)


@pytest.mark.parametrize(
    "chances",
    [
        Chances(),
        Chances(beat=50, grant=40, swap=15),
        pytest.param(Chances(beat=90, grant=90, swap=30), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("text", "ports"), SHAPES)
def test_shadow_registers(text: str, ports: int, chances: Chances) -> None:
    config = design(text, ports=ports)
    rng = np.random.default_rng([ports, chances.swap])
    weights = [random_weights(rng, config.groups) for _ in range(5)]
    commands = [
        weights[0],
        weights[1],
        values(config, tiles=3, passes=2, spare=5),
        weights[2],
        keys(config, tiles=2, passes=2, spare=3),
        keys(config, tiles=1, passes=3, spare=1),
        weights[3],
        values(config, tiles=2, passes=3, spare=2, fewer=3),
        weights[4],
        values(config, tiles=1, passes=1),
        values(config, tiles=1, passes=2, fewer=config.rows - 1),
    ]
    run_engine(config, commands, chances=chances, seed=ports)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_commands(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text, ports = SHAPES[rng.integers(len(SHAPES))]
    config = design(text, ports=ports)
    commands: list[Command] = []
    for _ in range(8):
        tiles, passes = (int(n) for n in rng.integers(1, 4, 2))
        spare = int(rng.integers(8))
        operand = keys(config, tiles=tiles, passes=passes, spare=spare)
        if rng.integers(2):
            fewer = int(rng.choice([0, rng.integers(config.rows - spare)]))
            operand = values(config, tiles=tiles, passes=passes, spare=spare, fewer=fewer)
        commands.append(random_weights(rng, config.groups) if rng.integers(2) else operand)
    chances = Chances(*(int(rng.choice([10, 50, 100])) for _ in range(3)))
    run_engine(config, commands, chances=chances, seed=seed)


@pytest.mark.parametrize(
    ("text", "rows", "ports", "given"),
    [
        ("dual:16:8", 16, 1, Weights((8,), passes=4)),
        ("dual:16:8", 16, 1, Weights((3,), passes=3)),
        ("dual:58:8", 16, 4, Weights((4,), passes=3)),
        ("dual:70:8", 16, 1, Weights((8,), passes=3)),
        ("dual:16:8,digits:32:4", 32, 2, Weights((4, 4), carry=1, slices=2, passes=2)),
        ("dual:140:8,digits:6:1", 16, 1, Weights((2, 1), passes=3)),
    ],
)
def test_cycles_of_weights(text: str, rows: int, ports: int, given: Weights) -> None:
    config = design(text, rows=rows, ports=ports)
    timing = pass_timing(block_sizes(config.groups, given, rows, config.wide_beat_bits))
    # Swaps wait until everything that has room has been taken.
    run = run_engine(config, [given], swap_after=300)
    waits = np.subtract(run.full[1:], run.swapped[:-1]).tolist()
    assert waits == [timing.full] * (len(run.full) - 1)
    if timing.taken is not None:
        last_beats = run.beats[2 * timing.beats - 1 :: timing.beats]
        assert np.subtract(last_beats, run.swapped[:-1]).tolist() == [timing.taken] * len(waits)
    # The first pass: no row waits. Beats are taken from two cycles after the command on.
    assert run.beats[0] == run.accepted[0] + 2
    if timing.beats - 1 == run.beats[timing.beats - 1] - run.beats[0]:
        assert run.full[0] == run.beats[timing.beats - 1] + timing.tail


#: Swap -> shadow registers free: the cycle model counts from there.
FREE = 1
#: V: command accepted, or swap -> full, beyond the words of a pass.
VALUES_FULL = FREE + ROWS_INJECT
assert OPERAND_START == FREE
#: K: command accepted, or half of the corner turn free -> full, beyond the words of a pass and R;
#: swap -> full, beyond R, when the operand has been turned.
KEYS_FETCHED = OPERAND_START + COLUMNS_SETTLE + COLUMNS_EMIT
KEYS_FULL = FREE + COLUMNS_EMIT


@pytest.mark.parametrize("columns", [8, 10, 16, 22, 32, 54])
def test_cycles_of_values(columns: int) -> None:
    config = design(f"dual:{columns}:8")
    run = run_engine(config, [values(config, tiles=2, passes=2)])
    words = config.rows * max(1, config.value_columns // config.rows)
    starts = [run.accepted[0], *run.swapped[:-1]]
    assert np.subtract(run.full, starts).tolist() == [words + VALUES_FULL] * 4


@pytest.mark.parametrize("swap_after", [1, 200])
@pytest.mark.parametrize("columns", [8, 10, 16, 22, 32, 54])
def test_cycles_of_keys(columns: int, swap_after: int) -> None:
    """Bound by the words (swaps at once), or the next pass turned ahead (swaps late)."""
    config = design(f"dual:{columns}:8")
    run = run_engine(config, [keys(config, tiles=2, passes=2)], swap_after=swap_after)
    begins = run.accepted[0]
    for number, full in enumerate(run.full):
        if number:
            begins += columns
        if number >= 2:
            begins = max(begins, run.full[number - 2] - 1)
        there = begins + columns + config.rows + KEYS_FETCHED
        free = run.swapped[number - 1] + config.rows + KEYS_FULL if number else 0
        assert full == max(there, free)


def test_weights_are_taken_ahead_of_their_turn() -> None:
    """Beats of a command are taken while the pass before waits for its swap."""
    config = design("dual:16:8,digits:16:4")
    operand = keys(config, tiles=1, passes=1)
    weights = Weights((4, 4))
    run = run_engine(config, [weights, weights, operand, weights], swap_after=200)
    # Two blocks of each group, a whole pass here.
    size = len(run.beats) // 3
    assert run.beats[2 * size - 1] < run.swapped[0]
    # The next is accepted when the operand's turn has come, before it is loaded.
    assert run.accepted[3] > run.accepted[2] >= run.done[1]
    assert run.beats[3 * size - 1] < run.swapped[2]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(16, 16), (16, 8), (16, 6), (16, 10), (16, 38), (32, 32), (64, 32), (64, 58), (64, 70)],
)
def test_corner_turn_is_a_transpose(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows + columns)
    halves = rng.integers(0, 256, (2, columns, rows), dtype=np.uint8)
    unit = CornerTurn(rows, columns)
    got: list[tuple[int, int, bytes]] = []

    async def bench(ctx) -> None:
        for half in range(2):
            for column in rng.permutation(columns):
                square, place = divmod(int(column), rows)
                ctx.set(unit.write_valid, 1 << square)
                ctx.set(unit.write_half, half)
                ctx.set(unit.write_column, place)
                ctx.set(unit.write_word, int.from_bytes(halves[half, column].tobytes(), "little"))
                await ctx.tick()
        ctx.set(unit.write_valid, 0)
        await ctx.tick().repeat(2)
        order = [(half, row) for half in range(2) for row in range(rows - 1, -1, -1)]
        for step in range(len(order) + 3):
            if step >= 3:
                data = ctx.get(unit.read_data).to_bytes(columns, "little")
                got.append((*order[step - 3], data))
            if step < len(order):
                ctx.set(unit.read_half, order[step][0])
                ctx.set(unit.read_row, order[step][1])
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(got) == 2 * rows
    for half, row, data in got:
        assert data == halves[half, :, row].tobytes(), (half, row)
