# SPDX-License-Identifier: Apache-2.0
"""Columns without multipliers: adders that select multiples of the activation.

Several bits: the weight's radix-4 digits select; one bit: pairs of weights -1 and +1 select the sum
or the difference of two activations.

Activations are 9 bits, -128..255, or 8 bits where they are never uint8 (``unsigned``): then every
activation is 128 at most in size instead of 255, and so is what n rows add up to, 128 n times the
largest digit. Sums of 2 digits in size take 1 + bits(256 n) bits instead of 1 + bits(510 n): one
less for n = 3, 5..7, 9..15 rows of a cascade, as many for powers of two, since -128 times -2 is
+256.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.utils import ceil_log2

from hwgen.rtl.columns.base import FabricColumns, Leaf


@dataclass(frozen=True)
class DigitColumns(FabricColumns):
    """Weights of 2 to 8 bits, two's complement.

    With ``carry`` a cell has one bit more, above the weight, that counts 1: what a slice of a wider
    weight needs of the slice below it. The value is -2^(W-1) .. 2^(W-1) then.
    """

    carry: bool = False

    rows_per_stage: ClassVar[int] = 2
    cascade_rows: ClassVar[int] = 16

    @property
    def cell_bits(self) -> int:
        """The weight, above it the carry."""
        return self.weight_bits + self.carry

    @property
    def digits(self) -> int:
        """Radix-4 digits of a weight: every cascade of a column has a sum for each."""
        return -(-self.weight_bits // 2)

    @property
    def latency(self) -> int:
        """The strip's register, the sum, that of all cascades, a level of digits a register."""
        return 2 + (len(self.cascades) > 1) + ceil_log2(self.digits)

    @property
    def name(self) -> str:
        """By rows, width and activations."""
        signed = "s" * (not self.unsigned)
        return f"digits_r{self.rows}_w{self.weight_bits}{'c' * self.carry}{signed}"

    def leaf(self) -> Leaf:
        """A cascade per digit."""
        return DigitColumn(self)

    def shared(self, activations: Sequence[Value]) -> list[Value]:
        """The activations."""
        return list(activations)


@dataclass(frozen=True)
class SignColumns(FabricColumns):
    """Weights -1 and +1; a set bit is -1. Two pairs of rows share a register and are in step."""

    weight_bits: int = 1

    rows_per_stage: ClassVar[int] = 4
    cascade_rows: ClassVar[int] = 16

    @property
    def latency(self) -> int:
        """The strip's register, the sum, that of all cascades."""
        return 2 + (len(self.cascades) > 1)

    @property
    def activation_bits(self) -> int:
        """A sum and a difference for each pair of rows."""
        return 2 * (self.code_bits + 1) * -(-self.rows // 2)

    @property
    def name(self) -> str:
        """By rows and activations."""
        return f"digits_r{self.rows}_w1{'s' * (not self.unsigned)}"

    def leaf(self) -> Leaf:
        """A cascade of pairs."""
        return SignColumn(self)

    def shared(self, activations: Sequence[Value]) -> list[Value]:
        """Per pair of chain rows their sum and, above it, their difference, a bit more each.

        With an odd number of rows the last one is paired with 0.
        """
        bits = self.code_bits + 1
        padded = [*activations, Const(0, signed(self.code_bits))]
        pairs = [(padded[p], padded[p + 1]) for p in range(0, self.rows, 2)]
        return [Cat((a + b)[:bits], (a - b)[:bits]) for a, b in pairs]


def _accumulate(previous: Value, term: Value, negate: Value, largest: int) -> Value:
    """``previous + term``, or ``- term`` if ``negate``; at most ``largest`` in size.

    Written as a difference, p + t = p - ~t - 1 and p - t = p - t - 0, with the 0 or 1 as a borrow
    below the lowest bit: one carry chain whose bare operand is the cascade, so that the choice of
    the term and the addition share a LUT per bit.
    """
    keep = ~negate
    term_or_not = (term.as_unsigned() ^ keep.replicate(len(term))).as_signed()
    wide = Cat(Const(0, 1), previous).as_signed() - Cat(keep, term_or_not).as_signed()
    return (wide >> 1)[: largest.bit_length() + 1].as_signed()


def _register(m: Module, value: Value, name: str) -> Signal:
    stage = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += stage.eq(value)
    return stage


class _FabricColumn(Leaf):
    """Cascades of adders: a register a stage, the rows of a stage one behind the other before it.

    Short cascades have narrow sums; one adder each joins them.
    """

    def _total(
        self, m: Module, add: Callable[[Value, int, int], Value], step: int, name: str
    ) -> Value:
        """The sum of all rows.

        ``add(previous, p, rows)``: ``previous`` and the terms of chain rows p ... p + step - 1, of
        ``rows`` rows in all.
        """
        columns = self.columns
        total: Value | None = None
        for c, rows in enumerate(columns.cascades):
            chain: Value = Const(0, 1)
            for p in rows[::step]:
                end = min(p + step, rows.stop)
                chain = add(chain, p, end - rows.start)
                if (end - rows.start) % columns.rows_per_stage == 0 or end == rows.stop:
                    chain = _register(m, chain, f"{name}_{p}")
            if total is not None:
                for d in range(columns.ends[c] - columns.ends[c - 1] - 1):
                    total = _register(m, total, f"{name}_wait_{rows[0]}_{d}")
                chain = chain + total
            if len(columns.cascades) > 1:
                chain = _register(m, chain, f"{name}_to_{rows[-1]}")
            total = chain
        assert total is not None
        return total


class DigitColumn(_FabricColumn):
    """The leaf of :class:`DigitColumns`: in every cascade a sum per radix-4 digit of the weights.

    A weight of two's complement bits is the sum of 4^k d_k with d_k = -2 b(2k+1) + b(2k) + b(2k-1),
    -2..2 (Booth; the sign bit repeats); every value is taken, the lowest too. b(-1) is 0, or the
    carry, which costs digit 0 nothing. Digit k of a row and the addition to its cascade take one
    LUT per bit; the digits' sums are added at last.
    """

    columns: DigitColumns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, code = self.columns.weight_bits, self.columns.code_bits
        largest = self.columns.largest_code
        cells = [self.weight(m, p) for p in range(self.rows)]

        def digit(k: int, previous: Value, p: int, rows: int) -> Value:
            active, held = cells[p], self.activation.word_select(p, code).as_signed()
            carry = active[bits] if self.columns.carry else Const(0, 1)
            below = active[2 * k - 1] if k else carry
            low = active[2 * k]
            if 2 * k + 1 < bits:
                high = active[2 * k + 1]
                chosen = Mux(low ^ below, held, Mux(high ^ low, held << 1, 0))
                return _accumulate(previous, chosen, high, 2 * largest * rows)
            # The sign bit repeats: -1, 0 or 1.
            chosen = Mux(low ^ below, held, Const(0, signed(code)))
            return _accumulate(previous, chosen, low, largest * rows)

        sums = [
            self._total(m, functools.partial(digit, k), 1, f"digit_{k}")
            for k in range(self.columns.digits)
        ]
        # Pairs of digits, then pairs of pairs: each level doubles the distance.
        distance = 2
        while len(sums) > 1:
            sums = [
                _register(
                    m,
                    sums[i] + (sums[i + 1] << distance) if i + 1 < len(sums) else sums[i],
                    f"merged_{distance}_{i}",
                )
                for i in range(0, len(sums), 2)
            ]
            distance *= 2
        m.d.comb += self.total.eq(sums[0])
        return m


class SignColumn(_FabricColumn):
    """The leaf of :class:`SignColumns`: pairs of rows, one LUT per bit and pair.

    +-a0 +-a1 is the sum or the difference of the pair, or its negative.
    """

    columns: SignColumns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        signs = [self.weight(m, p) for p in range(self.rows)]
        bits, largest = self.columns.code_bits + 1, self.columns.largest_code

        def pair(previous: Value, p: int, rows: int) -> Value:
            both = self.activation.word_select(p // 2, 2 * bits)
            negative = signs[p]
            other = signs[p + 1] if p + 1 < self.rows else negative
            chosen = Mux(negative ^ other, both[bits:].as_signed(), both[:bits].as_signed())
            return _accumulate(previous, chosen, negative, largest * rows)

        m.d.comb += self.total.eq(self._total(m, pair, 2, "sum"))
        return m
