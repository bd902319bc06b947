# SPDX-License-Identifier: Apache-2.0
"""LOAD engine: bursts for every kind of load, and where their beats go."""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    BEAT_BYTES,
    BY_NAME,
    CHECKED_BITS,
    WORD_ADDRESS_BITS,
    field_offsets,
)
from hwgen.rtl.axi import BURST
from hwgen.rtl.elementwise import INDEX_BITS, WRITTEN_ENTRIES
from hwgen.rtl.pipeline import StreamBuffer, loop_counter, register
from hwgen.rtl.ports import WriteBuffer, WritePort, command_layout, constant_beat_layout
from hwgen.rtl.registers import WINDOW_BITS

TABLE_BEATS = 16
CODES = {name: opcode.code for name, opcode in BY_NAME.items()}


def load_body(instruction: Signal, opcode: str) -> data.View:
    """View of an instruction's body as the fields of ``opcode``."""
    offset = min(field_offsets(BY_NAME[opcode]).values())
    layout = command_layout(opcode)
    return data.View(layout, instruction[offset : offset + layout.size])


class _ImagePlace:
    """Where the next group of bytes of a LOAD_IMAGE comes from and goes to.

    Its place within its beat, of the byte within the token, and the loops: groups of a line,
    patches of a row, lines of a patch, rows of patches.
    """

    def __init__(
        self,
        m: Module,
        config: AcceleratorConfig,
        command: data.View,
        *,
        decoding: Signal,
        within: Signal,
    ) -> None:
        self.config = config
        self.command = command
        self.within = within  # byte within the beat
        self.beat_end = Signal(name="beat_end")  # the group is the beat's last
        # Byte of the line's first group within its slice word; word of it, first patch of the row.
        self.line_byte = Signal(range(config.rows), name="line_byte")
        self.line_word = Signal(WORD_ADDRESS_BITS, name="line_word")
        # of the current group
        self.byte = Signal.like(self.line_byte, name="byte")
        self.slice_word = Signal(WORD_ADDRESS_BITS, name="slice_word")
        # Word of the next row's first patch, slice 0.
        self.next_row = Signal(WORD_ADDRESS_BITS, name="next_row")
        self.size = Signal(5, name="size")
        m.d.sync += self.size.eq(1 << command.group_log2)
        self.step = Signal(name="step")
        ends_groups = Signal(name="ends_groups")
        ends_patches = Signal(name="ends_patches")
        ends_lines = Signal(name="ends_lines")
        self.group, self.patch, self.line, self.patch_row = (
            loop_counter(m, len(length), name, start=decoding, length=length, step=stepping)
            for name, length, stepping in (
                ("group", command.groups, self.step),
                ("patch", command.patches, ends_groups),
                ("line", command.lines, ends_patches),
                ("patch_row", command.patch_rows, ends_lines),
            )
        )
        m.d.comb += [
            ends_groups.eq(self.step & self.group.last),
            ends_patches.eq(ends_groups & self.patch.last),
            ends_lines.eq(ends_patches & self.line.last),
        ]

    def begin(self) -> list:
        """Before the first group."""
        command = self.command
        return [
            self.within.eq(0),
            self.beat_end.eq(command.group_log2 == ceil_log2(BEAT_BYTES)),
            self.line_byte.eq(0),
            self.byte.eq(0),
            self.line_word.eq(command.destination),
            self.slice_word.eq(command.destination),
            self.next_row.eq(command.destination + command.patches),
        ]

    def write_group(
        self, m: Module, valid: Signal, moved: Signal, write: stream.Interface, pop: Signal
    ) -> None:
        """In a state of an FSM: offer the group's bytes, the lowest of ``moved``."""
        config, command = self.config, self.command
        beats_per_word = config.rows // BEAT_BYTES
        # The group's bytes, at every multiple of its size: the write enables pick the
        # place.
        codes = Signal(128, name="codes")
        with m.Switch(command.group_log2):
            for log2 in range(5):
                with m.Case(log2):
                    bits = 8 << log2
                    m.d.comb += codes.eq(Cat([moved[:bits]] * (128 // bits)))
        signed_codes = Signal(128, name="signed_codes")
        m.d.comb += signed_codes.eq(codes ^ int.from_bytes(b"\x80" * 16, "little"))
        enable = Signal(config.rows, name="enable")
        with m.Switch(command.group_log2):
            for log2 in range(5):
                with m.Case(log2):
                    m.d.comb += enable.eq(((1 << (1 << log2)) - 1) << self.byte)
        finished = self.group.last & self.patch.last & self.line.last & self.patch_row.last
        m.d.comb += [
            write.valid.eq(valid),
            write.payload.address.eq(self.slice_word + self.patch.index),
            write.payload.data.eq(Cat([signed_codes] * beats_per_word)),
            write.payload.enable.eq(enable),
            write.payload.last.eq(finished),
            self.step.eq(write.valid & write.ready),
        ]
        following_byte = Signal(range(2 * config.rows), name="following_byte")
        following_word = Signal(WORD_ADDRESS_BITS, name="following_word")
        m.d.comb += following_byte.eq(self.byte + self.size)
        overflow = following_byte[ceil_log2(config.rows)]
        m.d.comb += following_word.eq(
            Mux(overflow, self.slice_word + command.stride, self.slice_word)
        )
        with m.If(self.step):
            m.d.comb += pop.eq(self.beat_end | finished)
            m.d.sync += [
                self.within.eq(self.within + self.size),
                self.beat_end.eq((self.within + (self.size << 1))[:4] == 0),
                self.byte.eq(following_byte[: ceil_log2(config.rows)]),
                self.slice_word.eq(following_word),
            ]
            with m.If(self.group.last):
                # Next patch of the row: the same bytes of the next token.
                m.d.sync += [self.byte.eq(self.line_byte), self.slice_word.eq(self.line_word)]
                with m.If(self.patch.last):
                    # Next line: on from where this line ended.
                    m.d.sync += [
                        self.line_byte.eq(following_byte[: ceil_log2(config.rows)]),
                        self.line_word.eq(following_word),
                        self.byte.eq(following_byte[: ceil_log2(config.rows)]),
                        self.slice_word.eq(following_word),
                    ]
                    with m.If(self.line.last):
                        m.d.sync += [
                            self.next_row.eq(self.next_row + command.patches),
                            self.line_byte.eq(0),
                            self.line_word.eq(self.next_row),
                            self.byte.eq(0),
                            self.slice_word.eq(self.next_row),
                        ]
            with m.If(finished):
                m.next = "Flush"


class LoadEngine(wiring.Component):
    """Splits LOAD_* instructions (all but the check) into bursts, routes the beats.

    A load that would leave its window is not begun: ``outside`` stays high, with the address of the
    first beat of a port that would. One that reaches the last address ends there in the same way.

    Words come from all ports where ``config.word_ports`` says so. Requests run ahead of the data by
    up to ``queue_depth`` commands, as far as the port FIFOs have room. Bursts end at multiples of
    ``burst_beats`` beats, so none crosses 4 KiB; one is offered every 2 cycles at best. Throughput:
    one (wide) beat per cycle. LOAD_IMAGE takes one group per cycle. ``done`` pulses when a
    command's last beat has been handed over.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        ports: dict[str, object] = {
            "i_command": In(stream.Signature(CHECKED_BITS)),
            "done": Out(1),
            "image_base": In(64),
            "image_window": In(WINDOW_BITS),
            "input_base": In(64),
            "input_window": In(WINDOW_BITS),
            "outside": Out(1),
            "outside_address": Out(64),
            "write": Out(WritePort(config.word_bits)),
            "o_weights": Out(stream.Signature(config.wide_beat_bits)),
            "o_constants": Out(stream.Signature(constant_beat_layout(config))),
            "layernorm_valid": Out(1),
            "layernorm_slot": Out(1),
            "layernorm_index": Out(12),
            "layernorm_data": Out(128),
            "table_valid": Out(1),
            "table_slot": Out(1),
            "table_index": Out(INDEX_BITS),
            "table_data": Out(8 * WRITTEN_ENTRIES),
        }
        for p in range(config.memory_ports):
            ports[f"o_burst{p}"] = Out(stream.Signature(BURST))
            ports[f"i_beats{p}"] = In(stream.Signature(128))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        self._data(m, self._requests(m))
        return m

    def _requests(self, m: Module) -> SyncFIFO:
        """Bursts, one command after the other; returns the commands, for their data."""
        config = self.config
        n = config.memory_ports
        burst_log2 = ceil_log2(config.burst_beats)
        beats_per_word = config.word_bits // (config.word_ports * 8 * BEAT_BYTES)

        m.submodules.pending = pending = SyncFIFO(width=CHECKED_BITS, depth=config.queue_depth)
        opcode = Signal(4, name="opcode")
        total = Signal(25, name="total")
        word = Signal(
            CHECKED_BITS, reset_less=True, name="word"
        )  # accepted one cycle before it is set up
        accepted_word = Signal(name="accepted_word")
        tiles = load_body(word, "LOAD_TILES")
        image = load_body(word, "LOAD_IMAGE")
        m.d.comb += opcode.eq(word[:4])
        with m.Switch(opcode):
            with m.Case(CODES["LOAD_TILES"]):
                m.d.comb += total.eq(tiles.beats)
            with m.Case(CODES["LOAD_WORDS"]):
                m.d.comb += total.eq(load_body(word, "LOAD_WORDS").words * beats_per_word)
            with m.Case(CODES["LOAD_IMAGE"]):
                m.d.comb += total.eq(image.beats)
            with m.Case(CODES["LOAD_LAYERNORM"]):
                m.d.comb += total.eq(load_body(word, "LOAD_LAYERNORM").beats)
            with m.Default():
                m.d.comb += total.eq(TABLE_BEATS)

        requesting = Signal(name="requesting")
        wide = Signal(name="wide")
        left = Signal(25, name="left")
        # The last bit: beyond the last address.
        addresses = [Signal(65, name=f"address_{p}") for p in range(n)]
        space = [Signal(signed(WINDOW_BITS + 1), name=f"space_{p}") for p in range(n)]  # beats
        m.d.comb += self.i_command.ready.eq(~requesting & ~accepted_word & pending.w_rdy)
        accept = self.i_command.valid & self.i_command.ready
        m.d.comb += [pending.w_data.eq(self.i_command.payload), pending.w_en.eq(accept)]
        m.d.sync += accepted_word.eq(accept)
        # Beats from the base to each port's first; the other ports serve wide loads only. The
        # address is every load's first field, the distance of the ports the second of wide ones.
        offsets = [Signal(len(tiles.address) + 1, name=f"offset_{p}") for p in range(n)]
        is_image = Signal(name="is_image")
        with m.If(accept):
            coming = load_body(self.i_command.payload, "LOAD_TILES")
            m.d.sync += [
                word.eq(self.i_command.payload),
                is_image.eq(self.i_command.payload[:4] == CODES["LOAD_IMAGE"]),
                *(
                    offset.eq(coming.address + coming.port_stride * p)
                    for p, offset in enumerate(offsets)
                ),
            ]
        with m.If(accepted_word):
            wide_loads = ["LOAD_TILES", "LOAD_WORDS"][: 1 + (config.word_ports > 1)]
            is_wide = Cat(opcode == CODES[name] for name in wide_loads).any()
            m.d.sync += [requesting.eq(1), wide.eq(is_wide), left.eq(total)]
            base = Mux(is_image, self.input_base, self.image_base)
            window = Mux(is_image, self.input_window, self.image_window)
            for p in range(n):
                m.d.sync += [
                    addresses[p].eq(base + Cat(Const(0, 4), offsets[p])),
                    space[p].eq(window - offsets[p]),
                ]

        # One burst at a time, to all ports that take part; each port accepts in its own time. The
        # burst's length is found in one cycle, the burst offered from the next on.
        to_boundary = Signal(burst_log2 + 1, name="to_boundary")
        length = Signal(burst_log2 + 1, name="length")
        planned = Signal(name="planned")
        last = Signal(name="last")
        m.d.comb += to_boundary.eq(config.burst_beats - addresses[0][4 : 4 + burst_log2])
        sent = Signal(n, name="sent")
        accepted = Signal(n, name="accepted")
        wanted = Signal(n, name="wanted")
        m.d.comb += wanted.eq(Mux(wide, (1 << n) - 1, 1))
        # Compared while the first burst's length is found; `left` only shrinks from there.
        leaves = Cat(register(m, space[p] < left, f"leaves_{p}") for p in range(n))
        outside = (leaves | Cat(address[-1] for address in addresses)) & wanted
        m.d.comb += [
            # A cycle late: nothing changes from there on.
            self.outside.eq(register(m, planned & outside.any(), "is_outside", reset=True)),
            self.outside_address.eq(addresses[0]),
        ]
        for p in reversed(range(n)):
            with m.If(outside[p]):
                m.d.comb += self.outside_address.eq(addresses[p])
        for p in range(n):
            burst = getattr(self, f"o_burst{p}")
            m.d.comb += [
                burst.valid.eq(planned & wanted[p] & ~sent[p] & ~outside.any()),
                burst.payload.address.eq(addresses[p]),
                burst.payload.length.eq(length - 1),
                accepted[p].eq(sent[p] | (burst.valid & burst.ready)),
            ]
        with m.If(planned):
            with m.If((accepted | ~wanted).all()):
                m.d.sync += [
                    planned.eq(0),
                    requesting.eq(~last),
                    sent.eq(0),
                    left.eq(left - length),
                    *(address.eq(address + (length << 4)) for address in addresses),
                ]
            with m.Else():
                m.d.sync += sent.eq(accepted)
        with m.Elif(requesting):
            m.d.sync += [
                length.eq(Mux(left < to_boundary, left, to_boundary)),
                last.eq(left <= to_boundary),
                planned.eq(left != 0),
                requesting.eq(left != 0),
            ]
        return pending

    def _data(self, m: Module, pending: SyncFIFO) -> None:
        """Where the beats of each command go."""
        config = self.config
        n = config.memory_ports
        beats = [getattr(self, f"i_beats{p}") for p in range(n)]
        beat = beats[0]
        wide_valid = Signal(name="wide_valid")
        wide_data = Cat(b.payload for b in beats)
        m.d.comb += wide_valid.eq(Cat(b.valid for b in beats).all())
        pop_wide = Signal(name="pop_wide")
        pop_narrow = Signal(name="pop_narrow")
        for p, b in enumerate(beats):
            m.d.comb += b.ready.eq(pop_wide | (pop_narrow if p == 0 else 0))
        m.submodules.weights = weights = StreamBuffer(config.wide_beat_bits)
        m.submodules.constants = constants = StreamBuffer(constant_beat_layout(config))
        wiring.connect(m, weights.o_stream, wiring.flipped(self.o_weights))
        wiring.connect(m, constants.o_stream, wiring.flipped(self.o_constants))
        m.d.comb += [
            weights.i_stream.payload.eq(wide_data),
            constants.i_stream.payload.data.eq(wide_data),
        ]

        current = Signal(CHECKED_BITS, name="current")
        c_tiles = load_body(current, "LOAD_TILES")
        c_words = load_body(current, "LOAD_WORDS")
        c_image = load_body(current, "LOAD_IMAGE")
        c_layernorm = load_body(current, "LOAD_LAYERNORM")
        c_table = load_body(current, "LOAD_TABLE")
        count = Signal(25, name="count")
        beats_left = Signal(25, name="beats_left")  # of constants or weights
        none_left = Signal(name="none_left")
        one_left = Signal(name="one_left")
        m.d.comb += constants.i_stream.payload.last.eq(one_left)
        tile = Signal(16, name="tile")
        last_tile = register(m, tile == c_tiles.tiles - 1, "last_tile")
        last_count = register(
            m,
            Mux(
                current[:4] == CODES["LOAD_WORDS"],
                load_body(current, "LOAD_WORDS").words,
                load_body(current, "LOAD_LAYERNORM").beats,
            )
            - 1,
            "last_count",
        )
        address = Signal(WORD_ADDRESS_BITS, name="address")

        # Byte within the beat, and the beat from there on: groups of an image, words of a table.
        within = Signal(4, name="within")
        decoding = Signal(name="decoding")
        place = _ImagePlace(m, config, c_image, decoding=decoding, within=within)
        moved = Signal(128, name="moved")
        m.d.comb += moved.eq(beat.payload >> Cat(Const(0, 3), within))
        # Words to the activation memory.
        m.submodules.writes = writes = WriteBuffer(config.word_bits)
        wiring.connect(m, writes.write, wiring.flipped(self.write))
        write = writes.i_stream
        written = register(m, writes.granted_last, "written", reset=True)

        with m.FSM(name="load"):
            with m.State("Idle"), m.If(pending.r_rdy):
                m.d.comb += pending.r_en.eq(1)
                m.d.sync += current.eq(pending.r_data)
                m.next = "Decode"
            with m.State("Decode"):
                m.d.comb += decoding.eq(1)
                m.d.sync += [
                    count.eq(0),
                    tile.eq(0),
                    address.eq(c_words.destination),
                    *place.begin(),
                ]
                with m.Switch(current[:4]):
                    with m.Case(CODES["LOAD_TILES"]):
                        m.d.sync += [
                            beats_left.eq(c_tiles.constant_beats),
                            none_left.eq(c_tiles.constant_beats == 0),
                            one_left.eq(c_tiles.constant_beats == 1),
                        ]
                        m.next = "Constants"
                    with m.Case(CODES["LOAD_WORDS"]):
                        m.next = "Words"
                    with m.Case(CODES["LOAD_IMAGE"]):
                        m.next = "Image"
                    with m.Case(CODES["LOAD_LAYERNORM"]):
                        m.next = "LayerNorm"
                    with m.Default():
                        m.next = "Table"

            with m.State("Constants"):
                with m.If(none_left):
                    m.d.sync += [
                        beats_left.eq(c_tiles.weight_beats),
                        none_left.eq(c_tiles.weight_beats == 0),
                    ]
                    m.next = "Weights"
                with m.Else():
                    m.d.comb += [
                        constants.i_stream.valid.eq(wide_valid),
                        pop_wide.eq(wide_valid & constants.i_stream.ready),
                    ]
                    with m.If(pop_wide):
                        m.d.sync += [
                            beats_left.eq(beats_left - 1),
                            none_left.eq(one_left),
                            one_left.eq(beats_left == 2),
                        ]
            with m.State("Weights"):
                with m.If(none_left):
                    m.d.sync += [
                        beats_left.eq(c_tiles.constant_beats),
                        none_left.eq(c_tiles.constant_beats == 0),
                        one_left.eq(c_tiles.constant_beats == 1),
                        tile.eq(tile + 1),
                    ]
                    with m.If(last_tile):
                        m.d.comb += self.done.eq(1)
                        m.next = "Idle"
                    with m.Else():
                        m.next = "Constants"
                with m.Else():
                    m.d.comb += [
                        weights.i_stream.valid.eq(wide_valid),
                        pop_wide.eq(wide_valid & weights.i_stream.ready),
                    ]
                    with m.If(pop_wide):
                        m.d.sync += [beats_left.eq(beats_left - 1), none_left.eq(beats_left == 1)]

            with m.State("Words"):
                whole = config.word_ports > 1  # wide beats
                given, valid = (wide_data, wide_valid) if whole else (beat.payload, beat.valid)
                parts = config.word_bits // len(given)
                part = Signal(range(parts + 1), name="part")
                taken = Signal(name="taken")
                m.d.comb += [
                    write.valid.eq(valid),
                    write.payload.address.eq(address),
                    write.payload.data.eq(given.replicate(parts)),
                    write.payload.enable.eq(
                        Cat((part == k).replicate(len(given) // 8) for k in range(parts))
                    ),
                    write.payload.last.eq((part == parts - 1) & (count == last_count)),
                    taken.eq(write.valid & write.ready),
                    (pop_wide if whole else pop_narrow).eq(taken),
                ]
                with m.If(taken):
                    m.d.sync += part.eq(part + 1)
                    with m.If(part == parts - 1):
                        m.d.sync += [part.eq(0), address.eq(address + 1), count.eq(count + 1)]
                        with m.If(count == last_count):
                            m.next = "Flush"
            # The last word is in the buffer; it counts as written once it has left.
            with m.State("Flush"), m.If(written):
                m.d.comb += self.done.eq(1)
                m.next = "Idle"

            with m.State("Image"):
                place.write_group(m, beat.valid, moved, write, pop_narrow)

            with m.State("LayerNorm"):
                m.d.comb += [
                    pop_narrow.eq(beat.valid),
                    self.layernorm_valid.eq(beat.valid),
                ]
                with m.If(beat.valid):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == last_count):
                        m.d.comb += self.done.eq(1)
                        m.next = "Idle"
            with m.State("Table"):
                m.d.comb += self.table_valid.eq(beat.valid)
                with m.If(beat.valid):
                    m.d.sync += within.eq(within + WRITTEN_ENTRIES)
                with m.If(beat.valid & (within == BEAT_BYTES - WRITTEN_ENTRIES)):
                    m.d.comb += pop_narrow.eq(1)
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == TABLE_BEATS - 1):
                        m.d.comb += self.done.eq(1)
                        m.next = "Idle"

        m.d.comb += [
            self.layernorm_slot.eq(c_layernorm.slot),
            self.layernorm_index.eq(count),
            self.layernorm_data.eq(beat.payload),
            self.table_slot.eq(c_table.slot),
            self.table_index.eq(Cat(within, count)[exact_log2(WRITTEN_ENTRIES) :]),
            self.table_data.eq(moved),
        ]


class ConstantFifo(wiring.Component):
    """Per-column constants between LOAD and DRAIN: ``constant_fifo_beats`` wide beats.

    An entry leaves two cycles after it has come, at the earliest; one a cycle.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.layout = constant_beat_layout(config)
        beat = stream.Signature(self.layout)
        super().__init__({"i_stream": In(beat), "o_stream": Out(beat)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(
            width=self.layout.size, depth=self.config.constant_fifo_beats
        )
        m.d.comb += [
            fifo.w_data.eq(self.i_stream.payload),
            fifo.w_en.eq(self.i_stream.valid),
            self.i_stream.ready.eq(fifo.w_rdy),
            self.o_stream.payload.eq(fifo.r_data),
            self.o_stream.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o_stream.ready),
        ]
        return m
