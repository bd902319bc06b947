# SPDX-License-Identifier: Apache-2.0
"""What LOAD hands over of tile streams: constants, the last beat of each tile marked; weights."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwgen.columns import dense
from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import CHECKED_BITS, Instruction, encode
from hwgen.rtl.load import ConstantFifo, LoadEngine


def tiles_command(tiles: int, constant_beats: int, weight_beats: int) -> int:
    fields = {"address": 0, "port_stride": 256, "tiles": tiles, "constant_beats": constant_beats}
    fields |= {"weight_beats": weight_beats, "beats": tiles * (constant_beats + weight_beats)}
    word = int.from_bytes(encode(Instruction("LOAD_TILES", fields), 0), "little")
    return word & ((1 << CHECKED_BITS) - 1)


@pytest.mark.parametrize("ports", (1, 2))
def test_last_beat_of_constants_is_marked(ports: int) -> None:
    config = AcceleratorConfig(
        rows=16, groups=dense(16), memory_ports=ports, burst_beats=4, queue_depth=2
    )
    unit = LoadEngine(config)
    commands = [(3, 4, 2), (2, 1, 0), (1, 2, 5), (2, 3, 0)]
    rng = np.random.default_rng(ports)
    number = 0
    expected: dict[str, list[tuple[int, ...]]] = {"constants": [], "weights": []}
    for tiles, constant_beats, weight_beats in commands:
        for _ in range(tiles):
            for beat in range(constant_beats):
                expected["constants"].append((number, int(beat == constant_beats - 1)))
                number += 1
            for _ in range(weight_beats):
                expected["weights"].append((number,))
                number += 1
    got: dict[str, list[tuple[int, ...]]] = {"constants": [], "weights": []}
    repeat = sum(1 << 128 * p for p in range(ports))  # every port delivers the beat's number

    async def bench(ctx) -> None:
        queue = [tiles_command(*command) for command in commands]
        ctx.set(unit.image_window, 1 << 20)
        sent = 0
        for p in range(ports):
            ctx.set(getattr(unit, f"o_burst{p}").ready, 1)
        for _ in range(3000):
            there = sent < number and bool(rng.integers(4))
            for p in range(ports):
                beats = getattr(unit, f"i_beats{p}")
                ctx.set(beats.valid, there)
                ctx.set(beats.payload, sent)
            ctx.set(unit.i_command.valid, bool(queue))
            ctx.set(unit.i_command.payload, queue[0] if queue else 0)
            for stream in (unit.o_constants, unit.o_weights):
                ctx.set(stream.ready, bool(rng.integers(2)))
            if ctx.get(unit.o_constants.valid) and ctx.get(unit.o_constants.ready):
                beat = unit.o_constants.payload
                assert ctx.get(beat.data) % repeat == 0
                got["constants"].append((ctx.get(beat.data) // repeat, ctx.get(beat.last)))
            if ctx.get(unit.o_weights.valid) and ctx.get(unit.o_weights.ready):
                got["weights"].append((ctx.get(unit.o_weights.payload) // repeat,))
            taken = there and ctx.get(unit.i_beats0.ready)
            accepted = bool(queue) and ctx.get(unit.i_command.ready)
            await ctx.tick()
            sent += taken
            if accepted:
                queue.pop(0)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert got == expected


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
