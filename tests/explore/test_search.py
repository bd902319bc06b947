# SPDX-License-Identifier: Apache-2.0
"""The search against evaluating everything."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hwgen.columns import dense, parse_groups
from hwgen.errors import ConfigError
from hwgen.explore import search as module
from hwgen.explore.evaluate import Problem, frame_cycles
from hwgen.explore.search import (
    DESIGN_SPACE,
    MEMORY,
    PLACEMENT,
    SHOWN,
    TOLERANCE,
    Answer,
    Found,
    Limits,
    Point,
    Search,
)
from hwgen.explore.space import Candidate, Choices, legal_groups, narrow_widths
from hwgen.frontend.models import MODELS
from hwgen.graph.weight_bits import parse_weight_bits
from hwgen.program.cycle_model import MemoryModel

pytestmark = pytest.mark.command

PROBLEM = Problem(
    spec=MODELS["digits"],
    memory=MemoryModel(bytes_per_cycle=46.7, latency=100),
    fixed={},
    weight_bits=parse_weight_bits("4").of(MODELS["digits"]),
)
ROOMY = {"lut": 191_856, "ff": 274_080, "dsp": 2_016, "bram36": 729}
#: A part of the space small enough to evaluate whole.
PART = Choices(
    groups=(
        *map(dense, (8, 16, 32, 64)),
        *map(parse_groups, ("pumped:32:8", "dual:16:8,digits:16:4", "pumped:32:8,digits:16:4")),
        # DRAIN may do without the rotators that it has for layers on the first group alone.
        parse_groups("dual:12:8,tables:4:8,tables:16:4"),
    ),
    memory_ports=(1, 4),
    softmax_vec=(8, 32),
    layernorm_lanes=(8, 32),
    row_blocks=(1, 2),
)


def searching(
    target: float | None = None,
    *,
    resources: Mapping[str, int] | None = None,
    workers: int = 1,
    choices: Choices = PART,
    **more: Any,
) -> Search:
    return Search(
        problem=PROBLEM,
        limits=Limits(
            resources={**ROOMY, **(resources or {})},
            cascades=more.pop("cascades", {16: 152, 32: 76, 64: 29, 128: 11}),
            memory_ports=6,
            clk2x=more.pop("clk2x", True),
        ),
        choices=choices,
        most_macs=8192,
        clock_mhz=300,
        target=target,
        workers=workers,
        **more,
    )


@pytest.fixture(scope="module")
def everything() -> dict[Candidate, int]:
    """Cycles of every design of the part, within limits or not."""
    one = searching()
    points = one._points()
    return {p.candidate: frame_cycles(PROBLEM, p.candidate) for p in points}


@pytest.fixture
def evaluations(
    everything: dict[Candidate, int], monkeypatch: pytest.MonkeyPatch
) -> list[Candidate]:
    """The designs that a search evaluates, ideal ones aside; known ones cost nothing."""
    seen: list[Candidate] = []

    def known(problem: Problem, candidate: Candidate) -> int:
        if problem.memory == PROBLEM.memory and candidate in everything:
            seen.append(candidate)
            return everything[candidate]
        return frame_cycles(problem, candidate)

    monkeypatch.setattr("hwgen.explore.evaluate.frame_cycles", known)
    return seen


def all_found(everything: dict[Candidate, int], one: Search) -> list[Found]:
    return [Found(point=p, cycles=everything[p.candidate]) for p in one._points() if p.fits]


def names(answer: Answer) -> list[tuple[Candidate, int]]:
    return [(one.point.candidate, one.cycles) for one in answer.designs]


@pytest.mark.parametrize("target", [3_000, 12_000, 17_000, 22_000, 26_500])
def test_the_cheapest_design_that_meets_a_target(
    target: float, everything: dict[Candidate, int], evaluations: list[Candidate]
) -> None:
    one = searching(target)
    answer = one.run()
    meeting = [f for f in all_found(everything, one) if f.met_fps >= target]
    meeting.sort(key=lambda f: (f.point.cost, f.cycles, f.point.candidate))
    assert answer.feasible
    assert names(answer) == [(f.point.candidate, f.cycles) for f in meeting[:SHOWN]]
    assert len(evaluations) <= len(everything) / 2
    assert len(evaluations) == len(set(evaluations))


@pytest.mark.parametrize("resources", [{}, {"dsp": 400}, {"bram36": 60}, {"lut": 38_000}], ids=str)
def test_an_infeasible_target_names_the_fastest_design(
    resources: dict[str, int], everything: dict[Candidate, int], evaluations: list[Candidate]
) -> None:
    one = searching(1e6, resources=resources)
    answer = one.run()
    assert not answer.feasible
    assert not answer.designs
    assert answer.best is not None
    fastest = min(
        all_found(everything, one), key=lambda f: (f.cycles, f.point.cost, f.point.candidate)
    )
    assert answer.best.point.candidate == fastest.point.candidate
    for name in resources:
        assert answer.binding == name
        assert answer.beyond is not None
        assert answer.beyond.cycles < answer.best.cycles
        assert answer.beyond.point.overrun > 1


def test_columns_at_twice_the_clock_are_proposed_by_cascades() -> None:
    """As many as can be placed, and what leaves DSPs for lanes; alone and before narrow columns."""
    both = legal_groups(64, 10_080, cascades=29, narrow=(4,), clk2x=True)
    one = legal_groups(64, 10_080, cascades=29, narrow=(4,))
    assert [groups for groups in both if not groups.clk2x] == one
    pumped = {str(groups) for groups in both if groups.clk2x}
    assert pumped >= {
        *(f"pumped:{columns}:8" for columns in (32, 64, 112, 116, 128)),
        *("pumped:112:8,tables:16:8", "pumped:112:8,tables:80:4", "pumped:116:8,tables:76:4"),
        *("pumped:112:8,tables:16:4", "pumped:112:8,tables:48:4", "pumped:64:8,tables:64:4"),
    }
    # The first beyond the device is there, too, to say what binds; nothing is behind it.
    assert not any(text.startswith(("pumped:128:8,", "pumped:120")) for text in pumped)
    assert not pumped & {"pumped:64:8,tables:32:4", "pumped:116:8,tables:12:4"}
    assert all(groups.columns % 4 == 0 for groups in both if groups.clk2x)
    assert any(g.clk2x for g in legal_groups(64, 10_080, clk2x=True))  # heights are not known


def test_narrow_columns_are_of_the_cheaper_kind() -> None:
    """Digits to two bits, tables from three; digits of 4 bits for what runs in slices, too."""
    for narrow, kinds in (
        ((1,), {"digits:1"}),
        ((2,), {"digits:2"}),
        ((3,), {"tables:3"}),
        ((4,), {"tables:4"}),
        (narrow_widths([8, 6]), {"tables:4", "tables:6", "digits:4"}),
    ):
        groups = legal_groups(64, 10_080, cascades=29, narrow=narrow)
        last = {(g[-1].kind, g[-1].weight_bits) for g in groups if g[-1].weight_bits < 8}
        assert {f"{kind}:{bits}" for kind, bits in last} == kinds
    wide = legal_groups(64, 10_080, cascades=29)
    assert "dual:56:8,tables:8:8" in map(str, wide)


def test_what_is_better_for_the_target_is_chosen(
    everything: dict[Candidate, int], evaluations: list[Candidate]
) -> None:
    """Columns at twice the clock where they cost less or are the only ones that are fast enough."""
    without = dataclasses.replace(PART, groups=tuple(g for g in PART.groups if not g.clk2x))
    kinds = set()
    for target in (3_000, 17_000, 26_500):
        best, other = (searching(target, choices=c).run().designs[0] for c in (PART, without))
        assert (best.point.cost, best.cycles) <= (other.point.cost, other.cycles)
        kinds.add(best.point.config.clk2x)
    assert kinds == {False, True}


def test_placement_can_bind(everything: dict[Candidate, int], evaluations: list[Candidate]) -> None:
    answer = searching(1e6, cascades={16: 8, 32: 4, 64: 2, 128: 0}).run()
    assert answer.binding == PLACEMENT
    unknown = searching(1e6, cascades=dict.fromkeys((16, 32, 64, 128))).run()
    assert unknown.binding != PLACEMENT
    assert unknown.best is not None
    assert answer.best is not None
    assert unknown.best.cycles < answer.best.cycles


def beats(one: Found, other: Found) -> bool:
    """Costs no more LUT, DSP, block RAM and is as fast, and not the same in all."""
    a, b = (*one.point.axes, one.cycles), (*other.point.axes, other.cycles)
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def covers(one: Found, other: Found) -> bool:
    cheaper = all(x <= y for x, y in zip(one.point.axes, other.point.axes, strict=True))
    return cheaper and one.cycles <= (1 + TOLERANCE) * other.cycles


def test_the_front_is_the_front_of_everything(
    everything: dict[Candidate, int], evaluations: list[Candidate]
) -> None:
    one = searching()
    answer = one.run()
    found = all_found(everything, one)
    assert len(answer.designs) > 4
    for design in answer.designs:
        assert not any(beats(other, design) for other in answer.designs)
    # Nothing that was left out is more than the tolerance faster than what costs no more.
    assert all(any(covers(design, other) for design in answer.designs) for other in found)
    # The same without any bound.
    kept: list[Found] = []
    module._keep(sorted(found, key=lambda f: module._front_order(f.point)), kept)
    module._finish_front(kept)
    assert names(answer) == [(f.point.candidate, f.cycles) for f in kept]
    assert len(evaluations) < len(found)


def test_a_bound_that_is_none_is_noticed(
    everything: dict[Candidate, int],
    evaluations: list[Candidate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = names(searching().run())
    monkeypatch.setattr("hwgen.explore.search.cycle_bound", lambda *_: 100_000)
    assert names(searching().run()) != expected


def test_rotators_are_left_out_where_all_tiles_can_do_without_them() -> None:
    points = {point.candidate: point for point in searching()._points()}
    without = [candidate for candidate in points if not candidate.rotation]
    arrays = {(one.rows, str(one.groups)) for one in without}
    assert (16, "dual:12:8,tables:4:8,tables:16:4") in arrays
    # V would be rotated there, and nothing ever here.
    assert not {(16, "pumped:32:8,digits:16:4"), (64, "dual:12:8,tables:4:8,tables:16:4")} & arrays
    for one in without:
        with_them = points[dataclasses.replace(one, rotation=True)]
        assert points[one].resources.lut < with_them.resources.lut
        assert one.relaxed == with_them.candidate.relaxed


@pytest.mark.parametrize("target", [None, 22_000, 1e6])
def test_the_answer_does_not_depend_on_the_workers(target: float | None) -> None:
    few = Choices(
        rows=(16, 32),
        columns=(16, 32, 64),
        memory_ports=(1, 4),
        softmax_vec=(8, 32),
        layernorm_lanes=(8,),
    )
    answers = [searching(target, choices=few, workers=count).run() for count in (1, 2, 3)]
    first = answers[0]
    for other in answers[1:]:
        assert names(other) == names(first)
        assert other.designs_evaluated == first.designs_evaluated
        assert other.binding == first.binding
        assert (other.best is None) == (first.best is None)
        assert other.best is None or other.best.cycles == first.best.cycles  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "after", "found"),
    [
        *((None, 0, False), (None, 1, False), (None, 10, True)),
        *((10_000, 0, False), (10_000, 1, False), (10_000, 7, True)),
    ],
)
def test_an_interrupt_keeps_what_was_found(
    target: float | None,
    after: int,
    found: bool,
    everything: dict[Candidate, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted() -> Iterator[int]:
        for number in range(10_000):
            if number == after:
                raise KeyboardInterrupt
            yield number

    clock = interrupted()

    def evaluate(problem: Problem, candidate: Candidate) -> int:
        next(clock)
        if problem.memory == PROBLEM.memory:
            return everything[candidate]
        return frame_cycles(problem, candidate)

    monkeypatch.setattr("hwgen.explore.evaluate.frame_cycles", evaluate)
    answer = searching(target).run()
    assert answer.interrupted
    assert answer.designs_evaluated == after
    assert bool(answer.designs) == found
    for one in answer.designs:
        assert one.cycles == everything[one.point.candidate]
        assert target is None or one.met_fps >= target


def test_what_binds_where_no_design_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = dict.fromkeys(ROOMY, 1_000_000)
    room = dict.fromkeys((16, 32, 64, 128), 1_000_000)
    answer = searching(1e6, resources=plenty, cascades=room).run()
    assert (answer.beyond, answer.binding) == (None, DESIGN_SPACE)
    starved = dataclasses.replace(PROBLEM, memory=MemoryModel(bytes_per_cycle=4, latency=100))
    monkeypatch.setattr(sys.modules[__name__], "PROBLEM", starved)
    answer = searching(1e6, resources=plenty, cascades=room).run()
    assert (answer.beyond, answer.binding) == (None, MEMORY)


def test_no_legal_design() -> None:
    with pytest.raises(ConfigError, match="legal"):
        searching(choices=Choices(rows=(64,), columns=(8,))).run()


def test_limits_that_nothing_fits() -> None:
    answer = searching(10, resources={"dsp": 5}).run()
    assert not answer.feasible
    assert answer.best is None
    assert answer.binding == "dsp"


def test_demand_has_the_error_of_the_model_added(monkeypatch: pytest.MonkeyPatch) -> None:
    point: Point = next(iter(searching()._points()))
    monkeypatch.setattr(
        "hwgen.explore.search.model_error",
        lambda: {"lut": 0.5, "ff": 0.0, "dsp": 0.0, "bram36": 0.0},
    )
    assert point.demand["lut"] == pytest.approx(1.5 * point.resources.lut, abs=1)
    assert point.demand["ff"] == point.resources.ff
    assert point.demand["dsp"] == point.resources.dsp
