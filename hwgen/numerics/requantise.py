# SPDX-License-Identifier: Apache-2.0
"""Requantise: int32 accumulators to int8 or int16 by a 16-bit multiplier and a shift per column.

Widths: ``acc + bias`` fits int32, the multiplier is unsigned 16 bits, so the product has magnitude
at most 2^31 (2^16 - 1) < 2^47 and the 48 bits of a DSP's accumulator hold it; a shift of up to 47
bits brings any product to 0 or 1 bit.

The arithmetic is done in float64, where every step of it is exact. In
``floor(acc * f * 2^-r + c * 2^-r + 1/2)`` with ``f = m * 2^-e``, ``c = b * m * 2^-e`` and a row's
shift r, every number is an integer times ``2^-(e + r)``, and that integer has a magnitude below
2^47 (``acc * m``, ``b * m``), or below 2^48 (their sum, and with ``2^(e + r - 1)``): at most 48
significant bits of the 53, exponents far from the limits, so nothing rounds. floor is exact, and so
is whatever is done with integers below 2^53 after it. The result is
``rshr((acc + b) * m, e + r)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.compiled import Kernels
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

FloatArray = npt.NDArray[np.float64]

MULTIPLIER_MINIMUM = 1 << 15  #: Smallest multiplier of a live column; 0 marks a dead one.
MULTIPLIER_MAXIMUM = (1 << 16) - 1
SHIFT_MINIMUM = 1
SHIFT_MAXIMUM = 47
#: Bits of ``acc + bias`` that the hardware's lanes take: the wide port of a DSP.
BIASED_BITS = 27
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


def fits_lanes(biased: IntArray) -> npt.NDArray[np.bool_]:
    """Where ``acc + bias`` is what the hardware's lanes take."""
    limit = 1 << (BIASED_BITS - 1)
    out: npt.NDArray[np.bool_] = (biased >= -limit) & (biased < limit)
    return out


def _rows(array: IntArray, name: str) -> IntArray:
    if array.ndim < 1:
        raise FormatError(f"{name} must have at least 1 axis, not shape {array.shape}")
    width = array.shape[-1]
    return array.reshape(int(np.prod(array.shape[:-1], dtype=np.int64)), width)


class Scale:
    """``rshr((acc + b) * m, e)`` of blocks of rows, with the constants prepared once.

    Args:
        bias: int32 [N], or one for all columns, as are the others.
        multiplier: 0 (dead column) or 2^15..2^16-1.
        shift: 1..47.
        columns: N.

    Raises:
        FormatError: a constant outside its range.
    """

    def __init__(
        self,
        *,
        bias: npt.ArrayLike,
        multiplier: npt.ArrayLike,
        shift: npt.ArrayLike,
        columns: int,
    ) -> None:
        """Check and convert."""
        self.bias, m, e = (
            constant.astype(np.int64)
            for constant in check_constants(
                bias=bias, multiplier=multiplier, shift=shift, columns=columns
            )
        )
        self._shift = e
        self._factor, self._constant = (
            np.ascontiguousarray(np.broadcast_to(part, columns))
            for part in (
                np.ldexp(m.astype(np.float64), -e),
                np.ldexp((self.bias * m).astype(np.float64), -e),
            )
        )
        self._half = np.ldexp(1, -1)
        self._offset = self._constant + self._half

    def fits(self, low: int, high: int) -> bool:
        """Whether accumulators of ``low..high`` stay within int32 with every column's bias."""
        if not self.bias.size:
            return True
        lowest, highest = low + int(self.bias.min()), high + int(self.bias.max())
        return lowest >= INT32.minimum and highest <= INT32.maximum

    def check_rows(self, row_shift: npt.ArrayLike, shape: tuple[int, ...]) -> FloatArray:
        """``2^-row_shift`` [rows, 1] of shifts uint8 of such a shape, as :meth:`__call__` takes it.

        Raises:
            FormatError: another shape, or a sum of shifts above 47.
        """
        values = UINT8.check(row_shift, "row_shift")
        if values.shape != shape:
            raise FormatError(f"row_shift must have shape {shape}, not {values.shape}")
        largest = int(self._shift.max(initial=0))
        check_range(values, 0, SHIFT_MAXIMUM - largest, f"row_shift beside a shift of {largest}")
        return np.ldexp(np.ones(1), -values.reshape(-1, 1).astype(np.int64))

    def __call__(
        self, accumulators: npt.NDArray[Any], rows: FloatArray | None = None
    ) -> FloatArray:
        """The scaled values, integers, of accumulators [rows, N].

        Args:
            accumulators: integers of any element type; with the bias they must be in int32's
                range, which is the caller's to know.
            rows: what :meth:`check_rows` made of the rows' shifts, added to the columns'.
        """
        out = accumulators.astype(np.float64)
        out *= self._factor
        if rows is None:
            out += self._offset
        else:
            out += self._constant
            out *= rows
            out += self._half
        return np.floor(out, out=out)

    def narrow(
        self,
        accumulators: npt.NDArray[Any],
        out: IntArray,
        *,
        rows: FloatArray | None = None,
        added: IntArray | None = None,
        zero_point: int = 0,
        low: int = -128,
        high: int = 127,
        kernels: Kernels | None = None,
    ) -> None:
        """``clip(scaled + zero_point + added, low, high)`` into ``out`` [rows, N].

        Args:
            accumulators: as :meth:`__call__` takes them.
            out: int8 or int16.
            rows: as :meth:`__call__` takes them, without ``added`` and zero point.
            added: int16 [rows, N] (the residual), without zero point.
            zero_point: -128..127.
            low: lower bound of the clip, within ``out``'s element type, as is ``high``.
            high: upper bound.
            kernels: compiled loops for the same, one pass instead of several.
        """
        if kernels is None:
            scaled = self(accumulators, rows)
            if added is not None:
                scaled += added.astype(scaled.dtype)  # a sum of two types is slower
            if zero_point:
                scaled += zero_point
            np.clip(scaled, low, high, out=scaled)
            np.copyto(out, scaled, casting="unsafe")
        elif rows is not None:
            kernels.scale_rows(
                *(accumulators, self._factor, self._constant, rows.reshape(-1), self._half),
                *(low, high, out),
            )
        elif added is not None:
            kernels.scale_added(accumulators, self._factor, self._offset, added, low, high, out)
        else:
            kernels.scale(accumulators, self._factor, self._offset, zero_point, low, high, out)


def _scale(
    accumulators: IntArray, bias: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike
) -> tuple[Scale, IntArray]:
    """The constants, and the accumulators as rows: with the bias they fit int32."""
    rows = _rows(accumulators, "accumulators")
    scale = Scale(bias=bias, multiplier=multiplier, shift=shift, columns=rows.shape[1])
    if rows.size and not scale.fits(int(rows.min()), int(rows.max())):
        INT32.check(accumulators + scale.bias, "accumulator + bias")
    return scale, rows


def requantise(
    accumulators: npt.ArrayLike,
    *,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int = 0,
    low: int = -128,
    high: int = 127,
    row_shift: npt.ArrayLike | None = None,
) -> npt.NDArray[np.int8]:
    """``clip(rshr((acc + bias) * multiplier, shift + row_shift) + zero_point, low, high)``.

    Args:
        accumulators: int32 range [..., N].
        bias: int32 [N].
        multiplier: [N], 0 (dead column) or 2^15..2^16-1.
        shift: [N], 1..47.
        zero_point: output zero point, -128..127.
        low: lower bound of the clip, int8.
        high: upper bound of the clip, int8, at least ``low``.
        row_shift: [...], added to the shift of every column of a row; with it the shift is at most
            47 still. None: nothing is added.

    Returns:
        int8 [..., N].

    Raises:
        FormatError: a constant outside its range, or ``acc + bias`` outside int32.
    """
    values = INT32.check(accumulators, "accumulators")
    offset, low, high = check_clip(zero_point=zero_point, low=low, high=high)
    scale, rows = _scale(values, bias, multiplier, shift)
    out = np.empty(rows.shape, dtype=np.int8)
    more = None if row_shift is None else scale.check_rows(row_shift, values.shape[:-1])
    for block in row_blocks(*rows.shape):
        part = None if more is None else more[block]
        scale.narrow(rows[block], out[block], rows=part, zero_point=offset, low=low, high=high)
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
    scale, rows = _scale(values, bias, multiplier, shift)
    count = 0
    for block in row_blocks(*rows.shape):
        scaled = scale(rows[block])
        count += int(np.count_nonzero((scaled < low - offset) | (scaled > high - offset)))
    return count


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
    scale, rows = _scale(values, bias, multiplier, shift)
    out = np.empty(rows.shape, dtype=np.int16)
    for block in row_blocks(*rows.shape):
        scale.narrow(
            *(rows[block], out[block]), added=added[block], low=INT16.minimum, high=INT16.maximum
        )
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
    residual: npt.ArrayLike,
    *,
    shift: int,
    alpha: npt.ArrayLike,
    zero_point: int,
    kernels: Kernels | None = None,
) -> npt.NDArray[np.uint8]:
    """Input codes of AILayerNorm from the residual: ``clip(rshr(r, t + alpha_c) + zp, 0, 255)``.

    Power-of-two factors per channel after FQ-ViT (IJCAI 2022).

    Args:
        residual: int16 [..., C].
        shift: t, 0..11, one per layer.
        alpha: [C], 0..3.
        zero_point: 0..255.
        kernels: compiled loops for the same.

    Returns:
        uint8 [..., C].
    """
    values = INT16.check(residual, "residual")
    rows = _rows(values, "residual")
    layer_shift = check_int(shift, 0, PTF_SHIFT_MAXIMUM, "PTF shift")
    offset = check_int(zero_point, 0, 255, "zero_point")
    factors = check_columns(alpha, UINT8, rows.shape[1], "alpha")
    check_range(factors, 0, PTF_ALPHA_MAXIMUM, "alpha")
    # rshr by its definition, in int32: at most 2^15 + 2^13. A shift of 0 has no half.
    shifts = np.broadcast_to(factors.astype(np.int32) + np.int32(layer_shift), rows.shape[1:])
    halves = (np.int32(1) << shifts) >> 1
    out = np.empty(rows.shape, dtype=np.uint8)
    if kernels is not None:
        kernels.ptf_codes(rows, halves, np.ascontiguousarray(shifts), offset, out)
        return out.reshape(values.shape)
    for block in row_blocks(*rows.shape):
        codes = rows[block].astype(np.int32)
        codes += halves
        codes >>= shifts
        codes += offset
        np.clip(codes, 0, 255, out=codes)
        np.copyto(out[block], codes, casting="unsafe")
    return out.reshape(values.shape)
