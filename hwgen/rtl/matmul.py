# SPDX-License-Identifier: Apache-2.0
"""MATMUL engine: streams rows of activations through the systolic array."""

from __future__ import annotations

from amaranth import Cat, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import WORD_ADDRESS_BITS
from hwgen.rtl.ports import READ_LATENCY, ReadPort, command_signature
from hwgen.rtl.systolic_array import entry_layout


class MatmulEngine(wiring.Component):
    """Reads ``rows`` words per pass into the array, one per cycle, passes back to back.

    A pass starts when the shadow weights are full; the first pass of a tile also waits for its
    accumulator bank. ``bank_release[b]`` (from DRAIN) frees bank b. ``swap`` accompanies the first
    row of a pass. Exactly one of ``busy``, ``stall_*`` is high per cycle while a command is active.
    ``done`` pulses after the last word was read.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.layout = entry_layout(config.rows, config.tile_rows)
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
        command = Signal.like(self.i_command.payload)
        active = Signal()
        row, pass_index, tile = Signal(12), Signal(12), Signal(16)
        base = Signal(WORD_ADDRESS_BITS)  # of the current pass
        address = Signal(WORD_ADDRESS_BITS)
        bank = Signal()
        bank_busy = Signal(2)
        claimed = (
            Signal()
        )  # the shadow weights belong to a pass whose first row has not yet entered

        first_row = row == 0
        first_pass = pass_index == 0
        last_row = row == command.rows - 1
        last_pass = pass_index == command.passes - 1
        last_tile = tile == command.tiles - 1

        weights_ready = ~first_row | (self.stationary_full & ~claimed)
        bank_ready = ~(first_row & first_pass) | ~bank_busy.bit_select(bank, 1)
        granted = self.read.valid & self.read.ready
        m.d.comb += [
            self.active.eq(active),
            self.read.valid.eq(active & weights_ready & bank_ready),
            self.read.address.eq(address),
            self.busy.eq(granted),
            self.stall_weights.eq(active & ~weights_ready & ~self.stationary_from_memory),
            self.stall_stationary.eq(active & ~weights_ready & self.stationary_from_memory),
            self.stall_accumulator.eq(active & weights_ready & ~bank_ready),
            self.stall_bank.eq(self.read.valid & ~self.read.ready),
        ]

        with m.If(self.bank_release[0]):
            m.d.sync += bank_busy[0].eq(0)
        with m.If(self.bank_release[1]):
            m.d.sync += bank_busy[1].eq(0)

        finishing = granted & last_row & last_pass & last_tile
        m.d.comb += self.i_command.ready.eq(~active | finishing)
        with m.If(granted):
            m.d.sync += [row.eq(row + 1), address.eq(address + 1)]
            with m.If(first_row):
                m.d.sync += claimed.eq(1)
                with m.If(first_pass):
                    m.d.sync += bank_busy.bit_select(bank, 1).eq(1)
            with m.If(last_row):
                m.d.sync += [
                    row.eq(0),
                    pass_index.eq(pass_index + 1),
                    base.eq(base + command.stride),
                    address.eq(base + command.stride),
                ]
                with m.If(last_pass):
                    m.d.sync += [
                        pass_index.eq(0),
                        tile.eq(tile + 1),
                        bank.eq(~bank),
                        base.eq(command.base),
                        address.eq(command.base),
                    ]
        with m.If(finishing):
            m.d.sync += active.eq(0)
        m.d.sync += self.done.eq(finishing)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                command.eq(self.i_command.payload),
                active.eq(1),
                row.eq(0),
                pass_index.eq(0),
                tile.eq(0),
                base.eq(self.i_command.payload.base),
                address.eq(self.i_command.payload.base),
            ]

        # Bookkeeping of the words in flight.
        info = Signal(self.layout)
        m.d.comb += [
            info.valid.eq(granted),
            info.first.eq(first_pass),
            info.last.eq(last_row & last_pass),
            info.bank.eq(bank),
            info.row.eq(row),
        ]
        tag = Cat(info.as_value(), first_row & granted, command.signed)
        size = len(tag)
        flight = Signal(size * READ_LATENCY)
        m.d.sync += flight.eq(Cat(tag, flight[:-size]))
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
