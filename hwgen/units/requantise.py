# SPDX-License-Identifier: Apache-2.0
"""Requantise alone: lanes of the drain's requantiser with their constants in the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Elaboratable, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.errors import UsageError
from hwgen.numerics.requantise import requantise, requantise_residual
from hwgen.rtl.pipeline import Credits, Fifo, delay, register
from hwgen.rtl.requantise import CONSTANTS, LATENCY, RESIDUAL_DELAY, RequantiseLane
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer, pad_axis

#: Bytes of a lane in the input word.
LANE_BYTES = 8
#: Cycles after its entry in which a value no longer reads its set of constants.
_CONSTANTS_READ = 3


class RequantiseTop(wiring.Component):
    """``lanes`` requantise lanes, one value per lane and cycle, :data:`LATENCY` + 3 cycles.

    ``i_stream``: per lane 8 bytes, then two flags. ``constants``: the bytes are bias int32,
    multiplier uint16, shift uint8 and a zero, and are kept as set ``set`` of the lanes; otherwise
    they are an accumulator int32, a residual int16 and two zeros, requantised with that set. One
    set can be loaded while the other is in use; a word that would overwrite constants in use waits.
    ``o_stream``: int16 per lane, in order.

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
                                "set": 1,
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
        depth = 16  # covers the round trip of a credit: latency, queue, counter
        m.submodules.room = room = Credits(depth)
        m.submodules.outputs = outputs = Fifo(data.ArrayLayout(signed(16), self.lanes), depth)

        taken = Signal(name="taken")
        loaded = Signal(name="loaded")
        in_use = [Signal(_CONSTANTS_READ, name=f"in_use_{s}") for s in range(2)]
        busy = Signal(name="busy")
        m.d.comb += [
            busy.eq((in_use[0].any() & ~payload.set) | (in_use[1].any() & payload.set)),
            self.i_stream.ready.eq(room.available & ~(payload.constants & busy)),
            taken.eq(self.i_stream.valid & self.i_stream.ready & ~payload.constants),
            loaded.eq(self.i_stream.valid & self.i_stream.ready & payload.constants),
            room.take.eq(taken),
            room.give.eq(self.o_stream.valid & self.o_stream.ready),
        ]
        valid = register(m, taken, "valid", reset=True)
        which = register(m, payload.set, "set")
        for s in range(2):
            m.d.sync += in_use[s].eq(Cat(taken & (payload.set == s), in_use[s][:-1]))
        m.d.comb += outputs.i_valid.eq(delay(m, valid, LATENCY, "result_valid", reset=True))
        for i in range(self.lanes):
            m.submodules[f"lane_{i}"] = lane = RequantiseLane()
            given = payload.data[i]
            constants = Signal(data.ArrayLayout(CONSTANTS, 2), name=f"constants_{i}")
            for s in range(2):
                with m.If(loaded & (payload.set == s)):
                    m.d.sync += [
                        constants[s].bias.eq(given[:32]),
                        constants[s].multiplier.eq(given[32:48]),
                        constants[s].shift.eq(given[48:54]),
                    ]
            residual = register(m, given[32:48], f"residual_{i}")
            m.d.comb += [
                lane.accumulator.eq(register(m, given[:32], f"accumulator_{i}")),
                lane.constant_set.eq(which),
                lane.constants.eq(constants),
                lane.wide.eq(self.wide),
                lane.residual.eq(delay(m, residual, RESIDUAL_DELAY, f"residual_{i}")),
                lane.zero_point.eq(self.zero_point),
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
        "int32 accumulators to int8 codes, clip(rshr((acc + bias) * multiplier, shift) + "
        "zero_point, low, high), or with `residual` to int16, clip(rshr((acc + bias) * "
        "multiplier, shift) + residual). `lanes` values per cycle; constants per column."
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
        words[1::2, :, -1] |= 2
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
