# SPDX-License-Identifier: Apache-2.0
"""Exact integer matrix multiply, the reference of the systolic array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import INT32, IntArray, check_int, check_weights, weight_format

#: Elements of the float64 copies that one BLAS call sees: bounds the memory of a whole batch.
_BLOCK_ELEMENTS = 1 << 22


def max_reduction(*, weight_bits: int = 8, signed: bool = True) -> int:
    """The longest reduction K whose accumulator cannot leave int32, whatever the values.

    Args:
        weight_bits: width of the weights, 1..8.
        signed: int8 activations (magnitude up to 128) if true, else uint8 (up to 255).
    """
    largest_product = (128 if signed else 255) * weight_format(weight_bits).maximum
    return INT32.maximum // largest_product


def _activations(activations: npt.ArrayLike) -> IntArray:
    values = np.asarray(activations)
    if values.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
        raise FormatError(f"Activations must be int8 or uint8, not {values.dtype}")
    return values


def _check_shapes(activations: npt.NDArray[Any], weights: npt.NDArray[Any]) -> None:
    for name, array in (("Activations", activations), ("Weights", weights)):
        if array.ndim < 2:
            raise FormatError(f"{name} must have at least 2 axes, not shape {array.shape}")
    if activations.shape[-1] != weights.shape[-2]:
        raise FormatError(
            f"Weights must have {activations.shape[-1]} rows, as many as the activations "
            f"{activations.shape} have columns, not shape {weights.shape}"
        )
    try:
        np.broadcast_shapes(activations.shape[:-2], weights.shape[:-2])
    except ValueError:
        raise FormatError(
            f"Leading axes must agree, not activations {activations.shape} "
            f"and weights {weights.shape}"
        ) from None


def matmul(
    activations: npt.ArrayLike, weights: npt.ArrayLike, *, weight_bits: int = 8
) -> npt.NDArray[np.int32]:
    """``activations @ weights``, exact, as int32 accumulators.

    Exactness of the float64 product: let A be the largest activation magnitude (128 or 255) and B
    the largest weight magnitude. K is refused unless ``K * A * B <= 2^31 - 1``. Every product is an
    integer of magnitude at most A*B, and a sum of any subset of the K products, in any order and
    with or without fused multiply-add, is an integer of magnitude at most ``K * A * B < 2^31``. All
    integers up to 2^53 are float64 numbers, so no operation rounds, whichever order and blocking
    the BLAS library takes; 22 bits are to spare.

    Args:
        activations: int8 or uint8 [..., M, K]; the element type decides the signedness.
        weights: [K, N] or, for attention, [..., K, N]; any integer element type, values of
            ``weight_bits`` bits.
        weight_bits: 1 ({-1, +1}) or 2..8 (symmetric).

    Returns:
        int32 [..., M, N].

    Raises:
        FormatError: wrong element type or shape, a weight outside its width, or a K for which int32
            could overflow.
    """
    a = _activations(activations)
    w = check_weights(weights, check_int(weight_bits, 1, 8, "Weight width"), "weights")
    _check_shapes(a, w)
    reduction, columns = w.shape[-2:]
    longest = max_reduction(weight_bits=weight_bits, signed=a.dtype.kind == "i")
    if reduction > longest:
        raise FormatError(
            f"Reduction length must be at most {longest}, not {reduction}",
            why=f"{a.dtype} activations times {weight_bits}-bit weights could overflow int32",
            nearest=longest,
        )
    w64 = w.astype(np.float64)
    if w.ndim > 2:
        batched: npt.NDArray[np.int32] = np.matmul(a.astype(np.float64), w64).astype(np.int32)
        return batched
    rows = a.reshape(-1, reduction) if reduction else a.reshape(int(np.prod(a.shape[:-1])), 0)
    out = np.empty((rows.shape[0], columns), dtype=np.int32)
    step = max(1, _BLOCK_ELEMENTS // max(1, reduction, columns))
    for start in range(0, rows.shape[0], step):
        block = slice(start, start + step)
        out[block] = rows[block].astype(np.float64) @ w64
    return out.reshape(*a.shape[:-1], columns)


def attention_matmul(
    activations: npt.ArrayLike, stationary: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    """Matrix multiply whose stationary operand is an activation too (K transposed, or V).

    Args:
        activations: int8 (queries) or uint8 (E2Softmax codes) [..., M, K].
        stationary: int8 codes within -127..127 [..., K, N], as every stationary operand must be.

    Returns:
        int32 [..., M, N].
    """
    codes = np.asarray(stationary)
    if codes.dtype != np.dtype(np.int8):
        raise FormatError(f"Stationary codes must be int8, not {codes.dtype}")
    return matmul(activations, codes, weight_bits=8)


def matmul_int64(activations: npt.ArrayLike, weights: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """``activations @ weights`` in 64-bit integers: slow, the truth for tests of :func:`matmul`."""
    a = np.asarray(activations).astype(np.int64)
    w = np.asarray(weights).astype(np.int64)
    product: npt.NDArray[np.int64] = np.matmul(a, w)
    return product
