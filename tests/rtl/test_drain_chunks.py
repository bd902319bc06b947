# SPDX-License-Identifier: Apache-2.0
"""Chunks of DRAIN commands against their definition, at the shortest distances of steps."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.rtl.drain_chunks import DrainChunks

#: Cycles from a step to the next one, in DRAIN with one row: start, take, row, step.
STEP = 3


def expected_chunks(
    config: AcceleratorConfig, command: dict[str, int], *, wide: bool
) -> list[list[dict[str, int]]]:
    """Per tile, per chunk; column by column."""
    lanes, width = config.requantise_lanes, command["tile_columns"]
    word = config.rows // 2 if wide else config.rows
    size = min(lanes, word)
    tiles: list[list[dict[str, int]]] = []

    def first_column(tile: int) -> int:
        return command["offset"] + tile * width

    for tile in range(command["tiles"]):
        places: dict[int, list[int]] = {}
        for column in range(min(width, command["columns"] - tile * width)):
            channel = column + (tile * word if command["apart"] else first_column(tile))
            places.setdefault(channel // size, []).append(column)
        chunks = []
        for place, columns in places.items():
            rotation = 0 if command["apart"] else first_column(tile) % lanes
            slices = place * size // word - command["offset"] // word
            chunk = {
                "base": command["destination"] + slices * command["stride"],
                "rotation": rotation,
                "first_pair": (columns[0] + rotation) % lanes // 2,
                "last_pair": (columns[-1] + rotation) % lanes // 2,
            }
            if (lanes == config.rows) == wide:
                chunk["half"] = place % 2
            # Lanes from the first column's on are in its segment, those below in the next one; the
            # halves of the lanes' word have both from its first column.
            first = max(0, columns[0] - (columns[0] + rotation) % lanes)
            if first == 0:
                chunk |= {"segment": 0, "offset": 0}
            else:
                chunk |= {"segment": first // lanes, "offset": first % lanes}
            chunks.append(chunk)
        tiles.append(chunks)
    return tiles


@pytest.mark.parametrize(
    ("rows", "groups", "lanes"),
    [
        (16, "dual:16:8", 8),
        (16, "dual:14:8,digits:12:4", 8),
        (16, "dual:14:8,digits:12:4", 16),
        (16, "dual:32:8", 16),
        (32, "dual:22:8,digits:10:4,digits:14:1", 16),
        (64, "dual:58:8,digits:70:4", 32),
        (64, "dual:58:8,digits:70:4", 64),
        (128, "dual:1024:8", 64),
        (128, "dual:1024:8", 128),
    ],
)
def test_chunks(rows: int, groups: str, lanes: int) -> None:
    config = AcceleratorConfig(
        rows=rows,
        groups=parse_groups(groups),
        requantise_lanes=lanes,
        constant_fifo_beats=4096,
        tile_rows=64,
    )
    unit = DrainChunks(config)
    rng = np.random.default_rng(rows)
    whole_words = lanes == rows

    async def bench(ctx) -> None:
        for _ in range(20):
            wide = bool(rng.integers(2))
            width = int(rng.choice([*config.prefixes, config.value_columns]))
            tiles = int(rng.integers(1, 5))
            command = {
                "destination": int(rng.integers(1000)),
                "stride": int(rng.integers(1, 100)),
                "tiles": tiles,
                "columns": (tiles - 1) * width + int(rng.integers(1, width + 1)),
                "tile_columns": width,
                "offset": config.rotation_step * int(rng.integers(rows // config.rotation_step)),
            }
            command["apart"] = not wide and width <= rows and bool(rng.integers(2))
            if command["apart"]:
                command["offset"] = 0
            for name, value in command.items():
                ctx.set(getattr(unit.given, name), value)
            step = unit.start
            ends = expected_chunks(config, command, wide=wide)
            for number, chunks in enumerate(ends):
                for place, chunk in enumerate(chunks):
                    ctx.set(step, 1)
                    await ctx.tick()
                    ctx.set(step, 0)
                    # What is given with the start only.
                    ctx.set(unit.given.offset, int(rng.integers(rows)))
                    ctx.set(unit.given.columns, int(rng.integers(1, 1000)))
                    ctx.set(unit.stride, command["stride"])
                    ctx.set(unit.wide, wide)
                    names = ("base", "rotation", "segment", "offset")
                    names += ("half",) * (wide == whole_words)
                    assert {n: ctx.get(getattr(unit, n)) for n in names} == {
                        n: chunk[n] for n in names
                    }
                    await ctx.tick()
                    last = place == len(chunks) - 1
                    first_pair, last_pair = (ctx.get(x) for x in (unit.first_pair, unit.last_pair))
                    if wide and whole_words:  # of the half of the lanes that the word comes from
                        half = lanes // 4
                        first_pair = max(first_pair, half * chunk["half"])
                        last_pair = min(last_pair, half * chunk["half"] + half - 1)
                    assert (first_pair, last_pair) == (chunk["first_pair"], chunk["last_pair"])
                    assert ctx.get(unit.last) == last
                    if not last:
                        assert ctx.get(unit.next_base) == chunks[place + 1]["base"]
                    await ctx.tick().repeat(STEP - 2)
                    assert ctx.get(unit.last_tile) == (number == tiles - 1)
                    step = unit.next_tile if last else unit.next_chunk
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
