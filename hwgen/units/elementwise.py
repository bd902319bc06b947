# SPDX-License-Identifier: Apache-2.0
"""Element-wise functions alone: lanes of the drain's table with the table in the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Elaboratable, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.numerics.elementwise import TABLE_ENTRIES, apply_table
from hwgen.rtl.elementwise import WRITTEN_ENTRIES, ElementwiseLane
from hwgen.rtl.pipeline import Credits, Fifo, delay
from hwgen.timings import TABLE_LATENCY
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer

#: Bytes of a beat of the table.
BEAT_BYTES = 16


class ElementwiseTop(wiring.Component):
    """``lanes`` lanes with two tables each, one code per lane and cycle, TABLE_LATENCY + 1 cycles.

    ``i_stream``: max(16, lanes) bytes, 4 bits ``beat``, 1 bit ``slot``, 1 bit ``table``. ``table``:
    16 bytes of the table in ``slot``, entries ``16 beat`` and up, where entry i belongs to code i -
    128; otherwise codes of the lanes, looked up in ``slot``. A table write holds for the words
    after it; it takes four cycles. ``o_stream``: a byte per lane, in order.

    Back-pressure: ``o_stream`` may stall at will; ``i_stream.ready`` does not depend on
    ``i_stream.valid``.
    """

    def __init__(self, lanes: int) -> None:
        """Declare the ports."""
        self.lanes = lanes
        super().__init__(
            {
                "i_stream": In(
                    stream.Signature(
                        data.StructLayout(
                            {"data": 8 * max(BEAT_BYTES, lanes), "beat": 4, "slot": 1, "table": 1}
                        )
                    )
                ),
                "o_stream": Out(stream.Signature(data.ArrayLayout(8, lanes))),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        """Lanes between credits and a queue."""
        m = Module()
        payload = self.i_stream.payload
        depth = 16  # covers the round trip of a credit: latency, queue, counter
        m.submodules.room = room = Credits(depth)
        m.submodules.outputs = outputs = Fifo(data.ArrayLayout(8, self.lanes), depth)
        taken = Signal(name="taken")
        write = Signal(name="write")
        part = Signal(exact_log2(BEAT_BYTES // WRITTEN_ENTRIES), name="part")  # of a table's beat
        with m.If(write):
            m.d.sync += part.eq(part + 1)
        m.d.comb += [
            self.i_stream.ready.eq(room.available & (~payload.table | part.all())),
            taken.eq(self.i_stream.valid & room.available & ~payload.table),
            write.eq(self.i_stream.valid & room.available & payload.table),
            room.take.eq(taken),
            room.give.eq(self.o_stream.valid & self.o_stream.ready),
            outputs.i_valid.eq(delay(m, taken, TABLE_LATENCY, "result_valid", reset=True)),
        ]
        for i in range(self.lanes):
            m.submodules[f"lane_{i}"] = lane = ElementwiseLane()
            m.d.comb += [
                lane.code.eq(payload.data.word_select(i, 8)),
                lane.slot.eq(payload.slot),
                lane.write_valid.eq(write),
                lane.write_slot.eq(payload.slot),
                lane.write_index.eq(Cat(part, payload.beat)),
                lane.write_data.eq(payload.data.word_select(part, 8 * WRITTEN_ENTRIES)),
                outputs.i_payload[i].eq(lane.value),
            ]
        wiring.connect(m, wiring.flipped(self.o_stream), outputs.o_stream)
        return m


class _ElementwiseUnit(Unit):
    """The table, then all codes in the order of memory."""

    name = "elementwise"
    doc = (
        "Any function of int8 codes (GELU), y = table[code + 128], exact. `lanes` codes per "
        "cycle; the table is written through the same stream."
    )
    parameters = (
        Parameter(
            name="lanes", default=16, minimum=1, maximum=256, build=True, doc="codes per cycle"
        ),
    )
    inputs = (
        Entry(name="codes", axes=("M", "N"), dtypes=("int8",)),
        Entry(name="table", axes=(TABLE_ENTRIES,), dtypes=("int8",), doc="entry 0 is of code -128"),
    )
    outputs = (Entry(name="y", axes=("M", "N"), dtypes=("int8",)),)

    def component(self, values: Values) -> wiring.Component:
        """The lanes behind one stream."""
        return ElementwiseTop(integer(values, "lanes"))

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :func:`hwgen.numerics.elementwise.apply_table`."""
        return {"y": apply_table(vectors["codes"], vectors["table"])}

    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Sixteen beats of the table, then the codes."""
        lanes = integer(values, "lanes")
        width = max(BEAT_BYTES, lanes)
        beats = TABLE_ENTRIES // BEAT_BYTES
        codes = vectors["codes"].reshape(-1).view(np.uint8)
        count = -(-codes.size // lanes)
        words = np.zeros((beats + count, width + 1), np.uint8)
        words[:beats, :BEAT_BYTES] = vectors["table"].view(np.uint8).reshape(beats, BEAT_BYTES)
        words[:beats, -1] = np.arange(beats) | 0x20
        padded = np.pad(codes, (0, -codes.size % lanes)).reshape(count, lanes)
        words[beats:, :lanes] = padded
        return Words(words, count)

    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """Bytes in the order of the codes."""
        shape = vectors["codes"].shape
        return {"y": words.reshape(-1)[: np.prod(shape)].view(np.int8).reshape(shape)}


ELEMENTWISE = _ElementwiseUnit()
