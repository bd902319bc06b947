# SPDX-License-Identifier: Apache-2.0
"""Requantise lanes: the int32 accumulator to int8 or int16 codes (hwgen.numerics.requantise)."""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.numerics.fractional_softmax import SHIFT_BITS
from hwgen.rtl.pipeline import register

#: Cycles from ``accumulators`` to ``codes``.
LATENCY = 9
#: The residual is taken this many cycles after the accumulator, the row's shift that many.
RESIDUAL_DELAY = 7
ROW_SHIFT_DELAY = 3

CONSTANTS = data.StructLayout({"bias": signed(32), "multiplier": 16, "shift": 6})


class RequantiseLane(wiring.Component):
    """``clip(rshr((acc + bias) * multiplier, shift) + addend, low, high)``.

    One value per cycle, :data:`LATENCY` cycles.

    ``constant_set`` selects one of two sets of constants and travels with the value, so that the
    other set can be loaded meanwhile. ``wide``: int16 result, ``residual`` (given RESIDUAL_DELAY
    cycles after the accumulator) is added and the limits are those of int16; otherwise
    ``zero_point`` is added and ``low``/``high`` clip. ``wide`` and the limits are constant while
    values are inside. No back-pressure. ``row_shifts``: a row's shift, ``row_shift`` given
    ROW_SHIFT_DELAY cycles after the accumulator, is added to the column's; the sum is at most 47.
    """

    def __init__(self, *, row_shifts: bool = False) -> None:
        self.row_shifts = row_shifts
        super().__init__(
            {
                **({"row_shift": In(SHIFT_BITS)} if row_shifts else {}),
                "accumulator": In(signed(32)),
                "constant_set": In(1),
                "constants": In(data.ArrayLayout(CONSTANTS, 2)),
                "wide": In(1),
                "residual": In(signed(16)),
                "zero_point": In(signed(8)),
                "low": In(signed(8)),
                "high": In(signed(8)),
                "code": Out(signed(16)),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        sets = Signal(4, name="sets")
        m.d.sync += sets.eq(Cat(self.constant_set, sets[:-1]))
        a, b = self.constants[0], self.constants[1]

        # 1: bias (the sum fits int32 by contract)
        biased = Signal(signed(32), reset_less=True, name="biased")
        m.d.sync += biased.eq(self.accumulator + Mux(self.constant_set, b.bias, a.bias).as_signed())
        # 2-4: 32 x 16 bit product, registers for the DSP pipeline
        factor = Signal(16, reset_less=True, name="factor")
        operand = Signal(signed(32), reset_less=True, name="operand")
        m.d.sync += [
            factor.eq(Mux(sets[0], b.multiplier, a.multiplier)),
            operand.eq(biased),
        ]
        product_1 = Signal(signed(48), reset_less=True, name="product_1")
        product = Signal(signed(48), reset_less=True, name="product")
        m.d.sync += [product_1.eq(operand * factor), product.eq(product_1)]
        # 5-7: arithmetic shift by e - 1 in two steps, then saturated to 18 bits; the last bit is
        # the rounding bit. (x >> (e-1)) + 1 >> 1 equals rshr(x, e); beyond 18 bits every result
        # saturates at int16 whatever is added.
        amount = Signal(6, reset_less=True, name="amount")
        if self.row_shifts:
            column = register(m, (Mux(sets[1], b.shift, a.shift) - 1)[:6], "column")
            m.d.sync += amount.eq(column + self.row_shift)
        else:
            m.d.sync += amount.eq(Mux(sets[2], b.shift, a.shift) - 1)
        coarse = Signal(signed(48), reset_less=True, name="coarse")
        fine = Signal(3, reset_less=True, name="fine")
        m.d.sync += [coarse.eq(product >> Cat(Const(0, 3), amount[3:])), fine.eq(amount[:3])]
        shifted = Signal(signed(48), reset_less=True, name="shifted")
        m.d.sync += shifted.eq(coarse >> fine)
        narrow = Signal(signed(18), reset_less=True, name="narrow")
        top = shifted[17:]
        with m.If(top.all() | ~top.any()):
            m.d.sync += narrow.eq(shifted[:18].as_signed())
        with m.Else():
            m.d.sync += narrow.eq(Mux(shifted[-1], -(1 << 17), (1 << 17) - 1))
        # 8: round and add
        summed = Signal(signed(19), reset_less=True, name="summed")
        m.d.sync += summed.eq(((narrow + 1) >> 1) + Mux(self.wide, self.residual, self.zero_point))
        # 9: clip
        low = Signal(signed(16), name="low")
        high = Signal(signed(16), name="high")
        m.d.comb += [
            low.eq(Mux(self.wide, -32768, self.low)),
            high.eq(Mux(self.wide, 32767, self.high)),
        ]
        with m.If(summed < low):
            m.d.sync += self.code.eq(low)
        with m.Elif(summed > high):
            m.d.sync += self.code.eq(high)
        with m.Else():
            m.d.sync += self.code.eq(summed)
        return m
