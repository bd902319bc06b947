# SPDX-License-Identifier: Apache-2.0
"""The softmax of a network: one of two functions, chosen when the network is quantised.

``sole``: :mod:`hwgen.numerics.e2softmax`; ``fractional``: :mod:`hwgen.numerics.fractional_softmax`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.e2softmax import e2softmax
from hwgen.numerics.formats import check_int
from hwgen.numerics.fractional_softmax import (
    DIVIDER_BITS,
    EXPONENT_FRACTION_BITS,
    check_parameters,
    fractional_softmax,
)

SoftmaxMode = Literal["sole", "fractional"]
MODES: tuple[SoftmaxMode, ...] = ("sole", "fractional")
SOLE_VEC = 32  #: Default slice length of ``sole``.


@dataclass(frozen=True, kw_only=True)
class SoftmaxFunction:
    """All that decides the bits of a softmax but the logits and their scale.

    A graph says which it needs, a design which it has. Made by :meth:`sole` or :meth:`fractional`;
    what the other mode needs is None.
    """

    mode: SoftmaxMode
    vec: int | None = None  #: ``sole``: V, elements of a slice
    exponent_fraction_bits: int | None = None  #: ``fractional``: g
    divider_bits: int | None = None  #: ``fractional``: Q

    def __post_init__(self) -> None:
        """Refuse what is no function.

        Raises:
            FormatError: names the field.
        """
        if self.mode not in MODES:
            raise FormatError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r:.40}")
        sole = self.mode == "sole"
        for name, needed in (
            ("vec", sole),
            ("exponent_fraction_bits", not sole),
            ("divider_bits", not sole),
        ):
            if not needed and (value := getattr(self, name)) is not None:
                raise FormatError(f"{name} must be absent in mode {self.mode}, not {value!r:.40}")
        if sole:
            check_int(self.vec, 1, None, "vec")
        else:
            check_parameters(self.exponent_fraction_bits, self.divider_bits)

    @classmethod
    def sole(cls, vec: int = SOLE_VEC) -> SoftmaxFunction:
        """SOLE's: whole exponents, the slice length is part of the function."""
        return cls(mode="sole", vec=vec)

    @classmethod
    def fractional(
        cls,
        exponent_fraction_bits: int = EXPONENT_FRACTION_BITS,
        divider_bits: int = DIVIDER_BITS,
    ) -> SoftmaxFunction:
        """Fractional exponents and a shift per row."""
        return cls(
            mode="fractional",
            exponent_fraction_bits=exponent_fraction_bits,
            divider_bits=divider_bits,
        )

    @classmethod
    def of_mode(cls, mode: SoftmaxMode, vec: int | None = None) -> SoftmaxFunction:
        """A mode's function; ``vec`` counts in mode ``sole`` only."""
        return (
            cls.fractional() if mode == "fractional" else cls.sole(SOLE_VEC if vec is None else vec)
        )

    @property
    def has_shifts(self) -> bool:
        """Whether every row has a shift of its own."""
        return self.mode == "fractional"

    def __str__(self) -> str:
        """As messages say it: ``sole with slices of 32``."""
        if self.mode == "sole":
            return f"sole with slices of {self.vec}"
        return (
            f"fractional with {self.exponent_fraction_bits} exponent fraction bits"
            f" and {self.divider_bits} divider bits"
        )

    def __call__(
        self,
        logits: npt.ArrayLike,
        *,
        fraction_bits: int,
        max_length: int,
        kernels: Kernels | None = None,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Softmax of every row.

        Args:
            logits: int8 [..., L] of scale 2^-fraction_bits.
            fraction_bits: f, 0..15.
            max_length: the longest row.
            kernels: compiled loops; there are none for mode ``sole``.

        Returns:
            Codes uint8 [..., L] and shifts uint8 [...] or, without, None: the weights are
            ``codes * 2^-(8 + shifts)``.
        """
        if self.mode == "sole":
            assert self.vec is not None
            codes = e2softmax(
                logits, fraction_bits=fraction_bits, vec=self.vec, max_length=max_length
            )
            return codes, None
        assert self.exponent_fraction_bits is not None and self.divider_bits is not None
        return fractional_softmax(
            logits,
            fraction_bits=fraction_bits,
            exponent_fraction_bits=self.exponent_fraction_bits,
            divider_bits=self.divider_bits,
            max_length=max_length,
            kernels=kernels,
        )


#: What a network gets that does not say otherwise.
DEFAULT_FUNCTION = SoftmaxFunction.fractional()
