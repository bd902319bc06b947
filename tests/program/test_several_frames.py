# SPDX-License-Identifier: Apache-2.0
"""Programs that work on several images by one START."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.columns import dense
from hwgen.config import PARAMETERS
from hwgen.errors import DoesNotFitError, ProgramError
from hwgen.graph.interpreter import run_boundaries
from hwgen.program.buffer_plan import preset_config
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.interpreter import run_program
from hwgen.program.lower import lower
from hwgen.program.program import Program
from hwgen.sim.boundaries import parse
from hwgen.sim.compare import compare

from .graphs import random_graph, random_image, spec
from .test_lowering import DESIGNS, MODELS

FRAMES = 3


def check(graph, program: Program, seeds=(None,)) -> None:
    """Run the program on different images and compare every boundary of each."""
    images = np.stack([random_image(graph.spec, seed) for seed in range(program.frames)])
    expected = [run_boundaries(graph, image) for image in images]
    for seed in seeds:
        result = run_program(program, images, seed=seed)
        for number, reference in enumerate(expected):
            got = {name: values[number] for name, values in result.boundaries.items()}
            compare(reference, got, where=f"order {seed}, image {number}")
            output = {"output": reference[graph.output.name][0]}
            compare(output, {"output": result.logits[number]})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("rows", "columns", "blocks"), DESIGNS[:4])
def test_every_boundary_of_every_frame(
    model: str, rows: int, columns: int, blocks: int | None
) -> None:
    graph = random_graph(MODELS[model], 1)
    config = preset_config(
        graph, rows=rows, groups=dense(columns), blocks=blocks, frames=FRAMES, queue_depth=2,
        burst_beats=1, read_fifo_beats=2, outstanding=1,
    )  # fmt: skip
    least = max(2 * config.constant_beats, PARAMETERS["constant_fifo_beats"].low)
    config = config.replace(constant_fifo_beats=least)
    program = lower(graph, config, blocks=blocks, frames=FRAMES)
    check(graph, program, seeds=(None, 1))
    assert predict(program, MemoryModel(bytes_per_cycle=16, latency=20)).frames == FRAMES


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("rows", "columns", "blocks"), DESIGNS[:4])
def test_two_frames_in_flight(model: str, rows: int, columns: int, blocks: int | None) -> None:
    """With the smallest queues and FIFOs, and random orders of events."""
    graph = random_graph(MODELS[model], 1)
    config = preset_config(
        graph, rows=rows, groups=dense(columns), blocks=blocks, frames=4, in_flight=2,
        queue_depth=2, burst_beats=1, read_fifo_beats=2, outstanding=1,
    )  # fmt: skip
    least = max(2 * config.constant_beats, PARAMETERS["constant_fifo_beats"].low)
    config = config.replace(constant_fifo_beats=least)
    program = lower(graph, config, blocks=blocks, frames=4, in_flight=2)
    check(graph, program, seeds=(None, 1))
    assert predict(program, MemoryModel(bytes_per_cycle=16, latency=20)).frames == 4


def test_parameters_and_tables_are_loaded_once_for_both_in_flight() -> None:
    graph = random_graph(MODELS["tiny"], 1)
    config = preset_config(graph, rows=16, groups=dense(16), frames=4, in_flight=2)
    one, four = (
        lower(graph, config, frames=4, in_flight=in_flight).instructions for in_flight in (1, 2)
    )
    for opcode in ("LOAD_LAYERNORM", "LOAD_TABLE"):
        counts = [sum(i.opcode == opcode for i in program) for program in (one, four)]
        assert counts[0] == 2 * counts[1] > 0


def test_one_hides_behind_the_other() -> None:
    """One row block: LayerNorm and softmax of an image have nothing of its own to hide behind."""
    graph = random_graph(MODELS["long"], 1)
    config = preset_config(graph, rows=16, groups=dense(16), blocks=1, frames=4, in_flight=2)
    memory = MemoryModel(bytes_per_cycle=16, latency=20)
    one, two = (
        predict(lower(graph, config, blocks=1, frames=4, in_flight=in_flight), memory)
        for in_flight in (1, 2)
    )
    waits = ("STALL_LAYERNORM", "STALL_SOFTMAX")
    assert sum(two.stalls[name] for name in waits) < sum(one.stalls[name] for name in waits) / 2
    assert two.cycles < one.cycles


def test_images_come_in_pieces_beside_attention() -> None:
    graph = random_graph(MODELS["colour"], 1)
    config = preset_config(graph, rows=16, groups=dense(16), frames=2)
    one, two = (lower(graph, config, frames=frames) for frames in (1, 2))
    assert two.input_bytes == 2 * one.input_bytes
    assert two.output_bytes == 2 * one.output_bytes
    assert one.macs == two.macs
    loads = [(number, i) for number, i in enumerate(two.instructions) if i.opcode == "LOAD_IMAGE"]
    # 12 x 12 x 3 bytes: a row of patches, 108 bytes, does not end with a beat, four of them do.
    assert [i["address"] for _, i in loads] == [0, one.input_bytes // 16]
    assert [i["beats"] for _, i in loads] == [27, 27]
    half = len(two.instructions) // 2
    assert 0 < loads[1][0] < half
    assert two.labels[loads[1][0] - 1].endswith(".logits")
    assert sum(i.opcode == "STORE" for i in two.instructions) == 2


@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_last_layer_is_done_for_many_images_at_once(in_flight: int) -> None:
    """Two lots of it: a row for each of so many images, and for the rest."""
    graph = random_graph(spec(depth=1), 1)
    together = 16
    frames = together + 2
    options = {"frames": frames, "in_flight": in_flight}
    config = preset_config(graph, rows=16, groups=dense(16), **options)
    program = lower(graph, config, **options)
    matmuls = [
        instruction["rows"]
        for instruction, label in zip(program.instructions, program.labels, strict=True)
        if label == "head" and instruction.opcode == "MATMUL"
    ]
    assert matmuls == [together, 2]
    check(graph, program, seeds=(None,))


def test_the_table_of_boundaries_holds_all_frames() -> None:
    graph = random_graph(spec(depth=1), 1)
    config = preset_config(graph, rows=16, groups=dense(16), frames=2)
    program = lower(graph, config, frames=2)
    table = parse(program.boundaries_json())
    assert [(b.name, b.shape) for b in table] == [
        (name, (2, *tensor.shape)) for name, tensor in graph.tensors.items()
    ]


def test_frames_hide_the_image() -> None:
    graph = random_graph(MODELS["long"], 1)
    config = preset_config(graph, rows=16, groups=dense(16), frames=4)
    memory = MemoryModel(bytes_per_cycle=16, latency=20)
    alone, together = (predict(lower(graph, config, frames=frames), memory) for frames in (1, 4))
    assert together.frame_cycles < alone.frame_cycles
    assert together.macs == 4 * alone.macs


def test_a_place_of_its_own_for_the_image() -> None:
    graph = random_graph(MODELS["tiny"], 1)
    config = preset_config(graph, rows=16, groups=dense(16), frames=2)
    words = list(config.bank_words)
    words[config.bank("hidden")] -= 1
    with pytest.raises(DoesNotFitError, match="hidden"):
        lower(graph, config.replace(bank_words=tuple(words)), frames=2)


def test_one_image_is_refused() -> None:
    graph = random_graph(spec(depth=1), 1)
    config = preset_config(graph, rows=16, groups=dense(16), frames=2)
    program = lower(graph, config, frames=2)
    with pytest.raises(ProgramError, match=r"Image must be uint8 \[2, 8, 8, 1\], not"):
        run_program(program, random_image(graph.spec, 1))
