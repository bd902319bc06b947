# SPDX-License-Identifier: Apache-2.0
"""Requantise lanes: accumulators to int8 or int16 codes (hwgen.numerics.requantise)."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.numerics.fractional_softmax import SHIFT_BITS
from hwgen.numerics.requantise import BIASED_BITS
from hwgen.rtl.pipeline import register

#: The addend is taken this many cycles after the accumulator, the row's shift that many.
ADDEND_DELAY = 7
ROW_SHIFT_DELAY = 3
#: ``swap`` comes this many cycles before the first accumulator of the new constants.
SWAP_LEAD = 2

CONSTANTS = data.StructLayout({"bias": signed(BIASED_BITS), "multiplier": 16, "shift": 6})
#: Bits of the product of a biased accumulator and an unsigned multiplier of 16 bits.
_PRODUCT_BITS = BIASED_BITS + 16
#: Bits of a shifted value with its rounding bit: beyond them every result saturates at int16,
#: whatever is added.
_NARROW_BITS = 18
#: The shift is done in steps of sixteen, four and one.
_STEPS = (16, 4, 1)
#: Largest shift but for the rounding bit.
_LARGEST_SHIFT = 46


def _differs(bits: Value, sign: Value) -> Value:
    """Whether a value has bits unlike its sign."""
    return (bits ^ sign.replicate(len(bits))).any()


class RequantiseLane(wiring.Component):
    """``clip(rshr((acc + bias) * multiplier, shift) + addend, low, high)``.

    One value per cycle, :data:`hwgen.timings.REQUANTISE_LATENCY` cycles; one DSP. ``acc + bias``
    fits :data:`hwgen.numerics.requantise.BIASED_BITS` bits by contract (the compiler proves it), so
    that as many low bits of each are enough.

    The lane takes its constants from ``constants`` with ``swap``, each where the values that need
    it have got to: ``swap`` is given SWAP_LEAD cycles before the first of them, and ``constants``
    hold until CONSTANTS_READ cycles after it. ``addend``: the residual or the zero point, a
    register, given ADDEND_DELAY cycles after the accumulator. ``wide``: int16 result, and the
    limits are those of int16; otherwise ``low``/``high`` clip and the code's upper byte means
    nothing. ``wide`` and the limits are constant while values are inside. No back-pressure.
    ``row_shifts``: a row's shift, ``row_shift`` given ROW_SHIFT_DELAY cycles after the accumulator,
    is added to the column's; the sum is at most 47.
    """

    def __init__(self, *, row_shifts: bool = False) -> None:
        self.row_shifts = row_shifts
        super().__init__(
            {
                **({"row_shift": In(SHIFT_BITS)} if row_shifts else {}),
                "accumulator": In(signed(BIASED_BITS)),
                "swap": In(1),
                "constants": In(CONSTANTS),
                "wide": In(1),
                "addend": In(signed(16)),
                "low": In(signed(8)),
                "high": In(signed(8)),
                "code": Out(signed(16)),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        # The constants follow the values: swaps[i] is high i - 1 cycles after the first one came.
        swaps = Signal(5, name="swaps")
        m.d.sync += swaps.eq(Cat(self.swap, swaps[:-1]))
        bias = Signal(signed(BIASED_BITS), reset_less=True, name="bias")
        factor = Signal(16, reset_less=True, name="factor")
        amount = Signal(6, reset_less=True, name="amount")  # the shift less one
        column = (self.constants.shift - 1)[:6]
        with m.If(swaps[0]):
            m.d.sync += bias.eq(self.constants.bias)
        with m.If(swaps[2]):
            m.d.sync += factor.eq(self.constants.multiplier)
        if self.row_shifts:
            own = Signal(6, reset_less=True, name="own")
            with m.If(swaps[3]):
                m.d.sync += own.eq(column)
            m.d.sync += amount.eq(own + self.row_shift)
        else:
            with m.If(swaps[4]):
                m.d.sync += amount.eq(column)

        # 1: bias
        biased = Signal(signed(BIASED_BITS), reset_less=True, name="biased")
        m.d.sync += biased.eq(self.accumulator + bias)
        # 2-4: product, registers for the DSP's pipeline
        operand = register(m, biased, "operand")
        product_1 = register(m, (operand * factor)[:_PRODUCT_BITS].as_signed(), "product_1")
        product = register(m, product_1, "product")
        # 5-7: arithmetic shift by e - 1 in three steps, each a choice of four, as many as a LUT
        # holds. A step keeps what the next ones need; bits beyond that differ from the sign where
        # the result saturates. The last bit is the rounding bit: (x >> (e-1)) + 1 >> 1 equals
        # rshr(x, e).
        value: Value = product
        left: Value = amount
        sign: Value = product[-1]
        overflow: Value = Const(0, 1)
        for step in _STEPS:
            kept = _NARROW_BITS + step - 1
            windows, beyond = [], []
            for low in range(0, min(4 * step, _LARGEST_SHIFT + 1), step):
                window = value[low : low + kept]
                windows.append(Cat(window, sign.replicate(kept - len(window))))
                rest = value[low + kept - 1 :]
                beyond.append(_differs(rest, sign) if len(rest) else Const(0, 1))
            index = left[exact_log2(step) :]
            value = register(m, _choose(windows, index), f"shifted_by_{step}")
            overflow = register(m, overflow | _choose(beyond, index), f"overflow_{step}")
            sign = register(m, sign, f"sign_{step}")
            if rest_bits := exact_log2(step):
                left = register(m, left[:rest_bits], f"amount_{step}")
        # 8: saturate to 18 bits, round and add: (x + 1 >> 1) + a is x + (2 a + 1) >> 1
        limit = Cat((~sign).replicate(_NARROW_BITS - 1), sign)
        narrow = Signal(signed(_NARROW_BITS), name="narrow")
        m.d.comb += narrow.eq(Mux(overflow, limit, value).as_signed())
        total = Signal(signed(_NARROW_BITS + 1), name="total")
        # The bare operand of the carry chain comes first.
        m.d.comb += total.eq(Cat(Const(1, 1), self.addend).as_signed() + narrow)
        summed = register(m, total[1:].as_signed(), "summed")
        # 9: clip. Of what does not fit the code the sign decides, of the rest the limits.
        negative = summed[-1]
        too_large = Mux(
            self.wide, _differs(summed[15:-1], negative), _differs(summed[7:-1], negative)
        )
        byte = summed[:8].as_signed()
        below = Mux(too_large, negative, ~self.wide & (byte < self.low))
        above = Mux(too_large, ~negative, ~self.wide & (byte > self.high))
        lowest = Mux(self.wide, -(1 << 15), self.low)
        highest = Mux(self.wide, (1 << 15) - 1, self.high)
        m.d.sync += self.code.eq(Mux(below, lowest, Mux(above, highest, summed[:16].as_signed())))
        return m


def _choose(values: Sequence[Value], index: Value) -> Value:
    """``values[index]``; beyond them any of them."""
    for bit in index:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [Mux(bit, *reversed(pair)) if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]
