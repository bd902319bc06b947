# SPDX-License-Identifier: Apache-2.0
"""Sequencer: instruction fetch, decode, engine queues with wait thresholds, completion counters."""

from __future__ import annotations

import binascii
from collections.abc import Sequence

from amaranth import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.build import begin
from hwgen.isa.instructions import (
    BEAT_BYTES,
    BODY_BITS,
    BODY_OFFSET,
    BY_CODE,
    BY_NAME,
    CHECK_BITS,
    CHECKED_BITS,
    INSTRUCTION_BITS,
    OPCODE_BITS,
    WAIT_BITS,
    Engine,
    Opcode,
    encode,
)
from hwgen.isa.registers import Cause
from hwgen.rtl.axi import BURST
from hwgen.rtl.pipeline import register
from hwgen.rtl.registers import WINDOW_BITS
from hwgen.timings import FETCH_BURST_BEATS


def parity(bits: Sequence[Value]) -> Value:
    """XOR of bits, as a tree of LUTs with six inputs each."""
    while len(bits) > 1:
        bits = [Cat(bits[i : i + 6]).xor() for i in range(0, len(bits), 6)]
    return bits[0]


def crc_step(beat: Value) -> Value:
    """The CRC of an instruction's check over a beat, from 0; linear."""
    ones = [(1 << k).to_bytes(BEAT_BYTES, "little") for k in range(len(beat))]
    columns = [binascii.crc_hqx(one, 0) for one in ones]
    return Cat(
        parity([beat[k] for k, column in enumerate(columns) if column >> b & 1])
        for b in range(CHECK_BITS)
    )


def high_byte_first(value: Value) -> Value:
    """16 bits as two bytes in memory."""
    return Cat(value[8:], value[:8])


class Sequencer(wiring.Component):
    """Fetches, dispatches in order, offers an instruction to its engine when its waits are met.

    Dispatch: one instruction per 4 cycles at best: it is judged for two. An instruction reaches its
    engine 2 cycles after the last of its thresholds is met and the instruction before it was taken.
    Fetching stops at END; ``finished`` pulses when its thresholds are met and what was fetched
    beyond it has been thrown away, and ``running`` falls with the next edge. ``fault`` with cause
    and address, until a reset: the image is not for this hardware (the first instruction says so),
    an instruction's check is wrong, its opcode unknown, or it lies outside the image's window. At
    the window's end the fetch waits; only when everything before it is dispatched it is an error.
    While ``halt`` is high nothing is dispatched: after a failed fetch the instruction means
    nothing. ``waiting_for[e]``: the head of MATMUL's queue waited for engine e in the cycle before.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        ports: dict[str, object] = {
            "start": In(1),
            "halt": In(1),
            "running": Out(1),
            "finished": Out(1),
            "image_base": In(64),
            "image_window": In(WINDOW_BITS),
            "o_fetch": Out(stream.Signature(BURST)),
            "i_beats": In(stream.Signature(128)),
            "fault": Out(1),
            "fault_cause": Out(4),
            "fault_address": Out(64),
            "index": Out(32),
            "done": In(len(Engine)),
            "progress": Out(1),
            "matmul_queued": Out(1),
            "waiting_for": Out(len(Engine)),
        }
        for engine in Engine:
            width = CHECKED_BITS if engine == Engine.LOAD else BODY_BITS
            ports[f"o_{engine.name.lower()}"] = Out(stream.Signature(width))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()

        completed = Array(
            Signal(WAIT_BITS, name=f"completed_{engine.name.lower()}") for engine in Engine
        )
        for engine in Engine:
            with m.If(self.start):
                m.d.sync += completed[engine].eq(0)
            with m.Elif(self.done[engine]):
                m.d.sync += completed[engine].eq(completed[engine] + 1)
        m.d.comb += self.progress.eq(self.done.any())

        # Fetch.
        running = Signal(name="running")
        stopping = Signal(name="stopping")
        m.d.comb += self.running.eq(running)
        next_address = Signal(65, name="next_address")  # the last bit: beyond the last address
        bursts_left = Signal(
            WINDOW_BITS - exact_log2(FETCH_BURST_BEATS), name="bursts_left"
        )  # in the window
        exhausted = Signal(name="exhausted")
        pending_beats = Signal(8, name="pending_beats")  # requested, not yet arrived here
        m.d.comb += [
            self.o_fetch.valid.eq(running & ~stopping & ~exhausted),
            self.o_fetch.payload.address.eq(next_address),
            self.o_fetch.payload.length.eq(FETCH_BURST_BEATS - 1),
        ]
        requested = self.o_fetch.valid & self.o_fetch.ready
        beat_taken = self.i_beats.valid & self.i_beats.ready
        m.d.sync += pending_beats.eq(
            pending_beats + Mux(requested, FETCH_BURST_BEATS, 0) - beat_taken
        )
        # One cycle late is early enough: the master looks at a burst for two before it accepts it.
        m.d.sync += exhausted.eq((bursts_left == 0) | next_address[-1])
        with m.If(requested):
            m.d.sync += [
                next_address.eq(next_address + FETCH_BURST_BEATS * 16),
                bursts_left.eq(bursts_left - 1),
            ]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                stopping.eq(0),
                next_address.eq(self.image_base),
                bursts_left.eq(self.image_window[exact_log2(FETCH_BURST_BEATS) :]),
                exhausted.eq(0),
            ]

        # Decode: two beats make an instruction.
        low = Signal(
            128, reset_less=True, name="low"
        )  # the last beat: the lower one while `have_low`
        have_low = Signal(name="have_low")
        instruction = Signal(INSTRUCTION_BITS, name="instruction")
        m.d.comb += instruction.eq(Cat(low, self.i_beats.payload))
        held = Signal(INSTRUCTION_BITS, reset_less=True, name="held")
        held_valid = Signal(name="held_valid")
        index = Signal(32, name="index")
        dispatch = Signal(name="dispatch")  # the held instruction leaves
        # Independent of the queues: the lower beat of the next instruction comes meanwhile.
        m.d.comb += self.i_beats.ready.eq(stopping | ~have_low | ~held_valid)
        with m.If(dispatch):
            m.d.sync += [held_valid.eq(0), index.eq(index + 1)]
        with m.If(beat_taken & ~stopping):
            m.d.sync += [have_low.eq(~have_low), low.eq(self.i_beats.payload)]
            with m.If(have_low):
                m.d.sync += [held.eq(instruction), held_valid.eq(1)]
        arrived = register(m, beat_taken & ~stopping & have_low, "arrived", reset=True)
        opcode = held[:OPCODE_BITS]
        is_begin = opcode == BY_NAME["BEGIN"].code

        # The CRC over both beats, one after the other by the same logic. The check stands behind
        # what it is of, so that 0 is left where it is right.
        difference: Value = Const(0, CHECK_BITS)
        if self.config.instruction_check:
            first_beat = register(m, beat_taken & ~stopping & ~have_low, "first_beat", reset=True)
            crc = Signal(CHECK_BITS, init=-1, name="crc")
            place = index[:CHECK_BITS] & arrived.replicate(CHECK_BITS)
            between = Const(0, 8 * BEAT_BYTES - 2 * CHECK_BITS)
            # A wire, for every bit of the step reads most of its bits.
            beat = Signal.like(low, name="crc_beat")
            m.d.comb += beat.eq(low ^ Cat(high_byte_first(crc), between, high_byte_first(place)))
            step = crc_step(beat)
            difference = register(m, step, "difference")
            with m.If(self.start | arrived):
                m.d.sync += crc.eq(-1)
            with m.Elif(first_beat):
                m.d.sync += crc.eq(step)

        # Judgement: one cycle for sums and comparisons, one for the verdict. What is sound may be
        # dispatched; what is not stays here until a reset.
        summed = register(m, arrived, "summed", reset=True)
        size = sum(field.bits for field in BY_NAME["BEGIN"].fields)
        expected = int.from_bytes(encode(begin(self.config), 0), "little") >> BODY_OFFSET
        body = held[BODY_OFFSET : BODY_OFFSET + size]
        for_this = register(m, body == expected & ((1 << size) - 1), "for_this")
        at_begin = register(m, is_begin, "at_begin")
        at_first = register(m, index == 0, "at_first")
        known = register(m, Cat(opcode == code for code in BY_CODE).any(), "known")
        sound = Signal(name="sound")
        faults = {
            Cause.IMAGE: at_first & ~(at_begin & for_this),
            Cause.INTEGRITY: difference.any(),
            Cause.ILLEGAL_INSTRUCTION: ~known | (at_begin & ~at_first),
        }
        found = Signal(len(faults), name="found")
        with m.If(dispatch):
            m.d.sync += sound.eq(0)
        with m.If(summed & ~stopping):
            m.d.sync += [found.eq(Cat(faults.values())), sound.eq(~Cat(faults.values()).any())]
        waits_outside = running & exhausted & ~stopping & ~held_valid & (pending_beats == 0)
        # All of it stays as it is from here on: `fault` may come a cycle after what it is about.
        outside = register(m, waits_outside, "outside", reset=True)
        fault = register(m, running & (found.any() | outside), "fault", reset=True)
        fault_cause = Signal(4, name="fault_cause")
        m.d.sync += fault_cause.eq(Cause.WINDOW)
        for bit, cause in reversed(list(enumerate(faults))):
            with m.If(found[bit]):
                m.d.sync += fault_cause.eq(cause)
        m.d.comb += [
            self.index.eq(index),
            self.fault.eq(fault),
            self.fault_cause.eq(fault_cause),
            self.fault_address.eq(Mux(outside, next_address, index)),
        ]

        with m.If(self.start):
            m.d.sync += [have_low.eq(0), held_valid.eq(0), index.eq(0), found.eq(0)]

        def met(thresholds: Value, entry: Opcode) -> list[Value]:
            """Per engine; those of its thresholds are in the order of the engines."""
            conditions: list[Value] = [Const(1, 1)] * len(Engine)
            for place, other in enumerate(entry.waits_for):
                conditions[other] = completed[other] >= thresholds.word_select(place, WAIT_BITS)
            return conditions

        # Queues.
        for engine in Engine:
            name = engine.name.lower()
            out = getattr(self, f"o_{name}")
            width = CHECKED_BITS if engine == Engine.LOAD else BODY_BITS
            waits = held[OPCODE_BITS:BODY_OFFSET]
            queue = SyncFIFO(width=len(waits) + width, depth=self.config.queue_depth)
            m.submodules[f"{name}_queue"] = queue
            entries = [entry for entry in BY_CODE.values() if entry.engine == engine]
            mine = Signal(name=f"{name}_opcode")
            m.d.comb += [
                mine.eq(Cat(opcode == entry.code for entry in entries).any()),
                queue.w_data.eq(Cat(waits, held[CHECKED_BITS - width : CHECKED_BITS])),
                queue.w_en.eq(sound & mine & ~stopping & ~self.halt),
            ]
            with m.If(mine & queue.w_rdy & sound & ~stopping & ~self.halt):
                m.d.comb += dispatch.eq(1)
            conditions = met(queue.r_data[: len(waits)], entries[0])
            ok = Signal(name=f"{name}_ready")
            m.d.sync += ok.eq(queue.r_rdy & ~(out.valid & out.ready) & Cat(conditions).all())
            # The head has been there for a cycle before it is offered: in a register, too.
            body = register(m, queue.r_data[len(waits) :], f"{name}_body")
            m.d.comb += [
                out.valid.eq(ok),
                out.payload.eq(body),
                queue.r_en.eq(out.valid & out.ready),
            ]
            if engine == Engine.MATMUL:
                m.d.comb += self.matmul_queued.eq(queue.r_rdy)
                m.d.sync += self.waiting_for.eq(Mux(queue.r_rdy, ~Cat(conditions), 0))

        with m.If(is_begin & sound & ~self.halt):
            m.d.comb += dispatch.eq(1)

        # END: nothing behind it is needed, so fetching stops at once. The frame ends when the
        # thresholds are met and what was fetched beyond END has arrived: then nothing of the
        # frame is left on the bus, and the next START is taken from the interrupt on.
        end_met = Signal(name="end_met")
        end = BY_NAME["END"]
        with m.If(sound & (opcode == end.code) & ~self.halt):
            m.d.sync += stopping.eq(1)
        conditions = met(held[OPCODE_BITS:], end)
        m.d.sync += end_met.eq(stopping & Cat(conditions).all() & (pending_beats == 0) & ~end_met)
        m.d.comb += self.finished.eq(end_met & running)
        with m.If(self.finished):
            m.d.sync += [
                running.eq(0),
                stopping.eq(0),
                held_valid.eq(0),
                have_low.eq(0),
                sound.eq(0),
            ]
        return m
