# SPDX-License-Identifier: Apache-2.0
"""Turns words along the reduction into rows across the columns."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hwgen.rtl.pipeline import register
from hwgen.rtl.ram import SmallMemory

#: Words of the deepest memory of LUTs that needs no choice among several.
LUT_DEPTH = 64


class CornerTurn(wiring.Component):
    """R x R bytes written word by word (one column each), read row by row; ping-pong.

    Byte (row r, column c) lies in memory ``(r + c) mod R`` at address c, so that a column write and
    a row read touch each memory once: two rotators instead of R x R registers. A write takes effect
    2 cycles after ``write_valid``; ``read_data`` follows ``read_row`` after 3 cycles. Memories that
    are deeper than those of LUTs are block RAM, a half each.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        super().__init__(
            {
                "write_valid": In(1),
                "write_half": In(1),
                "write_column": In(bits_for(columns - 1)),
                "write_word": In(8 * rows),
                "read_half": In(1),
                "read_row": In(bits_for(rows - 1)),
                "read_data": Out(8 * columns),
            }
        )

    @staticmethod
    def _rotate(m: Module, value: Signal, amount: Signal, rows: int, left: bool) -> Signal:
        """Rotate bytes combinationally by a power-of-two ladder."""
        for bit in range(ceil_log2(rows)):
            distance = 8 << bit
            turned = value.rotate_left(distance) if left else value.rotate_right(distance)
            step = Signal(8 * rows, name=f"rotate_{'left' if left else 'right'}_{bit}")
            m.d.comb += step.eq(Mux(amount[bit], turned, value))
            value = step
        return value

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, columns = self.rows, self.columns
        column_bits = bits_for(columns - 1)

        # Write: byte r of column c goes to memory (r + c) mod R: rotate left by c.
        column = Signal(ceil_log2(rows), name="column")
        m.d.comb += column.eq(self.write_column)
        word_1 = Signal(8 * rows, reset_less=True, name="word_1")
        valid_1 = Signal(name="valid_1")
        half_1 = Signal(name="half_1")
        column_1 = Signal(column_bits, name="column_1")
        m.d.sync += [
            word_1.eq(self._rotate(m, self.write_word, column, rows, True)),
            valid_1.eq(self.write_valid),
            half_1.eq(self.write_half),
            column_1.eq(self.write_column),
        ]

        # Read: memory b holds column (b - r) mod R of row r; rotate right by r puts column c at
        # byte c.
        row_1 = Signal.like(self.read_row, name="row_1")
        row_2 = Signal.like(self.read_row, name="row_2")
        half_read = Signal(name="half_read")
        m.d.sync += [row_1.eq(self.read_row), row_2.eq(row_1), half_read.eq(self.read_half)]
        gathered = Signal(8 * rows, reset_less=True, name="gathered")
        depth = 2 << column_bits
        # Block RAM reads into a register of its own, which stands where the other one would.
        block = depth > LUT_DEPTH
        for b in range(rows):
            style = {"ram_style": "block" if block else "distributed"}
            store = SmallMemory("store", shape=8, depth=depth, attrs=style)
            m.submodules[f"store_{b}"] = store
            write = store.writer("write")
            read = store.reader("read", domain="sync" if block else "comb")
            wanted = Signal(ceil_log2(rows), name=f"column_{b}")
            m.d.comb += [
                write.en.eq(valid_1),
                write.addr.eq(Cat(column_1, half_1)),
                write.data.eq(word_1.word_select(b, 8)),
                wanted.eq(b - row_1),
                read.addr.eq(Cat(wanted[:column_bits], half_read)),
            ]
            m.d["comb" if block else "sync"] += gathered.word_select(b, 8).eq(read.data)
        turned = self._rotate(m, gathered, row_2, rows, False)
        m.d.comb += self.read_data.eq(register(m, turned[: 8 * columns], "turned"))
        return m
