# SPDX-License-Identifier: Apache-2.0
"""Column groups of the array: what kinds of columns there are, and how a design is made of them.

A *group* is a number of neighbouring columns of one kind and weight width. A layer runs on a prefix
of the groups: all columns that are wide enough, or all columns, the weights cut into slices.
Attention, whose stationary operand is activations, runs on columns of 8 bits; the columns of a
*paired* group are two of 4 bits to every one of them: an 8-bit value is 16 times its upper nibble
and the lower one's carry, plus the lower nibble. No hardware here: :mod:`hwgen.rtl.columns` has a
leaf for every kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwgen.errors import ConfigError
from hwgen.numerics.requantise import BIASED_BITS

#: Groups of an array: as many as an instruction has fields for.
MAXIMUM_GROUPS = 4
#: Columns of a group.
MAXIMUM_COLUMNS = 1024
#: Rows that share one register stage of the weight broadcast, where a kind does not say others.
BROADCAST_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class ColumnKind:
    """A way to build a column."""

    name: str
    doc: str
    weight_bits: tuple[int, ...]  #: legal widths, ascending
    dsp_share: float = 0.0  #: DSP blocks of a cell
    columns_step: int = 2  #: their number is a multiple of it
    clk2x: bool = False  #: whether its DSP blocks run at twice the clock
    rows_step: int = 1  #: rows of a cascade that activations enter in a cycle; divides the rows
    rows_multiple: int = 1  #: the number of rows is a multiple of it
    slices: bool = True  #: whether its narrow columns run wider layers by weight slices
    broadcast_rows: int = BROADCAST_ROWS  #: rows that share a register of the weight broadcast
    packing_bits: float = 0.0  #: bits of a weight in the broadcast beside its own


KINDS: Mapping[str, ColumnKind] = {
    kind.name: kind
    for kind in (
        ColumnKind(
            name="dual",
            doc="two columns in one cascade of DSP blocks",
            weight_bits=(8,),
            dsp_share=0.5,
        ),
        ColumnKind(
            name="pumped",
            doc="four columns in one cascade of DSP blocks that run at twice the clock",
            weight_bits=(8,),
            dsp_share=0.25,
            columns_step=4,
            clk2x=True,
            rows_step=2,
            rows_multiple=2,
            # Weights have a whole cycle to their block, and a register a pair of each stage.
            broadcast_rows=16,
            packing_bits=0.5,  # a pair as a multiplier's operand: 9 and 8
        ),
        ColumnKind(
            name="digits",
            doc="adders in the fabric that select multiples of the activation by the weight's"
            " radix-4 digits; one bit: -1 or +1",
            weight_bits=tuple(range(1, 9)),
        ),
        ColumnKind(
            name="tables",
            doc="sums of all subsets of four weights in LUT memories, looked up by each bit of four"
            " activations, and adders of three operands",
            weight_bits=tuple(range(2, 9)),
            rows_multiple=16,
            slices=False,
            # All weights come to one place, where the tables are made.
            broadcast_rows=1 << 10,
        ),
    )
}


#: Bits of a column that is half of a pair.
PAIRED_BITS = 4


@dataclass(frozen=True, order=True)
class ColumnGroup:
    """Neighbouring columns of one kind and width; ``dual:58:8`` in words, ``digits:12:4+4`` paired.

    Of a paired group the first half of the columns holds the lower nibbles of attention's operand,
    the second half the upper ones, in the same order.
    """

    kind: str
    columns: int
    weight_bits: int
    paired: bool = False

    def __post_init__(self) -> None:
        """Check every part.

        Raises:
            ConfigError: names the part, and the nearest legal value.
        """
        if self.kind not in KINDS:
            raise _refusal("kind of a column group", f"one of {', '.join(KINDS)}", self.kind, None)
        for name in ("columns", "weight_bits"):
            # type() and not isinstance: a JSON true is an int to Python.
            if type(getattr(self, name)) is not int:
                raise _refusal(f"{name} of a group", "an integer", getattr(self, name), None)
        if type(self.paired) is not bool:
            raise _refusal("paired of a group", "true or false", self.paired, None)
        step = self.columns_step
        if not step <= self.columns <= MAXIMUM_COLUMNS or self.columns % step:
            nearest = min(max(self.columns + -self.columns % step, step), MAXIMUM_COLUMNS)
            legal = "an even number" if step == 2 else f"a multiple of {step}"
            kind = "paired" if self.paired else self.kind
            what = "columns of a group" if step == 2 else f"columns of a {kind} group"
            raise _refusal(what, f"{legal} in {step}..{MAXIMUM_COLUMNS}", self.columns, nearest)
        legal_bits = KINDS[self.kind].weight_bits
        if self.weight_bits not in legal_bits:
            nearest = min(legal_bits, key=lambda bits: abs(bits - self.weight_bits))
            texts = [str(bits) for bits in legal_bits]
            legal = texts[0] if len(texts) == 1 else f"in {texts[0]}..{texts[-1]}"
            what = f"weight_bits of {self.kind} columns"
            raise _refusal(what, legal, self.weight_bits, nearest)
        if self.paired and self.weight_bits != PAIRED_BITS:
            texts = [str(self.weight_bits), str(PAIRED_BITS)]
            what = "weight_bits of a paired group"
            raise _refusal(what, texts[1], texts[0], f"{texts[1]}+{texts[1]}")
        if self.paired and not KINDS[self.kind].slices:
            raise _refusal("kind of a paired group", "digits", self.kind, "digits")

    @property
    def takes_slices(self) -> bool:
        """Whether its cells have a carry bit, for all slices of a wider weight but the lowest."""
        return KINDS[self.kind].slices and 2 <= self.weight_bits <= 7

    @property
    def cell_bits(self) -> int:
        """Bits that a cell stores: the weight, above it the carry where it takes slices."""
        return self.weight_bits + self.takes_slices

    @property
    def accumulator_bits(self) -> int:
        """Bits of a column's accumulator: as many fewer as its weights have than those of 8 bits.

        So all widths hold the same K: 4,095 int8 activations, whatever the values are. Slices add
        up to products of 8 bits.
        """
        return BIASED_BITS - (0 if self.takes_slices else 8 - self.weight_bits)

    @property
    def columns_step(self) -> int:
        """What their number is a multiple of; pairs are even in number."""
        return 4 if self.paired else KINDS[self.kind].columns_step

    @property
    def attention_columns(self) -> int:
        """Columns of 8 bits that attention has here."""
        if self.paired:
            return self.columns // 2
        return self.columns if self.weight_bits == 8 else 0

    @property
    def dsps(self) -> float:
        """DSP blocks of a row of its cells."""
        return self.columns * KINDS[self.kind].dsp_share

    def __str__(self) -> str:
        """As the command line takes it."""
        pair = f"+{self.weight_bits}" if self.paired else ""
        return f"{self.kind}:{self.columns}:{self.weight_bits}{pair}"

    @classmethod
    def parse(cls, text: str) -> ColumnGroup:
        """Inverse of ``str``.

        Raises:
            ConfigError: not of that form, or not legal.
        """
        form = r"(\w+):(\d{1,6}):(\d{1,6})(\+\3)?"
        if not (found := re.fullmatch(form, text.strip(), re.ASCII)):
            legal = "KIND:COLUMNS:BITS, as dual:58:8, or paired, as digits:12:4+4"
            raise _refusal("a column group", legal, text, None)
        kind, columns, bits, paired = found.groups()
        return cls(kind, int(columns), int(bits), paired is not None)


class Groups(tuple[ColumnGroup, ...]):
    """The groups of an array; ``dual:58:8,digits:70:4`` in words."""

    __slots__ = ()

    def __str__(self) -> str:
        """As the command line takes them."""
        return ",".join(map(str, self))

    @property
    def columns(self) -> int:
        """Columns of all groups."""
        return sum(group.columns for group in self)

    @property
    def accumulator_bits(self) -> list[int]:
        """Of every column, in order."""
        return [group.accumulator_bits for group in self for _ in range(group.columns)]

    @property
    def attention_columns(self) -> int:
        """Columns of 8 bits, which attention runs on: those of the first groups."""
        return sum(group.attention_columns for group in self)

    @property
    def paired_columns(self) -> range:
        """The columns of attention that are pairs: of their lower halves, the first ones."""
        start = sum(group.columns for group in self if group.weight_bits == 8)
        return range(start, self.attention_columns)

    @property
    def clk2x(self) -> bool:
        """Whether any of them needs a clock of twice the frequency."""
        return any(KINDS[group.kind].clk2x for group in self)


def dense(columns: int) -> Groups:
    """The groups of an array of 8-bit DSP columns only."""
    return Groups((ColumnGroup("dual", columns, 8),))


def check_groups(groups: object) -> None:
    """Refuse what no array may consist of.

    Raises:
        ConfigError: none or too many groups, or not from wide to narrow.
    """
    if not isinstance(groups, Groups) or not all(isinstance(g, ColumnGroup) for g in groups):
        raise _refusal("groups", "column groups", repr(groups), None)
    if not 1 <= len(groups) <= MAXIMUM_GROUPS:
        raise _refusal("groups", f"1..{MAXIMUM_GROUPS} column groups", groups, None)
    widths = [group.weight_bits for group in groups]
    if widths != sorted(widths, reverse=True):
        ordered = Groups(sorted(groups, key=lambda group: -group.weight_bits))
        legal = "in order of their weight_bits, the widest first"
        raise _refusal("groups", legal, groups, ordered)
    # Attention's columns are the first ones.
    place = sum(group.weight_bits == 8 for group in groups)
    pairs = [number for number, group in enumerate(groups) if group.paired]
    if pairs not in ([], [place]):
        legal = "with one paired group at most, next to those of 8 bits"
        raise _refusal("groups", legal, groups, None)
    # A cascade's columns lie in one strip, and strips are cut at multiples of many columns.
    order = sorted(groups, key=lambda group: not KINDS[group.kind].clk2x)
    if order != list(groups):
        legal = "in order, those at twice the clock in front of the others"
        raise _refusal("groups", legal, groups, Groups(order))
    if groups.columns > MAXIMUM_COLUMNS:
        raise _refusal("columns", f"at most {MAXIMUM_COLUMNS}", groups.columns, MAXIMUM_COLUMNS)


def parse_groups(text: str) -> Groups:
    """Groups from ``dual:58:8,digits:70:4``.

    Raises:
        ConfigError: not of that form, or not legal.
    """
    groups = Groups(ColumnGroup.parse(part) for part in text.split(","))
    check_groups(groups)
    return groups


def _refusal(name: str, legal: str, value: object, nearest: object) -> ConfigError:
    shown = str(value)[:80].encode("unicode_escape").decode()
    error = ConfigError(f"{name} must be {legal}, not {shown}", nearest=nearest)
    error.field = "groups"
    return error
