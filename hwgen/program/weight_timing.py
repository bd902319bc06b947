# SPDX-License-Identifier: Apache-2.0
"""When the blocks of packed weights reach the array: the timing of the hardware's WeightPlanes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from hwgen.config import AcceleratorConfig
from hwgen.program.weight_planes import TileFormat, pass_blocks

#: A block of a pass: its group, its chain rows, its wide beats.
BlockSize = tuple[int, int, int]

_LONG_AGO = -(1 << 40)


@dataclass(frozen=True, kw_only=True)
class PassTiming:
    """Cycles of a pass of weights, at its two extremes."""

    beats: int  #: wide beats
    #: All beats are there in time: the swap that frees the shadow registers -> full.
    full: int
    #: The same: the swap -> the pass's last beat is taken. None: it is taken before the swap.
    taken: int | None
    #: The shadow registers are free in time: the pass's last beat is taken -> full.
    tail: int


def pass_schedule(blocks: tuple[BlockSize, ...], *, beats_from: int, swap: int) -> tuple[int, int]:
    """The cycle of a pass's last beat, and the one from which it is full.

    Args:
        blocks: of the pass in their order.
        beats_from: from this cycle on there is a beat in every cycle.
        swap: rows go to the shadow registers after this cycle.
    """
    # A group's block arrives, is copied in the cycle after its last beat or with the last row of
    # the block before, and hands out its rows from the next cycle on. The first beat of the next
    # one may be taken with the copy.
    copied: defaultdict[int, int] = defaultdict(lambda: _LONG_AGO)
    last_row: defaultdict[int, int] = defaultdict(lambda: _LONG_AGO)
    cycle = beats_from
    for group, rows, beats in blocks:
        cycle = max(cycle, copied[group]) + beats
        copied[group] = max(cycle, last_row[group])
        last_row[group] = max(copied[group], swap) + rows
    return cycle - 1, max(last_row.values()) + 1


@cache
def pass_timing(blocks: tuple[BlockSize, ...]) -> PassTiming:
    """Timing of a pass whose blocks are given in their order."""
    taken, full = pass_schedule(blocks, beats_from=_LONG_AGO, swap=0)
    last, end = pass_schedule(blocks, beats_from=0, swap=_LONG_AGO)
    return PassTiming(
        beats=sum(beats for _, _, beats in blocks),
        full=full,
        taken=taken if taken > 0 else None,
        tail=end - last,
    )


def layer_timing(config: AcceleratorConfig, form: TileFormat) -> PassTiming:
    """Timing of a pass of a layer."""
    blocks = pass_blocks(config, form)
    return pass_timing(tuple((b.group, b.rows, b.planes * b.plane_beats) for b in blocks))
