# SPDX-License-Identifier: Apache-2.0
"""Cycles of a frame, predicted from the instruction stream.

Every engine is a process that computes its own timeline, pass by pass and tile by tile, from the
times that the others have made known; within a pass everything is closed form. What is left out:
arbitration of the activation banks, except LayerNorm's reads against the residual reads of DRAIN.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from hwgen.columns import MAXIMUM_GROUPS
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    BEAT_BYTES,
    DrainMode,
    Engine,
    Instruction,
    StationarySource,
)
from hwgen.isa.registers import COUNTERS, WATCHDOG_RESET
from hwgen.program.program import Program
from hwgen.program.weight_planes import TileFormat, pass_beats
from hwgen.program.weight_timing import layer_timing

# Latencies of the engines, cycles. The one place to calibrate against the RTL. -----------------
#: Last threshold met (completion counted) -> engine has the command.
HANDOVER = 2
#: Instructions: from one to the next; bursts of 8 instructions, 2 bursts in the fetch FIFO.
DISPATCH = 4
FETCH_BURST = 8
FETCH_BURSTS = 2
#: START -> first fetch address on the bus; fetched beat -> instruction held and judged.
START = 3
DECODE = 4
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
#: Row of activations: granted read -> entered the array (swap of the weights).
READ = 5
#: Last row granted -> all sums in the accumulators: READ + rows + groups + this.
ARRAY = 3
#: Weights: shadow free -> full, beyond R rows, at best.
INJECT = 0
#: V rows: shadow free -> full, beyond the words read.
ROWS_INJECT = 5
#: K columns: last word read -> emission may start; start of emission -> full, beyond R rows.
COLUMNS_SETTLE = 7
COLUMNS_EMIT = 4
#: DRAIN: accepted -> first group may be taken; after the last group of a tile; last -> done.
DRAIN_START = 1
DRAIN_TAKE = 1
DRAIN_TILE = 1
#: Last group taken -> its first row issued and the bank released.
DRAIN_RELEASE = 2
DRAIN_DONE = 19
#: Constants of a chunk: settling of the registers in use, beyond a cycle per pair of columns.
CONSTANTS_SETTLE = 7
#: STORE: read latency and turn-round of a word; last beat -> response beyond the memory's latency.
STORE_WORD = 7
STORE_RESPONSE = 5
#: END met -> interrupt.
FINISH = 2


def softmax_latency(config: AcceleratorConfig, length: int) -> int:
    """Fixed part of a SOFTMAX command beyond (rows + 1) x words or slices of a row."""
    vec = config.softmax_vec
    cycles = 30 + 2 * (vec.bit_length() - 1) + (vec > config.rows)
    return cycles + -(-length // vec) if config.softmax_fractional else cycles


def layernorm_latency(config: AcceleratorConfig) -> int:
    """Fixed part of a LAYERNORM command beyond (rows + 1) x groups of a row."""
    return 55 + config.layernorm_lanes.bit_length()


# -----------------------------------------------------------------------------------------------

_Process = Generator[None, None, None]


def tile_format(stationary: Instruction) -> TileFormat:
    """Planes and slices of a STATIONARY of packed weights; the columns are not in it."""
    planes = tuple(stationary[f"planes{group}"] for group in range(MAXIMUM_GROUPS))
    return TileFormat(columns=0, planes=planes, slices=stationary["slices"])


def stationary_passes(stationary: Instruction) -> int:
    """Passes that a STATIONARY supplies."""
    return stationary["tiles"] * stationary["slices"] * stationary["passes"]


def tile_chunks(drain: Instruction, tile: int, config: AcceleratorConfig) -> list[int]:
    """Columns of every chunk of a tile: those that DRAIN makes at a time."""
    chunk = config.chunk_channels(wide=drain["mode"] in (DrainMode.RESIDUAL, DrainMode.WIDE))
    columns = drain["tile_columns"]
    first = drain["offset"] + tile * columns
    last = min(first + columns, drain["offset"] + drain["columns"])
    cuts = [first, *range((first // chunk + 1) * chunk, last, chunk), last]
    return [stop - start for start, stop in pairwise(cuts)]


@dataclass(frozen=True)
class MemoryModel:
    """External memory: bandwidth summed over ports, latency from AR to the first R."""

    bytes_per_cycle: float = 16.0
    latency: int = 100


@dataclass(frozen=True, kw_only=True)
class CyclePrediction:
    """What a frame is predicted to take."""

    cycles: int
    array_busy: int
    stalls: Mapping[str, int]  #: by counter name; array_busy and all stalls add up to cycles
    engine_busy: Mapping[Engine, int]  #: from accepting to completing a command
    macs: int
    array_macs_per_cycle: int
    quiet: int  #: longest time without a completed instruction

    @property
    def watchdog(self) -> int:
        """A value for WATCHDOG: four times the longest quiet, at least the one after reset."""
        return min(max(WATCHDOG_RESET, 4 * self.quiet), (1 << 32) - 1)

    @property
    def utilisation(self) -> float:
        """Useful products per product that the array could make."""
        return self.macs / (self.cycles * self.array_macs_per_cycle)


def predict(program: Program, memory: MemoryModel | None = None) -> CyclePrediction:
    """Predict the cycles of a frame of a program; a skeleton will do.

    Raises:
        ProgramError: the program would not finish.
    """
    return _Model(program, memory or MemoryModel()).run()


def predict_schedule(
    program: Program, memory: MemoryModel | None = None
) -> dict[Engine, list[tuple[int, int]]]:
    """When each engine is predicted to take and to complete each of its instructions.

    Returns:
        per engine and instruction, in order: both cycles, since START.

    Raises:
        ProgramError: the program would not finish.
    """
    model = _Model(program, memory or MemoryModel())
    model.run()
    return {
        engine: list(zip(model.taken[engine], model.done[engine], strict=True)) for engine in Engine
    }


class _Model:
    def __init__(self, program: Program, memory: MemoryModel) -> None:
        self.program = program
        self.config: AcceleratorConfig = program.config
        self.memory = memory
        self.progress = 0
        self.quiet = False
        self.instructions = program.instructions
        self.dispatched: list[int] = []
        self.done: list[list[int]] = [[] for _ in Engine]
        self.taken: list[list[int]] = [[] for _ in Engine]
        self.busy = dict.fromkeys(Engine, 0)
        self.finish: int | None = None
        # Passes, in order: when the shadow weights are full, and free again.
        self.full: list[int] = []
        self.full_from_memory: list[bool] = []
        self.swapped: list[int] = []
        # Passes of packed weights: when their last beat can be handed over; when they were taken.
        self.arrived: list[int] = []
        self.consumed: list[tuple[int, int]] = []
        # Tiles.
        self.tile_ready: list[int] = []
        self.bank_free: list[int] = []
        self.constants_there: list[int] = []
        self.constants_free: list[int] = []
        self.residual_reads: list[tuple[int, int]] = []
        self.array_busy = 0
        self.stalls = {name: 0 for name, _ in COUNTERS if name.startswith("STALL_")}
        self.by_engine: list[list[tuple[int, Instruction]]] = [[] for _ in Engine]
        for number, instruction in enumerate(self.instructions):
            if instruction.engine is not None:
                self.by_engine[instruction.engine].append((number, instruction))
        #: wide beats of every pass of packed weights, in order
        self.pass_beats = [
            beats
            for _, instruction in self.by_engine[Engine.STATIONARY]
            if instruction["source"] == StationarySource.WEIGHTS
            for beats in [pass_beats(self.config, tile_format(instruction))]
            for _ in range(stationary_passes(instruction))
        ]

    def run(self) -> CyclePrediction:
        processes = [
            self.dispatch(),
            self.load(),
            self.stationary(),
            self.matmul(),
            self.drain(),
            self.softmax(),
            self.layernorm(),
            self.store(),
        ]
        alive = list(processes)
        while self.finish is None:
            before = self.progress
            for process in list(alive):
                try:
                    next(process)
                except StopIteration:
                    alive.remove(process)
            if self.progress == before and self.finish is None:
                if self.quiet:
                    raise ProgramError("Program must finish, not deadlock", where="cycle model")
                self.quiet = True
            else:
                self.quiet = False
        cycles = self.finish
        accounted = self.array_busy + sum(self.stalls.values())
        self.stalls["STALL_IDLE"] += cycles - accounted
        times = sorted([0, cycles, *(time for done in self.done for time in done)])
        return CyclePrediction(
            cycles=cycles,
            array_busy=self.array_busy,
            stalls=dict(self.stalls),
            engine_busy=dict(self.busy),
            macs=self.program.macs,
            array_macs_per_cycle=self.config.macs_per_cycle,
            quiet=max(after - before for before, after in pairwise(times)),
        )

    # Waiting for other processes' times ----------------------------------------------------------

    def known(self, number: int, instruction: Instruction) -> bool:
        """Whether dispatch and all thresholds of an instruction have their times."""
        if number >= len(self.dispatched):
            return False
        return all(
            wait <= len(done) for wait, done in zip(instruction.waits, self.done, strict=True)
        )

    def met(self, number: int, instruction: Instruction) -> int:
        """When an instruction's thresholds are met and it is in its queue."""
        time = self.dispatched[number]
        for wait, done in zip(instruction.waits, self.done, strict=True):
            if wait and done[wait - 1] > time:
                time = done[wait - 1]
        return time

    def complete(self, engine: Engine, taken: int, done: int) -> None:
        self.done[engine].append(done)
        self.busy[engine] += done - taken
        self.progress += 1

    # Processes ------------------------------------------------------------------------------------

    def dispatch(self) -> _Process:
        memory, depth = self.memory, self.config.queue_depth
        counts = [0] * len(Engine)
        fetch_cycles = FETCH_BURST * 2 * max(1.0, BEAT_BYTES / memory.bytes_per_cycle)
        arrival = START + memory.latency + DECODE
        time = 0
        for number, instruction in enumerate(self.instructions):
            if number % FETCH_BURST == 0:
                behind = number - FETCH_BURST * FETCH_BURSTS
                issued = self.dispatched[behind + FETCH_BURST - 1] if behind >= 0 else START
                arrival = max(
                    issued + memory.latency + DECODE,
                    arrival + int(fetch_cycles) if number else arrival,
                )
            time = max(time + DISPATCH, arrival + DISPATCH * (number % FETCH_BURST))
            engine = instruction.engine
            if engine is None and instruction.opcode == "BEGIN":
                self.dispatched.append(time)
                continue
            if engine is None:
                while not all(
                    wait <= len(done)
                    for wait, done in zip(instruction.waits, self.done, strict=True)
                ):
                    yield
                for wait, done in zip(instruction.waits, self.done, strict=True):
                    if wait:
                        time = max(time, done[wait - 1])
                self.finish = time + FINISH
                self.progress += 1
                return
            ahead = counts[engine] - depth
            if ahead >= 0:
                while len(self.taken[engine]) <= ahead:
                    yield
                time = max(time, self.taken[engine][ahead] + 1)
            counts[engine] += 1
            self.dispatched.append(time)
            self.progress += 1

    def load(self) -> _Process:
        config, memory = self.config, self.memory
        ports = config.memory_ports
        in_flight = config.outstanding * config.burst_beats
        limit = max(1.0, memory.latency / in_flight)
        slot = BEAT_BYTES / memory.bytes_per_cycle  # one beat's share of the bandwidth
        narrow_beat = max(limit, slot)
        # Port 0 takes part in every load, the others in LOAD_TILES only; their requests run
        # ahead of port 0's data by what may be in flight: they fetch coming tiles beside its loads.
        wide_starts, wide_counts = self.wide_stream()
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
            ahead = min(wide_before(total + beats + in_flight), wide_before(total) + capacity)
            shared = max(0, min(beats, ahead - others)) if ports > 1 else 0
            others += shared
            beat = (shared * max(limit, ports * slot) + (beats - shared) * max(limit, slot)) / beats
            first_issue = max(issue, room(total + min(beats, config.burst_beats) - capacity))
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
        for index, (number, instruction) in enumerate(self.by_engine[Engine.LOAD]):
            while not self.known(number, instruction):
                yield
            last_arrival += 2 * (number - fetched) * fetch_beat
            fetched = number
            taken = max(self.met(number, instruction) + HANDOVER, request_free)
            if index >= depth:
                taken = max(taken, self.done[Engine.LOAD][index - depth])
            self.taken[Engine.LOAD].append(taken)
            self.progress += 1
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
                            while len(self.constants_free) <= behind:
                                yield
                            last = max(last, self.constants_free[behind])
                        start = max(time, first)
                        time = max(start + instruction["constant_beats"], last)
                        leave(start, time)
                        self.constants_there.append(int(time))
                        self.progress += 1
                    time += LOAD_TURN
                    tile_number += 1
                    beats_left = instruction["weight_beats"]
                    while beats_left > 0:
                        beats = self.pass_beats[pass_number]
                        beats_left -= beats
                        first, last = fetch(beats, issue)
                        first = max(first, time)
                        last = max(last, first + beats)
                        self.arrived.append(int(last))
                        self.progress += 1
                        while len(self.consumed) <= pass_number:
                            yield
                        start_out, stop_out = self.consumed[pass_number]
                        leave(max(start_out, first), max(stop_out, last))
                        time = max(last, stop_out)
                        pass_number += 1
                    time += LOAD_TURN
                done = int(time)
            else:
                beats, cycles = self.narrow(instruction)
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
            self.complete(Engine.LOAD, int(begin), done)

    def wide_stream(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Where port 0's beats are LOAD_TILES: starts of the loads; wide beats before, within."""
        starts, counts = [0], [(0, 0)]
        position = wide = 0
        for _, instruction in self.by_engine[Engine.LOAD]:
            is_wide = instruction.opcode == "LOAD_TILES"
            beats = instruction["beats"] if is_wide else self.narrow(instruction)[0]
            starts.append(position)
            counts.append((wide, beats if is_wide else 0))
            position += beats
            wide += beats if is_wide else 0
        return starts, counts

    def narrow(self, i: Instruction) -> tuple[int, float]:
        """Beats of a load on one port, and the cycles that a beat takes to write."""
        if i.opcode == "LOAD_WORDS":
            return i["words"] * self.config.rows // BEAT_BYTES, 1.0
        if i.opcode == "LOAD_IMAGE":
            return i["beats"], BEAT_BYTES / (1 << i["group_log2"])
        if i.opcode == "LOAD_LAYERNORM":
            return i["beats"], 1.0
        return 256 // BEAT_BYTES, TABLE_BEAT

    def stationary(self) -> _Process:
        config = self.config
        rows, columns = config.rows, config.attention_columns
        row_cycles = rows * max(1, config.value_columns // rows) + ROWS_INJECT
        number_of_pass = 0
        weight_pass = 0
        time = 0
        for number, instruction in self.by_engine[Engine.STATIONARY]:
            while not self.known(number, instruction):
                yield
            taken = max(self.met(number, instruction) + HANDOVER, time)
            self.taken[Engine.STATIONARY].append(taken)
            self.progress += 1
            time = taken
            source = instruction["source"]
            fetched = taken
            emitted = [0, 0]  # ends of the last two emissions
            timing = None
            if source == StationarySource.WEIGHTS:
                timing = layer_timing(config, tile_format(instruction))
            for _ in range(stationary_passes(instruction)):
                while len(self.swapped) < number_of_pass:
                    yield
                free = self.swapped[number_of_pass - 1] if number_of_pass else 0
                if timing is not None:
                    while len(self.arrived) <= weight_pass:
                        yield
                    start = max(time, free)
                    # The timing counts from the swap, in front of the first free cycle.
                    end = max(start - 1 + timing.full, self.arrived[weight_pass] + timing.tail)
                    # The last block comes when the pass before has been handed out, or later.
                    handed = self.full[-1] if self.full else 0
                    last = handed if timing.taken is None else start - 1 + timing.taken
                    self.consumed.append((start, last))
                    weight_pass += 1
                elif source == StationarySource.ROWS:
                    end = max(time, free) + row_cycles
                else:
                    fetched = max(fetched, emitted[0]) + columns
                    start = max(fetched + COLUMNS_SETTLE, time, free)
                    end = start + rows + COLUMNS_EMIT
                    emitted = [emitted[1], end]
                time = end
                self.full.append(end)
                self.full_from_memory.append(source != StationarySource.WEIGHTS)
                self.progress += 1
                number_of_pass += 1
            self.complete(Engine.STATIONARY, taken, time)

    def matmul(self) -> _Process:
        config = self.config
        latency = READ + config.rows + config.pieces + ARRAY
        full, bank_free, swapped = self.full, self.bank_free, self.swapped
        stalls = self.stalls
        number_of_pass = 0
        tile = 0
        time = 0
        order = (
            ("STALL_LOAD", Engine.LOAD),
            ("STALL_DRAIN", Engine.DRAIN),
            ("STALL_SOFTMAX", Engine.SOFTMAX),
            ("STALL_LAYERNORM", Engine.LAYERNORM),
        )
        for number, instruction in self.by_engine[Engine.MATMUL]:
            while not self.known(number, instruction):
                yield
            queued = max(time, self.dispatched[number])
            for name, engine in order:
                wait = instruction.waits[engine]
                if wait and self.done[engine][wait - 1] > queued:
                    stalls[name] += self.done[engine][wait - 1] - queued
                    queued = self.done[engine][wait - 1]
            taken = max(self.met(number, instruction) + HANDOVER, time)
            self.taken[Engine.MATMUL].append(taken)
            self.progress += 1
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
                        memory = self.full_from_memory[number_of_pass]
                        stalls["STALL_STATIONARY" if memory else "STALL_WEIGHTS"] += there - start
                        start = there
                    if index == 0 and tile >= 2:
                        while len(bank_free) <= tile - 2:
                            yield
                        if bank_free[tile - 2] > start:
                            stalls["STALL_ACCUMULATOR"] += bank_free[tile - 2] - start
                            start = bank_free[tile - 2]
                    time = start + rows
                    swapped.append(start + READ + 1)
                    number_of_pass += 1
                    self.progress += 1
                self.tile_ready.append(time + latency)
                tile += 1
            self.array_busy += rows * passes * instruction["tiles"]
            self.complete(Engine.MATMUL, taken, time + 1)

    def drain(self) -> _Process:
        config = self.config
        settle = CONSTANTS_SETTLE + config.rotation_stages
        # Rows that may be left when a bank is given back; sign columns write sooner.
        signs = any(group.weight_bits == 1 for group in config.groups)
        distance = config.rows + config.rows // (2 if signs else 1)
        tile = 0
        time = 0
        filled = 0  # when the next group's constants are in their registers, at the earliest
        for number, instruction in self.by_engine[Engine.DRAIN]:
            while not self.known(number, instruction):
                yield
            taken = max(self.met(number, instruction) + HANDOVER, time)
            self.taken[Engine.DRAIN].append(taken)
            self.progress += 1
            time = taken + DRAIN_START
            rows = instruction["rows"]
            residual = instruction["mode"] == DrainMode.RESIDUAL
            for index in range(instruction["tiles"]):
                while len(self.tile_ready) <= tile or len(self.constants_there) <= tile:
                    yield
                chunks = tile_chunks(instruction, index, config)
                filled = max(filled, self.constants_there[tile] + 1) + -(-chunks[0] // 2)
                start = take = max(time, self.tile_ready[tile], filled)
                released = None
                for number_of_chunk, following in enumerate([*chunks[1:], 0]):
                    take = max(time, take, filled)
                    # Of the next tile's first chunk: when its constants may begin to come.
                    filled = take + -(-following // 2) + settle
                    # Straight on to the next chunk when its constants are there.
                    time = take + rows
                    if number_of_chunk + 1 == len(chunks) or filled > time:
                        time += DRAIN_TAKE
                    if number_of_chunk + 1 == len(chunks) and not residual:
                        # The next tile follows the last chunk's rows at a distance.
                        released = take + DRAIN_RELEASE + max(0, rows - distance)
                if residual:
                    self.residual_reads.append((start, time))
                self.constants_free.append(take)
                time += DRAIN_TILE
                self.bank_free.append(time if released is None else released)
                tile += 1
                self.progress += 1
            time += DRAIN_DONE + config.rotation_stages
            self.complete(Engine.DRAIN, taken, time)

    def softmax(self) -> _Process:
        config = self.config
        time = 0
        for number, instruction in self.by_engine[Engine.SOFTMAX]:
            while not self.known(number, instruction):
                yield
            taken = max(self.met(number, instruction) + HANDOVER, time)
            self.taken[Engine.SOFTMAX].append(taken)
            per_row = -(-instruction["length"] // min(config.rows, config.softmax_vec))
            fixed = softmax_latency(config, instruction["length"])
            time = taken + (instruction["rows"] + 1) * per_row + fixed
            self.complete(Engine.SOFTMAX, taken, time)

    def layernorm(self) -> _Process:
        time = 0
        for number, instruction in self.by_engine[Engine.LAYERNORM]:
            while not self.known(number, instruction):
                yield
            taken = max(self.met(number, instruction) + HANDOVER, time)
            self.taken[Engine.LAYERNORM].append(taken)
            self.progress += 1
            per_row = -(-instruction["channels"] // self.config.layernorm_lanes)
            # DRAIN's residual reads go first. All that can happen before this command is complete
            # is known once nothing else moves.
            while not self.quiet:
                yield
            end = taken + instruction["rows"] * per_row
            reads = self.residual_reads
            index = max(0, bisect_right(reads, (taken, 0)) - 1)
            for start, stop in reads[index:]:
                if start >= end:
                    break
                end += max(0, stop - max(start, taken))
            time = end + per_row + layernorm_latency(self.config)
            self.complete(Engine.LAYERNORM, taken, time)
            self.quiet = False

    def store(self) -> _Process:
        time = 0
        beats = self.config.rows // BEAT_BYTES
        for number, instruction in self.by_engine[Engine.STORE]:
            while not self.known(number, instruction):
                yield
            taken = max(self.met(number, instruction) + HANDOVER, time)
            self.taken[Engine.STORE].append(taken)
            self.progress += 1
            words = instruction["words"]
            per_word = max(STORE_WORD, beats + 1, beats * BEAT_BYTES / self.memory.bytes_per_cycle)
            time = taken + int(words * per_word) + self.memory.latency + STORE_RESPONSE
            self.complete(Engine.STORE, taken, time)
