# SPDX-License-Identifier: Apache-2.0
"""Sequencer: instruction fetch, decode, engine queues with wait thresholds, completion counters."""

from __future__ import annotations

from amaranth import Array, Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    BODY_BITS,
    BODY_OFFSET,
    BY_CODE,
    BY_NAME,
    INSTRUCTION_BITS,
    OPCODE_BITS,
    WAIT_BITS,
    Engine,
)
from hwgen.rtl.axi import BURST

FETCH_BURST_BEATS = 16
FETCH_FIFO_BEATS = 32


class Sequencer(wiring.Component):
    """Fetches, dispatches in order, offers an instruction to its engine when its waits are met.

    Dispatch: one instruction per 2 cycles at best (two beats each). An instruction reaches its
    engine 2 cycles after the last of its thresholds is met and the instruction before it was taken.
    Fetching stops at END; ``finished`` pulses when its thresholds are met and what was fetched
    beyond it has been thrown away, and ``running`` falls with the next edge. An unknown opcode
    raises ``illegal`` with its index. While ``halt`` is high nothing is dispatched: after a failed
    fetch the instruction means nothing. ``waiting_for[e]``: the head of MATMUL's queue waited for
    engine e in the cycle before.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        ports: dict[str, object] = {
            "start": In(1),
            "halt": In(1),
            "running": Out(1),
            "finished": Out(1),
            "image_base": In(64),
            "o_fetch": Out(stream.Signature(BURST)),
            "i_beats": In(stream.Signature(128)),
            "illegal": Out(1),
            "illegal_index": Out(32),
            "done": In(len(Engine)),
            "progress": Out(1),
            "matmul_queued": Out(1),
            "waiting_for": Out(len(Engine)),
        }
        for engine in Engine:
            width = INSTRUCTION_BITS if engine == Engine.LOAD else BODY_BITS
            ports[f"o_{engine.name.lower()}"] = Out(stream.Signature(width))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        engines = len(Engine)

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
        running = Signal()
        stopping = Signal()
        m.d.comb += self.running.eq(running)
        next_address = Signal(64)
        pending_beats = Signal(8)  # requested, not yet arrived here
        m.d.comb += [
            self.o_fetch.valid.eq(running & ~stopping),
            self.o_fetch.payload.address.eq(next_address),
            self.o_fetch.payload.length.eq(FETCH_BURST_BEATS - 1),
        ]
        requested = self.o_fetch.valid & self.o_fetch.ready
        beat_taken = self.i_beats.valid & self.i_beats.ready
        m.d.sync += pending_beats.eq(
            pending_beats + Mux(requested, FETCH_BURST_BEATS, 0) - beat_taken
        )
        with m.If(requested):
            m.d.sync += next_address.eq(next_address + FETCH_BURST_BEATS * 16)
        with m.If(self.start):
            m.d.sync += [running.eq(1), stopping.eq(0), next_address.eq(self.image_base)]

        # Decode: two beats make an instruction.
        low = Signal(128, reset_less=True)
        have_low = Signal()
        instruction = Signal(INSTRUCTION_BITS)
        m.d.comb += instruction.eq(Cat(low, self.i_beats.payload))
        held = Signal(INSTRUCTION_BITS, reset_less=True)
        held_valid = Signal()
        index = Signal(32)
        dispatch = Signal()  # the held instruction leaves
        # Independent of the queues: the lower beat of the next instruction comes meanwhile.
        m.d.comb += self.i_beats.ready.eq(stopping | ~have_low | ~held_valid)
        with m.If(dispatch):
            m.d.sync += [held_valid.eq(0), index.eq(index + 1)]
        with m.If(beat_taken & ~stopping):
            m.d.sync += have_low.eq(~have_low)
            with m.If(have_low):
                m.d.sync += [held.eq(instruction), held_valid.eq(1)]
            with m.Else():
                m.d.sync += low.eq(self.i_beats.payload)
        with m.If(self.start):
            m.d.sync += [have_low.eq(0), held_valid.eq(0), index.eq(0)]

        opcode = held[:OPCODE_BITS]
        waits = held[OPCODE_BITS:BODY_OFFSET]

        def met(thresholds: Signal) -> list:
            return [completed[e] >= thresholds.word_select(e, WAIT_BITS) for e in range(engines)]

        # Queues.
        for engine in Engine:
            name = engine.name.lower()
            out = getattr(self, f"o_{name}")
            width = INSTRUCTION_BITS if engine == Engine.LOAD else BODY_BITS
            queue = SyncFIFO(width=width + WAIT_BITS * engines, depth=self.config.queue_depth)
            m.submodules[f"{name}_queue"] = queue
            codes = [code for code, entry in BY_CODE.items() if entry.engine == engine]
            mine = Signal(name=f"{name}_opcode")
            m.d.comb += [
                mine.eq(Cat(opcode == code for code in codes).any()),
                queue.w_data.eq(Cat(waits, held if engine == Engine.LOAD else held[BODY_OFFSET:])),
                queue.w_en.eq(held_valid & mine & ~stopping & ~self.halt),
            ]
            with m.If(mine & queue.w_rdy & held_valid & ~stopping & ~self.halt):
                m.d.comb += dispatch.eq(1)
            head_waits = queue.r_data[: WAIT_BITS * engines]
            conditions = met(head_waits)
            ok = Signal(name=f"{name}_ready")
            m.d.sync += ok.eq(queue.r_rdy & ~(out.valid & out.ready) & Cat(conditions).all())
            m.d.comb += [
                out.valid.eq(ok),
                out.payload.eq(queue.r_data[WAIT_BITS * engines :]),
                queue.r_en.eq(out.valid & out.ready),
            ]
            if engine == Engine.MATMUL:
                m.d.comb += self.matmul_queued.eq(queue.r_rdy)
                m.d.sync += self.waiting_for.eq(Mux(queue.r_rdy, ~Cat(conditions), 0))

        known = Cat(opcode == code for code in BY_CODE).any()
        m.d.comb += [
            self.illegal.eq(held_valid & ~known & ~stopping & running),
            self.illegal_index.eq(index),
        ]

        # END: nothing behind it is needed, so fetching stops at once. The frame ends when the
        # thresholds are met and what was fetched beyond END has arrived: then nothing of the
        # frame is left on the bus, and the next START is taken from the interrupt on.
        end_met = Signal()
        with m.If(held_valid & (opcode == BY_NAME["END"].code) & ~self.halt):
            m.d.sync += stopping.eq(1)
        m.d.sync += end_met.eq(stopping & Cat(met(waits)).all() & (pending_beats == 0) & ~end_met)
        m.d.comb += self.finished.eq(end_met & running)
        with m.If(self.finished):
            m.d.sync += [running.eq(0), stopping.eq(0), held_valid.eq(0), have_low.eq(0)]
        return m
