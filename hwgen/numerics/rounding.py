# SPDX-License-Identifier: Apache-2.0
"""The rounding rule of the project, and two other bit operations that units are defined with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import IntArray, as_integers, check_range

#: All integers below are float64 numbers.
_FLOAT64_INTEGERS = 1 << 53


def _signed(x: npt.ArrayLike, name: str) -> IntArray:
    values = as_integers(x, name)
    if values.dtype.kind == "i":
        return values
    return check_range(values, 0, np.iinfo(np.int64).max, name).astype(np.int64)


def rshr(x: npt.ArrayLike, n: npt.ArrayLike) -> IntArray:
    """THE rounding rule: ``floor((x + 2^(n-1)) / 2^n)``, round half up; ``n = 0`` is the identity.

    Computed as ``floor(x / 2^n)`` plus the last bit shifted out, which is the same number and
    cannot overflow. Every scale change of the network uses it.

    Args:
        x: integers of any shape; signed element types are kept, unsigned ones become int64.
        n: shift, 0..63, one number or an array that broadcasts against ``x``.

    Returns:
        Integers of the broadcast shape.
    """
    values = _signed(x, "Value to shift")
    shift = check_range(n, 0, 63, "Shift")
    # The element type of the shift must not widen the result, and 63 fits all of them.
    shift = shift.astype(values.dtype)
    last = np.maximum(shift, 1) - shift.dtype.type(1)
    return (values >> shift) + (((values >> last) & 1) & (shift > 0))


def rne_shift(x: npt.ArrayLike, n: int) -> IntArray:
    """``x / 2^n`` rounded to nearest, ties to even; only where a unit's definition says so.

    Args:
        x: integers of any shape.
        n: shift, 0..62.
    """
    values = _signed(x, "Value to shift").astype(np.int64)
    shift = int(check_range(n, 0, 62, "Shift"))
    if shift == 0:
        return values
    quotient = values >> shift
    rest = values & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    rounded: IntArray = quotient + ((rest > half) | ((rest == half) & ((quotient & 1) == 1)))
    return rounded


def floor_log2(x: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Position of the leading one of positive integers below 2^63; a value below 1 is refused."""
    rest = _signed(x, "Argument of floor_log2").astype(np.int64)
    if rest.size and int(rest.min()) < 1:
        raise FormatError(f"Argument of floor_log2 must be at least 1, not {int(rest.min())}")
    if rest.size and int(rest.max()) < _FLOAT64_INTEGERS:  # exact as float64, so is its exponent
        return np.frexp(rest.astype(np.float64))[1].astype(np.int64) - 1
    position = np.zeros(rest.shape, dtype=np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        found = (rest >> step) > 0
        moved = np.where(found, step, 0)
        position += moved
        rest = rest >> moved
    return position
