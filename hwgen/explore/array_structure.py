# SPDX-License-Identifier: Apache-2.0
"""How the array and what feeds and drains it grow with its column groups.

As :mod:`hwgen.explore.structure`; ``groups`` are the column groups as the command line takes them.
A kind of column needs no code here: what it costs alone and in a strip are coefficients by its
name, and a kind or width that was not measured has none.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import gcd
from typing import NamedTuple

from hwgen.columns import KINDS, ColumnGroup, Groups, parse_groups
from hwgen.config import aligned_columns
from hwgen.explore.memories import LUT_WORDS, block_ram, lut_ram
from hwgen.numerics.requantise import BIASED_BITS as ACCUMULATOR_BITS

Features = Mapping[str, float]

#: Kinds whose rows are all in one cascade.
_CASCADED = frozenset(kind.name for kind in KINDS.values() if kind.dsp_share)
#: Rows of a block of weights that have a coefficient of their own; others have the next one's.
_BLOCK_ROWS = (2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 16, 20, 24, 32)
#: Blocks one behind the other up to which each number has a coefficient of its own.
MOST_STACKED = 15


def ceil_div(value: int, divisor: int) -> int:
    """Quotient rounded up."""
    return -(-value // divisor)


def index_bits(count: int) -> int:
    """Bits of an index below ``count``; a signal has one at least."""
    return max(1, (count - 1).bit_length())


def has_odd_factor(factor: int) -> bool:
    """Whether a multiplication by this constant takes a DSP; by a power of two it is a shift."""
    return factor & (factor - 1) != 0


def added(parts: Sequence[Features]) -> dict[str, float]:
    """The sum, feature by feature."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


@functools.lru_cache(maxsize=4096)
def _parsed(groups: str) -> Groups:
    return parse_groups(groups)


def column_name(group: ColumnGroup, rows: int) -> str:
    """What a column of a group is called among the coefficients.

    Paired ones have a name of their own: they take uint8 activations, which others of their width
    do not.
    """
    return f"{group.kind}_{group.weight_bits}{'_paired' * group.paired}_of_{rows}_rows"


def _family(group: ColumnGroup) -> str:
    """Columns whose strips are alike: one kind, one bit apart."""
    return f"{group.kind}{'_signs' if group.weight_bits == 1 else ''}"


def _skew_lines(family: str, rows: int) -> int:
    """Shift registers that delay the activations of the rows of a cascade, a bit each.

    A row, or as many as enter in a cycle, is a cycle behind the one before; up to two cycles are
    registers, and so are those of fabric columns.
    """
    if family not in _CASCADED:
        return 0
    behind = (ceil_div(row, KINDS[family].rows_step) for row in range(rows))
    return 9 * sum(ceil_div(cycles, 32) for cycles in behind if cycles > 2)


class Strip(NamedTuple):
    """Columns of one group in one segment."""

    group: ColumnGroup
    columns: int
    place: int  #: strips of its family before it


@functools.lru_cache(maxsize=4096)
def array_strips(groups: str, lanes: int) -> tuple[Strip, ...]:
    """The strips of the array, as :mod:`hwgen.rtl.systolic_array` cuts it."""
    found: list[Strip] = []
    places: dict[str, int] = {}
    start = 0
    for group in _parsed(groups):
        first = 0
        while first < group.columns:
            count = min(lanes - (start + first) % lanes, group.columns - first)
            place = places.get(_family(group), 0)
            found.append(Strip(group, count, place))
            places[_family(group)] = place + 1
            first += count
        start += group.columns
    return tuple(found)


def rotation_positions(rows: int, groups: str, lanes: int, *, rotation: bool = True) -> int:
    """Rotations that DRAIN can do (:attr:`hwgen.config.AcceleratorConfig.rotation_step`)."""
    if not rotation:
        return 1
    parsed = _parsed(groups)
    prefixes = [Groups(parsed[: count + 1]).columns for count in range(len(parsed))]
    own = (_value_columns(rows, parsed), parsed.attention_columns)
    return lanes // gcd(lanes, *own, *prefixes)


def _value_columns(rows: int, groups: Groups) -> int:
    return max(n for n in aligned_columns(rows) if n <= groups.attention_columns)


# The array --------------------------------------------------------------------------------------


def column_features(*, rows: int, groups: str) -> Features:
    """The columns alone: a coefficient for each kind, width and number of rows."""
    return added([{column_name(group, rows): group.columns} for group in _parsed(groups)])


def column_dsps(*, rows: int, groups: str) -> int:
    """DSP blocks of the columns."""
    return int(rows * sum(group.dsps for group in _parsed(groups)))


def array_features(
    *, rows: int, groups: str, tile_rows: int, requantise_lanes: int = 0
) -> Features:
    """Strips without their columns and memories, the skew, the choice for DRAIN."""
    lanes = requantise_lanes or rows // 2
    parsed = _parsed(groups)
    strips = array_strips(groups, lanes)
    row_bits = index_bits(tile_rows)
    shifts = sorted({group.weight_bits for group in parsed if group.takes_slices})
    parts: list[Features] = []
    for family in sorted({_family(group) for group in parsed}):
        lines = _skew_lines(family, rows)
        parts.append({f"{family}_skew_rows": rows, "skew_shift_registers": lines})
    for group, columns, place in strips:
        kind = KINDS[group.kind]
        word = columns * group.cell_bits
        late = word + index_bits(rows)  # weights of a strip come as much later as it stands
        packed = word + columns * kind.packing_bits
        stages = ceil_div(rows, kind.broadcast_rows)
        own = [width for width in shifts if width <= group.weight_bits]
        shifted = len(own)
        parts.append(
            {
                f"{_family(group)}_strips": 1,
                f"{_family(group)}_strip_rows": rows,
                f"{group.kind}_accumulator_bits": columns * group.accumulator_bits,
                # Registers of the broadcast, and those that a strip is late by.
                "weight_bits": stages * packed + (late * place if place <= 2 else 0),
                "strip_row_bits": row_bits,
                "weight_shift_registers": late * ceil_div(place, 32) if place > 2 else 0,
                "shifted_columns": columns * (shifted > 0),
                # Below the narrowest shift a bit is cleared by its register.
                "shifted_bits": columns * (ACCUMULATOR_BITS - own[0]) if own else 0,
                "shift_choices": columns * max(0, shifted - 1),
            }
        )
    segments = ceil_div(parsed.columns, lanes)
    drained = ACCUMULATOR_BITS * lanes  # bits of the choice among the segments
    # Adding up a pair costs a LUT a bit, about what a choice among the segments does.
    added_up = ACCUMULATOR_BITS * len(parsed.paired_columns)
    parts.append(
        {
            "select_bits": lanes * index_bits(segments) * (segments > 1),
            "drained_bits": drained * (segments > 1) + added_up,
            "drained_bits_beyond_4": drained * max(0, segments - 4),
            "drained_bits_beyond_6": drained * max(0, segments - 6),
        }
    )
    return added(parts)


def accumulator_memories(groups: str, lanes: int, tile_rows: int) -> list[tuple[int, int]]:
    """Depth and width of each memory: of a strip one of a tile, and one of two of them."""
    depths = (tile_rows, (1 << index_bits(tile_rows)) + tile_rows)
    strips = array_strips(groups, lanes)
    widths = [strip.group.accumulator_bits * strip.columns for strip in strips]
    return [(words, width) for width in widths for words in depths]


def accumulator_features(
    *, rows: int, groups: str, tile_rows: int, requantise_lanes: int = 0
) -> Features:
    """The accumulators' memories, which end in a register."""
    memories = accumulator_memories(groups, requantise_lanes or rows // 2, tile_rows)
    choices = [block_ram_features(words=words, width=w, enables=1) for words, w in memories]
    return added([{"registers": sum(width for _, width in memories)}, *choices])


def accumulator_blocks(
    *, rows: int, groups: str, tile_rows: int, requantise_lanes: int = 0
) -> float:
    """Block RAMs of the accumulators."""
    memories = accumulator_memories(groups, requantise_lanes or rows // 2, tile_rows)
    return sum(block_ram(*memory).bram36 for memory in memories)


def block_ram_features(*, words: int, width: int, enables: int) -> Features:
    """Of one memory: the choice among blocks that lie one behind the other, none for a single one.

    The multiplexers that Yosys makes cost an uneven number of LUTs, so that the frequent ones have
    a coefficient each.
    """
    stacked = block_ram(words, width, enables=enables).stacked
    if stacked == 1:
        return {}
    many = stacked > MOST_STACKED
    return {
        "address_bits": (stacked - 1).bit_length(),
        "enables": stacked * enables,
        "bits_of_many" if many else f"bits_of_{stacked}": width * stacked if many else width,
    }


# What feeds it ----------------------------------------------------------------------------------


def stationary_features(*, rows: int, groups: str) -> Features:
    """Operands of attention, and the registers in front of the array."""
    parsed = _parsed(groups)
    wide = parsed.attention_columns
    value_columns = _value_columns(rows, parsed)
    words, width = _corner_memory(rows, wide)
    squares = width // 8
    in_luts = words <= LUT_WORDS
    # A rotator is a ladder of 2:1 multiplexers; a LUT holds two steps of it.
    steps = ceil_div(index_bits(rows), 2)
    narrow = [group for group in parsed if group.weight_bits < 8]
    return {
        "constant": 1,
        "rows": rows,
        "columns": wide,
        "row_bits": index_bits(rows),
        "squares": squares,
        # One in front of the memories, one behind each square.
        "rotators": (1 + squares) * 8 * rows * steps,
        "corner_memories": rows * lut_ram(words, width, enables=squares).lut if in_luts else 0,
        # Beside the corner turn a row of every other group's cells.
        "corner_registers": 8 * rows * (1 + squares * in_luts)
        + 8 * wide
        + sum(group.columns * group.cell_bits for group in narrow),
        "kept_bits": 8 * max(0, value_columns - rows),
    }


def _corner_memory(rows: int, columns: int) -> tuple[int, int]:
    """Depth and width of the memories of the corner turn, one a row: a byte for R columns each."""
    return 2 << index_bits(min(rows, columns)), 8 * ceil_div(columns, rows)


def stationary_blocks(*, rows: int, groups: str) -> float:
    """Block RAMs of the corner turn, if LUTs are not deep enough."""
    words, width = _corner_memory(rows, _parsed(groups).attention_columns)
    return rows * block_ram(words, width, enables=width // 8).bram36 if words > LUT_WORDS else 0


def stationary_dsps(*, rows: int, groups: str) -> int:
    """The address of the next tile of V."""
    return int(has_odd_factor(max(1, _value_columns(rows, _parsed(groups)) // rows)))


def planes_features(*, rows: int, groups: str, wide_beat_bits: int) -> Features:
    """Two blocks a group in registers, the choice of a row of the one that is handed out, order."""
    parts: list[Features] = []
    blocks = 0
    for group in _parsed(groups):
        block_rows = min(rows, max(1, wide_beat_bits // group.columns))
        blocks += ceil_div(rows, block_rows)
        word = group.columns * group.cell_bits
        # The multiplexers that Yosys makes cost an uneven number of LUTs; beyond what was counted
        # they are trees of the largest.
        trees = max(1, block_rows / _BLOCK_ROWS[-1])
        largest = min(block_rows, _BLOCK_ROWS[-1])
        chosen = f"bits_of_{next(count for count in _BLOCK_ROWS if count >= largest)}"
        parts.append(
            {
                "groups": 1,
                "block_bits": word * block_rows,
                "row_bits": index_bits(rows),
                "plane_beats": ceil_div(block_rows * group.columns, wide_beat_bits),
                "block_rows": block_rows,
                **({chosen: word * trees} if block_rows > 1 else {}),
            }
        )
    order = {"constant": 1, "order": blocks, "order_bits": index_bits(blocks)}
    return added([*parts, order])


# What drains it ---------------------------------------------------------------------------------


def drain_features(
    *,
    rows: int,
    requantise_lanes: int,
    groups: str,
    memory_ports: int,
    tile_rows: int,
    softmax_fractional: bool,
    rotation: bool = True,
) -> Features:
    """Lanes, chunks, rotation."""
    segments = ceil_div(_parsed(groups).columns, requantise_lanes)
    positions = rotation_positions(rows, groups, requantise_lanes, rotation=rotation)
    rotated = ACCUMULATOR_BITS * requantise_lanes
    features: dict[str, float] = {
        "constant": 1,
        "rows": rows,
        "lanes": requantise_lanes,
        "segment_bits": index_bits(segments),
        "ports": memory_ports,
        "rotated_bits": rotated * (positions > 1),
        "rotated_bits_again": rotated * (positions > 4),
    }
    if softmax_fractional:
        features |= {
            "row_shift": 1,
            "row_shift_lanes": requantise_lanes,
            "row_shift_bits": index_bits(tile_rows),
        }
    return features
