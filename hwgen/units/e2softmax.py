# SPDX-License-Identifier: Apache-2.0
"""E2Softmax alone: rows of int8 logits, one slice of ``vec`` per cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth.lib import wiring

from hwgen.numerics.e2softmax import FRACTION_BITS_MAXIMUM, e2softmax
from hwgen.rtl.e2softmax import E2Softmax
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer


class _E2SoftmaxUnit(Unit):
    """The core itself: its streams are the unit's."""

    name = "e2softmax"
    doc = (
        "Softmax with powers of two and an approximate log-based divider (SOLE, ICCAD 2023). "
        "Takes and returns one slice of `vec` elements per cycle; rows of any length up to "
        "`max_length` follow each other without a gap. Input word: `vec` int8 logits, `vec` "
        "mask bits, 1 bit `last`; output word: `vec` uint8 codes of scale 2^-8, 1 bit `last`."
    )
    parameters = (
        Parameter(
            name="vec",
            default=32,
            minimum=1,
            maximum=256,
            build=True,
            doc="elements of a slice, the lanes of the unit; part of the function",
        ),
        Parameter(
            name="fraction_bits",
            default=4,
            minimum=0,
            maximum=FRACTION_BITS_MAXIMUM,
            doc="fraction bits of the logits",
        ),
        Parameter(
            name="max_length",
            default=1024,
            minimum=2,  # the Sum of one term has no leading one to find
            maximum=65536,
            build=True,
            doc="longest row that the hardware takes",
        ),
    )
    inputs = (Entry(name="logits", axes=("rows", "length"), dtypes=("int8",)),)
    outputs = (Entry(name="codes", axes=("rows", "length"), dtypes=("uint8",)),)

    def component(self, values: Values) -> wiring.Component:
        """The core."""
        return E2Softmax(integer(values, "vec"), integer(values, "max_length"))

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :func:`hwgen.numerics.e2softmax.e2softmax`."""
        return {
            "codes": e2softmax(
                vectors["logits"],
                fraction_bits=integer(values, "fraction_bits"),
                vec=integer(values, "vec"),
                max_length=integer(values, "max_length"),
            )
        }

    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Slices of every row; masked lanes hold what the unit must ignore."""
        vec = integer(values, "vec")
        logits = vectors["logits"]
        rows, length = logits.shape
        slices = -(-length // vec)
        lanes = np.full((rows, slices * vec), 127, np.int8)
        lanes[:, :length] = logits
        flags = np.zeros((rows, slices, vec + 1), np.uint8)
        flags[:, :, :vec] = (np.arange(slices * vec) < length).reshape(slices, vec)
        flags[:, -1, vec] = 1
        packed = np.packbits(flags.reshape(-1, vec + 1), axis=1, bitorder="little")
        words = np.concatenate([lanes.reshape(-1, vec).view(np.uint8), packed], axis=1)
        return Words(words, len(words), {"fraction_bits": integer(values, "fraction_bits")})

    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """Codes without the masked lanes."""
        rows, length = vectors["logits"].shape
        codes = words[:, : integer(values, "vec")].reshape(rows, -1)
        return {"codes": np.ascontiguousarray(codes[:, :length])}


E2SOFTMAX = _E2SoftmaxUnit()
