# SPDX-License-Identifier: Apache-2.0
"""Columns without multipliers: adders that select multiples of the activation.

Several bits: the weight's radix-4 digits select; one bit: pairs of weights -1 and +1 select the sum
or the difference of two activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.utils import ceil_log2

from hwgen.rtl.columns.base import Columns, Leaf


@dataclass(frozen=True)
class DigitColumns(Columns):
    """Weights of 2 to 8 bits, two's complement.

    With ``carry`` a cell has one bit more, above the weight, that counts 1: what a slice of a wider
    weight needs of the slice below it. The value is -2^(W-1) .. 2^(W-1) then.
    """

    carry: bool = False

    @property
    def cell_bits(self) -> int:
        """The weight, above it the carry."""
        return self.weight_bits + self.carry

    @property
    def digits(self) -> int:
        """Radix-4 digits of a weight: as many cascades has a column."""
        return -(-self.weight_bits // 2)

    @property
    def latency(self) -> int:
        """The strip's register, the sum, and a register for every level of the cascades' sum."""
        return 2 + ceil_log2(self.digits)

    @property
    def name(self) -> str:
        """By rows and width."""
        return f"digits_r{self.rows}_w{self.weight_bits}{'c' * self.carry}"

    def leaf(self) -> Leaf:
        """A cascade per digit."""
        return DigitColumn(self)

    def shared(self, activations: Sequence[Value]) -> list[Value]:
        """The activations."""
        return list(activations)


@dataclass(frozen=True)
class SignColumns(Columns):
    """Weights -1 and +1; a set bit is -1. Two rows share a register and are in step."""

    weight_bits: int = 1

    rows_per_stage: ClassVar[int] = 2

    @property
    def latency(self) -> int:
        """The strip's register, the sum."""
        return 2

    @property
    def activation_bits(self) -> int:
        """A sum and a difference for each pair of rows."""
        return 20 * self.stages

    @property
    def name(self) -> str:
        """By rows."""
        return f"digits_r{self.rows}_w1"

    def leaf(self) -> Leaf:
        """A cascade of pairs."""
        return SignColumn(self)

    def shared(self, activations: Sequence[Value]) -> list[Value]:
        """Per pair of chain rows their sum and, above it, their difference, 10 bits each.

        With an odd number of rows the last one is paired with 0.
        """
        padded = [*activations, Const(0, signed(9))]
        pairs = [(padded[p], padded[p + 1]) for p in range(0, self.rows, 2)]
        return [Cat((a + b)[:10], (a - b)[:10]) for a, b in pairs]


def _accumulate(
    m: Module, previous: Value, term: Value, negate: Value, largest: int, name: str
) -> Signal:
    """Register of ``previous + term``, or ``- term`` if ``negate``; at most ``largest`` in size.

    Written as a difference, p + t = p - ~t - 1 and p - t = p - t - 0, with the 0 or 1 as a borrow
    below the lowest bit: one carry chain whose bare operand is the cascade, so that the choice of
    the term and the addition share a LUT per bit.
    """
    total = Signal(signed(largest.bit_length() + 1), name=name, reset_less=True)
    keep = ~negate
    term_or_not = (term.as_unsigned() ^ keep.replicate(len(term))).as_signed()
    wide = Cat(Const(0, 1), previous).as_signed() - Cat(keep, term_or_not).as_signed()
    m.d.sync += total.eq(wide >> 1)
    return total


class DigitColumn(Leaf):
    """The leaf of :class:`DigitColumns`: a cascade per radix-4 digit of the weights.

    A weight of two's complement bits is the sum of 4^k d_k with d_k = -2 b(2k+1) + b(2k) + b(2k-1),
    -2..2 (Booth; the sign bit repeats); every value is taken, the lowest too. b(-1) is 0, or the
    carry, which costs digit 0 nothing. Digit k of a row and the addition to its cascade take one
    LUT per bit; the cascades are summed at last.
    """

    columns: DigitColumns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.columns.weight_bits
        chains: list[Value] = [Const(0, 1)] * self.columns.digits
        for p in range(self.rows):
            active = self.weight(m, p)
            held = self.activation.word_select(p, 9).as_signed()
            for k in range(len(chains)):
                carry = active[bits] if self.columns.carry else Const(0, 1)
                below = active[2 * k - 1] if k else carry
                low = active[2 * k]
                name = f"digit_{k}_{p}"
                if 2 * k + 1 < bits:
                    high = active[2 * k + 1]
                    chosen = Mux(low ^ below, held, Mux(high ^ low, held << 1, 0))
                    chains[k] = _accumulate(m, chains[k], chosen, high, 2 * 255 * (p + 1), name)
                else:  # the sign bit repeats: -1, 0 or 1
                    chosen = Mux(low ^ below, held, Const(0, signed(9)))
                    chains[k] = _accumulate(m, chains[k], chosen, low, 255 * (p + 1), name)
        # Pairs of cascades, then pairs of pairs: each level doubles the distance.
        distance = 2
        while len(chains) > 1:
            merged = []
            for i in range(0, len(chains), 2):
                value = chains[i]
                if i + 1 < len(chains):
                    value = value + (chains[i + 1] << distance)
                stage = Signal(value.shape(), name=f"merged_{distance}_{i}", reset_less=True)
                m.d.sync += stage.eq(value)
                merged.append(stage)
            chains = merged
            distance *= 2
        m.d.comb += self.total.eq(chains[0])
        return m


class SignColumn(Leaf):
    """The leaf of :class:`SignColumns`: a cascade of pairs of rows, one LUT per bit and pair.

    +-a0 +-a1 is the sum or the difference of the pair, or its negative.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total: Value = Const(0, 1)
        signs = [self.weight(m, p) for p in range(self.rows)]
        for q in range(self.columns.stages):
            pair = self.activation.word_select(q, 20)
            negative = signs[2 * q]
            other = signs[2 * q + 1] if 2 * q + 1 < self.rows else negative
            chosen = Mux(negative ^ other, pair[10:].as_signed(), pair[:10].as_signed())
            total = _accumulate(m, total, chosen, negative, 255 * (2 * q + 2), f"sum_{q}")
        m.d.comb += self.total.eq(total)
        return m
