# SPDX-License-Identifier: Apache-2.0
"""DRAIN engine: accumulators -> requantise -> (residual | table) -> activation memory."""

from __future__ import annotations

from amaranth import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    ROW_SHIFT_BANK,
    ROW_SHIFT_SLOTS,
    WORD_ADDRESS_BITS,
    DrainMode,
)
from hwgen.numerics.fractional_softmax import SHIFT_BITS
from hwgen.numerics.requantise import BIASED_BITS
from hwgen.rtl import elementwise, requantise
from hwgen.rtl.constant_loader import ConstantLoader
from hwgen.rtl.drain_chunks import DrainChunks, rotate_lanes
from hwgen.rtl.elementwise import ElementwiseLane
from hwgen.rtl.pipeline import delay, register
from hwgen.rtl.ports import (
    ReadPort,
    WritePort,
    command_signature,
    constant_beat_layout,
    row_shift_layout,
)
from hwgen.rtl.ram import Ram, ram_name, ram_verilog
from hwgen.rtl.requantise import RequantiseLane
from hwgen.timings import (
    ACCUMULATOR_LATENCY,
    CONSTANTS_READ,
    READ_LATENCY,
    REQUANTISE_LATENCY,
    TABLE_LATENCY,
)


class DrainEngine(wiring.Component):
    """Empties accumulator banks in order: per tile, per chunk (DrainChunks), one row per cycle.

    Throughput: ``rows`` cycles per chunk when constants are loaded in time (a cycle per pair of its
    columns after the pipeline has settled); two cycles between chunks when they are not, between
    tiles and between chunks of residuals, else none. Latency from a row's address to its write: 17
    cycles, and ``config.rotation_stages``. Bytes of columns that are not valid keep their content.
    The write port must have the highest priority (it is never stalled); a residual read that loses
    its bank stalls the issue. ``done`` pulses when the command's last word has been written.

    ``drain_segment``, ``drain_offset`` and ``drain_pairs`` as in SystolicArray. A bank is given
    back with the first row of its last chunk, of residuals behind the last one. With a fractional
    softmax ``row_shifts`` writes the memory of the rows' shifts; mode SHIFTED adds entry r of the
    command's slot to the shifts of row r.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        #: Cycles from a row's drain address to its accumulators at the lanes, to its codes.
        self.at_lanes = ACCUMULATOR_LATENCY + config.rotation_stages
        self.latency = self.at_lanes + REQUANTISE_LATENCY + TABLE_LATENCY
        super().__init__(
            {
                **(
                    {"row_shifts": In(row_shift_layout(config))}
                    if config.softmax_fractional
                    else {}
                ),
                "i_command": In(command_signature("DRAIN")),
                "done": Out(1),
                "i_constants": In(stream.Signature(constant_beat_layout(config))),
                "read": Out(ReadPort(config.word_bits)),
                "write": Out(WritePort(config.word_bits)),
                "bank_complete": In(2),
                "bank_release": Out(2),
                "drain_bank": Out(1),
                "drain_row": Out(bits_for(config.tile_rows - 1)),
                "drain_segment": Out(max(1, bits_for(config.segments - 1))),
                "drain_offset": Out(bits_for(config.requantise_lanes - 1)),
                **({"drain_pairs": Out(1)} if config.groups.paired_columns else {}),
                "drain_data": In(BIASED_BITS * config.requantise_lanes),
                "table_valid": In(1),
                "table_slot": In(1),
                "table_index": In(elementwise.INDEX_BITS),
                "table_data": In(8 * elementwise.WRITTEN_ENTRIES),
            }
        )

    def leaves(self) -> dict[str, str]:
        """Verilog of the memory of row shifts by module name."""
        if not self.config.softmax_fractional:
            return {}
        shape = (ROW_SHIFT_SLOTS * self.config.shift_words, SHIFT_BITS, SHIFT_BITS)
        return {ram_name(*shape, bank=True): ram_verilog(*shape, bank=True)}

    def _row_shift(self, m: Module, command: Signal, row: Signal) -> Signal:
        """The shift of the row issued ``at_lanes`` + ROW_SHIFT_DELAY cycles ago."""
        words = self.config.shift_words
        bank = Ram(ROW_SHIFT_SLOTS * words, SHIFT_BITS, SHIFT_BITS, name="row_shifts", bank=True)
        m.submodules[f"bank{ROW_SHIFT_BANK}"] = bank.instance()
        given = register(m, self.row_shifts, "row_shift_given", reset=True)
        m.d.comb += [
            bank.read_address.eq(Cat(row[: exact_log2(words)], command.slot)),
            bank.write_enable.eq(given.valid),
            bank.write_address.eq(Cat(given.row, given.slot)),
            bank.write_data.eq(given.shift),
        ]
        used = register(m, command.mode == DrainMode.SHIFTED, "row_shift_used")
        wait = self.at_lanes + requantise.ROW_SHIFT_DELAY - 3
        early = delay(m, Mux(used, bank.read_data, 0), wait + 1, "row_shift")
        return register(m, early, "row_shift", reset=True)

    def _enables(self, m: Module, chunks: DrainChunks, wide: Signal) -> tuple[Value, Value]:
        """Byte enables of the word of the row issued ``latency`` cycles ago; its half."""
        lanes, rows = self.config.requantise_lanes, self.config.rows
        wait = self.latency - 2
        low = delay(m, register(m, chunks.first_pair, "first_pair"), wait, "first_pair")
        high = delay(m, register(m, chunks.last_pair, "last_pair"), wait, "last_pair")
        half = delay(m, chunks.half, self.latency, "half")
        top = lanes // 2 - 1
        at_least = Cat(low <= pair if pair < top else 1 for pair in range(top + 1))
        at_most = Cat(high >= pair if pair else 1 for pair in range(top + 1))
        pairs = register(m, at_least & at_most, "pairs")
        if lanes == rows:
            enables = Cat(
                Mux(wide, Mux(half, pairs[(rows + byte) // 4], pairs[byte // 4]), pairs[byte // 2])
                for byte in range(rows)
            )
        else:
            enables = Cat(
                Mux(wide, pairs[byte // 4], pairs[byte % lanes // 2] & (half == byte // lanes))
                for byte in range(rows)
            )
        return enables, half

    def _addends(self, m: Module, command: Signal, wide: Signal, residual: Signal) -> list[Signal]:
        """What the lanes add, by channel of int16: two lanes share one."""
        # The residual word arrives READ_LATENCY cycles after the issue, is needed later.
        wait = self.at_lanes + requantise.ADDEND_DELAY - READ_LATENCY
        word = delay(m, self.read.data, wait - 1, "residual")
        plain = register(m, Mux(wide, 0, command.zero_point), "plain_addend")
        return [
            register(m, Mux(residual, word.word_select(i, 16).as_signed(), plain), f"addend_{i}")
            for i in range(self.config.int16_channels)
        ]

    def _complete_banks(self, m: Module) -> Signal:
        """Banks that hold a complete tile."""
        complete = Signal(2, name="complete")
        for b in range(2):
            with m.If(self.bank_complete[b]):
                m.d.sync += complete[b].eq(1)
            with m.If(self.bank_release[b]):
                m.d.sync += complete[b].eq(0)
        return complete

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        lanes, int16_channels = config.requantise_lanes, config.int16_channels
        given = self.i_command.payload
        command = Signal.like(given, name="command")
        # the command's mode
        wide = Signal(name="wide")
        residual = Signal(name="residual")
        m.submodules.constant_loader = loader = ConstantLoader(
            config, settle=self.at_lanes + CONSTANTS_READ
        )
        wiring.connect(m, wiring.flipped(self.i_constants), loader.i_stream)
        m.submodules.chunks = chunks = DrainChunks(config)
        m.d.comb += [
            chunks.given.eq(given),
            chunks.stride.eq(command.stride),
            chunks.wide.eq(wide),
        ]

        complete = self._complete_banks(m)
        active = Signal(name="active")  # a chunk is being issued
        bank = Signal(name="bank")
        row = Signal(12, name="row")

        # Issue.
        address = Signal(WORD_ADDRESS_BITS, name="address")  # of the row in the destination
        issue = Signal(name="issue")
        m.d.comb += [
            self.read.valid.eq(active & residual),
            self.read.address.eq(address),
            issue.eq(active & (~residual | self.read.ready)),
            self.drain_bank.eq(bank),
            self.drain_row.eq(row),
            self.drain_segment.eq(chunks.segment),
            self.drain_offset.eq(chunks.offset),
        ]
        if pairs := config.groups.paired_columns:
            # No group ends where a tile of attention does, if that ends among the pairs.
            attention = {config.attention_columns, config.value_columns} - {*range(pairs.start + 1)}
            paired = Cat(command.tile_columns == columns for columns in sorted(attention)).any()
            m.d.comb += self.drain_pairs.eq(paired)
        # Where the row counter stands at its end is known ahead, in registers.
        last_row = Signal(name="last_row")
        single_row = Signal(name="single_row")
        before_last_row = Signal(12, name="before_last_row")

        # The bank is released with the first row of its last chunk: one is read per cycle, and the
        # next tile's last pass, the only one that writes to the bank, follows row by row. A read of
        # residuals may stall; then the bank is released after the last row.
        released = Signal(name="released")
        last_issue = Signal(name="last_issue")  # of the command
        pipeline_busy = Signal(name="pipeline_busy")
        # The chunk's last row, and the next one's constants are there: on to it without a gap. Not
        # of residuals, whose grant must not reach the next chunk: others have none to wait for.
        straight = Signal(name="straight")
        m.d.comb += straight.eq(active & ~residual & last_row & ~chunks.last & loader.loaded)

        def take(base: Value) -> None:
            m.d.comb += loader.take.eq(1)
            m.d.sync += [
                active.eq(1),
                row.eq(0),
                address.eq(base),
                last_row.eq(single_row),
            ]

        with m.FSM(name="drain"):
            with m.State("Idle"):
                m.d.comb += self.i_command.ready.eq(~pipeline_busy)
                with m.If(self.i_command.valid & ~pipeline_busy):
                    m.d.comb += chunks.start.eq(1)
                    m.d.sync += [
                        command.eq(given),
                        residual.eq(given.mode == DrainMode.RESIDUAL),
                        wide.eq(
                            (given.mode == DrainMode.RESIDUAL) | (given.mode == DrainMode.WIDE)
                        ),
                        single_row.eq(given.rows == 1),
                        before_last_row.eq(given.rows - 2),
                    ]
                    m.next = "Chunk"
            with m.State("Chunk"), m.If(loader.loaded & complete.bit_select(bank, 1)):
                take(chunks.base)
                m.next = "Rows"
            with m.State("Rows"), m.If(issue):
                m.d.sync += [
                    row.eq(row + 1),
                    address.eq(address + 1),
                    last_row.eq(row == before_last_row),
                ]
                with m.If(chunks.last & ~residual & ~released):
                    m.d.comb += self.bank_release.bit_select(bank, 1).eq(1)
                    m.d.sync += released.eq(1)
                with m.If(last_row & ~straight):
                    m.d.sync += active.eq(0)
                    m.next = "Next"
            with m.State("Next"):
                m.next = "Chunk"
                with m.If(chunks.last):
                    with m.If(~released):
                        m.d.comb += self.bank_release.bit_select(bank, 1).eq(1)
                    m.d.comb += chunks.next_tile.eq(1)
                    m.d.sync += [released.eq(0), bank.eq(~bank)]
                    with m.If(chunks.last_tile):
                        m.d.comb += last_issue.eq(1)
                        m.next = "Idle"
                with m.Else():
                    m.d.comb += chunks.next_chunk.eq(1)

        with m.If(straight):
            m.d.comb += chunks.next_chunk.eq(1)
            take(chunks.next_base)

        # Bookkeeping through the pipeline: accumulators, rotation, requantise, table.
        flags = [Cat(issue, last_issue)]
        for d in range(self.latency):
            flags.append(register(m, flags[-1], f"flags_{d}", reset=True))
        # Nothing is issued in the state that asks. All but the first are looked at a cycle ahead.
        later = register(m, Cat(flags[1:-1]).any(), "flags_later", reset=True)
        m.d.comb += pipeline_busy.eq(flags[1].any() | later)
        # The chunk's first row is issued behind its take.
        wait = self.at_lanes + 1 - requantise.SWAP_LEAD
        swap = delay(m, loader.take, wait, "swap", reset=True)
        out_address = delay(m, address, self.latency, "out_address")

        addends = self._addends(m, command, wide, residual)
        rotation = delay(m, chunks.rotation, ACCUMULATOR_LATENCY, "rotation")
        accumulators = rotate_lanes(
            m,
            [self.drain_data.word_select(lane, BIASED_BITS) for lane in range(lanes)],
            rotation,
            config,
        )
        row_shift = self._row_shift(m, command, row) if config.softmax_fractional else None
        codes, values = [], []
        for lane in range(lanes):
            unit = RequantiseLane(row_shifts=row_shift is not None)
            if row_shift is not None:
                m.d.comb += unit.row_shift.eq(row_shift)
            table = ElementwiseLane()
            m.submodules[f"requantise_{lane}"] = unit
            m.submodules[f"elementwise_{lane}"] = table
            m.d.comb += [
                unit.accumulator.eq(accumulators[lane]),
                unit.swap.eq(swap),
                unit.constants.eq(loader.constants[lane]),
                unit.wide.eq(wide),
                unit.addend.eq(addends[lane % int16_channels]),
                unit.low.eq(command.low),
                unit.high.eq(command.high),
                table.code.eq(unit.code),
                table.slot.eq(command.slot),
                table.write_valid.eq(self.table_valid),
                table.write_slot.eq(self.table_slot),
                table.write_index.eq(self.table_index),
                table.write_data.eq(self.table_data),
            ]
            codes.append(unit.code)
            values.append(table.value)

        # Write. The plain modes wait beside the table so that all modes share one latency.
        plain = delay(m, Cat(codes), TABLE_LATENCY, "plain")
        bytes_8 = Signal(8 * lanes, name="bytes_8")
        m.d.comb += bytes_8.eq(
            Mux(
                command.mode == DrainMode.TABLE,
                Cat(values),
                Cat(plain[16 * lane : 16 * lane + 8] for lane in range(lanes)),
            )
        )
        enables, half = self._enables(m, chunks, wide)
        word_16 = plain[: config.word_bits]
        if lanes > int16_channels:
            word_16 = Mux(half, plain[config.word_bits :], word_16)
        m.d.sync += [
            self.write.valid.eq(flags[-1][0]),
            self.write.address.eq(out_address),
            self.write.enable.eq(enables),
        ]
        word_8 = bytes_8.replicate(config.rows // lanes)
        m.d.comb += self.write.data.eq(register(m, Mux(wide, word_16, word_8), "written"))
        finished = register(m, flags[-1][1], "finished", reset=True)
        m.d.sync += self.done.eq(finished)
        return m
