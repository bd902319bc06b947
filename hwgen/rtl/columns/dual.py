# SPDX-License-Identifier: Apache-2.0
"""Two 8-bit columns of the array in one DSP48E2 cascade, and their twin in plain logic.

Both have the same ports, latency and results for all weights of 8 bits and all activations that are
int8 or uint8; synthesis for UltraScale+ takes one, simulation and all other targets the other.

A DSP block multiplies ``(w1 << 18) + w0`` by one activation and adds the block above it, so that a
column's sum is ``P = (H << 18) + L`` with L and H the sums of the two columns. L outgrows its 18
bits after 4 rows, which is why others cut the cascade there and add the pieces in logic. Here the
cascade is never cut: the upper bits of L, lost in H, are found again from P itself. A row changes L
by at most 128 * 255 = 32640, two rows by less than a quarter of 2^18, so bits 17:16 of P, watched
every second row, say whether L went round; a few LUTs count the rounds. At the end the count
completes L, and is subtracted from P >> 18 to give H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal, Value, signed

from hwgen.rtl.columns.base import Columns, Leaf
from hwgen.rtl.columns.dsp48e2 import dsp48e2

#: Bit of the second weight in the packed operand: 18 + 8 bits and a sign fit the 27-bit multiplier
#: port for all weights, -128 included.
LANE = 18
#: Largest magnitude of a product: uint8 activation, weight -128.
PRODUCT = 128 * 255
#: Rows between two looks at the low lane: it moves by less than a quarter of its range.
TAP_ROWS = 2
#: Rows after which the low lane still fits its bits.
FIRST_TAP_ROWS = 4


@dataclass(frozen=True)
class DualColumns(Columns):
    """Two 8-bit columns a leaf."""

    weight_bits: int = 8

    width: ClassVar[int] = 2

    @property
    def latency(self) -> int:
        """Activation, product, sum, and the register behind the split of the sums."""
        return 4

    @property
    def name(self) -> str:
        """Whichever of the two leaves it is."""
        return f"dual_r{self.rows}_w8"

    def leaf(self) -> Leaf:
        """In plain logic."""
        return TwinColumn(self)

    def synthesis_leaf(self) -> Leaf:
        """In DSP blocks."""
        return DspColumn(self)


class TwinColumn(Leaf):
    """The leaf in plain logic: one multiplier a cell."""

    def elaborate(self, platform: object) -> Module:
        """Shadow, active, product and sum of every cell."""
        m = Module()
        shape = self.columns.sum_shape
        sums: list[Value] = [Const(0, shape)] * 2
        for p in range(self.rows):
            held = Signal(signed(9), name=f"activation_{p}", reset_less=True)
            m.d.sync += held.eq(self.activation.word_select(p, 9))
            for c in range(2):
                active = self.weight(m, p, c)
                product = Signal(signed(16), name=f"product_{c}_{p}", reset_less=True)
                total = Signal(shape, name=f"sum_{c}_{p}", reset_less=True)
                m.d.sync += [product.eq(held * active.as_signed()), total.eq(sums[c] + product)]
                sums[c] = total
        total = Signal(2 * shape.width, name="total_register", reset_less=True)
        m.d.sync += total.eq(Cat(sums))
        m.d.comb += self.total.eq(total)
        return m


class DspColumn(Leaf):
    """The leaf as a cascade of R DSP48E2 blocks.

    All registers of a cell are the block's own: A2 and D hold the shadow weights, AD behind the
    pre-adder the active pair, B the activation, M the products, P the sums.
    """

    def elaborate(self, platform: object) -> Module:
        """The cascade, the count of the low lane's rounds, and the split."""
        m = Module()
        bits = self.columns.sum_shape.width
        cascade: Value | None = None
        last = self.rows - 1
        taps = [*range(min(FIRST_TAP_ROWS - 1, last), last, TAP_ROWS), last]
        #: Low lane >> 16, signed, as far as it is needed: its lower two bits are P's own.
        rounds: Value | None = None
        tapped = 0
        sums: Value = Const(0, 48)
        for p in range(self.rows):
            sums = Signal(48, name=f"p_{p}")
            next_cascade = Signal(48, name=f"cascade_{p}")
            m.submodules[f"cell_{p}"] = self._cell(p, cascade, next_cascade, sums)
            cascade = next_cascade
            if p not in taps:
                continue
            now = sums[LANE - 2 : LANE]
            if rounds is None:
                rounds = Cat(now, now[1])
            else:
                width = max(3, ((p + 1) * PRODUCT).bit_length() + 1 - (LANE - 2))
                rounds = self._count(m, rounds, p - tapped, now, width, p)
            tapped = p
        assert rounds is not None
        upper = rounds[2:].as_signed()
        low = Cat(sums[: LANE - 2], rounds).as_signed()
        total = Signal(2 * bits, name="total_register", reset_less=True)
        m.d.sync += [
            total[:bits].eq(low),
            total[bits:].eq(sums[LANE : LANE + bits].as_signed() - upper),
        ]
        m.d.comb += self.total.eq(total)
        return m

    @staticmethod
    def _count(m: Module, before: Value, cycles: int, now: Value, width: int, p: int) -> Value:
        """Rounds at chain row p (``width`` bits) from those ``cycles`` rows above.

        The low two bits are a position on a circle of four quarters that moves by one at most; from
        3 to 0 it went round upwards, from 0 to 3 downwards.
        """
        line = Signal(len(before) * cycles, name=f"rounds_{p}", reset_less=True)
        m.d.sync += line.eq(Cat(before, line)[: len(line)])
        old = line[-len(before) :]
        up = (old[:2] == 3) & (now == 0)
        down = (old[:2] == 0) & (now == 3)
        upper = [old[2:][min(i, len(before) - 3)] for i in range(width - 2)]
        counted = []
        for i, bit in enumerate(upper):  # plain logic: shorter than a carry chain
            below = Cat(upper[:i]) if i else Const(0, 1)
            ones = below.all() if i else Const(1, 1)
            counted.append(bit ^ ((up & ones) | (down & ~below.any())))
        return Cat(now, *counted)

    def _cell(self, p: int, cascade: Value | None, next_cascade: Value, sums: Value) -> Instance:
        """One DSP block: P = AD * B + PCIN, AD = D + A."""
        pair = self.weight_in.word_select(p // self.columns.broadcast_rows, 16)
        first, second = pair[:8].as_signed(), pair[8:].as_signed()
        wide = Cat(first, first[-1].replicate(22))
        above = Cat(Const(0, LANE), second, second[-1].replicate(27 - 8 - LANE))
        registers = ("AREG", "ACASCREG", "BREG", "BCASCREG", "DREG", "ADREG")
        load = self.weight_enable[p]
        return dsp48e2(
            clock=ClockSignal(),
            a=wide,
            b=Cat(self.activation.word_select(p, 9), self.activation[9 * p + 8].replicate(9)),
            d=above,
            inmode=Const(0b00100, 5),
            above=cascade,
            enables={"A2": load, "D": load, "AD": self.swap[p], "B2": Const(1, 1)},
            attributes={"AMULTSEL": "AD", **dict.fromkeys(registers, 1), "INMODEREG": 0},
            p=sums,
            pcout=next_cascade,
        )
