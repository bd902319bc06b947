# SPDX-License-Identifier: Apache-2.0
"""E2Softmax: softmax with powers of two and an approximate log-based divider.

After SOLE (ICCAD 2023, arXiv 2510.17189), Algorithm 1 and Fig. 4, in the slice-wise online form of
its hardware. Notation: V lanes; f fraction bits of the logits; M_k running maximum after slice k;
Y_i 4-bit exponent of element i against the maximum of its own slice's time; Sum has 15 fraction
bits; ks exponent of Sum; q the bit right of Sum's leading one. The codes have scale 2^-8.

V is part of the function: Log2Exp rounds, and a row's exponents are rounded against the running
maximum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import INT8, UINT8, check_int, row_blocks
from hwgen.numerics.rounding import floor_log2, rshr

ONE_SUM_BITS = 15  #: Fraction bits of Sum: 1.0 is 2^15, and 2^-15 is the smallest term.
EXPONENT_MAXIMUM = 15  #: Log2Exp saturates here: 4 bits.
LOG2E_NUMERATOR = 23  #: 1/ln 2 is taken as 23/16.
LOG2E_SHIFT = 4
QUOTIENT_LOW = 145  #: round(0.568 * 2^8): divider constant for q = 1.
QUOTIENT_HIGH = 209  #: round(0.818 * 2^8): divider constant for q = 0.
FRACTION_BITS_MAXIMUM = 15
_LAST_SHIFT = 9  #: From this shift on a rounded divider constant is 0.
#: Every code that the unit can return.
CODES = (0, 1, 2, 3, 5, 7, 9, 13, 18, 26, 36, 52, 73, 105, 145, 209)


@dataclass(frozen=True, kw_only=True)
class E2SoftmaxShape:
    """What is built: lanes and the longest row. Fraction bits and length are run-time data."""

    vec: int = 32  #: V, elements of a slice: one slice per cycle.
    max_length: int = 1024  #: Longest row.

    def __post_init__(self) -> None:
        """Refuse empty units."""
        check_int(self.vec, 1, None, "vec")
        check_int(self.max_length, 1, None, "max_length")

    @property
    def max_slices(self) -> int:
        """Slices of the longest row."""
        return -(-self.max_length // self.vec)

    @property
    def sum_bits(self) -> int:
        """Width of Sum, unsigned: the largest is ``max_length * 2^15`` (26 bits for 1024)."""
        return (self.max_length << ONE_SUM_BITS).bit_length()

    @property
    def exponent_bits(self) -> int:
        """Width of ks, unsigned: 0..floor(log2 max_length) (4 bits for 1024)."""
        return max(1, (self.max_length.bit_length() - 1).bit_length())


def log2exp(distance: npt.ArrayLike, fraction_bits: int) -> npt.NDArray[np.uint8]:
    """``min(15, rshr(23 * d, f + 4))``: the negated binary exponent of ``exp(-d / 2^f)``, 4 bits.

    Args:
        distance: d = maximum - element, 0..255, any shape.
        fraction_bits: f, 0..15.

    Returns:
        uint8, 0..15, of the shape of ``distance``.
    """
    d = UINT8.check(distance, "distance").astype(np.int32)
    f = check_int(fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")
    exponent = rshr(LOG2E_NUMERATOR * d, f + LOG2E_SHIFT)
    return np.minimum(exponent, EXPONENT_MAXIMUM).astype(np.uint8)


def _exponents(distance: npt.NDArray[np.int16], fraction_bits: int) -> npt.NDArray[np.int16]:
    """:func:`log2exp` in the place of ``distance``: 23 * 255 and 2^14 fit 16 bits."""
    shift = fraction_bits + LOG2E_SHIFT
    if shift > 15:  # 23 * 255 is below a half
        distance[...] = 0
        return distance
    distance *= LOG2E_NUMERATOR
    distance += 1 << (shift - 1)
    distance >>= shift
    return np.minimum(distance, EXPONENT_MAXIMUM, out=distance)


def _sums(terms: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Sums over the last axis; in float32 where every integer up to the largest sum is one."""
    vec = terms.shape[-1]
    if vec << ONE_SUM_BITS > 1 << 24:
        return terms.sum(axis=-1, dtype=np.int64)
    total = terms.astype(np.float32).reshape(-1, vec) @ np.ones(vec, np.float32)
    return total.astype(np.int64).reshape(terms.shape[:-1])


def _rows(
    x: npt.NDArray[np.int8], vec: int, fraction_bits: int, out: npt.NDArray[np.uint8]
) -> None:
    """One block of rows [R, L]."""
    rows, length = x.shape
    vec = min(vec, length)  # of a single slice only the real lanes count
    slices = -(-length // vec)
    # -128 is neutral for the maximum: every slice has at least one real lane.
    lanes = np.full((rows, slices * vec), -128, dtype=np.int16)
    lanes[:, :length] = x
    lanes = lanes.reshape(rows, slices, vec)

    # Stage 1: running maximum, exponents against it, online sum.
    maximum = np.maximum.accumulate(lanes.max(axis=2), axis=1)
    y = _exponents(np.subtract(maximum[:, :, None], lanes, out=lanes), fraction_bits)
    terms = np.right_shift(1 << ONE_SUM_BITS, y.view(np.uint16), dtype=np.uint16)
    terms.reshape(rows, -1)[:, length:] = 0
    slice_sums = _sums(terms)
    steps = _exponents(maximum[:, 1:] - maximum[:, :-1], fraction_bits)
    total = slice_sums[:, 0]
    for k in range(1, slices):
        total = (total >> steps[:, k - 1]) + slice_sums[:, k]

    # The maximum contributes 2^15 and is never shifted afterwards, so ks >= 0.
    ks = floor_log2(total) - ONE_SUM_BITS
    q = (total >> (ks + ONE_SUM_BITS - 1)) & 1
    constant = np.where(q == 1, QUOTIENT_LOW, QUOTIENT_HIGH).astype(np.int16)

    # Stage 2: rshr by its definition. From a shift of 9 on every code is 0, so that what Log2Exp
    # saturates at does not show.
    shifts = _exponents(maximum[:, -1:] - maximum, fraction_bits)
    shifts += np.minimum(ks, _LAST_SHIFT).astype(np.int16)[:, None]
    y += shifts[:, :, None]
    np.minimum(y, _LAST_SHIFT, out=y)
    codes = np.left_shift(1, y, dtype=np.int16)
    codes >>= 1
    codes += constant[:, None, None]
    codes >>= y
    out[...] = codes.reshape(rows, -1)[:, :length]


def e2softmax(
    logits: npt.ArrayLike, *, fraction_bits: int = 4, vec: int = 32, max_length: int = 1024
) -> npt.NDArray[np.uint8]:
    """E2Softmax of every row (last axis).

    Args:
        logits: int8 range [..., L], scale 2^-fraction_bits, 1 <= L <= max_length.
        fraction_bits: f, 0..15.
        vec: V, elements of a slice, at least 1; changes the result.
        max_length: the longest row that the unit takes.

    Returns:
        uint8 [..., L], scale 2^-8: codes of :data:`CODES`.
    """
    values = _logits(logits)
    shape = E2SoftmaxShape(vec=vec, max_length=max_length)
    length = values.shape[-1]
    check_int(length, 1, shape.max_length, "Row length")
    f = check_int(fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")
    rows = values.reshape(-1, length)
    out = np.empty(rows.shape, dtype=np.uint8)
    # Slices are padded to whole vectors, so a block is sized by the padded length.
    for block in row_blocks(rows.shape[0], -(-length // vec) * vec):
        _rows(rows[block], vec, f, out[block])
    return out.reshape(values.shape)


def _logits(logits: npt.ArrayLike) -> npt.NDArray[np.int8]:
    values = INT8.check(logits, "logits")
    if values.ndim < 1:
        raise FormatError(f"logits must have at least 1 axis, not shape {values.shape}")
    return values.astype(np.int8, copy=False)
