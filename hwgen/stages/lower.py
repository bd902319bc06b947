# SPDX-License-Identifier: Apache-2.0
"""Stage lower: a design's program, checked against the graph, and its predicted cycles."""

from __future__ import annotations

from dataclasses import dataclass

from hwgen.boards import Board
from hwgen.config import AcceleratorConfig
from hwgen.graph.interpreter import run_boundaries
from hwgen.program.program import Program
from hwgen.report.terminal import Reporter
from hwgen.sim.compare import compare
from hwgen.sim.frame import Memory
from hwgen.stages.design import Design
from hwgen.stages.load import held_out_images


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """A design with its program, and what the cycle model says of it."""

    design: Design
    program: Program
    memory: Memory
    predicted_cycles: int


def lower(chosen: Design, reporter: Reporter, *, check: bool = True) -> Lowered:
    """Compile the graph and run the program's interpreter on one image against the graph's.

    Raises:
        DoesNotFitError: the configuration is too small for the graph.
        MismatchError: the program does not compute what the graph does.
    """
    from hwgen.program.interpreter import run_program
    from hwgen.program.lowering import lower as lower_graph

    graph = chosen.graph
    with reporter.stage("lower"):
        reporter("compiling the graph", 0.0)
        program = lower_graph(graph, chosen.config, blocks=chosen.row_blocks)
        memory = board_memory(chosen.board, chosen.config)
        predicted = predicted_cycles(program, memory)
        if check:
            reporter("checking the program against the graph", 0.5)
            image = held_out_images(graph.spec, 1).images[0]
            compare(
                run_boundaries(graph, image),
                run_program(program, image).boundaries,
                where="program interpreter against graph interpreter",
                lanes=chosen.config.lanes,
                tile_columns=chosen.config.columns,
            )
    return Lowered(design=chosen, program=program, memory=memory, predicted_cycles=predicted)


def predicted_cycles(program: Program, memory: Memory) -> int:
    """Cycles of a frame by the cycle model."""
    from hwgen.program.cycle_model import MemoryModel, predict

    model = MemoryModel(bytes_per_cycle=memory.bandwidth, latency=memory.latency)
    return round(predict(program, model).cycles)


def board_memory(board: Board, config: AcceleratorConfig) -> Memory:
    """The board's memory, in cycles of the design's clock."""
    return Memory(
        latency=board.memory.latency_cycles,
        bandwidth=board.memory.bytes_per_second / (config.clock_mhz * 1_000_000),
    )
