# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite registers, interrupt and performance counters (hwgen.isa.registers)."""

from __future__ import annotations

from amaranth import Cat, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.isa.registers import ADDRESS_BITS, BY_NAME, COUNTERS, IDENTITY

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


class Registers(wiring.Component):
    """Register file.

    Writes need address and data, in any order; unknown addresses read 0 and ignore writes (OKAY).

    ``start`` pulses only when idle and without error. ``count[i]`` increments counter i while a
    frame runs. One access per 2 cycles; a response is held until taken.
    """

    def __init__(self) -> None:
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
                "error_address": In(32),
                "count": In(len(COUNTERS)),
                "image_base": Out(64),
                "input_base": Out(64),
                "output_base": Out(64),
                "watchdog": Out(32),
                "failed": Out(1),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        watchdog, enable = Signal(32), Signal()
        bases = {
            name: Signal(32, name=name.lower())
            for name in BY_NAME
            if name.endswith(("_LOW", "_HIGH"))
        }
        done, failed, pending = Signal(), Signal(), Signal()
        cause, cause_address = Signal(4), Signal(32)
        counters = [Signal(32, name=name.lower()) for name, _ in COUNTERS]
        m.d.comb += [
            self.watchdog.eq(watchdog),
            self.failed.eq(failed),
            self.interrupt.eq(pending & enable),
            self.image_base.eq(Cat(bases["IMAGE_LOW"], bases["IMAGE_HIGH"])),
            self.input_base.eq(Cat(bases["INPUT_LOW"], bases["INPUT_HIGH"])),
            self.output_base.eq(Cat(bases["OUTPUT_LOW"], bases["OUTPUT_HIGH"])),
        ]

        # Status.
        for counter, event in zip(counters, self.count, strict=True):
            m.d.sync += counter.eq(counter + event)
        with m.If(self.start):
            m.d.sync += done.eq(0)
            # A frame begins with the START write; its two cycles are over when the engines see it.
            for counter, (name, _) in zip(counters, COUNTERS, strict=True):
                m.d.sync += counter.eq(2 if name in ("CYCLES", "STALL_IDLE") else 0)
        # Write channel.
        address, word = Signal(ADDRESS_BITS), Signal(32)
        strobe = Signal(4)
        have_address, have_word = Signal(), Signal()
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

        def merged(old: Signal) -> Cat:
            return Cat(
                ((strobe[k]) & 1).replicate(8) & word[8 * k : 8 * k + 8]
                | (~strobe[k]).replicate(8) & old[8 * k : 8 * k + 8]
                for k in range(4)
            )

        with m.If(write):
            m.d.sync += [self.bvalid.eq(1), have_address.eq(0), have_word.eq(0)]
            with m.Switch(address):
                with m.Case(BY_NAME["CONTROL"].offset):
                    m.d.comb += [
                        self.start.eq(strobe[0] & word[0] & ~self.busy & ~failed & ~self.resetting),
                        self.soft_reset.eq(strobe[0] & word[1]),
                    ]
                with m.Case(BY_NAME["INTERRUPT"].offset), m.If(strobe[0] & word[0]):
                    m.d.sync += pending.eq(0)
                with m.Case(BY_NAME["INTERRUPT_ENABLE"].offset), m.If(strobe[0]):
                    m.d.sync += enable.eq(word[0])
                with m.Case(BY_NAME["WATCHDOG"].offset):
                    m.d.sync += watchdog.eq(merged(watchdog))
                for name, register in bases.items():
                    with m.Case(BY_NAME[name].offset):
                        m.d.sync += register.eq(merged(register))
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
                "CAUSE_ADDRESS": cause_address,
                "WATCHDOG": watchdog,
                **bases,
                **{name: value for (name, _), value in zip(COUNTERS, counters, strict=True)},
            }
            with m.Switch(self.araddr):
                for name, value in values.items():
                    with m.Case(BY_NAME[name].offset):
                        m.d.sync += self.rdata.eq(value)
        return m
