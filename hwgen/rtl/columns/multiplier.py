# SPDX-License-Identifier: Apache-2.0
"""Columns of one multiplier a cell, which becomes a DSP block: for a unit alone, to compare with.

No accelerator has them: two columns of 8 bits share a DSP block (:mod:`hwgen.rtl.columns.dual`),
narrower ones need none (:mod:`hwgen.rtl.columns.digits`).
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Const, Module, Mux, Signal, Value, signed

from hwgen.rtl.columns.base import Columns, Leaf


@dataclass(frozen=True)
class MultiplierColumns(Columns):
    """Any width of weights; at one bit a set bit is -1."""

    @property
    def latency(self) -> int:
        """Activation, product, sum."""
        return 3

    @property
    def name(self) -> str:
        """By rows and width."""
        return f"multiplier_r{self.rows}_w{self.weight_bits}"

    def leaf(self) -> Leaf:
        """A cascade of multipliers."""
        return MultiplierColumn(self)


class MultiplierColumn(Leaf):
    """The leaf: activation, product and sum are registers of the DSP block."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.columns.weight_bits
        shape = self.columns.sum_shape
        previous: Value = Const(0, shape)
        for p in range(self.rows):
            active = self.weight(m, p)
            held = Signal(signed(9), name=f"activation_{p}", reset_less=True)
            product = Signal(signed(9 + max(bits, 2) - 1), name=f"product_{p}", reset_less=True)
            total = Signal(shape, name=f"sum_{p}", reset_less=True)
            m.d.sync += held.eq(self.activation.word_select(p, 9))
            if bits == 1:
                m.d.sync += product.eq(Mux(active, -held, held))
            else:
                m.d.sync += product.eq(held * active.as_signed())
            m.d.sync += total.eq(previous + product)
            previous = total
        m.d.comb += self.total.eq(previous)
        return m
