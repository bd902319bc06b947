# SPDX-License-Identifier: Apache-2.0
"""Registers: a model of the file beside random accesses and events; exact cycles; byte strobes."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth import ResetInserter, Signal

from hwgen.isa.registers import (
    ADDRESS_BITS,
    BASE_ALIGNMENT,
    BY_NAME,
    CONTROL_SOFT_RESET,
    CONTROL_START,
    COUNTERS,
    IDENTITY,
    REGISTERS,
    STATUS_BUSY,
    STATUS_DONE,
    STATUS_ERROR,
    WATCHDOG_RESET,
    Cause,
)
from hwgen.rtl.registers import WINDOW_BITS, Registers

from .stalls import Chance, Context, simulate

BUILD = 0x0123_4567_89AB_CDEF
REGIONS = ("image", "input", "output")
#: What the host writes and reads back.
PLAIN = [
    *("WATCHDOG", "INTERRUPT_ENABLE"),
    *(f"{region.upper()}_{part}" for region in REGIONS for part in ("LOW", "HIGH", "SIZE")),
]


class Host:
    """A host on the bus, and the file as the document describes it."""

    def __init__(self, ctx: Context, unit: Registers, stall: Chance) -> None:
        self.ctx = ctx
        self.unit = unit
        self.stall = stall  #: true: a channel waits
        self.written = dict.fromkeys(PLAIN, 0) | {"WATCHDOG": WATCHDOG_RESET}
        self.cycle = 0
        self.starts: list[int] = []
        self.resets: list[int] = []

    async def tick(self) -> None:
        """One cycle; pulses are collected."""
        if self.ctx.get(self.unit.start):
            self.starts.append(self.cycle)
        if self.ctx.get(self.unit.soft_reset):
            self.resets.append(self.cycle)
        await self.ctx.tick()
        self.cycle += 1

    async def _send(self, channels: list[str]) -> None:
        """Offer on channels, each from a cycle of its own on, until all are taken."""
        ctx, unit = self.ctx, self.unit
        waiting = list(channels)
        offered: set[str] = set()
        while waiting:
            offered |= {name for name in waiting if not self.stall()}
            for name in channels:
                ctx.set(getattr(unit, f"{name}valid"), int(name in offered and name in waiting))
            taken = [n for n in waiting if n in offered and ctx.get(getattr(unit, f"{n}ready"))]
            await self.tick()
            waiting = [name for name in waiting if name not in taken]
        for name in channels:
            ctx.set(getattr(unit, f"{name}valid"), 0)

    async def _receive(self, channel: str, value: str) -> int:
        """Take a response; it holds until then."""
        ctx, unit = self.ctx, self.unit
        seen: int | None = None
        ctx.set(getattr(unit, f"{channel}ready"), 0)
        while True:
            ready = not self.stall()
            ctx.set(getattr(unit, f"{channel}ready"), int(ready))
            if ctx.get(getattr(unit, f"{channel}valid")):
                now = ctx.get(getattr(unit, value))
                assert seen in (None, now), "a response holds until it is taken"
                seen = now
                if ready:
                    await self.tick()
                    ctx.set(getattr(unit, f"{channel}ready"), 0)
                    return now
            else:
                assert seen is None, "a response holds until it is taken"
            await self.tick()

    async def write(self, address: int, value: int, strobe: int = 15) -> None:
        """One write; address and data in any order."""
        self.ctx.set(self.unit.awaddr, address)
        self.ctx.set(self.unit.wdata, value)
        self.ctx.set(self.unit.wstrb, strobe)
        await self._send(["aw", "w"])
        assert await self._receive("b", "bresp") == 0

    async def read(self, address: int) -> int:
        """One read."""
        self.ctx.set(self.unit.araddr, address)
        await self._send(["ar"])
        assert self.ctx.get(self.unit.rresp) == 0
        return await self._receive("r", "rdata")

    async def set(self, name: str, value: int, strobe: int = 15, byte: int = 0) -> None:
        """Write a register that can be read back, at the address of one of its bytes."""
        await self.write(BY_NAME[name].offset + byte, value, strobe)
        mask = sum(0xFF << 8 * k for k in range(4) if strobe >> k & 1)
        merged = self.written[name] & ~mask | value & mask
        self.written[name] = merged & 1 if name == "INTERRUPT_ENABLE" else merged

    async def get(self, name: str) -> int:
        """Read a register."""
        return await self.read(BY_NAME[name].offset)

    async def control(self, value: int) -> None:
        """Write CONTROL."""
        await self.write(BY_NAME["CONTROL"].offset, value)

    async def pulse(self, **values: int) -> None:
        """Inputs for one cycle."""
        for name, value in values.items():
            self.ctx.set(getattr(self.unit, name), value)
        await self.tick()
        for name in values:
            self.ctx.set(getattr(self.unit, name), 0)

    def expect_regions(self, image: dict[str, int]) -> None:
        """What engines see is of the last START."""
        for region in REGIONS:
            low, high, size = (image[f"{region.upper()}_{x}"] for x in ("LOW", "HIGH", "SIZE"))
            window = size >> 4 if size else (1 << WINDOW_BITS) - 1
            assert self.ctx.get(getattr(self.unit, f"{region}_base")) == high << 32 | low
            assert self.ctx.get(getattr(self.unit, f"{region}_window")) == window


async def reads_and_writes(host: Host, rng: np.random.Generator) -> None:
    """Random writes with strobes, byte addresses, read-only and unknown registers."""
    known = {register.offset for register in REGISTERS}
    constant = {"IDENTITY": IDENTITY, "BUILD_LOW": BUILD & 0xFFFF_FFFF, "BUILD_HIGH": BUILD >> 32}
    for name, value in constant.items():
        await host.write(BY_NAME[name].offset, 0xFFFF_FFFF)
        assert await host.get(name) == value
    for _ in range(60):
        name = PLAIN[rng.integers(len(PLAIN))]
        value, strobe = int(rng.integers(1 << 32)), int(rng.integers(16))
        await host.set(name, value, strobe, int(rng.integers(4)))
        name = PLAIN[rng.integers(len(PLAIN))]
        assert await host.read(BY_NAME[name].offset + int(rng.integers(4))) == host.written[name]
    for address in range(0, 1 << ADDRESS_BITS, 4):
        if address not in known:
            await host.write(address, 0xFFFF_FFFF)
            assert await host.read(address) == 0
    for name in PLAIN:
        assert await host.get(name) == host.written[name]
    assert host.ctx.get(host.unit.watchdog) == host.written["WATCHDOG"]
    assert not host.starts and not host.resets


async def frames(host: Host, rng: np.random.Generator) -> None:
    """Bases are taken by START; counters, status and interrupt of a frame; the next one."""
    ctx, unit = host.ctx, host.unit
    taken = dict.fromkeys(PLAIN, 0)
    for frame in range(4):
        for region in REGIONS:
            await host.set(f"{region.upper()}_LOW", BASE_ALIGNMENT * int(rng.integers(1 << 20)))
            await host.set(f"{region.upper()}_HIGH", int(rng.integers(1 << 32)))
            size = 0 if rng.integers(3) == 0 else int(rng.integers(1 << 32))
            await host.set(f"{region.upper()}_SIZE", size)
            if frame:
                host.expect_regions(taken)
        await host.set("INTERRUPT_ENABLE", frame % 2)
        starts = len(host.starts)
        await host.control(CONTROL_START)
        assert len(host.starts) == starts + 1
        taken = dict(host.written)
        host.expect_regions(taken)
        ctx.set(unit.busy, 1)
        counts = [2 if name in ("CYCLES", "STALL_IDLE") else 0 for name, _ in COUNTERS]
        for _ in range(30):
            events = int(rng.integers(1 << len(COUNTERS)))
            await host.pulse(count=events)
            counts = [count + (events >> i & 1) for i, count in enumerate(counts)]
        await host.control(CONTROL_START)
        assert len(host.starts) == starts + 1, "no START while busy"
        assert await host.get("STATUS") == STATUS_BUSY
        assert not ctx.get(unit.interrupt)
        await host.pulse(finished=1)
        ctx.set(unit.busy, 0)
        assert ctx.get(unit.interrupt) == frame % 2
        assert await host.get("STATUS") == STATUS_DONE
        assert await host.get("INTERRUPT") == 1
        assert [await host.get(name) for name, _ in COUNTERS] == counts
        await host.write(BY_NAME["INTERRUPT"].offset, 1)
        assert await host.get("INTERRUPT") == 0
        assert not ctx.get(unit.interrupt)


async def errors(host: Host, rng: np.random.Generator) -> None:
    """The first error stays until the soft reset; bases that are not aligned are one."""
    ctx, unit = host.ctx, host.unit
    for index, region in enumerate(REGIONS):
        for bit in (0, 11):
            name = f"{region.upper()}_LOW"
            await host.set(name, 1 << bit)
            starts = len(host.starts)
            await host.control(CONTROL_START)
            assert len(host.starts) == starts and ctx.get(unit.failed)
            assert await host.get("CAUSE") == Cause.BASE_ALIGNMENT
            assert await host.get("CAUSE_ADDRESS") == 1 << bit
            assert await host.get("INTERRUPT") == 1
            await host.set(name, BASE_ALIGNMENT << index)
            await host.control(CONTROL_START)
            assert len(host.starts) == starts, "no START in an error"
            await host.control(CONTROL_SOFT_RESET)
            assert not ctx.get(unit.failed)
            assert await host.get("STATUS") == 0
    for cause in (Cause.READ_ERROR, Cause.WATCHDOG):
        address = int(rng.integers(1 << 62))
        await host.pulse(error=1, error_cause=cause, error_address=address)
        await host.pulse(error=1, error_cause=Cause.WRITE_ERROR, error_address=3)
        await host.pulse(finished=1)
        assert await host.get("STATUS") == STATUS_ERROR
        assert await host.get("CAUSE") == cause
        assert await host.get("CAUSE_ADDRESS") == address & 0xFFFF_FFFF
        assert await host.get("CAUSE_ADDRESS_HIGH") == address >> 32
        resets = len(host.resets)
        await host.control(CONTROL_SOFT_RESET)
        assert len(host.resets) == resets + 1
        assert await host.get("CAUSE") == 0
    ctx.set(unit.resetting, 1)
    await host.pulse(error=1, error_cause=Cause.READ_ERROR)
    starts = len(host.starts)
    await host.control(CONTROL_START)
    assert len(host.starts) == starts, "no START during a reset"
    ctx.set(unit.resetting, 0)
    assert await host.get("STATUS") == 0, "what is said during a reset is of the past"
    for name in PLAIN:
        assert await host.get(name) == host.written[name], "a soft reset leaves them"


async def an_event_beside_its_clearing(host: Host, rng: np.random.Generator) -> None:
    """In whatever cycle of the host's write the next frame ends, its interrupt is not lost."""
    ctx, unit = host.ctx, host.unit
    for delay in range(6):
        await host.pulse(finished=1)
        ctx.set(unit.awaddr, BY_NAME["INTERRUPT"].offset)
        ctx.set(unit.wdata, 1)
        ctx.set(unit.wstrb, 1)
        ctx.set(unit.bready, 1)
        cleared = False
        for cycle in range(6):
            ctx.set(unit.awvalid, int(cycle == 0))
            ctx.set(unit.wvalid, int(cycle == 0))
            ctx.set(unit.finished, int(cycle == delay))
            await host.tick()
            cleared |= cycle == 1
        ctx.set(unit.finished, 0)
        # The write is done in cycle 1: what came before is cleared with it.
        assert await host.get("INTERRUPT") == (delay >= 1)
        assert cleared
        await host.write(BY_NAME["INTERRUPT"].offset, 1)


async def cycles(host: Host, rng: np.random.Generator) -> None:
    """START one cycle after the write is complete; an access every two cycles."""
    ctx, unit = host.ctx, host.unit
    ctx.set(unit.bready, 1)
    ctx.set(unit.rready, 1)
    ctx.set(unit.awaddr, BY_NAME["CONTROL"].offset)
    ctx.set(unit.wdata, CONTROL_START)
    ctx.set(unit.wstrb, 1)
    ctx.set(unit.araddr, BY_NAME["IDENTITY"].offset)
    begin = host.cycle
    responses: list[int] = []
    data: list[int] = []
    for _ in range(20):
        for channel in ("aw", "w", "ar"):
            ctx.set(getattr(unit, f"{channel}valid"), 1)
        if ctx.get(unit.bvalid):
            responses.append(host.cycle - begin)
        if ctx.get(unit.rvalid):
            data.append(host.cycle - begin)
            assert ctx.get(unit.rdata) == IDENTITY
        await host.tick()
    for channel in ("aw", "w", "ar"):
        ctx.set(getattr(unit, f"{channel}valid"), 0)
    assert [start - begin for start in host.starts[:3]] == [1, 3, 5]
    assert responses[:3] == [2, 4, 6]
    assert data[:3] == [1, 3, 5]


SCENES = (reads_and_writes, frames, errors, an_event_beside_its_clearing, cycles)


@pytest.fixture(scope="module")
def failures() -> dict[str, AssertionError | None]:
    """Every scene at two paces in one simulation, a reset in front of each."""
    unit, reset = Registers(BUILD), Signal()
    found: dict[str, AssertionError | None] = {}

    async def bench(ctx: Context) -> None:
        for scene in SCENES:
            for percent in (0, 45):
                ctx.set(reset, 1)
                await ctx.tick()
                ctx.set(reset, 0)
                rng = np.random.default_rng(percent)
                host = Host(ctx, unit, Chance(percent, [percent]))
                name = f"{scene.__name__} {percent}"
                found[name] = None
                try:
                    await scene(host, rng)
                except AssertionError as error:
                    found[name] = error
                # Nothing is left on the bus.
                for channel in ("aw", "w", "ar"):
                    ctx.set(getattr(unit, f"{channel}valid"), 0)

    simulate(ResetInserter(reset)(unit), bench)
    return found


@pytest.mark.parametrize("percent", (0, 45))
@pytest.mark.parametrize("scene", [scene.__name__ for scene in SCENES])
def test_scene(failures: dict[str, AssertionError | None], scene: str, percent: int) -> None:
    if failure := failures[f"{scene} {percent}"]:
        raise failure
