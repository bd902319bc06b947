# SPDX-License-Identifier: Apache-2.0
"""Whole frames of small networks on the emitted Verilog: every layer boundary equals the reference.

The designs differ in what the hardware does not share between them: row blocks (tiles of different
numbers of rows follow each other), columns wider or narrower than rows, memory ports, pooling.
The cycle model is compared in the same runs; its constants were not fitted to these networks.
"""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.columns import dense
from hwgen.graph.interpreter import run_boundaries
from hwgen.isa.instructions import BEAT_BYTES
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.program.buffer_plan import preset_config
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.lower import lower
from hwgen.sim.frame import Memory, run_frames, start_inputs

from ..program.frames import frame_setup
from ..program.graphs import random_graph, random_image, spec

#: Latency in cycles and bytes per cycle: the board's, a slow memory, a narrow one.
MEMORIES = ((100, 46.67), (300, 8.0), (50, 16.0))
#: Most that the cycle model may be off, relative.
MODEL_ERROR = 0.02
#: The same where several ports share a memory of half a beat per cycle: how they take turns there
#: is not in the model, and these frames of some ten thousand cycles wait for little else.
STARVED_ERROR = 0.07

#: Images of a START, where one works on several; the memories hold those of such programs.
FRAMES = 4

DESIGNS = {
    # 197 tokens in two row blocks: tiles of 98, 99 and 197 rows follow each other, so that an
    # accumulator bank released too early is overwritten while it is still being read.
    "blocks": ({"image_size": 28, "width": 64, "head_dim": 32, "mlp_hidden": 96}, (16, 16, 1)),
    "wide": ({"image_size": 16, "pooling": "mean", "class_token": False}, (16, 32, 2)),
    "narrow": ({"image_size": 12, "width": 48, "heads": 3, "channels": 3}, (16, 8, 3)),
    "rows 32": ({"image_size": 20, "width": 80, "heads": 5}, (32, 32, 2)),
}
SLOW = {"wide", "narrow", "rows 32"}
#: The others have the softmax by default, with row shifts.
SOLE = {"narrow"}


@pytest.mark.verilator
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in DESIGNS],
)
def test_every_boundary_equals_the_reference(name: str) -> None:
    changes, (rows, columns, ports) = DESIGNS[name]
    model = spec(**changes)
    softmax = SoftmaxFunction.sole() if name in SOLE else SoftmaxFunction.fractional()
    graph = random_graph(model, seed=7, softmax=softmax)
    config = preset_config(
        graph, rows=rows, groups=dense(columns), memory_ports=ports, frames=FRAMES, in_flight=2
    )
    program = lower(graph, config)
    setup = frame_setup(program, config)
    images = np.stack([random_image(model, seed) for seed in range(2)])
    expected = [run_boundaries(graph, image) for image in images]
    for seed, (latency, bandwidth) in enumerate(MEMORIES):
        results = run_frames(setup, images, memory=Memory(latency, bandwidth), seed=seed + 1)
        for frame, reference in zip(results.frames, expected, strict=True):
            assert frame.boundaries, "the harness must see the layer boundaries"
            for tensor, got in frame.boundaries.items():
                np.testing.assert_array_equal(got, reference[tensor], err_msg=tensor)
            logits = frame.output[: 2 * program.classes].view("<i2")
            np.testing.assert_array_equal(logits, reference["head"].reshape(-1))
            assert not frame.output[2 * program.classes :].any()  # the rest of the last word
            counters = dict(frame.counters)
            assert counters.pop("CYCLES") == frame.cycles == sum(counters.values())
        predicted = predict(program, MemoryModel(bandwidth, latency)).cycles
        measured = max(results.cycles)
        starved = ports > 1 and bandwidth < BEAT_BYTES
        bound = STARVED_ERROR if starved else MODEL_ERROR
        assert abs(predicted - measured) <= bound * measured, (latency, bandwidth)


@pytest.mark.verilator
@pytest.mark.parametrize("in_flight", [1, 2])
def test_several_frames_of_a_start(in_flight: int) -> None:
    """Twice, on the hardware of the test above; the next image comes beside the attention."""
    changes, (rows, columns, ports) = DESIGNS["blocks"]
    model = spec(**changes)
    graph = random_graph(model, seed=7, softmax=SoftmaxFunction.fractional())
    config = preset_config(
        graph, rows=rows, groups=dense(columns), memory_ports=ports, frames=FRAMES, in_flight=2
    )
    program = lower(graph, config, frames=FRAMES, in_flight=in_flight)
    setup = frame_setup(program, config)
    images = np.stack([random_image(model, seed) for seed in range(2 * FRAMES)])
    inputs = start_inputs(setup, images, FRAMES)
    results = run_frames(setup, inputs, memory=Memory(100, 46.67))
    for start, frame in enumerate(results.frames):
        for number in range(FRAMES):
            reference = run_boundaries(graph, images[start * FRAMES + number])
            for tensor, got in frame.boundaries.items():
                np.testing.assert_array_equal(got[number], reference[tensor], err_msg=tensor)
            output = frame.output.reshape(FRAMES, -1)[number]
            logits = output[: 2 * program.classes].copy().view("<i2")
            np.testing.assert_array_equal(logits, reference["head"].reshape(-1))
    predicted = predict(program, MemoryModel(46.67, 100))
    measured = max(results.cycles)
    assert abs(predicted.cycles - measured) <= MODEL_ERROR * measured
    alone = predict(lower(graph, config), MemoryModel(46.67, 100))
    assert predicted.frame_cycles < alone.frame_cycles
