# SPDX-License-Identifier: Apache-2.0
"""What all kinds of columns have in common: what the array asks them, the ports of their leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from amaranth import Cat, Const, Module, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwgen.columns import BROADCAST_ROWS


@dataclass(frozen=True)
class Columns(ABC):
    """Columns of R rows of one kind and width: all that the array has to know of them."""

    rows: int
    weight_bits: int

    #: Columns of a leaf.
    width: ClassVar[int] = 1
    #: Rows that share one register of a cascade, and so one step of the skew.
    rows_per_stage: ClassVar[int] = 1
    #: Most rows of a cascade; those of a column's cascades are summed one behind the other. None:
    #: one cascade of all rows.
    cascade_rows: ClassVar[int | None] = None
    #: Rows that share one register stage of the weight broadcast.
    broadcast_rows: ClassVar[int] = BROADCAST_ROWS
    #: Whether leaves have a second clock of twice the frequency, ``clk2x``, with aligned edges.
    clk2x: ClassVar[bool] = False
    #: Whether the load enables come from registers: those of a block at ``clk2x`` must.
    registered_enables: ClassVar[bool] = False

    @property
    def cell_bits(self) -> int:
        """Bits that a cell stores of a weight."""
        return self.weight_bits

    @property
    def broadcast_stages(self) -> int:
        """Register stages of the weight broadcast."""
        return -(-self.rows // self.broadcast_rows)

    @property
    def packed_bits(self) -> int:
        """Bits of :meth:`packed`."""
        return self.width * self.cell_bits

    def packed(self, cells: Sequence[Value]) -> Value:
        """The cells of a leaf in a row, the first column's first, as the leaf takes them."""
        return Cat(cells)

    @property
    def code_bits(self) -> int:
        """Bits of an activation: 9 for -128..255, 8 for int8 alone."""
        return 9

    def int8_only(self) -> Columns:
        """The same columns for activations that are never uint8, where those cost less."""
        return self

    @property
    def cascades(self) -> tuple[range, ...]:
        """Chain rows of each cascade: as even as whole stages allow, the first ones longer."""
        step = self.rows_per_stage
        count = -(-self.rows // (self.cascade_rows or self.rows))
        size = -(-self.rows // (count * step)) * step
        return tuple(
            range(first, min(first + size, self.rows)) for first in range(0, self.rows, size)
        )

    @property
    def ends(self) -> tuple[int, ...]:
        """Skew of each cascade's last stage: at least one cycle more than that of the one before.

        No row swaps its weights before the broadcast has brought them, when the first row of the
        pass enters in the cycle after the last weights were given.
        """
        ends: list[int] = []
        for rows in self.cascades:
            stages = -(-len(rows) // self.rows_per_stage)
            end = max(stages - 1, ends[-1] + 1 if ends else 0)
            for k, p in enumerate(rows):
                arrival = p // self.broadcast_rows + 1 - (self.rows - 1 - p)
                end = max(end, arrival + stages - 1 - k // self.rows_per_stage)
            ends.append(end)
        return tuple(ends)

    @property
    def skew(self) -> tuple[int, ...]:
        """Cycles that each chain row's activations and swap are behind the entry of their row."""
        step = self.rows_per_stage
        return tuple(
            end - (-(-len(rows) // step) - 1) + k // step
            for rows, end in zip(self.cascades, self.ends, strict=True)
            for k in range(len(rows))
        )

    @property
    @abstractmethod
    def latency(self) -> int:
        """Cycles from the activation of the last chain row to ``total``."""

    @property
    def delay(self) -> int:
        """Cycles from the entry of a row of activations to ``total``."""
        return self.skew[-1] + self.latency

    @property
    def sum_shape(self) -> Shape:
        """Width of a column's sum: R products of an activation and a weight of W bits.

        Activations are below 2^8 in size, cells 2^(W-1) at most, so the sum is below 2^(W+7) R.
        With int8 alone it is 2^(W+6) R at most, which is reached (all -128 and -2^(W-1)) and takes
        as many bits.
        """
        return signed(9 + max(self.weight_bits, 2) - 1 + ceil_log2(self.rows))

    @property
    def activation_bits(self) -> int:
        """Bits of the activations as a leaf takes them."""
        return self.code_bits * self.rows

    @property
    @abstractmethod
    def name(self) -> str:
        """The end of the names of Verilog modules; equal columns have equal names."""

    @property
    def module(self) -> str:
        """Verilog module name of the leaf; one module serves all columns of an array."""
        return f"hwgen_column_{self.name}"

    @abstractmethod
    def leaf(self) -> Leaf:
        """The leaf."""

    def synthesis_leaf(self) -> Leaf | None:
        """What synthesis for DSP48E2 takes in its place, if it is another one."""
        return None

    def shared(self, activations: Sequence[Value]) -> list[Value] | None:
        """What a strip of columns registers once and gives to all its leaves, by chain row.

        None: each leaf takes the skewed activations and registers them itself.
        """
        return None

    @property
    def control_bits(self) -> int:
        """Bits of :meth:`control`."""
        return 0

    def control(self, m: Module, enables: Value, swap: Value) -> Value:
        """What a strip makes of the load enables and swaps of all chain rows, once for all leaves.

        Of :attr:`control_bits` bits; aligned with what :meth:`shared` gives.
        """
        del m, enables, swap
        return Const(0, 0)


@dataclass(frozen=True)
class FabricColumns(Columns):
    """Columns without multipliers, which cost less where activations are never uint8."""

    unsigned: bool = field(default=True, kw_only=True)

    @property
    def code_bits(self) -> int:
        """9 for -128..255, 8 for int8."""
        return 8 + self.unsigned

    @property
    def largest_code(self) -> int:
        """Largest magnitude of an activation."""
        return 255 if self.unsigned else 128

    def int8_only(self) -> Columns:
        """With an activation's bit less."""
        return replace(self, unsigned=False)


class Leaf(wiring.Component):
    """Ports of every leaf: R multiply-accumulate cells in a cascade, weights double-buffered.

    ``weight_in`` holds the cells of a row for every stage of the weight broadcast, the
    first column's lower, as :meth:`Columns.packed` makes them; ``weight_enable[p]`` loads the
    shadow registers of chain row p from its stage's; ``swap[p]`` copies them to the active ones in
    the cycle in which chain row p registers the first activation of a pass. ``activation``: skewed,
    :attr:`Columns.code_bits` per chain row, signed (9 bits: -128..255), or what
    :meth:`Columns.shared` makes of them, registered. ``total`` holds the sums, the first column's
    lower, :attr:`Columns.latency` cycles after the activation of the last chain row. One row of
    activations a cycle; no back-pressure. ``clk2x`` where :attr:`Columns.clk2x`; ``control`` where
    :meth:`Columns.control` says something.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.rows = rows = columns.rows
        shape = columns.sum_shape
        super().__init__(
            {
                "activation": In(columns.activation_bits),
                "swap": In(rows),
                "weight_in": In(columns.packed_bits * columns.broadcast_stages),
                "weight_enable": In(rows),
                **({"control": In(columns.control_bits)} if columns.control_bits else {}),
                **({"clk2x": In(1)} if columns.clk2x else {}),
                "total": Out(
                    shape if columns.width == 1 else unsigned(columns.width * shape.width)
                ),
            }
        )

    def weight(self, m: Module, p: int, column: int = 0) -> Signal:
        """The active cell of chain row p, behind its shadow register."""
        bits, width = self.columns.cell_bits, self.columns.width
        name = f"{p}" if width == 1 else f"{column}_{p}"
        shadow = Signal(bits, name=f"shadow_{name}", reset_less=True)
        active = Signal(bits, name=f"active_{name}", reset_less=True)
        stage = p // self.columns.broadcast_rows
        given = self.weight_in.word_select(stage * width + column, bits)
        with m.If(self.weight_enable[p]):
            m.d.sync += shadow.eq(given)
        with m.If(self.swap[p]):
            m.d.sync += active.eq(shadow)
        return active
