# SPDX-License-Identifier: Apache-2.0
"""STORE engine: beats and bursts of random stores, exact cycles, what lies outside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BEAT_BYTES, OFFSET_BITS
from hwgen.program.machine.store import STORE_BURST, word_cycles
from hwgen.rtl.store import STORE_BURST_BEATS, StoreEngine
from hwgen.timings import READ_LATENCY

from .stalls import Chance, Context, simulate

BASE = 0xFFFF_FFFF_0000_3000
BANK_WORDS = 512
FIFO_BEATS = 2 * STORE_BURST_BEATS


@dataclass(frozen=True)
class Store:
    """Fields of a STORE, the source within bank 5."""

    address: int
    source: int
    stride: int
    words: int

    @property
    def fields(self) -> dict[str, int]:
        """As the instruction has them."""
        return vars(self) | {"source": (5 << OFFSET_BITS) + self.source}


@dataclass
class Run:
    """Cycles."""

    accepted: list[int] = field(default_factory=list)
    requested: list[int] = field(default_factory=list)
    bursts: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    outside: int | None = None


def expected_bursts(store: Store, beats: int) -> list[tuple[int, int]]:
    """(address, beats): they end at multiples of the longest length."""
    bursts, first = [], BASE // BEAT_BYTES + store.address
    end = first + beats
    while first < end:
        until = min(end, first // STORE_BURST_BEATS * STORE_BURST_BEATS + STORE_BURST_BEATS)
        bursts.append((first * BEAT_BYTES, until - first))
        first = until
    return bursts


def run_engine(
    config: AcceleratorConfig,
    stores: list[Store],
    *,
    grant: int = 100,
    pull: int = 100,
    accept: int = 100,
    response: int = 1,
    window: int = 1 << 16,
    seed: int = 0,
) -> Run:
    """Run against a write master that holds :data:`FIFO_BEATS`, responses after ``response``."""
    rng = np.random.default_rng(seed)
    per_word = config.rows // BEAT_BYTES
    words = [rng.bytes(config.rows) for _ in range(BANK_WORDS)]
    beats: list[bytes] = []
    bursts: list[tuple[int, int]] = []
    ends: list[int] = []  # bursts up to the end of each store
    for store in stores:
        for word in range(store.words):
            data = words[store.source + word * store.stride]
            beats += [data[i : i + BEAT_BYTES] for i in range(0, len(data), BEAT_BYTES)]
        bursts += expected_bursts(store, store.words * per_word)
        ends.append(len(bursts))
    grants, pulls, accepts = (
        Chance(percent, [seed, i]) for i, percent in enumerate((grant, pull, accept))
    )
    unit = StoreEngine(config)
    run = Run()

    async def bench(ctx: Context) -> None:
        layout = unit.i_command.payload.shape()
        flight: list[int | None] = [None] * READ_LATENCY
        fifo = pushed = offered = cycle = quiet = 0
        responses: list[int] = []
        held: int | None = None
        held_burst: tuple[int, int] | None = None
        ctx.set(unit.output_base, BASE)
        ctx.set(unit.output_window, window)
        while quiet < 10:
            number = len(run.accepted)
            ctx.set(unit.i_command.valid, int(number < len(stores)))
            if number < len(stores):
                ctx.set(unit.i_command.payload, layout.const(stores[number].fields))
            ctx.set(unit.read.ready, int(grants()))
            arrives = flight.pop(0)
            noise = int(rng.integers(1 << 62))
            data = noise if arrives is None else int.from_bytes(words[arrives], "little")
            ctx.set(unit.read.data, data)
            ctx.set(unit.read.data_valid, int(arrives is not None))
            ctx.set(unit.o_stream.ready, int(fifo < FIFO_BEATS))
            ctx.set(unit.o_burst.ready, int(accepts()))
            written = bool(responses) and responses[0] <= cycle
            ctx.set(unit.written, int(written))
            if written:
                responses.pop(0)
                run.written.append(cycle)
            # Outputs.
            if ctx.get(unit.i_command.ready) and number < len(stores):
                run.accepted.append(cycle)
            wanted = ctx.get(unit.read.address) if ctx.get(unit.read.valid) else None
            assert held is None or wanted == held, "a request holds until granted"
            granted = wanted is not None and ctx.get(unit.read.ready)
            if granted:
                assert wanted is not None and wanted >> OFFSET_BITS == 5
                run.requested.append(cycle)
            flight.append(wanted % BANK_WORDS if wanted is not None and granted else None)
            held = None if granted else wanted
            if ctx.get(unit.o_stream.valid) and fifo < FIFO_BEATS:
                value = ctx.get(unit.o_stream.payload)
                assert value.to_bytes(BEAT_BYTES, "little") == beats[pushed]
                pushed += 1
                fifo += 1
            burst = None
            if ctx.get(unit.o_burst.valid):
                payload = unit.o_burst.payload
                burst = (ctx.get(payload.address), ctx.get(payload.length) + 1)
                assert held_burst is None or burst == held_burst
                if ctx.get(unit.o_burst.ready):
                    assert burst == bursts[len(run.bursts)]
                    offered += burst[1]
                    assert offered <= pushed, "all its beats are in the FIFO"
                    run.bursts.append(cycle)
                    last = max([cycle, *responses])
                    responses.append(last + 1 + int(rng.integers(response)))
                    burst = None
            held_burst = burst
            if fifo and pulls():
                fifo -= 1
            if ctx.get(unit.done):
                assert len(run.written) == ends[len(run.done)], "every response has come"
                run.done.append(cycle)
            if ctx.get(unit.outside) and run.outside is None:
                run.outside = ctx.get(unit.outside_address)
            await ctx.tick()
            cycle += 1
            quiet += len(run.done) == len(stores) or run.outside is not None
            assert cycle < 60 * len(beats) + 2000, "stands still"
        if run.outside is None:
            assert (pushed, len(run.bursts)) == (len(beats), len(bursts))

    simulate(unit, bench)
    return run


def config_of(rows: int) -> AcceleratorConfig:
    from hwgen.columns import dense

    return AcceleratorConfig(rows=rows, groups=dense(rows), constant_fifo_beats=256)


@pytest.mark.parametrize("rows", (16, 32))
@pytest.mark.parametrize(
    ("grant", "pull", "accept", "response"),
    [(100, 100, 100, 1), (50, 40, 30, 40), (100, 15, 100, 5)],
)
def test_random_stores(rows: int, grant: int, pull: int, accept: int, response: int) -> None:
    rng = np.random.default_rng([rows, grant, pull])
    stores = []
    for words in (1, 40, 3, 16, 33, 2):
        stride = int(rng.integers(1, 10))
        source = int(rng.integers(BANK_WORDS - words * stride))
        stores.append(Store(int(rng.integers(1 << 10)), source, stride, words))
    run_engine(
        config_of(rows),
        stores,
        grant=grant,
        pull=pull,
        accept=accept,
        response=response,
        seed=rows + pull,
    )


@pytest.mark.parametrize("rows", (16, 32, 64, 128))
def test_cycles(rows: int) -> None:
    """The cycle model's cycles per word and of the burst; done with the last response."""
    beats = rows // BEAT_BYTES
    # One burst only, from a boundary on: the FIFO never fills.
    words = STORE_BURST_BEATS // beats
    run = run_engine(config_of(rows), [Store(0, 4, 1, words), Store(64, 9, 2, words)])
    assert run.accepted[0] == 0
    assert run.requested[0] == 1
    period = word_cycles(config_of(rows))
    assert np.diff(run.requested[:words]).tolist() == [period] * (words - 1)
    # Last beat, its count, the burst.
    assert run.bursts[0] == run.accepted[0] + words * period + STORE_BURST
    assert run.done[0] == run.written[0] + 1
    assert run.accepted[1] == run.done[0] + 1


@pytest.mark.parametrize(("room", "outside"), [(0, False), (-1, True)])
def test_a_store_beyond_its_window_is_not_begun(room: int, outside: bool) -> None:
    store = Store(100, 0, 1, 30)
    run = run_engine(config_of(32), [store], window=100 + 60 + room)
    assert (run.outside == BASE + 100 * BEAT_BYTES) == outside
    assert bool(run.bursts) != outside


def test_a_store_ends_at_the_last_address() -> None:
    """What would go on at address 0 is refused when it comes to that."""
    room = ((1 << 64) - BASE) // BEAT_BYTES
    run = run_engine(config_of(16), [Store(room - 40, 0, 1, 40)], window=1 << 29)
    assert run.outside is None and len(run.done) == 1
    run = run_engine(config_of(16), [Store(room - 40, 0, 1, 41)], window=1 << 29)
    assert run.outside == 0 and not run.done
