# SPDX-License-Identifier: Apache-2.0
"""Element-wise unit: a 256-entry table per lane, exact for any int8 function."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.rtl.pipeline import delay, register
from hwgen.rtl.ram import SmallMemory

#: Entries that are written at a time, and their number.
WRITTEN_ENTRIES = 4
INDEX_BITS = 6


class ElementwiseLane(wiring.Component):
    """``value = table[slot][code + 128]``, one per cycle, three cycles; ``slots`` tables.

    The tables are a block RAM of words of four entries with a register behind it: half a RAMB36 a
    lane. A table is written as 64 words, entry ``4 write_index`` lowest; a write takes effect in
    the next cycle. Codes may come in the same cycles.
    """

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        super().__init__(
            {
                "code": In(8),
                "slot": In(1),
                "value": Out(8),
                "write_valid": In(1),
                "write_slot": In(1),
                "write_index": In(INDEX_BITS),
                "write_data": In(8 * WRITTEN_ENTRIES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = SmallMemory(
            "table",
            shape=8 * WRITTEN_ENTRIES,
            depth=self.slots << INDEX_BITS,
            attrs={"ram_style": "block"},
        )
        write = table.writer("write")
        read = table.reader("read")
        index = Signal(8, name="index")
        m.d.comb += [
            index.eq(self.code ^ 0x80),
            write.addr.eq(Cat(self.write_index, self.write_slot)),
            write.data.eq(self.write_data),
            write.en.eq(self.write_valid),
            read.addr.eq(Cat(index[2:], self.slot)),
        ]
        word = register(m, read.data, "word")
        entry = delay(m, index[:2], 2, "entry")
        m.d.sync += self.value.eq(word.word_select(entry, 8))
        return m
