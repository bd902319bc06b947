# SPDX-License-Identifier: Apache-2.0
"""The reference of instructions, registers and counters as Markdown, from their tables."""

from __future__ import annotations

import inspect

from hwgen.isa import instructions, registers
from hwgen.isa.instructions import (
    BANK_BITS,
    OFFSET_BITS,
    OPCODE_BITS,
    OPCODES,
    WAIT_BITS,
    Engine,
    field_offsets,
)
from hwgen.isa.registers import COUNTERS, REGISTERS, Cause

_HEADER = """# Instructions, registers, counters

Written by `python -m hwgen.isa.document`; do not edit. The tables are `hwgen/isa/instructions.py`
and `hwgen/isa/registers.py`; the hardware's decoder and register file, the compiler's encoder, the
simulation's host and this page are derived from them.
"""

_COUNTERS = f"""The counters are the last {len(COUNTERS)} registers. ARRAY_BUSY and all STALL_*
counters add up to CYCLES exactly.
"""

_HOST = """To run a frame: write the bases (IMAGE, INPUT, OUTPUT) once, put the image into the input
region, write START to CONTROL, wait for the interrupt, read STATUS, write 1 to INTERRUPT, read the
logits. After an error: read CAUSE and CAUSE_ADDRESS, write SOFT_RESET, wait until STATUS bit 3 is
0, start again."""


def _enum(kind: type) -> list[str]:
    lines = [f"`{kind.__name__}`: {inspect.getdoc(kind)}", ""]
    lines += [f"- {member.value} {member.name}" for member in kind]  # type: ignore[attr-defined]
    return [*lines, ""]


def _instructions() -> list[str]:
    lines = [
        "## Instructions",
        "",
        inspect.getdoc(instructions) or "",
        "",
        f"Bits {OPCODE_BITS - 1}..0: opcode. Then one {WAIT_BITS}-bit threshold per engine:",
        "",
        "| engine | number | bits |",
        "|---|---|---|",
    ]
    for engine in Engine:
        low = OPCODE_BITS + WAIT_BITS * engine
        lines.append(f"| {engine.name} | {engine.value} | {low + WAIT_BITS - 1}..{low} |")
    lines += [
        "",
        f"A word address has {BANK_BITS} bits of bank above {OFFSET_BITS} bits of offset.",
        "",
    ]
    for kind in (instructions.StationarySource, instructions.DrainMode):
        lines += _enum(kind)
    for opcode in OPCODES:
        place = opcode.engine.name if opcode.engine is not None else "sequencer"
        lines += [f"### {opcode.code} {opcode.name} ({place})", "", opcode.doc, ""]
        if opcode.fields:
            lines += ["| bits | field | range | meaning |", "|---|---|---|---|"]
            offsets = field_offsets(opcode)
            for field in opcode.fields:
                low = offsets[field.name]
                lines.append(
                    f"| {low + field.bits - 1}..{low} | {field.name} | "
                    f"{field.minimum}..{field.maximum} | {field.doc} |"
                )
            lines.append("")
    return lines


def _registers() -> list[str]:
    lines = [
        "## Registers",
        "",
        inspect.getdoc(registers) or "",
        "",
        "| offset | name | access | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| 0x{r.offset:02X} | {r.name} | {r.access} | {r.doc} |" for r in REGISTERS]
    lines += [
        "",
        _COUNTERS,
        "",
        *_enum(Cause),
        _HOST,
    ]
    return lines


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEADER, *_instructions(), *_registers()]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
