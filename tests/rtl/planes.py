# SPDX-License-Identifier: Apache-2.0
"""Packed weights written from the format's definition, and the cell codes that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwgen.columns import ColumnGroup

Cells = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """A command of weights: planes of every group in use, and its loops."""

    planes: tuple[int, ...]
    carry: int = 0
    tiles: int = 1
    slices: int = 1
    passes: int = 1


def block_rows(group: ColumnGroup, rows: int, beat_bits: int) -> int:
    return min(rows, max(1, beat_bits // group.columns))


def block_sizes(
    groups: Sequence[ColumnGroup], given: Weights, rows: int, beat_bits: int
) -> tuple[tuple[int, int, int], ...]:
    """Group, chain rows and beats of the blocks of a pass: row by row, group by group."""
    blocks = []
    for first in range(rows):
        for number, (group, planes) in enumerate(zip(groups, given.planes, strict=False)):
            height = block_rows(group, rows, beat_bits)
            if first % height == 0:
                planes += given.carry if 2 <= group.weight_bits <= 7 else 0
                plane_beats = -(-height * group.columns // beat_bits)
                blocks.append((number, min(height, rows - first), planes * plane_beats))
    return tuple(blocks)


def cell_codes(group: ColumnGroup, planes: Cells, carries: Cells | None, top: bool) -> Cells:
    """What the cells of a group hold, from their bits.

    Args:
        group: the group.
        planes: 0 or 1, [bits, rows, columns], bit 0 first.
        carries: 0 or 1, [rows, columns]; None: the command has none.
        top: the pass belongs to the top slice of its tile.

    Returns:
        [rows, columns].
    """
    extend_sign = carries is None or top or group.weight_bits < 8
    codes = np.zeros(planes.shape[1:], np.int64)
    signs = len(planes) == 1 and group.weight_bits > 1
    for bit in range(group.weight_bits):
        if bit == 0 and signs:
            codes += 1
        elif bit < len(planes):
            codes += planes[bit] << bit
        elif extend_sign:
            codes += planes[-1] << bit
    if 2 <= group.weight_bits <= 7 and carries is not None:
        codes += carries << group.weight_bits
    return codes


def random_pass(
    rng: np.random.Generator,
    groups: Sequence[ColumnGroup],
    given: Weights,
    rows: int,
    beat_bits: int,
    top: bool,
) -> tuple[list[int], list[Cells]]:
    """Beats of a random pass; cell codes of every group in use, in the order of the chain."""
    bits, carries = [], []
    for group, planes in zip(groups, given.planes, strict=False):
        bits.append(rng.integers(0, 2, (planes, rows, group.columns)))
        carries.append(rng.integers(0, 2, (rows, group.columns)))
    beats: list[int] = []
    for first in range(rows):
        for number, group in enumerate(groups[: len(given.planes)]):
            height = block_rows(group, rows, beat_bits)
            if first % height:
                continue
            planes = list(bits[number])
            if given.carry and 2 <= group.weight_bits <= 7:
                planes.insert(0, carries[number])
            for plane in planes:
                value = 0
                for r, row in enumerate(plane[first : first + height]):
                    for c, bit in enumerate(row):
                        value |= int(bit) << (r * group.columns + c)
                for part in range(-(-height * group.columns // beat_bits)):
                    beats.append(value >> (part * beat_bits) & ((1 << beat_bits) - 1))
    codes = [
        cell_codes(group, bits[number], carries[number] if given.carry else None, top)
        for number, group in enumerate(groups[: len(given.planes)])
    ]
    return beats, codes


def random_command(
    rng: np.random.Generator,
    groups: Sequence[ColumnGroup],
    given: Weights,
    rows: int,
    beat_bits: int,
) -> tuple[list[int], list[list[Cells]]]:
    """Beats of all passes of a command, and their cell codes."""
    beats: list[int] = []
    codes = []
    for _ in range(given.tiles):
        for index in range(given.slices):
            for _ in range(given.passes):
                more, cells = random_pass(rng, groups, given, rows, beat_bits, index == 0)
                beats += more
                codes.append(cells)
    return beats, codes


def row_value(codes: Cells, cell_bits: int) -> int:
    """A row of cell codes as the array takes it, column 0 lowest."""
    return sum(int(code) << (c * cell_bits) for c, code in enumerate(codes))


def random_weights(rng: np.random.Generator, groups: Sequence[ColumnGroup]) -> Weights:
    """A command for some prefix of the groups, with one to three passes or slices."""
    used = groups[: rng.integers(1, len(groups) + 1)]
    narrowest = used[-1].weight_bits
    if 2 <= narrowest <= 7 and rng.integers(2):
        planes = tuple(narrowest for _ in used)
        loops = {"carry": 1, "slices": int(rng.integers(2, 4)), "passes": int(rng.integers(1, 3))}
        return Weights(planes, tiles=1, **loops)
    width = int(rng.integers(1, narrowest + 1))
    planes = tuple(width for _ in used)
    return Weights(planes, tiles=int(rng.integers(1, 3)), passes=int(rng.integers(1, 3)))
