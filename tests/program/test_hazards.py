# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import ProgramError
from hwgen.isa.instructions import Engine
from hwgen.program.hazards import Access, HazardTracker


def words(access: Access) -> set[int]:
    return {
        access.base + s * access.stride + t
        for s in range(access.slice0, access.slice1)
        for t in range(access.token0, access.token1)
    }


def random_access(rng: np.random.Generator) -> Access:
    """Rectangles of one of three layouts of a bank."""
    base, stride, slices, tokens = [(0, 10, 6, 10), (0, 4, 9, 4), (30, 5, 6, 5)][rng.integers(3)]
    s = sorted(rng.choice(slices + 1, 2, replace=False).tolist())
    t = sorted(rng.choice(tokens + 1, 2, replace=False).tolist())
    return Access(0, base, stride, *s, *t, bool(rng.integers(2)))


def test_overlap_is_never_missed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        a, b = random_access(rng), random_access(rng)
        if words(a) & words(b):
            assert a.overlaps(b)
        elif (a.base, a.stride) == (b.base, b.stride):
            assert not a.overlaps(b)
        if a.covers(b):
            assert words(a) >= words(b)


def test_thresholds_order_every_conflict() -> None:
    """Whatever is pruned: each conflicting pair of engines is ordered through some chain."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        tracker = HazardTracker()
        issued: list[tuple[Engine, int, Access]] = []
        before: list[set[int]] = []  # instructions that are certainly complete
        for number in range(60):
            engine = Engine(rng.integers(len(Engine)))
            access = random_access(rng)
            waits = tracker.issue(engine, (access,))
            done: set[int] = set()
            for other, (e, count, _) in enumerate(issued):
                if e == engine or count <= waits[e]:
                    done |= {other} | before[other]
            for other, (_, _, earlier) in enumerate(issued):
                if access.write or earlier.write:
                    assert not (words(access) & words(earlier)) or other in done, number
            before.append(done)
            issued.append((engine, tracker.counts[engine], access))


def test_thresholds_have_16_bits() -> None:
    tracker = HazardTracker()
    tracker.counts[Engine.LOAD] = (1 << 16) - 1
    with pytest.raises(ProgramError, match="must be at most 65535, not 65536"):
        tracker.issue(Engine.LOAD, ())
