# SPDX-License-Identifier: Apache-2.0
"""Requantise: int32 accumulators to int8 or int16 by a 16-bit multiplier and a shift per column.

Widths: ``acc + bias`` fits int32, the multiplier is unsigned 16 bits, so the product has magnitude
at most 2^31 (2^16 - 1) < 2^47 and the 48 bits of a DSP's accumulator hold it; a shift of up to 47
bits brings any product to 0 or 1 bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import (
    INT8,
    INT16,
    INT32,
    UINT8,
    UINT16,
    IntArray,
    check_columns,
    check_int,
    check_range,
    row_blocks,
)
from hwgen.numerics.rounding import rshr

MULTIPLIER_MINIMUM = 1 << 15  #: Smallest multiplier of a live column; 0 marks a dead one.
MULTIPLIER_MAXIMUM = (1 << 16) - 1
SHIFT_MINIMUM = 1
SHIFT_MAXIMUM = 47
PTF_SHIFT_MAXIMUM = 11  #: Largest ``shift`` of :func:`ptf_codes`.
PTF_ALPHA_MAXIMUM = 3  #: Largest per-channel ``alpha`` of :func:`ptf_codes`.


def check_constants(
    *,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    columns: int,
) -> tuple[IntArray, IntArray, IntArray]:
    """Bias int32, multiplier uint16 and shift uint8 of ``columns`` columns, range-checked."""
    biases = check_columns(bias, INT32, columns, "bias")
    multipliers = check_columns(multiplier, UINT16, columns, "multiplier")
    wrong = (multipliers != 0) & (multipliers < MULTIPLIER_MINIMUM)
    if wrong.any():
        column = int(np.argmax(wrong))
        raise FormatError(
            f"multiplier[{column}] must be 0 or in {MULTIPLIER_MINIMUM}..{MULTIPLIER_MAXIMUM}, "
            f"not {int(multipliers.reshape(-1)[column])}",
            nearest=MULTIPLIER_MINIMUM,
        )
    shifts = check_columns(shift, UINT8, columns, "shift")
    check_range(shifts, SHIFT_MINIMUM, SHIFT_MAXIMUM, "shift")
    return biases, multipliers, shifts


def _rows(array: IntArray, name: str) -> IntArray:
    if array.ndim < 1:
        raise FormatError(f"{name} must have at least 1 axis, not shape {array.shape}")
    width = array.shape[-1]
    return array.reshape(int(np.prod(array.shape[:-1], dtype=np.int64)), width)


def _scaled(
    accumulators: IntArray, bias: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike
) -> Iterator[tuple[slice, IntArray]]:
    """``rshr((acc + bias) * multiplier, shift)`` as int64, block of rows by block of rows."""
    rows = _rows(accumulators, "accumulators")
    columns = rows.shape[1]
    biases, multipliers, shifts = (
        constant.astype(np.int64)
        for constant in check_constants(
            bias=bias, multiplier=multiplier, shift=shift, columns=columns
        )
    )
    for block in row_blocks(*rows.shape):
        biased = rows[block] + biases
        if biased.size and (biased.min() < INT32.minimum or biased.max() > INT32.maximum):
            INT32.check(accumulators + biases, "accumulator + bias")  # raises, with the full index
        biased *= multipliers
        yield block, rshr(biased, shifts)


def requantise(
    accumulators: npt.ArrayLike,
    *,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int = 0,
    low: int = -128,
    high: int = 127,
) -> npt.NDArray[np.int8]:
    """``clip(rshr((acc + bias) * multiplier, shift) + zero_point, low, high)``.

    Args:
        accumulators: int32 range [..., N].
        bias: int32 [N].
        multiplier: [N], 0 (dead column) or 2^15..2^16-1.
        shift: [N], 1..47.
        zero_point: output zero point, -128..127.
        low: lower bound of the clip, int8.
        high: upper bound of the clip, int8, at least ``low``.

    Returns:
        int8 [..., N].

    Raises:
        FormatError: a constant outside its range, or ``acc + bias`` outside int32.
    """
    values = INT32.check(accumulators, "accumulators")
    offset, low, high = check_clip(zero_point=zero_point, low=low, high=high)
    out = np.empty(_rows(values, "accumulators").shape, dtype=np.int8)
    for block, scaled in _scaled(values, bias, multiplier, shift):
        out[block] = np.clip(scaled + offset, low, high)
    return out.reshape(values.shape)


def check_clip(*, zero_point: int = 0, low: int = -128, high: int = 127) -> tuple[int, int, int]:
    """Output zero point and clip bounds, all int8 and in order."""
    offset = check_int(zero_point, INT8.minimum, INT8.maximum, "zero_point")
    low = check_int(low, INT8.minimum, INT8.maximum, "low")
    high = check_int(high, low, INT8.maximum, "high")
    return offset, low, high


def count_saturated(
    accumulators: npt.ArrayLike,
    *,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int = 0,
    low: int = -128,
    high: int = 127,
) -> int:
    """How many outputs of :func:`requantise` with the same arguments the clip changes."""
    values = INT32.check(accumulators, "accumulators")
    offset, low, high = check_clip(zero_point=zero_point, low=low, high=high)
    return sum(
        int(np.count_nonzero((scaled + offset < low) | (scaled + offset > high)))
        for _, scaled in _scaled(values, bias, multiplier, shift)
    )


def requantise_residual(
    accumulators: npt.ArrayLike,
    *,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    residual: npt.ArrayLike,
) -> npt.NDArray[np.int16]:
    """Residual form: ``clip(rshr((acc + bias) * multiplier, shift) + residual, -32768, 32767)``.

    Args:
        accumulators: int32 range [..., N].
        bias: int32 [N].
        multiplier: [N], 0 (dead column) or 2^15..2^16-1.
        shift: [N], 1..47.
        residual: int16, the shape of ``accumulators``.

    Returns:
        int16 [..., N], the new residual.
    """
    values = INT32.check(accumulators, "accumulators")
    stream = INT16.check(residual, "residual")
    if stream.shape != values.shape:
        raise FormatError(f"residual must have shape {values.shape}, not {stream.shape}")
    added = _rows(stream, "residual")
    out = np.empty(added.shape, dtype=np.int16)
    for block, scaled in _scaled(values, bias, multiplier, shift):
        out[block] = np.clip(scaled + added[block], INT16.minimum, INT16.maximum)
    return out.reshape(values.shape)


def requantise_int16(
    accumulators: npt.ArrayLike,
    *,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
) -> npt.NDArray[np.int16]:
    """The residual form with residual 0: the int16 logits of the classification head."""
    values = INT32.check(accumulators, "accumulators")
    return requantise_residual(
        values,
        bias=bias,
        multiplier=multiplier,
        shift=shift,
        residual=np.zeros(values.shape, dtype=np.int16),
    )


def ptf_codes(
    residual: npt.ArrayLike, *, shift: int, alpha: npt.ArrayLike, zero_point: int
) -> npt.NDArray[np.uint8]:
    """Input codes of AILayerNorm from the residual: ``clip(rshr(r, t + alpha_c) + zp, 0, 255)``.

    Power-of-two factors per channel after FQ-ViT (IJCAI 2022).

    Args:
        residual: int16 [..., C].
        shift: t, 0..11, one per layer.
        alpha: [C], 0..3.
        zero_point: 0..255.

    Returns:
        uint8 [..., C].
    """
    values = INT16.check(residual, "residual")
    rows = _rows(values, "residual")
    layer_shift = check_int(shift, 0, PTF_SHIFT_MAXIMUM, "PTF shift")
    offset = check_int(zero_point, 0, 255, "zero_point")
    factors = check_columns(alpha, UINT8, rows.shape[1], "alpha")
    check_range(factors, 0, PTF_ALPHA_MAXIMUM, "alpha")
    shifts = factors.astype(np.int32) + layer_shift
    out = np.empty(rows.shape, dtype=np.uint8)
    for block in row_blocks(*rows.shape):
        out[block] = np.clip(rshr(rows[block].astype(np.int32), shifts) + offset, 0, 255)
    return out.reshape(values.shape)
