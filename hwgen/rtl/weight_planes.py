# SPDX-License-Identifier: Apache-2.0
"""Bit planes of weights, as the memory delivers them, into rows of cell codes, a row per group.

A pass is a sequence of *blocks*. A block is some chain rows of one column group, sent bit by bit: a
*plane* is one bit of each of its cells, padded to whole beats. A weight so takes as many planes as
the layer has bits, however wide the cells are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hwgen.columns import ColumnGroup
from hwgen.isa.instructions import BY_NAME
from hwgen.rtl.pipeline import lookup, loop_counter, register

_FIELDS = {field.name: field.bits for field in BY_NAME["STATIONARY"].fields}
PLANES_BITS = _FIELDS["planes0"]
#: Widest weight, in bits: planes of a block without the carries.
MAXIMUM_PLANES = 8


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Blocks of a column group."""

    rows: int  #: chain rows of a pass
    block_rows: int  #: chain rows of a block; the last block of a pass may have fewer
    plane_beats: int  #: beats of a plane

    @classmethod
    def of(cls, group: ColumnGroup, *, rows: int, beat_bits: int) -> BlockShape:
        """As many rows as a beat has room for, but at least one and at most ``rows``."""
        block_rows = min(rows, max(1, beat_bits // group.columns))
        plane_beats = -(-block_rows * group.columns // beat_bits)
        return cls(rows=rows, block_rows=block_rows, plane_beats=plane_beats)

    @property
    def first_rows(self) -> range:
        """First chain row of every block."""
        return range(0, self.rows, self.block_rows)


def block_order(shapes: Sequence[BlockShape]) -> list[int]:
    """Group of every block of a pass: by first chain row, then by group."""
    blocks = [(row, group) for group, shape in enumerate(shapes) for row in shape.first_rows]
    return [group for _, group in sorted(blocks)]


def choose(values: Sequence[Value], index: Value) -> Value:
    """``values[index]`` by a tree of two-way choices; anything beyond the last value."""
    if len(values) == 1:
        return values[0]
    pairs = [
        Mux(index[0], values[i + 1], values[i]) if i + 1 < len(values) else values[i]
        for i in range(0, len(values), 2)
    ]
    return choose(pairs, index[1:])


class BlockAssembler(wiring.Component):
    """Planes of a group's blocks -> its rows; two blocks deep.

    A beat is taken when ``valid`` and ``room`` are high: as part ``part`` of a plane, in every cell
    bit of ``bits`` (to extend a sign, the top plane goes to the bits above it too); the cell bits
    of ``clear`` become zero, and bit 0 becomes one with ``sign``. ``last`` marks a block's last
    beat. One block is handed out row by row while the next arrives: a row is offered two cycles
    after its block's last beat at the earliest, one row a cycle; ``final`` comes out with its
    block.
    """

    def __init__(self, group: ColumnGroup, *, rows: int, beat_bits: int) -> None:
        self.group = group
        self.shape = BlockShape.of(group, rows=rows, beat_bits=beat_bits)
        self.beat_bits = beat_bits
        row = data.StructLayout(
            {
                "row": bits_for(rows - 1),
                "last": 1,
                "final": 1,
                "cells": group.columns * group.cell_bits,
            }
        )
        super().__init__(
            {
                "valid": In(1),
                "beat": In(beat_bits),
                "bits": In(group.cell_bits),
                "part": In(range(max(2, self.shape.plane_beats))),
                "clear": In(group.cell_bits),
                "sign": In(1),
                "last": In(1),
                "final": In(1),
                "room": Out(1),
                "o_stream": Out(stream.Signature(row)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        group, shape = self.group, self.shape
        columns, rows, block_rows = group.columns, shape.rows, shape.block_rows
        size = block_rows * columns

        # The block that arrives, and the one that is handed out: the second is a copy of the first,
        # so that beats are written nowhere but where their bit belongs and no choice is needed.
        complete = Signal(name="complete")
        handing = Signal(name="handing")
        take = self.valid & self.room
        leaving = Signal(name="leaving")
        copy = Signal(name="copy")
        m.d.comb += [
            copy.eq(complete & (~handing | leaving)),
            self.room.eq(~complete | ~handing | leaving),
        ]
        m.d.sync += [
            complete.eq((take & self.last) | (complete & ~copy)),
            handing.eq(copy | (handing & ~leaving)),
        ]
        final = Signal(2, name="final")
        with m.If(take):
            m.d.sync += final[0].eq(self.final)
        with m.If(copy):
            m.d.sync += final[1].eq(final[0])
        planes = []
        for bit in range(group.cell_bits):
            arriving = Signal(size, reset_less=True, name=f"arriving_{bit}")
            handed = Signal(size, reset_less=True, name=f"handed_{bit}")
            for part in range(shape.plane_beats):
                piece = arriving[part * self.beat_bits : (part + 1) * self.beat_bits]
                with m.If(take & self.bits[bit] & (self.part == part)):
                    m.d.sync += piece.eq(self.beat[: len(piece)])
            with m.If(take & self.clear[bit]):
                m.d.sync += arriving.eq(0)
            if bit == 0 and group.weight_bits > 1:
                with m.If(take & self.sign):
                    m.d.sync += arriving.eq(-1)
            with m.If(copy):
                m.d.sync += handed.eq(arriving)
            planes.append(handed)

        # Rows: place in the pass and in the block, and the last one of either, known ahead.
        row = Signal(range(rows), name="row")
        last_row = Signal(name="last_row")
        index = Signal(range(max(2, block_rows)), name="index")
        last_index = Signal(init=block_rows == 1, name="last_index")
        given = self.o_stream.valid & self.o_stream.ready
        m.d.comb += leaving.eq(given & last_index)
        with m.If(given):
            m.d.sync += [
                row.eq(Mux(last_row, 0, row + 1)),
                last_row.eq(row == rows - 2),
                index.eq(Mux(last_index, 0, index + 1)),
            ]
            if block_rows > 1:
                m.d.sync += last_index.eq(
                    (~last_index & (index == block_rows - 2)) | (row == rows - 2)
                )
        chosen = [
            choose([plane[r * columns : (r + 1) * columns] for r in range(block_rows)], index)
            for plane in planes
        ]
        m.d.comb += [
            self.o_stream.valid.eq(handing),
            self.o_stream.payload.row.eq(row),
            self.o_stream.payload.last.eq(last_row),
            self.o_stream.payload.final.eq(final[1]),
            self.o_stream.payload.cells.eq(
                Cat(plane[c] for c in range(columns) for plane in chosen)
            ),
        ]
        return m


class WeightPlanes(wiring.Component):
    """Wide beats of all groups' planes -> rows of cell codes, group by group.

    A command says how many planes the groups' weights have (0: the group and all behind it have no
    blocks), whether they are slices with a plane of carries in front of bit 0 (cells of 8 bits have
    none: there the slices below the top one are unsigned), and how many passes follow. It is
    accepted once the last beat of the one before has been taken. ``o_stream{g}`` offers the rows of
    group g, chain row 0 first, the last one of a pass with ``last``, those of the command's last
    pass with ``final``; two blocks of every group are kept ahead. A beat is taken in every cycle in
    which its group has room.
    """

    def __init__(self, *, rows: int, groups: Sequence[ColumnGroup], beat_bits: int) -> None:
        self.rows = rows
        self.groups = tuple(groups)
        self.beat_bits = beat_bits
        self.assemblers = [BlockAssembler(g, rows=rows, beat_bits=beat_bits) for g in groups]
        command = data.StructLayout(
            {
                "planes": data.ArrayLayout(PLANES_BITS, len(self.groups)),
                "carry": 1,
                **{name: _FIELDS[name] for name in ("tiles", "slices", "passes")},
            }
        )
        super().__init__(
            {
                "i_command": In(stream.Signature(command)),
                "i_stream": In(stream.Signature(beat_bits)),
                **{
                    f"o_stream{g}": Out(stream.Signature(assembler.o_stream.payload.shape()))
                    for g, assembler in enumerate(self.assemblers)
                },
            }
        )

    def _orders(self) -> list[list[int]]:
        """Order of the blocks of the first group, of the first two groups, ..."""
        shapes = [assembler.shape for assembler in self.assemblers]
        return [block_order(shapes[: count + 1]) for count in range(len(shapes))]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = len(self.groups)
        given = self.i_command.payload
        active = Signal(name="active")
        accepted = self.i_command.valid & self.i_command.ready

        # The command: groups in use but one, and the index of every group's top plane.
        carry = Signal(name="carry")
        prefix = Signal(range(max(2, count)), name="prefix")
        tops = [Signal(range(MAXIMUM_PLANES), name=f"top_{g}") for g in range(count)]
        starting = register(m, accepted, "starting", reset=True)
        with m.If(accepted):
            m.d.sync += [
                carry.eq(given.carry),
                prefix.eq(sum(given.planes[g] != 0 for g in range(1, count))),
                *(top.eq(given.planes[g] - 1) for g, top in enumerate(tops)),
            ]

        # The order of the blocks is a table for every number of groups in use. It is read one block
        # ahead of the one that follows: position -> following -> block. An entry is the block's
        # group, one-hot, and whether it is the last of its pass.
        orders = [
            [1 << group | (place == len(order) - 1) << count for place, group in enumerate(order)]
            for order in self._orders()
        ]
        place_bits = max(1, ceil_log2(max(map(len, orders))))
        table = [entry for order in orders for entry in order + [0] * (2**place_bits - len(order))]
        position = Signal(place_bits, name="position")
        following = Signal(count + 1, name="following")
        block = Signal(count + 1, name="block")
        top = Signal(range(MAXIMUM_PLANES), name="top")  # of the block
        block_ends = Signal(name="block_ends")
        entry = lookup(table, count + 1, Cat(position, prefix) if count > 1 else position)
        with m.If(starting):
            starts = [[order[place % len(order)] for order in orders] for place in range(2)]
            thirds = [2 % len(order) for order in orders]
            m.d.sync += [
                block.eq(lookup(starts[0], count + 1, prefix)),
                following.eq(lookup(starts[1], count + 1, prefix)),
                position.eq(lookup(thirds, place_bits, prefix)),
                top.eq(tops[0]),
            ]
        with m.Elif(block_ends):
            m.d.sync += [
                block.eq(following),
                following.eq(entry),
                position.eq(Mux(entry[count], 0, position + 1)),
                top.eq(reduce(or_, (Mux(following[g], tops[g], 0) for g in range(count)))),
            ]

        # Passes, in loops as the engines count them.
        pass_ends = block_ends & block[count]
        passes = loop_counter(
            m, _FIELDS["passes"], "pass", start=accepted, length=given.passes, step=pass_ends
        )
        slice_ends = pass_ends & passes.last
        slices = loop_counter(
            m, _FIELDS["slices"], "slice", start=accepted, length=given.slices, step=slice_ends
        )
        tile_ends = slice_ends & slices.last
        tiles = loop_counter(
            m, _FIELDS["tiles"], "tile", start=accepted, length=given.tiles, step=tile_ends
        )
        with m.If(starting):
            m.d.sync += active.eq(1)
        with m.Elif(tile_ends & tiles.last):
            m.d.sync += active.eq(0)
        m.d.comb += self.i_command.ready.eq(~(starting | active))

        # Beats of a block: carries first, then bit 0 upwards.
        in_carry = Signal(name="in_carry")
        plane = Signal(range(MAXIMUM_PLANES), name="plane")
        at_top = ~in_carry & (plane == top)
        parts = [assembler.shape.plane_beats for assembler in self.assemblers]
        part = Signal(range(max(2, *parts)), name="part")
        last_part = Cat(block[g] & (part == parts[g] - 1) for g in range(count)).any()
        taken = self.i_stream.valid & self.i_stream.ready
        m.d.comb += block_ends.eq(taken & last_part & at_top)
        narrow = [g for g, group in enumerate(self.groups) if group.takes_slices]
        with m.If(starting):
            m.d.sync += [part.eq(0), plane.eq(0), in_carry.eq(carry & (0 in narrow))]
        with m.Elif(block_ends):
            m.d.sync += [
                part.eq(0),
                plane.eq(0),
                in_carry.eq(carry & Cat(following[g] for g in narrow).any()),
            ]
        with m.Elif(taken):
            m.d.sync += part.eq(Mux(last_part, 0, part + 1))
            with m.If(last_part):
                m.d.sync += [in_carry.eq(0), plane.eq(plane + ~in_carry)]
        # The cell bits of a plane, and those above the top one.
        own = Cat(~in_carry & (plane == bit) for bit in range(MAXIMUM_PLANES))
        above = Cat(Const(0, 1), *(at_top & (plane < bit) for bit in range(1, MAXIMUM_PLANES)))
        unsigned = carry & ~slices.first
        room = []
        for g, (group, assembler) in enumerate(zip(self.groups, self.assemblers, strict=True)):
            m.submodules[f"assembler_{g}"] = assembler
            bits = (own | above)[: group.weight_bits]
            clear = above & unsigned.replicate(MAXIMUM_PLANES)
            if group.takes_slices:
                bits = Cat(bits, in_carry)
                clear = Cat(Const(0, group.weight_bits), ~carry)
            wiring.connect(m, assembler.o_stream, wiring.flipped(getattr(self, f"o_stream{g}")))
            m.d.comb += [
                assembler.valid.eq(self.i_stream.valid & active & block[g]),
                assembler.beat.eq(self.i_stream.payload),
                assembler.bits.eq(bits),
                assembler.clear.eq(clear),
                # A plane alone holds signs, which go to all bits above: -1 is ...11, +1 is ...01.
                assembler.sign.eq(top == 0),
                assembler.part.eq(part),
                assembler.last.eq(last_part & at_top),
                assembler.final.eq(passes.last & slices.last & tiles.last),
            ]
            room.append(block[g] & assembler.room)
        m.d.comb += self.i_stream.ready.eq(active & Cat(room).any())
        return m
