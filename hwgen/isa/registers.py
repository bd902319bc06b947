# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite registers and performance counters: one table.

All registers are 32 bits. Counters hold the figures of the last (or running) frame and are cleared
by START.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


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
    READ_ERROR = 2  #: RRESP was not OKAY
    WRITE_ERROR = 3  #: BRESP was not OKAY
    ADDRESS_RANGE = 4  #: a word address outside its bank
    WATCHDOG = 5  #: no engine completed an instruction for WATCHDOG cycles


CONTROL_START = 1 << 0  #: start a frame (ignored while busy or in error)
CONTROL_SOFT_RESET = 1 << 1  #: drain the AXI masters, then reset everything but the base registers
STATUS_BUSY = 1 << 0
STATUS_DONE = 1 << 1
STATUS_ERROR = 1 << 2
STATUS_RESETTING = 1 << 3
IDENTITY = 0x48574731  #: "HWG1"

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
    ("STALL_LOAD", "cycles in which the next MATMUL waited for LOAD"),
    ("STALL_DRAIN", "cycles in which the next MATMUL waited for DRAIN"),
    ("STALL_SOFTMAX", "cycles in which the next MATMUL waited for SOFTMAX"),
    ("STALL_LAYERNORM", "cycles in which the next MATMUL waited for LAYERNORM"),
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
        "CAUSE_ADDRESS", 0x18, "ro", "address (low 32 bits) or instruction index of the first error"
    ),
    Register("WATCHDOG", 0x1C, "rw", "cycles without progress before an error; 0: off"),
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
)

BY_NAME = {register.name: register for register in REGISTERS}
ADDRESS_BITS = 8
