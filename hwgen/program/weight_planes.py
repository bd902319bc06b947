# SPDX-License-Identifier: Apache-2.0
"""Packed weights: bit planes of blocks of rows, group by group; and their inverse.

A layer uses a prefix of the column groups (:class:`TileFormat`). A *pass* is the weights of
``rows`` reduction indices of one tile (and of one weight slice), in *blocks*: as many rows of one
group as a wide beat holds bits of. A block is one plane per bit of the weight, the lowest first, in
front of them a plane of carries where the layer is cut into slices
(:mod:`hwgen.numerics.slices`). So a weight of four bits costs four bits, whatever columns it meets,
and hardware widens it by repeating the top plane. A plane alone holds signs: a set bit is -1, a
clear one +1.

Rows go in the order of the cascade: the highest reduction index first. Blocks of a pass are ordered
by their first row, then by group, so that all groups are loaded side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hwgen.columns import MAXIMUM_GROUPS, ColumnGroup
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.numerics.slices import slice_count

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TileFormat:
    """How the weights of a layer lie on the columns."""

    columns: int  #: of a tile: those of the groups that are used
    planes: tuple[int, ...]  #: bits of a weight (of a slice) per group, 0 for groups not used
    slices: int = 1
    slice_bits: int = 0  #: shift between slices; 0 with one

    @property
    def carry(self) -> bool:
        """Whether narrow groups have a plane of carries."""
        return self.slices > 1

    def group_planes(self, group: ColumnGroup, number: int) -> int:
        """Planes of a block of a group, the carries' included."""
        return self.planes[number] + (self.carry and group.takes_slices)


def tile_formats(
    config: AcceleratorConfig,
    weight_bits: int | npt.NDArray[np.uint8],
    *,
    padding: bool = False,
) -> list[TileFormat]:
    """The ways to run a layer of some width: on wide columns, or on more of them in slices.

    Args:
        config: the design.
        weight_bits: W of the layer, or of each of its (padded) output channels, uint8 [N], 0 for
            padding: channels that are wider than others may lie on the wide columns of every tile.
        padding: weights of padding rows must be 0, which signs alone cannot be.

    Returns:
        one for every prefix of the groups that can run it.
    """
    widths = np.atleast_1d(np.asarray(weight_bits))
    found = []
    for count in range(1, len(config.groups) + 1):
        used = config.groups[:count]
        narrowest = used[-1].weight_bits
        of_groups = _group_widths(config, widths, count)
        slices = 1
        if any(bits > group.weight_bits for bits, group in zip(of_groups, used, strict=True)):
            slices = slice_count(int(widths.max()), narrowest)
        if slices > 1 and not all(g.takes_slices for g in used if g.weight_bits == narrowest):
            continue  # no cell of theirs for the carry; wider ones hold slices without it
        if slices > 1:
            planes = [narrowest] * count
        else:
            planes = [max(1 + padding, bits) for bits in of_groups]
            if any(n > group.weight_bits for n, group in zip(planes, used, strict=True)):
                continue
        if config.prefixes[count - 1] % config.rotation_step:
            continue  # DRAIN cannot rotate what is left of a word
        found.append(
            TileFormat(
                columns=config.prefixes[count - 1],
                planes=(*planes, *[0] * (MAXIMUM_GROUPS - count)),
                slices=slices,
                slice_bits=narrowest if slices > 1 else 0,
            )
        )
    return found


def _group_widths(
    config: AcceleratorConfig, widths: npt.NDArray[np.uint8], count: int
) -> list[int]:
    """The widest weight that each of the first groups gets, tile after tile."""
    if len(widths) == 1:
        return [int(widths[0])] * count
    columns = config.prefixes[count - 1]
    tiles = np.zeros(-(-len(widths) // columns) * columns, np.uint8)
    tiles[: len(widths)] = widths
    widest = tiles.reshape(-1, columns).max(axis=0)
    edges = [0, *config.prefixes[:count]]
    return [int(widest[start:stop].max()) for start, stop in pairwise(edges)]


@dataclass(frozen=True)
class Block:
    """A block of a pass."""

    group: int
    first: int  #: its first row, in the order of the cascade
    rows: int
    planes: int  #: the carries' included
    plane_beats: int  #: wide beats of a plane
    beat: int  #: its first wide beat in the pass


def block_rows(config: AcceleratorConfig, columns: int) -> int:
    """Rows of a block of a group: those whose bits fit a wide beat, at least one."""
    return min(config.rows, max(1, config.wide_beat_bits // columns))


def pass_blocks(config: AcceleratorConfig, form: TileFormat) -> list[Block]:
    """The blocks of a pass in their order."""
    places = sorted(
        (first, number)
        for number, group in enumerate(config.groups)
        if form.planes[number]
        for first in range(0, config.rows, block_rows(config, group.columns))
    )
    blocks: list[Block] = []
    beat = 0
    for first, number in places:
        group = config.groups[number]
        height = block_rows(config, group.columns)
        plane_beats = -(-height * group.columns // config.wide_beat_bits)
        planes = form.group_planes(group, number)
        rows = min(height, config.rows - first)
        blocks.append(Block(number, first, rows, planes, plane_beats, beat))
        beat += planes * plane_beats
    return blocks


def pass_beats(config: AcceleratorConfig, form: TileFormat) -> int:
    """Wide beats of a pass: those of its :func:`pass_blocks`, counted for millions of designs."""
    beats = 0
    for number, group in enumerate(config.groups):
        if form.planes[number]:
            height = block_rows(config, group.columns)
            plane_beats = -(-height * group.columns // config.wide_beat_bits)
            planes = form.group_planes(group, number)
            beats += -(-config.rows // height) * planes * plane_beats
    return beats


def _bits(
    config: AcceleratorConfig, form: TileFormat, weights: npt.NDArray[np.int16], lowest: int
) -> Iterator[tuple[int, slice, list[npt.NDArray[np.bool_]]]]:
    """Per group that is used: its number, its columns, its planes of a slice of the weights."""
    start = 0
    for number, group in enumerate(config.groups):
        if not form.planes[number]:
            break
        columns = slice(start, start + group.columns)
        start += group.columns
        values = weights[..., columns]
        if form.planes[number] == 1:
            yield number, columns, [values < 0]
            continue
        planes = [(values >> (lowest + bit)) & 1 != 0 for bit in range(form.planes[number])]
        if form.carry and group.takes_slices:
            below = (values >> (lowest - 1)) & 1 != 0 if lowest else np.zeros(values.shape, bool)
            planes.insert(0, below)
        yield number, columns, planes


def pack_weights(
    config: AcceleratorConfig, form: TileFormat, weights: npt.NDArray[np.int8]
) -> Bytes:
    """The packed weights of a layer.

    Args:
        config: the design.
        form: how the layer lies on the columns.
        weights: int8 [passes * rows, tiles * columns], padded with zeros. Where signs are stored a
            zero becomes +1: columns only, which nobody drains.

    Returns:
        uint8 [tiles, bytes]: slices (the top one first) x passes of :func:`pass_blocks`.
    """
    rows, beat = config.rows, config.wide_beat_bits // 8
    passes, tiles = weights.shape[0] // rows, weights.shape[1] // form.columns
    size = pass_beats(config, form) * beat
    out = np.zeros((tiles, form.slices, passes, size), np.uint8)
    # Rows of a pass in the order of the cascade.
    cells = weights.reshape(passes, rows, tiles, form.columns).transpose(2, 0, 1, 3)[:, :, ::-1]
    blocks = pass_blocks(config, form)
    for tile in range(tiles):  # one at a time: planes are eight times as large as weights
        values = cells[tile].astype(np.int16)
        for index in range(form.slices):
            lowest = (form.slices - 1 - index) * form.slice_bits
            for number, _, planes in _bits(config, form, values, lowest):
                for block in blocks:
                    if block.group != number:
                        continue
                    chosen = slice(block.first, block.first + block.rows)
                    for place, plane in enumerate(planes):
                        packed = np.packbits(
                            plane[:, chosen].reshape(passes, -1), axis=1, bitorder="little"
                        )
                        start = (block.beat + place * block.plane_beats) * beat
                        out[tile, index, :, start : start + packed.shape[1]] = packed
    return out.reshape(tiles, -1)


def unpack_weights(
    config: AcceleratorConfig, form: TileFormat, data: Bytes, *, passes: int
) -> npt.NDArray[np.int16]:
    """What the cells hold: the inverse of :func:`pack_weights` for one tile.

    Args:
        config: the design.
        form: planes and slices, as the instructions say them.
        data: uint8 [bytes] of a tile.
        passes: passes of a slice.

    Returns:
        int16 [slices, passes * rows, columns], the top slice first.

    Raises:
        ProgramError: another number of bytes.
    """
    rows, beat = config.rows, config.wide_beat_bits // 8
    size = pass_beats(config, form) * beat
    if data.size != form.slices * passes * size:
        raise ProgramError(
            f"Weights of a tile must be {form.slices * passes * size} bytes, not {data.size}"
        )
    stored = data.reshape(form.slices, passes, size)
    out = np.zeros((form.slices, passes, rows, form.columns), np.int16)
    starts = [0, *config.prefixes]
    for block in pass_blocks(config, form):
        group = config.groups[block.group]
        columns = slice(starts[block.group], starts[block.group + 1])
        count = block.rows * group.columns
        planes = []
        for place in range(block.planes):
            start = (block.beat + place * block.plane_beats) * beat
            raw = np.ascontiguousarray(stored[:, :, start : start + -(-count // 8)])
            bits = np.unpackbits(raw, axis=2, bitorder="little")[:, :, :count]
            planes.append(bits.reshape(form.slices, passes, block.rows, group.columns))
        values = _cells(planes, group, form)
        out[:, :, block.first : block.first + block.rows, columns] = values
    return np.ascontiguousarray(out[:, :, ::-1]).reshape(form.slices, passes * rows, form.columns)


def _cells(
    planes: list[npt.NDArray[np.uint8]], group: ColumnGroup, form: TileFormat
) -> npt.NDArray[np.int16]:
    """Values of cells from their planes [slices, ...]."""
    if len(planes) == 1:
        return (1 - 2 * planes[0].astype(np.int16)).astype(np.int16)
    carries = planes.pop(0) if form.carry and group.takes_slices else None
    values = np.zeros(planes[0].shape, np.int16)
    for bit, plane in enumerate(planes):
        values += plane.astype(np.int16) << bit
    sign = planes[-1].astype(np.int16) << len(planes)
    if carries is not None:
        values += carries - sign
    elif form.carry:
        values[0] -= sign[0]  # cells of 8 bits: the top slice alone is signed
    else:
        values -= sign
    return values
