# SPDX-License-Identifier: Apache-2.0
"""Element-wise unit: a 256-entry table per lane, exact for any int8 function."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.rtl.ram import SmallMemory

#: Cycles from ``codes`` to ``values``.
LATENCY = 2


class ElementwiseLane(wiring.Component):
    """``value = table[slot][code + 128]``, one per cycle, two cycles; ``slots`` tables.

    A table is written as 16 beats of 16 bytes; a beat's write takes effect in the next cycle.
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
                "write_beat": In(4),
                "write_data": In(128),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = SmallMemory(
            "table", shape=128, depth=16 * self.slots, attrs={"ram_style": "distributed"}
        )
        write = table.writer("write")
        read = table.reader("read", domain="comb")
        index = Signal(8, name="index")
        line = Signal(128, reset_less=True, name="line")
        byte = Signal(4, reset_less=True, name="byte")
        m.d.comb += [
            index.eq(self.code ^ 0x80),
            write.addr.eq(Cat(self.write_beat, self.write_slot)),
            write.data.eq(self.write_data),
            write.en.eq(self.write_valid),
            read.addr.eq(Cat(index[4:], self.slot)),
        ]
        m.d.sync += [
            line.eq(read.data),
            byte.eq(index[:4]),
            self.value.eq(line.word_select(byte, 8)),
        ]
        return m
