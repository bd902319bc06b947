# SPDX-License-Identifier: Apache-2.0
"""The chunks of a DRAIN command: which columns go to which word, ahead of the rows."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BY_NAME, WORD_ADDRESS_BITS
from hwgen.rtl.pipeline import register
from hwgen.rtl.ports import command_layout

_FIELD = {field.name: field.bits for field in BY_NAME["DRAIN"].fields}


class DrainChunks(wiring.Component):
    """Walks over the chunks of a command: those of a tile, tile after tile.

    A chunk is what a tile has for one word of the destination, or for half a word of bytes where
    there are ``rows / 2`` lanes only (``config.chunk_channels``). ``start`` takes the command
    ``given``, whose ``stride`` and width (``wide``: int16) are also given from then on;
    ``next_chunk`` goes on within the tile, ``next_tile`` behind its ``last`` chunk. ``base`` says
    which word a chunk goes to; ``half`` which half of it, where a word has two chunks, or, with
    ``rows`` lanes, which half of the lanes makes the int16 word: the lower one the tensor's even
    words. ``segment`` and ``offset`` say where in the array it comes from: lane l < ``offset`` from
    segment ``segment + 1``, the others from ``segment``. ``rotation``: lane l of the array belongs
    to lane (l + rotation) mod lanes of the destination. Lanes ``2 first_pair ... 2 last_pair + 1``
    of the destination, or what is of them in the half of the lanes, hold columns of this chunk.

    ``base``, ``half``, ``segment``, ``offset``, ``rotation`` and ``next_base`` (``base`` of the
    tile's next chunk) are registers or nearly, and valid from the cycle after a step; ``last`` and
    the pairs one later; ``last_tile`` and a step on two later. Rotations, and so ``tile_columns``
    and ``offset`` of commands, are multiples of ``config.rotation_step``. With ``apart`` every tile
    begins a word; its rotation is that of the command's ``offset``, 0.
    """

    start: In
    given: In
    stride: In
    wide: In
    next_chunk: In
    next_tile: In
    base: Out
    next_base: Out
    half: Out
    segment: Out
    offset: Out
    rotation: Out
    first_pair: Out
    last_pair: Out
    last: Out
    last_tile: Out

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        lane = exact_log2(config.requantise_lanes)
        super().__init__(
            {
                "start": In(1),
                "given": In(command_layout("DRAIN")),
                "stride": In(_FIELD["stride"]),
                "wide": In(1),
                "next_chunk": In(1),
                "next_tile": In(1),
                "base": Out(WORD_ADDRESS_BITS),
                "next_base": Out(WORD_ADDRESS_BITS),
                "half": Out(1),
                "segment": Out(max(1, bits_for(config.segments - 1))),
                "offset": Out(lane),
                "rotation": Out(lane),
                "first_pair": Out(lane - 1),
                "last_pair": Out(lane - 1),
                "last": Out(1),
                "last_tile": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        given = self.given
        lane = exact_log2(self.config.requantise_lanes)
        # Chunks of bytes are whole words, those of int16 come from half of the lanes.
        whole_words = self.config.requantise_lanes == self.config.rows
        step = exact_log2(self.config.rotation_step)

        def whole(value: Value) -> Value:
            """Whole steps of a number of lanes: no logic for the bits below."""
            return Cat(Const(0, step), value[step:lane])

        # The tile: columns that are left from its first on, less one; columns of a tile, and less
        # one.
        left = Signal(_FIELD["columns"], name="left")
        tile_columns = Signal(_FIELD["tile_columns"], name="tile_columns")
        span = Signal(_FIELD["tile_columns"], name="span")
        short = Signal(name="short")  # fewer columns are left than a tile has
        rotation = Signal(lane, name="rotation")
        apart = Signal(name="apart")  # every tile begins a word
        tile = Signal(_FIELD["tiles"], name="tile")
        tiles = Signal(_FIELD["tiles"], name="tiles")
        # The chunk.
        base = Signal(WORD_ADDRESS_BITS, name="base")
        half = Signal(name="half")
        segment = Signal.like(self.segment, name="segment")
        offset = Signal(lane, name="offset")
        first = Signal(name="first")
        last = Signal(name="last")
        chunks = (1 + whole_words) * self.config.segments + 1  # most chunks of a tile
        following = Signal(range(chunks), name="following")  # chunks of the tile
        last_pair = Signal(lane - 1, name="last_pair")  # of the tile's last chunk

        # The next tile and the next chunk, known when the step comes.
        next_left = register(m, (left - tile_columns)[: len(left)], "next_left")
        next_short = register(m, next_left < span, "next_short")
        rotated = whole(rotation + Mux(apart, 0, tile_columns))
        next_rotation = register(m, rotated, "next_rotation")
        in_word = (
            Mux(self.wide, next_rotation[:-1], next_rotation) if whole_words else next_rotation
        )
        at_boundary = register(m, (in_word == 0) & ~apart, "at_boundary")
        next_word = register(m, (base + self.stride)[: len(base)], "next_word")
        next_offset = register(m, whole(-rotation), "next_offset")
        next_last = register(m, following == 1, "next_last")
        # Rotated, the first chunk leaves a rest of its segment to the second.
        rest = register(m, first & (rotation != 0), "rest")
        last_tile = register(m, tile == tiles, "last_tile")
        if whole_words:
            m.d.comb += self.next_base.eq(next_word)
        else:
            m.d.comb += self.next_base.eq(Mux(self.wide | half, next_word, base))

        # A cycle after the tile: from its first to its last column, counted in lanes.
        opening = register(m, self.start | self.next_tile, "opening", reset=True)
        reach = Signal(len(span) + 1, name="reach")
        end = Mux(short, left, span)
        m.d.comb += reach.eq(rotation + end)
        beyond: Value = reach[lane:]
        if whole_words:
            of_halves = Signal.like(reach, name="reach_of_halves")
            m.d.comb += of_halves.eq(rotation[:-1] + end)
            beyond = Mux(self.wide, of_halves[lane - 1 :], beyond)
        with m.If(opening):
            m.d.sync += [
                following.eq(beyond),
                last.eq(beyond == 0),
                last_pair.eq(reach[1:lane]),
            ]
        with m.If(self.next_chunk | (self.next_tile & at_boundary)):
            m.d.sync += [base.eq(self.next_base), half.eq(~half)]
        with m.If(self.next_tile & apart):
            m.d.sync += [base.eq(next_word), half.eq(0)]
        moved = [segment.eq(segment + ~rest), offset.eq(next_offset), first.eq(0)]
        with m.If(self.next_chunk):
            if whole_words:
                with m.If(~self.wide | half):
                    m.d.sync += moved
            else:
                m.d.sync += moved
            m.d.sync += [last.eq(next_last), following.eq(following - 1)]
        with m.If(self.start | self.next_tile):
            m.d.sync += [segment.eq(0), offset.eq(0), first.eq(1)]
        with m.If(self.next_tile):
            m.d.sync += [
                tile.eq(tile + 1),
                left.eq(next_left),
                short.eq(next_short),
                rotation.eq(next_rotation),
            ]
        with m.If(self.start):
            m.d.sync += [
                tile.eq(0),
                tiles.eq(given.tiles - 1),
                left.eq(given.columns - 1),
                tile_columns.eq(given.tile_columns),
                span.eq(given.tile_columns - 1),
                short.eq(given.columns < given.tile_columns),
                rotation.eq(whole(given.offset)),
                half.eq(given.offset[exact_log2(self.config.int16_channels)]),
                base.eq(given.destination),
                apart.eq(given.apart),
            ]
        m.d.comb += [
            self.base.eq(base),
            self.half.eq(half),
            self.segment.eq(segment),
            self.offset.eq(offset),
            self.rotation.eq(rotation),
            self.first_pair.eq(Mux(first, rotation[1:], 0)),
            self.last_pair.eq(Mux(last, last_pair, ~0)),
            self.last.eq(last),
            self.last_tile.eq(last_tile),
        ]
        return m


def rotate_lanes(
    m: Module, lanes: Sequence[Value], rotation: Value, config: AcceleratorConfig
) -> list[Value]:
    """Value l becomes value (l + rotation) mod lanes, ``config.rotation_stages`` cycles later.

    ``rotation`` is a multiple of ``config.rotation_step`` given with the values. A stage is a
    multiplexer of four, the second one of up to eight, in front of a register.
    """
    step = exact_log2(config.rotation_step)
    bits = range(step, len(rotation))
    for stage in range(config.rotation_stages):
        for bit in bits[2:] if stage else bits[:2]:
            lanes = [
                Mux(rotation[bit], lanes[i - (1 << bit)], lane) for i, lane in enumerate(lanes)
            ]
        lanes = [register(m, lane, f"rotated_{stage}_{i}") for i, lane in enumerate(lanes)]
        rotation = register(m, rotation, f"rotation_{stage}")
    return list(lanes)
