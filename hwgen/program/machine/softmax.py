# SPDX-License-Identifier: Apache-2.0
"""SOFTMAX: rows of logits to codes, and their shifts."""

from __future__ import annotations

import numpy as np

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    Engine,
    Instruction,
)
from hwgen.program.hazards import SHIFT_SLOTS, Access, Fields, slot, words
from hwgen.program.machine.state import Machine, Step
from hwgen.program.machine.timeline import (
    HANDOVER,
    VECTOR_DONE,
    VECTOR_REQUEST,
    VECTOR_TAKE,
    Process,
    Timeline,
)
from hwgen.timings import (
    CODES_LATENCY,
    E2SOFTMAX_STAGE_2,
    READ_LATENCY,
    e2softmax_stage_1,
    maximum_latency,
    sum_latency,
)


def row_slices(config: AcceleratorConfig, i: Instruction) -> int:
    """Slices of a row: of every word those that hold logits; longer than a word: several words."""
    vec = config.softmax_vec
    if vec > config.rows:
        return -(-i["words"] * config.rows // vec)
    return (i["words"] - 1) * -(-i["word_length"] // vec) + -(-i["last_length"] // vec)


def softmax_cycles(config: AcceleratorConfig, *, rows: int, words: int, slices: int) -> int:
    """A SOFTMAX command is accepted -> ``done``, if the memory always grants.

    Args:
        config: the design.
        rows: of the command.
        words: of a row.
        slices: of a row.
    """
    vec = config.softmax_vec
    first = VECTOR_REQUEST + READ_LATENCY + VECTOR_TAKE
    if vec > config.rows:
        first += 1  # the slice's register in front of the unit
    if config.softmax_fractional:
        # A row's exponents wait for its Sum, once more as long as its slices take.
        unit = maximum_latency(vec) + sum_latency(vec) + CODES_LATENCY + slices - 1
    else:
        unit = e2softmax_stage_1(vec) + E2SOFTMAX_STAGE_2
    # From the first slice to the last one of all rows; of the last row's codes, too.
    per_row = max(words, slices)
    return first + rows * per_row - 1 + unit + per_row - 1 + VECTOR_DONE


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    rows, words, width = i["rows"], i["words"], machine.config.rows
    full, last = i["word_length"], i["last_length"]
    if not 1 <= last <= full <= width or not words:
        raise machine.fail(
            f"words, last_length, word_length must be 1.., 1..{full}, 1..{width},"
            f" not {words}, {last}, {full}",
            i,
        )
    if full < width and (
        machine.config.softmax_vec > width or not machine.config.softmax_fractional
    ):
        raise machine.fail(f"word_length must be {width} on this design, not {full}", i)
    if (length := (words - 1) * width + last) > machine.config.max_row_length:
        raise machine.fail(
            f"a row must be at most {machine.config.max_row_length} bytes, not {length}", i
        )
    # Bytes of a row that hold logits.
    held = np.concatenate([width * word + np.arange(full) for word in range(words)])
    held = held[: len(held) - full + last]
    if machine.config.softmax_fractional and rows > machine.config.shift_words:
        raise machine.fail(f"rows must be at most {machine.config.shift_words}, not {rows}", i)
    early = machine.random is not None and bool(machine.random.integers(2))
    if not early:
        yield lambda: True
    data, valid = machine.read(i["source"], i["source_stride"], words, rows)
    if not valid[:, held].all():
        raise machine.fail("Logits must be written before they are read", i)
    yield lambda: True
    codes = np.zeros((rows, words * width), np.uint8)
    codes[:, held], shifts = machine.config.softmax(
        data.view(np.int8)[:, held], fraction_bits=i["fraction_bits"], max_length=len(held)
    )
    if shifts is not None:
        machine.shifts[i["slot"], :rows] = shifts
    machine.write(i["destination"], i["destination_stride"], codes)
    yield lambda: True


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction reads and writes."""
    del opcode
    source, destination = (
        words(
            fields,
            end,
            stride=fields[f"{end}_stride"],
            slices=fields["words"],
            tokens=fields["rows"],
            write=end == "destination",
        )
        for end in ("source", "destination")
    )
    if not config.softmax_fractional:
        return (source, destination)
    return (source, destination, slot(SHIFT_SLOTS, fields["slot"], write=True))


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    config = model.config
    time = 0
    for number, instruction in model.by_engine[Engine.SOFTMAX]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.SOFTMAX].append(taken)
        time = taken + softmax_cycles(
            config,
            rows=instruction["rows"],
            words=instruction["words"],
            slices=row_slices(config, instruction),
        )
        model.complete(Engine.SOFTMAX, taken, time)
