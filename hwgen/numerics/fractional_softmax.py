# SPDX-License-Identifier: Apache-2.0
"""E2Softmax with fractional exponents, a finer divider and one exponent per row.

Derived from SOLE's E2Softmax (:mod:`hwgen.numerics.e2softmax`). Exponents have g fraction bits, the
divider Q bits, and the power of two of the division is not applied to the codes but handed on:
a row keeps 8 significant bits whatever its length. Neither multiplier nor divider. Row X of int8
logits with f fraction bits, 1 <= L <= 4095::

    M    = max X
    Y_i  = min(2^(4+g) - 1, rshr(23 * (M - X_i), f + 4 - g));  a_i = Y_i >> g;  j_i = Y_i mod 2^g
    E[j] = rne(2^15 * 2^(-j / 2^g));  Sum = sum (E[j_i] >> a_i)
    ks   = LOD(Sum) - 15;  q = (Sum >> (LOD(Sum) - Q)) mod 2^Q
    R[j][q] = rne(2^8 * 2^(-j / 2^g) * 2^Q * ln((2^Q + q + 1) / (2^Q + q)))
    code_i = rshr(R[j_i][q], a_i)

The weight of key i is ``code_i * 2^-(8 + ks)``; ks, the row's *shift*, is 0..11 and is added to the
shift with which the weighted sum of the values is requantised. R is the mean of ``1 / (1 + s)``
over the interval of s that q stands for. The maximum is that of the whole row, so the slice length
of the hardware is no part of the function.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.e2softmax import (
    FRACTION_BITS_MAXIMUM,
    LOG2E_NUMERATOR,
    LOG2E_SHIFT,
    ONE_SUM_BITS,
)
from hwgen.numerics.formats import INT8, UINT8, check_int, row_blocks
from hwgen.numerics.rounding import floor_log2, rshr

EXPONENT_FRACTION_BITS = 2  #: Default of g.
EXPONENT_FRACTION_BITS_MAXIMUM = 3
DIVIDER_BITS = 4  #: Default of Q.
DIVIDER_BITS_MINIMUM = 1
DIVIDER_BITS_MAXIMUM = 5
LENGTH_MAXIMUM = 4095  #: Longest row.
CODE_BITS = 8
SHIFT_BITS = 4  #: A row's shift, 0..11.
#: What a row's shift may add to the shift of its weighted sum, at most.
SHIFT_ROOM = 12
#: Fraction bits of the intermediate numbers behind the tables; their entries need some 20.
_PRECISION = 96


def check_parameters(exponent_fraction_bits: object, divider_bits: object) -> tuple[int, int]:
    """Check g and Q; return them."""
    g = check_int(
        exponent_fraction_bits, 0, EXPONENT_FRACTION_BITS_MAXIMUM, "exponent_fraction_bits"
    )
    q = check_int(divider_bits, DIVIDER_BITS_MINIMUM, DIVIDER_BITS_MAXIMUM, "divider_bits")
    return g, q


def exponent_maximum(exponent_fraction_bits: int) -> int:
    """``2^(4+g) - 1``, where exponents saturate: the code is 0 there."""
    return (16 << exponent_fraction_bits) - 1


@cache
def _root(j: int, exponent_fraction_bits: int) -> int:
    """``2^(-j / 2^g)`` with :data:`_PRECISION` fraction bits, rounded down: g square roots."""
    value = 1 << (_PRECISION - j)
    for _ in range(exponent_fraction_bits):
        value = isqrt(value << _PRECISION)
    return value


def _nearest(value: int, fraction_bits: int) -> int:
    """Nearest integer of a number with so many fraction bits; none of the tables' is a tie."""
    return (value + (1 << (fraction_bits - 1))) >> fraction_bits


def exponentials(exponent_fraction_bits: int = EXPONENT_FRACTION_BITS) -> tuple[int, ...]:
    """E[j] for j in 0..2^g - 1: ``2^(-j / 2^g)`` with 15 fraction bits."""
    g, _ = check_parameters(exponent_fraction_bits, DIVIDER_BITS)
    return tuple(_nearest(_root(j, g), _PRECISION - ONE_SUM_BITS) for j in range(1 << g))


@cache
def reciprocals(
    exponent_fraction_bits: int = EXPONENT_FRACTION_BITS, divider_bits: int = DIVIDER_BITS
) -> tuple[tuple[int, ...], ...]:
    """R[j][q] for j in 0..2^g - 1 and q in 0..2^Q - 1, at most 252: codes of exponent j / 2^g."""
    g, bits = check_parameters(exponent_fraction_bits, divider_bits)
    rows = []
    for j in range(1 << g):
        row = []
        for q in range(1 << bits):
            # ln((n + 1) / n) = 2 * sum over odd k of (1 / (2 n + 1))^k / k
            odd = 2 * ((1 << bits) + q) + 1
            power, logarithm, k = (2 << _PRECISION) // odd, 0, 1
            while power:
                logarithm += power // k
                power //= odd * odd
                k += 2
            product = (_root(j, g) * logarithm) << (CODE_BITS + bits)
            row.append(_nearest(product, 2 * _PRECISION))
        rows.append(tuple(row))
    return tuple(rows)


def fractional_exponent(
    distance: npt.ArrayLike,
    fraction_bits: int,
    exponent_fraction_bits: int = EXPONENT_FRACTION_BITS,
) -> npt.NDArray[np.uint8]:
    """Y: ``min(2^(4+g) - 1, rshr(23 * d, f + 4 - g))``, the negated binary logarithm of exp.

    Args:
        distance: d = maximum - element, 0..255, any shape.
        fraction_bits: f, 0..15.
        exponent_fraction_bits: g, 0..3.

    Returns:
        uint8 of 4 + g bits with g fraction bits, of the shape of ``distance``.
    """
    g, _ = check_parameters(exponent_fraction_bits, DIVIDER_BITS)
    d = UINT8.check(distance, "distance").astype(np.int32)
    f = check_int(fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")
    exponent = rshr(LOG2E_NUMERATOR * d, f + LOG2E_SHIFT - g)
    return np.minimum(exponent, exponent_maximum(g)).astype(np.uint8)


def fractional_softmax(
    logits: npt.ArrayLike,
    *,
    fraction_bits: int = 4,
    exponent_fraction_bits: int = EXPONENT_FRACTION_BITS,
    divider_bits: int = DIVIDER_BITS,
    max_length: int = 1024,
    kernels: Kernels | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Fractional softmax of every row (last axis).

    Args:
        logits: int8 range [..., L], scale 2^-fraction_bits, 1 <= L <= max_length.
        fraction_bits: f, 0..15.
        exponent_fraction_bits: g, 0..3.
        divider_bits: Q, 1..5.
        max_length: the longest row that the unit takes, at most 4095.
        kernels: compiled loops for the same.

    Returns:
        Codes uint8 [..., L] and shifts uint8 [...]: the weights are ``codes * 2^-(8 + shifts)``.

    Raises:
        FormatError: a value or parameter outside its range.
    """
    g, bits = check_parameters(exponent_fraction_bits, divider_bits)
    values = INT8.check(logits, "logits")
    if values.ndim < 1:
        raise FormatError(f"logits must have at least 1 axis, not shape {values.shape}")
    longest = check_int(max_length, 1, LENGTH_MAXIMUM, "max_length")
    length = check_int(values.shape[-1], 1, longest, "Row length")

    # A row's elements matter by their distance to its maximum only: terms and codes are tables.
    exponent = fractional_exponent(np.arange(256), fraction_bits, g)
    whole, part = exponent >> g, exponent & ((1 << g) - 1)
    terms = np.array(exponentials(g), np.int32)[part] >> whole
    reciprocal = np.array(reciprocals(g, bits), np.int32)
    table = rshr(reciprocal[part].T, whole).astype(np.uint8)  # [q, distance]

    rows = values.reshape(-1, length)
    codes = np.empty(rows.shape, np.uint8)
    shifts = np.empty(rows.shape[0], np.uint8)
    if kernels is not None:
        kernels.fractional_softmax(rows, terms, table, ONE_SUM_BITS, bits, codes, shifts)
        return codes.reshape(values.shape), shifts.reshape(values.shape[:-1])
    for block in row_blocks(rows.shape[0], length):
        # intp is what `take` would make of any other index.
        index = rows[block].astype(np.intp)
        np.subtract(index.max(axis=1, keepdims=True), index, out=index)
        total = terms.take(index).sum(axis=1, dtype=np.int64)
        leading = floor_log2(total)
        quotient = (total >> (leading - bits)) & ((1 << bits) - 1)
        shifts[block] = leading - ONE_SUM_BITS
        index += quotient[:, None] * table.shape[1]
        table.take(index, out=codes[block], mode="clip")
    return codes.reshape(values.shape), shifts.reshape(values.shape[:-1])
