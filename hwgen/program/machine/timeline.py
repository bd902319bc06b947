# SPDX-License-Identifier: Apache-2.0
"""Times that the engines' timelines share; the sequencer's timeline."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from hwgen.columns import MAXIMUM_GROUPS
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    BEAT_BYTES,
    INSTRUCTION_BYTES,
    Engine,
    Instruction,
    StationarySource,
)
from hwgen.isa.registers import COUNTERS, WATCHDOG_RESET
from hwgen.program.program import Program
from hwgen.program.weight_planes import TileFormat, pass_beats
from hwgen.timings import FETCH_BURST_BEATS, FETCH_FIFO_BEATS

# Latencies of sequencer and queues, cycles; those of an engine stand in its module.
#: Last threshold met (completion counted) -> engine has the command.
HANDOVER = 2
#: From one instruction to the next.
DISPATCH = 4
#: Instructions of a burst; bursts that the fetch FIFO holds.
FETCH_BURST = FETCH_BURST_BEATS * BEAT_BYTES // INSTRUCTION_BYTES
FETCH_BURSTS = FETCH_FIFO_BEATS // FETCH_BURST_BEATS
#: START -> first fetch address on the bus; fetched beat -> instruction held and judged.
START = 3
DECODE = 4
#: END met -> interrupt.
FINISH = 2
#: Vector engines: command accepted -> first read granted; word read -> its slice is taken; last
#: codes offered -> ``done``.
VECTOR_REQUEST = 4
VECTOR_TAKE = 1
VECTOR_DONE = 2

Process = Generator[None, None, None]


def tile_format(stationary: Instruction) -> TileFormat:
    """Planes and slices of a STATIONARY of packed weights; the columns are not in it."""
    planes = tuple(stationary[f"planes{group}"] for group in range(MAXIMUM_GROUPS))
    return TileFormat(columns=0, planes=planes, slices=stationary["slices"])


def stationary_passes(stationary: Instruction) -> int:
    """Passes that a STATIONARY supplies."""
    return stationary["tiles"] * stationary["slices"] * stationary["passes"]


@dataclass(frozen=True)
class MemoryModel:
    """External memory: bandwidth summed over ports, latency from AR to the first R."""

    bytes_per_cycle: float = 16.0
    latency: int = 100


@dataclass(frozen=True, kw_only=True)
class CyclePrediction:
    """What a frame is predicted to take."""

    cycles: int  #: from START to the interrupt
    array_busy: int
    stalls: Mapping[str, int]  #: by counter name; array_busy and all stalls add up to cycles
    engine_busy: Mapping[Engine, int]  #: from accepting to completing a command
    macs: int  #: of all frames
    frames: int  #: of the START
    array_macs_per_cycle: int
    quiet: int  #: longest time without a completed instruction

    @property
    def frame_cycles(self) -> int:
        """Cycles per frame, rounded up."""
        return -(-round(self.cycles) // self.frames)

    @property
    def watchdog(self) -> int:
        """A value for WATCHDOG: four times the longest quiet, at least the one after reset."""
        return min(max(WATCHDOG_RESET, 4 * self.quiet), (1 << 32) - 1)

    @property
    def utilisation(self) -> float:
        """Useful products per product that the array could make."""
        return self.macs / (self.cycles * self.array_macs_per_cycle)


class Timeline:
    """What is known of a frame's times; every engine adds its own."""

    def __init__(self, program: Program, memory: MemoryModel) -> None:
        """Nothing has a time."""
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
        """An instruction is done."""
        self.done[engine].append(done)
        self.busy[engine] += done - taken
        self.progress += 1

    def dispatch(self) -> Process:
        """The sequencer: fetch, judgement, room in the queues; END."""
        memory, depth = self.memory, self.config.queue_depth
        counts = [0] * len(Engine)
        fetch_cycles = FETCH_BURST_BEATS * max(1.0, BEAT_BYTES / memory.bytes_per_cycle)
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

    def run(self, engines: Iterable[Callable[[Timeline], Process]]) -> CyclePrediction:
        """Until END has its time.

        Raises:
            ProgramError: the program would not finish.
        """
        alive = [self.dispatch(), *(engine(self) for engine in engines)]
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
            macs=self.program.frames * self.program.macs,
            frames=self.program.frames,
            array_macs_per_cycle=self.config.macs_per_cycle,
            quiet=max(after - before for before, after in pairwise(times)),
        )
