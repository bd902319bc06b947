# SPDX-License-Identifier: Apache-2.0
"""Build identity: which hardware a memory image runs on."""

from __future__ import annotations

import hashlib
import json

from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.instructions import IMAGE_MAGIC, Instruction

#: To be raised with every change of what an instruction or the memory image means.
ISA_VERSION = 7


def build_identity(config: AcceleratorConfig) -> int:
    """64 bits that stand for the configuration and the version of the instruction set.

    Weights and calibration are not in it: every model that fits the hardware may run there. Nor is
    the clock, an assumption that changes no logic.
    """
    facts = config.to_json() | {"isa_version": ISA_VERSION}
    del facts["clock_mhz"]
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def begin(config: AcceleratorConfig) -> Instruction:
    """The first instruction of a program for a configuration."""
    return Instruction("BEGIN", {"magic": IMAGE_MAGIC, "build": build_identity(config)})


def check_begin(instruction: Instruction, config: AcceleratorConfig) -> None:
    """Refuse what the hardware of a configuration refuses as the first instruction.

    Raises:
        ProgramError: no BEGIN, or one for other hardware.
    """
    expected = begin(config)
    if instruction.opcode != expected.opcode or instruction["magic"] != IMAGE_MAGIC:
        raise ProgramError("A memory image must begin with BEGIN and its magic, and does not")
    if instruction["build"] != expected["build"]:
        raise ProgramError(
            f"A memory image must be for the build 0x{expected['build']:016x},"
            f" not 0x{instruction['build']:016x}",
            why="it was made for another configuration or version",
        )
