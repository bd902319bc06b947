# SPDX-License-Identifier: Apache-2.0
"""Which memory primitives Yosys takes for a memory: its rule, without running it.

Yosys (pass memory_libmap, https://github.com/YosysHQ/yosys) weighs every way of building a memory
by a cost and takes the cheapest: a RAMB18 costs 129, a RAMB36 257, a group of eight LUT RAMs 16,
reading among ``n`` stacked primitives half a point per further primitive and bit, writing half a
point per primitive and write enable, a read port 2. The same costs give the same choice here;
the tests hold it against measured memories.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemoryMapping:
    """What one memory becomes."""

    bram36: float  #: blocks of 36 Kbit, a half for a RAMB18
    lut: int  #: LUTs that hold data
    stacked: int  #: primitives one behind the other in the address range
    cost: float  #: by which it was chosen


#: Address bits at a width of 1, widths, cost, BRAM36: RAMB18E2 and RAMB36E2 with one read and one
#: write port. A ninth bit belongs to every byte.
_BLOCKS: tuple[tuple[int, tuple[int, ...], int, float], ...] = (
    (14, (1, 2, 4, 9, 18, 36), 129, 0.5),
    (15, (1, 2, 4, 9, 18, 36, 72), 257, 1),
)
_BYTE = 9
#: Depth and width of eight LUTs as a memory with one read and one write port, and their cost.
_LUT_MEMORIES: tuple[tuple[int, int], ...] = ((32, 14), (64, 7))
#: Words of the deepest one.
LUT_WORDS = 64
_LUT_MEMORY_COST = 16
_LUT_MEMORY_LUTS = 8


def _wiring_cost(stacked: int, width: int, enables: int, readers: int) -> float:
    demultiplexed = stacked * enables if stacked > 1 else 0
    return ((stacked - 1) * width * readers + demultiplexed) / 2 + 2 * readers


def block_ram(words: int, width: int, *, enables: int = 1, readers: int = 1) -> MemoryMapping:
    """The memory in block RAM.

    Args:
        words: depth.
        width: bits of a word.
        enables: write enables, each for ``width / enables`` bits.
        readers: read ports, each with a copy of its own.
    """
    best: MemoryMapping | None = None
    for address_bits, widths, price, blocks in _BLOCKS:
        kept: MemoryMapping | None = None
        for index, unit in enumerate(widths):
            byte = min(_BYTE, unit)
            padded = enables * -(-(width // enables) // byte) * byte
            stacked = -(-words // (1 << (address_bits - index)))
            count = -(-stacked * padded // unit) * readers
            cost = price * count + _wiring_cost(stacked, width, enables, readers)
            # Among the widths of one primitive the costs are compared without their fraction.
            if kept is None or cost < int(kept.cost):
                kept = MemoryMapping(bram36=blocks * count, lut=0, stacked=stacked, cost=cost)
        assert kept is not None
        if best is None or kept.cost < best.cost:
            best = kept
    assert best is not None
    return best


def lut_ram(words: int, width: int, *, enables: int = 1, readers: int = 1) -> MemoryMapping:
    """The memory in LUTs; arguments as :func:`block_ram`."""
    best: MemoryMapping | None = None
    for depth, unit in _LUT_MEMORIES:
        stacked = -(-words // depth)
        groups = enables * -(-(width // enables) // unit)
        cost = _LUT_MEMORY_COST * stacked * width / unit * readers
        cost += _wiring_cost(stacked, width, enables, readers)
        lut = _LUT_MEMORY_LUTS * stacked * groups * readers
        if best is None or cost < best.cost:
            best = MemoryMapping(bram36=0, lut=lut, stacked=stacked, cost=cost)
    assert best is not None
    return best


def cheapest(words: int, width: int, *, enables: int = 1, readers: int = 1) -> MemoryMapping:
    """Block RAM or LUTs, whichever Yosys takes for a memory that says nothing of it."""
    options = (
        lut_ram(words, width, enables=enables, readers=readers),
        block_ram(words, width, enables=enables, readers=readers),
    )
    return min(options, key=lambda option: option.cost)
