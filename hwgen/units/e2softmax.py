# SPDX-License-Identifier: Apache-2.0
"""E2Softmax alone, in either mode: rows of int8 logits, one slice of ``vec`` per cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth.lib import wiring

from hwgen.errors import UsageError
from hwgen.numerics.e2softmax import FRACTION_BITS_MAXIMUM
from hwgen.numerics.fractional_softmax import (
    DIVIDER_BITS,
    DIVIDER_BITS_MAXIMUM,
    DIVIDER_BITS_MINIMUM,
    EXPONENT_FRACTION_BITS,
    EXPONENT_FRACTION_BITS_MAXIMUM,
    LENGTH_MAXIMUM,
    SHIFT_BITS,
)
from hwgen.numerics.softmax import MODES, SoftmaxFunction
from hwgen.rtl.e2softmax import E2Softmax
from hwgen.rtl.fractional_softmax import FractionalSoftmax
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer


class _E2SoftmaxUnit(Unit):
    """The core itself: its streams are the unit's."""

    name = "e2softmax"
    doc = (
        "Softmax with powers of two and an approximate log-based divider (SOLE, ICCAD 2023), or, "
        "mode fractional, with fractions of powers of two, a finer divider and a shift per row. "
        "Takes and returns one slice of `vec` elements per cycle; rows of any length up to "
        "`max_length` follow each other without a gap. Input word: `vec` int8 logits, `vec` "
        "mask bits, 1 bit `last`; output word: `vec` uint8 codes, in mode fractional 4 bits of the "
        "row's shift, 1 bit `last`. Codes have scale 2^-8, in mode fractional 2^-(8 + shift)."
    )
    parameters = (
        Parameter(
            name="vec",
            default=32,
            minimum=1,
            maximum=256,
            build=True,
            doc="elements of a slice, the lanes of the unit; part of the function in mode sole",
        ),
        Parameter(
            name="mode",
            default="sole",
            choices=MODES,
            build=True,
            doc="the function",
        ),
        Parameter(
            name="exponent_fraction_bits",
            default=EXPONENT_FRACTION_BITS,
            minimum=0,
            maximum=EXPONENT_FRACTION_BITS_MAXIMUM,
            build=True,
            doc="fraction bits of an exponent, mode fractional",
        ),
        Parameter(
            name="divider_bits",
            default=DIVIDER_BITS,
            minimum=DIVIDER_BITS_MINIMUM,
            maximum=DIVIDER_BITS_MAXIMUM,
            build=True,
            doc="bits of the divider, mode fractional",
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
            doc=f"longest row that the hardware takes, at most {LENGTH_MAXIMUM} in mode fractional",
        ),
    )
    inputs = (Entry(name="logits", axes=("rows", "length"), dtypes=("int8",)),)
    outputs = (
        Entry(name="codes", axes=("rows", "length"), dtypes=("uint8",)),
        Entry(name="shifts", axes=("rows",), dtypes=("uint8",), optional=True, doc="fractional"),
    )

    def check_together(self, values: Values) -> None:
        """Rows of mode fractional are at most 4,095 long."""
        if values["mode"] == "fractional" and integer(values, "max_length") > LENGTH_MAXIMUM:
            raise UsageError(
                f"--max-length must be at most {LENGTH_MAXIMUM} with --mode fractional,"
                f" not {values['max_length']}",
                nearest=LENGTH_MAXIMUM,
            )

    def component(self, values: Values) -> wiring.Component:
        """The core."""
        vec, max_length = integer(values, "vec"), integer(values, "max_length")
        if values["mode"] == "sole":
            return E2Softmax(vec, max_length)
        g, bits = integer(values, "exponent_fraction_bits"), integer(values, "divider_bits")
        return FractionalSoftmax(vec, max_length, g, bits)

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :class:`hwgen.numerics.softmax.SoftmaxFunction`."""
        if values["mode"] == "sole":
            function = SoftmaxFunction.sole(integer(values, "vec"))
        else:
            function = SoftmaxFunction.fractional(
                integer(values, "exponent_fraction_bits"), integer(values, "divider_bits")
            )
        codes, shifts = function(
            vectors["logits"],
            fraction_bits=integer(values, "fraction_bits"),
            max_length=integer(values, "max_length"),
        )
        return {"codes": codes} | ({} if shifts is None else {"shifts": shifts})

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
        """Codes without the masked lanes; the shift that a row's last slice says."""
        vec = integer(values, "vec")
        rows, length = vectors["logits"].shape
        codes = words[:, :vec].reshape(rows, -1)
        result: dict[str, npt.NDArray[Any]] = {"codes": np.ascontiguousarray(codes[:, :length])}
        if values["mode"] == "fractional":
            shifts = words[:, vec].reshape(rows, -1)[:, -1] & ((1 << SHIFT_BITS) - 1)
            result["shifts"] = shifts.astype(np.uint8)
        return result


E2SOFTMAX = _E2SoftmaxUnit()
