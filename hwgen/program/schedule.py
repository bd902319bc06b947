# SPDX-License-Identifier: Apache-2.0
"""Order of the work: list scheduling of items on a coarse model of the engines.

An *item* is a piece of work that stays together: a matmul with its loads, stationary operand and
drain; one softmax; one LayerNorm. Items come in a canonical order that is a valid sequential order.
Any order that keeps the conflicts of the canonical one is valid too; among those the scheduler
takes, whenever the array becomes free, the first item that can start at once, so that softmax,
LayerNorm and drains of one row block hide behind the array working on another. The times here are
estimates and decide nothing but speed. Which item is the first can be chosen, too: a
:class:`Preference` moves kinds of work forward, and cuts layers into more or fewer items. No
preference is the best for every design, so that :mod:`hwgen.program.choice` tries some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from hwgen.isa.instructions import Engine
from hwgen.program.hazards import Access


@dataclass(kw_only=True)
class Draft:
    """An instruction before its wait thresholds are known."""

    opcode: str
    fields: dict[str, int]
    accesses: tuple[Access, ...] = ()  #: from the fields, when all is lowered
    label: str = ""
    relocate: bool = False  #: the address counts from the data of the image
    #: Of an external address: how much further the next frame's is.
    frame_stride: int = 0
    #: Whether its destination has a row for each of several frames.
    row_per_frame: bool = False
    #: Boundary pieces that are complete with it: (tensor, fields of Part without engine and count).
    parts: tuple[tuple[str, dict[str, Any]], ...] = ()


class Kind(Enum):
    """What a preference tells apart."""

    OTHER = auto()
    ATTENTION = auto()  #: a product of activations: attention logits, the weighted sum of v
    LINEAR = auto()  #: a linear layer, but those of q, k and v


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What the scheduler prefers among the matmuls that can start at once.

    Results do not depend on it. ``attention`` and ``linear`` say how many places such an item goes
    in front of its canonical one; fewer than the scheduler looks ahead.
    """

    #: Of the tiles of a layer that serve all tokens; None: one with one row block, else three.
    #: Short pieces fill the time that the array would wait for a vector unit.
    pieces: int | None = None
    attention: int = 0
    linear: int = 0

    def __post_init__(self) -> None:
        """The first item in canonical order is always ready: it must be looked at."""
        assert max(self.attention, self.linear) < _WINDOW

    def order(self, items: Sequence[Item]) -> list[int]:
        """Numbers of the items, the preferred ones first."""
        ahead = {Kind.OTHER: 0, Kind.ATTENTION: self.attention, Kind.LINEAR: self.linear}
        return sorted(range(len(items)), key=lambda number: number - ahead[items[number].kind])


@dataclass(kw_only=True)
class Item:
    """A piece of work; ``engine`` MATMUL, SOFTMAX, LAYERNORM, LOAD or STORE."""

    engine: Engine
    drafts: list[Draft]
    kind: Kind = Kind.OTHER
    cycles: int = 0  #: of the engine
    drain_cycles: int = 0  #: of DRAIN over the whole item
    tail_cycles: int = 0  #: of DRAIN for the last tile
    predecessors: list[tuple[int, bool]] = field(default_factory=list)  #: (item, operand of start)


#: Cycles between an estimated completion and the start of what waits for it.
_HANDOVER = 8
#: How far beyond the first unfinished item the scheduler looks.
_WINDOW = 96


def find_dependences(items: list[Item]) -> None:
    """Fill in every item's predecessors from the accesses in canonical order.

    The flag of a predecessor is true where the item's array operands (or a vector item's anything)
    depend on what the predecessor writes: then the item cannot start before; otherwise only its
    drain waits.
    """
    history: dict[int, list[tuple[int, Access]]] = {}
    for number, item in enumerate(items):
        found: dict[int, bool] = {}
        accesses = [
            (access, draft.opcode in ("MATMUL", "STATIONARY") or item.engine != Engine.MATMUL)
            for draft in item.drafts
            for access in draft.accesses
        ]
        for access, at_start in accesses:
            for other, earlier in history.get(access.bank, ()):
                if other != number and access.conflicts(earlier):
                    found[other] = found.get(other, False) or (at_start and earlier.write)
        for access, _ in accesses:
            entries = history.setdefault(access.bank, [])
            if access.write:
                entries[:] = [
                    (other, earlier)
                    for other, earlier in entries
                    if other == number or not access.covers(earlier)
                ]
            entries.append((number, access))
        item.predecessors = sorted(found.items())


def schedule(items: list[Item], preference: Preference | None = None) -> list[int]:
    """Numbers of the items in the order in which they are to be issued.

    Args:
        items: in canonical order.
        preference: what goes first; None: the canonical order.
    """
    find_dependences(items)
    matmul_free = drain_free = 0
    vector_free = dict.fromkeys(Engine, 0)
    read_end: dict[int, int] = {}  # when the item's operands have been read
    write_end: dict[int, int] = {}  # when its results are there
    order: list[int] = []
    stuck = False  # there is no matmul that could go out
    waiting = (preference or Preference()).order(items)

    def earliest(item: Item) -> int:
        ends = [write_end[other] for other, at_start in item.predecessors if at_start]
        return max(ends, default=0) + _HANDOVER

    def ready(item: Item) -> bool:
        return all(other in write_end for other, _ in item.predecessors)

    while waiting:
        # Everything that is not a matmul goes out as soon as its predecessors have.
        changed = True
        while changed:
            changed = False
            for number in waiting[:_WINDOW]:
                item = items[number]
                if item.engine == Engine.MATMUL or not ready(item):
                    continue
                ends = [
                    write_end[other] if at_start else read_end[other]
                    for other, at_start in item.predecessors
                ]
                if item.engine == Engine.LOAD and max(ends, default=0) > matmul_free and not stuck:
                    continue  # it would keep the loads behind it waiting
                start = max([vector_free[item.engine], *ends]) + _HANDOVER
                vector_free[item.engine] = start + item.cycles
                read_end[number] = write_end[number] = start + item.cycles
                order.append(number)
                waiting.remove(number)
                changed, stuck = True, False
                break
        best: tuple[int, int] | None = None
        for number in waiting[:_WINDOW]:
            item = items[number]
            if item.engine != Engine.MATMUL or not ready(item):
                continue
            start = max(matmul_free, earliest(item))
            if best is None or start < best[0]:
                best = (start, number)
            if start <= matmul_free + _HANDOVER:
                break
        stuck = best is None
        if best is None:
            continue
        start, number = best
        item = items[number]
        ends = [read_end[other] for other, at_start in item.predecessors if not at_start]
        drain_start = max([drain_free, *ends])
        tail = item.tail_cycles
        read_end[number] = matmul_free = max(
            start + item.cycles, drain_start + item.drain_cycles - 2 * tail
        )
        write_end[number] = drain_free = max(matmul_free + tail, drain_start + item.drain_cycles)
        order.append(number)
        waiting.remove(number)
    return order
