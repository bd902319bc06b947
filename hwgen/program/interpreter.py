# SPDX-License-Identifier: Apache-2.0
"""Executes a program seeing only instruction words and memory bytes, never the graph.

Second link of the golden chain. It models what decides the result: engines with queues, wait
thresholds and completion counters, the handshakes between LOAD, STATIONARY, MATMUL and DRAIN (tile
by tile), activation banks, parameter slots. It does not model cycles: an order of events is chosen,
either a fixed one or, to expose missing hazards, a random one that the hardware could take too.
Every legal order must give the same bytes.

Words that were never written are poison: reading them is an error unless what is read cannot reach
a result (columns that DRAIN does not write, bytes whose weights are zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    Engine,
)
from hwgen.program.decoding import decode_instructions
from hwgen.program.machine import EXECUTE
from hwgen.program.machine.state import Bytes, Machine
from hwgen.program.program import Part, Program


@dataclass(frozen=True)
class ProgramResult:
    """What a run leaves behind."""

    output: Bytes  #: the output region, uint8 [output_bytes]
    logits: npt.NDArray[np.int16]  #: [classes]; of several frames [frames, classes]
    boundaries: dict[str, npt.NDArray[np.integer]]  #: by tensor name, in network order
    completions: tuple[int, ...]  #: instructions per engine


class ProgramInterpreter:
    """Executes one program; :meth:`run` may be called for any number of images.

    Args:
        program: what to run; its instructions are decoded from the image's bytes again.
        where: name for error messages.

    Raises:
        ProgramError: an image that the hardware refuses, too: for another build, or damaged.
    """

    def __init__(self, program: Program, where: str = "program interpreter") -> None:
        """Decode the instructions."""
        if program.skeleton:
            raise ProgramError("A program must have its memory image to be run, not be a skeleton")
        self.program = program
        self.config = program.config
        self.where = where
        self.instructions = decode_instructions(program.image, program.config)
        self._snapshots: dict[tuple[Engine, int], list[tuple[str, Part]]] = {}
        for boundary in program.boundaries:
            for part in boundary.parts:
                self._snapshots.setdefault((part.engine, part.count), []).append(
                    (boundary.name, part)
                )

    def run(
        self, image: npt.NDArray[np.uint8], *, seed: int | None = None, boundaries: bool = True
    ) -> ProgramResult:
        """Execute the program on its images.

        Args:
            image: uint8 [H, W, channels]; of a program for several frames [frames, H, W, channels].
            seed: None for the fixed order of events, else the seed of a random legal one.
            boundaries: record the boundary tensors.

        Raises:
            ProgramError: deadlock, a word outside its bank, a word read that was never written.
        """
        program = self.program
        shape: tuple[int, ...] = program.input_shape
        if program.frames > 1:
            shape = (program.frames, *shape)
        if image.dtype != np.uint8 or image.shape != shape:
            raise ProgramError(
                f"Image must be uint8 {list(shape)}, not {image.dtype} {list(image.shape)}"
            )
        source = np.zeros((program.frames, program.input_bytes // program.frames), np.uint8)
        pixels = image.reshape(program.frames, -1)
        source[:, : pixels.shape[1]] = pixels
        machine = Machine(
            program,
            self.instructions,
            EXECUTE,
            source.reshape(-1),
            snapshots=self._snapshots,
            where=self.where,
            seed=seed,
            record=boundaries,
        )
        machine.execute()
        output = machine.output
        stored = output.reshape(program.frames, -1)[:, : 2 * program.classes]
        logits = stored.copy().view("<i2").astype(np.int16)
        if program.frames == 1:
            logits = logits[0]
        return ProgramResult(output, logits, machine.boundaries, tuple(machine.completed))


def run_program(
    program: Program, image: npt.NDArray[np.uint8], *, seed: int | None = None
) -> ProgramResult:
    """Execute a program on one image: :meth:`ProgramInterpreter.run`."""
    return ProgramInterpreter(program).run(image, seed=seed)
