# SPDX-License-Identifier: Apache-2.0
"""Stage lower: a design's program, checked against the graph, and its predicted cycles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwgen.boards import Board
from hwgen.errors import UsageError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run_boundaries
from hwgen.graph.network import network_of
from hwgen.graph.spec import ModelSpec
from hwgen.program.program import Program
from hwgen.report.terminal import Reporter
from hwgen.sim.compare import compare
from hwgen.sim.frame import Memory
from hwgen.stages.configure import Hardware
from hwgen.stages.design import Design
from hwgen.stages.load import held_out_images

if TYPE_CHECKING:
    from hwgen.isa.instructions import Engine
    from hwgen.program.buffer_plan import GraphLike
    from hwgen.program.cycle_model import CyclePrediction, MemoryModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """A design with its program, and what the cycle model says of it."""

    design: Design
    graph: IntegerGraph  #: the design's
    program: Program
    memory: Memory
    prediction: CyclePrediction


def lower(chosen: Design, reporter: Reporter, *, check: bool = True) -> Lowered:
    """Compile the graph and run the program's interpreter on one image against the graph's.

    Raises:
        UsageError: the design has no graph.
        DoesNotFitError: the configuration is too small for the graph.
        MismatchError: the program does not compute what the graph does.
    """
    from hwgen.program.interpreter import run_program

    graph = chosen.graph
    if graph is None:
        raise UsageError(f"Design {chosen.name!r} must have a graph to be lowered, and has none")
    with reporter.stage("lower"):
        reporter("compiling the graph", 0.0)
        frames = chosen.frames_per_start
        memory = board_memory(chosen.board, chosen.config.clock_mhz)
        program = compiled(graph, chosen, memory, skeleton=False)
        predicted = prediction(program, memory)
        if check:
            reporter("checking the program against the graph", 0.5)
            images = held_out_images(graph.spec, frames).images
            result = run_program(program, images if frames > 1 else images[0])
            for number, image in enumerate(images):
                compare(
                    run_boundaries(graph, image),
                    frame_boundaries(result.boundaries, number, frames),
                    where="program interpreter against graph interpreter",
                    lanes=chosen.config.requantise_lanes,
                    tile_columns=chosen.config.columns,
                    image=number,
                )
    return Lowered(
        design=chosen,
        graph=graph,
        program=program,
        memory=memory,
        prediction=predicted,
    )


def frame_boundaries(
    boundaries: Mapping[str, npt.NDArray[np.integer]], number: int, frames: int
) -> Mapping[str, npt.NDArray[np.integer]]:
    """Those of one frame of a START."""
    if frames == 1:
        return boundaries
    return {name: values[number] for name, values in boundaries.items()}


def compiled(
    graph: GraphLike, hardware: Design | Hardware, memory: Memory, *, skeleton: bool
) -> Program:
    """The program of a graph, as a design has it run.

    Args:
        graph: the model.
        hardware: the design.
        memory: external memory; the program is the fastest with it of those that are tried.
        skeleton: leave the memory image out.

    Raises:
        ConfigError: another softmax, or rows or channels beyond a unit's size.
        DoesNotFitError: a tensor does not fit its bank, or a program its counters.
        ProgramError: the program would have numbers beyond an instruction's fields.
    """
    from hwgen.program.choice import lower_fastest

    return lower_fastest(
        graph,
        hardware.config,
        _model_of(memory),
        skeleton=skeleton,
        blocks=hardware.row_blocks,
        frames=hardware.frames_per_start,
        in_flight=hardware.frames_in_flight,
    )


def check_runs(spec: ModelSpec, hardware: Design | Hardware) -> None:
    """Refuse hardware that cannot run a model; needs shapes only, so it costs a second at most.

    Raises:
        HwgenError: as :func:`compiled`.
    """
    from hwgen.program.lower import lower as lower_graph

    lower_graph(
        network_of(spec, softmax=hardware.config.softmax),
        hardware.config,
        skeleton=True,
        blocks=hardware.row_blocks,
        frames=hardware.frames_per_start,
        in_flight=hardware.frames_in_flight,
    )


def prediction(program: Program, memory: Memory) -> CyclePrediction:
    """What the cycle model says of a frame.

    Raises:
        ProgramError: the program would not finish.
    """
    from hwgen.program.cycle_model import predict

    return predict(program, _model_of(memory))


def predicted_schedule(program: Program, memory: Memory) -> dict[Engine, list[tuple[int, int]]]:
    """When each engine takes and completes its instructions, by the cycle model.

    Raises:
        ProgramError: the program would not finish.
    """
    from hwgen.program.cycle_model import predict_schedule

    return predict_schedule(program, _model_of(memory))


def _model_of(memory: Memory) -> MemoryModel:
    """The simulated memory as the cycle model has it."""
    from hwgen.program.cycle_model import MemoryModel

    return MemoryModel(bytes_per_cycle=memory.bandwidth, latency=memory.latency)


def board_memory(board: Board, clock_mhz: int) -> Memory:
    """The board's memory, in cycles of a design's clock."""
    return Memory(
        latency=board.memory.latency_cycles,
        bandwidth=board.memory.bytes_per_second / (clock_mhz * 1_000_000),
    )
