# SPDX-License-Identifier: Apache-2.0
"""Sequencer: order, thresholds of every engine for every other, exact cycles, causes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import pytest
from amaranth import ResetInserter, Signal

from hwgen.config import AcceleratorConfig
from hwgen.isa.build import begin
from hwgen.isa.instructions import (
    BEAT_BYTES,
    BODY_BITS,
    BODY_OFFSET,
    CHECKED_BITS,
    OPCODES,
    Engine,
    Instruction,
    encode,
    with_check,
)
from hwgen.isa.registers import Cause
from hwgen.program.machine.timeline import DISPATCH, FINISH, HANDOVER
from hwgen.rtl.sequencer import Sequencer
from hwgen.timings import FETCH_BURST_BEATS, FETCH_FIFO_BEATS

from .stalls import Chance, Context, simulate

CONFIG = AcceleratorConfig(queue_depth=4)
BASE = 0x7000
ENGINES = tuple(Engine)
FREE = (0,) * len(ENGINES)  #: thresholds of what waits for nothing
#: Opcodes of each engine.
OF_ENGINE = {e: [o for o in OPCODES if o.engine == e] for e in ENGINES}


def random_instruction(
    rng: np.random.Generator, engine: Engine, waits: tuple[int, ...]
) -> Instruction:
    opcode = OF_ENGINE[engine][rng.integers(len(OF_ENGINE[engine]))]
    fields = {f.name: int(rng.integers(f.minimum, f.maximum + 1)) for f in opcode.fields}
    return Instruction(opcode.name, fields, waits)


def random_program(rng: np.random.Generator, count: int) -> list[Instruction]:
    """Every instruction waits for one engine, or for some; for nothing that comes after it."""
    given = [0] * len(ENGINES)
    program = [begin(CONFIG)]
    for _ in range(count):
        engine = ENGINES[rng.integers(len(ENGINES))]
        waits = [0] * len(ENGINES)
        others = [other for other in ENGINES if other != engine]
        for other in rng.choice(others, int(rng.choice([0, 1, 1, 1, 3])), replace=False):
            # An engine's last instructions are those that are not yet done.
            waits[other] = max(0, given[other] - int(rng.integers(2)))
        program.append(random_instruction(rng, engine, tuple(waits)))
        given[engine] += 1
    return [*program, Instruction("END", {}, tuple(given))]


def beats_of(program: list[Instruction]) -> list[int]:
    data = b"".join(encode(instruction, i) for i, instruction in enumerate(program))
    data += bytes(-len(data) % (BEAT_BYTES * FETCH_BURST_BEATS)) + bytes(1024)
    return [int.from_bytes(data[i : i + 16], "little") for i in range(0, len(data), BEAT_BYTES)]


@dataclass(frozen=True)
class Case:
    """A program, and how fast everything around the sequencer is.

    Engines are ready in ``take`` per cent of the cycles, done after ``work`` cycles.
    """

    program: list[Instruction]
    memory: int = 100
    take: int = 100
    work: tuple[int, int] = (1, 2)
    beats: list[int] | None = None  #: instead of the program's own
    window: int = 1 << 16
    reset: bool = True  #: before it
    halt: int | None = None  #: the cycle of an error elsewhere


@dataclass
class Run:
    """Cycles since the START; instructions by their place in the program."""

    case: Case
    dispatched: dict[int, int] = field(default_factory=dict)
    offered: dict[int, int] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)
    finished: int | None = None
    fault: tuple[int, int] | None = None
    #: The engine that an instruction waited for in the end.
    decided: set[tuple[Engine, Engine]] = field(default_factory=set)
    failure: AssertionError | None = None

    def check_offer(self, places: dict[Engine, list[int]], number: int, cycle: int) -> None:
        """HANDOVER after the dispatch, the last threshold and the instruction before it."""
        instruction = self.case.program[number]
        engine = instruction.engine
        assert engine is not None
        causes: dict[object, int] = {"dispatch": self.dispatched[number]}
        if position := places[engine].index(number):
            causes["before"] = self.taken[places[engine][position - 1]]
        for other in ENGINES:
            if wait := instruction.waits[other]:
                met = self.done.get(places[other][wait - 1])
                assert met is not None, f"{engine.name} does not wait for {other.name}"
                causes[other] = met
        last = max(causes.values())
        assert cycle == last + HANDOVER, causes
        deciding = [cause for cause, when in causes.items() if when == last]
        if len(deciding) == 1 and isinstance(deciding[0], Engine):
            self.decided.add((engine, deciding[0]))

    def check_end(self) -> None:
        """Everything ran, and the end came after it."""
        assert sorted(self.taken) == list(range(1, len(self.case.program) - 1))
        assert self.finished is not None
        assert self.fault is None
        assert self.finished >= max(self.done.values(), default=0) + FINISH


async def follow(ctx: Context, unit: Sequencer, run: Run, seed: int) -> None:
    """One frame, from its START to some cycles behind its end, or behind an error."""
    case = run.case
    program = case.program
    rng = np.random.default_rng([seed, 5])
    comes, asked = Chance(case.memory, [seed, 0]), Chance(case.memory, [seed, 1])
    takes = {e: Chance(case.take, [seed, 2, e]) for e in ENGINES}
    image = [*(beats_of(program) if case.beats is None else case.beats), *[0] * 512]
    places = {e: [i for i, x in enumerate(program) if x.engine == e] for e in ENGINES}
    streams = {e: getattr(unit, f"o_{e.name.lower()}") for e in ENGINES}
    pending: list[int] = []  # beats of accepted bursts
    count = dict.fromkeys(ENGINES, 0)  # done
    head = dict.fromkeys(ENGINES, 0)  # taken
    ends: dict[Engine, list[int]] = {e: [] for e in ENGINES}  # when those taken are done
    index = quiet = 0
    offer = looked_at = False
    for port in (unit.i_beats.valid, unit.o_fetch.ready, unit.done, unit.halt):
        ctx.set(port, 0)
    ctx.set(unit.image_base, BASE)
    ctx.set(unit.image_window, case.window)
    ctx.set(unit.start, 1)
    await ctx.tick()
    ctx.set(unit.start, 0)
    for cycle in range(20_000):
        # The memory: whole bursts, as far as the FIFO of the fetch has room; a burst is looked at
        # for a cycle before it is accepted, as ReadMaster does.
        room = len(pending) <= FETCH_FIFO_BEATS - FETCH_BURST_BEATS
        ctx.set(unit.o_fetch.ready, int(room and looked_at and asked()))
        offer = bool(pending) and (offer or comes())
        ctx.set(unit.i_beats.valid, int(offer))
        ctx.set(unit.i_beats.payload, pending[0] if offer else int(rng.integers(1 << 62)))
        # The engines.
        done = 0
        for e in ENGINES:
            ctx.set(streams[e].ready, int(takes[e]()))
            if ends[e] and ends[e][0] <= cycle:
                done |= 1 << e
                ends[e].pop(0)
                run.done[places[e][count[e]]] = cycle
                count[e] += 1
        ctx.set(unit.done, done)
        halted = case.halt is not None and cycle >= case.halt
        ctx.set(unit.halt, int(halted))
        if (now := ctx.get(unit.index)) != index:
            assert now == index + 1
            run.dispatched[index] = cycle - 1
            index = now
        for e in ENGINES:
            if not ctx.get(streams[e].valid):
                continue
            number = places[e][head[e]]
            if number not in run.offered:
                run.offered[number] = cycle
                run.check_offer(places, number, cycle)
            word = int.from_bytes(encode(program[number], number), "little")
            low, width = (0, CHECKED_BITS) if e == Engine.LOAD else (BODY_OFFSET, BODY_BITS)
            assert ctx.get(streams[e].payload) == word >> low & ((1 << width) - 1)
            if ctx.get(streams[e].ready):
                run.taken[number] = cycle
                head[e] += 1
                ends[e].append(max([cycle, *ends[e]]) + int(rng.integers(*case.work)))
        if ctx.get(unit.fault) and run.fault is None:
            run.fault = (ctx.get(unit.fault_cause), ctx.get(unit.fault_address))
        if ctx.get(unit.finished):
            assert run.finished is None
            run.finished = cycle
            assert not pending, "beats behind END are still to come"
        looked_at = bool(ctx.get(unit.o_fetch.valid) and not ctx.get(unit.o_fetch.ready))
        if ctx.get(unit.o_fetch.valid) and ctx.get(unit.o_fetch.ready):
            first = (ctx.get(unit.o_fetch.payload.address) - BASE) // BEAT_BYTES
            assert ctx.get(unit.o_fetch.payload.length) == FETCH_BURST_BEATS - 1
            assert first + FETCH_BURST_BEATS <= case.window
            pending += image[first : first + FETCH_BURST_BEATS]
        if offer and ctx.get(unit.i_beats.ready):
            pending.pop(0)
            offer = False
        assert ctx.get(unit.running) == (run.finished in (None, cycle))
        await ctx.tick()
        quiet += run.finished is not None or run.fault is not None or halted
        if quiet == 40:
            return
    raise AssertionError("the program does not end")


def run_cases(cases: dict[str, Case]) -> dict[str, Run]:
    """One simulation, whose making takes longer than its cycles; resets before most frames."""
    runs = {name: Run(case) for name, case in cases.items()}
    unit, reset = Sequencer(CONFIG), Signal()

    async def bench(ctx: Context) -> None:
        for seed, run in enumerate(runs.values()):
            ctx.set(reset, int(run.case.reset))
            await ctx.tick()
            ctx.set(reset, 0)
            try:
                await follow(ctx, unit, run, seed)
            except AssertionError as error:
                run.failure = error

    simulate(ResetInserter(reset)(unit), bench)
    return runs


def thresholds() -> list[Instruction]:
    """Threshold after threshold, alone: that of each engine decides for each other."""
    given = [0] * len(ENGINES)
    rng = np.random.default_rng(9)
    program = [begin(CONFIG)]
    # So that neighbours are of different engines, and none falls behind.
    for distance in range(1, len(ENGINES)):
        for engine in ENGINES:
            other = ENGINES[(engine + distance) % len(ENGINES)]
            program.append(random_instruction(rng, other, FREE))
            given[other] += 1
            waits = tuple(given[e] * (e == other) for e in ENGINES)
            program.append(random_instruction(rng, engine, waits))
            given[engine] += 1
    return [*program, Instruction("END", {}, tuple(given))]


def in_turn() -> list[Instruction]:
    """All engines in turn, nothing to wait for."""
    rng = np.random.default_rng(2)
    turns = [random_instruction(rng, ENGINES[i % 7], FREE) for i in range(28)]
    return [begin(CONFIG), *turns, Instruction("END", {}, (4,) * len(ENGINES))]


def one_of(engine: Engine) -> list[Instruction]:
    """One instruction, for whose end END waits."""
    first = random_instruction(np.random.default_rng(engine), engine, FREE)
    return [begin(CONFIG), first, Instruction("END", {}, tuple(int(e == engine) for e in ENGINES))]


#: Memory and engines: per cent, longest work.
PACES = {"slow engines": (100, 30, 20), "slow memory": (30, 100, 3), "all": (60, 60, 60)}
#: What is wrong, and with which instruction.
UNSOUND = {
    **dict.fromkeys(("opcode", "check", "place", "begin later"), 12),
    **dict.fromkeys(("no begin", "its body only", "magic", "build"), 0),
}
CAUSES = {
    **dict.fromkeys(("opcode", "begin later"), Cause.ILLEGAL_INSTRUCTION),
    **dict.fromkeys(("check", "place"), Cause.INTEGRITY),
    **dict.fromkeys(("no begin", "its body only", "magic", "build"), Cause.IMAGE),
}


def damaged(program: list[Instruction], kind: str) -> list[int]:
    """The program's beats with one instruction that must not run."""
    place = UNSOUND[kind]
    data = encode(program[place], place)
    first = begin(CONFIG)
    if kind == "opcode":
        data = with_check(bytes([data[0] & 0xF0 | 13]) + data[1 : CHECKED_BITS // 8], place)
    elif kind == "check":
        data = data[:20] + bytes([data[20] ^ 16]) + data[21:]
    elif kind == "place":
        data = encode(program[place], place + 1)
    elif kind == "begin later":
        data = encode(first, place)
    elif kind == "no begin":
        data = encode(program[1], 0)
    elif kind == "its body only":
        opcode = bytes([data[0] & 0xF0 | OF_ENGINE[Engine.STORE][0].code])
        data = with_check(opcode + data[1 : CHECKED_BITS // 8], 0)
    else:
        data = encode(Instruction("BEGIN", first.fields | {kind: first[kind] ^ 1}), 0)
    beats = beats_of(program)
    halves = (data[:BEAT_BYTES], data[BEAT_BYTES:])
    beats[2 * place : 2 * place + 2] = [int.from_bytes(half, "little") for half in halves]
    return beats


#: Beats of a window that ends within the second burst.
SHORT_WINDOW = FETCH_BURST_BEATS + 4


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    cases = {
        "in turn": Case(in_turn()),
        "thresholds": Case(thresholds(), work=(14, 15), reset=False),
        "halt": Case(in_turn(), halt=60),
    }
    for name, (memory, take, longest) in PACES.items():
        program = random_program(np.random.default_rng([memory, take, longest]), 40)
        cases[name] = Case(program, memory=memory, take=take, work=(1, longest))
    for engine in ENGINES:
        cases[f"end of {engine.name}"] = Case(one_of(engine), work=(80, 90))
    wrong = random_program(np.random.default_rng(4), 30)
    cases |= {kind: Case(wrong, beats=damaged(wrong, kind)) for kind in UNSOUND}
    cases["window"] = Case(wrong, window=SHORT_WINDOW)
    return run_cases(cases)


def sound(runs: dict[str, Run], name: str) -> Run:
    if failure := runs[name].failure:
        raise failure
    return runs[name]


def test_every_engine_waits_for_every_other(runs: dict[str, Run]) -> None:
    """In a second frame: completions of the first do not count."""
    run = sound(runs, "thresholds")
    run.check_end()
    assert run.decided == {*permutations(ENGINES, 2)}


@pytest.mark.parametrize("pace", PACES)
def test_random_programs(runs: dict[str, Run], pace: str) -> None:
    sound(runs, pace).check_end()


def test_an_instruction_every_four_cycles(runs: dict[str, Run]) -> None:
    run = sound(runs, "in turn")
    run.check_end()
    cycles = [run.dispatched[i] for i in range(len(run.case.program) - 1)]
    assert np.diff(cycles).tolist() == [DISPATCH] * (len(cycles) - 1)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_the_end_waits_for_the_last_threshold(runs: dict[str, Run], engine: Engine) -> None:
    """The frame ends FINISH after the last engine has, where nothing is left on the bus."""
    run = sound(runs, f"end of {engine.name}")
    run.check_end()
    assert run.finished == run.done[1] + FINISH


@pytest.mark.parametrize("kind", UNSOUND)
def test_nothing_runs_from_what_is_not_sound(runs: dict[str, Run], kind: str) -> None:
    """Not itself, nor anything behind it; all before it."""
    run = sound(runs, kind)
    assert run.fault == (CAUSES[kind], UNSOUND[kind])
    assert sorted(run.dispatched) == list(range(UNSOUND[kind]))


def test_nothing_is_dispatched_after_an_error_elsewhere(runs: dict[str, Run]) -> None:
    run = sound(runs, "halt")
    assert run.case.halt is not None
    assert run.case.halt - 5 < max(run.dispatched.values()) < run.case.halt


def test_the_window_ends_the_program(runs: dict[str, Run]) -> None:
    run = sound(runs, "window")
    assert run.fault == (Cause.WINDOW, BASE + BEAT_BYTES * FETCH_BURST_BEATS)
    assert sorted(run.dispatched) == list(range(FETCH_BURST_BEATS // 2))
