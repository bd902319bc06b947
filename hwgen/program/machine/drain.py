# SPDX-License-Identifier: Apache-2.0
"""DRAIN: accumulators to codes or to the residual stream."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    CONSTANT_BYTES,
    DrainMode,
    Engine,
    Instruction,
)
from hwgen.numerics.elementwise import apply_table
from hwgen.numerics.requantise import (
    BIASED_BITS,
    fits_lanes,
    requantise,
    requantise_int16,
    requantise_residual,
)
from hwgen.program.hazards import SHIFT_SLOTS, TABLE_SLOTS, Access, Fields, slot, words
from hwgen.program.machine.state import Bytes, Machine, Step
from hwgen.program.machine.timeline import HANDOVER, Process, Timeline
from hwgen.program.packing import (
    PLACE_CHUNK_END,
    PLACE_PAIR,
    PLACE_TILE_END,
    decode_constants,
)
from hwgen.timings import (
    ACCUMULATOR_LATENCY,
    CONSTANTS_READ,
    REQUANTISE_LATENCY,
    TABLE_LATENCY,
)

#: DRAIN: accepted -> first group may be taken; behind a group that the next one does not follow
#: at once; after the last group of a tile (of residuals: after each); last -> done.
DRAIN_START = 1
DRAIN_TAKE = 1
DRAIN_TILE = 1
#: Last group taken -> its first row issued and the bank released.
DRAIN_RELEASE = 2
#: Last row issued -> done.
DRAIN_DONE = ACCUMULATOR_LATENCY + REQUANTISE_LATENCY + TABLE_LATENCY + 1
#: Constants of a chunk: settling of the registers in use, beyond a cycle per pair of columns.
CONSTANTS_SETTLE = ACCUMULATOR_LATENCY + CONSTANTS_READ + 1


def first_channel(drain: Instruction, tile: int, config: AcceleratorConfig) -> int:
    """Where a tile begins, in channels from the word that column 0 goes to."""
    step = config.rows if drain["apart"] else drain["tile_columns"]
    return drain["offset"] + tile * step


def tile_valid(drain: Instruction, tile: int) -> int:
    """Columns of a tile that are written."""
    columns = drain["tile_columns"]
    return min(columns, drain["columns"] - tile * columns)


def tile_chunks(drain: Instruction, tile: int, config: AcceleratorConfig) -> list[int]:
    """Columns of every chunk of a tile: those that DRAIN makes at a time."""
    chunk = config.chunk_channels(wide=drain["mode"] in (DrainMode.RESIDUAL, DrainMode.WIDE))
    first = first_channel(drain, tile, config)
    last = first + tile_valid(drain, tile)
    cuts = [first, *range((first // chunk + 1) * chunk, last, chunk), last]
    return [stop - start for start, stop in pairwise(cuts)]


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    config = machine.config
    wide = i["mode"] in (DrainMode.RESIDUAL, DrainMode.WIDE)
    per_word = config.word_channels(wide=wide)
    size = 2 if wide else 1
    if i["apart"] and (wide or i["offset"] or i["tile_columns"] > config.rows):
        raise machine.fail("apart must be 0 but for codes, offset 0 and tiles of a word", i)
    for tile in range(i["tiles"]):
        yield lambda: bool(machine.accumulators) and bool(machine.constants)
        accumulators, poisoned = machine.accumulators.popleft()
        beats = machine.constants.popleft()
        valid = tile_valid(i, tile)
        _check_tile(machine, i, accumulators, beats, valid)
        if poisoned[:valid].any():
            raise machine.fail("Stationary operand must be written before it is read", i)
        first = first_channel(i, tile, config)
        records = beats.reshape(-1)[: valid * CONSTANT_BYTES].reshape(valid, CONSTANT_BYTES)
        _check_places(machine, i, records[:, 7], first, wide=wide)
        bias, multiplier, shift = decode_constants(records)
        constants: dict[str, Any] = {"bias": bias, "multiplier": multiplier, "shift": shift}
        values = accumulators[:, :valid]
        if not fits_lanes(values.astype(np.int64) + bias).all():
            raise machine.fail(f"Accumulators with their bias must fit {BIASED_BITS} bits", i)
        out: npt.NDArray[np.integer]
        start = first % per_word
        word = first // per_word - i["offset"] // per_word
        destination = i["destination"] + word * i["stride"]
        if i["mode"] == DrainMode.RESIDUAL:
            slices = -(-(start + valid) // per_word)
            data, written = machine.read(destination, i["stride"], slices, i["rows"])
            held = slice(size * start, size * (start + valid))
            if not written[:, held].all():
                raise machine.fail("Residual must be written before it is read", i)
            residual = np.ascontiguousarray(data[:, held]).view("<i2").astype(np.int16)
            out = requantise_residual(values, residual=residual, **constants)
        elif wide:
            out = requantise_int16(values, **constants)
        else:
            out = _codes(machine, i, values, constants)
        stored = np.ascontiguousarray(out, f"<i{size}").view(np.uint8)
        machine.write_channels(destination, i["stride"], size * start, stored)
    yield lambda: True


def _check_tile(
    machine: Machine, i: Instruction, accumulators: np.ndarray, beats: Bytes, valid: int
) -> None:
    """What a tile must be for DRAIN to take it."""
    config, columns = machine.config, i["tile_columns"]
    if columns % 2 or not 0 < columns <= accumulators.shape[1]:
        raise machine.fail(
            f"tile_columns must be even and at most the tile's {accumulators.shape[1]},"
            f" not {columns}",
            i,
        )
    step = config.rotation_step
    if i["offset"] % step or (i["tiles"] > 1 and not i["apart"] and columns % step):
        raise machine.fail(
            f"offset and tile_columns must be multiples of {step}, not {i['offset']} and {columns}",
            i,
        )
    if valid <= 0:
        raise machine.fail(f"columns must reach the last tile, not be {i['columns']}", i)
    if len(beats) != (expected := config.constant_beats_of(columns)):
        raise machine.fail(f"Constants of a tile must be {expected} beats, not {len(beats)}", i)
    if len(accumulators) != i["rows"]:
        raise machine.fail(f"rows must be the tile's {len(accumulators)}, not {i['rows']}", i)


def _check_places(
    machine: Machine, i: Instruction, places: Bytes, first: int, *, wide: bool
) -> None:
    """The lane pairs of the constants must be those of the channels that they go to."""
    chunk = machine.config.chunk_channels(wide=wide)
    even = np.arange(0, len(places), 2)
    pairs = (first + even) // 2 % (machine.config.requantise_lanes // 2)
    tile_end = even + 2 >= len(places)
    chunk_end = tile_end | ((first + even + 2) % chunk == 0)
    expected = pairs | np.where(chunk_end, PLACE_CHUNK_END, 0)
    expected |= np.where(tile_end, PLACE_TILE_END, 0)
    if (places[even] != expected).any():
        index = int(np.flatnonzero(places[even] != expected)[0])
        found, wanted = int(places[2 * index]), int(expected[index])
        raise machine.fail(
            f"Place of column {2 * index} must be {wanted & PLACE_PAIR} with ends"
            f" {wanted >> 6:02b}, not {found & PLACE_PAIR} with {found >> 6:02b}",
            i,
        )


def _codes(
    machine: Machine, i: Instruction, values: np.ndarray, constants: dict[str, Any]
) -> npt.NDArray[np.int8]:
    """int8 results: requantised, in mode TABLE looked up."""
    codes = requantise(
        values,
        zero_point=i["zero_point"],
        low=i["low"],
        high=i["high"],
        row_shift=_row_shifts(machine, i) if i["mode"] == DrainMode.SHIFTED else None,
        **constants,
    )
    if i["mode"] == DrainMode.TABLE:
        table = machine.tables[i["slot"]]
        if table is None:
            raise machine.fail("Table must be loaded before it is used", i)
        codes = apply_table(codes, table)
    return codes


def _row_shifts(machine: Machine, i: Instruction) -> npt.NDArray[np.int16]:
    """The shifts that a DRAIN adds, row by row."""
    if not machine.config.softmax_fractional:
        raise machine.fail("mode must not be SHIFTED on a design without row shifts", i)
    values = machine.shifts[i["slot"], : i["rows"]]
    if (values < 0).any():
        raise machine.fail("Row shifts must be written before they are read", i)
    return values


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction reads and writes."""
    del opcode
    mode = fields["mode"]
    per_word = config.word_channels(wide=mode in (DrainMode.RESIDUAL, DrainMode.WIDE))
    slices = fields["tiles"]
    if not fields["apart"]:
        slices = -(-(fields["offset"] % per_word + fields["columns"]) // per_word)
    written = words(
        fields,
        "destination",
        stride=fields["stride"],
        slices=slices,
        tokens=fields["rows"],
        write=True,
    )
    if mode == DrainMode.RESIDUAL:
        return (written, written._replace(write=False))
    if mode == DrainMode.TABLE:
        return (written, slot(TABLE_SLOTS, fields["slot"], write=False))
    if mode == DrainMode.SHIFTED:
        return (written, slot(SHIFT_SLOTS, fields["slot"], write=False))
    return (written,)


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    config = model.config
    settle = CONSTANTS_SETTLE + config.rotation_stages
    tile = 0
    time = 0
    filled = 0  # when the next group's constants are in their registers, at the earliest
    for number, instruction in model.by_engine[Engine.DRAIN]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.DRAIN].append(taken)
        model.progress += 1
        time = taken + DRAIN_START
        rows = instruction["rows"]
        residual = instruction["mode"] == DrainMode.RESIDUAL
        for index in range(instruction["tiles"]):
            while len(model.tile_ready) <= tile or len(model.constants_there) <= tile:
                yield
            chunks = tile_chunks(instruction, index, config)
            filled = max(filled, model.constants_there[tile] + 1) + -(-chunks[0] // 2)
            start = take = max(time, model.tile_ready[tile], filled)
            released = None
            for number_of_chunk, following in enumerate([*chunks[1:], 0]):
                take = max(time, take, filled)
                # Of the next tile's first chunk: when its constants may begin to come.
                filled = take + -(-following // 2) + settle
                # Straight on to the next chunk when its constants are there.
                time = take + rows
                if residual and number_of_chunk + 1 != len(chunks):
                    time += DRAIN_TILE
                if number_of_chunk + 1 == len(chunks) or residual or filled > time:
                    time += DRAIN_TAKE
                if number_of_chunk + 1 == len(chunks) and not residual:
                    # The next tile's last pass follows the last chunk's rows.
                    released = take + DRAIN_RELEASE
            if residual:
                model.residual_reads.append((start, time))
            model.constants_free.append(take)
            time += DRAIN_TILE
            model.bank_free.append(time if released is None else released)
            tile += 1
            model.progress += 1
        time += DRAIN_DONE + config.rotation_stages
        model.complete(Engine.DRAIN, taken, time)
