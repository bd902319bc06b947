# SPDX-License-Identifier: Apache-2.0
"""The reference of instructions, registers and counters as Markdown, from their tables."""

from __future__ import annotations

import inspect

from hwgen.config import BANK_ROLES
from hwgen.isa import banks, instructions, registers
from hwgen.isa.banks import BANK_PATHS, READERS, WRITERS
from hwgen.isa.instructions import (
    BANK_BITS,
    BODY_OFFSET,
    CHECKED_BITS,
    FIELD_ENUMS,
    INSTRUCTION_BITS,
    OFFSET_BITS,
    OPCODE_BITS,
    OPCODES,
    WAIT_BITS,
    DocumentedEnum,
    Engine,
    field_offsets,
)
from hwgen.isa.registers import CAUSES, COUNTERS, REGISTERS

_HEADER = """# Instructions, registers, counters

Written by `python -m hwgen.isa.document`; do not edit. The tables are `hwgen/isa/instructions.py`,
`hwgen/isa/banks.py` and `hwgen/isa/registers.py`; the hardware's decoder, crossbar and register
file, the compiler's encoder, the simulation's host and this page are derived from them.
"""

_COUNTERS = f"""The counters are {COUNTERS[0][0]} to {COUNTERS[-1][0]}. ARRAY_BUSY and all STALL_*
counters add up to CYCLES exactly.
"""

_HOST = """To run a frame: write the bases (IMAGE, INPUT, OUTPUT) and the sizes of what lies there
once, put the image into the input region, write START to CONTROL, wait for the interrupt, read
STATUS, write 1 to INTERRUPT, read the logits. Bases of the next frame may be written while one
runs. After an error: read CAUSE and CAUSE_ADDRESS, write SOFT_RESET, wait until STATUS bit 3 is 0,
start again; the registers marked rw keep their values.

WATCHDOG bounds the time between two completed instructions, between START and the first, and
between the last and the end of the frame: whatever happens to a frame, the interrupt comes at most
that long after the last instruction that completed. It must be longer than the longest such time of
a sound frame. That grows with the memory's latency and with one instruction's share of weights and
products; the manifest's `watchdog_cycles` leaves room for four times what the cycle model finds
with the board's memory, and a slower memory needs as much more."""


def _enum(kind: type[DocumentedEnum]) -> list[str]:
    lines = [f"`{kind.__name__}`: {inspect.getdoc(kind)}", ""]
    lines += [f"- {member.value} {member.name}: {member.doc}" for member in kind]
    return [*lines, ""]


def _causes() -> list[str]:
    lines = [
        "## Causes",
        "",
        "The first error wins and stays until a soft reset; START is ignored until then.",
        "",
        "| number | cause | meaning | CAUSE_ADDRESS | what the host does |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {cause.value} | {cause.name} | {facts.meaning} | {facts.address} | {facts.remedy} |"
        for cause, facts in CAUSES.items()
    ]
    return [*lines, ""]


def _instructions() -> list[str]:
    lines = [
        "## Instructions",
        "",
        inspect.getdoc(instructions) or "",
        "",
        f"Bits {OPCODE_BITS - 1}..0: opcode. Then one {WAIT_BITS}-bit threshold per other engine,",
        "in the order of the engines' numbers; END has one of every engine, BEGIN none.",
        "",
        "| threshold of | number | in instructions of engines before it | behind it, and in END |",
        "|---|---|---|---|",
    ]
    for engine in Engine:
        low = OPCODE_BITS + WAIT_BITS * engine
        places = [
            f"{first + WAIT_BITS - 1}..{first}" if there else "none"
            for first, there in ((low - WAIT_BITS, engine > 0), (low, True))
        ]
        lines.append(f"| {engine.name} | {engine.value} | {' | '.join(places)} |")
    lines += [
        "",
        f"Then, from bit {BODY_OFFSET}, the body.",
        f"Bits {INSTRUCTION_BITS - 1}..{CHECKED_BITS}: check.",
        "",
        f"A word address has {BANK_BITS} bits of bank above {OFFSET_BITS} bits of offset.",
        "",
    ]
    for kind in FIELD_ENUMS:
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


def _names(engines: tuple[Engine, ...]) -> str:
    return ", ".join(engine.name for engine in engines)


def _banks() -> list[str]:
    lines = [
        "## Banks of the activation memory",
        "",
        inspect.getdoc(banks) or "",
        "",
        f"A bank is granted to the first that wants it. Readers: {_names(READERS)}.",
        f"Writers: {_names(WRITERS)}.",
        "",
        "| bank | role | read by | written by |",
        "|---|---|---|---|",
    ]
    for number, role in enumerate(BANK_ROLES):
        paths = BANK_PATHS[role]
        lines.append(f"| {number} | {role} | {_names(paths.readers)} | {_names(paths.writers)} |")
    return [*lines, ""]


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
        *_causes(),
        "## A frame, from the host's side",
        "",
        _HOST,
    ]
    return lines


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEADER, *_instructions(), *_banks(), *_registers()]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
