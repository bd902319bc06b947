# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pytest

from hwgen.columns import dense
from hwgen.config import BANK_ROLES
from hwgen.errors import ProgramError
from hwgen.isa.instructions import OFFSET_BITS, Engine, Instruction
from hwgen.program import interpreter
from hwgen.program.buffer_plan import preset_config
from hwgen.program.hazards import Access, HazardTracker
from hwgen.program.lower import lower
from hwgen.program.machine import ACCESSES, EXECUTE
from hwgen.program.machine.state import Machine

from .graphs import random_graph, random_image
from .test_lowering import MODELS


def words(access: Access) -> set[int]:
    return {
        access.base + s * access.stride + t
        for s in range(access.slices)
        for t in range(access.tokens)
    }


def random_access(rng: np.random.Generator) -> Access:
    """Rectangles of one of three layouts of a bank, or words behind each other."""
    base, stride, slices, tokens = [(0, 10, 6, 10), (0, 4, 9, 4), (30, 5, 6, 5)][rng.integers(3)]
    s = sorted(rng.choice(slices + 1, 2, replace=False).tolist())
    t = sorted(rng.choice(tokens + 1, 2, replace=False).tolist())
    first, write = base + s[0] * stride + t[0], bool(rng.integers(2))
    if rng.integers(4) == 0:
        return Access(0, first, 0, 1, int(rng.integers(1, 20)), write)
    return Access(0, first, stride, s[1] - s[0], t[1] - t[0], write)


def test_overlap_is_never_missed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        a, b = random_access(rng), random_access(rng)
        if words(a) & words(b):
            assert a.overlaps(b)
        elif a.stride == b.stride or 1 in (a.slices, b.slices):
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


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("columns", [12, 16, 32])
@pytest.mark.parametrize("model", ["tiny", "odd", "mean", "colour"])
def test_accesses_are_the_words_that_the_engines_touch(
    model: str, columns: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hazards follow from, against what the program interpreter reads and writes."""
    graph = random_graph(MODELS[model], 1)
    config = preset_config(graph, rows=16, groups=dense(columns), softmax_vec=8, frames=frames)
    program = lower(graph, config, frames=frames)
    touched: dict[int, set[tuple[bool, int]]] = {}
    at_work: list[int] = []
    span = Machine.span

    def recorded(
        self: Machine, address: int, stride: int, slices: int, tokens: int
    ) -> tuple[int, np.ndarray]:
        bank, offsets = span(self, address, stride, slices, tokens)
        if at_work:
            write = sys._getframe(1).f_code.co_name.startswith("write")
            for offset in np.ravel(offsets).tolist():
                touched.setdefault(at_work[-1], set()).add((write, bank << OFFSET_BITS | offset))
        return bank, offsets

    def watched(execute):
        def run(machine: Machine, instruction: Instruction):
            steps = execute(machine, instruction)
            while True:
                at_work.append(id(instruction))
                try:
                    condition = next(steps)
                except StopIteration:
                    return
                finally:
                    at_work.pop()
                yield condition

        return run

    monkeypatch.setattr(Machine, "span", recorded)
    monkeypatch.setattr(
        interpreter, "EXECUTE", {engine: watched(run) for engine, run in EXECUTE.items()}
    )
    runner = interpreter.ProgramInterpreter(program)
    images = np.stack([random_image(graph.spec, seed) for seed in range(frames)])
    runner.run(images if frames > 1 else images[0], boundaries=False)
    for instruction in runner.instructions:
        if instruction.engine is None:
            continue
        stated = {
            (access.write, access.bank << OFFSET_BITS | word)
            for access in ACCESSES[instruction.engine](
                config, instruction.opcode, instruction.fields
            )
            if access.bank < len(BANK_ROLES)
            for word in words(access)
        }
        assert touched.get(id(instruction), set()) == stated, instruction


def test_thresholds_have_16_bits() -> None:
    tracker = HazardTracker()
    tracker.counts[Engine.LOAD] = (1 << 16) - 1
    with pytest.raises(ProgramError, match="must be at most 65535, not 65536"):
        tracker.issue(Engine.LOAD, ())
