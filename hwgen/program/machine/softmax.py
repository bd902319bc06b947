# SPDX-License-Identifier: Apache-2.0
"""SOFTMAX: rows of logits to codes, and their shifts."""

from __future__ import annotations

import numpy as np

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    Engine,
    Instruction,
)
from hwgen.program.machine.state import Machine, Step
from hwgen.program.machine.timeline import HANDOVER, Process, Timeline


def softmax_latency(config: AcceleratorConfig, length: int) -> int:
    """Fixed part of a SOFTMAX command beyond (rows + 1) x words or slices of a row."""
    vec = config.softmax_vec
    cycles = 30 + 2 * (vec.bit_length() - 1) + (vec > config.rows)
    return cycles + -(-length // vec) if config.softmax_fractional else cycles


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    length, rows = i["length"], i["rows"]
    slices = -(-length // machine.config.rows)
    if length > machine.config.max_row_length:
        raise machine.fail(
            f"length must be at most {machine.config.max_row_length}, not {length}", i
        )
    if machine.config.softmax_fractional and rows > machine.config.shift_words:
        raise machine.fail(f"rows must be at most {machine.config.shift_words}, not {rows}", i)
    early = machine.random is not None and bool(machine.random.integers(2))
    if not early:
        yield lambda: True
    data, valid = machine.read(i["source"], i["source_stride"], slices, rows)
    if not valid[:, :length].all():
        raise machine.fail("Logits must be written before they are read", i)
    yield lambda: True
    codes = np.zeros((rows, slices * machine.config.rows), np.uint8)
    codes[:, :length], shifts = machine.config.softmax(
        data.view(np.int8)[:, :length], fraction_bits=i["fraction_bits"], max_length=length
    )
    if shifts is not None:
        machine.shifts[i["slot"], :rows] = shifts
    machine.write(i["destination"], i["destination_stride"], codes)
    yield lambda: True


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    config = model.config
    time = 0
    for number, instruction in model.by_engine[Engine.SOFTMAX]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.SOFTMAX].append(taken)
        per_row = -(-instruction["length"] // min(config.rows, config.softmax_vec))
        fixed = softmax_latency(config, instruction["length"])
        time = taken + (instruction["rows"] + 1) * per_row + fixed
        model.complete(Engine.SOFTMAX, taken, time)
