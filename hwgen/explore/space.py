# SPDX-License-Identifier: Apache-2.0
"""The design space: what the explorer varies, and which combinations the generator builds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hwgen.columns import KINDS, MAXIMUM_COLUMNS, ColumnGroup, ColumnKind, Groups, dense
from hwgen.config import PARAMETERS, AcceleratorConfig, lanes_of
from hwgen.errors import ConfigError
from hwgen.explore.resources import is_measured
from hwgen.graph.spec import ModelSpec
from hwgen.program.buffer_plan import default_tile_rows, row_blocks, sized_config

#: Legal values of the parameters that are varied; columns and the other lanes follow from the rows.
ROWS = PARAMETERS["rows"].powers()
PORTS = tuple(range(PARAMETERS["memory_ports"].low, PARAMETERS["memory_ports"].high + 1))
SOFTMAX_LANES = PARAMETERS["softmax_vec"].powers()
#: The parameters that are varied, by the names of their options; ``columns``: dual:N:8.
VARIED = (
    *("rows", "columns", "groups", "memory_ports", "softmax_vec", "requantise_lanes"),
    *("layernorm_lanes", "row_blocks", "rotation"),
)
#: Row blocks beside the rule's (:func:`hwgen.program.buffer_plan.row_blocks`).
ROW_BLOCKS = (1, 2, 3, 4)
#: Columns of a narrow group, at most, in words of activations: beyond, requantise lanes and the
#: array's other columns leave it idle.
_NARROW_WORDS = 4
#: Widths that are cut into slices for narrower columns.
_SLICED = (5, 6, 7)
_SLICE_BITS = 4
#: Widest weights for which columns of digits take fewer LUTs than those of tables.
_DIGITS_BITS = 2


@dataclass(frozen=True, order=True, kw_only=True)
class Candidate:
    """One point of the space; everything else of a configuration follows from it and the model."""

    rows: int
    groups: Groups
    memory_ports: int
    softmax_vec: int
    requantise_lanes: int
    layernorm_lanes: int
    row_blocks: int
    rotation: bool = True

    @property
    def columns(self) -> int:
        """Columns of all groups."""
        return self.groups.columns

    @property
    def macs_per_cycle(self) -> int:
        """Products that the array makes in a cycle."""
        return self.rows * self.columns

    @property
    def relaxed(self) -> Candidate:
        """The same array and row blocks with the most ports and the fastest vector units.

        With rotation: not all layers have all tiles without it.
        """
        return replace(
            self,
            memory_ports=PORTS[-1],
            softmax_vec=min(self.rows, SOFTMAX_LANES[-1]),
            requantise_lanes=requantise_lanes(self.rows)[-1],
            layernorm_lanes=layernorm_lanes(self.rows)[-1],
            rotation=True,
        )

    def text(self) -> str:
        """In a few words, for messages."""

        def many(count: int, what: str) -> str:
            return f"{count} {what}{'s' * (count > 1)}"

        uniform = self.groups == dense(self.columns)
        array = f"{self.rows} x {self.columns if uniform else self.groups}"
        return (
            f"{array}, {many(self.memory_ports, 'port')}, {self.requantise_lanes} requantise,"
            f" {self.layernorm_lanes} LayerNorm and {self.softmax_vec} softmax lanes,"
            f" {many(self.row_blocks, 'row block')}{', no rotation' * (not self.rotation)}"
        )

    def config(
        self, spec: ModelSpec, fixed: Mapping[str, Any], frames: int = 1, in_flight: int = 1
    ) -> AcceleratorConfig:
        """The configuration whose memories fit the model exactly.

        ``frames`` of it in a START, ``in_flight`` of these at a time.

        Raises:
            ConfigError: the generator does not build it.
            DoesNotFitError: an address cannot name all words of a bank.
        """
        return sized_config(
            spec,
            rows=self.rows,
            groups=self.groups,
            blocks=self.row_blocks,
            frames=frames,
            in_flight=in_flight,
            memory_ports=self.memory_ports,
            softmax_vec=self.softmax_vec,
            requantise_lanes=self.requantise_lanes,
            layernorm_lanes=self.layernorm_lanes,
            rotation=self.rotation,
            **fixed,
        )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values to try; an empty tuple stands for all legal ones.

    ``columns``: 8-bit DSP columns only; with ``groups`` those groups only.
    """

    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    groups: tuple[Groups, ...] = ()
    memory_ports: tuple[int, ...] = ()
    softmax_vec: tuple[int, ...] = ()
    requantise_lanes: tuple[int, ...] = ()
    layernorm_lanes: tuple[int, ...] = ()
    row_blocks: tuple[int, ...] = ()
    rotation: tuple[bool, ...] = ()
    #: Further fields of the configuration, the same for every design.
    fixed: Mapping[str, Any] = field(default_factory=dict)


def requantise_lanes(rows: int) -> tuple[int, ...]:
    """Requantise lanes that a design can have, ascending."""
    return lanes_of("requantise_lanes", rows)


def layernorm_lanes(rows: int) -> tuple[int, ...]:
    """LayerNorm lanes that a design can have, ascending."""
    return lanes_of("layernorm_lanes", rows)


@functools.lru_cache(maxsize=4096)
def rotations(rows: int, groups: Groups, lanes: int) -> tuple[bool, ...]:
    """With rotators, and without where there are any and all tiles can do without."""
    try:
        config = AcceleratorConfig(
            rows=rows,
            groups=groups,
            requantise_lanes=lanes,
            layernorm_lanes=layernorm_lanes(rows)[0],
            softmax_vec=SOFTMAX_LANES[0],
            constant_fifo_beats=PARAMETERS["constant_fifo_beats"].high,
            rotation=False,
        )
    except ConfigError:
        return (True,)
    return (True, False) if config.replace(rotation=True).rotation_stages else (True,)


def legal_columns(rows: int, most_macs: int) -> list[int]:
    """8-bit DSP columns that an array of ``rows`` is tried with, up to ``most_macs`` a cycle."""
    most = min(most_macs // rows, MAXIMUM_COLUMNS)
    return [
        columns
        for columns in range(rows // 2, most + 1, rows // 2)
        if columns % rows == 0 or rows % columns == 0
    ]


def narrow_widths(weight_bits: Sequence[int]) -> tuple[int, ...]:
    """Widths of fabric columns that a model's weights could use: theirs, and that of slices."""
    narrow = {bits for bits in weight_bits if bits < 8}
    if narrow & set(_SLICED):
        narrow.add(_SLICE_BITS)
    return tuple(sorted(narrow))


def legal_groups(
    rows: int,
    most_macs: int,
    *,
    cascades: int | None = None,
    narrow: Sequence[int] = (),
    clk2x: bool = False,
) -> list[Groups]:
    """The columns that an array of ``rows`` is tried with.

    8-bit DSP columns, two a cascade or four at twice the clock: half words and words of
    activations, and as many as can be placed, these also filled up to a whole word by 8-bit columns
    in the fabric; at twice the clock also the multiple of a quarter of a word below, which leaves
    DSPs for lanes and is rotated in one step. Behind each that can be placed, columns of one of the
    widths ``narrow``, up to four words of them.

    Args:
        rows: R of the array.
        most_macs: products a cycle beyond which nothing is looked at.
        cascades: of ``rows`` DSPs that can be placed; None: unknown.
        narrow: widths of narrow columns.
        clk2x: whether columns at twice the clock are tried.
    """
    kinds = [kind for kind in KINDS.values() if kind.dsp_share and (clk2x or not kind.clk2x)]
    wide = [g for kind in kinds for g in _wide_groups(kind, rows, most_macs, cascades)]
    found = list(wide)
    placeable = [g for g in wide if cascades is None or sum(p.dsps for p in g) <= cascades]
    for groups in placeable:
        for kind, bits in _narrow_kinds(narrow):
            for count in _narrow_counts(groups, rows):
                found.append(Groups((*groups, ColumnGroup(kind, count, bits))))
    return [groups for groups in found if is_measured(groups, rows)]


def _fabric(bits: int) -> str:
    """The kind of columns without DSP blocks that costs the fewest LUTs."""
    return "digits" if bits <= _DIGITS_BITS else "tables"


def _narrow_kinds(narrow: Sequence[int]) -> list[tuple[str, int]]:
    """Kind and width of narrow columns; tables run no slices."""
    found = [(_fabric(bits), bits) for bits in narrow]
    sliced = ("digits", _SLICE_BITS)
    if set(narrow) & set(_SLICED) and sliced not in found:
        found.append(sliced)
    return found


def _narrow_counts(groups: Groups, rows: int) -> Iterator[int]:
    """How many narrow columns are tried behind others: the sum is whole words of activations.

    At least half as many as the others. Of columns at twice the clock that are no half words as
    many take most of a device's LUTs: fewer, and sums of half words, too.
    """
    part = groups.clk2x and groups.columns % (rows // 2) > 0
    step, least = (rows // 2, groups.columns / 8) if part else (rows, groups.columns / 2)
    for count in range(step - groups.columns % step, _NARROW_WORDS * rows + 1, step):
        if count >= least:
            yield count


def _wide_groups(
    kind: ColumnKind, rows: int, most_macs: int, cascades: int | None
) -> Iterator[Groups]:
    """8-bit columns of DSPs of one kind, alone and filled up by columns in the fabric."""
    counts = legal_columns(rows, most_macs)
    step = round(1 / kind.dsp_share)  # columns of a cascade
    most = 0 if cascades is None else min(step * cascades, most_macs // rows // step * step)
    filled = most > rows // 2 and most not in counts
    if filled:
        counts.append(most)
        if kind.clk2x and most % (rows // 4):
            counts.append(most - most % (rows // 4))
    for count in counts:
        yield Groups((ColumnGroup(kind.name, count, 8),))
    whole = -(-most // rows) * rows
    missing = -(-(whole - most) // 8) * 8
    if filled and missing <= rows // 4:
        parts = ((kind.name, whole - missing), (_fabric(8), missing))
        yield Groups(ColumnGroup(name, count, 8) for name, count in parts)


def legal_blocks(spec: ModelSpec, rows: int) -> list[int]:
    """Numbers of row blocks that a model can be run with: the rule's and those of a few, sorted."""
    rule = len(row_blocks(spec.tokens, rows, default_tile_rows(spec.tokens)))
    return sorted({rule, *(count for count in ROW_BLOCKS if count <= spec.tokens)})


def candidates(
    spec: ModelSpec,
    choices: Choices,
    *,
    most_ports: int,
    most_macs: int,
    cascades: Mapping[int, int | None] | None = None,
    narrow: Sequence[int] = (),
    clk2x: bool = False,
) -> Iterator[Candidate]:
    """All combinations that are tried, in a fixed order.

    Args:
        spec: the model.
        choices: values to keep to.
        most_ports: AXI masters that the board has room for.
        most_macs: products a cycle beyond which nothing is looked at.
        cascades: by rows, DSP cascades that can be placed.
        narrow: widths of narrow columns (:func:`narrow_widths`).
        clk2x: whether columns at twice the clock are tried.
    """

    def chosen(given: Sequence[int], legal: Sequence[int]) -> list[int]:
        return [value for value in legal if not given or value in given]

    def arrays(rows: int) -> list[Groups]:
        if choices.groups:
            return [groups for groups in choices.groups if is_measured(groups, rows)]
        if choices.columns:
            return [dense(n) for n in chosen(choices.columns, legal_columns(rows, most_macs))]
        fit = (cascades or {}).get(rows)
        return legal_groups(rows, most_macs, cascades=fit, narrow=narrow, clk2x=clk2x)

    def drains(rows: int, groups: Groups) -> Iterator[dict[str, Any]]:
        """Requantise lanes and rotation; one that was stated is taken where it changes nothing."""
        for lanes in chosen(choices.requantise_lanes, requantise_lanes(rows)):
            for rotation in choices.rotation or rotations(rows, groups, lanes):
                yield {"requantise_lanes": lanes, "rotation": rotation}

    for rows in chosen(choices.rows, ROWS):
        blocks = chosen(choices.row_blocks, legal_blocks(spec, rows))
        for groups in arrays(rows):
            for ports in chosen(choices.memory_ports, PORTS[:most_ports]):
                for vec in chosen(choices.softmax_vec, SOFTMAX_LANES):
                    for drain in drains(rows, groups):
                        for layernorm in chosen(choices.layernorm_lanes, layernorm_lanes(rows)):
                            for count in blocks:
                                yield Candidate(
                                    rows=rows,
                                    groups=groups,
                                    memory_ports=ports,
                                    softmax_vec=vec,
                                    layernorm_lanes=layernorm,
                                    row_blocks=count,
                                    **drain,
                                )
