# SPDX-License-Identifier: Apache-2.0
"""Turns words along the reduction into rows across the columns."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hwgen.rtl.pipeline import register
from hwgen.rtl.ram import SmallMemory

#: Words of the deepest memory of LUTs that needs no choice among several.
LUT_WORDS = 64


class CornerTurn(wiring.Component):
    """R x C bytes written word by word (one column each), read row by row; ping-pong.

    Columns are those of *squares*, R each, the last one's fewer. Byte (row r, column c of its
    square) lies in memory ``(r + c) mod R`` at address c, a part of the word for every square, so
    that a column write and a row read touch each memory once: a rotator in front of all and one
    behind each square instead of R x C registers. A write takes effect 2 cycles after
    ``write_valid``, which says in what square; ``read_data`` follows ``read_row`` after 3 cycles.
    Memories that are deeper than those of LUTs are block RAM, half a block each.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self.squares = -(-columns // rows)
        self.square_columns = min(rows, columns)
        super().__init__(
            {
                "write_valid": In(self.squares),
                "write_half": In(1),
                "write_column": In(bits_for(self.square_columns - 1)),
                "write_word": In(8 * rows),
                "read_half": In(1),
                "read_row": In(bits_for(rows - 1)),
                "read_data": Out(8 * columns),
            }
        )

    @staticmethod
    def _rotate(m: Module, value: Signal, amount: Signal, name: str, *, left: bool) -> Signal:
        """Rotate bytes combinationally by a power-of-two ladder."""
        for bit in range(ceil_log2(len(value) // 8)):
            distance = 8 << bit
            turned = value.rotate_left(distance) if left else value.rotate_right(distance)
            step = Signal.like(value, name=f"{name}_{bit}")
            m.d.comb += step.eq(Mux(amount[bit], turned, value))
            value = step
        return value

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, squares = self.rows, self.squares
        column_bits = len(self.write_column)

        # Write: byte r of column c goes to memory (r + c) mod R: rotate left by c.
        column = Signal(ceil_log2(rows), name="column")
        m.d.comb += column.eq(self.write_column)
        word_1 = Signal(8 * rows, reset_less=True, name="word_1")
        valid_1 = Signal(squares, name="valid_1")
        half_1 = Signal(name="half_1")
        column_1 = Signal(column_bits, name="column_1")
        m.d.sync += [
            word_1.eq(self._rotate(m, self.write_word, column, "rotate_left", left=True)),
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
        gathered = [Signal(8 * rows, reset_less=True, name=f"gathered_{s}") for s in range(squares)]
        depth = 2 << column_bits
        # Block RAM reads into a register of its own, which stands where the other one would.
        block = depth > LUT_WORDS
        style = {"ram_style": "block" if block else "distributed"}
        for b in range(rows):
            store = SmallMemory(
                "store", shape=data.ArrayLayout(8, squares), depth=depth, attrs=style
            )
            m.submodules[f"store_{b}"] = store
            write = store.writer("write", granularity=1)
            read = store.reader("read", domain="sync" if block else "comb")
            wanted = Signal(ceil_log2(rows), name=f"column_{b}")
            m.d.comb += [
                write.en.eq(valid_1),
                write.addr.eq(Cat(column_1, half_1)),
                wanted.eq(b - row_1),
                read.addr.eq(Cat(wanted[:column_bits], half_read)),
            ]
            for s in range(squares):
                m.d.comb += write.data[s].eq(word_1.word_select(b, 8))
                m.d["comb" if block else "sync"] += gathered[s].word_select(b, 8).eq(read.data[s])
        turned = Cat(
            self._rotate(m, square, row_2, f"rotate_right_{s}", left=False)
            for s, square in enumerate(gathered)
        )
        m.d.comb += self.read_data.eq(register(m, turned[: 8 * self.columns], "turned"))
        return m
