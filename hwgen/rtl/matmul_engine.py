# SPDX-License-Identifier: Apache-2.0
"""MATMUL engine: streams rows of activations through the systolic array."""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import WORD_ADDRESS_BITS
from hwgen.rtl.pipeline import SkidBuffer, loop_counter
from hwgen.rtl.ports import ReadPort, command_layout, command_signature
from hwgen.rtl.systolic_array import entry_layout
from hwgen.timings import READ_LATENCY


class MatmulEngine(wiring.Component):
    """Reads ``rows`` words per pass into the array, one per cycle, passes back to back.

    A pass starts when the shadow weights are full; the last pass of a tile also waits for its
    accumulator bank, which only that one writes. ``bank_release[b]`` (from DRAIN) frees bank b. A
    request passes through a register on its way to the memory. One command may wait in a spare
    register, so that nothing behind ``i_command.ready`` depends on a pass's end. ``swap``
    accompanies the first row of a pass, ``entry.shift`` the first pass of a weight slice behind
    another. Exactly one of ``busy`` (a row was requested), ``stall_*`` is high per cycle while a
    command is active.
    ``done`` pulses after the last word was read.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.layout = entry_layout(config.tile_rows, config.slice_widths)
        super().__init__(
            {
                "i_command": In(command_signature("MATMUL")),
                "done": Out(1),
                "read": Out(ReadPort(config.word_bits)),
                "stationary_full": In(1),
                "stationary_from_memory": In(1),
                "bank_release": In(2),
                "activations": Out(config.word_bits),
                "signed_codes": Out(1),
                "swap": Out(1),
                "entry": Out(self.layout),
                "active": Out(1),
                "busy": Out(1),
                "stall_weights": Out(1),
                "stall_stationary": Out(1),
                "stall_accumulator": Out(1),
                "stall_bank": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        command = Signal.like(self.i_command.payload, name="command")
        active = Signal(name="active")
        base = Signal(WORD_ADDRESS_BITS, name="base")  # of the current pass
        address = Signal(WORD_ADDRESS_BITS, name="address")
        bank = Signal(name="bank")
        bank_busy = Signal(2, name="bank_busy")
        # The shadow weights belong to a pass whose first row has not yet entered.
        claimed = Signal(name="claimed")

        # Loops: rows of a pass, passes of a slice, slices of a tile, tiles.
        m.submodules.commands = commands = SkidBuffer(command_layout("MATMUL"))
        wiring.connect(m, wiring.flipped(self.i_command), commands.i_stream)
        given = commands.o_stream.payload
        accepted = commands.o_stream.valid & commands.o_stream.ready
        issued = Signal(name="issued")
        ends_pass = Signal(name="ends_pass")
        ends_slice = Signal(name="ends_slice")
        ends_tile = Signal(name="ends_tile")
        row = loop_counter(
            m, len(given.rows), "row", start=accepted, length=given.rows, step=issued
        )
        passes = loop_counter(
            m, len(given.passes), "pass", start=accepted, length=given.passes, step=ends_pass
        )
        tile = loop_counter(
            m, len(given.tiles), "tile", start=accepted, length=given.tiles, step=ends_tile
        )
        first_slice: Value = Const(1, 1)
        last_slice: Value = Const(1, 1)
        if self.config.slice_widths:
            slices = loop_counter(
                m, len(given.slices), "slice", start=accepted, length=given.slices, step=ends_slice
            )
            first_slice, last_slice = slices.first, slices.last
        first_row, first_pass = row.first, passes.first & first_slice
        last_row, last_pass = row.last, passes.last & last_slice
        m.d.comb += [
            ends_pass.eq(issued & last_row),
            ends_slice.eq(ends_pass & passes.last),
            ends_tile.eq(ends_slice & last_slice),
        ]

        weights_ready = ~first_row | (self.stationary_full & ~claimed)
        bank_ready = ~(first_row & last_pass) | ~bank_busy.bit_select(bank, 1)
        # The memory takes the request of this port in every cycle, as long as it comes first.
        advance = ~self.read.valid | self.read.ready
        able = active & weights_ready & bank_ready
        m.d.comb += [
            self.active.eq(active),
            issued.eq(able & advance),
            self.busy.eq(issued),
            self.stall_weights.eq(active & ~weights_ready & ~self.stationary_from_memory),
            self.stall_stationary.eq(active & ~weights_ready & self.stationary_from_memory),
            self.stall_accumulator.eq(active & weights_ready & ~bank_ready),
            self.stall_bank.eq(able & ~advance),
        ]

        with m.If(self.bank_release[0]):
            m.d.sync += bank_busy[0].eq(0)
        with m.If(self.bank_release[1]):
            m.d.sync += bank_busy[1].eq(0)

        finishing = ends_tile & tile.last
        m.d.comb += commands.o_stream.ready.eq(~active | finishing)
        with m.If(issued):
            m.d.sync += address.eq(address + 1)
            with m.If(first_row):
                m.d.sync += claimed.eq(1)
                with m.If(last_pass):
                    m.d.sync += bank_busy.bit_select(bank, 1).eq(1)
        with m.If(ends_pass):
            m.d.sync += [base.eq(base + command.stride), address.eq(base + command.stride)]
        with m.If(ends_slice):
            m.d.sync += [base.eq(command.base), address.eq(command.base)]
        with m.If(ends_tile):
            m.d.sync += bank.eq(~bank)
        with m.If(finishing):
            m.d.sync += active.eq(0)
        with m.If(accepted):
            m.d.sync += [
                command.eq(given),
                active.eq(1),
                base.eq(given.base),
                address.eq(given.base),
            ]

        # The request and what belongs to it.
        info = Signal(self.layout, name="info")
        m.d.comb += [
            info.valid.eq(1),
            info.first.eq(first_pass),
            info.last.eq(last_pass),
            info.end.eq(last_row & last_pass),
            info.bank.eq(bank),
            info.row.eq(row.index),
        ]
        if self.config.slice_widths:
            shift = Signal.like(info.shift, name="shift")
            for number, width in enumerate(self.config.slice_widths, start=1):
                with m.If(passes.first & ~first_slice & (command.slice_bits == width)):
                    m.d.comb += shift.eq(number)
            m.d.comb += info.shift.eq(shift)
        tag = Cat(info.as_value(), first_row, command.signed)
        size = len(tag)
        requested = Signal(size, name="requested")
        ending = Signal(name="ending")
        with m.If(advance):
            m.d.sync += [
                self.read.valid.eq(able),
                self.read.address.eq(address),
                requested.eq(tag),
                ending.eq(finishing),
            ]
        granted = self.read.valid & self.read.ready
        m.d.sync += self.done.eq(granted & ending)

        # Bookkeeping of the words in flight.
        flight = Signal(size * READ_LATENCY, name="flight")
        m.d.sync += flight.eq(Cat(Mux(granted, requested, 0), flight[:-size]))
        arrived = flight[-size:]
        m.d.comb += [
            self.entry.eq(arrived[: self.layout.size]),
            self.swap.eq(arrived[self.layout.size]),
            self.signed_codes.eq(arrived[self.layout.size + 1]),
            self.activations.eq(self.read.data),
        ]
        with m.If(self.swap):
            m.d.sync += claimed.eq(0)
        return m
