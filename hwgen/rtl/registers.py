# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite registers, interrupt and performance counters (hwgen.isa.registers)."""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.isa.registers import (
    ADDRESS_BITS,
    BASE_ALIGNMENT,
    BY_NAME,
    COUNTERS,
    IDENTITY,
    WATCHDOG_RESET,
    Cause,
)

AXIL_CHANNELS: dict[str, tuple[str, int]] = {
    "awaddr": ("in", ADDRESS_BITS),
    "awprot": ("in", 3),
    "awvalid": ("in", 1),
    "awready": ("out", 1),
    "wdata": ("in", 32),
    "wstrb": ("in", 4),
    "wvalid": ("in", 1),
    "wready": ("out", 1),
    "bresp": ("out", 2),
    "bvalid": ("out", 1),
    "bready": ("in", 1),
    "araddr": ("in", ADDRESS_BITS),
    "arprot": ("in", 3),
    "arvalid": ("in", 1),
    "arready": ("out", 1),
    "rdata": ("out", 32),
    "rresp": ("out", 2),
    "rvalid": ("out", 1),
    "rready": ("in", 1),
}

#: A window's length in beats of 16 bytes; all ones, more than a load can reach: no bound.
WINDOW_BITS = 30
_REGIONS = ("image", "input", "output")
_PAGE_BITS = exact_log2(BASE_ALIGNMENT)


def _place(name: str) -> int:
    """A register's address without the bits within it."""
    return BY_NAME[name].offset >> 2


class Registers(wiring.Component):
    """Register file.

    Writes need address and data, in any order; unknown addresses read 0 and ignore writes (OKAY).
    The low two address bits are ignored.

    ``start`` pulses only when idle, without error and with aligned bases; ``*_base`` and
    ``*_window`` are what the START before took. In the cycle of ``start`` itself they hold the
    previous frame's, and ``first_base`` and ``first_window`` the image's of the coming one.
    ``count[i]`` increments counter i while a frame runs. One access per 2 cycles; a response is
    held until taken.
    """

    def __init__(self, build: int) -> None:
        self.build = build
        ports: dict[str, object] = {
            name: Out(bits) if direction == "out" else In(bits)
            for name, (direction, bits) in AXIL_CHANNELS.items()
        }
        super().__init__(
            {
                **ports,
                "start": Out(1),
                "soft_reset": Out(1),
                "busy": In(1),
                "resetting": In(1),
                "finished": In(1),
                "error": In(1),
                "error_cause": In(4),
                "error_address": In(64),
                "count": In(len(COUNTERS)),
                "first_base": Out(64),
                "first_window": Out(WINDOW_BITS),
                **{f"{region}_base": Out(64) for region in _REGIONS},
                **{f"{region}_window": Out(WINDOW_BITS) for region in _REGIONS},
                "watchdog": Out(32),
                "failed": Out(1),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        watchdog = Signal(32, init=WATCHDOG_RESET, name="watchdog")
        enable = Signal(name="enable")
        # What the host writes; a frame has copies.
        given = {
            f"{region.upper()}_{part}": Signal(32, name=f"{region}_{part.lower()}")
            for region in _REGIONS
            for part in ("LOW", "HIGH", "SIZE")
        }
        done = Signal(name="done")
        failed = Signal(name="failed")
        pending = Signal(name="pending")
        cause = Signal(4, name="cause")
        cause_address = Signal(64, name="cause_address")
        counters = [Signal(32, name=name.lower()) for name, _ in COUNTERS]
        m.d.comb += [
            self.watchdog.eq(watchdog),
            self.failed.eq(failed),
            self.interrupt.eq(pending & enable),
        ]

        # Bases and windows. What START looks at is known one cycle after the write; the next write
        # comes two cycles after it.
        misaligned = Signal(len(_REGIONS), name="misaligned")
        written_bases = []
        for index, region in enumerate(_REGIONS):
            low, high, size = (given[f"{region.upper()}_{x}"] for x in ("LOW", "HIGH", "SIZE"))
            base = Cat(low, high)
            unbounded = Signal(name=f"{region}_unbounded")
            window = size[4:] | unbounded.replicate(WINDOW_BITS)
            written_bases.append(base)
            m.d.sync += [
                misaligned[index].eq(low[:_PAGE_BITS].any()),
                unbounded.eq(size == 0),
            ]
            pages = Signal(64 - _PAGE_BITS, name=f"{region}_pages")
            taken = Signal(WINDOW_BITS, name=f"{region}_taken")
            with m.If(self.start):
                m.d.sync += [pages.eq(base[_PAGE_BITS:]), taken.eq(window)]
            m.d.comb += [
                getattr(self, f"{region}_base").eq(Cat(Const(0, _PAGE_BITS), pages)),
                getattr(self, f"{region}_window").eq(taken),
            ]
            if region == "image":
                m.d.comb += [self.first_base.eq(base), self.first_window.eq(window)]

        # Status.
        for counter, event in zip(counters, self.count, strict=True):
            m.d.sync += counter.eq(counter + event)
        with m.If(self.start):
            m.d.sync += done.eq(0)
            # A frame begins with the START write; its two cycles are over when the engines see it.
            for counter, (name, _) in zip(counters, COUNTERS, strict=True):
                m.d.sync += counter.eq(2 if name in ("CYCLES", "STALL_IDLE") else 0)
        # Write channel.
        address = Signal(ADDRESS_BITS, name="address")
        word = Signal(32, name="word")
        strobe = Signal(4, name="strobe")
        have_address = Signal(name="have_address")
        have_word = Signal(name="have_word")
        m.d.comb += [
            self.awready.eq(~have_address),
            self.wready.eq(~have_word),
        ]
        with m.If(self.awvalid & self.awready):
            m.d.sync += [have_address.eq(1), address.eq(self.awaddr)]
        with m.If(self.wvalid & self.wready):
            m.d.sync += [have_word.eq(1), word.eq(self.wdata), strobe.eq(self.wstrb)]
        with m.If(self.bvalid & self.bready):
            m.d.sync += self.bvalid.eq(0)
        write = have_address & have_word & ~self.bvalid
        attempt = Signal(name="attempt")  # START is written when a frame may start

        def merged(old: Signal) -> Cat:
            return Cat(
                ((strobe[k]) & 1).replicate(8) & word[8 * k : 8 * k + 8]
                | (~strobe[k]).replicate(8) & old[8 * k : 8 * k + 8]
                for k in range(4)
            )

        with m.If(write):
            m.d.sync += [self.bvalid.eq(1), have_address.eq(0), have_word.eq(0)]
            with m.Switch(address[2:]):
                with m.Case(_place("CONTROL")):
                    m.d.comb += [
                        attempt.eq(strobe[0] & word[0] & ~self.busy & ~failed & ~self.resetting),
                        self.soft_reset.eq(strobe[0] & word[1]),
                    ]
                with m.Case(_place("INTERRUPT")), m.If(strobe[0] & word[0]):
                    m.d.sync += pending.eq(0)
                with m.Case(_place("INTERRUPT_ENABLE")), m.If(strobe[0]):
                    m.d.sync += enable.eq(word[0])
                with m.Case(_place("WATCHDOG")):
                    m.d.sync += watchdog.eq(merged(watchdog))
                for name, register in given.items():
                    with m.Case(_place(name)):
                        m.d.sync += register.eq(merged(register))
        m.d.comb += self.start.eq(attempt & ~misaligned.any())
        # After the write channel: an event in the cycle in which the host clears the one before
        # stays pending.
        with m.If(self.finished & ~failed):
            m.d.sync += [done.eq(1), pending.eq(1)]
        with m.If(self.error & ~failed & ~self.resetting):
            m.d.sync += [
                failed.eq(1),
                pending.eq(1),
                cause.eq(self.error_cause),
                cause_address.eq(self.error_address),
            ]
        with m.If(attempt & misaligned.any()):
            m.d.sync += [
                failed.eq(1),
                pending.eq(1),
                cause.eq(Cause.BASE_ALIGNMENT),
                cause_address.eq(
                    Mux(
                        misaligned[0],
                        written_bases[0],
                        Mux(misaligned[1], written_bases[1], written_bases[2]),
                    )
                ),
            ]
        with m.If(self.soft_reset):
            m.d.sync += [failed.eq(0), done.eq(0), pending.eq(0), cause.eq(0), cause_address.eq(0)]

        # Read channel.
        m.d.comb += self.arready.eq(~self.rvalid)
        with m.If(self.rvalid & self.rready):
            m.d.sync += self.rvalid.eq(0)
        with m.If(self.arvalid & self.arready):
            m.d.sync += [self.rvalid.eq(1), self.rdata.eq(0)]
            values = {
                "IDENTITY": IDENTITY,
                "STATUS": Cat(self.busy, done, failed, self.resetting),
                "INTERRUPT": pending,
                "INTERRUPT_ENABLE": enable,
                "CAUSE": cause,
                "CAUSE_ADDRESS": cause_address[:32],
                "CAUSE_ADDRESS_HIGH": cause_address[32:],
                "BUILD_LOW": Const(self.build & 0xFFFF_FFFF, 32),
                "BUILD_HIGH": Const(self.build >> 32, 32),
                "WATCHDOG": watchdog,
                **given,
                **{name: value for (name, _), value in zip(COUNTERS, counters, strict=True)},
            }
            with m.Switch(self.araddr[2:]):
                for name, value in values.items():
                    with m.Case(_place(name)):
                        m.d.sync += self.rdata.eq(value)
        return m
