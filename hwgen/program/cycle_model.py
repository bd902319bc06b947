# SPDX-License-Identifier: Apache-2.0
"""Cycles of a frame, predicted from the instruction stream.

Every engine is a process that computes its own timeline, pass by pass and tile by tile, from the
times that the others have made known; within a pass everything is closed form. What is left out:
arbitration of the activation banks, except LayerNorm's reads against the residual reads of DRAIN.
"""

from __future__ import annotations

from hwgen.isa.instructions import Engine
from hwgen.program.machine import TIMELINES
from hwgen.program.machine.timeline import CyclePrediction, MemoryModel, Timeline
from hwgen.program.program import Program

__all__ = ["CyclePrediction", "MemoryModel", "predict", "predict_schedule"]


def predict(program: Program, memory: MemoryModel | None = None) -> CyclePrediction:
    """Predict the cycles of a frame of a program; a skeleton will do.

    Raises:
        ProgramError: the program would not finish.
    """
    return Timeline(program, memory or MemoryModel()).run(TIMELINES)


def predict_schedule(
    program: Program, memory: MemoryModel | None = None
) -> dict[Engine, list[tuple[int, int]]]:
    """When each engine is predicted to take and to complete each of its instructions.

    Returns:
        per engine and instruction, in order: both cycles, since START.

    Raises:
        ProgramError: the program would not finish.
    """
    model = Timeline(program, memory or MemoryModel())
    model.run(TIMELINES)
    return {
        engine: list(zip(model.taken[engine], model.done[engine], strict=True)) for engine in Engine
    }
