# SPDX-License-Identifier: Apache-2.0
"""MATMUL engine: what enters the array, in which cycle, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import OFFSET_BITS
from hwgen.program.machine.matmul import READ
from hwgen.rtl.matmul_engine import MatmulEngine
from hwgen.timings import READ_LATENCY

from .stalls import Chance, Context, simulate

CONFIG = AcceleratorConfig(
    rows=16, groups=parse_groups("dual:16:8,digits:8:4,digits:8:3"), tile_rows=24
)
BANK_WORDS = 1024
STALLS = ("weights", "stationary", "accumulator", "bank")


@dataclass(frozen=True)
class Command:
    """Fields of a MATMUL."""

    base: int
    stride: int
    rows: int
    tiles: int
    passes: int
    slices: int = 1
    signed: int = 1
    slice_bits: int = 0
    bank: int = 2

    @property
    def fields(self) -> dict[str, int]:
        """As the instruction has them."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "bank"}
        return fields | {"base": self.base + (self.bank << OFFSET_BITS)}


@dataclass(frozen=True)
class Row:
    """A row that is to enter the array."""

    address: int
    first_row: bool
    tile: int  #: among all tiles
    command: int
    entry: dict[str, int]


def expected_rows(commands: list[Command]) -> list[Row]:
    """From the definition: tiles, slices, passes, rows."""
    rows, tile = [], 0
    for number, given in enumerate(commands):
        for _ in range(given.tiles):
            for piece in range(given.slices):
                for p in range(given.passes):
                    shift = 0
                    if piece and p == 0:
                        shift = CONFIG.slice_widths.index(given.slice_bits) + 1
                    for row in range(given.rows):
                        last_pass = (piece, p) == (given.slices - 1, given.passes - 1)
                        entry = {
                            "first": int((piece, p) == (0, 0)),
                            "last": int(last_pass),
                            "end": int(last_pass and row == given.rows - 1),
                            "bank": tile % 2,
                            "row": row,
                            "shift": shift,
                        }
                        address = (given.bank << OFFSET_BITS) + given.base + p * given.stride + row
                        rows.append(Row(address, row == 0, tile, number, entry))
            tile += 1
    return rows


@dataclass
class Run:
    """Cycles; rows, passes and tiles in their order."""

    accepted: list[int] = field(default_factory=list)
    issued: list[int] = field(default_factory=list)
    granted: list[int] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    stalls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STALLS, 0))


def run_engine(
    commands: list[Command],
    *,
    grant: int = 100,
    command: int = 100,
    refill: int = 1,
    release: int = 1,
    seed: int = 0,
) -> Run:
    """Run; weights come up to ``refill`` cycles after a swap, banks after ``release``."""
    rng = np.random.default_rng(seed)
    words = [int.from_bytes(rng.bytes(CONFIG.rows), "little") for _ in range(BANK_WORDS)]
    rows = expected_rows(commands)
    grants, comes = Chance(grant, [seed, 1]), Chance(command, [seed, 2])
    unit = MatmulEngine(CONFIG)
    run = Run()

    async def bench(ctx: Context) -> None:
        layout = unit.i_command.payload.shape()
        full_from = cycle = 0
        flight: list[int | None] = [None] * READ_LATENCY
        releases: list[tuple[int, int]] = []
        held: int | None = None
        offer = False
        full = False
        while len(run.done) < len(commands) or cycle < run.done[-1] + 8:
            number = len(run.accepted)
            offer = number < len(commands) and (offer or comes())
            ctx.set(unit.i_command.valid, int(offer))
            if offer:
                ctx.set(unit.i_command.payload, layout.const(commands[number].fields))
            full = cycle >= full_from
            if full and len(run.full) == sum(rows[i].first_row for i in range(len(run.entered))):
                run.full.append(cycle)
            ctx.set(unit.stationary_full, int(full))
            ctx.set(unit.stationary_from_memory, int(len(run.full) % 3 == 0))
            now = [bank for when, bank in releases if when == cycle]
            ctx.set(unit.bank_release, sum(1 << bank for bank in now))
            run.released += [cycle] * len(now)
            ctx.set(unit.read.ready, int(grants()))
            arrives = flight.pop(0)
            noise = int(rng.integers(1 << 62))
            ctx.set(unit.read.data, noise if arrives is None else words[arrives % BANK_WORDS])
            ctx.set(unit.read.data_valid, int(arrives is not None))
            # What enters.
            entry = unit.entry
            assert ctx.get(entry.valid) == (arrives is not None)
            if arrives is not None:
                row = rows[len(run.entered)]
                got = {name: ctx.get(getattr(entry, name)) for name in row.entry}
                assert got == row.entry, len(run.entered)
                assert arrives == row.address
                assert ctx.get(unit.activations) == words[row.address % BANK_WORDS]
                assert ctx.get(unit.swap) == row.first_row
                assert ctx.get(unit.signed_codes) == commands[row.command].signed
                run.entered.append(cycle)
                if row.first_row:
                    full_from = cycle + 1 + int(rng.integers(refill))
                if row.entry["end"]:
                    # In the order of the tiles.
                    earliest = max([cycle, *(when for when, _ in releases)])
                    when = earliest + 1 + int(rng.integers(release))
                    releases.append((when, row.entry["bank"]))
            else:
                assert not ctx.get(unit.swap)
            # One cause for every cycle of a command.
            causes = [name for name in STALLS if ctx.get(getattr(unit, f"stall_{name}"))]
            busy = ctx.get(unit.busy)
            assert len(causes) + busy == ctx.get(unit.active)
            for name in causes:
                run.stalls[name] += 1
            if busy:
                run.issued.append(cycle)
            if offer and ctx.get(unit.i_command.ready):
                run.accepted.append(cycle)
                offer = False
            wanted = ctx.get(unit.read.address) if ctx.get(unit.read.valid) else None
            assert held is None or wanted == held, "a request holds until granted"
            granted = wanted is not None and ctx.get(unit.read.ready)
            if granted:
                run.granted.append(cycle)
            flight.append(wanted if granted else None)
            held = None if granted else wanted
            if ctx.get(unit.done):
                run.done.append(cycle)
            await ctx.tick()
            cycle += 1
            assert cycle < 40 * len(rows) + 2000, "stands still"
        assert len(run.entered) == len(rows)

    simulate(unit, bench)
    # Of a bank that is not free nothing is issued.
    passes = 0
    tiles = 0
    ends = np.cumsum([sum(r.command == n for r in rows) for n in range(len(commands))])
    for index, row in enumerate(rows):
        bounds = [run.accepted[row.command] + 1]
        if index:
            bounds.append(run.issued[index - 1] + 1)
        if row.first_row:
            bounds.append(run.full[passes])
            passes += 1
            if row.entry["last"]:
                if tiles >= 2:
                    bounds.append(run.released[tiles - 2] + 1)
                tiles += 1
        assert run.issued[index] >= max(bounds), index
        if grant == 100:
            assert run.issued[index] == max(bounds), index
            assert run.granted[index] == run.issued[index] + 1
            assert run.entered[index] == run.issued[index] + READ
        assert run.entered[index] == run.granted[index] + READ_LATENCY
    assert run.done == [run.granted[end - 1] + 1 for end in ends]
    return run


def random_commands(rng: np.random.Generator, count: int) -> list[Command]:
    commands = []
    for _ in range(count):
        rows, tiles, passes, slices = (int(n) for n in rng.integers(1, (CONFIG.tile_rows, 4, 4, 3)))
        stride = int(rng.integers(1, 100))
        width = int(rng.choice(CONFIG.slice_widths))
        commands.append(
            Command(
                base=int(rng.integers(BANK_WORDS - 4 * 100 - CONFIG.tile_rows)),
                stride=stride,
                rows=rows if rng.integers(4) else 1,
                tiles=tiles,
                passes=passes,
                slices=slices,
                signed=int(rng.integers(2)),
                slice_bits=width,
                bank=int(rng.integers(7)),
            )
        )
    return commands


@pytest.mark.parametrize(
    ("grant", "command", "refill", "release"),
    [(100, 100, 1, 1), (100, 20, 30, 120), (40, 100, 5, 5), (70, 60, 20, 90)],
)
def test_random_commands(grant: int, command: int, refill: int, release: int) -> None:
    commands = random_commands(np.random.default_rng([grant, command, refill, release]), 12)
    stalls = {"grant": grant, "command": command, "refill": refill, "release": release}
    run = run_engine(commands, **stalls, seed=grant)
    if release > 30:
        assert run.stalls["accumulator"] > 20
    if refill > 10:
        assert min(run.stalls["weights"], run.stalls["stationary"]) > 20
    assert (run.stalls["bank"] > 0) == (grant < 100)


def test_a_row_every_cycle() -> None:
    """Weights in time, banks free, commands ahead: passes, tiles and commands without a bubble."""
    commands = [
        Command(base=3, stride=40, rows=24, tiles=3, passes=4),
        Command(base=100, stride=25, rows=20, tiles=2, passes=3, slices=2, slice_bits=3),
        Command(base=7, stride=1, rows=24, tiles=2, passes=1, signed=0),
    ]
    run = run_engine(commands)
    assert np.diff(run.issued).tolist() == [1] * (len(run.issued) - 1)
    assert run.accepted[0] == 0
    assert run.issued[0] == 1


def test_a_pass_of_one_row_waits_for_its_swap() -> None:
    """The shadow weights are claimed from a pass's first row to its swap."""
    run = run_engine([Command(base=0, stride=1, rows=1, tiles=1, passes=6)])
    # The swap, and the bench's refill in the cycle after it.
    assert np.diff(run.issued).tolist() == [READ + 1] * 5
