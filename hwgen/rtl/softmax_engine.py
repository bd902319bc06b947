# SPDX-License-Identifier: Apache-2.0
"""Engine SOFTMAX: rows of logits from the activation memory through E2Softmax and back.

Words used here: *word*: ``rows`` bytes of the memory; *slice*: ``softmax_vec`` logits; the
*gearbox* turns one into the other, in both directions; *part*: the smaller of both.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import WORD_ADDRESS_BITS
from hwgen.rtl.e2softmax import E2Softmax
from hwgen.rtl.fractional_softmax import FractionalSoftmax
from hwgen.rtl.pipeline import Credits, Fifo, RowAddresses, StreamBuffer, register
from hwgen.rtl.ports import (
    ReadPort,
    WriteBuffer,
    WritePort,
    command_layout,
    command_signature,
    row_shift_layout,
)

#: Words that may be on their way between a granted read and the gearbox.
READ_DEPTH = 16


def _mask(m: Module, last_lane: Value, vec: int, name: str) -> Signal:
    """Lanes up to the last one, a cycle later."""
    return register(m, Cat(Const(1, 1), *(last_lane >= lane for lane in range(1, vec))), name)


class SoftmaxEngine(wiring.Component):
    """Executes SOFTMAX commands in order, one at a time.

    A command reads ``words`` words per row, and writes as many whole words; bytes that are no
    logits become 0. A slice lies in one word, or is made of several whole ones. One word per cycle
    when ``softmax_vec >= rows``, else one slice per cycle. Cycles from a command's acceptance to
    ``done``, if the memory always grants: ``softmax_cycles`` in ``program/machine/softmax.py``. The
    next command is accepted from the cycle of ``done`` on.

    ``done`` is high for one cycle, the one after the last write was granted. A row is read before
    it is written, so source and destination may be the same. Reads are requested only with room for
    their data; a stalled write port fills the unit and stops the reads.

    In mode fractional ``row_shifts`` says a row's shift, when the row's last codes leave the unit.
    """

    i_command: In
    done: Out
    read: Out
    write: Out

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **(
                    {"row_shifts": Out(row_shift_layout(config))}
                    if config.softmax_fractional
                    else {}
                ),
                "i_command": In(command_signature("SOFTMAX")),
                "done": Out(1),
                "read": Out(ReadPort(config.word_bits)),
                "write": Out(WritePort(config.word_bits)),
            }
        )

    def _unit(self) -> FractionalSoftmax | E2Softmax:
        config = self.config
        if not config.softmax_fractional:
            return E2Softmax(config.softmax_vec, config.max_row_length)
        return FractionalSoftmax(
            config.softmax_vec,
            config.max_row_length,
            config.exponent_fraction_bits,
            config.divider_bits,
        )

    def _say_row_shifts(
        self, m: Module, codes: stream.Interface, *, start: Value, slot: Value
    ) -> None:
        """With a row's last codes, which are written a word or more later."""
        row_end = codes.valid & codes.ready & codes.payload.last
        row_out = Signal.like(self.row_shifts.row, name="row_out")
        with m.If(start):
            m.d.sync += row_out.eq(0)
        with m.Elif(row_end):
            m.d.sync += row_out.eq(row_out + 1)
        m.d.comb += [
            self.row_shifts.valid.eq(row_end),
            self.row_shifts.slot.eq(slot),
            self.row_shifts.row.eq(row_out),
            self.row_shifts.shift.eq(codes.payload.shift),
        ]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        vec, word_bytes = config.softmax_vec, config.rows
        ratio = max(vec, word_bytes) // min(vec, word_bytes)

        # Command: accepted, then set up for two cycles, then run.
        command = Signal(command_layout("SOFTMAX"), reset_less=True, name="command")
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
        last_word = register(m, (command.words - 1)[: len(command.words)], "last_word")
        # The last logit of a word, and of a row's last word.
        full_end = (command.word_length - 1)[: exact_log2(word_bytes)]
        tail_end = (command.last_length - 1)[: exact_log2(word_bytes)]

        # Reads
        m.submodules.sources = sources = RowAddresses()
        m.submodules.read_room = read_room = Credits(READ_DEPTH)
        m.submodules.words = words = Fifo(config.word_bits, READ_DEPTH)
        m.submodules.requests = requests = StreamBuffer(WORD_ADDRESS_BITS)
        requested = requests.i_stream.valid & requests.i_stream.ready
        with m.If(start):
            m.d.sync += started.eq(1)
        with m.Elif(requested & sources.end):
            m.d.sync += started.eq(0)
        word = words.o_stream
        m.d.comb += [
            sources.start.eq(start),
            sources.base.eq(command.source),
            sources.stride.eq(command.source_stride),
            sources.rows.eq(command.rows),
            sources.last_word.eq(last_word),
            sources.step.eq(requested),
            requests.i_stream.payload.eq(sources.address),
            requests.i_stream.valid.eq(started & read_room.available),
            self.read.address.eq(requests.o_stream.payload),
            self.read.valid.eq(requests.o_stream.valid),
            requests.o_stream.ready.eq(self.read.ready),
            read_room.take.eq(requested),
            read_room.give.eq(word.valid & word.ready),
            words.i_valid.eq(self.read.data_valid),
            words.i_payload.eq(self.read.data),
        ]

        # Gearbox: words to slices
        m.submodules.unit = unit = self._unit()
        slice_in = unit.i_stream
        slice_taken = slice_in.valid & slice_in.ready
        m.d.comb += unit.fraction_bits.eq(command.fraction_bits)
        part_in = Signal(range(max(2, ratio)), name="part_in")
        if vec <= word_bytes:
            # Words of the row behind this one; whether there is none, known ahead.
            words_left = Signal.like(last_word, reset_less=False, name="words_left")
            in_last = Signal(name="in_last")
            single_word = register(m, last_word == 0, "single_word")
            # Parts of a word in front of its last one; none where a slice is a word.
            full_part: Value = Const(0, 1)
            tail_part: Value = Const(0, 1)
            if ratio > 1:
                full_part = register(m, full_end[exact_log2(vec) :], "full_part")
                tail_part = register(m, tail_end[exact_log2(vec) :], "tail_part")
            full_mask = _mask(m, full_end[: exact_log2(vec)], vec, "full_mask")
            tail_mask = _mask(m, tail_end[: exact_log2(vec)], vec, "tail_mask")
            part_end_in = part_in == Mux(in_last, tail_part, full_part)
            end_mask = Mux(in_last, tail_mask, full_mask)
            with m.If(start):
                m.d.sync += [words_left.eq(last_word), in_last.eq(last_word == 0)]
            with m.Elif(slice_taken & part_end_in):
                m.d.sync += [
                    words_left.eq(Mux(in_last, last_word, words_left - 1)),
                    in_last.eq(Mux(in_last, single_word, words_left == 1)),
                ]
            parts = data.View(data.ArrayLayout(8 * vec, ratio), word.payload)
            m.d.comb += [
                slice_in.valid.eq(word.valid),
                slice_in.payload.logits.eq(parts[part_in] if ratio > 1 else word.payload),
                slice_in.payload.last.eq(part_end_in & in_last),
                slice_in.payload.mask.eq(Mux(part_end_in, end_mask, ~Const(0, vec))),
                word.ready.eq(slice_in.ready & part_end_in),
            ]
            with m.If(slice_taken):
                m.d.sync += part_in.eq(Mux(part_end_in, 0, part_in + 1))
        else:
            last_index = Cat(tail_end, last_word)
            last_slice = register(m, last_index[exact_log2(vec) :], "last_slice")
            tail_mask = _mask(m, last_index[: exact_log2(vec)], vec, "tail_mask")
            index_in = Signal.like(last_slice, reset_less=False, name="index_in")
            with m.If(slice_taken):
                m.d.sync += index_in.eq(Mux(slice_in.payload.last, 0, index_in + 1))
            collected = Signal(
                data.ArrayLayout(config.word_bits, ratio), reset_less=True, name="collected"
            )
            full = Signal(name="full")
            word_in = Signal.like(last_word, reset_less=False, name="word_in")
            row_end_in = word_in == last_word
            part_end_in = row_end_in | (part_in == ratio - 1)
            m.d.comb += [
                slice_in.valid.eq(full),
                slice_in.payload.logits.eq(collected.as_value()),
                slice_in.payload.last.eq(index_in == last_slice),
                slice_in.payload.mask.eq(Mux(slice_in.payload.last, tail_mask, ~Const(0, vec))),
                word.ready.eq(~full | slice_in.ready),
            ]
            with m.If(word.ready):
                m.d.sync += full.eq(word.valid & part_end_in)
                with m.If(word.valid):
                    m.d.sync += [
                        collected[part_in].eq(word.payload),
                        part_in.eq(Mux(part_end_in, 0, part_in + 1)),
                        word_in.eq(Mux(row_end_in, 0, word_in + 1)),
                    ]

        # Gearbox: slices to words
        m.submodules.destinations = destinations = RowAddresses()
        m.submodules.writes = writes = WriteBuffer(config.word_bits)
        wiring.connect(m, writes.write, wiring.flipped(self.write))
        write = writes.i_stream
        slice_out = unit.o_stream
        codes = slice_out.payload.codes.as_value()
        if config.softmax_fractional:
            self._say_row_shifts(m, slice_out, start=start, slot=command.slot)
        part_out = Signal(range(max(2, ratio)), name="part_out")
        if vec <= word_bytes:
            part_end_out = slice_out.payload.last | (part_out == full_part)
            m.d.comb += [
                write.valid.eq(slice_out.valid & part_end_out),
                slice_out.ready.eq(write.ready),
            ]
            # Parts before the last wait here; those behind the row's last slice are 0.
            waiting = Signal(data.ArrayLayout(8 * vec, ratio - 1), reset_less=True, name="waiting")
            for part in range(ratio):
                place = write.payload.data[8 * vec * part : 8 * vec * (part + 1)]
                with m.If(part_out == part):
                    m.d.comb += place.eq(codes)
                if part < ratio - 1:
                    with m.Elif(part_out > part):
                        m.d.comb += place.eq(waiting[part])
            with m.If(slice_out.valid & slice_out.ready):
                m.d.sync += part_out.eq(Mux(part_end_out, 0, part_out + 1))
                for part in range(ratio - 1):
                    with m.If(part_out == part):
                        m.d.sync += waiting[part].eq(codes)
        else:
            word_out = Signal.like(last_word, reset_less=False, name="word_out")
            row_end_out = word_out == last_word
            part_end_out = row_end_out | (part_out == ratio - 1)
            m.d.comb += [
                write.valid.eq(slice_out.valid),
                slice_out.ready.eq(write.ready & part_end_out),
                write.payload.data.eq(codes.word_select(part_out, config.word_bits)),
            ]
            with m.If(write.valid & write.ready):
                m.d.sync += [
                    part_out.eq(Mux(part_end_out, 0, part_out + 1)),
                    word_out.eq(Mux(row_end_out, 0, word_out + 1)),
                ]

        # Writes
        m.d.comb += [
            destinations.start.eq(start),
            destinations.base.eq(command.destination),
            destinations.stride.eq(command.destination_stride),
            destinations.rows.eq(command.rows),
            destinations.last_word.eq(last_word),
            destinations.step.eq(write.valid & write.ready),
            write.payload.address.eq(destinations.address),
            write.payload.enable.eq(~Const(0, word_bytes)),
            write.payload.last.eq(destinations.end),
            last_write.eq(writes.granted_last),
        ]
        return m
