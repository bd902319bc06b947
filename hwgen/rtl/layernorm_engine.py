# SPDX-License-Identifier: Apache-2.0
"""Engine LAYERNORM: int16 residual rows to power-of-two-factor codes, then AILayerNorm.

Words used here: *group*: ``lanes`` channels, a whole word of the residual, half or a quarter of
one; half as much of a word of the result.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import WORD_ADDRESS_BITS
from hwgen.rtl.ailayernorm import AILayerNorm
from hwgen.rtl.pipeline import Credits, Fifo, RowAddresses, StreamBuffer, delay, register
from hwgen.rtl.ports import (
    ReadPort,
    WriteBuffer,
    WritePort,
    command_layout,
    command_signature,
)
from hwgen.timings import PTF_LATENCY

#: Groups that may be on their way between a granted read and AILayerNorm.
READ_DEPTH = 16
#: Bits of the number of a beat of parameters (two channels).
PARAMETER_INDEX_BITS = 12

#: Parameters of two channels, as they lie in the memory image.
RECORDS = data.ArrayLayout(
    data.StructLayout({"beta": signed(24), "gamma": signed(8), "alpha": 2, "zeros": 30}), 2
)


class LayerNormEngine(wiring.Component):
    """Executes LAYERNORM commands in order, one at a time.

    Per row and group: ``x = clip(rshr(r, ptf_shift + alpha) + zero_point, 0, 255)`` from the
    residual r, AILayerNorm, and one write of its part of a word. One group per cycle. Cycles
    from a command's acceptance to ``done``, if the memory always grants: ``layernorm_cycles`` in
    ``program/machine/layernorm.py``. The next command is accepted from the cycle of ``done`` on.

    Channels from ``channels`` up to the end of the last word are written as 0. ``done`` is high for
    one cycle, the one after the last write was granted. Reads are requested only with room for
    their data; a stalled write port fills the unit and stops the reads.

    Parameters: one beat of two channels (:data:`RECORDS`) per cycle with ``parameter_valid``,
    always taken, in any order; they are in place for a command accepted in the next cycle. The slot
    of a running command is left alone.
    """

    i_command: In
    done: Out
    read: Out
    write: Out
    parameter_valid: In
    parameter_slot: In
    parameter_index: In
    parameter_data: In

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(command_signature("LAYERNORM")),
                "done": Out(1),
                "read": Out(ReadPort(config.word_bits)),
                "write": Out(WritePort(config.word_bits)),
                "parameter_valid": In(1),
                "parameter_slot": In(1),
                "parameter_index": In(PARAMETER_INDEX_BITS),
                "parameter_data": In(RECORDS.size),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, lanes = self.config, self.config.layernorm_lanes
        m.submodules.unit = unit = AILayerNorm(lanes, config.max_channels)

        # Command: accepted, then set up for two cycles, then run.
        command = Signal(command_layout("LAYERNORM"), reset_less=True, name="command")
        busy = Signal(name="busy")
        accepted = Signal(name="accepted")
        start = Signal(name="start")
        started = Signal(name="started")
        done = Signal(name="done")
        last_write = Signal(name="last_write")
        m.d.comb += [self.i_command.ready.eq(~busy), self.done.eq(done)]
        taken = self.i_command.valid & ~busy
        m.d.sync += [accepted.eq(taken), start.eq(accepted), done.eq(last_write)]
        with m.If(taken):
            m.d.sync += [command.eq(self.i_command.payload), busy.eq(1)]
        with m.If(last_write):
            m.d.sync += busy.eq(0)
        last_channel = Signal.like(command.channels, name="last_channel")
        m.d.comb += last_channel.eq(command.channels - 1)
        last_group = register(m, last_channel[exact_log2(lanes) :], "last_group")
        for name in (
            "channels",
            "zero_point",
            "gamma_shift",
            "beta_fraction_bits",
            "output_zero_point",
            "exact",
            "slot",
        ):
            m.d.comb += getattr(unit, name).eq(command[name])

        # Parameters: a beat goes to two lanes of its group.
        beats = lanes // 2
        index = register(m, self.parameter_index, "beat_index")
        records = data.View(RECORDS, register(m, self.parameter_data, "beat_records"))
        group = index[exact_log2(beats) :]
        m.d.comb += [
            unit.parameters_valid.eq(
                register(m, self.parameter_valid, "beat_valid", reset=True)
                & (group < unit.shape.max_slices)
            ),
            unit.parameters.slot.eq(register(m, self.parameter_slot, "beat_slot")),
            unit.parameters.group.eq(group),
        ]
        for lane in range(lanes):
            m.d.comb += unit.parameters.enable[lane].eq(index[: exact_log2(beats)] == lane // 2)
            for field in ("beta", "gamma", "alpha"):
                m.d.comb += unit.parameters.data[lane][field].eq(records[lane % 2][field])

        # Reads, one a group: a word of several groups is read as often.
        m.submodules.sources = sources = RowAddresses()
        m.submodules.read_room = read_room = Credits(READ_DEPTH)
        m.submodules.requests = requests = StreamBuffer(WORD_ADDRESS_BITS)
        requested = requests.i_stream.valid & requests.i_stream.ready
        groups_per_word = config.int16_channels // lanes
        word_requested: Value = requested
        if groups_per_word > 1:
            within = Signal(exact_log2(groups_per_word), name="within")  # group of the word
            ends = sources.row_end & (within == last_group[: len(within)])
            word_requested = requested & (within.all() | ends)
            with m.If(requested):
                m.d.sync += within.eq(Mux(ends, 0, within + 1))
        with m.If(start):
            m.d.sync += started.eq(1)
        with m.Elif(word_requested & sources.end):
            m.d.sync += started.eq(0)
        m.d.comb += [
            sources.start.eq(start),
            sources.base.eq(command.source),
            sources.stride.eq(command.source_stride),
            sources.rows.eq(command.rows),
            sources.last_word.eq(last_group[exact_log2(groups_per_word) :]),
            sources.step.eq(word_requested),
            requests.i_stream.payload.eq(sources.address),
            requests.i_stream.valid.eq(started & read_room.available),
            self.read.address.eq(requests.o_stream.payload),
            self.read.valid.eq(requests.o_stream.valid),
            requests.o_stream.ready.eq(self.read.ready),
            read_room.take.eq(requested),
        ]

        # Codes: shift by ptf_shift, then by alpha, one bit kept for rounding.
        arrived = self.read.data_valid
        group_in = Signal.like(last_group, reset_less=False, name="group_in")
        group_last = Signal(name="group_last")
        m.d.comb += group_last.eq(group_in == last_group)
        with m.If(arrived):
            m.d.sync += group_in.eq(Mux(group_last, 0, group_in + 1))
        m.d.comb += unit.ptf_group.eq(register(m, group_in, "ptf_group"))
        m.submodules.codes = codes = Fifo(unit.i_stream.payload.shape(), READ_DEPTH)
        given: Value = self.read.data
        if groups_per_word > 1:
            given = given.word_select(group_in[: exact_log2(groups_per_word)], 16 * lanes)
        for lane in range(lanes):
            residual = given[16 * lane : 16 * (lane + 1)]
            doubled = Cat(Const(0, 1), residual).as_signed()
            coarse = register(
                m, doubled >> Cat(Const(0, 2), command.ptf_shift[2:]), f"coarse_{lane}"
            )
            fine = register(m, coarse >> command.ptf_shift[:2], f"fine_{lane}")
            scaled = register(m, fine >> unit.ptf_alphas[lane], f"scaled_{lane}")
            offset = register(
                m, scaled[1:].as_signed() + command.zero_point + scaled[0], f"offset_{lane}"
            )
            above = offset[8:-1].any()
            clipped = Mux(offset[-1], 0, Mux(above, 255, offset[:8]))
            m.d.comb += codes.i_payload.x[lane].eq(register(m, clipped, f"code_{lane}"))
        m.d.comb += [
            codes.i_payload.last.eq(delay(m, group_last, PTF_LATENCY, "ptf_last")),
            codes.i_valid.eq(delay(m, arrived, PTF_LATENCY, "ptf_valid", reset=True)),
            read_room.give.eq(codes.o_stream.valid & codes.o_stream.ready),
        ]
        wiring.connect(m, codes.o_stream, unit.i_stream)

        # Writes: group by group into the parts of a word; a row's last group clears the rest.
        result = unit.o_stream
        y, last = result.payload.y.as_value(), result.payload.last
        parts = config.rows // lanes
        part = Signal(exact_log2(parts), name="part")
        m.submodules.destinations = destinations = RowAddresses()
        m.submodules.writes = writes = WriteBuffer(config.word_bits)
        wiring.connect(m, writes.write, wiring.flipped(self.write))
        write = writes.i_stream
        taken_result = result.valid & result.ready
        word_end = part.all() | last
        enables = [(part == p) | (last & (part < p)) if p else part == 0 for p in range(parts)]
        with m.If(taken_result):
            m.d.sync += part.eq(Mux(last, 0, part + 1))
        m.d.comb += [
            destinations.start.eq(start),
            destinations.base.eq(command.destination),
            destinations.stride.eq(command.destination_stride),
            destinations.rows.eq(command.rows),
            destinations.last_word.eq(last_group[exact_log2(parts) :]),
            destinations.step.eq(taken_result & word_end),
            write.valid.eq(result.valid),
            result.ready.eq(write.ready),
            write.payload.address.eq(destinations.address),
            write.payload.data.eq(Cat(Mux(part == p, y, 0) if p else y for p in range(parts))),
            write.payload.enable.eq(Cat(enable.replicate(lanes) for enable in enables)),
            write.payload.last.eq(word_end & destinations.end),
            last_write.eq(writes.granted_last),
        ]
        return m
