# SPDX-License-Identifier: Apache-2.0
"""STORE engine: words of the activation memory to external memory."""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BEAT_BYTES, WORD_ADDRESS_BITS
from hwgen.rtl.axi import BURST
from hwgen.rtl.pipeline import register
from hwgen.rtl.ports import ReadPort, command_signature
from hwgen.rtl.registers import WINDOW_BITS

#: Longest write burst, beats; WriteMaster's FIFO holds at least two.
STORE_BURST_BEATS = 16


class StoreEngine(wiring.Component):
    """Reads words into the write master's FIFO, offers a burst when all its beats are there.

    Throughput: one word per READ_LATENCY + rows / 16 + 1 cycles (logits are a few hundred words per
    frame). ``done`` pulses when the last write response has arrived. A store that would leave its
    window writes nothing: ``outside`` stays high, with the address of its first beat. One that
    reaches the last address ends there in the same way.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(command_signature("STORE")),
                "done": Out(1),
                "output_base": In(64),
                "output_window": In(WINDOW_BITS),
                "outside": Out(1),
                "outside_address": Out(64),
                "read": Out(ReadPort(config.word_bits)),
                "o_stream": Out(stream.Signature(128)),
                "o_burst": Out(stream.Signature(BURST)),
                "written": In(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        beats_per_word = self.config.rows // BEAT_BYTES
        command = Signal.like(self.i_command.payload, name="command")
        word = Signal(self.config.word_bits, reset_less=True, name="word")
        part = Signal(range(beats_per_word + 1), name="part")
        words_left = Signal(16, name="words_left")
        address = Signal(WORD_ADDRESS_BITS, name="address")

        # Bursts: beats put into the FIFO but not yet part of a burst; a burst ends at a multiple of
        # its longest length. It is made in one cycle and offered from the next on.
        target = Signal(65, name="target")  # the last bit: beyond the last address
        gathered = Signal(range(STORE_BURST_BEATS + 4), name="gathered")
        position = Signal(
            ceil_log2(STORE_BURST_BEATS), name="position"
        )  # of the next burst within its boundary
        bursts = Signal(16, name="bursts")  # offered, response pending
        room = Signal(range(STORE_BURST_BEATS + 1), name="room")
        all_read = Signal(name="all_read")
        length = Signal.like(room, name="length")
        offering = Signal(name="offering")
        update = Signal(name="update")
        # Known long before the first burst: a word is read first.
        space = Signal(signed(WINDOW_BITS + 1), name="space")  # beats
        total = Signal(range((beats_per_word << 16) + 1), name="total")  # beats; 0 words are 2^16
        leaves = register(m, space < total, "leaves")
        outside = leaves | target[-1]
        m.d.comb += [
            position.eq(target[4:]),
            room.eq(STORE_BURST_BEATS - position),
            self.o_burst.payload.address.eq(target),
            self.o_burst.payload.length.eq(length - 1),
            self.o_burst.valid.eq(offering & ~outside),
            # A cycle late: nothing changes from there on.
            self.outside.eq(register(m, offering & outside, "is_outside", reset=True)),
            self.outside_address.eq(target),
        ]
        pushed = self.o_stream.valid & self.o_stream.ready
        counting = register(m, pushed, "counting", reset=True)  # a beat not yet in `gathered`
        offered = self.o_burst.valid & self.o_burst.ready
        m.d.sync += [
            gathered.eq(gathered + counting),
            bursts.eq(bursts + offered - self.written),
            update.eq(offered),
        ]
        below_burst = register(m, gathered < STORE_BURST_BEATS, "below_burst")
        enough = gathered >= room
        with m.If(update):
            m.d.sync += [
                target.eq(target + (length << 4)),
                gathered.eq(gathered - length + counting),
            ]
        with m.Elif(offered):
            m.d.sync += offering.eq(0)
        with m.Elif(~offering & (enough | (all_read & ~counting & (gathered != 0)))):
            m.d.sync += [offering.eq(1), length.eq(Mux(enough, room, gathered))]

        m.d.comb += [
            self.read.address.eq(address),
            self.o_stream.payload.eq(word.word_select(part, 128)),
        ]
        with m.FSM(name="store"):
            with m.State("Idle"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [
                        command.eq(self.i_command.payload),
                        words_left.eq(self.i_command.payload.words),
                        address.eq(self.i_command.payload.source),
                        target.eq(
                            self.output_base + Cat(Const(0, 4), self.i_command.payload.address)
                        ),
                        space.eq(self.output_window - self.i_command.payload.address),
                        total.eq(
                            Cat(self.i_command.payload.words, self.i_command.payload.words == 0)
                            * beats_per_word
                        ),
                        all_read.eq(0),
                    ]
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += self.read.valid.eq(1)
                with m.If(self.read.ready):
                    m.next = "Word"
            with m.State("Word"), m.If(self.read.data_valid):
                m.d.sync += [word.eq(self.read.data), part.eq(0), words_left.eq(words_left - 1)]
                m.d.sync += address.eq(address + command.stride)
                m.next = "Beats"
            with m.State("Beats"):
                m.d.comb += self.o_stream.valid.eq(below_burst)
                with m.If(pushed):
                    m.d.sync += part.eq(part + 1)
                    with m.If(part == beats_per_word - 1):
                        with m.If(words_left == 0):
                            m.d.sync += all_read.eq(1)
                            m.next = "Drain"
                        with m.Else():
                            m.next = "Request"
            with (
                m.State("Drain"),
                m.If((gathered == 0) & (bursts == 0) & ~counting & ~update),
            ):
                m.d.comb += self.done.eq(1)
                m.next = "Idle"
        return m
