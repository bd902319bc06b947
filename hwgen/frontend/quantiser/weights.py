# SPDX-License-Identifier: Apache-2.0
"""Codes and scales of weights, multipliers and shifts of scale ratios."""

from __future__ import annotations

import numpy as np

from hwgen.errors import CheckpointError
from hwgen.numerics.requantise import SHIFT_MAXIMUM

#: A ratio of scales is below this: from here on a multiplier rounds to 2^16 and its shift to 0.
RATIO_LIMIT = 2.0**15 - 0.25


def quantise_weights(
    weights: np.ndarray, bits: int, importance: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes int8 [K, N] and scales float64 [N] of weights [K, N].

    Symmetric per column. 1 bit: sign times mean magnitude, sign(0) = +1. 2..6 bits: the clip level
    with the least error, each input weighed by ``importance`` [K] (its mean square). 7 and 8 bits:
    the largest magnitude. A scale is never below ``least`` [N]; a column of zeros gets ``least``.
    """
    w = weights.astype(np.float64)
    if bits == 1:
        scale = np.maximum(_snap_all(np.abs(w).mean(axis=0)), least)
        return np.where(w < 0, -1, 1).astype(np.int8), scale
    limit = (1 << (bits - 1)) - 1
    peak = np.abs(w).max(axis=0)
    scale = peak / limit
    if bits <= 6:
        scale = _search_scales(w, limit, peak, importance)
    scale = np.maximum(_snap_all(scale), least)
    divisor = np.where(scale > 0, scale, 1.0)
    codes = np.clip(np.rint(w / divisor), -limit, limit)
    return codes.astype(np.int8), scale


def _search_scales(
    w: np.ndarray, limit: int, peak: np.ndarray, importance: np.ndarray
) -> np.ndarray:
    h = importance[:, None]
    best = np.full(w.shape[1], np.inf)
    out = peak / limit
    for factor in np.linspace(1.0, 0.3, 24):
        scale = np.where(peak > 0, peak * factor / limit, 1.0)
        codes = np.clip(np.rint(w / scale), -limit, limit)
        # With the codes fixed the best scale is a least-squares fit.
        weighed = codes * h
        norm = (weighed * codes).sum(axis=0)
        scale = np.where(norm > 0, (weighed * w).sum(axis=0) / np.where(norm > 0, norm, 1), scale)
        codes = np.clip(np.rint(w / np.where(scale > 0, scale, 1.0)), -limit, limit)
        error = (h * (codes * scale - w) ** 2).sum(axis=0)
        better = (error < best) & (scale > 0)
        best, out = np.where(better, error, best), np.where(better, scale, out)
    return out


def _snap_all(scales: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(scales)
    out: np.ndarray = np.ldexp(np.rint(mantissa * 4096) / 4096, exponent)
    return out


def fixed_points(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return m (2^15..2^16-1) and e with m / 2^e next to the ratios, 2^-31 up to RATIO_LIMIT."""
    mantissa, exponent = np.frexp(np.where(ratio > 0, ratio, 0.5))
    m = np.rint(mantissa * 65536).astype(np.int64)
    exponent = exponent + (m == 65536)
    m = np.where(m == 65536, 32768, m)
    return m.astype(np.uint16), (16 - exponent).astype(np.uint8)


def fixed_point(ratio: float, where: str, room: int = 0) -> tuple[int, int]:
    """The same for one ratio; e is at most 47 - ``room``."""
    if not 2.0 ** (room - 31) <= ratio < RATIO_LIMIT:
        raise CheckpointError(
            f"Scale ratio of {where!r} must be within 2^{room - 31}..2^15 for a 16-bit multiplier"
            f" and a shift of 1..{SHIFT_MAXIMUM - room}, not {ratio:.6g}"
        )
    m, e = fixed_points(np.array([ratio]))
    return int(m[0]), int(e[0])
