# SPDX-License-Identifier: Apache-2.0
"""Random designs of mixed column groups in RTL: every boundary equals the reference.

Groups, widths of the layers, row blocks, ports and softmax are drawn at random; the cycle model is
compared in the same runs.
"""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run_boundaries
from hwgen.program.buffer_plan import preset_config
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.lower import lower
from hwgen.sim.frame import Memory, run_frames

from ..program.frames import frame_setup
from ..program.graphs import random_graph, random_image, spec
from ..program.test_groups import random_design

pytestmark = pytest.mark.verilator

#: Small designs, by their seeds: two to four groups, four of them with pairs, one to four ports,
#: both softmaxes, all numbers of lanes.
SEEDS = (3, 54, 55, 59, 65, 70)
#: Larger ones.
SLOW_SEEDS = range(60)
#: Latency in cycles, bytes per cycle, and the most that the cycle model may be off there, relative:
#: the board's memory, and one that several ports starve at (how they take turns is not in the
#: model, and frames of some thousand cycles wait for little else).
MEMORIES = ((100, 46.67, 0.03), (50, 16.0, 0.07))


def check(graph: IntegerGraph, config: AcceleratorConfig, blocks: int | None = None) -> list[int]:
    """Run a frame with every memory; returns the cycles."""
    program = lower(graph, config, blocks=blocks)
    setup = frame_setup(program, config)
    image = random_image(graph.spec, 1)
    reference = run_boundaries(graph, image)
    cycles = []
    for latency, bandwidth, error in MEMORIES:
        (frame,) = run_frames(setup, image[None], memory=Memory(latency, bandwidth), seed=1).frames
        for tensor, expected in reference.items():
            np.testing.assert_array_equal(frame.boundaries[tensor], expected, err_msg=tensor)
        logits = frame.output[: 2 * program.classes].view("<i2")
        np.testing.assert_array_equal(logits, reference["head"].reshape(-1))
        assert not frame.output[2 * program.classes :].any()  # the rest of the last word
        predicted = predict(program, MemoryModel(bandwidth, latency)).cycles
        assert abs(predicted - frame.cycles) <= error * frame.cycles, (latency, bandwidth)
        cycles.append(frame.cycles)
    return cycles


@pytest.mark.parametrize("seed", SEEDS)
def test_random_designs(seed: int) -> None:
    check(*random_design(seed, rows=16, most=14))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_larger_random_designs(seed: int) -> None:
    check(*random_design(seed, rows=16))


@pytest.mark.slow
def test_narrow_weights_take_fewer_cycles_where_columns_are_narrow() -> None:
    """The same columns; W8 runs on the wide ones or in two slices, W4 on all at once."""
    model = spec(image_size=12, width=48, heads=3, mlp_hidden=192)
    groups = parse_groups("dual:10:8,digits:22:4")
    cycles = {}
    for bits in (8, 4):
        graph = random_graph(model, 7, weight_bits=bits)
        config = preset_config(graph, rows=16, groups=groups, memory_ports=2, requantise_lanes=16)
        cycles[bits] = check(graph, config)
    assert all(4 * narrow < 3 * wide for narrow, wide in zip(cycles[4], cycles[8], strict=True))
