# SPDX-License-Identifier: Apache-2.0
"""Per-column constants on their way to the requantise lanes, by the places in their records."""

from __future__ import annotations

from amaranth import Elaboratable, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.rtl.ports import constant_beat_layout
from hwgen.rtl.requantise import CONSTANTS

#: Byte 7 of a column's record, on even columns: the pair of lanes, then two flags.
PLACE = data.StructLayout({"pair": 6, "chunk_end": 1, "tile_end": 1})


class ConstantLoader(wiring.Component):
    """Constants of one chunk at a time, from the wide beats of the tile stream.

    Fills a set of registers from which the lanes take their own: two columns a cycle, where the
    place in the first one's record says, up to the pair with ``chunk_end``. ``loaded`` is high
    while the next chunk's set is complete; from ``take`` on the lanes have ``settle`` cycles to
    take it, then the next one is filled in. Behind the pair with ``tile_end`` the beats up to the
    one with ``last`` are dropped, one a cycle.
    """

    def __init__(self, config: AcceleratorConfig, settle: int) -> None:
        self.config = config
        self.settle = settle
        lanes = config.requantise_lanes
        super().__init__(
            {
                "i_stream": In(stream.Signature(constant_beat_layout(config))),
                "constants": Out(data.ArrayLayout(CONSTANTS, lanes)),
                "loaded": Out(1),
                "take": In(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        beat = self.i_stream.payload
        parts = config.memory_ports  # 128-bit parts of a wide beat, two columns each
        part = Signal(max(1, bits_for(parts - 1)), name="part")
        filling = Signal(init=1, name="filling")
        dropping = Signal(name="dropping")
        settling = Signal(range(self.settle + 1), name="settling")
        m.d.comb += self.loaded.eq(~filling)

        record = Signal(128, name="record")
        place = Signal(PLACE, name="place")
        able = Signal(name="able")
        fill = Signal(name="fill")
        part_end = (part == parts - 1) | place.tile_end
        m.d.comb += [
            record.eq(beat.data.word_select(part, 128)),
            place.eq(record[56:64]),
            able.eq(filling & (settling == 0) & ~dropping),
            fill.eq(self.i_stream.valid & able),
            self.i_stream.ready.eq(dropping | (able & part_end)),
        ]
        with m.If(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        with m.If(fill):
            m.d.sync += part.eq(Mux(part_end, 0, part + 1))
            with m.If(place.chunk_end):
                m.d.sync += filling.eq(0)
            with m.If(place.tile_end):
                m.d.sync += dropping.eq(~beat.last)
        with m.If(dropping & self.i_stream.valid & beat.last):
            m.d.sync += dropping.eq(0)
        with m.If(self.take):
            m.d.sync += [filling.eq(1), settling.eq(self.settle)]

        pair_bits = exact_log2(config.requantise_lanes) - 1
        for lane in range(config.requantise_lanes):
            word = record[64 * (lane % 2) : 64 * (lane % 2) + 64]
            chosen = place.pair[:pair_bits] == lane // 2
            held = Signal(CONSTANTS, name=f"constants_{lane}", reset_less=True)
            m.d.comb += self.constants[lane].eq(held)
            with m.If(fill & chosen):
                m.d.sync += [
                    held.bias.eq(word[:32]),
                    held.multiplier.eq(word[32:48]),
                    held.shift.eq(word[48:56]),
                ]
        return m
