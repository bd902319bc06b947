# SPDX-License-Identifier: Apache-2.0
"""MATMUL: rows of activations through the array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    WAITED_FOR,
    Engine,
    Instruction,
)
from hwgen.numerics.requantise import BIASED_BITS
from hwgen.program.hazards import Access, Fields, words
from hwgen.program.machine.state import ACCUMULATOR_BANKS, Machine, Operand, Step
from hwgen.program.machine.timeline import HANDOVER, Process, Timeline
from hwgen.timings import READ_LATENCY

#: Row of activations: issued -> entered the array (swap of the weights): the request's register
#: and the memory.
READ = 1 + READ_LATENCY
#: Last row issued -> all sums in the accumulators: READ + depth + strips + this.
ARRAY = 4


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    config = machine.config
    if i["rows"] > config.tile_rows:
        raise machine.fail(f"rows must be at most {config.tile_rows}, not {i['rows']}", i)
    one_pass = i["passes"] * i["slices"] == 1

    def bank_free() -> bool:
        return len(machine.accumulators) < ACCUMULATOR_BANKS

    for _ in range(i["tiles"]):
        # The last pass waits for its bank; what the others read may be read before.
        yield lambda: bool(machine.operands) and (not one_pass or bank_free())
        operand = machine.operands[0]
        columns = operand.weights.shape[2]
        if not i["signed"] and columns > config.unsigned_columns:
            legal = config.unsigned_columns
            raise machine.fail(
                f"uint8 activations must stay on the first {legal} columns, not {columns}", i
            )
        data, valid = machine.read(i["base"], i["stride"], i["passes"], i["rows"])
        if operand.weights.shape[1] != data.shape[1] or len(operand.weights) != i["slices"]:
            raise machine.fail(
                f"Operand must have {i['passes']} passes and {i['slices']} slices, "
                f"not {operand.weights.shape[1] // config.rows} and {len(operand.weights)}",
                i,
            )
        unwritten = ~valid.all(axis=0)
        if unwritten.any() and operand.weights[:, unwritten].any():
            raise machine.fail("Activations must be written before they are read", i)
        codes = data.view(np.int8) if i["signed"] else data
        yield bank_free
        machine.operands.popleft()
        machine.accumulators.append((_product(machine, codes, operand, i), operand.poisoned))
    yield lambda: True


def _product(
    machine: Machine, codes: np.ndarray, operand: Operand, i: Instruction
) -> npt.NDArray[np.int32]:
    """Exact: all partial sums are integers below 2^53."""
    if i["slices"] > 1 and i["slice_bits"] not in machine.config.slice_widths:
        legal = list(machine.config.slice_widths)
        raise machine.fail(f"slice_bits must be one of {legal}, not {i['slice_bits']}", i)
    activations = codes.astype(np.float64)
    total = np.zeros((codes.shape[0], operand.weights.shape[2]), np.int64)
    for weights in operand.weights:
        product = (activations @ weights.astype(np.float64)).astype(np.int64)
        total = (total << i["slice_bits"]) + product
    if total.size and np.abs(total).max() > np.iinfo(np.int32).max:
        raise machine.fail("Accumulators must fit 32 bits", i)
    bits = np.array(machine.config.groups.accumulator_bits[: total.shape[1]])
    limit = np.int64(1) << (bits - 1)
    # What wraps at the lanes' width is right again with its bias, which DRAIN adds.
    beyond = ((total < -limit) | (total >= limit)).any(axis=0) & (bits < BIASED_BITS)
    if beyond.any():
        column = int(np.argmax(beyond))
        raise machine.fail(f"Sums of column {column} must fit {bits[column]} bits", i)
    return total.astype(np.int32)


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction reads: its moving operand."""
    del config, opcode
    operand = words(
        fields,
        "base",
        stride=fields["stride"],
        slices=fields["passes"],
        tokens=fields["rows"],
        write=False,
    )
    return (operand,)


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    config = model.config
    latency = READ + config.array_depth + config.strips + ARRAY
    full, bank_free, swapped = model.full, model.bank_free, model.swapped
    stalls = model.stalls
    number_of_pass = 0
    tile = 0
    time = 0
    order = [(f"STALL_{engine.name}", engine) for engine in WAITED_FOR]
    for number, instruction in model.by_engine[Engine.MATMUL]:
        while not model.known(number, instruction):
            yield
        queued = max(time, model.dispatched[number])
        for name, engine in order:
            wait = instruction.waits[engine]
            if wait and model.done[engine][wait - 1] > queued:
                stalls[name] += model.done[engine][wait - 1] - queued
                queued = model.done[engine][wait - 1]
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.MATMUL].append(taken)
        model.progress += 1
        time = taken
        rows = instruction["rows"]
        passes = instruction["passes"] * instruction["slices"]
        for _ in range(instruction["tiles"]):
            for index in range(passes):
                while len(full) <= number_of_pass:
                    yield
                start = time
                there = full[number_of_pass]
                if there > start:
                    memory = model.full_from_memory[number_of_pass]
                    stalls["STALL_STATIONARY" if memory else "STALL_WEIGHTS"] += there - start
                    start = there
                if index == passes - 1 and tile >= 2:
                    while len(bank_free) <= tile - 2:
                        yield
                    if bank_free[tile - 2] > start:
                        stalls["STALL_ACCUMULATOR"] += bank_free[tile - 2] - start
                        start = bank_free[tile - 2]
                time = start + rows
                swapped.append(start + READ + 1)
                number_of_pass += 1
                model.progress += 1
            model.tile_ready.append(time + latency)
            tile += 1
        model.array_busy += rows * passes * instruction["tiles"]
        model.complete(Engine.MATMUL, taken, time + 1)
