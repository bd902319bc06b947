# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite registers and performance counters: one table.

All registers are 32 bits. The low two address bits are ignored: a byte access reaches its register,
and the write strobes say which bytes of it. Counters hold the figures of the last (or running)
frame and are cleared by START.

START takes bases and sizes: what is written while a frame runs is for the next one. A *window* is
the memory that a frame may touch: ``SIZE`` bytes from its base. Every burst is checked before it is
issued, and of one outside nothing is. A size of 0 (after reset) stands for all that an instruction
can name. Instructions are fetched in bursts of 256 bytes; a fetch that runs ahead of END stops at
the window's end and is no error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from hwgen.isa.instructions import WAITED_FOR


@dataclass(frozen=True)
class Register:
    """One register: byte offset, access (``rw``, ``ro``, ``w1c``: write 1 to clear) and meaning."""

    name: str
    offset: int
    access: str
    doc: str


class Cause(IntEnum):
    """Sticky error cause; the first error wins and stays until a soft reset."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    READ_ERROR = 2
    WRITE_ERROR = 3
    ADDRESS_RANGE = 4
    WATCHDOG = 5
    IMAGE = 6
    INTEGRITY = 7
    BASE_ALIGNMENT = 8
    WINDOW = 9


@dataclass(frozen=True)
class CauseFacts:
    """What a cause means, what CAUSE_ADDRESS holds then, and what the host does about it."""

    meaning: str
    address: str
    remedy: str


_INDEX = "index of the instruction"
_COPY = "copy the image again"

CAUSES: dict[Cause, CauseFacts] = {
    Cause.NONE: CauseFacts("no error", "0", "nothing"),
    Cause.ILLEGAL_INSTRUCTION: CauseFacts(
        "an unknown opcode, or BEGIN in a later place", _INDEX, _COPY
    ),
    Cause.READ_ERROR: CauseFacts(
        "RRESP was not OKAY", "address of the burst", "check that bases and sizes are mapped memory"
    ),
    Cause.WRITE_ERROR: CauseFacts(
        "BRESP was not OKAY", "address of the burst", "check that bases and sizes are mapped memory"
    ),
    Cause.ADDRESS_RANGE: CauseFacts(
        "a word address outside its bank of the activation memory, or in a bank that the engine "
        "does not reach",
        "the word address",
        "copy the image again; if it stays, the program is wrong: report it",
    ),
    Cause.WATCHDOG: CauseFacts(
        "no engine completed an instruction for WATCHDOG cycles",
        "index of the instruction to be dispatched next",
        "check that the memory answers and WATCHDOG suits it",
    ),
    Cause.IMAGE: CauseFacts(
        "IMAGE does not point to a memory image for this hardware: another magic or build identity;"
        " nothing of it has run",
        "0",
        "compare IMAGE with where the image lies, and BUILD with the manifest's",
    ),
    Cause.INTEGRITY: CauseFacts(
        "the check of an instruction is wrong; nothing of it has run", _INDEX, _COPY
    ),
    Cause.BASE_ALIGNMENT: CauseFacts(
        "START with a base that is no multiple of 4096; no frame was started",
        "the base",
        "align it",
    ),
    Cause.WINDOW: CauseFacts(
        "an access outside the window of its base, or beyond the last address; it was not issued",
        "first address of the load, store or burst of instructions that lies outside, in part or"
        " whole",
        "compare the sizes with the manifest's",
    ),
}

CONTROL_START = 1 << 0  #: start a frame (ignored while busy or in error)
CONTROL_SOFT_RESET = 1 << 1  #: drain the AXI masters, then reset all but the registers marked rw
STATUS_BUSY = 1 << 0
STATUS_DONE = 1 << 1
STATUS_ERROR = 1 << 2
STATUS_RESETTING = 1 << 3
IDENTITY = 0x48574731  #: "HWG1"
BASE_ALIGNMENT = 4096  #: bytes
#: WATCHDOG after reset, cycles: 3.5 ms at 300 MHz.
WATCHDOG_RESET = 1 << 20

COUNTERS: tuple[tuple[str, str], ...] = (
    ("CYCLES", "cycles from START to the interrupt"),
    ("ARRAY_BUSY", "cycles in which the array took a row of activations"),
    ("STALL_WEIGHTS", "cycles in which MATMUL waited for packed weights (memory)"),
    (
        "STALL_STATIONARY",
        "cycles in which MATMUL waited for a stationary operand from the activation memory",
    ),
    ("STALL_ACCUMULATOR", "cycles in which MATMUL waited for a free accumulator bank (requantise)"),
    ("STALL_BANK", "cycles in which MATMUL lost the arbitration of an activation bank"),
    *(
        (f"STALL_{engine.name}", f"cycles in which the next MATMUL waited for {engine.name}")
        for engine in WAITED_FOR
    ),
    ("STALL_IDLE", "cycles without a MATMUL in the queue (start, end, instruction fetch)"),
)

_FIRST_COUNTER = 0x40

REGISTERS: tuple[Register, ...] = (
    Register("IDENTITY", 0x00, "ro", "0x48574731"),
    Register("CONTROL", 0x04, "rw", "bit 0 START, bit 1 SOFT_RESET; reads as 0"),
    Register("STATUS", 0x08, "ro", "bit 0 busy, bit 1 done, bit 2 error, bit 3 resetting"),
    Register("INTERRUPT", 0x0C, "w1c", "bit 0 pending: done or error; write 1 to clear"),
    Register("INTERRUPT_ENABLE", 0x10, "rw", "bit 0"),
    Register("CAUSE", 0x14, "ro", "sticky error cause"),
    Register(
        "CAUSE_ADDRESS", 0x18, "ro", "address (low half) or instruction index of the first error"
    ),
    Register(
        "WATCHDOG",
        0x1C,
        "rw",
        "most cycles of a frame in which no instruction completes, beyond which there is an error;"
        f" {WATCHDOG_RESET} after reset, 0: off",
    ),
    Register(
        "IMAGE_LOW",
        0x20,
        "rw",
        "base of the memory image (program, constants, weights), 4096-aligned",
    ),
    Register("IMAGE_HIGH", 0x24, "rw", "upper half"),
    Register("INPUT_LOW", 0x28, "rw", "base of the input image, 4096-aligned"),
    Register("INPUT_HIGH", 0x2C, "rw", "upper half"),
    Register("OUTPUT_LOW", 0x30, "rw", "base of the output logits, 4096-aligned"),
    Register("OUTPUT_HIGH", 0x34, "rw", "upper half"),
    *(
        Register(name, _FIRST_COUNTER + 4 * index, "ro", doc)
        for index, (name, doc) in enumerate(COUNTERS)
    ),
    Register("CAUSE_ADDRESS_HIGH", 0x80, "ro", "upper half of CAUSE_ADDRESS"),
    Register("BUILD_LOW", 0x84, "ro", "build identity: which images run here (manifest: `build`)"),
    Register("BUILD_HIGH", 0x88, "ro", "upper half"),
    Register("IMAGE_SIZE", 0x8C, "rw", "bytes of the memory image; 0: no bound"),
    Register("INPUT_SIZE", 0x90, "rw", "bytes of the input region; 0: no bound"),
    Register("OUTPUT_SIZE", 0x94, "rw", "bytes of the output region; 0: no bound"),
)

BY_NAME = {register.name: register for register in REGISTERS}
ADDRESS_BITS = 8
