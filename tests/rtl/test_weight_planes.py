# SPDX-License-Identifier: Apache-2.0
"""Bit planes to rows: random groups and commands with stalls on every side, and exact cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwgen.columns import ColumnGroup, parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.program.weight_planes import pack_weights, tile_formats
from hwgen.program.weight_timing import layer_timing, pass_schedule, pass_timing
from hwgen.rtl.weight_planes import WeightPlanes

from .planes import Weights, block_sizes, random_command, random_weights, row_value


@dataclass
class Run:
    """What came out, per group, and when."""

    rows: list[list[tuple[int, int, int, int]]]  #: row, last, final, cells
    row_cycles: list[list[int]]
    beat_cycles: list[int] = field(default_factory=list)


def run_planes(
    unit: WeightPlanes,
    commands: Sequence[Weights],
    beats: Sequence[int],
    row_counts: Sequence[int],
    *,
    valid: int = 100,
    ready: int = 100,
    seed: int = 0,
) -> Run:
    """Drive commands and beats; beats come, and rows are taken, with the given chances per cent."""
    rng = np.random.default_rng(seed)
    count = len(unit.groups)
    run = Run([[] for _ in range(count)], [[] for _ in range(count)])

    async def bench(ctx) -> None:
        waiting, queue = list(commands), list(beats)
        offered = False
        cycle = moved = 0
        layout = unit.i_command.payload.shape()
        while any(len(run.rows[g]) < row_counts[g] for g in range(count)) or waiting or queue:
            if waiting:
                given = waiting[0]
                planes = (*given.planes, *[0] * (count - len(given.planes)))
                fields = {
                    name: getattr(given, name) for name in ("carry", "tiles", "slices", "passes")
                }
                ctx.set(unit.i_command.payload, layout.const({"planes": planes, **fields}))
            ctx.set(unit.i_command.valid, bool(waiting))
            offered = bool(queue) and (offered or bool(rng.integers(100) < valid))
            ctx.set(unit.i_stream.valid, offered)
            ctx.set(unit.i_stream.payload, queue[0] if queue and offered else 0)
            for g in range(count):
                ctx.set(getattr(unit, f"o_stream{g}").ready, int(rng.integers(100) < ready))
            if waiting and ctx.get(unit.i_command.ready):
                waiting.pop(0)
            if offered and ctx.get(unit.i_stream.ready):
                queue.pop(0)
                offered = False
                run.beat_cycles.append(cycle)
                moved = cycle
            for g in range(count):
                rows = getattr(unit, f"o_stream{g}")
                if ctx.get(rows.valid) and ctx.get(rows.ready):
                    payload = ctx.get(rows.payload)
                    run.rows[g].append((payload.row, payload.last, payload.final, payload.cells))
                    run.row_cycles[g].append(cycle)
                    moved = cycle
            await ctx.tick()
            cycle += 1
            assert cycle - moved < 500, "stands still"
        assert not any(ctx.get(getattr(unit, f"o_stream{g}").valid) for g in range(count))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return run


def check(
    groups: Sequence[ColumnGroup],
    rows: int,
    ports: int,
    commands: Sequence[Weights],
    *,
    valid: int = 100,
    ready: int = 100,
    seed: int = 0,
) -> Run:
    """Run random weights through the unit and compare every row with the definition."""
    rng = np.random.default_rng(seed)
    beats: list[int] = []
    expected: list[list[tuple[int, int, int, int]]] = [[] for _ in groups]
    for given in commands:
        more, passes = random_command(rng, groups, given, rows, 128 * ports)
        beats += more
        for index, codes in enumerate(passes):
            for g, cells in enumerate(codes):
                expected[g] += [
                    (
                        r,
                        r == rows - 1,
                        index == len(passes) - 1,
                        row_value(row, groups[g].cell_bits),
                    )
                    for r, row in enumerate(cells)
                ]
    unit = WeightPlanes(rows=rows, groups=groups, beat_bits=128 * ports)
    counts = [len(rows_of_group) for rows_of_group in expected]
    run = run_planes(unit, commands, beats, counts, valid=valid, ready=ready, seed=seed)
    for g, rows_of_group in enumerate(run.rows):
        assert rows_of_group == expected[g], f"group {g}"
    return run


#: Groups, rows, ports: one group as attention has it; odd columns, so that blocks have seven rows
#: or one; wider than a beat; several groups whose blocks begin in different rows.
SHAPES = (
    ("dual:16:8", 16, 1),
    ("dual:58:8", 16, 4),
    ("dual:6:8,digits:70:4", 16, 1),
    ("digits:20:8,digits:10:7,digits:140:3,digits:6:1", 16, 1),
    ("dual:40:8,digits:24:5,digits:38:2", 32, 2),
    ("dual:258:8,digits:4:4", 16, 2),
)


@pytest.mark.parametrize(("valid", "ready"), [(100, 100), (40, 90), (95, 25)])
@pytest.mark.parametrize(("text", "rows", "ports"), SHAPES)
def test_rows_equal_definition(text: str, rows: int, ports: int, valid: int, ready: int) -> None:
    groups = parse_groups(text)
    rng = np.random.default_rng([rows, ports, valid])
    commands = [random_weights(rng, groups) for _ in range(4)]
    check(groups, rows, ports, commands, valid=valid, ready=ready, seed=valid)


def test_carries_end_with_their_command() -> None:
    commands = [Weights((4, 4), carry=1, slices=2), Weights((3, 3)), Weights((4, 4), carry=1)]
    check(parse_groups("dual:6:8,digits:20:4"), 16, 1, commands)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 40))]
)
def test_random_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = sorted(rng.integers(1, 9, rng.integers(1, 5)).tolist(), reverse=True)
    groups = tuple(ColumnGroup("digits", 2 * int(rng.integers(1, 40)), width) for width in widths)
    rows, ports = int(rng.choice([16, 32])), int(rng.integers(1, 5))
    commands = [random_weights(rng, groups) for _ in range(3)]
    valid, ready = (int(rng.choice([30, 70, 100])) for _ in range(2))
    check(groups, rows, ports, commands, valid=valid, ready=ready, seed=seed)


@pytest.mark.parametrize(
    ("text", "rows", "ports", "given"),
    [
        ("dual:16:8", 16, 1, Weights((8,), passes=4)),  # a beat a cycle, a row a cycle
        ("dual:64:8", 16, 4, Weights((8,), passes=4)),
        ("dual:64:8", 16, 4, Weights((2,), passes=4)),  # bound by the rows
        ("dual:16:8", 16, 4, Weights((8,), passes=3)),  # a block is a pass
        ("dual:70:8", 16, 4, Weights((4,), tiles=2, passes=2)),  # blocks of 7, 7 and 2 rows
        ("dual:16:8,digits:32:4", 16, 2, Weights((4, 4), passes=3)),
        ("dual:12:8,digits:38:4,digits:6:3", 32, 1, Weights((3, 3, 3), carry=1, slices=3)),
        ("dual:258:8,digits:4:1", 16, 2, Weights((8, 1), passes=2)),
    ],
)
def test_cycles(text: str, rows: int, ports: int, given: Weights) -> None:
    """Beats in every cycle, rows taken at once: as the program's timing says."""
    groups = parse_groups(text)
    run = check(groups, rows, ports, [given])
    blocks = block_sizes(groups, given, rows, 128 * ports)
    count = given.tiles * given.slices * given.passes
    first = run.beat_cycles[0]
    for done in range(1, count + 1):
        last_beat, full = pass_schedule(blocks * done, beats_from=first, swap=-(1 << 20))
        assert run.beat_cycles[done * len(run.beat_cycles) // count - 1] == last_beat
        last_rows = [cycles[done * rows - 1] for cycles in run.row_cycles if cycles]
        assert max(last_rows) + 1 == full
    assert first == 2


@pytest.mark.parametrize("text", ["dual:8:8,digits:6:4,digits:10:3", "dual:12:8,digits:4:1"])
def test_cells_are_the_weights_that_the_compiler_packed(text: str) -> None:
    """Every width on every prefix of the groups: the slices of a weight add up to it."""
    config = AcceleratorConfig(groups=parse_groups(text))
    rows, groups = config.rows, config.groups
    rng = np.random.default_rng(3)
    commands, beats, expected, forms = [], [], [], []
    for width in range(1, 9):
        for form in tile_formats(config, width):
            used = sum(planes > 0 for planes in form.planes)
            given = Weights(form.planes[:used], int(form.carry), slices=form.slices)
            blocks = block_sizes(groups, given, rows, config.wide_beat_bits)
            assert layer_timing(config, form) == pass_timing(blocks)
            commands.append(given)
            high = 1 << (width - 1)
            weights = rng.integers(-high, high, (rows, form.columns)).astype(np.int8)
            if width == 1:
                weights = (1 - 2 * rng.integers(0, 2, weights.shape)).astype(np.int8)
            expected.append(weights)
            forms.append(form)
            packed = pack_weights(config, form, weights).tobytes()
            size = config.wide_beat_bits // 8
            parts = [packed[i : i + size] for i in range(0, len(packed), size)]
            beats += [int.from_bytes(part, "little") for part in parts]
    counts = [
        rows * sum(given.slices for given in commands if g < len(given.planes))
        for g in range(len(groups))
    ]
    unit = WeightPlanes(rows=rows, groups=groups, beat_bits=config.wide_beat_bits)
    run = run_planes(unit, commands, beats, counts)
    taken = [iter(rows_of_group) for rows_of_group in run.rows]
    for form, weights in zip(forms, expected, strict=True):
        total = np.zeros(weights.shape, int)
        for _ in range(form.slices):
            total <<= form.slice_bits
            start = 0
            for g, group in enumerate(groups):
                if form.planes[g]:
                    for r in range(rows):
                        cells = next(taken[g])[3]
                        for c in range(group.columns):
                            code = cells >> (c * group.cell_bits) & ((1 << group.cell_bits) - 1)
                            total[rows - 1 - r, start + c] += cell_value(group, code)
                start += group.columns
        assert (total == weights).all(), form


def cell_value(group: ColumnGroup, code: int) -> int:
    """What a column multiplies by."""
    bits = group.weight_bits
    if bits == 1:
        return 1 - 2 * code
    low = code & ((1 << bits) - 1)
    return low - (low >> (bits - 1) << bits) + (code >> bits)


@pytest.mark.parametrize("text", ["dual:16:8", "dual:16:8,digits:16:8"])
def test_a_beat_every_cycle(text: str) -> None:
    """Nothing is lost between blocks or passes where the rows do not bind."""
    groups = parse_groups(text)
    run = check(groups, 16, 1, [Weights((8,) * len(groups), passes=5)])
    assert run.beat_cycles == list(range(2, 2 + len(run.beat_cycles)))


def test_gap_between_commands() -> None:
    """From the last beat of a command to the first of the next: two cycles without one."""
    run = check(parse_groups("dual:16:8"), 16, 1, [Weights((8,))] * 3)
    gaps = np.diff(run.beat_cycles)
    assert sorted(gaps)[-2:] == [3, 3]
    assert sorted(gaps)[:-2] == [1] * (len(gaps) - 2)
