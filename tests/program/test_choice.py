# SPDX-License-Identifier: Apache-2.0
"""Preferences of the order of the work, and the choice among them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hwgen.columns import dense
from hwgen.errors import DoesNotFitError
from hwgen.explore.evaluate import Problem, frame_cycles
from hwgen.explore.space import Candidate
from hwgen.graph.network import network_of
from hwgen.isa.instructions import Engine
from hwgen.program import choice
from hwgen.program.buffer_plan import preset_config
from hwgen.program.choice import lower_fastest, preferences
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.hazards import Access
from hwgen.program.lower import lower
from hwgen.program.schedule import Draft, Item, Kind, Preference, schedule

from .graphs import random_graph
from .test_lowering import MODELS
from .test_several_frames import check

MEMORY = MemoryModel(bytes_per_cycle=16, latency=20)
#: Two row blocks, or one; two images in flight, or one: every list of preferences.
LISTS = [(1, 1), (1, 2), (2, 2)]


def compiled(blocks: int, in_flight: int):
    """A graph, a design for it, and how four images are run on that."""
    graph = random_graph(MODELS["long"], 1)
    options = {"blocks": blocks, "frames": 4, "in_flight": in_flight}
    return graph, preset_config(graph, rows=16, groups=dense(8), **options), options


def item(kind: Kind, base: int, read: int | None = None) -> Item:
    """A matmul that writes a word, and perhaps reads one."""
    accesses = [Access(0, base, 1, 1, 1, write=True)]
    if read is not None:
        accesses.append(Access(0, read, 1, 1, 1, write=False))
    draft = Draft(opcode="MATMUL", fields={}, accesses=tuple(accesses))
    return Item(engine=Engine.MATMUL, drafts=[draft], kind=kind, cycles=100, tail_cycles=20)


def test_what_is_preferred_goes_first_where_nothing_forbids_it() -> None:
    items = [
        item(Kind.OTHER, 0),
        item(Kind.LINEAR, 1),
        item(Kind.OTHER, 2),
        item(Kind.ATTENTION, 3),
        item(Kind.ATTENTION, 4, read=3),
    ]
    assert schedule(items) == [0, 1, 2, 3, 4]
    assert schedule(items, Preference(attention=2)) == [0, 1, 3, 2, 4]
    assert schedule(items, Preference(linear=2)) == [1, 0, 2, 3, 4]
    # The last one waits for the drain of the one before: the array does something else meanwhile.
    assert schedule(items, Preference(attention=4)) == [3, 0, 4, 1, 2]


def test_a_preference_reaches_no_further_than_the_scheduler_looks() -> None:
    with pytest.raises(AssertionError):
        Preference(attention=1000)


@pytest.mark.parametrize(("frames", "in_flight", "blocks"), [(1, 1, 1), (1, 1, 2), (4, 1, 2)])
def test_nothing_is_tried_but_the_canonical_order(frames: int, in_flight: int, blocks: int) -> None:
    assert preferences(frames, in_flight, blocks) == (Preference(),)


@pytest.mark.parametrize(("blocks", "in_flight"), LISTS)
def test_the_canonical_order_is_the_first_of_several(blocks: int, in_flight: int) -> None:
    tried = preferences(4, in_flight, blocks)
    assert tried[0] == Preference()
    assert len(set(tried)) == len(tried) > 1


@pytest.mark.parametrize(("blocks", "in_flight"), LISTS)
def test_every_preference_computes_the_same(blocks: int, in_flight: int) -> None:
    graph, config, options = compiled(blocks, in_flight)
    for preference in preferences(4, in_flight, blocks):
        check(graph, lower(graph, config, **options, preference=preference), seeds=(None, 1))


@pytest.mark.parametrize("memory", [MEMORY, MemoryModel(bytes_per_cycle=4, latency=200)])
@pytest.mark.parametrize(("blocks", "in_flight"), LISTS)
def test_the_fewest_cycles_win(blocks: int, in_flight: int, memory: MemoryModel) -> None:
    graph, config, options = compiled(blocks, in_flight)
    cycles = [
        predict(lower(graph, config, **options, preference=preference), memory).cycles
        for preference in preferences(4, in_flight, blocks)
    ]
    program = lower_fastest(graph, config, memory, **options)
    assert predict(program, memory).cycles == min(cycles)
    assert min(cycles) < cycles[0]


def test_the_program_is_the_one_that_was_tried() -> None:
    """Whole or a skeleton, and again: the same instructions, and the same bytes."""
    graph, config, options = compiled(1, 2)
    first, again = (lower_fastest(graph, config, MEMORY, **options) for _ in range(2))
    skeleton = lower_fastest(graph, config, MEMORY, **options, skeleton=True)
    assert first.image == again.image != skeleton.image == b""
    assert first.instructions == again.instructions == skeleton.instructions
    assert first.labels == skeleton.labels


def test_of_equal_ones_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, config, options = compiled(1, 2)
    monkeypatch.setattr(choice, "predict", lambda *_: SimpleNamespace(cycles=1))
    program = lower_fastest(graph, config, MEMORY, **options, skeleton=True)
    assert program.labels == lower(graph, config, **options, skeleton=True).labels


def test_what_does_not_fit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pieces are more instructions; only the canonical order's must fit."""
    graph, config, options = compiled(1, 2)
    whole = lower(graph, config, **options, skeleton=True)

    def limited(*args, preference: Preference, **rest):
        if preference.pieces:
            raise DoesNotFitError("instructions of MATMUL", 2, 1, levers=("fewer",))
        return lower(*args, preference=preference, **rest)

    monkeypatch.setattr(choice, "lower", limited)
    program = lower_fastest(graph, config, MEMORY, **options, skeleton=True)
    assert program.labels == whole.labels
    monkeypatch.setattr(choice, "preferences", lambda *_: (Preference(pieces=2), Preference()))
    with pytest.raises(DoesNotFitError):
        lower_fastest(graph, config, MEMORY, **options, skeleton=True)


def test_an_exploration_counts_what_would_be_emitted() -> None:
    spec = MODELS["long"]
    problem = Problem(spec=spec, memory=MEMORY, fixed={}, frames_per_start=4, frames_in_flight=2)
    candidate = Candidate(
        rows=16, groups=dense(8), memory_ports=1, softmax_vec=16, requantise_lanes=8,
        layernorm_lanes=8, row_blocks=1,
    )  # fmt: skip
    config = candidate.config(spec, {}, 4, 2)
    program = lower_fastest(
        network_of(spec), config, MEMORY, skeleton=True, blocks=1, frames=4, in_flight=2
    )
    assert frame_cycles(problem, candidate) == predict(program, MEMORY).frame_cycles
    canonical = lower(network_of(spec), config, skeleton=True, blocks=1, frames=4, in_flight=2)
    assert frame_cycles(problem, candidate) < predict(canonical, MEMORY).frame_cycles
