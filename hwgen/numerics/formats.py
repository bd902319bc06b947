# SPDX-License-Identifier: Apache-2.0
"""Integer formats and the checks that keep every value inside its own."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError

IntArray = npt.NDArray[np.integer[Any]]

#: Elements that a reference works on at once: 64-bit temporaries of this size stay in the cache.
_BLOCK_ELEMENTS = 1 << 16


def as_integers(array: npt.ArrayLike, name: str) -> IntArray:
    """``array`` as a NumPy array, refused unless its element type is an integer."""
    values = np.asarray(array)
    if values.dtype.kind not in "iu":
        if values.size == 0 and not isinstance(array, np.ndarray):
            return values.astype(np.int64)  # an empty list has no element type of its own
        raise FormatError(f"{name} must be an integer array, not {values.dtype}")
    return values


def check_range(array: npt.ArrayLike, minimum: int, maximum: int, name: str) -> IntArray:
    """``array`` as integers, refused unless ``minimum <= value <= maximum`` everywhere."""
    values = as_integers(array, name)
    if values.size == 0:
        return values
    info = np.iinfo(values.dtype)
    if info.min >= minimum and info.max <= maximum:
        return values
    if int(values.min()) >= minimum and int(values.max()) <= maximum:
        return values
    wrong = np.zeros(values.shape, dtype=bool)
    if info.min < minimum:
        wrong |= values < minimum
    if info.max > maximum:
        wrong |= values > maximum
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), values.shape))
    value = int(values[index])
    place = f"[{', '.join(map(str, index))}]" if index else ""
    raise FormatError(
        f"{name}{place} must be in {minimum}..{maximum}, not {value}",
        nearest=min(max(value, minimum), maximum),
    )


def check_int(value: object, minimum: int, maximum: int | None, name: str) -> int:
    """One integer as an ``int``, refused outside ``minimum..maximum`` (``None``: unbounded)."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise FormatError(f"{name} must be an integer, not {value!r}") from None
    if number < minimum or (maximum is not None and number > maximum):
        expectation = f"in {minimum}..{maximum}" if maximum is not None else f"at least {minimum}"
        nearest = minimum if number < minimum else maximum
        raise FormatError(f"{name} must be {expectation}, not {number}", nearest=nearest)
    return number


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` elements in blocks that fit the cache."""
    step = max(1, _BLOCK_ELEMENTS // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


@dataclass(frozen=True)
class IntFormat:
    """Two's complement or unsigned integers of ``bits`` bits, 1..63."""

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        """Refuse widths that no 64-bit integer array holds."""
        check_int(self.bits, 1, 63, "Format width")

    @property
    def minimum(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest NumPy element type that holds the format."""
        width = next(w for w in (8, 16, 32, 64) if w >= self.bits)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    def __str__(self) -> str:
        """``int8``, ``uint16``, ``int24`` and so on."""
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    def check(self, array: npt.ArrayLike, name: str) -> IntArray:
        """``array`` in this format's element type.

        Raises:
            FormatError: not integers, or a value outside the range; names ``name``, index, value,
                range.
        """
        values = check_range(array, self.minimum, self.maximum, name)
        return values.astype(self.dtype, copy=False)


INT8 = IntFormat(8, True)
INT16 = IntFormat(16, True)
INT24 = IntFormat(24, True)
INT32 = IntFormat(32, True)
UINT8 = IntFormat(8, False)
UINT16 = IntFormat(16, False)


@dataclass(frozen=True)
class WeightFormat:
    """Weights of ``bits`` bits, 1..8: {-1, +1} for 1, else -(2^(bits-1)-1)..2^(bits-1)-1."""

    bits: int

    def __post_init__(self) -> None:
        """Refuse widths that no column has."""
        check_int(self.bits, 1, 8, "Weight width")

    @property
    def maximum(self) -> int:
        """Largest value, also the largest magnitude."""
        return max(1, (1 << (self.bits - 1)) - 1)

    @property
    def minimum(self) -> int:
        """Smallest value."""
        return -self.maximum

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type that holds every width."""
        return np.dtype(np.int8)

    def check(self, array: npt.ArrayLike, name: str) -> npt.NDArray[np.int8]:
        """``array`` as int8, refused where a value is no weight of this width."""
        values = check_range(array, self.minimum, self.maximum, name)
        if self.bits == 1 and not np.all(values):
            index = tuple(
                int(i) for i in np.unravel_index(int(np.argmin(values != 0)), values.shape)
            )
            raise FormatError(
                f"{name}[{', '.join(map(str, index))}] must be -1 or +1, not 0", nearest="-1 or +1"
            )
        return values.astype(np.int8, copy=False)


def weight_format(weight_bits: int) -> WeightFormat:
    """The format of weights of ``weight_bits`` bits, 1..8."""
    return WeightFormat(weight_bits)


def check_weights(
    weights: npt.ArrayLike, weight_bits: int, name: str = "weights"
) -> npt.NDArray[np.int8]:
    """``weights`` as int8, refused unless all are weights of ``weight_bits`` bits."""
    return weight_format(weight_bits).check(weights, name)


def check_columns(
    array: npt.ArrayLike, number_format: IntFormat, columns: int, name: str
) -> IntArray:
    """One value per column: shape ``[columns]``, or a scalar that holds for every column."""
    values = number_format.check(array, name)
    if values.shape not in ((), (columns,)):
        raise FormatError(f"{name} must have shape ({columns},), not {values.shape}")
    return values
