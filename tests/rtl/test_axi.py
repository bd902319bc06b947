# SPDX-License-Identifier: Apache-2.0
"""AXI masters: bursts and beats of random traffic, exact cycles, errors, draining."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from hwgen.rtl.axi import ID_FETCH, ID_LOAD, ReadMaster, WriteMaster

from .stalls import Chance, Context, simulate

OUTSTANDING = 4
#: Beats of the FIFOs by ID.
DEPTHS = {ID_FETCH: 16, ID_LOAD: 128}
OKAY, SLAVE_ERROR = 0, 2


@dataclass(frozen=True)
class Pace:
    """Per cent of the cycles: addresses are taken, data come, data are taken, bursts come."""

    address: int = 100
    data: int = 100
    take: int = 100
    offer: int = 100


PACES = [Pace(), Pace(30, 70, 100, 60), Pace(100, 100, 25, 100), Pace(60, 40, 50, 30)]


def contents(address: int, beat: int) -> int:
    """A beat's data: every wrong address, beat or order shows."""
    return ((address + 16 * beat) * 0x9E37_79B9_7F4A_7C15 + 1) % (1 << 128)


def random_bursts(rng: np.random.Generator, count: int, longest: int) -> list[tuple[int, int]]:
    """(address, beats)."""
    return [
        (16 * int(rng.integers(1 << 59)), int(rng.integers(1, longest + 1))) for _ in range(count)
    ]


@dataclass
class ReadRun:
    """Cycles, by ID."""

    accepted: dict[int, list[int]] = field(default_factory=lambda: {i: [] for i in DEPTHS})
    addressed: list[int] = field(default_factory=list)
    came: dict[int, list[int]] = field(default_factory=lambda: {i: [] for i in DEPTHS})
    left: dict[int, list[int]] = field(default_factory=lambda: {i: [] for i in DEPTHS})
    errors: list[int] = field(default_factory=list)
    idle: int | None = None
    most: int = 0  #: bursts in flight


def run_reads(
    given: dict[int, list[tuple[int, int]]],
    pace: Pace,
    *,
    seed: int = 0,
    bad: frozenset[int] = frozenset(),
    drain_at: int | None = None,
) -> ReadRun:
    """Run both sources of port 0; R of different IDs is interleaved, of one ID in order.

    Args:
        given: bursts by ID.
        pace: of everything around.
        seed: of all stalls.
        bad: addresses of bursts whose second-last beat is an error.
        drain_at: from this cycle on the core is being reset.
    """
    rng = np.random.default_rng([seed, 9])
    address, data, take, offer = (
        Chance(percent, [seed, i]) for i, percent in enumerate(vars(pace).values())
    )
    unit = ReadMaster(
        fifo_beats=DEPTHS[ID_LOAD], outstanding=OUTSTANDING, fetch_beats=DEPTHS[ID_FETCH]
    )
    run = ReadRun()

    async def bench(ctx: Context) -> None:
        sources = {
            ID_LOAD: (unit.i_burst, unit.o_stream),
            ID_FETCH: (unit.i_fetch, unit.o_fetch),
        }
        offering = dict.fromkeys(sources, False)
        order: list[tuple[int, int, int]] = []  # accepted: ID, address, beats
        flight: dict[int, deque[tuple[int, int, int, bool]]] = {i: deque() for i in sources}
        expected = {i: [contents(a, b) for a, n in given[i] for b in range(n)] for i in sources}
        held: tuple[int, int, int] | None = None
        bursts = cycle = quiet = 0
        issued: list[tuple[int, int]] = []
        while quiet < 12:
            draining = drain_at is not None and cycle >= drain_at
            ctx.set(unit.drain, int(draining))
            for i, (burst, out) in sources.items():
                number = len(run.accepted[i])
                more = number < len(given[i]) and not draining
                offering[i] = more and (offering[i] or offer())
                ctx.set(burst.valid, int(offering[i]))
                if offering[i]:
                    where, beats = given[i][number]
                    ctx.set(burst.payload, {"address": where, "length": beats - 1})
                ctx.set(out.ready, int(take() and not draining))
            ctx.set(unit.arready, int(address()))
            chosen = [i for i in sources if flight[i]]
            sends = bool(chosen) and data()
            ctx.set(unit.rvalid, int(sends))
            error = None
            if sends:
                i = chosen[rng.integers(len(chosen))]
                where, beat, wrong, last = flight[i].popleft()
                ctx.set(unit.rid, i)
                ctx.set(unit.rdata, contents(where, beat))
                ctx.set(unit.rresp, SLAVE_ERROR if wrong else OKAY)
                ctx.set(unit.rlast, int(last))
                run.came[i].append(cycle)
                bursts -= last
                error = where if wrong else None
            # Outputs.
            assert ctx.get(unit.rready)
            seen = ctx.get(unit.error_address) if ctx.get(unit.error) else None
            assert seen == (None if draining else error)
            if seen is not None:
                run.errors.append(seen)
            for i, (burst, out) in sources.items():
                if offering[i] and ctx.get(burst.ready):
                    order.append((i, *given[i][len(run.accepted[i])]))
                    run.accepted[i].append(cycle)
                    offering[i] = False
                if ctx.get(out.valid) and ctx.get(out.ready):
                    assert ctx.get(out.payload) == expected[i][len(run.left[i])]
                    run.left[i].append(cycle)
                # R is always ready: what was asked for must fit.
                asked = sum(n for j, _, n in order if j == i)
                assert draining or asked - len(run.left[i]) <= DEPTHS[i]
            asking = None
            if ctx.get(unit.arvalid):
                asking = (
                    ctx.get(unit.arid),
                    ctx.get(unit.araddr),
                    ctx.get(unit.arlen) + 1,
                )
                assert asking == order[len(issued)]
                assert not held or asking == held
                if ctx.get(unit.arready):
                    i, where, beats = asking
                    flight[i].extend(
                        (where, b, where in bad and b == max(0, beats - 2), b == beats - 1)
                        for b in range(beats)
                    )
                    issued.append((cycle, i))
                    run.addressed.append(cycle)
                    bursts += 1
                    asking = None
            else:
                assert held is None, "a request holds until it is taken"
            held = asking
            run.most = max(run.most, bursts)
            if draining and ctx.get(unit.idle):
                assert not bursts and asking is None
                run.idle = run.idle or cycle
            await ctx.tick()
            cycle += 1
            if drain_at is None:
                quiet += all(len(run.left[i]) == len(expected[i]) for i in sources)
            else:
                quiet += run.idle is not None
            assert cycle < 20_000, "stands still"
        if drain_at is not None:
            assert len(issued) == len(order), "an accepted burst is asked for"

    simulate(unit, bench)
    return run


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_random_reads(pace: Pace) -> None:
    rng = np.random.default_rng([pace.address, pace.take])
    given = {ID_LOAD: random_bursts(rng, 16, 16), ID_FETCH: random_bursts(rng, 12, 16)}
    bad = frozenset(given[i][k][0] for i in given for k in (2, 7, 11))
    run = run_reads(given, pace, seed=pace.take, bad=bad)
    assert sorted(run.errors) == sorted(bad)
    assert run.most <= OUTSTANDING


def test_cycles_of_reads() -> None:
    """A burst looked at, accepted, asked for; a beat through its FIFO; a burst every 2 cycles."""
    bursts = [(4096 * i, 1) for i in range(12)]
    run = run_reads({ID_LOAD: bursts, ID_FETCH: []}, Pace())
    accepted = run.accepted[ID_LOAD]
    assert accepted[0] == 1
    assert np.diff(accepted).tolist() == [2] * (len(bursts) - 1)
    assert run.addressed == [cycle + 1 for cycle in accepted]
    # Two through a FIFO in block RAM (more than 64 beats), one through a small one.
    assert np.subtract(run.left[ID_LOAD], run.came[ID_LOAD]).tolist() == [2] * len(bursts)
    run = run_reads({ID_LOAD: [], ID_FETCH: bursts}, Pace())
    assert np.subtract(run.left[ID_FETCH], run.came[ID_FETCH]).tolist() == [1] * len(bursts)


def test_the_fetch_goes_first() -> None:
    bursts = [(4096 * i, 4) for i in range(8)]
    run = run_reads({ID_LOAD: bursts, ID_FETCH: bursts[:2]}, Pace())
    assert max(run.accepted[ID_FETCH]) < min(run.accepted[ID_LOAD])


@pytest.mark.parametrize("drain_at", (6, 25, 40))
def test_a_drained_read_master_ends_what_it_has_begun(drain_at: int) -> None:
    rng = np.random.default_rng(drain_at)
    given = {ID_LOAD: random_bursts(rng, 30, 16), ID_FETCH: random_bursts(rng, 20, 16)}
    bad = frozenset(where for where, _ in given[ID_LOAD])
    run = run_reads(given, Pace(40, 60, 60, 100), seed=drain_at, drain_at=drain_at, bad=bad)
    assert run.idle is not None
    last = max(max(cycles, default=0) for cycles in run.came.values())
    assert run.idle <= max(last + 1, drain_at)


# Writes -------------------------------------------------------------------------------------------


@dataclass
class WriteRun:
    """Cycles."""

    accepted: list[int] = field(default_factory=list)
    addressed: list[int] = field(default_factory=list)
    beats: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    idle: int | None = None
    most: int = 0


def run_writes(
    given: list[tuple[int, int]],
    pace: Pace,
    *,
    seed: int = 0,
    bad: frozenset[int] = frozenset(),
    drain_at: int | None = None,
) -> WriteRun:
    """Run; a burst is offered once its beats are in the FIFO. ``take``: W, ``data``: B."""
    address, response, take, offer = (
        Chance(percent, [seed, i]) for i, percent in enumerate(vars(pace).values())
    )
    unit = WriteMaster(fifo_beats=32, outstanding=OUTSTANDING)
    run = WriteRun()
    beats = [(contents(a, b), b == n - 1) for a, n in given for b in range(n)]

    async def bench(ctx: Context) -> None:
        pushed = cycle = quiet = 0
        issued: list[tuple[int, int]] = []
        done_beats = 0
        answers: deque[tuple[int, bool]] = deque()
        held_address: tuple[int, int] | None = None
        held_beat: tuple[int, int] | None = None
        offering = False
        whole = 0  # bursts whose beats have all been taken
        ctx.set(unit.i_stream.valid, 0)
        while quiet < 12:
            draining = drain_at is not None and cycle >= drain_at
            ctx.set(unit.drain, int(draining))
            pushing = pushed < len(beats) and not draining
            ctx.set(unit.i_stream.valid, int(pushing))
            ctx.set(unit.i_stream.payload, beats[pushed][0] if pushing else 0)
            number = len(run.accepted)
            there = number < len(given) and sum(n for _, n in given[: number + 1]) <= pushed
            offering = there and not draining and (offering or offer())
            ctx.set(unit.i_burst.valid, int(offering))
            if offering:
                where, count = given[number]
                ctx.set(unit.i_burst.payload, {"address": where, "length": count - 1})
            ctx.set(unit.awready, int(address()))
            ctx.set(unit.wready, int(take()))
            answer = answers.popleft() if answers and response() else None
            ctx.set(unit.bvalid, int(answer is not None))
            ctx.set(unit.bresp, SLAVE_ERROR if answer and answer[1] else OKAY)
            # Outputs.
            assert ctx.get(unit.bready)
            assert ctx.get(unit.written) == (answer is not None)
            wrong = answer is not None and answer[1] and not draining
            assert ctx.get(unit.error) == wrong
            if answer is not None:
                run.written.append(cycle)
                if wrong:
                    assert ctx.get(unit.error_address) == answer[0]
                    run.errors.append(answer[0])
            if pushing and ctx.get(unit.i_stream.ready):
                pushed += 1
            if offering and ctx.get(unit.i_burst.ready):
                run.accepted.append(cycle)
                offering = False
            asking = None
            if ctx.get(unit.awvalid):
                asking = (ctx.get(unit.awaddr), ctx.get(unit.awlen) + 1)
                assert asking == given[len(issued)]
                assert held_address is None or asking == held_address
                if ctx.get(unit.awready):
                    issued.append(asking)
                    run.addressed.append(cycle)
                    asking = None
            else:
                assert held_address is None, "a request holds until it is taken"
            held_address = asking
            sending = None
            if ctx.get(unit.wvalid):
                sending = (ctx.get(unit.wdata), ctx.get(unit.wlast))
                assert sending == beats[done_beats]
                assert ctx.get(unit.wstrb) == 0xFFFF
                if ctx.get(unit.wready):
                    done_beats += 1
                    whole += sending[1]
                    run.beats.append(cycle)
                    sending = None
            else:
                assert held_beat is None, "a beat holds until it is taken"
            held_beat = sending
            while len(run.written) + len(answers) < min(whole, len(issued)):
                where = given[len(run.written) + len(answers)][0]
                answers.append((where, where in bad))
            run.most = max(run.most, len(run.accepted) - len(run.written))
            if draining and ctx.get(unit.idle):
                assert len(run.written) == len(run.accepted) == whole
                run.idle = run.idle or cycle
            await ctx.tick()
            cycle += 1
            if drain_at is None:
                quiet += len(run.written) == len(given)
            else:
                quiet += run.idle is not None
            assert cycle < 20_000, "stands still"
        assert drain_at is not None or done_beats == len(beats)

    simulate(unit, bench)
    return run


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_random_writes(pace: Pace) -> None:
    rng = np.random.default_rng([pace.address, pace.take])
    given = random_bursts(rng, 20, 16)
    bad = frozenset(given[k][0] for k in (2, 7, 8))
    run = run_writes(given, pace, seed=pace.take, bad=bad)
    assert sorted(run.errors) == sorted(bad)
    assert run.most <= OUTSTANDING


def test_cycles_of_writes() -> None:
    """AW one cycle after the burst is accepted, W two; beats without a bubble."""
    given = [(4096 * i, 8) for i in range(6)]
    run = run_writes(given, Pace())
    assert run.addressed == [cycle + 1 for cycle in run.accepted]
    assert run.beats[0] == run.accepted[0] + 2
    assert np.diff(run.beats).tolist() == [1] * (len(run.beats) - 1)


@pytest.mark.parametrize("drain_at", (12, 30, 47))
def test_a_drained_write_master_ends_what_it_has_begun(drain_at: int) -> None:
    """Accepted bursts whole, whatever the bus does; other beats are dropped."""
    given = random_bursts(np.random.default_rng(drain_at), 20, 16)
    run = run_writes(given, Pace(40, 60, 60, 100), seed=drain_at, drain_at=drain_at)
    assert run.idle is not None
