# SPDX-License-Identifier: Apache-2.0
"""DRAIN engine: accumulators -> requantise -> (residual | table) -> activation memory."""

from __future__ import annotations

from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
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
from hwgen.rtl import elementwise, requantise
from hwgen.rtl.elementwise import ElementwiseLane
from hwgen.rtl.pipeline import delay, register
from hwgen.rtl.ports import (
    READ_LATENCY,
    ReadPort,
    WritePort,
    command_signature,
    row_shift_layout,
)
from hwgen.rtl.ram import Ram, ram_name, ram_verilog
from hwgen.rtl.requantise import CONSTANTS, RequantiseLane

#: Cycles from a row's drain address to its accumulators at the lanes (SystolicArray).
ACCUMULATOR_LATENCY = 3


class ConstantLoader(wiring.Component):
    """Per-column constants of one column group at a time, from the wide beats of the tile stream.

    Fills the set of lane registers that is not in use: two columns a cycle. ``loaded`` is high
    while the next group's set is complete; ``take`` makes it the set in use (``set_index``) and,
    after ``settle`` cycles (the lanes' pipeline), filling of the other set begins. What is left of
    a tile's last beat is dropped.
    """

    def __init__(self, config: AcceleratorConfig, settle: int) -> None:
        self.config = config
        self.settle = settle
        super().__init__(
            {
                "i_stream": In(stream.Signature(config.wide_beat_bits)),
                "constants": Out(data.ArrayLayout(data.ArrayLayout(CONSTANTS, 2), config.lanes)),
                "loaded": Out(1),
                "take": In(1),
                "set_index": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        parts = config.memory_ports  # 128-bit parts of a wide beat, two columns each
        part = Signal(max(1, bits_for(parts - 1)), name="part")
        pair = Signal(range(config.lanes // 2), name="pair")  # pair of columns within the group
        group = Signal(max(1, bits_for(config.segments - 1)), name="group")
        filling = Signal(init=1, name="filling")
        settling = Signal(range(self.settle + 1), name="settling")
        in_use = Signal(init=1, name="in_use")  # so that set 0 is filled first
        m.d.comb += [self.loaded.eq(~filling), self.set_index.eq(in_use)]

        group_done = pair == config.lanes // 2 - 1
        tile_done = group_done & (group == config.segments - 1)
        fill = Signal(name="fill")
        m.d.comb += [
            fill.eq(self.i_stream.valid & filling & (settling == 0)),
            self.i_stream.ready.eq(filling & (settling == 0) & ((part == parts - 1) | tile_done)),
        ]
        record = Signal(128, name="record")
        m.d.comb += record.eq(self.i_stream.payload.word_select(part, 128))
        with m.If(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        with m.If(fill):
            m.d.sync += [
                pair.eq(Mux(group_done, 0, pair + 1)),
                part.eq(Mux((part == parts - 1) | tile_done, 0, part + 1)),
            ]
            with m.If(group_done):
                m.d.sync += [filling.eq(0), group.eq(Mux(tile_done, 0, group + 1))]
        with m.If(self.take):
            m.d.sync += [in_use.eq(~in_use), filling.eq(1), settling.eq(self.settle)]

        for lane in range(config.lanes):
            word = record[64 * (lane % 2) : 64 * (lane % 2) + 64]
            for which in range(2):
                held = Signal(CONSTANTS, name=f"constants_{lane}_{which}", reset_less=True)
                m.d.comb += self.constants[lane][which].eq(held)
                with m.If(fill & (pair == lane // 2) & (in_use != which)):
                    m.d.sync += held.eq(word[: CONSTANTS.size])
        return m


class DrainEngine(wiring.Component):
    """Empties accumulator banks in order: per tile, per column group, one row per cycle.

    Throughput: ``rows`` cycles per valid group when constants are loaded in time (lanes / 2 cycles
    per group after the pipeline has settled); about 2 cycles between groups. Latency from a row's
    address to its write: 15 cycles. The write port must have the highest priority (it is never
    stalled); a residual read that loses its bank stalls the issue. ``done`` pulses when the
    command's last word has been written.

    With a fractional softmax ``row_shifts`` writes the memory of the rows' shifts; mode SHIFTED
    adds entry r of the command's slot to the shifts of row r.
    """

    PIPELINE = ACCUMULATOR_LATENCY + requantise.LATENCY + elementwise.LATENCY

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **(
                    {"row_shifts": In(row_shift_layout(config))}
                    if config.softmax_fractional
                    else {}
                ),
                "i_command": In(command_signature("DRAIN")),
                "done": Out(1),
                "i_constants": In(stream.Signature(config.wide_beat_bits)),
                "read": Out(ReadPort(config.word_bits)),
                "write": Out(WritePort(config.word_bits)),
                "bank_complete": In(2),
                "bank_release": Out(2),
                "drain_bank": Out(1),
                "drain_row": Out(bits_for(config.tile_rows - 1)),
                "drain_group": Out(max(1, bits_for(config.segments - 1))),
                "drain_data": In(32 * config.lanes),
                "table_valid": In(1),
                "table_slot": In(1),
                "table_beat": In(4),
                "table_data": In(128),
            }
        )

    def leaves(self) -> dict[str, str]:
        """Verilog of the memory of row shifts by module name."""
        if not self.config.softmax_fractional:
            return {}
        shape = (ROW_SHIFT_SLOTS * self.config.shift_words, SHIFT_BITS, SHIFT_BITS)
        return {ram_name(*shape, bank=True): ram_verilog(*shape, bank=True)}

    def _row_shift(self, m: Module, command: Signal, row: Signal) -> Signal:
        """The shift of the row issued ACCUMULATOR_LATENCY + ROW_SHIFT_DELAY cycles ago."""
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
        wait = ACCUMULATOR_LATENCY + requantise.ROW_SHIFT_DELAY - 3
        early = delay(m, Mux(used, bank.read_data, 0), wait + 1, "row_shift")
        return register(m, early, "row_shift", reset=True)

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        lanes = config.lanes
        command = Signal.like(self.i_command.payload, name="command")
        m.submodules.constant_loader = loader = ConstantLoader(
            config, settle=ACCUMULATOR_LATENCY + requantise.LATENCY
        )
        wiring.connect(m, wiring.flipped(self.i_constants), loader.i_stream)

        # Banks that hold a complete tile.
        complete = Signal(2, name="complete")
        for b in range(2):
            with m.If(self.bank_complete[b]):
                m.d.sync += complete[b].eq(1)
            with m.If(self.bank_release[b]):
                m.d.sync += complete[b].eq(0)

        active = Signal(name="active")  # a group is being issued
        bank = Signal(name="bank")
        tile = Signal(16, name="tile")
        group = Signal(max(1, bits_for(config.segments - 1)), name="group")
        row = Signal(12, name="row")
        columns_left = Signal(16, name="columns_left")
        slice_base = Signal(WORD_ADDRESS_BITS, name="slice_base")
        half = Signal(name="half")

        # the command's mode
        wide = Signal(name="wide")
        residual = Signal(name="residual")

        # Issue.
        address = Signal(WORD_ADDRESS_BITS, name="address")  # slice_base + row
        issue = Signal(name="issue")
        m.d.comb += [
            self.read.valid.eq(active & residual),
            self.read.address.eq(address),
            issue.eq(active & (~residual | self.read.ready)),
            self.drain_bank.eq(bank),
            self.drain_row.eq(row),
            self.drain_group.eq(group),
        ]
        last_group = group == config.segments - 1
        # Where the counters stand at their ends is known ahead, in registers.
        last_row = Signal(name="last_row")
        single_row = Signal(name="single_row")
        before_last_row = Signal(12, name="before_last_row")
        ending_row = Signal(12, name="ending_row")
        last_tile = register(m, tile == command.tiles - 1, "last_tile")
        # columns left for this group, for the next one
        group_valid = Signal(name="group_valid")
        more = Signal(name="more")

        # The bank is released when 2 R rows of its last group are left (one is read per cycle). The
        # next tile's first pass writes its row r more than R cycles after the release and reads
        # nothing; its second pass, the first to use the read port, comes at least another R cycles
        # later whatever its number of rows, for the weights of a pass take R cycles to load. A
        # residual read may stall; then the bank is released after the last row.
        released = Signal(name="released")
        last_issue = Signal(name="last_issue")  # of the command
        pipeline_busy = Signal(name="pipeline_busy")

        with m.FSM(name="drain"):
            with m.State("Idle"):
                m.d.comb += self.i_command.ready.eq(~pipeline_busy)
                with m.If(self.i_command.valid & ~pipeline_busy):
                    given = self.i_command.payload
                    m.d.sync += [
                        command.eq(given),
                        residual.eq(given.mode == DrainMode.RESIDUAL),
                        wide.eq(
                            (given.mode == DrainMode.RESIDUAL) | (given.mode == DrainMode.WIDE)
                        ),
                        tile.eq(0),
                        group.eq(0),
                        columns_left.eq(given.columns),
                        group_valid.eq(given.columns != 0),
                        more.eq(given.columns > lanes),
                        slice_base.eq(given.destination),
                        half.eq(0),
                        single_row.eq(given.rows == 1),
                        before_last_row.eq(given.rows - 2),
                        ending_row.eq(
                            Mux(
                                given.rows > 2 * config.rows,
                                (given.rows - 2 * config.rows)[: len(row)],
                                0,
                            )
                        ),
                    ]
                    m.next = "Group"
            # Take the constants of the next group; groups beyond the columns only consume theirs.
            with (
                m.State("Group"),
                m.If(loader.loaded & complete.bit_select(bank, 1)),
            ):
                m.d.comb += loader.take.eq(1)
                with m.If(group_valid):
                    m.d.sync += [
                        active.eq(1),
                        row.eq(0),
                        address.eq(slice_base),
                        last_row.eq(single_row),
                    ]
                    m.next = "Rows"
                with m.Else():
                    m.next = "Next"
            with m.State("Rows"), m.If(issue):
                m.d.sync += [
                    row.eq(row + 1),
                    address.eq(address + 1),
                    last_row.eq(row == before_last_row),
                ]
                ending = row >= ending_row
                with m.If(last_group & ending & ~residual & ~released):
                    m.d.comb += self.bank_release.bit_select(bank, 1).eq(1)
                    m.d.sync += released.eq(1)
                with m.If(last_row):
                    m.d.sync += [active.eq(0), half.eq(~half)]
                    m.d.sync += [
                        columns_left.eq(Mux(more, columns_left - lanes, 0)),
                        group_valid.eq(more),
                        more.eq(columns_left > 2 * lanes),
                    ]
                    next_base = Mux(wide | half, slice_base + command.stride, slice_base)
                    m.d.sync += slice_base.eq(next_base)
                    # Straight on to the next group when its constants are there.
                    with m.If(~last_group & loader.loaded & more):
                        m.d.comb += loader.take.eq(1)
                        m.d.sync += [
                            active.eq(1),
                            row.eq(0),
                            address.eq(next_base),
                            last_row.eq(single_row),
                            group.eq(group + 1),
                        ]
                    with m.Else():
                        m.next = "Next"
            with m.State("Next"):
                with m.If(last_group):
                    with m.If(~released):
                        m.d.comb += self.bank_release.bit_select(bank, 1).eq(1)
                    m.d.sync += [released.eq(0), bank.eq(~bank), group.eq(0), tile.eq(tile + 1)]
                    with m.If(last_tile):
                        m.d.comb += last_issue.eq(1)
                        m.next = "Idle"
                    with m.Else():
                        m.next = "Group"
                with m.Else():
                    m.d.sync += group.eq(group + 1)
                    m.next = "Group"

        # Bookkeeping through the pipeline: accumulators, requantise, table.
        tag_layout = data.StructLayout(
            {"valid": 1, "half": 1, "set": 1, "address": WORD_ADDRESS_BITS, "last": 1}
        )
        tag = Signal(tag_layout, name="tag")
        m.d.comb += [
            tag.valid.eq(issue),
            tag.half.eq(half),
            tag.set.eq(loader.set_index),
            tag.address.eq(address),
            tag.last.eq(last_issue),
        ]
        depth = self.PIPELINE
        stages = [tag]
        for d in range(depth):
            stage = Signal(tag_layout, name=f"stage_{d}")
            m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        # Nothing is issued in the state that asks.
        m.d.comb += pipeline_busy.eq(Cat(s.valid | s.last for s in stages[1:]).any())

        # The residual word arrives READ_LATENCY cycles after the issue, is needed later.
        at_lanes = ACCUMULATOR_LATENCY
        wait = at_lanes + requantise.RESIDUAL_DELAY - READ_LATENCY
        word = self.read.data
        for d in range(wait):
            step = Signal(config.word_bits, name=f"residual_{d}", reset_less=True)
            m.d.sync += step.eq(word)
            word = step

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
                unit.accumulator.eq(self.drain_data.word_select(lane, 32)),
                unit.constant_set.eq(stages[at_lanes].set),
                unit.constants.eq(loader.constants[lane]),
                unit.wide.eq(wide),
                unit.residual.eq(Mux(residual, word.word_select(lane, 16), 0)),
                unit.zero_point.eq(command.zero_point),
                unit.low.eq(command.low),
                unit.high.eq(command.high),
                table.code.eq(unit.code),
                table.slot.eq(command.slot),
                table.write_valid.eq(self.table_valid),
                table.write_slot.eq(self.table_slot),
                table.write_beat.eq(self.table_beat),
                table.write_data.eq(self.table_data),
            ]
            codes.append(unit.code)
            values.append(table.value)

        # Write. The plain modes wait two cycles beside the table so that all modes share one
        # latency.
        plain = Signal(16 * lanes, reset_less=True, name="plain")
        plain_2 = Signal(16 * lanes, reset_less=True, name="plain_2")
        m.d.sync += [plain.eq(Cat(codes)), plain_2.eq(plain)]
        out = stages[depth]
        bytes_8 = Signal(8 * lanes, name="bytes_8")
        m.d.comb += bytes_8.eq(
            Mux(
                command.mode == DrainMode.TABLE,
                Cat(values),
                Cat(plain_2[16 * lane : 16 * lane + 8] for lane in range(lanes)),
            )
        )
        m.d.sync += [
            self.write.valid.eq(out.valid),
            self.write.address.eq(out.address),
            self.write.data.eq(Mux(wide, plain_2, Cat(bytes_8, bytes_8))),
            self.write.enable.eq(
                Mux(
                    wide,
                    (1 << config.rows) - 1,
                    Mux(out.half, ((1 << lanes) - 1) << lanes, (1 << lanes) - 1),
                )
            ),
        ]
        finished = Signal(name="finished")
        m.d.sync += [finished.eq(out.last), self.done.eq(finished)]
        return m
