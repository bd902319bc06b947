# SPDX-License-Identifier: Apache-2.0
"""The instructions of a memory image, refused where the hardware would refuse them."""

from __future__ import annotations

from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.build import check_begin
from hwgen.isa.instructions import INSTRUCTION_BYTES, Instruction, decode
from hwgen.program.machine import accesses_of
from hwgen.program.paths import check_paths


def decode_instructions(
    image: bytes, config: AcceleratorConfig, count: int | None = None
) -> tuple[Instruction, ...]:
    """The instructions at the start of a memory image, from BEGIN to END.

    Args:
        image: memory image.
        config: the hardware that it must be for.
        count: how many there must be; None: whatever END says.

    Raises:
        ProgramError: an image for other hardware or none at all, an instruction whose check or
            opcode is wrong or that uses a bank its engine does not reach, no END, or another count.
    """
    instructions: list[Instruction] = []
    for start in range(0, len(image) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
        instruction = decode(image[start : start + INSTRUCTION_BYTES], len(instructions))
        if not instructions:
            check_begin(instruction, config)
        elif instruction.opcode == "BEGIN":
            raise ProgramError("BEGIN must be the first instruction, and stands in a later place")
        accesses = accesses_of(config, instruction)
        check_paths(instruction.opcode, accesses, where=f"instruction {len(instructions)}")
        instructions.append(instruction)
        if instruction.opcode == "END":
            break
    else:
        raise ProgramError("Program must end with END, not run off the memory image")
    if count is not None and len(instructions) != count:
        raise ProgramError(f"Program must have {count} instructions, not {len(instructions)}")
    return tuple(instructions)
