# SPDX-License-Identifier: Apache-2.0
"""Weight gearbox and corner turn against bit strings and a transpose."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwgen.rtl.stationary import CornerTurn, WeightGearbox


def reference_rows(data: bytes, beat_bits: int, row_bits: int, pass_rows: int) -> list[int]:
    """Rows of the packed bit strings: every pass starts at a beat."""
    pass_beats = -(-pass_rows * row_bits // beat_bits)
    pass_bytes = pass_beats * beat_bits // 8
    rows = []
    for start in range(0, len(data), pass_bytes):
        bits = int.from_bytes(data[start : start + pass_bytes], "little")
        rows += [bits >> (row_bits * r) & ((1 << row_bits) - 1) for r in range(pass_rows)]
    return rows


def run_gearbox(
    unit: WeightGearbox, beats: list[int], count: int, valid: int, ready: int, seed: int
) -> tuple[list[int], int]:
    """Drive beats with the given chances per cent; the rows and the cycles they took."""
    rng = np.random.default_rng(seed)
    rows: list[int] = []
    cycles = 0

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        nonlocal cycles
        queue = list(beats)
        offered = False
        while len(rows) < count:
            offered = bool(queue) and (offered or bool(rng.integers(100) < valid))
            ctx.set(unit.i_stream.valid, offered)
            ctx.set(unit.i_stream.payload, queue[0] if queue else 0)
            ctx.set(unit.o_stream.ready, int(rng.integers(100) < ready))
            taken = ctx.get(unit.i_stream.ready) and offered
            if ctx.get(unit.o_stream.valid) and ctx.get(unit.o_stream.ready):
                rows.append(ctx.get(unit.o_stream.payload))
            await ctx.tick()
            if taken:
                queue.pop(0)
                offered = False
            cycles += 1
            assert cycles < 200 * count

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return rows, cycles


@pytest.mark.parametrize(
    ("beat_bits", "row_bits", "pass_rows"),
    [
        (128, 128, 16),  # one to one
        (128, 256, 32),  # several beats a row
        (128, 32, 32),  # several rows a beat
        (128, 160, 32),  # neither divides the other
        (384, 80, 16),  # three ports, padding at the end of a pass
        (768, 16, 16),  # less than a beat per pass
    ],
)
@pytest.mark.parametrize(("valid", "ready"), [(100, 100), (30, 90), (95, 20)])
def test_gearbox_equals_bit_string(
    beat_bits: int, row_bits: int, pass_rows: int, valid: int, ready: int
) -> None:
    passes = 4
    pass_beats = -(-pass_rows * row_bits // beat_bits)
    data = np.random.default_rng(5).bytes(passes * pass_beats * beat_bits // 8)
    beats = [
        int.from_bytes(data[i : i + beat_bits // 8], "little")
        for i in range(0, len(data), beat_bits // 8)
    ]
    expected = reference_rows(data, beat_bits, row_bits, pass_rows)
    unit = WeightGearbox(beat_bits=beat_bits, row_bits=row_bits, pass_rows=pass_rows)
    rows, cycles = run_gearbox(unit, beats, len(expected), valid, ready, seed=1)
    assert rows == expected
    if valid == ready == 100:
        assert cycles <= max(len(beats), len(expected)) + passes + 2


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (16, 8), (32, 32)])
def test_corner_turn_is_a_transpose(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows + columns)
    halves = rng.integers(0, 256, (2, columns, rows), dtype=np.uint8)
    unit = CornerTurn(rows, columns)
    got: list[tuple[int, int, bytes]] = []

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        for half in range(2):
            for column in rng.permutation(columns):
                ctx.set(unit.write_valid, 1)
                ctx.set(unit.write_half, half)
                ctx.set(unit.write_column, int(column))
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
