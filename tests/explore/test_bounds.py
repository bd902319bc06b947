# SPDX-License-Identifier: Apache-2.0
"""No design goes below its bound, and every legal design's program finishes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

import pytest

from hwgen.explore.bounds import cycle_bound
from hwgen.explore.evaluate import Problem, frame_cycles
from hwgen.explore.search import ANOMALY
from hwgen.explore.space import Candidate, Choices, candidates
from hwgen.frontend.models import MODELS
from hwgen.graph.spec import ModelSpec
from hwgen.graph.weight_bits import parse_weight_bits
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.lower import lower

pytestmark = pytest.mark.command

#: Programs repeat themselves from block to block: one is enough for what can go wrong in lowering.
SPECS = {
    "digits": MODELS["digits"],
    **{
        name: dataclasses.replace(MODELS[name], depth=1)
        for name in ("deit_tiny", "deit_small", "deit_base")
    },
    "odd": ModelSpec(
        name="odd",
        image_size=84,
        patch=12,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        width=120,
        depth=2,
        heads=5,
        head_dim=20,
        mlp_hidden=200,
        classes=33,
        class_token=False,
        pooling="mean",
    ),
}
MEMORIES = (
    MemoryModel(bytes_per_cycle=14e9 / 300e6, latency=100),
    MemoryModel(bytes_per_cycle=8, latency=300),
)
MOST_MACS = 8192


#: Cascades of the ZCU102.
CASCADES = {16: 152, 32: 76, 64: 29, 128: 11}


def designs(
    spec: ModelSpec, seed: int | None, count: int, narrow: Sequence[int] = ()
) -> Iterator[Candidate]:
    """All of the space, or some of it chosen at random."""
    found = list(
        candidates(
            spec,
            Choices(),
            most_ports=6,
            most_macs=MOST_MACS,
            cascades=CASCADES,
            narrow=narrow,
            clk2x=True,
        )
    )
    return iter(found if seed is None else random.Random(seed).sample(found, count))


def check(
    spec: ModelSpec,
    candidate: Candidate,
    memory: MemoryModel,
    weight_bits: str = "8",
    frames: int = 1,
) -> None:
    widths = parse_weight_bits(weight_bits).of(spec)
    problem = Problem(spec=spec, memory=memory, fixed={}, weight_bits=widths)
    in_flight = 1 + (frames > 2)
    config = candidate.config(spec, {}, frames, in_flight)
    graph = problem.network(config)
    blocks = candidate.row_blocks
    program = lower(graph, config, skeleton=True, blocks=blocks, frames=frames, in_flight=in_flight)
    predicted = predict(program, memory)
    bound = cycle_bound(spec, config, blocks, memory, widths, frames)
    assert bound <= predicted.cycles / frames, candidate
    # It is a bound of the same machine, not any small number: Q, K and V are one layer to it.
    if weight_bits == "8" and frames == 1:
        assert bound >= 0.9 * predicted.array_busy, candidate


@pytest.mark.parametrize("name", SPECS)
def test_bounds_of_some_designs(name: str) -> None:
    for number, candidate in enumerate(designs(SPECS[name], 1, 40)):
        check(SPECS[name], candidate, MEMORIES[number % 2])


#: Widths of weights, and of columns for them.
WIDTHS = (("4", (4,)), ("1", (1,)), ("6,blocks.0.fc1=2", (2, 4, 6)), ("8:58+4:70", (4,)))


@pytest.mark.parametrize("name", SPECS)
def test_bounds_of_narrow_weights(name: str) -> None:
    for number, (text, narrow) in enumerate(WIDTHS):
        for candidate in designs(SPECS[name], number, 6, narrow):
            check(SPECS[name], candidate, MEMORIES[number % 2], text)


@pytest.mark.parametrize("name", ["digits", "deit_tiny"])
def test_bounds_of_several_frames(name: str) -> None:
    for number, candidate in enumerate(designs(SPECS[name], 5, 6, (4,))):
        check(SPECS[name], candidate, MEMORIES[number % 2], "4", frames=2 + 2 * (number % 2))


@pytest.mark.slow
@pytest.mark.parametrize(("text", "narrow"), WIDTHS)
@pytest.mark.parametrize("name", SPECS)
def test_bounds_of_many_narrow_designs(name: str, text: str, narrow: tuple[int, ...]) -> None:
    for candidate in designs(SPECS[name], 9, 300, narrow):
        check(SPECS[name], candidate, MEMORIES[0], text)


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_bounds_of_every_legal_design(name: str, memory: MemoryModel) -> None:
    for candidate in designs(SPECS[name], None, 0):
        check(SPECS[name], candidate, memory)


def below_ideal(spec: ModelSpec, candidate: Candidate, weight_bits: str = "8") -> float:
    """How far a design is below its array's cycles with ideal memory, as a fraction of these."""
    widths = parse_weight_bits(weight_bits).of(spec)
    problem = Problem(spec=spec, memory=MEMORIES[0], fixed={}, weight_bits=widths)
    ideal = frame_cycles(problem.with_ideal_memory(), candidate.relaxed)
    return 1 - frame_cycles(problem, candidate) / ideal


def test_less_work_is_never_much_slower() -> None:
    assert max(below_ideal(MODELS["digits"], c) for c in designs(MODELS["digits"], 2, 40)) < ANOMALY
    small = SPECS["deit_tiny"]
    assert max(below_ideal(small, c) for c in designs(small, 3, 20)) < ANOMALY
    assert max(below_ideal(small, c, "4") for c in designs(small, 3, 20, (4,))) < ANOMALY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_tiny", "deit_small", "deit_base"])
def test_less_work_is_never_much_slower_at_full_depth(name: str) -> None:
    spec = MODELS[name]
    assert max(below_ideal(spec, c) for c in designs(spec, 4, 200)) < ANOMALY
