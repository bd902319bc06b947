# SPDX-License-Identifier: Apache-2.0
"""DRAIN with an array that is a function: what an engine bench needs to give it work.

An accumulator is a hash of its tile, row and column (:func:`accumulators`), so that every wrong
bank, row, segment or lane shows. A tile is complete ``gap`` cycles after its predecessor has been
and its bank is free; behind a release a row of a bank is spoilt every cycle, and the bank is not
complete before all of them are.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.emit.verilog import convert
from hwgen.isa.instructions import BEAT_BYTES
from hwgen.numerics.requantise import BIASED_BITS
from hwgen.rtl.drain import DrainEngine
from hwgen.rtl.elementwise import INDEX_BITS, WRITTEN_ENTRIES
from hwgen.rtl.load import ConstantFifo
from hwgen.rtl.pipeline import delay
from hwgen.rtl.ports import ReadPort, WritePort, command_signature
from hwgen.sim.engine_bench import EngineBench, EngineScript
from hwgen.timings import ACCUMULATOR_LATENCY

_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_MIX = 0x2C1B3C6D
#: An accumulator has 26 bits: with a bias of as many it has the 27 that the lanes take.
_SPARE_BITS = 6


def accumulators(tile: int, rows: int, columns: int) -> npt.NDArray[np.int32]:
    """What the bench's array holds of its tile number ``tile``, int32 [rows, columns]."""
    row = np.arange(rows, dtype=np.uint32)[:, None] * np.uint32(_FACTORS[0])
    column = np.arange(columns, dtype=np.uint32) * np.uint32(_FACTORS[1])
    value = row + column + np.uint32(tile * _FACTORS[2] & 0xFFFF_FFFF)
    value ^= value >> np.uint32(15)
    value *= np.uint32(_MIX)
    value ^= value >> np.uint32(12)
    return value.view(np.int32) >> _SPARE_BITS


def _accumulator(tile: Value, row: Value, column: Value) -> Value:
    total = row * _FACTORS[0] + column * _FACTORS[1] + tile * _FACTORS[2]
    value = total[:32]
    value = ((value ^ (value >> 15)) * _MIX)[:32]
    value = value ^ (value >> 12)
    return (value.as_signed() >> _SPARE_BITS)[:32]


class Feed(IntEnum):
    """What a parameter is for: bits 9 and up of its index."""

    CONSTANTS = 0  #: 16 bytes of a wide beat; bits 0..2: which, 3: its last, 4: the tile's last
    TABLE = 1  #: bits 0..5: word of four entries, 6: slot
    ROW_SHIFT = 2  #: data: row, slot (bit 12), shift (from bit 13)
    TILES = 3  #: data: so many more tiles will be multiplied
    PACE = 4  #: data: gap (16 bits), pattern of the constants (Supply)


class Supply(IntEnum):
    """When a beat of constants is offered that is there."""

    ALWAYS = 0
    RANDOM = 1  #: in half of the cycles
    SLOW = 2  #: in a sixteenth


class DrainWithArray(wiring.Component):
    """What stands in an EngineBench: the engine, its constant FIFO, an array, a MATMUL engine."""

    def __init__(self, config: AcceleratorConfig) -> None:
        """Everything of one configuration."""
        self.config = config
        self.drain = DrainEngine(config)
        super().__init__(
            {
                "i_command": In(command_signature("DRAIN")),
                "done": Out(1),
                "read": Out(ReadPort(config.word_bits)),
                "write": Out(WritePort(config.word_bits)),
                "parameter_valid": In(1),
                "parameter_slot": In(1),
                "parameter_index": In(12),
                "parameter_data": In(128),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Feeds, constants, banks, the function."""
        m = Module()
        config, drain = self.config, self.drain
        lanes = config.requantise_lanes
        m.submodules.drain = drain
        m.submodules.fifo = fifo = ConstantFifo(config)
        for name in ("i_command", "read", "write"):
            outer = getattr(self, name)
            wiring.connect(m, wiring.flipped(outer), getattr(drain, name))
        m.d.comb += self.done.eq(drain.done)
        with m.If(~drain.write.ready & drain.write.valid):
            m.d.sync += self.fault.eq(1)  # the bench's: DRAIN's writes are never stalled

        index, given = self.parameter_index, self.parameter_data
        feed = {kind: Signal(name=f"feed_{kind.name.lower()}") for kind in Feed}
        for kind, valid in feed.items():
            m.d.comb += valid.eq(self.parameter_valid & (index[9:] == kind))
        m.d.comb += [
            drain.table_valid.eq(feed[Feed.TABLE]),
            drain.table_index.eq(index[:6]),
            drain.table_slot.eq(index[6]),
            drain.table_data.eq(given),
        ]
        if config.softmax_fractional:
            m.d.comb += [
                drain.row_shifts.valid.eq(feed[Feed.ROW_SHIFT]),
                drain.row_shifts.row.eq(given[:12]),
                drain.row_shifts.slot.eq(given[12]),
                drain.row_shifts.shift.eq(given[13:]),
            ]

        # Constants.
        noise = Signal(32, init=0xBADC_0FFE)
        m.d.sync += noise.eq(Cat(noise[1:], 0) ^ (noise[0].replicate(32) & 0xA300_0000))
        beat = Signal(config.wide_beat_bits)
        push = Signal()
        last = Signal()
        with m.If(feed[Feed.CONSTANTS]):
            m.d.sync += beat.word_select(index[:3], 128).eq(given)
        m.d.sync += [push.eq(feed[Feed.CONSTANTS] & index[3]), last.eq(index[4])]
        m.d.comb += [
            fifo.i_stream.valid.eq(push),
            fifo.i_stream.payload.data.eq(beat),
            fifo.i_stream.payload.last.eq(last),
        ]
        with m.If(push & ~fifo.i_stream.ready):
            m.d.sync += self.fault.eq(1)
        gap, supply = Signal(16), Signal(2)
        held, offered = Signal(), Signal()
        taps = Cat(noise[5], noise[11], noise[20], noise[27])
        chance = Mux(supply == Supply.SLOW, taps.all(), noise[5] | (supply == Supply.ALWAYS))
        m.d.sync += held.eq(offered & ~drain.i_constants.ready)
        m.d.comb += [
            offered.eq(fifo.o_stream.valid & (held | chance)),
            drain.i_constants.valid.eq(offered),
            drain.i_constants.payload.eq(
                Mux(offered, fifo.o_stream.payload.as_value(), noise.replicate(32))
            ),
            fifo.o_stream.ready.eq(offered & drain.i_constants.ready),
        ]

        # Banks. `age`: cycles since the release.
        good = config.tile_rows
        full = Signal(2)
        number = [Signal(16, name=f"number_{b}") for b in range(2)]
        age = [Signal(range(good + 1), init=good, name=f"age_{b}") for b in range(2)]
        for b in range(2):
            with m.If(age[b] != good):
                m.d.sync += age[b].eq(age[b] + 1)
            with m.If(drain.bank_release[b]):
                m.d.sync += [full[b].eq(0), age[b].eq(1)]
                with m.If(~full[b]):
                    m.d.sync += self.fault.eq(1)
        bank, tile, tiles, countdown = Signal(), Signal(16), Signal(16), Signal(16)
        with m.If(feed[Feed.TILES]):
            m.d.sync += tiles.eq(tiles + given)
        with m.If(~full.bit_select(bank, 1)):
            with m.If(countdown != 0):
                m.d.sync += countdown.eq(countdown - 1)
            with m.Elif((tile != tiles) & (Mux(bank, age[1], age[0]) == good)):
                m.d.comb += drain.bank_complete.bit_select(bank, 1).eq(1)
                m.d.sync += [
                    full.bit_select(bank, 1).eq(1),
                    bank.eq(~bank),
                    tile.eq(tile + 1),
                    countdown.eq(gap),
                ]
                for b in range(2):
                    with m.If(bank == b):
                        m.d.sync += number[b].eq(tile)

        with m.If(feed[Feed.PACE]):
            m.d.sync += Cat(gap, supply).eq(given)
            m.d.sync += countdown.eq(0)

        # The array.
        there = Mux(
            drain.drain_bank,
            full[1] | (age[1] <= drain.drain_row),
            full[0] | (age[0] <= drain.drain_row),
        )
        tile_read = delay(m, Mux(drain.drain_bank, number[1], number[0]), 1, "tile_read")
        row = delay(m, drain.drain_row, 1, "row_read")
        segment = delay(m, drain.drain_segment, 1, "segment_read")
        offset = delay(m, drain.drain_offset, 1, "offset_read")
        there = delay(m, there, 1, "there")
        values = []
        for lane in range(lanes):
            from_segment = Signal(range(config.segments + 2), name=f"segment_{lane}")
            m.d.comb += from_segment.eq(segment + (offset > lane if lane < lanes - 1 else 0))
            column = Cat(Const(lane, (lanes - 1).bit_length()), from_segment)
            value = _accumulator(tile_read, row, column)
            values.append(Mux(there & (column < config.columns), value, ~value)[:BIASED_BITS])
        m.d.comb += drain.drain_data.eq(delay(m, Cat(values), ACCUMULATOR_LATENCY - 1, "drained"))
        return m


def emit_drain_bench(config: AcceleratorConfig, bank_words: int) -> str:
    """Verilog of the bench around DRAIN."""
    unit = DrainWithArray(config)
    bench = EngineBench(unit, "DRAIN", bank_words)
    text = convert(bench, "bench")
    return "\n".join([text, *unit.drain.leaves().values()])


class DrainScript(EngineScript):
    """Items for a bench of :func:`emit_drain_bench`."""

    def __init__(self, config: AcceleratorConfig) -> None:
        """Begin an empty script."""
        super().__init__("DRAIN", config.rows)
        self.config = config

    def _feed(self, kind: Feed, number: int, value: int) -> None:
        self.parameters(0, [(kind << 9 | number, value)])

    def constants(self, records: npt.NDArray[np.uint8]) -> None:
        """Give the constants of a tile, uint8 [columns, 8], padded to wide beats."""
        parts = self.config.memory_ports
        data = records.tobytes()
        data += bytes(-len(data) % (BEAT_BYTES * parts))
        beats = len(data) // BEAT_BYTES
        for beat in range(beats):
            part = beat % parts
            number = part | (part == parts - 1) << 3 | (beat == beats - 1) << 4
            value = int.from_bytes(data[BEAT_BYTES * beat :][:BEAT_BYTES], "little")
            self._feed(Feed.CONSTANTS, number, value)

    def table(self, slot: int, table: npt.NDArray[np.int8]) -> None:
        """Load a table, int8 [256]."""
        for word, entries in enumerate(table.view(np.uint8).reshape(-1, WRITTEN_ENTRIES)):
            value = int.from_bytes(entries.tobytes(), "little")
            self._feed(Feed.TABLE, word | slot << INDEX_BITS, value)

    def row_shifts(self, slot: int, shifts: npt.NDArray[Any]) -> None:
        """Write a slot of row shifts."""
        for row, shift in enumerate(shifts):
            self._feed(Feed.ROW_SHIFT, 0, row | slot << 12 | int(shift) << 13)

    def pace(self, gap: int, supply: Supply) -> None:
        """Say how fast tiles and constants come."""
        self._feed(Feed.PACE, 0, gap | supply << 16)

    def tiles(self, count: int) -> None:
        """Let so many more tiles be multiplied."""
        self._feed(Feed.TILES, 0, count)
