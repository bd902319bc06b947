# SPDX-License-Identifier: Apache-2.0
"""AILayerNorm alone: the parameters of its channels and rows of uint8 codes through one stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth import Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from hwgen.numerics.ailayernorm import (
    BETA_FRACTION_BITS_MAXIMUM,
    GAMMA_SHIFT_MAXIMUM,
    ailayernorm,
)
from hwgen.rtl.ailayernorm import AILayerNorm
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer, pad_axis

#: Bytes of the record of a channel: beta int24, gamma int8, alpha, zeros.
RECORD_BYTES = 8


class AILayerNormTop(wiring.Component):
    """The core with its parameters in the stream.

    ``i_stream``: ``lanes`` bytes and two flags. ``parameters``: the bytes are ``lanes / 8`` records
    of 8 bytes (beta int24, gamma int8, alpha, zeros) of the next channels, from channel 0;
    otherwise they are the codes of the next ``lanes`` channels of a row. ``last`` ends the
    parameters or the row. Parameters must not come while rows are inside. Static inputs as in the
    core.
    """

    def __init__(self, lanes: int, max_channels: int) -> None:
        """Declare the ports."""
        self.lanes = lanes
        self.core = core = AILayerNorm(lanes, max_channels)
        super().__init__(
            {
                "channels": In(bits_for(max_channels)),
                "zero_point": In(8),
                "gamma_shift": In(4),
                "beta_fraction_bits": In(4),
                "output_zero_point": In(signed(8)),
                "exact": In(1),
                "i_stream": In(
                    stream.Signature(
                        data.StructLayout({"data": 8 * lanes, "parameters": 1, "last": 1})
                    )
                ),
                "o_stream": Out(core.o_stream.signature),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        """Settings through, parameters by beat count, rows through."""
        m = Module()
        m.submodules.core = core = self.core
        for name in (
            "channels",
            "zero_point",
            "gamma_shift",
            "beta_fraction_bits",
            "output_zero_point",
            "exact",
        ):
            m.d.comb += getattr(core, name).eq(getattr(self, name))
        wiring.connect(m, wiring.flipped(self.o_stream), core.o_stream)

        payload = self.i_stream.payload
        records = self.lanes // RECORD_BYTES  # of a beat
        beats = exact_log2(RECORD_BYTES)  # of a group, as a power of two
        beat = Signal(beats + len(core.parameters.group), name="beat")
        write = Signal(name="write")
        m.d.comb += [
            core.i_stream.payload.x.eq(payload.data),
            core.i_stream.payload.last.eq(payload.last),
            core.i_stream.valid.eq(self.i_stream.valid & ~payload.parameters),
            self.i_stream.ready.eq(payload.parameters | core.i_stream.ready),
            write.eq(self.i_stream.valid & payload.parameters),
            core.parameters_valid.eq(write),
            core.parameters.group.eq(beat[beats:]),
        ]
        for lane in range(self.lanes):
            record = payload.data.word_select(lane % records, 8 * RECORD_BYTES)
            target = core.parameters.data[lane]
            m.d.comb += [
                target.beta.eq(record[:24]),
                target.gamma.eq(record[24:32]),
                target.alpha.eq(record[32:34]),
                core.parameters.enable[lane].eq(beat[:beats] == lane // records),
            ]
        with m.If(write):
            m.d.sync += beat.eq(Mux(payload.last, 0, beat + 1))
        return m


class _AILayerNormUnit(Unit):
    """Rows after the parameters of their channels."""

    name = "ailayernorm"
    doc = (
        "LayerNorm on 8-bit power-of-two-factor codes with compressed squares and no divider "
        "(SOLE, ICCAD 2023). Takes and returns `lanes` channels per cycle for rows of 8 to "
        "`max_channels` channels. The channels' parameters come through the same stream before "
        "the rows."
    )
    parameters = (
        Parameter(name="zero_point", default=128, minimum=0, maximum=255, doc="zero point of x"),
        Parameter(
            name="gamma_shift",
            default=6,
            minimum=0,
            maximum=GAMMA_SHIFT_MAXIMUM,
            doc="gamma has the scale s_out 2^-gamma_shift",
        ),
        Parameter(
            name="beta_fraction_bits",
            default=8,
            minimum=0,
            maximum=BETA_FRACTION_BITS_MAXIMUM,
            doc="beta has the scale s_out 2^-beta_fraction_bits",
        ),
        Parameter(
            name="output_zero_point", default=0, minimum=-128, maximum=127, doc="zero point of y"
        ),
        Parameter(
            name="squares",
            default="compressed",
            choices=("compressed", "exact"),
            doc="how squares enter the variance: four significant bits, or all",
        ),
        Parameter(
            name="lanes",
            default=16,
            minimum=8,
            maximum=64,
            power_of_two=True,
            build=True,
            doc="channels per cycle; no part of the function",
        ),
        Parameter(
            name="max_channels",
            default=1024,
            minimum=8,
            maximum=16384,
            build=True,
            doc="widest row that the hardware takes",
        ),
    )
    inputs = (
        Entry(name="x", axes=("rows", "C"), dtypes=("uint8",)),
        Entry(name="alpha", axes=("C",), doc="0..3"),
        Entry(name="gamma", axes=("C",), doc="-127..127"),
        Entry(name="beta", axes=("C",), doc="signed 24 bits"),
    )
    outputs = (Entry(name="y", axes=("rows", "C"), dtypes=("int8",)),)

    def component(self, values: Values) -> wiring.Component:
        """The core behind one stream."""
        return AILayerNormTop(integer(values, "lanes"), integer(values, "max_channels"))

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :func:`hwgen.numerics.ailayernorm.ailayernorm`."""
        return {
            "y": ailayernorm(
                vectors["x"],
                alpha=vectors["alpha"],
                gamma=vectors["gamma"],
                beta=vectors["beta"],
                zero_point=integer(values, "zero_point"),
                gamma_shift=integer(values, "gamma_shift"),
                beta_fraction_bits=integer(values, "beta_fraction_bits"),
                output_zero_point=integer(values, "output_zero_point"),
                squares="exact" if values["squares"] == "exact" else "compressed",
                max_channels=integer(values, "max_channels"),
            )
        }

    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Beats of parameter records, then the groups of every row."""
        lanes = integer(values, "lanes")
        x = vectors["x"]
        rows, channels = x.shape
        records = np.zeros((channels, RECORD_BYTES), np.uint8)
        beta = vectors["beta"].astype(np.int64) & 0xFFFFFF
        for byte in range(3):
            records[:, byte] = (beta >> (8 * byte)) & 0xFF
        records[:, 3] = vectors["gamma"].astype(np.int64) & 0xFF
        records[:, 4] = vectors["alpha"]
        beats = pad_axis(records.reshape(1, -1), 1, lanes).reshape(-1, lanes)
        # Lanes beyond the row hold what the unit must ignore.
        groups = np.pad(x, ((0, 0), (0, -channels % lanes)), constant_values=255)
        groups = groups.reshape(-1, lanes)
        words = np.zeros((len(beats) + len(groups), lanes + 1), np.uint8)
        words[: len(beats), :lanes] = beats
        words[: len(beats), lanes] = 1
        words[len(beats) - 1, lanes] |= 2
        words[len(beats) :, :lanes] = groups
        per_row = -(-channels // lanes)
        words[len(beats) + per_row - 1 :: per_row, lanes] |= 2
        configuration = {
            "channels": channels,
            "zero_point": integer(values, "zero_point"),
            "gamma_shift": integer(values, "gamma_shift"),
            "beta_fraction_bits": integer(values, "beta_fraction_bits"),
            "output_zero_point": integer(values, "output_zero_point"),
            "exact": int(values["squares"] == "exact"),
        }
        return Words(words, rows * per_row, configuration)

    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """Codes without the lanes beyond the row."""
        rows, channels = vectors["x"].shape
        y = words[:, : integer(values, "lanes")].reshape(rows, -1)
        return {"y": np.ascontiguousarray(y[:, :channels]).view(np.int8)}


AILAYERNORM = _AILayerNormUnit()
