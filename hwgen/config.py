# SPDX-License-Identifier: Apache-2.0
"""The one configuration object: drives RTL, compiler, reference and models.

Everything that is a property of the hardware stands here once; derived widths are properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from math import gcd
from typing import Annotated, Any

from pydantic import AfterValidator, GetPydanticSchema, PlainValidator, with_config

from hwgen.columns import (
    KINDS,
    MAXIMUM_COLUMNS,
    ColumnGroup,
    Groups,
    check_groups,
    dense,
)
from hwgen.errors import ConfigError
from hwgen.numerics.fractional_softmax import (
    DIVIDER_BITS,
    DIVIDER_BITS_MAXIMUM,
    DIVIDER_BITS_MINIMUM,
    EXPONENT_FRACTION_BITS,
    EXPONENT_FRACTION_BITS_MAXIMUM,
)
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction
from hwgen.reading import STRICT, check_stated, validate

#: Roles of the activation memory's banks, in the order of their numbers. Each is a memory of its
#: own with one read and one write port; the compiler places every tensor by its role so that
#: concurrent engines use different banks.
BANK_ROLES: tuple[str, ...] = (
    "residual",  # int16 residual stream; head logits
    "normalised",  # LayerNorm outputs
    "query",  # q; attention output
    "key_value",  # k, v
    "scores0",  # attention logits and codes, ping
    "scores1",  # attention logits and codes, pong
    "hidden",  # image patches; GELU outputs; pooled row
)


#: Words of the flattest block RAM, whole bytes wide; a slice is a power of two of them, up to the
#: depth of the narrowest.
BLOCK_WORDS = 512
_LARGEST_SLICE = 64 * BLOCK_WORDS
#: As many words a LUT chooses among.
_MOST_SLICES = 4


def bank_slices(words: int) -> tuple[int, ...]:
    """Depths of the slices that a bank of so many words consists of, the deepest first.

    Left to themselves synthesisers stack many shallow block RAMs and choose among them in LUTs. A
    byte is as dense in deep, narrow blocks as in flat ones, so powers of two make up the depth in
    equally many blocks. Where they were more than :data:`_MOST_SLICES`, the memory is rounded up to
    fewer.
    """
    exact = -(-words // BLOCK_WORDS)
    blocks, largest = exact, _LARGEST_SLICE // BLOCK_WORDS
    while blocks // largest + (blocks % largest).bit_count() > _MOST_SLICES and blocks % largest:
        blocks += blocks & -blocks
    depths = [_LARGEST_SLICE] * (blocks // largest)
    depths += [BLOCK_WORDS << bit for bit in range(5, -1, -1) if blocks % largest >> bit & 1]
    if blocks == exact:
        depths[-1] -= BLOCK_WORDS * blocks - words
    return tuple(depths)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Meaning of a field of the configuration, and the values that it may have by itself."""

    doc: str
    low: int
    high: int
    power_of_two: bool = False
    even: bool = False
    flag: bool = False  #: false or true: ``low`` is 0, ``high`` 1

    @property
    def legal(self) -> str:
        """The legal values in words: ``in 1..6``, ``8, 16, 32 or 64``, ``true or false``."""
        if self.flag:
            return "true or false"
        if not self.power_of_two:
            return f"{'an even number ' if self.even else ''}in {self.low}..{self.high}"
        values = self.powers()
        if len(values) > 4:
            return f"a power of two in {self.low}..{self.high}"
        return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"

    def powers(self) -> tuple[int, ...]:
        """The powers of two in the range."""
        return tuple(1 << k for k in range(self.high.bit_length()) if self.low <= 1 << k)

    def nearest(self, value: int) -> int:
        """The legal value next to ``value``, itself if it is one; the smaller of two."""
        if self.power_of_two:
            return min(self.powers(), key=lambda power: (abs(power - value), power))
        nearest = min(max(value, self.low), self.high)
        return nearest - nearest % 2 if self.even else nearest


def _parameter(default: Any, doc: str, low: int, high: int, *, power_of_two: bool = False) -> Any:
    parameter = Parameter(doc=doc, low=low, high=high, power_of_two=power_of_two)
    return field(default=default, metadata={"parameter": parameter})


def _flag(default: bool, doc: str) -> Any:
    parameter = Parameter(doc=doc, low=0, high=1, flag=True)
    return field(default=default, metadata={"parameter": parameter})


def aligned_columns(rows: int) -> tuple[int, ...]:
    """Numbers of columns whose tiles begin and end with a half or a whole word, ascending.

    With them DRAIN rotates nothing; a tile of V has one of them.
    """
    return (rows // 2, *range(rows, MAXIMUM_COLUMNS + 1, rows))


#: A small array.
_USUAL_GROUPS = dense(16)


def _group(text: object) -> ColumnGroup:
    if not isinstance(text, str):
        raise ValueError('a column group, as "dual:16:8"')
    return ColumnGroup.parse(text)


#: Groups as a file has them.
_GroupTexts = Annotated[
    tuple[Annotated[ColumnGroup, PlainValidator(_group)], ...], AfterValidator(Groups)
]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Everything that decides the hardware; :data:`PARAMETERS` says what each field is.

    Beside the ranges of the fields there are rules between them: attention is 8 x 8 bits, and has
    ``rows / 2`` columns of 8 bits or more, some of which may be pairs of 4 bits; requantise lanes
    make half a word of bytes a cycle or a whole one, LAYERNORM takes a quarter of an int16 word a
    cycle, half of one or a whole one; lanes are not rotated only where V and some layers need no
    rotation; a read FIFO holds two bursts, the constant FIFO two tiles.
    """

    rows: int = _parameter(
        16, "rows of the array (reduction); bytes of an activation word", 16, 128, power_of_two=True
    )
    groups: Annotated[Groups, GetPydanticSchema(lambda _, schema: schema(_GroupTexts))] = (
        _USUAL_GROUPS
    )
    requantise_lanes: int = _parameter(
        0,
        "requantise lanes: accumulators that DRAIN takes a cycle, rows / 2 or rows",
        8,
        128,
        power_of_two=True,
    )
    layernorm_lanes: int = _parameter(
        0,
        "channels that LAYERNORM takes a cycle, rows / 8, rows / 4 or rows / 2",
        4,
        64,
        power_of_two=True,
    )
    rotation: bool = _flag(
        True,
        "whether DRAIN rotates its lanes, so that tiles may end anywhere in a word; without, layers"
        " run on columns that are whole segments of requantise_lanes only",
    )
    softmax_vec: int = _parameter(
        32,
        "lanes of the softmax: logits in a slice (part of the function in mode sole)",
        8,
        64,
        power_of_two=True,
    )
    softmax_fractional: bool = _flag(
        DEFAULT_FUNCTION.has_shifts, "mode of the softmax: fractional, else sole"
    )
    exponent_fraction_bits: int = _parameter(
        EXPONENT_FRACTION_BITS,
        "fraction bits of the softmax's exponents, mode fractional",
        0,
        EXPONENT_FRACTION_BITS_MAXIMUM,
    )
    divider_bits: int = _parameter(
        DIVIDER_BITS,
        "bits of the softmax's divider, mode fractional",
        DIVIDER_BITS_MINIMUM,
        DIVIDER_BITS_MAXIMUM,
    )
    max_row_length: int = _parameter(
        256, "longest softmax row (bytes: tokens, and what words hold beside them)", 2, 4095
    )
    max_channels: int = _parameter(256, "widest LayerNorm (channels)", 8, 4095)
    tile_rows: int = _parameter(
        64, "depth of an accumulator bank: most tokens of a matrix multiplication", 2, 4095
    )
    bank_words: tuple[int, ...] = _parameter(
        (64,) * len(BANK_ROLES),
        f"words of each bank of the activation memory ({', '.join(BANK_ROLES)})",
        1,
        1 << 17,
    )
    memory_ports: int = _parameter(1, "AXI4 masters of 128 bits", 1, 6)
    read_fifo_beats: int = _parameter(
        512,
        "prefetch FIFO of a memory port, beats of 16 bytes, two bursts or more",
        2,
        1 << 14,
        power_of_two=True,
    )
    constant_fifo_beats: int = _parameter(
        128,
        "per-column constants in flight, beats of all ports together, two tiles or more",
        3,
        1 << 14,
    )
    burst_beats: int = _parameter(16, "longest AXI burst, beats", 1, 256, power_of_two=True)
    outstanding: int = _parameter(16, "AXI read bursts in flight on a port", 1, 64)
    queue_depth: int = _parameter(8, "instructions in an engine's queue", 2, 64)
    instruction_check: bool = _flag(
        True, "nothing is dispatched of an instruction whose CRC is wrong"
    )
    clock_mhz: int = _parameter(300, "clock, MHz", 1, 1000)

    def __post_init__(self) -> None:
        """Check every type and range; the message says what is legal, and the nearest value.

        Lanes that are not said are ``rows / 2``.

        Raises:
            ConfigError: its ``field`` names the field that is not legal.
        """
        for name in _LANES:
            _check_type(name, getattr(self, name))
            if getattr(self, name) == 0:
                check_parameter("rows", PARAMETERS["rows"], self.rows)
                object.__setattr__(self, name, self.rows // 2)
        for name, parameter in PARAMETERS.items():
            if name in _DEPENDENT:
                _check_type(name, getattr(self, name))
            else:
                check_parameter(name, parameter, getattr(self, name))
        check_groups(self.groups)
        least = aligned_columns(self.rows)[0]  # of a tile of V
        if self.attention_columns < least:
            legal = f"at least {least} columns of 8 bits with {self.rows} rows"
            group, rest = self.groups[0], self.groups[1:]
            if group.weight_bits == 8:
                columns = group.columns + least - self.attention_columns
                columns += -columns % group.columns_step
                nearest = Groups((ColumnGroup(group.kind, columns, 8), *rest))
            else:
                nearest = Groups((*dense(least), *self.groups))
            raise _refusal("groups", legal, self.groups, nearest)
        for name in _LANES:
            legal_lanes = lanes_of(name, self.rows)
            if (lanes := getattr(self, name)) not in legal_lanes:
                *few, most = map(str, legal_lanes)
                legal = f"{', '.join(few)} or {most} with {self.rows} rows"
                nearest_lanes = min(legal_lanes, key=lambda legal: abs(legal - lanes))
                raise _refusal(name, legal, lanes, nearest_lanes)
        if not self.rotation and not self._rotates_nothing():
            legal = "true where V, K or every layer ends within a segment of"
            raise _refusal("rotation", f"{legal} {self.requantise_lanes} columns", False, True)
        self._check_fifo("read_fifo_beats", "two bursts", 2 * self.burst_beats)
        self._check_fifo("constant_fifo_beats", "two tiles", 2 * self.constant_beats)

    def _rotates_nothing(self) -> bool:
        """Whether V, K and, on some columns, layers are whole segments of the requantise lanes."""
        tiles = [self.value_columns]
        if self.word_keys == self.rows:  # else every tile of K begins a word
            tiles.append(self.attention_columns)
        lanes = self.requantise_lanes
        return not any(n % lanes for n in tiles) and any(n % lanes == 0 for n in self.prefixes)

    def _check_fifo(self, name: str, what: str, least: int) -> None:
        value, parameter = getattr(self, name), PARAMETERS[name]
        least = max(least, parameter.low)
        if (nearest := max(parameter.nearest(value), least)) != value:
            legal = parameter.legal if value > least else f"at least {least} ({what})"
            raise _refusal(name, legal, value, nearest)

    @property
    def columns(self) -> int:
        """Columns of the array: output channels of a tile on all groups."""
        return self.groups.columns

    @property
    def clk2x(self) -> bool:
        """Whether there is a second clock of twice ``clock_mhz``, for DSP blocks."""
        return self.groups.clk2x

    @property
    def dsp_clock_mhz(self) -> int:
        """Clock of the array's DSP blocks, MHz."""
        return 2 * self.clock_mhz if self.clk2x else self.clock_mhz

    @property
    def clocks(self) -> str:
        """The clocks in words; both are assumptions, nothing is placed."""
        dsp = f", DSP blocks {self.dsp_clock_mhz} MHz" if self.clk2x else ""
        return f"{self.clock_mhz} MHz{dsp}"

    @property
    def array_depth(self) -> int:
        """Cycles in which a row of activations has entered all rows of the slowest DSP columns.

        One a row; where several enter in a cycle the first is alone.
        """
        kinds = [KINDS[group.kind] for group in self.groups]
        step = min((kind.rows_step for kind in kinds if kind.dsp_share), default=1)
        return 1 + (self.rows - 1 + step - 1) // step

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Columns of the first group, of the first two, ...: what a layer may run on."""
        return tuple(accumulate(group.columns for group in self.groups))

    @property
    def attention_columns(self) -> int:
        """Columns of 8 bits, which attention runs on: those of the first groups, then pairs."""
        return self.groups.attention_columns

    @property
    def value_columns(self) -> int:
        """Columns of a tile whose stationary operand is V: whole or half words of it."""
        return max(n for n in aligned_columns(self.rows) if n <= self.attention_columns)

    @property
    def word_keys(self) -> int:
        """Keys of a word of attention logits: ``rows``, or fewer if a tile has fewer columns.

        Tiles that ended inside words would be two chunks each to DRAIN, and their rows of two words
        take twice the cycles of a pass. Not in mode sole, where slices are part of the function.
        """
        columns = self.attention_columns
        apart = self.rows // 2 < columns < self.rows and self.softmax_vec <= self.rows
        return columns if apart and self.softmax_fractional else self.rows

    def row_length(self, tokens: int) -> int:
        """Bytes from the first to the last of a row of attention logits."""
        words = -(-tokens // self.word_keys)
        return tokens + (words - 1) * (self.rows - self.word_keys)

    @property
    def unsigned_columns(self) -> int:
        """Columns that take uint8 activations, the softmax's codes: groups that V reaches."""
        pairs = max(0, self.value_columns - self.groups.paired_columns.start)
        reached = self.value_columns + (pairs and len(self.groups.paired_columns))
        return next(columns for columns in self.prefixes if columns >= reached)

    @property
    def slice_widths(self) -> tuple[int, ...]:
        """Left shifts between weight slices that the accumulators can do."""
        return tuple(sorted({g.weight_bits for g in self.groups if g.takes_slices}))

    @property
    def int16_channels(self) -> int:
        """int16 channels of an activation word."""
        return self.rows // 2

    def word_channels(self, *, wide: bool) -> int:
        """Channels of an activation word; ``wide``: of int16."""
        return self.int16_channels if wide else self.rows

    def chunk_channels(self, *, wide: bool) -> int:
        """Channels that DRAIN makes at a time: as many of a word as it has lanes."""
        return min(self.requantise_lanes, self.word_channels(wide=wide))

    @property
    def segments(self) -> int:
        """Segments of the array: ``requantise_lanes`` columns each, the last one perhaps fewer."""
        return -(-self.columns // self.requantise_lanes)

    @property
    def strips(self) -> int:
        """Strips of the array, one cycle apart: it is cut at the ends of segments and of groups."""
        return len({*self.prefixes, *range(step := self.requantise_lanes, self.columns, step)})

    @property
    def rotation_step(self) -> int:
        """By multiples of how many lanes DRAIN can rotate: what every tile's columns are made of.

        Offsets of DRAIN are multiples of it too.
        """
        if not self.rotation:
            return self.requantise_lanes
        own = (self.value_columns, self.attention_columns)
        return gcd(self.requantise_lanes, *own, *self.prefixes)

    @property
    def rotation_stages(self) -> int:
        """Cycles that rotation adds to DRAIN's latency; none where nothing is ever rotated."""
        positions = self.requantise_lanes // self.rotation_step
        return (positions > 1) + (positions > 4)

    @property
    def word_bits(self) -> int:
        """Bits of an activation word."""
        return 8 * self.rows

    @property
    def wide_beat_bits(self) -> int:
        """Bits that all memory ports deliver together per beat."""
        return 128 * self.memory_ports

    @property
    def word_ports(self) -> int:
        """Memory ports that load words: all, or one where a word is not whole beats of all."""
        return 1 if self.word_bits % self.wide_beat_bits else self.memory_ports

    @property
    def constant_beats(self) -> int:
        """Wide beats of the per-column constants of a tile on all groups (8 bytes a column)."""
        return self.constant_beats_of(self.columns)

    def constant_beats_of(self, columns: int) -> int:
        """Wide beats of the per-column constants of a tile of some columns."""
        return -(-columns * 64 // self.wide_beat_bits)

    @property
    def macs_per_cycle(self) -> int:
        """Products that the array makes in a cycle."""
        return self.rows * self.columns

    @property
    def shift_words(self) -> int:
        """Entries of a slot of row shifts: ``tile_rows``, rounded up to a power of two."""
        return 1 << (self.tile_rows - 1).bit_length()

    @property
    def softmax(self) -> SoftmaxFunction:
        """The function of the softmax unit."""
        if self.softmax_fractional:
            return SoftmaxFunction.fractional(self.exponent_fraction_bits, self.divider_bits)
        return SoftmaxFunction.sole(self.softmax_vec)

    def bank(self, role: str) -> int:
        """Number of the bank with that role."""
        return BANK_ROLES.index(role)

    def replace(self, **changes: Any) -> AcceleratorConfig:
        """A copy with changes, validated; with other rows lanes that are not said follow them."""
        if "rows" in changes:
            changes = dict.fromkeys(_LANES, 0) | changes
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain values, in declaration order."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: [str(v) if isinstance(v, ColumnGroup) else v for v in value]
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }

    @classmethod
    def from_json(cls, values: Any) -> AcceleratorConfig:
        """Inverse of :meth:`to_json`.

        Raises:
            FormatError: no table, an unknown or a missing key, or a value that is not legal.
        """
        check_stated(values, [item.name for item in fields(cls)])
        return validate(values, cls)


def lanes_of(name: str, rows: int) -> tuple[int, ...]:
    """Legal numbers of the lanes of that name beside so many rows, ascending."""
    lanes = (round(part * rows) for part in _LANES[name])
    return tuple(n for n in lanes if n >= PARAMETERS[name].low)


def softmax_fields(function: SoftmaxFunction) -> dict[str, Any]:
    """The fields of :class:`AcceleratorConfig` that a softmax decides; lanes in mode ``sole``."""
    if function.mode == "sole":
        return {"softmax_fractional": False, "softmax_vec": function.vec}
    return {
        "softmax_fractional": True,
        "exponent_fraction_bits": function.exponent_fraction_bits,
        "divider_bits": function.divider_bits,
    }


#: What every numeric field of :class:`AcceleratorConfig` is, in the order of the class.
PARAMETERS: Mapping[str, Parameter] = {
    item.name: item.metadata["parameter"] for item in fields(AcceleratorConfig) if item.metadata
}


#: ``groups`` of 8-bit DSP columns only, by their number.
COLUMNS = Parameter(
    doc="8-bit DSP columns of the array (output channels); the same as groups dual:N:8",
    low=8,
    high=MAXIMUM_COLUMNS,
    even=True,
)
#: What ``groups`` is.
GROUPS_DOC = (
    "groups of columns (KIND:COLUMNS:BITS with commas between them, the widest first; BITS 4+4:"
    " pairs of columns are one of 8 bits to attention)"
)


#: Lanes, as parts of the rows: the legal ones; ``rows / 2`` if nothing is said.
_LANES: Mapping[str, tuple[float, ...]] = {
    "requantise_lanes": (1 / 2, 1),
    "layernorm_lanes": (1 / 8, 1 / 4, 1 / 2),
}
#: Fields whose legal values depend on others.
_DEPENDENT = ("read_fifo_beats", "constant_fifo_beats")


def _refusal(name: str, legal: str, value: object, nearest: object) -> ConfigError:
    error = ConfigError(f"{name} must be {legal}, not {value_text(value):.80}", nearest=nearest)
    error.field = name
    return error


def value_text(value: object) -> str:
    """A value as the command line takes it: ``64,64,32`` for several numbers, ``true``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return str(value) if isinstance(value, ColumnGroup) else repr(value)


def check_parameter(name: str, parameter: Parameter, value: object) -> None:
    """Refuse a value that its field could not have whatever the others are.

    Raises:
        ConfigError: of another type, or outside the range; names the nearest legal value.
    """
    nearest: object
    _check_type(name, value, flag=parameter.flag)
    if isinstance(value, tuple):
        count = len(BANK_ROLES)
        sizes = tuple(map(parameter.nearest, value))[:count]
        nearest = sizes + (parameter.low,) * (count - len(sizes))
        legal = f"{count} sizes {parameter.legal}"
    else:
        assert isinstance(value, int)
        nearest, legal = parameter.nearest(value), parameter.legal
    if nearest != value:
        raise _refusal(name, legal, value, nearest)


def _check_type(name: str, value: object, *, flag: bool = False) -> None:
    several = name == "bank_words"
    numbers = value if several else (value,)
    # type() and not isinstance: a JSON true is an int to Python.
    kind = bool if flag else int
    if type(numbers) is not tuple or not all(type(number) is kind for number in numbers):
        legal = "a tuple of integers" if several else "true or false" if flag else "an integer"
        raise _refusal(name, legal, value, None)
