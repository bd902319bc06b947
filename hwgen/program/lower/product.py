# SPDX-License-Identifier: Apache-2.0
"""A matmul of the array: LOAD_TILES, STATIONARY, MATMUL and DRAIN, and the STORE at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hwgen.columns import MAXIMUM_GROUPS
from hwgen.errors import ProgramError
from hwgen.isa.instructions import BEAT_BYTES, DrainMode, Engine, StationarySource
from hwgen.program.buffer_plan import Placement, ceil_div
from hwgen.program.lower.context import Lowering, Parts
from hwgen.program.packing import (
    Bytes,
    constant_records,
    pack_tiles,
    place_constants,
    port_stride,
    split_ports,
)
from hwgen.program.schedule import Draft, Item, Kind
from hwgen.program.weight_planes import TileFormat, pass_beats


@dataclass(frozen=True, kw_only=True)
class Records:
    """Tile records in the image."""

    address: int  #: of tile 0's record, units of 16 bytes, within the data
    port_stride: int
    constant_beats: int  #: wide beats of a tile's constants
    weight_beats: int = 0  #: wide beats of a tile's packed weights


@dataclass(frozen=True, kw_only=True)
class Operand:
    """An operand in the activation memory: words base + slice * stride + token."""

    base: int = 0
    stride: int = 0
    #: stationary only: rows or columns that exist
    source: StationarySource = StationarySource.WEIGHTS
    limit: int = 0
    pass_tokens: int = 0  #: ROWS
    #: moving only
    signed: bool = True


@dataclass(frozen=True, kw_only=True)
class Result:
    """What DRAIN makes of the accumulators, and where."""

    placement: Placement
    first: int  #: padded channel that column 0 goes to
    columns: int
    tokens: tuple[int, int]
    mode: DrainMode = DrainMode.INT8
    zero_point: int = 0
    low: int = -128
    high: int = 127
    slot: int = 0
    apart: bool = False  #: every tile begins a word of its own
    parts: Parts = field(default_factory=list)


def attention_format(columns: int) -> TileFormat:
    """Tiles whose stationary operand comes from the activation memory."""
    return TileFormat(columns=columns, planes=(0,) * MAXIMUM_GROUPS)


class Scaled(Protocol):
    """An operation of the graph with one multiplier and shift for all columns."""

    @property
    def name(self) -> str:
        """Of the operation."""

    @property
    def multiplier(self) -> int:
        """Of its results."""

    @property
    def shift(self) -> int:
        """Of its results."""


def constants_only(
    low: Lowering,
    op: Scaled,
    columns: int,
    form: TileFormat,
    *,
    largest: int,
    apart: bool = False,
) -> Records:
    """Records of a product without weights and bias: the same constants for all columns.

    ``largest`` is the largest magnitude of a sum of products; ``apart`` as in :class:`Result`.
    """
    multiplier, shift = op.multiplier, op.shift
    reach = np.array([largest])
    low.check_accumulators(op.name, -reach, reach)
    live = constant_records(
        np.zeros(columns), np.full(columns, multiplier), np.full(columns, shift)
    )
    placed = _place(low, live, form, wide=False, apart=apart)
    data, stride = split_ports(_with_beats(low, placed, form), low.config)
    return Records(
        address=low.image.add(len(data), data),
        port_stride=stride,
        constant_beats=low.config.constant_beats_of(form.columns),
    )


def _place(
    low: Lowering, records: Bytes, form: TileFormat, *, wide: bool, apart: bool = False
) -> Bytes:
    return place_constants(
        records,
        tile_columns=form.columns,
        lanes=low.config.requantise_lanes,
        chunk=low.config.chunk_channels(wide=wide),
        apart=apart,
    )


def _with_beats(low: Lowering, constants: Bytes, form: TileFormat) -> Bytes:
    size = low.config.constant_beats_of(form.columns) * low.config.wide_beat_bits // 8
    out = np.zeros((len(constants), size), np.uint8)
    out[:, : constants[0].size] = constants.reshape(len(constants), -1)
    return out


def weight_records(
    low: Lowering,
    form: TileFormat,
    tiles: int,
    passes: int,
    weights: np.ndarray | None,
    constants: Bytes | None,
    *,
    wide: bool,
) -> Records:
    """Records of a layer.

    Args:
        low: the compilation.
        form: how the layer lies on the columns.
        tiles: output tiles.
        passes: passes of a weight slice.
        weights: int8 [passes * rows, tiles * columns]; None in a skeleton.
        constants: uint8 [columns, 8]; None in a skeleton.
        wide: the results are int16.
    """
    config = low.config
    constant_beats = config.constant_beats_of(form.columns)
    weight_beats = form.slices * passes * pass_beats(config, form)
    beats = tiles * (constant_beats + weight_beats)
    stride = port_stride(beats)
    size = ((config.memory_ports - 1) * stride + beats) * BEAT_BYTES
    data = None
    if weights is not None and constants is not None:
        placed = _place(low, constants, form, wide=wide)
        data, stride = split_ports(pack_tiles(weights, placed, form, config), config)
        size = len(data)
    return Records(
        address=low.image.add(size, data),
        port_stride=stride,
        constant_beats=constant_beats,
        weight_beats=weight_beats,
    )


def product(
    low: Lowering,
    label: str,
    *,
    records: Records,
    form: TileFormat,
    tiles: tuple[int, int],
    passes: int,
    stationary: Operand,
    moving: Operand,
    rows: int,
    result: Result,
    cycles: int,
    kind: Kind = Kind.OTHER,
) -> Item:
    """The instructions of some tiles of a matmul over some tokens.

    Args:
        low: the compilation.
        label: of the trace.
        records: constants and weights.
        form: columns, planes and slices.
        tiles: range of tiles.
        passes: slices of the moving operand.
        stationary: K, V, or packed weights.
        moving: activations.
        rows: tokens.
        result: what becomes of the accumulators; ``first`` and ``columns`` count from the range's
            first tile.
        cycles: estimate for the array.
        kind: what a preference of the order goes by.

    Raises:
        ProgramError: uint8 activations on columns that take int8 only.
    """
    if not moving.signed and form.columns > low.config.unsigned_columns:
        raise ProgramError(
            f"uint8 activations must stay on the first {low.config.unsigned_columns} columns,"
            f" not {form.columns}",
            where=label,
        )
    count = tiles[1] - tiles[0]
    beats = records.constant_beats + records.weight_beats
    placement, tokens = result.placement, result.tokens
    wide = placement.wide
    word = result.first // placement.per_word
    loops = {"tiles": count, "passes": passes, "slices": form.slices}
    planes = {
        f"planes{group}": bits if stationary.source == StationarySource.WEIGHTS else 0
        for group, bits in enumerate(form.planes)
    }
    drafts = [
        Draft(
            opcode="LOAD_TILES",
            fields={
                "address": records.address + tiles[0] * beats,
                "port_stride": records.port_stride,
                "tiles": count,
                "constant_beats": records.constant_beats,
                "weight_beats": records.weight_beats,
                "beats": count * beats,
            },
            label=label,
            relocate=True,
        ),
        Draft(
            opcode="STATIONARY",
            fields={
                "source": stationary.source,
                "base": stationary.base,
                "stride": stationary.stride,
                **loops,
                "limit": stationary.limit,
                "pass_tokens": stationary.pass_tokens,
                **planes,
                "carry": form.carry,
            },
            label=label,
        ),
        Draft(
            opcode="MATMUL",
            fields={
                "base": moving.base,
                "stride": moving.stride,
                "rows": rows,
                **loops,
                "signed": moving.signed,
                "slice_bits": form.slice_bits,
            },
            label=label,
        ),
        Draft(
            opcode="DRAIN",
            fields={
                "destination": low.word(placement, word, tokens[0]),
                "stride": placement.stride,
                "rows": rows,
                "tiles": count,
                "columns": result.columns,
                "mode": result.mode,
                "zero_point": result.zero_point,
                "low": result.low,
                "high": result.high,
                "slot": result.slot,
                "tile_columns": form.columns,
                "offset": result.first % low.config.rows,
                "apart": result.apart,
            },
            label=label,
            parts=tuple(result.parts),
        ),
    ]
    return Item(
        engine=Engine.MATMUL,
        drafts=drafts,
        kind=kind,
        cycles=cycles,
        drain_cycles=ceil_div(result.columns, low.config.chunk_channels(wide=wide)) * rows,
        tail_cycles=low.drain_tail((0, rows), wide=wide),
    )


def store(low: Lowering) -> None:
    """The logits go out."""
    logits = low.plan.places[low.graph.ops[-1].output]
    low.output_words = logits.slices
    draft = Draft(
        opcode="STORE",
        fields={
            "address": 0,
            "source": low.word(logits),
            "stride": logits.stride,
            "words": logits.slices,
        },
        label="store",
        frame_stride=logits.slices * low.config.rows // BEAT_BYTES,
    )
    low.items.append(Item(engine=Engine.STORE, drafts=[draft]))


__all__ = [
    "Operand",
    "Records",
    "Result",
    "attention_format",
    "constants_only",
    "product",
    "store",
    "weight_records",
]
