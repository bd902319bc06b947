# SPDX-License-Identifier: Apache-2.0
"""Requantise alone: lanes of the drain's requantiser with their constants in the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.errors import UsageError
from hwgen.numerics.formats import check_range
from hwgen.numerics.requantise import BIASED_BITS, requantise, requantise_residual
from hwgen.rtl.pipeline import Credits, Fifo, delay
from hwgen.rtl.requantise import (
    ADDEND_DELAY,
    CONSTANTS,
    SWAP_LEAD,
    RequantiseLane,
)
from hwgen.timings import CONSTANTS_READ, REQUANTISE_LATENCY
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer, pad_axis

#: Bytes of a lane in the input word.
LANE_BYTES = 8
#: Cycles from a word's entry to its values at the lanes: their constants go ahead.
_LEAD = SWAP_LEAD + 1


class RequantiseTop(wiring.Component):
    """``lanes`` requantise lanes, one value per lane and cycle, REQUANTISE_LATENCY + 5 cycles.

    ``i_stream``: per lane 8 bytes, then a flag. ``constants``: the bytes are bias int32, multiplier
    uint16, shift uint8 and a zero, for the values behind them; otherwise they are an accumulator
    int32, a residual int16 and two zeros. Constants may come while values are inside; those that
    would overwrite what the lanes have yet to take wait. ``o_stream``: int16 per lane, in order.

    Back-pressure: ``o_stream`` may stall at will; ``i_stream.ready`` does not depend on
    ``i_stream.valid``.
    """

    def __init__(self, lanes: int) -> None:
        """Declare the ports."""
        self.lanes = lanes
        super().__init__(
            {
                "wide": In(1),
                "zero_point": In(signed(8)),
                "low": In(signed(8)),
                "high": In(signed(8)),
                "i_stream": In(
                    stream.Signature(
                        data.StructLayout(
                            {
                                "data": data.ArrayLayout(8 * LANE_BYTES, lanes),
                                "constants": 1,
                            }
                        )
                    )
                ),
                "o_stream": Out(stream.Signature(data.ArrayLayout(signed(16), lanes))),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        """Lanes between credits and a queue."""
        m = Module()
        payload = self.i_stream.payload
        depth = 32  # covers the round trip of a credit: latency, queue, counter
        m.submodules.room = room = Credits(depth)
        m.submodules.outputs = outputs = Fifo(data.ArrayLayout(signed(16), self.lanes), depth)

        taken = Signal(name="taken")
        loaded = Signal(name="loaded")
        fresh = Signal(name="fresh")  # constants that no value has come for
        swap = Signal(name="swap")
        # The lanes take their constants one after the other.
        taking = Signal(SWAP_LEAD + CONSTANTS_READ, name="taking")
        m.d.comb += [
            self.i_stream.ready.eq(room.available & ~(payload.constants & taking.any())),
            taken.eq(self.i_stream.valid & self.i_stream.ready & ~payload.constants),
            loaded.eq(self.i_stream.valid & self.i_stream.ready & payload.constants),
            room.take.eq(taken),
            room.give.eq(self.o_stream.valid & self.o_stream.ready),
            swap.eq(taking[0]),
        ]
        m.d.sync += taking.eq(Cat(taken & fresh, taking[:-1]))
        with m.If(loaded):
            m.d.sync += fresh.eq(1)
        with m.Elif(taken):
            m.d.sync += fresh.eq(0)
        valid = delay(m, taken, _LEAD + REQUANTISE_LATENCY, "valid", reset=True)
        m.d.comb += outputs.i_valid.eq(valid)
        for i in range(self.lanes):
            m.submodules[f"lane_{i}"] = lane = RequantiseLane()
            given = payload.data[i]
            constants = Signal(CONSTANTS, name=f"constants_{i}")
            with m.If(loaded):
                m.d.sync += [
                    constants.bias.eq(given[:32]),
                    constants.multiplier.eq(given[32:48]),
                    constants.shift.eq(given[48:54]),
                ]
            residual = delay(m, given[32:48], _LEAD + ADDEND_DELAY, f"residual_{i}")
            m.d.comb += [
                lane.accumulator.eq(delay(m, given[:32], _LEAD, f"accumulator_{i}")),
                lane.swap.eq(swap),
                lane.constants.eq(constants),
                lane.wide.eq(self.wide),
                lane.addend.eq(Mux(self.wide, residual.as_signed(), self.zero_point)),
                lane.low.eq(self.low),
                lane.high.eq(self.high),
                outputs.i_payload[i].eq(lane.code),
            ]
        wiring.connect(m, wiring.flipped(self.o_stream), outputs.o_stream)
        return m


class _RequantiseUnit(Unit):
    """Block of columns by block of columns; the next block's constants load beside the values."""

    name = "requantise"
    doc = (
        "int32 accumulators, of 27 bits with their bias, to int8 codes, "
        "clip(rshr((acc + bias) * multiplier, shift) + zero_point, low, high), or with `residual` "
        "to int16, clip(rshr((acc + bias) * multiplier, shift) + residual). `lanes` values per "
        "cycle; constants per column."
    )
    parameters = (
        Parameter(
            name="zero_point", default=0, minimum=-128, maximum=127, doc="zero point of the codes"
        ),
        Parameter(name="low", default=-128, minimum=-128, maximum=127, doc="lower clip"),
        Parameter(name="high", default=127, minimum=-128, maximum=127, doc="upper clip"),
        Parameter(
            name="lanes", default=8, minimum=1, maximum=256, build=True, doc="values per cycle"
        ),
    )
    inputs = (
        Entry(name="accumulators", axes=("M", "N"), dtypes=("int32",)),
        Entry(name="bias", axes=("N",), dtypes=("int32",)),
        Entry(name="multiplier", axes=("N",), dtypes=("uint16",), doc="0 or 2^15..2^16-1"),
        Entry(name="shift", axes=("N",), dtypes=("uint8",), doc="1..47"),
        Entry(name="residual", axes=("M", "N"), dtypes=("int16",), optional=True),
    )
    outputs = (Entry(name="codes", axes=("M", "N"), dtypes=("int8", "int16")),)

    def check_together(self, values: Values) -> None:
        """The clip's bounds must be in order."""
        low, high = integer(values, "low"), integer(values, "high")
        if low > high:
            raise UsageError(f"--high must be at least --low ({low}), not {high}", nearest=low)

    def component(self, values: Values) -> wiring.Component:
        """The lanes behind one stream."""
        return RequantiseTop(integer(values, "lanes"))

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :mod:`hwgen.numerics.requantise`."""
        constants = {name: vectors[name] for name in ("bias", "multiplier", "shift")}
        accumulators = vectors["accumulators"]
        limit = 1 << (BIASED_BITS - 1)
        biased = accumulators.astype(np.int64) + vectors["bias"].astype(np.int64)
        check_range(biased, -limit, limit - 1, "accumulators + bias")
        if "residual" in vectors:
            codes: npt.NDArray[Any] = requantise_residual(
                accumulators, residual=vectors["residual"], **constants
            )
            return {"codes": codes}
        return {
            "codes": requantise(
                accumulators,
                zero_point=integer(values, "zero_point"),
                low=integer(values, "low"),
                high=integer(values, "high"),
                **constants,
            )
        }

    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Per block of ``lanes`` columns: constants, then every row."""
        lanes = integer(values, "lanes")
        accumulators = vectors["accumulators"]
        rows, columns = accumulators.shape
        blocks = -(-columns // lanes)
        records = np.zeros((columns, LANE_BYTES), np.uint8)
        records[:, 0:4] = vectors["bias"].astype("<i4")[:, None].view(np.uint8)
        records[:, 4:6] = vectors["multiplier"].astype("<u2")[:, None].view(np.uint8)
        records[:, 6] = vectors["shift"]
        given = np.zeros((rows, columns, LANE_BYTES), np.uint8)
        given[:, :, 0:4] = accumulators.astype("<i4")[:, :, None].view(np.uint8)
        if "residual" in vectors:
            given[:, :, 4:6] = vectors["residual"].astype("<i2")[:, :, None].view(np.uint8)
        constants = pad_axis(records, 0, lanes).reshape(blocks, 1, lanes * LANE_BYTES)
        given = pad_axis(given, 1, lanes).reshape(rows, blocks, lanes * LANE_BYTES)
        words = np.zeros((blocks, 1 + rows, lanes * LANE_BYTES + 1), np.uint8)
        words[:, :1, :-1] = constants
        words[:, 1:, :-1] = given.transpose(1, 0, 2)
        words[:, 0, -1] = 1
        return Words(
            words.reshape(-1, lanes * LANE_BYTES + 1),
            blocks * rows,
            {
                "wide": int("residual" in vectors),
                "zero_point": integer(values, "zero_point"),
                "low": integer(values, "low"),
                "high": integer(values, "high"),
            },
        )

    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """int16 of the residual form, otherwise its low byte."""
        rows, columns = vectors["accumulators"].shape
        lanes = integer(values, "lanes")
        codes = np.ascontiguousarray(words).view("<i2").reshape(-1, rows, lanes)
        codes = codes.transpose(1, 0, 2).reshape(rows, -1)[:, :columns]
        return {"codes": codes.astype(np.int16 if "residual" in vectors else np.int8)}


REQUANTISE = _RequantiseUnit()
