# SPDX-License-Identifier: Apache-2.0
"""DRAIN against its definition, column by column, as an image of the memory; and its cycles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import OFFSET_BITS, DrainMode
from hwgen.numerics.elementwise import apply_table
from hwgen.numerics.requantise import requantise, requantise_int16, requantise_residual
from hwgen.program.machine.drain import (
    CONSTANTS_SETTLE,
    DRAIN_RELEASE,
    DRAIN_START,
    DRAIN_TAKE,
    DRAIN_TILE,
)
from hwgen.sim.drain_bench import DrainScript, Supply, accumulators, emit_drain_bench
from hwgen.sim.engine_bench import Grant, run_script, waited_cycles
from hwgen.timings import ACCUMULATOR_LATENCY, REQUANTISE_LATENCY, TABLE_LATENCY

pytestmark = pytest.mark.verilator

BANK_WORDS = 2048
TILE_ROWS = 64
CONSTANT_BEATS = 4096
WIDE = (DrainMode.RESIDUAL, DrainMode.WIDE)


@dataclass(frozen=True)
class Design:
    """Groups as the command line takes them."""

    rows: int
    groups: str
    ports: int = 1
    lanes: int = 0  #: 0: ``rows / 2``

    @property
    def config(self) -> AcceleratorConfig:
        return AcceleratorConfig(
            rows=self.rows,
            groups=parse_groups(self.groups),
            requantise_lanes=self.lanes,
            tile_rows=TILE_ROWS,
            memory_ports=self.ports,
            constant_fifo_beats=CONSTANT_BEATS,
            softmax_fractional=True,
        )


#: Aligned: no rotation; half a word; rotations by two of eight lanes, one stage; by two of 16, two
#: stages, banks given back late; by eight of 16, three ports; by two of 32, segments and a rest.
#: As many lanes as rows: rotations by two of 16; aligned; by two of 64.
ALIGNED = Design(16, "dual:16:8", 1)
PAIRS = Design(32, "dual:22:8,digits:10:4,digits:14:1", 1)
DESIGNS = {
    "aligned": ALIGNED,
    "half": Design(16, "dual:8:8", 2),
    "one-stage": Design(16, "dual:14:8,digits:12:4", 1),
    "pairs": PAIRS,
    "ports": Design(32, "dual:40:8,digits:8:2", 3),
    "lanes": Design(64, "dual:58:8,digits:70:4", 2),
    "words": Design(16, "dual:14:8,digits:12:4", 1, lanes=16),
    "aligned-words": Design(16, "dual:32:8", 2, lanes=16),
    "many-words": Design(64, "dual:58:8,digits:70:4", 4, lanes=64),
}
#: A build of a design takes longer than its tests; the others are slow ones.
QUICK = ("aligned", "pairs", "words")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in DESIGNS]


@cache
def _verilog(design: Design) -> str:
    return emit_drain_bench(design.config, BANK_WORDS)


@dataclass(frozen=True)
class Job:
    """One DRAIN command; ``destination`` is a word address of two banks."""

    mode: DrainMode
    rows: int
    columns: int
    tile_columns: int
    offset: int = 0
    destination: int = 0
    spare: int = 0  #: words between slices beyond the rows
    zero_point: int = 0
    low: int = -128
    high: int = 127
    slot: int = 0
    seed: int = 0
    apart: bool = False  #: every tile begins a word of its own

    @property
    def tiles(self) -> int:
        return -(-self.columns // self.tile_columns)

    @property
    def wide(self) -> bool:
        return self.mode in WIDE

    def channel(self, column: int, rows: int) -> int:
        """Where a column goes to, counted from the first word."""
        tile, within = divmod(column, self.tile_columns)
        return tile * rows + within if self.apart else self.offset + column

    def chunks(self, config: AcceleratorConfig) -> Iterator[list[list[int]]]:
        """Per tile, per chunk: the columns that are written, an even number."""
        word = config.rows // 2 if self.wide else config.rows
        size = min(word, config.requantise_lanes)
        for tile in range(self.tiles):
            first = tile * self.tile_columns
            end = min(first + self.tile_columns, self.columns)
            chunks: dict[int, list[int]] = {}
            for column in range(first, end + end % 2):
                channel = self.channel(column, config.rows)
                chunks.setdefault(channel // size, []).append(column)
            yield list(chunks.values())

    def constants(
        self,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
        """Of the columns that are written; a dead one behind an odd number."""
        rng = np.random.default_rng(self.seed)
        count = self.columns + self.columns % 2
        middle = {True: 27, False: 34}[self.wide] - 8 * (self.mode == DrainMode.SHIFTED)
        bias = rng.integers(-(1 << 25), 1 << 25, count, np.int32)
        bias[rng.random(count) < 0.5] >>= 6
        multiplier = rng.integers(1 << 15, 1 << 16, count).astype(np.uint16)
        multiplier[rng.random(count) < 0.1] = 0
        shift = rng.integers(middle - 4, middle + 5, count).astype(np.uint8)
        multiplier[self.columns :], shift[self.columns :] = 0, 1
        return bias, multiplier, shift

    def records(self, config: AcceleratorConfig) -> list[npt.NDArray[np.uint8]]:
        """Constant records of every tile, uint8 [tile_columns, 8]; noise where nothing counts."""
        rng = np.random.default_rng(self.seed + 1)
        bias, multiplier, shift = self.constants()
        tiles = []
        for number, chunks in enumerate(self.chunks(config)):
            first = number * self.tile_columns
            records = rng.integers(0, 256, (self.tile_columns, 8), np.uint8)
            for chunk in chunks:
                for column in chunk:
                    place = 0
                    if column % 2 == 0:
                        channel = self.channel(column, config.rows)
                        place = channel // 2 % (config.requantise_lanes // 2)
                        place |= (column + 2 > chunk[-1]) << 6
                        place |= (column + 2 > chunks[-1][-1]) << 7
                    record = int(bias[column]) & 0xFFFF_FFFF
                    record |= int(multiplier[column]) << 32 | int(shift[column]) << 48 | place << 56
                    records[column - first] = list(record.to_bytes(8, "little"))
            tiles.append(records)
        return tiles


def _index(address: int) -> int:
    return (address >> OFFSET_BITS) * BANK_WORDS + address % BANK_WORDS


class Bench:
    """A script beside the expected contents of both banks."""

    def __init__(self, design: Design, grant: Grant, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.design = design
        self.script = DrainScript(design.config)
        self.words = rng.integers(0, 256, (2 * BANK_WORDS, design.rows), np.uint8)
        self.tables = rng.integers(-128, 128, (2, 256)).astype(np.int8)
        self.shifts = rng.integers(0, 12, (2, TILE_ROWS)).astype(np.uint8)
        self.tile = 0
        for bank in range(2):
            self.script.write(bank << OFFSET_BITS, self.words[bank * BANK_WORDS :][:BANK_WORDS])
        for slot in range(2):
            self.script.table(slot, self.tables[slot])
            self.script.row_shifts(slot, self.shifts[slot])
        self.script.grant(grant)

    def constants(self, job: Job) -> None:
        for records in job.records(self.design.config):
            self.script.constants(records)

    def command(self, job: Job) -> None:
        fields = ("rows", "columns", "tile_columns", "offset", "destination", "mode", "zero_point")
        fields += ("low", "high", "slot", "tiles", "apart")
        self.script.command(
            {name: int(getattr(job, name)) for name in fields} | {"stride": job.rows + job.spare}
        )
        self.execute(job)

    def execute(self, job: Job) -> None:
        """Column by column, from the definition."""
        bias, multiplier, shift = job.constants()
        word_bytes, size = self.design.rows, 2 if job.wide else 1
        rows = np.arange(job.rows)
        tiles = [
            accumulators(self.tile + tile, job.rows, job.tile_columns) for tile in range(job.tiles)
        ]
        self.tile += job.tiles
        for column in range(len(bias)):
            tile, within = divmod(column, job.tile_columns)
            values = tiles[tile][:, within]
            constants = {
                "bias": bias[column],
                "multiplier": multiplier[column],
                "shift": shift[column],
            }
            channel = job.channel(column, word_bytes)
            slices, place = divmod(channel, word_bytes // size)
            slices -= job.offset // (word_bytes // size)
            words = _index(job.destination) + slices * (job.rows + job.spare) + rows
            view = self.words.view(np.int16 if job.wide else np.int8)
            if job.mode == DrainMode.RESIDUAL:
                held = view[words, place]
                out = requantise_residual(values[:, None], residual=held[:, None], **constants)
            elif job.mode == DrainMode.WIDE:
                out = requantise_int16(values[:, None], **constants)
            else:
                out = requantise(
                    values[:, None],
                    zero_point=job.zero_point,
                    low=job.low,
                    high=job.high,
                    row_shift=self.shifts[job.slot, : job.rows, None][:, 0]
                    if job.mode == DrainMode.SHIFTED
                    else None,
                    **constants,
                )
                if job.mode == DrainMode.TABLE:
                    out = apply_table(out, self.tables[job.slot])
            view[words, place] = out[:, 0]

    def run(self) -> list[int]:
        """Compare the whole memory; cycles of every wait."""
        self.script.wait()
        for bank in range(2):
            self.script.read(bank << OFFSET_BITS, BANK_WORDS)
        out = run_script(_verilog(self.design), self.script)
        waits = len(out) - 2 * BANK_WORDS
        cycles = [waited_cycles(word) for word in out[:waits]]
        wrong = np.argwhere(out[waits:, : self.design.rows] != self.words)
        assert not len(wrong), (len(wrong), wrong[:5].tolist())
        return cycles


def tile_widths(config: AcceleratorConfig) -> list[int]:
    """Columns that a tile may have."""
    return sorted({*config.prefixes, config.attention_columns, config.value_columns})


def random_jobs(config: AcceleratorConfig, seed: int, count: int) -> list[Job]:
    """Commands of all modes in turn that fit the memory and the constant FIFO."""
    rng = np.random.default_rng(seed)
    jobs: list[Job] = []
    step = gcd(config.requantise_lanes, *tile_widths(config))
    beats = 0
    while len(jobs) < count:
        mode = DrainMode(len(jobs) % len(DrainMode))
        width = int(rng.choice(tile_widths(config)))
        tiles = int(rng.integers(1, 6))
        rows = int(rng.choice([1, 2, rng.integers(3, TILE_ROWS - 3), TILE_ROWS - 4]))
        per_word = config.rows // 2 if mode in WIDE else config.rows
        offset = step * int(rng.integers(config.rows // step))
        last = int(rng.choice([width, rng.integers(1, width + 1), 1]))
        columns = (tiles - 1) * width + last
        spare = int(rng.integers(3))
        apart = mode not in WIDE and width <= config.rows and bool(rng.integers(2))
        if apart:
            offset, words = 0, tiles * (rows + spare)
        else:
            words = -(-(offset + columns + 1) // per_word) * (rows + spare)
        beats_more = tiles * config.constant_beats_of(width)
        if words > BANK_WORDS or beats + beats_more > CONSTANT_BEATS:
            continue
        beats += beats_more
        low, high = sorted(int(n) for n in rng.integers(-128, 128, 2))
        if rng.random() < 0.7:
            low, high = -128, 127
        jobs.append(
            Job(
                mode,
                rows,
                columns,
                width,
                offset=offset,
                destination=(int(rng.integers(2)) << OFFSET_BITS)
                + int(rng.integers(BANK_WORDS - words + 1)),
                spare=spare,
                zero_point=int(rng.integers(-128, 128)),
                low=low,
                high=high,
                slot=int(rng.integers(2)),
                seed=1000 * seed + len(jobs),
                apart=apart,
            )
        )
    return jobs


def check(design: Design, jobs: list[Job], grant: Grant, gap: int, supply: Supply) -> None:
    """All constants and tiles may come as early as they like; the commands back to back."""
    bench = Bench(design, grant)
    bench.script.pace(gap, supply)
    bench.script.tiles(sum(job.tiles for job in jobs))
    for job in jobs:
        bench.constants(job)
    for job in jobs:
        bench.command(job)
    bench.run()


#: When reads are granted, cycles per tile, when constants come.
PATTERNS = {
    "at-once": (Grant.ALWAYS, 0, Supply.ALWAYS),
    "residual-stalls": (Grant.RANDOM_READ, 100, Supply.RANDOM),
    "all-late": (Grant.RANDOM_READ, 400, Supply.SLOW),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_memory_after_commands(name: str, pattern: str) -> None:
    design = DESIGNS[name]
    jobs = random_jobs(design.config, seed=len(name) + len(pattern), count=12)
    check(design, jobs, *PATTERNS[pattern])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", DESIGNS)
def test_memory_after_many_commands(name: str, seed: int) -> None:
    design = DESIGNS[name]
    pattern = list(PATTERNS.values())[seed % len(PATTERNS)]
    check(design, random_jobs(design.config, seed=100 + seed, count=15), *pattern)


# Cycles -------------------------------------------------------------------------------------------

#: A chunk's last row -> the next chunk may be taken, where it is not straight on. Residuals never
#: are.
TURN = DRAIN_TAKE + DRAIN_TILE
#: Last table entry -> the next command may be accepted; from there to ``done``.
NEXT = 1
DONE = 1


def expected_cycles(design: Design, jobs: list[Job], gap: int) -> int:
    """From accepting the first of commands given together to the last one's ``done``.

    A tile is complete ``gap`` cycles after its predecessor has been and its bank is free, but not
    before another could have spoilt the bank; all constants are in their FIFO, the first chunk's in
    their registers.
    """
    config = design.config
    codes = ACCUMULATOR_LATENCY + config.rotation_stages + REQUANTISE_LATENCY
    settle = CONSTANTS_SETTLE + config.rotation_stages
    accepted = loaded = settled = 0
    completed: list[int] = []
    released: list[int] = []
    for job in jobs:
        free = accepted + DRAIN_START  # the next chunk may be taken
        for chunks in job.chunks(config):
            number = len(completed)
            begun = [completed[-1] + 1] if number else [-gap]
            begun += [released[-2] + max(1, TILE_ROWS - gap)] if number > 1 else []
            completed.append(max(begun) + gap)
            free = max(free, completed[-1] + 1)
            for place, chunk in enumerate(chunks):
                if number or place:
                    # Once the registers have settled: a pair of columns a cycle.
                    loaded = max(loaded, settled) + len(chunk) // 2
                take = max(free, loaded)
                settled = take + settle
                free = take + job.rows
                straight = job.mode != DrainMode.RESIDUAL and place + 1 < len(chunks)
                straight &= straight and settled + len(chunks[place + 1]) // 2 <= free
                free += 0 if straight else TURN
            if job.mode == DrainMode.RESIDUAL:
                released.append(free - 1)
            else:
                released.append(take + DRAIN_RELEASE - 1)
            # What is left of the tile's constants leaves its FIFO, a beat a cycle.
            if number or len(chunks) > 1:
                used = -(-64 * sum(map(len, chunks)) // config.wide_beat_bits)
                loaded += config.constant_beats_of(job.tile_columns) - used
        accepted = free - TURN + 1 + codes + TABLE_LATENCY + NEXT
    return accepted + DONE


#: By name: cycles between tiles; mode, rows, tiles, steps of offset of commands back to back. One
#: row; more rows than remain behind a release; fewer columns than a tile has; tiles that wait for
#: their constants, for the array, for their bank.
CYCLE_JOBS = {
    "one row": (0, [(DrainMode.INT8, 1, 3.0, 0)]),
    "many rows": (0, [(DrainMode.TABLE, 60, 5.0, 0)]),
    "few columns": (0, [(DrainMode.INT8, 30, 0.3, 0), (DrainMode.WIDE, 2, 2.2, 0)]),
    "residual": (30, [(DrainMode.RESIDUAL, 45, 3.6, 0)]),
    "offset": (0, [(DrainMode.INT8, 17, 3.4, 3), (DrainMode.WIDE, 50, 2.7, 1)]),
    "array is slow": (300, [(DrainMode.INT8, 60, 3.0, 0), (DrainMode.SHIFTED, 5, 2.0, 1)]),
    "bank is late": (70, [(DrainMode.INT8, 60, 6.0, 0), (DrainMode.SHIFTED, 20, 4.0, 0)]),
}


def cycle_jobs(config: AcceleratorConfig, width: int) -> Iterator[tuple[list[Job], int]]:
    """Commands of :data:`CYCLE_JOBS` on tiles of a width, with the cycles between tiles."""
    for gap, commands in CYCLE_JOBS.values():
        yield (
            [
                Job(
                    mode,
                    rows,
                    max(1, round(tiles * width)),
                    width,
                    offset=config.rotation_step * steps % config.rows,
                    seed=seed,
                )
                for seed, (mode, rows, tiles, steps) in enumerate(commands)
            ],
            gap,
        )


@pytest.mark.parametrize("name", NAMES)
def test_cycles(name: str) -> None:
    design = DESIGNS[name]
    bench = Bench(design, Grant.ALWAYS)
    expected = []
    for width in tile_widths(design.config):
        for jobs, gap in cycle_jobs(design.config, width):
            expected.append(expected_cycles(design, jobs, gap))
            bench.script.pace(gap, Supply.ALWAYS)
            for job in jobs:
                bench.constants(job)
            for _ in range(design.rows):  # until the first chunk's constants are in their registers
                bench.script.grant(Grant.ALWAYS)
            bench.script.tiles(sum(job.tiles for job in jobs))
            for job in jobs:
                bench.command(job)
            bench.script.wait()
    assert bench.run()[:-1] == expected
