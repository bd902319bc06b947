# SPDX-License-Identifier: Apache-2.0
"""A matrix multiply and its requantise step as one pass: no accumulators in memory.

Equal to :mod:`hwgen.numerics.matmul` followed by :mod:`hwgen.numerics.requantise`, whose proofs of
exactness hold here: block of rows by block of rows the product leaves BLAS as floating-point
integers and becomes codes while it is in the cache. Weights and constants are checked and converted
once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.elementwise import byte_entries
from hwgen.numerics.formats import INT16, INT32, IntArray, check_int, check_weights, row_blocks
from hwgen.numerics.matmul import (
    FloatArray,
    accumulators,
    check_activations,
    check_reduction,
    stationary,
)
from hwgen.numerics.requantise import Scale, check_clip

#: So many times more activations than sums a block may have.
_LONG = 16


class Layer:
    """``requantise(activations @ weights)`` of one layer, int8 activations.

    Args:
        weights: [K, N], values of ``weight_bits`` bits.
        weight_bits: 1 ({-1, +1}) or 2..8 (symmetric).
        bias: int32 [N], or one for all columns, as are the others.
        multiplier: 0 (dead column) or 2^15..2^16-1.
        shift: 1..47.

    Raises:
        FormatError: a weight or constant outside its range, or a K for which int32 could overflow.
    """

    def __init__(
        self,
        weights: npt.ArrayLike,
        *,
        weight_bits: int,
        bias: npt.ArrayLike,
        multiplier: npt.ArrayLike,
        shift: npt.ArrayLike,
    ) -> None:
        """Check and convert."""
        codes = check_weights(weights, check_int(weight_bits, 1, 8, "Weight width"), "weights")
        if codes.ndim != 2:
            raise FormatError(f"Weights must have 2 axes, not shape {codes.shape}")
        check_reduction(codes.shape[0], weight_bits=weight_bits, signed=True)
        self._weights = stationary(codes, signed=True)
        self._scale = Scale(bias=bias, multiplier=multiplier, shift=shift, columns=codes.shape[1])
        magnitudes = np.abs(codes).sum(axis=0, dtype=np.int64)
        largest = 128 * int(magnitudes.max()) if codes.size else 0
        #: No activations can take accumulator + bias out of int32.
        self._safe = self._scale.fits(-largest, largest)

    def int8(
        self,
        activations: npt.ArrayLike,
        *,
        zero_point: int = 0,
        low: int = -128,
        high: int = 127,
        table: npt.ArrayLike | None = None,
        kernels: Kernels | None = None,
    ) -> npt.NDArray[np.int8]:
        """``clip(rshr((acc + bias) * multiplier, shift) + zero_point, low, high)``.

        Args:
            activations: int8 [..., K].
            zero_point: output zero point, -128..127.
            low: lower bound of the clip, int8.
            high: upper bound of the clip, int8, at least ``low``.
            table: int8 [256], applied to the codes if given: ``table[code + 128]``.
            kernels: compiled loops for the requantise step and the table.

        Returns:
            int8 [..., N].

        Raises:
            FormatError: another element type or length of the activations, an argument outside its
                range, or ``acc + bias`` outside int32.
        """
        offset, low, high = check_clip(zero_point=zero_point, low=low, high=high)
        rows, shape = self._rows(activations)
        out = np.empty((len(rows), shape[-1]), dtype=np.int8)
        entries = None if table is None else byte_entries(table)
        for block, product in self._products(rows):
            codes = out[block]
            self._scale.narrow(
                *(product, codes), zero_point=offset, low=low, high=high, kernels=kernels
            )
            if entries is None:
                continue
            if kernels is None:
                codes[...] = np.take(entries, codes.view(np.uint8))
            else:
                kernels.look_up(codes, entries)
        return out.reshape(shape)

    def int16(
        self,
        activations: npt.ArrayLike,
        residual: npt.ArrayLike | None = None,
        *,
        kernels: Kernels | None = None,
    ) -> npt.NDArray[np.int16]:
        """``clip(rshr((acc + bias) * multiplier, shift) + residual, -32768, 32767)``.

        Args:
            activations: int8 [..., K].
            residual: int16 [..., N], 0 if not given (the head).
            kernels: compiled loops for the requantise step.

        Returns:
            int16 [..., N].

        Raises:
            FormatError: as :meth:`int8` does.
        """
        rows, shape = self._rows(activations)
        added: IntArray | None = None
        if residual is not None:
            stream = INT16.check(residual, "residual")
            if stream.shape != shape:
                raise FormatError(f"residual must have shape {shape}, not {stream.shape}")
            added = stream.reshape(len(rows), shape[-1])
        out = np.empty((len(rows), shape[-1]), dtype=np.int16)
        for block, product in self._products(rows):
            self._scale.narrow(
                *(product, out[block]),
                added=None if added is None else added[block],
                low=INT16.minimum,
                high=INT16.maximum,
                kernels=kernels,
            )
        return out.reshape(shape)

    def _rows(self, activations: npt.ArrayLike) -> tuple[IntArray, tuple[int, ...]]:
        """Activations [M, K], and the output's shape."""
        values = check_activations(activations)
        reduction, columns = self._weights.shape
        if values.dtype.kind != "i":
            raise FormatError(f"Activations must be int8, not {values.dtype}")
        if values.ndim < 1 or values.shape[-1] != reduction:
            raise FormatError(
                f"Activations must have {reduction} columns, not shape {values.shape}"
            )
        count = int(np.prod(values.shape[:-1], dtype=np.int64))
        return values.reshape(count, reduction), (*values.shape[:-1], columns)

    def _products(self, rows: IntArray) -> Iterator[tuple[slice, FloatArray]]:
        """The sums, block of rows by block of rows."""
        # Blocks by the width of the sums, which are worked on further: BLAS is at its best with
        # many rows. Only a very long reduction has fewer.
        reduction, columns = self._weights.shape
        for block in row_blocks(len(rows), max(columns, reduction // _LONG)):
            product = np.matmul(rows[block].astype(self._weights.dtype), self._weights)
            if not self._safe and product.size:
                biased = product.astype(np.int64) + self._scale.bias
                INT32.check(biased, "accumulator + bias")
            yield block, product


def attention(
    activations: npt.ArrayLike,
    codes: npt.ArrayLike,
    *,
    multiplier: int,
    shift: int,
    low: int = -128,
    high: int = 127,
    row_shift: npt.ArrayLike | None = None,
    kernels: Kernels | None = None,
) -> npt.NDArray[np.int8]:
    """``clip(rshr(activations @ codes * multiplier, shift + row_shift), low, high)``.

    Args:
        activations: int8 (queries) or uint8 (softmax codes) [n, ..., M, K].
        codes: int8 within -127..127 [n, ..., K, N]: K transposed, or V.
        multiplier: 0 or 2^15..2^16-1.
        shift: 1..47.
        low: lower bound of the clip, int8.
        high: upper bound of the clip, int8, at least ``low``.
        row_shift: [n, ..., M], added to the shift of a row; None: nothing is added.
        kernels: compiled loops for the requantise step.

    Returns:
        int8 [n, ..., M, N].

    Raises:
        FormatError: another element type, shape or range of an argument.
    """
    stream, fixed = check_activations(activations), np.asarray(codes)
    if fixed.dtype != np.dtype(np.int8):
        raise FormatError(f"Stationary codes must be int8, not {fixed.dtype}")
    check_weights(fixed, 8, "weights")
    _, low, high = check_clip(low=low, high=high)
    shape = (*stream.shape[:-1], fixed.shape[-1])
    scale = Scale(bias=0, multiplier=multiplier, shift=shift, columns=shape[-1])
    rows = None if row_shift is None else scale.check_rows(row_shift, shape[:-1])
    out = np.empty(shape, dtype=np.int8)
    columns, within = shape[-1], int(np.prod(shape[1:-1]))
    for block in row_blocks(len(stream), within * columns):
        product = accumulators(stream[block], fixed[block])
        scale.narrow(
            product.reshape(-1, columns),
            out[block].reshape(-1, columns),
            rows=None if rows is None else rows[block.start * within : block.stop * within],
            low=low,
            high=high,
            kernels=kernels,
        )
    return out
