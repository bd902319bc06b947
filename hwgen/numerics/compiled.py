# SPDX-License-Identifier: Apache-2.0
"""The loops of the integer graph, compiled by numba where it is installed.

Each does in one pass what a function of this package does in several; the function checks its
arguments, prepares the constants, says what is computed and why it is exact, and is the reference:
:mod:`tests.numerics.test_compiled` holds the two against each other. All arrays are contiguous.
The loops are compiled at their first call (seconds) and then found in numba's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Loop = Callable[..., None]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The compiled loops; the functions with their names say what the arguments are."""

    version: str  #: ``numba 0.68.1``
    scale: Loop
    scale_rows: Loop
    scale_added: Loop
    look_up: Loop
    ptf_codes: Loop
    layer_norm: Loop
    fractional_softmax: Loop


@cache
def compiled_kernels() -> Kernels | None:
    """The compiled loops; None where numba is missing, or not made for this Python or NumPy."""
    try:
        import numba
    except ImportError:
        return None
    # Threads of ours run at the same time; strict IEEE arithmetic is numba's default.
    compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
    return Kernels(
        version=f"numba {numba.__version__}",
        scale=compiled(_scale),
        scale_rows=compiled(_scale_rows),
        scale_added=compiled(_scale_added),
        look_up=compiled(_look_up),
        ptf_codes=compiled(_ptf_codes),
        layer_norm=compiled(_layer_norm),
        fractional_softmax=compiled(_fractional_softmax),
    )


def kernels_text(kernels: Kernels | None) -> str:
    """Which loops run, in a few words."""
    if kernels is None:
        return f"NumPy {np.__version__}"
    return f"loops compiled by {kernels.version}, NumPy {np.__version__}"


def _scale(
    accumulators: Array,
    factor: Array,
    offset: Array,
    zero_point: int,
    low: int,
    high: int,
    out: Array,
) -> None:
    """``clip(floor(acc * factor + offset) + zero_point, low, high)``, all [R, N] or [N]."""
    for r in range(accumulators.shape[0]):
        for c in range(accumulators.shape[1]):
            x = np.floor(accumulators[r, c] * factor[c] + offset[c]) + zero_point
            x = low if x < low else x
            x = high if x > high else x
            out[r, c] = np.int32(x)


def _scale_rows(
    accumulators: Array,
    factor: Array,
    constant: Array,
    rows: Array,
    half: Any,
    low: int,
    high: int,
    out: Array,
) -> None:
    """``clip(floor((acc * factor + constant) * row + half), low, high)``; rows [R]."""
    for r in range(accumulators.shape[0]):
        row = rows[r]
        for c in range(accumulators.shape[1]):
            x = np.floor((accumulators[r, c] * factor[c] + constant[c]) * row + half)
            x = low if x < low else x
            x = high if x > high else x
            out[r, c] = np.int32(x)


def _scale_added(
    accumulators: Array,
    factor: Array,
    offset: Array,
    added: Array,
    low: int,
    high: int,
    out: Array,
) -> None:
    """``clip(floor(acc * factor + offset) + added, low, high)``; added [R, N]."""
    for r in range(accumulators.shape[0]):
        for c in range(accumulators.shape[1]):
            x = np.floor(accumulators[r, c] * factor[c] + offset[c]) + added[r, c]
            x = low if x < low else x
            x = high if x > high else x
            out[r, c] = np.int32(x)


def _look_up(codes: Array, entries: Array) -> None:
    """``entries[byte of the code]`` in the place of int8 codes [R, N]."""
    for r in range(codes.shape[0]):
        for c in range(codes.shape[1]):
            codes[r, c] = entries[np.uint8(codes[r, c])]


def _ptf_codes(residual: Array, halves: Array, shifts: Array, zero_point: int, out: Array) -> None:
    """``clip(((r + half) >> shift) + zero_point, 0, 255)``: int16 [R, C], int32 [C], uint8."""
    for r in range(residual.shape[0]):
        for c in range(residual.shape[1]):
            x = ((np.int32(residual[r, c]) + halves[c]) >> shifts[c]) + zero_point
            out[r, c] = min(max(x, 0), 255)


def _layer_norm(
    x: Array,
    zero_point: int,
    alpha: Array,
    squares: Array,
    table: Array,
    table_bits: int,
    centring: Array,
    gamma: Array,
    shift: int,
    half: Any,
    beta_factor: Any,
    beta: Array,
    output_zero_point: int,
    out: Array,
) -> None:
    """AILayerNorm of codes uint8 [R, C]; the constants are those of ``ailayernorm._Layer``.

    One loop a step: with many arrays in one, the compiler does not see that none overlaps another.
    """
    channels = x.shape[1]
    normal = np.empty_like(beta)
    for r in range(x.shape[0]):
        ex = np.int64(0)
        ex2 = np.int64(0)
        for c in range(channels):
            code = x[r, c]
            ex += np.int32(code - zero_point) << alpha[c]
            ex2 += squares[code] << (2 * alpha[c])
        v = max(channels * ex2 - ex * ex, channels * channels)
        leading = 6  # V is at least 8^2
        while v >> (leading + 1):
            leading += 1
        e = leading >> 1
        index = ((v << table_bits) >> (2 * e)) - (1 << table_bits)
        reciprocal = np.ldexp(table[index], -(shift + e))
        for c in range(channels):
            t = ((x[r, c] - zero_point) * centring[c] - ex) * gamma[c]
            normal[c] = np.floor(t * reciprocal + half)
        for c in range(channels):
            y = np.floor(normal[c] * beta_factor + beta[c]) + output_zero_point
            y = -128 if y < -128 else y
            y = 127 if y > 127 else y
            out[r, c] = np.int32(y)


def _fractional_softmax(
    logits: Array,
    terms: Array,
    table: Array,
    one_bits: int,
    divider_bits: int,
    codes: Array,
    shifts: Array,
) -> None:
    """Fractional softmax of rows int8 [R, L], by the tables that the reference makes."""
    mask = (1 << divider_bits) - 1
    for r in range(logits.shape[0]):
        largest = logits[r, 0]
        for c in range(logits.shape[1]):
            largest = max(largest, logits[r, c])
        total = np.int64(0)
        for c in range(logits.shape[1]):
            total += terms[np.uint8(largest - logits[r, c])]
        leading = one_bits  # the largest element's own term is 1
        while total >> (leading + 1):
            leading += 1
        quotient = (total >> (leading - divider_bits)) & mask
        shifts[r] = leading - one_bits
        for c in range(logits.shape[1]):
            codes[r, c] = table[quotient, np.uint8(largest - logits[r, c])]
