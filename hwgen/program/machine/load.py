# SPDX-License-Identifier: Apache-2.0
"""LOAD: tile streams, words, the image, parameters and tables."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial

import numpy as np

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    BEAT_BYTES,
    CONSTANT_BYTES,
    Engine,
    Instruction,
)
from hwgen.program.hazards import LAYERNORM_SLOTS, TABLE_SLOTS, Access, Fields, slot, words
from hwgen.program.machine.state import Machine, Step
from hwgen.program.machine.timeline import FETCH_BURST, FETCH_BURSTS, HANDOVER, Process, Timeline

#: Command -> address on the bus; data on the bus -> beat at the FIFO's output.
LOAD_REQUEST = 6
LOAD_FIFO = 2
#: Between commands of LOAD; between the constants and the weights of a tile.
LOAD_GAP = 2
LOAD_TURN = 1
#: Cycles that a beat of a table takes to write.
TABLE_BEAT = 4.0
#: Last word handed over -> written in the activation memory.
LOAD_FLUSH = 2


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    config = machine.config
    start = i["address"] * BEAT_BYTES
    if i.opcode == "LOAD_TILES":
        per_tile = i["constant_beats"] + i["weight_beats"]
        if i["beats"] != i["tiles"] * per_tile:
            raise machine.fail(f"beats must be {i['tiles'] * per_tile}, not {i['beats']}", i)
        ports = [
            machine.load(
                machine.image, start + p * i["port_stride"] * BEAT_BYTES, i["beats"] * BEAT_BYTES
            ).reshape(-1, BEAT_BYTES)
            for p in range(config.memory_ports)
        ]
        wide = np.stack(ports, axis=1).reshape(i["tiles"], per_tile, -1)
        room = config.constant_fifo_beats
        for tile in range(i["tiles"]):
            beats = wide[tile, : i["constant_beats"]]
            if len(beats) > room:
                raise machine.fail(f"Constants of a tile must fit {room} beats", i)
            yield partial(_constants_fit, machine, len(beats), room)
            if len(beats):
                machine.constants.append(beats)
            if i["weight_beats"]:
                # Handed over while STATIONARY takes it, not before.
                yield lambda: machine.weights_wanted > 0 and not machine.weights
                machine.weights.append(wide[tile, i["constant_beats"] :])
                yield lambda: not machine.weights
        return
    yield lambda: True
    if i.opcode == "LOAD_WORDS":
        size = i["words"] * config.rows // config.word_ports  # of a port
        parts = [
            machine.load(machine.image, start + p * i["port_stride"] * BEAT_BYTES, size)
            for p in range(config.word_ports)
        ]
        data = np.stack([part.reshape(-1, BEAT_BYTES) for part in parts], axis=1)
        machine.write(i["destination"], 0, data.reshape(-1, config.rows))
    elif i.opcode == "LOAD_IMAGE":
        _load_image(machine, i, start)
    elif i.opcode == "LOAD_LAYERNORM":
        machine.layernorm[i["slot"]] = machine.load(
            machine.image, start, i["beats"] * BEAT_BYTES
        ).reshape(-1, CONSTANT_BYTES)
    else:
        machine.tables[i["slot"]] = machine.load(machine.image, start, 256).view(np.int8)
    yield lambda: True


def _constants_fit(machine: Machine, beats: int, room: int) -> bool:
    """Whether the constant FIFO has room for the constants of another tile."""
    return sum(len(held) for held in machine.constants) + beats <= room


def _load_image(machine: Machine, i: Instruction, start: int) -> None:
    """Write patches, one row of patches after the other."""
    rows = machine.config.rows
    size = 1 << i["group_log2"]
    shape = (i["patch_rows"], i["lines"], i["patches"], i["groups"] * size)
    pixels = machine.load(machine.source, start, int(np.prod(shape))).reshape(shape)
    if i["beats"] != -(-pixels.size // BEAT_BYTES):
        raise machine.fail(f"beats must be {-(-pixels.size // BEAT_BYTES)}, not {i['beats']}", i)
    patches = pixels.transpose(0, 2, 1, 3).reshape(i["patch_rows"] * i["patches"], -1)
    codes = patches ^ np.uint8(0x80)
    if rows % size:
        raise machine.fail(f"Group must divide a word of {rows} bytes, not be {size}", i)
    machine.write(i["destination"], i["stride"], codes)


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction writes."""
    match opcode:
        case "LOAD_WORDS":
            return (words(fields, "destination", tokens=fields["words"], write=True),)
        case "LOAD_IMAGE":
            patch = fields["lines"] * fields["groups"] << fields["group_log2"]
            patches = words(
                fields,
                "destination",
                stride=fields["stride"],
                slices=-(-patch // config.rows),
                tokens=fields["patch_rows"] * fields["patches"],
                write=True,
            )
            return (patches,)
        case "LOAD_LAYERNORM":
            return (slot(LAYERNORM_SLOTS, fields["slot"], write=True),)
        case "LOAD_TABLE":
            return (slot(TABLE_SLOTS, fields["slot"], write=True),)
    return ()  # streams


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    config, memory = model.config, model.memory
    ports = config.memory_ports
    in_flight = config.outstanding * config.burst_beats
    limit = max(1.0, memory.latency / in_flight)
    slot = BEAT_BYTES / memory.bytes_per_cycle  # one beat's share of the bandwidth
    narrow_beat = max(limit, slot)
    # Beats by which other ports may be ahead: asked for, and there.
    beyond = max(0, in_flight - round(memory.latency / max(1.0, slot)))
    # Port 0 takes part in every load, the others in wide ones only; their requests run
    # ahead of port 0's data by what may be in flight: they fetch coming tiles beside its loads.
    wide_starts, wide_counts = _wide_stream(model)
    others = 0  # beats that each other port has fetched
    capacity = config.read_fifo_beats
    # Beats that have passed the FIFO: cumulated count, and the span in which they left.
    ends: list[int] = [0]
    spans: list[tuple[float, float]] = [(0.0, 0.0)]
    total = 0
    last_arrival = 0.0
    request_free = 0
    data_free = 0.0
    tile_number = 0
    pass_number = 0

    def room(end: int) -> float:
        """When the FIFO can take everything up to beat ``end``."""
        if end <= 0:
            return 0.0
        index = bisect_right(ends, end - 1)
        if index >= len(ends):
            return spans[-1][1]
        start, stop = spans[index]
        size = ends[index] - ends[index - 1]
        return start + (stop - start) * (end - ends[index - 1]) / size

    def wide_before(position: int) -> int:
        """Wide beats among the first ``position`` beats of port 0."""
        index = bisect_right(wide_starts, position) - 1
        start, (before, beats) = wide_starts[index], wide_counts[index]
        return before + min(position - start, beats)

    def fetch(beats: int, issue: float) -> tuple[float, float]:
        """Arrival of the first and of the last of some beats."""
        nonlocal total, last_arrival, others
        most = wide_before(total) + capacity
        ahead = min(wide_before(total + beats + beyond), most)
        asked = max(0, min(wide_before(total + beyond), most) - others)  # before this
        shared = max(0, min(beats, ahead - others)) if ports > 1 else 0
        others += shared
        first_issue = max(issue, room(total + min(beats, config.burst_beats) - capacity))
        # While port 0 asked for nothing, the memory had time for what the others had asked for.
        idle = max(0.0, first_issue + memory.latency - max(last_arrival, memory.latency))
        shared -= min(shared, asked, int(idle / (max(1, ports - 1) * slot)))
        beat = (shared * max(limit, ports * slot) + (beats - shared) * max(limit, slot)) / beats
        last_issue = max(issue, room(total + beats - capacity))
        first = max(last_arrival + beat, first_issue + memory.latency + LOAD_FIFO)
        last = max(first + (beats - 1) * beat, last_issue + memory.latency + LOAD_FIFO)
        last_arrival = last
        total += beats
        return first, last

    def leave(start: float, stop: float) -> None:
        ends.append(total)
        spans.append((start, stop))

    depth = config.queue_depth
    # Instructions are fetched through the same memory, two beats each.
    fetch_beat = max(1.0, slot)
    fetched = -FETCH_BURST * FETCH_BURSTS  # instructions fetched ahead of the first dispatch
    for index, (number, instruction) in enumerate(model.by_engine[Engine.LOAD]):
        while not model.known(number, instruction):
            yield
        last_arrival += 2 * (number - fetched) * fetch_beat
        fetched = number
        taken = max(model.met(number, instruction) + HANDOVER, request_free)
        if index >= depth:
            taken = max(taken, model.done[Engine.LOAD][index - depth])
        model.taken[Engine.LOAD].append(taken)
        model.progress += 1
        issue = float(taken + LOAD_REQUEST)
        begin = max(data_free + LOAD_GAP, issue)
        time = begin
        if instruction.opcode == "LOAD_TILES":
            for _ in range(instruction["tiles"]):
                if instruction["constant_beats"]:
                    first, last = fetch(instruction["constant_beats"], issue)
                    room_for = config.constant_fifo_beats // instruction["constant_beats"]
                    behind = tile_number - room_for
                    if behind >= 0:
                        while len(model.constants_free) <= behind:
                            yield
                        last = max(last, model.constants_free[behind])
                    start = max(time, first)
                    time = max(start + instruction["constant_beats"], last)
                    leave(start, time)
                    model.constants_there.append(int(time))
                    model.progress += 1
                time += LOAD_TURN
                tile_number += 1
                beats_left = instruction["weight_beats"]
                while beats_left > 0:
                    beats = model.pass_beats[pass_number]
                    beats_left -= beats
                    first, last = fetch(beats, issue)
                    first = max(first, time)
                    last = max(last, first + beats)
                    model.arrived.append(int(last))
                    model.progress += 1
                    while len(model.consumed) <= pass_number:
                        yield
                    start_out, stop_out = model.consumed[pass_number]
                    leave(max(start_out, first), max(stop_out, last))
                    time = max(last, stop_out)
                    pass_number += 1
                time += LOAD_TURN
            done = int(time)
        else:
            beats, cycles = _plain(model, instruction)
            rate = max(narrow_beat, cycles)
            # In pieces, so that requests follow the room in the FIFO.
            left = beats
            while left:
                piece = min(left, 64)
                first, last = fetch(piece, issue)
                start = max(time, first)
                time = max(start + piece * rate, last + 1)
                leave(start, time)
                left -= piece
            if instruction.opcode in ("LOAD_WORDS", "LOAD_IMAGE"):
                time += LOAD_FLUSH
            done = int(time)
        data_free = time
        request_free = int(max(taken + 1, room(total - capacity)))
        model.complete(Engine.LOAD, int(begin), done)


def _wide_stream(model: Timeline) -> tuple[list[int], list[tuple[int, int]]]:
    """Where port 0's beats are wide: starts of the loads; wide beats before, within."""
    starts, counts = [0], [(0, 0)]
    position = wide = 0
    for _, instruction in model.by_engine[Engine.LOAD]:
        is_tiles = instruction.opcode == "LOAD_TILES"
        is_wide = is_tiles or (instruction.opcode == "LOAD_WORDS" and model.config.word_ports > 1)
        beats = instruction["beats"] if is_tiles else _plain(model, instruction)[0]
        starts.append(position)
        counts.append((wide, beats if is_wide else 0))
        position += beats
        wide += beats if is_wide else 0
    return starts, counts


def _plain(model: Timeline, i: Instruction) -> tuple[int, float]:
    """Beats of a load, but LOAD_TILES, on each port, and the cycles that a beat takes to write."""
    if i.opcode == "LOAD_WORDS":
        return i["words"] * model.config.rows // (model.config.word_ports * BEAT_BYTES), 1.0
    if i.opcode == "LOAD_IMAGE":
        return i["beats"], BEAT_BYTES / (1 << i["group_log2"])
    if i.opcode == "LOAD_LAYERNORM":
        return i["beats"], 1.0
    return 256 // BEAT_BYTES, TABLE_BEAT
