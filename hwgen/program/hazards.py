# SPDX-License-Identifier: Apache-2.0
"""Hazard analysis: which earlier instructions an instruction must wait for.

Every instruction says which rectangles of words it reads and writes. Two accesses conflict when
they overlap and one of them writes; the later one then waits until the earlier one's engine has
completed it. Instructions of one engine follow each other by themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from hwgen.errors import ProgramError
from hwgen.isa.instructions import WAIT_BITS, Engine

#: Pseudo banks of small memories: slots of LayerNorm parameters, of tables, of row shifts.
LAYERNORM_SLOTS = 100
TABLE_SLOTS = 102
SHIFT_SLOTS = 104


class Access(NamedTuple):
    """A rectangle of words of a bank: slices [slice0, slice1) x tokens [token0, token1)."""

    bank: int
    base: int
    stride: int
    slice0: int
    slice1: int
    token0: int
    token1: int
    write: bool

    @property
    def first(self) -> int:
        """Offset of the first word."""
        return self.base + self.slice0 * self.stride + self.token0

    @property
    def end(self) -> int:
        """Offset behind the last word."""
        return self.base + (self.slice1 - 1) * self.stride + self.token1

    def overlaps(self, other: Access) -> bool:
        """Whether a word may belong to both."""
        if self.bank != other.bank:
            return False
        if self.base == other.base and self.stride == other.stride:
            return (
                self.slice0 < other.slice1
                and other.slice0 < self.slice1
                and self.token0 < other.token1
                and other.token0 < self.token1
            )
        return self.first < other.end and other.first < self.end

    def conflicts(self, other: Access) -> bool:
        """Whether their order matters."""
        return (self.write or other.write) and self.overlaps(other)

    def covers(self, other: Access) -> bool:
        """Whether every word of ``other`` certainly belongs to this one."""
        return (
            self.bank == other.bank
            and self.base == other.base
            and self.stride == other.stride
            and self.slice0 <= other.slice0
            and self.slice1 >= other.slice1
            and self.token0 <= other.token0
            and self.token1 >= other.token1
        )


def slot_access(kind: int, slot: int, write: bool) -> Access:
    """Access to a whole slot; ``kind``: LAYERNORM_SLOTS, TABLE_SLOTS or SHIFT_SLOTS."""
    return Access(kind + slot, 0, 1, 0, 1, 0, 1, write)


class HazardTracker:
    """Turns accesses in program order into wait thresholds."""

    def __init__(self) -> None:
        """Start with nothing issued."""
        self.counts = [0] * len(Engine)
        self._history: dict[int, list[tuple[Engine, int, Access]]] = {}

    def issue(self, engine: Engine, accesses: tuple[Access, ...]) -> tuple[int, ...]:
        """Wait thresholds of the next instruction of ``engine``.

        Raises:
            ProgramError: a threshold beyond the field.
        """
        waits = [0] * len(Engine)
        number = self.counts[engine] + 1
        for access in accesses:
            for other, count, earlier in self._history.get(access.bank, ()):
                if other != engine and count > waits[other] and access.conflicts(earlier):
                    waits[other] = count
        for access in accesses:
            history = self._history.setdefault(access.bank, [])
            # What this access supersedes: whoever waits for it has waited for those too.
            history[:] = [
                (other, count, earlier)
                for other, count, earlier in history
                if not (
                    access.covers(earlier)
                    and (access.write or (other == engine and not earlier.write))
                    and count != number
                )
            ]
            history.append((engine, number, access))
        self.counts[engine] = number
        limit = (1 << WAIT_BITS) - 1
        if max(waits) > limit or number > limit:
            raise ProgramError(
                f"Instructions of an engine must be at most {limit}, not {max(*waits, number)}",
                why="a wait threshold has 16 bits",
            )
        return tuple(waits)
