# SPDX-License-Identifier: Apache-2.0
"""Columns of tables: distributed arithmetic (Croisier et al. 1973; White, IEEE ASSP Magazine 1989).

Four rows make a *group*. A group's table holds the sums of all 16 subsets of its four weights; bit
b of the four activations is an address, and what lies there, times 2^b and summed over the eight
bits, is what the group adds to the column. A weight of any width so takes a look-up of each
bit of the activations and eight additions for four rows, not four multiplications: 4-bit columns
take two thirds of the LUTs that digits take, 8-bit columns half.

The eight tables of a group are equal and lie in LUT memories of 32 words, one half of which is read
while the other is written: the tables of the pass in the array and of the next. They are filled by
*generators*, four a column, that walk through the subsets in the order of Gray's code with one
addition or subtraction a cycle; group g belongs to generator g mod 4, so that a row of weights can
come in every cycle. What steers generators and memories is the same for all columns of a strip.

Three additions by adders of three operands stand in front of a first register (bits 0..2; 3..5; 6,
7 and the group above), one in front of a second: two cycles a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed

from hwgen.columns import KINDS
from hwgen.rtl.columns.base import FabricColumns, Leaf
from hwgen.rtl.columns.fabric import add_three, memories
from hwgen.rtl.pipeline import lookup, register

#: Rows of a table.
GROUP_ROWS = 4
#: Entries of a table, and cycles in which a generator fills it.
ENTRIES = 1 << GROUP_ROWS
#: Generators of a column: rows come one a cycle, a group in GROUP_ROWS.
GENERATORS = ENTRIES // GROUP_ROWS
#: Bits of an activation that are looked up; a ninth one only says that the eighth is negative.
PLANES = 8
#: Cycles from a group to the next: two registers.
GROUP_CYCLES = 2
#: Planes that one adder takes.
_OPERANDS = 3


@dataclass(frozen=True)
class TableColumns(FabricColumns):
    """Weights of 2 to 8 bits, two's complement; the number of rows is a multiple of 16."""

    weight_bits: int

    broadcast_rows: ClassVar[int] = KINDS["tables"].broadcast_rows

    @property
    def groups(self) -> int:
        """Tables of a plane."""
        return self.rows // GROUP_ROWS

    @property
    def entry_bits(self) -> int:
        """Bits of an entry: four weights are -2^(W+1) at least, and less than that at most."""
        return self.weight_bits + 2

    @property
    def group_skew(self) -> tuple[int, ...]:
        """Skew of every group.

        Two cycles behind the group above, and as late as its table: its last row is given R - 4 -
        4 g cycles before the last one of all, and the first row of the pass may enter in the cycle
        after that. It is at most 4 g + 5, so that the table of a group is read for the last time
        before the next but one is written.
        """
        skew: list[int] = []
        for g in range(self.groups):
            filled = ENTRIES - (self.rows - GROUP_ROWS - GROUP_ROWS * g)
            skew.append(max(skew[-1] + GROUP_CYCLES if skew else 0, filled))
        return tuple(skew)

    @property
    def skew(self) -> tuple[int, ...]:
        """The rows of a group enter together."""
        return tuple(cycles for cycles in self.group_skew for _ in range(GROUP_ROWS))

    @property
    def latency(self) -> int:
        """The strip's register, and two of a group."""
        return 1 + GROUP_CYCLES

    @property
    def name(self) -> str:
        """By rows, width and activations."""
        return f"tables_r{self.rows}_w{self.weight_bits}{'s' * (not self.unsigned)}"

    def leaf(self) -> Leaf:
        """With multipliers, for simulation and other chips."""
        return TableTwin(self)

    def synthesis_leaf(self) -> Leaf:
        """In primitives of the fabric."""
        return TableColumn(self)

    @property
    def activation_bits(self) -> int:
        """The codes and, where they may be uint8, a bit for every group."""
        return self.code_bits * self.rows + self.unsigned * self.groups

    def shared(self, activations: Sequence[Value]) -> list[Value]:
        """The activations; above them whether a group's eighth bit counts negative.

        It does where any code has the sign for it. Without one it is 0 in all of them, or none is
        signed.
        """
        negative = []
        if self.unsigned:
            for first in range(0, self.rows, GROUP_ROWS):
                codes = activations[first : first + GROUP_ROWS]
                negative.append(Cat(value[8] for value in codes).any())
        return [*activations, *negative]

    def sum_bits(self, group: int) -> int:
        """Bits of the sum of all groups down to one."""
        rows = GROUP_ROWS * (group + 1)
        return int((rows * self.largest_code << self.weight_bits - 1).bit_length() + 1)

    @property
    def control_bits(self) -> int:
        """Bits of :meth:`control`."""
        steps = GENERATORS * (2 + 1 + GROUP_ROWS)
        return GROUP_ROWS - 1 + GENERATORS + steps + 3 * self.groups

    def control(self, m: Module, enables: Value, swap: Value) -> Value:
        """What all columns of a strip need in common, as :class:`Control` takes it apart."""
        groups = range(self.groups)
        capture = [
            Cat(enables[GROUP_ROWS * g + k] for g in groups).any() for k in range(GROUP_ROWS - 1)
        ]
        complete = [enables[GROUP_ROWS * (g + 1) - 1] for g in groups]
        load = [Cat(complete[k::GENERATORS]).any() for k in range(GENERATORS)]
        steps: list[Value] = []
        writing = Signal(self.groups, name="writing")
        for k in range(GENERATORS):
            count = Signal(range(ENTRIES), name=f"entry_{k}", reset_less=True)
            m.d.sync += count.eq(Mux(load[k], 0, count + 1))
            gray = [entry ^ entry >> 1 for entry in range(ENTRIES)]
            # The weight that the next entry has more, or less.
            changed = [
                (gray[entry] ^ gray[(entry + 1) % ENTRIES]).bit_length() - 1
                for entry in range(ENTRIES)
            ]
            less = [gray[entry] >> changed[entry] & 1 for entry in range(ENTRIES)]
            steps += [
                lookup(changed, 2, count),
                lookup(less, 1, count),
                lookup(gray, GROUP_ROWS, count),
            ]
            for g in groups[k::GENERATORS]:
                with m.If(complete[g]):
                    m.d.sync += writing[g].eq(1)
                with m.Elif(count == ENTRIES - 1):
                    m.d.sync += writing[g].eq(0)
        half = Signal(self.groups, name="half")  # that is read
        other = Signal(self.groups, name="other_half", init=-1)
        for g in groups:
            with m.If(swap[GROUP_ROWS * g]):
                m.d.sync += [half[g].eq(~half[g]), other[g].eq(half[g])]
        return Cat(*capture, *load, *steps, writing, half, other)


class Control:
    """The parts of :meth:`TableColumns.control`."""

    def __init__(self, columns: TableColumns, control: Value) -> None:
        place = 0

        def take(bits: int) -> Value:
            nonlocal place
            place += bits
            return control[place - bits : place]

        self.capture = take(GROUP_ROWS - 1)  #: row k of a group comes; the last one is not kept
        self.load = take(GENERATORS)  #: generator k has its weights: the last row comes
        #: Per generator: which weight changes, whether it is subtracted, and the entry's address.
        self.steps = [(take(2), take(1), take(GROUP_ROWS)) for _ in range(GENERATORS)]
        self.writing = take(columns.groups)  #: the table of group g is written
        self.half = take(columns.groups)  #: half of its memory that is read,
        self.other = take(columns.groups)  #: and the other one


class TableTwin(Leaf):
    """The leaf in plain logic: a multiplier a cell, two registers a group.

    Weights are kept three cycles before they reach their shadow registers, as a table keeps what it
    holds while its group's new weights come.
    """

    columns: TableColumns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self.columns
        bits, code = columns.weight_bits, columns.code_bits
        enable, word = self.weight_enable, self.weight_in
        for d in range(3):
            enable = register(m, enable, f"late_enable_{d}")
            word = register(m, word, f"late_weight_{d}")
        chain: Value = Const(0, signed(1))
        for g in range(columns.groups):
            products = []
            for p in range(GROUP_ROWS * g, GROUP_ROWS * (g + 1)):
                shadow = Signal(bits, name=f"shadow_{p}", reset_less=True)
                active = Signal(bits, name=f"active_{p}", reset_less=True)
                with m.If(enable[p]):
                    m.d.sync += shadow.eq(word)
                with m.If(self.swap[p]):
                    m.d.sync += active.eq(shadow)
                held = self.activation.word_select(p, code).as_signed()
                products.append(held * active.as_signed())
            chain = _waited(m, columns, g, chain)
            size = columns.sum_bits(g)
            for d in range(GROUP_CYCLES):
                total = Signal(signed(size), name=f"sum_{g}_{d}", reset_less=True)
                m.d.sync += total.eq(sum(products, chain) if d == 0 else chain)
                chain = total
        m.d.comb += self.total.eq(chain)
        return m


class TableColumn(Leaf):
    """The leaf of tables and adders of three operands."""

    columns: TableColumns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self.columns
        control = Control(columns, self.control)
        entries = self._generators(m, control)
        pairs = -(-columns.entry_bits // 2)
        code = columns.code_bits
        chain: Value | None = None
        for g in range(columns.groups):
            codes = [self.activation.word_select(GROUP_ROWS * g + k, code) for k in range(4)]
            generator = g % GENERATORS
            entry = entries[generator]
            data = [entry[2 * i : 2 * i + 2] for i in range(pairs)]
            data[-1] = Cat(data[-1], Const(0, 2))[:2]
            address = control.steps[generator][2]
            read = memories(
                m,
                f"table_{g}",
                write_enable=control.writing[g],
                write_address=Cat(address, control.other[g]),
                write_data=data * PLANES,
                read_addresses=[
                    Cat(*(value[b] for value in codes), control.half[g])
                    for b in range(PLANES)
                    for _ in range(pairs)
                ],
            )
            found = [
                Cat(read[b * pairs : (b + 1) * pairs])[: columns.entry_bits] for b in range(PLANES)
            ]
            negative = self.activation[code * self.rows + g] if columns.unsigned else Const(1, 1)
            chain = self._group(m, g, found, chain, negative)
        assert chain is not None
        m.d.comb += self.total.eq(chain.as_signed())
        return m

    def _generators(self, m: Module, control: Control) -> list[Value]:
        """The entry of every generator, in the order of Gray's code."""
        columns, bits = self.columns, self.columns.weight_bits
        kept = []
        for k in range(GROUP_ROWS - 1):
            weight = Signal(bits, name=f"kept_{k}", reset_less=True)
            with m.If(control.capture[k]):
                m.d.sync += weight.eq(self.weight_in)
            kept.append(weight)
        entries: list[Value] = []
        for k, (changed, less, _) in enumerate(control.steps):
            weights = [
                Signal(bits, name=f"weight_{k}_{row}", reset_less=True) for row in range(GROUP_ROWS)
            ]
            entry = Signal(signed(columns.entry_bits), name=f"entry_{k}", reset_less=True)
            low, high = changed  # the weight's index
            chosen = Mux(high, Mux(low, weights[3], weights[2]), Mux(low, weights[1], weights[0]))
            # In plain logic synthesis takes wide multiplexers for the choice: twice the LUTs.
            operands = (entry, Const(0, 1), Value.cast(chosen))
            m.d.sync += entry.eq(
                add_three(m, f"next_{k}", operands, columns.entry_bits, subtract=less)
            )
            with m.If(control.load[k]):
                m.d.sync += entry.eq(0)
                m.d.sync += [w.eq(v) for w, v in zip(weights, [*kept, self.weight_in], strict=True)]
            entries.append(entry)
        return entries

    def _group(
        self, m: Module, g: int, found: Sequence[Value], chain: Value | None, negative: Value
    ) -> Value:
        """Adds what the planes of a group found to the sum of the groups above."""
        columns = self.columns
        bits, size = columns.entry_bits, columns.sum_bits(g)
        partial = []
        for first in range(0, PLANES - 2, _OPERANDS):
            low, middle, high = found[first : first + _OPERANDS]
            # Bit 0 is the first operand's alone.
            total = add_three(
                m,
                f"three_{g}_{first}",
                (low[1:], middle, Cat(Const(0, 1), high)),
                bits + _OPERANDS - 1,
            )
            partial.append(register(m, Cat(low[0], total), f"planes_{g}_{first}"))
        above: Value = Const(0, 1)
        if chain is not None:
            above = _waited(m, columns, g, chain)
        shift = PLANES - 2
        upper = add_three(
            m,
            f"last_{g}",
            (_signed_slice(above, shift), found[-2], Cat(Const(0, 1), found[-1])),
            size - shift,
            subtract=negative,
        )
        lower = Cat(above, Const(0, shift))[:shift]
        summed = register(m, Cat(lower, upper), f"planes_{g}_{shift}")
        first, second = partial
        total = add_three(
            m,
            f"group_{g}",
            (first, Cat(Const(0, _OPERANDS), second), summed),
            size,
        )
        return register(m, total, f"sum_{g}")


def _signed_slice(value: Value, first: int) -> Value:
    """A signed value without its lowest bits."""
    return value[first:] if len(value) > first else Const(0, 1)


def _waited(m: Module, columns: TableColumns, g: int, chain: Value) -> Value:
    """The sum of the groups above when group g adds to it."""
    skew = columns.group_skew
    for d in range(skew[g] - skew[g - 1] - GROUP_CYCLES if g else 0):
        stage = Signal(chain.shape(), name=f"wait_{g}_{d}", reset_less=True)
        m.d.sync += stage.eq(chain)
        chain = stage
    return chain
