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
    lanes, width = config.lanes, command["tile_columns"]
    tiles: list[list[dict[str, int]]] = []
    for tile in range(command["tiles"]):
        places: dict[int, list[int]] = {}
        for column in range(min(width, command["columns"] - tile * width)):
            channel = command["offset"] + tile * width + column
            places.setdefault(channel // lanes, []).append(column)
        chunks = []
        for place, columns in places.items():
            rotation = (command["offset"] + tile * width) % lanes
            word = place if wide else place // 2
            chunk = {
                "base": command["destination"] + word * command["stride"],
                "rotation": rotation,
                "first_pair": (columns[0] + rotation) % lanes // 2,
                "last_pair": (columns[-1] + rotation) % lanes // 2,
            }
            if not wide:
                chunk["half"] = place % 2
            # Lanes from the first column's on are in its segment, those below in the next one.
            if columns[0] == 0:
                chunk |= {"segment": 0, "offset": 0}
            else:
                chunk |= {"segment": columns[0] // lanes, "offset": columns[0] % lanes}
            chunks.append(chunk)
        for chunk in chunks[:-1]:
            chunk["last_pair"] = lanes // 2 - 1
        tiles.append(chunks)
    return tiles


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        (16, "dual:16:8"),
        (16, "dual:14:8,digits:12:4"),
        (32, "dual:22:8,digits:10:4,digits:14:1"),
        (64, "dual:58:8,digits:70:4"),
        (128, "dual:1024:8"),
    ],
)
def test_chunks(rows: int, groups: str) -> None:
    config = AcceleratorConfig(
        rows=rows, groups=parse_groups(groups), constant_fifo_beats=4096, tile_rows=64
    )
    unit = DrainChunks(config)
    rng = np.random.default_rng(rows)

    async def bench(ctx) -> None:
        for _ in range(12):
            wide = bool(rng.integers(2))
            width = int(rng.choice([*config.prefixes, config.value_columns]))
            tiles = int(rng.integers(1, 5))
            places = (config.lanes if wide else rows) // config.rotation_step
            command = {
                "destination": int(rng.integers(1000)),
                "stride": int(rng.integers(1, 100)),
                "tiles": tiles,
                "columns": (tiles - 1) * width + int(rng.integers(1, width + 1)),
                "tile_columns": width,
                "offset": config.rotation_step * int(rng.integers(places)),
            }
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
                    names = ("base", "rotation", "segment", "offset") + ("half",) * (not wide)
                    assert {n: ctx.get(getattr(unit, n)) for n in names} == {
                        n: chunk[n] for n in names
                    }
                    await ctx.tick()
                    names = ("first_pair", "last_pair")
                    assert [ctx.get(getattr(unit, n)) for n in names] == [chunk[n] for n in names]
                    last = place == len(chunks) - 1
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
