# SPDX-License-Identifier: Apache-2.0
"""STATIONARY: packed weights, V and K into the shadow registers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.columns import MAXIMUM_GROUPS
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    Engine,
    Instruction,
    StationarySource,
)
from hwgen.program.hazards import Access, Fields, words
from hwgen.program.machine.state import Bytes, Machine, Operand, Step
from hwgen.program.machine.timeline import (
    HANDOVER,
    Process,
    Timeline,
    stationary_passes,
    tile_format,
)
from hwgen.program.weight_planes import TileFormat, unpack_weights
from hwgen.program.weight_timing import layer_timing
from hwgen.timings import READ_LATENCY

#: Weights: shadow free -> full, beyond R rows, at best.
INJECT = 0
#: V and K: command accepted -> it may begin.
OPERAND_START = 1
#: V rows: shadow free -> full, beyond the words read.
ROWS_INJECT = READ_LATENCY + 2
#: K columns: last word read -> emission may start; start of emission -> full, beyond R rows.
COLUMNS_SETTLE = READ_LATENCY + 3
COLUMNS_EMIT = 4


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    for tile in range(i["tiles"]):
        # One tile ahead of MATMUL at most.
        yield lambda: len(machine.operands) < 1
        if i["source"] == StationarySource.WEIGHTS:
            machine.weights_wanted += 1
            yield lambda: bool(machine.weights)
            machine.weights_wanted -= 1
            machine.operands.append(_unpack(machine, machine.weights.popleft(), i))
        elif i["source"] == StationarySource.ROWS:
            machine.operands.append(_operand_rows(machine, i, tile))
        else:
            machine.operands.append(_operand_columns(machine, i, tile))
    yield lambda: True


def _unpack(machine: Machine, beats: Bytes, i: Instruction) -> Operand:
    """The weights of a tile from their planes."""
    groups = machine.config.groups
    planes = tuple(i[f"planes{number}"] for number in range(MAXIMUM_GROUPS))
    used = sum(1 for bits in planes if bits)
    if not used or any(planes[used:]) or used > len(groups):
        raise machine.fail(f"planes must be those of the first groups, not {planes}", i)
    if bool(i["carry"]) != (i["slices"] > 1):
        raise machine.fail(f"carry must be set with several slices, not {i['carry']}", i)
    columns = machine.config.prefixes[used - 1]
    form = TileFormat(columns=columns, planes=planes, slices=i["slices"])
    try:
        weights = unpack_weights(machine.config, form, beats.reshape(-1), passes=i["passes"])
    except ProgramError as error:
        raise machine.fail(str(error), i) from error
    return Operand(weights, np.zeros(columns, np.bool_))


def _operand_rows(machine: Machine, i: Instruction, tile: int) -> Operand:
    """V: reduction index = token of the pass, column = channel."""
    rows, columns = machine.config.rows, machine.config.value_columns
    first = tile * columns
    slices = max(1, columns // rows)
    base = i["base"] + first // rows * i["stride"]
    data, valid = machine.read(base, i["stride"], slices, i["limit"])
    part = first % rows
    data, valid = data[:, part : part + columns], valid[:, part : part + columns]
    weights = np.zeros((1, i["passes"] * rows, columns), np.int16)
    held = i["pass_tokens"]
    if not 1 <= held <= rows or i["limit"] > held * i["passes"]:
        raise machine.fail(
            f"pass_tokens must be at most {rows}, and those of {i['passes']} passes at least"
            f" limit, {i['limit']}, not {held}",
            i,
        )
    token = np.arange(i["limit"])
    weights[0, token // held * rows + token % held] = data.view(np.int8)
    poisoned: npt.NDArray[np.bool_] = np.logical_not(valid.all(axis=0))
    return Operand(weights, poisoned)


def _operand_columns(machine: Machine, i: Instruction, tile: int) -> Operand:
    """K: reduction index = channel, column = token."""
    rows, columns = machine.config.rows, machine.config.attention_columns
    first = tile * columns
    count = min(columns, i["limit"] - first)
    data, valid = machine.read(i["base"] + first, i["stride"], i["passes"], count)
    weights = np.zeros((1, i["passes"] * rows, columns), np.int16)
    weights[0, :, :count] = data.view(np.int8).T
    poisoned = np.zeros(columns, np.bool_)
    poisoned[:count] = ~valid.all(axis=1)
    return Operand(weights, poisoned)


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction reads: V of whole words, K of whole slices."""
    del opcode
    slices = fields["passes"]
    if fields["source"] == StationarySource.WEIGHTS:
        return ()
    if fields["source"] == StationarySource.ROWS:
        slices = -(-fields["tiles"] * config.value_columns // config.rows)
    operand = words(
        fields,
        "base",
        stride=fields["stride"],
        slices=slices,
        tokens=fields["limit"],
        write=False,
    )
    return (operand,)


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    config = model.config
    rows, columns = config.rows, config.attention_columns
    row_cycles = rows * max(1, config.value_columns // rows) + ROWS_INJECT
    number_of_pass = 0
    weight_pass = 0
    time = 0
    for number, instruction in model.by_engine[Engine.STATIONARY]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.STATIONARY].append(taken)
        model.progress += 1
        time = taken
        source = instruction["source"]
        fetched = begin = taken + OPERAND_START
        emitted = [0, 0]  # ends of the last two emissions
        timing = None
        if source == StationarySource.WEIGHTS:
            timing = layer_timing(config, tile_format(instruction))
        for _ in range(stationary_passes(instruction)):
            while len(model.swapped) < number_of_pass:
                yield
            free = model.swapped[number_of_pass - 1] if number_of_pass else 0
            if timing is not None:
                while len(model.arrived) <= weight_pass:
                    yield
                start = max(time, free)
                # The timing counts from the swap, in front of the first free cycle.
                end = max(start - 1 + timing.full, model.arrived[weight_pass] + timing.tail)
                # The last block comes when the pass before has been handed out, or later.
                handed = model.full[-1] if model.full else 0
                last = handed if timing.taken is None else start - 1 + timing.taken
                model.consumed.append((start, last))
                weight_pass += 1
            elif source == StationarySource.ROWS:
                end = max(begin, free) + row_cycles
            else:
                fetched = max(fetched, emitted[0]) + columns
                start = max(fetched + COLUMNS_SETTLE, free)
                end = start + rows + COLUMNS_EMIT
                emitted = [emitted[1], end]
            time = end
            model.full.append(end)
            model.full_from_memory.append(source != StationarySource.WEIGHTS)
            model.progress += 1
            number_of_pass += 1
        model.complete(Engine.STATIONARY, taken, time)
