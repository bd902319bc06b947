# SPDX-License-Identifier: Apache-2.0
"""Hazard analysis: which earlier instructions an instruction must wait for.

What an instruction reads and writes follows from its fields, rectangles of words each
(``accesses`` of the modules of :mod:`hwgen.program.machine`). Two accesses conflict when
they overlap and one of them writes; the later one then waits until the earlier one's engine has
completed it. Instructions of one engine follow each other by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hwgen.errors import ProgramError
from hwgen.isa.instructions import OFFSET_BITS, WAIT_BITS, Engine

#: Pseudo banks of small memories: slots of LayerNorm parameters, of tables, of row shifts.
LAYERNORM_SLOTS = 100
TABLE_SLOTS = 102
SHIFT_SLOTS = 104


#: Fields of an instruction by name.
Fields = Mapping[str, int]


class Access(NamedTuple):
    """A rectangle of words of a bank: ``slices`` runs of ``tokens`` words, ``stride`` apart."""

    bank: int
    base: int  #: offset of the first word
    stride: int
    slices: int
    tokens: int
    write: bool
    field: str = ""  #: of the instruction, that has the first word's address; of a slot: none

    @property
    def end(self) -> int:
        """Offset behind the last word."""
        return self.base + (self.slices - 1) * self.stride + self.tokens

    def overlaps(self, other: Access) -> bool:
        """Whether a word may belong to both; exactly, unless both have strides of their own."""
        if self.bank != other.bank or not (self.base < other.end and other.base < self.end):
            return False
        stride = self.stride if other.slices == 1 else other.stride
        if self.slices == other.slices == 1 or (self.slices > 1 and stride != self.stride):
            return True
        # Word i of one run and word j of another are the same where the runs are m strides apart,
        # m * stride = distance + j - i.
        distance = other.base - self.base
        m = max((distance - self.tokens) // stride + 1, 1 - other.slices)
        return m < self.slices and m * stride < distance + other.tokens

    def conflicts(self, other: Access) -> bool:
        """Whether their order matters."""
        return (self.write or other.write) and self.overlaps(other)

    def covers(self, other: Access) -> bool:
        """Whether every word of ``other`` certainly belongs to this one."""
        if self.bank != other.bank:
            return False
        if self.slices == 1 or self.tokens >= self.stride:
            return self.base <= other.base and other.end <= self.end
        if other.slices > 1 and other.stride != self.stride:
            return False
        runs, word = divmod(other.base - self.base, self.stride)
        inside = word + other.tokens <= self.tokens
        return runs >= 0 and inside and runs + other.slices <= self.slices


def words(
    fields: Fields, field: str, *, write: bool, tokens: int, slices: int = 1, stride: int = 0
) -> Access:
    """Access to words from the word address in a field on."""
    bank, base = fields[field] >> OFFSET_BITS, fields[field] & ((1 << OFFSET_BITS) - 1)
    return Access(bank, base, stride, slices, tokens, write, field)


def slot(kind: int, number: int, *, write: bool) -> Access:
    """Access to a whole slot; ``kind``: LAYERNORM_SLOTS, TABLE_SLOTS or SHIFT_SLOTS."""
    return Access(kind + number, 0, 0, 1, 1, write)


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
