# SPDX-License-Identifier: Apache-2.0
"""Exact integer matrix multiply, the reference of the systolic array.

The products are computed by floating-point BLAS, in the narrower type that is exact. Let A be the
largest activation magnitude (128 or 255) and S the largest sum of a column's weight magnitudes.
Every product of a column is an integer, and a sum of any subset of them, in any order and with or
without fused multiply-add, is an integer of magnitude at most ``A * S``. All integers up to 2^24
are float32 numbers, all up to 2^53 float64 ones. So with ``A * S <= 2^24`` no operation in float32
rounds, whichever order and blocking the library takes; and none in float64 ever does, since a K
whose accumulator could leave int32 is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import (
    INT32,
    IntArray,
    check_int,
    check_weights,
    row_blocks,
    weight_format,
)

FloatArray = npt.NDArray[np.floating[Any]]

#: All integers up to this magnitude are float32 numbers.
_FLOAT32_INTEGERS = 1 << 24
#: Largest activation magnitude by kind of element type.
_LARGEST = {"i": 128, "u": 255}


def max_reduction(*, weight_bits: int = 8, signed: bool = True) -> int:
    """The longest reduction K whose accumulator cannot leave int32, whatever the values.

    Args:
        weight_bits: width of the weights, 1..8.
        signed: int8 activations (magnitude up to 128) if true, else uint8 (up to 255).
    """
    largest_product = (128 if signed else 255) * weight_format(weight_bits).maximum
    return INT32.maximum // largest_product


def check_activations(activations: npt.ArrayLike) -> IntArray:
    """Activations as an array; refused unless int8 or uint8."""
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


def stationary(weights: npt.NDArray[np.int8], *, signed: bool) -> FloatArray:
    """The stationary operand as BLAS takes it: in float32 if that is exact, else in float64.

    Args:
        weights: int8 [..., K, N], none of them -128.
        signed: int8 activations if true, else uint8.
    """
    largest = _LARGEST["i" if signed else "u"]
    bound = largest * 127 * weights.shape[-2]
    if bound > _FLOAT32_INTEGERS and weights.size:
        # The magnitudes of the weights at hand, in the place of the largest possible ones.
        bound = largest * int(np.abs(weights).sum(axis=-2, dtype=np.int64).max())
    return weights.astype(np.float32 if bound <= _FLOAT32_INTEGERS else np.float64)


def check_reduction(length: int, *, weight_bits: int, signed: bool) -> None:
    """Refuse a reduction K for which int32 accumulators could overflow."""
    longest = max_reduction(weight_bits=weight_bits, signed=signed)
    if length > longest:
        kind = "int8" if signed else "uint8"
        raise FormatError(
            f"Reduction length must be at most {longest}, not {length}",
            why=f"{kind} activations times {weight_bits}-bit weights could overflow int32",
            nearest=longest,
        )


def matmul(
    activations: npt.ArrayLike, weights: npt.ArrayLike, *, weight_bits: int = 8
) -> npt.NDArray[np.int32]:
    """``activations @ weights``, exact, as int32 accumulators.

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
    a = check_activations(activations)
    w = check_weights(weights, check_int(weight_bits, 1, 8, "Weight width"), "weights")
    return accumulators(a, w, weight_bits=weight_bits).astype(np.int32)


def accumulators(
    activations: IntArray, weights: npt.NDArray[np.int8], *, weight_bits: int = 8
) -> FloatArray:
    """:func:`matmul` of checked weights, as the floating-point integers that BLAS makes of it."""
    signed = activations.dtype.kind == "i"
    _check_shapes(activations, weights)
    check_reduction(weights.shape[-2], weight_bits=weight_bits, signed=signed)
    w = stationary(weights, signed=signed)
    if w.ndim > 2:
        batched: FloatArray = np.matmul(activations.astype(w.dtype), w)
        return batched
    reduction, columns = w.shape
    rows = (
        activations.reshape(-1, reduction)
        if reduction
        else activations.reshape(int(np.prod(activations.shape[:-1])), 0)
    )
    out = np.empty((rows.shape[0], columns), dtype=w.dtype)
    for block in row_blocks(rows.shape[0], max(reduction, columns)):
        np.matmul(rows[block].astype(w.dtype), w, out=out[block])
    return out.reshape(*activations.shape[:-1], columns)


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
