# SPDX-License-Identifier: Apache-2.0
"""AILayerNorm: LayerNorm on 8-bit power-of-two-factor codes with compressed squares and no divider.

After SOLE (ICCAD 2023, arXiv 2510.17189), Algorithm 2 and Fig. 5, in an exact integer form.
Notation: C channels; d = x - zero_point; Ex, Ex2 sums of d and d^2 over the row, each scaled by
2^alpha; V is C^2 times the variance; e half its binary exponent; r a 10-bit reciprocal square root;
kg ``gamma_shift``; fb ``beta_fraction_bits``.

Widths for C <= 1024 (``d`` below means ``|d| <= 255`` times ``2^alpha <= 8``, so 2040):

==========================  =====================================================  =================
signal                      bound                                                  bits
==========================  =====================================================  =================
Ex                          1024 * 2040 < 2^21                                     22 signed
Ex2                         1024 * 2040^2 < 2^32 (compressed: less)                32 unsigned
C*Ex2 - Ex^2, V             2^10 * 2^32, less a square below 2^42                  43 signed
gamma_q * r                 127 * 1020 < 2^17                                      18 signed
C*d*2^alpha - Ex            2 * 1024 * 2040 < 2^22                                 23 signed
their product               2^17 * 2^22 < 2^39                                     40 signed
==========================  =====================================================  =================

The reference accepts up to 65536 channels: then Ex < 2^27, C*Ex2 and Ex^2 < 2^54, 64*V < 2^60, so
int64 holds everything between the stages without wrapping. The sums and the second stage are done
in float64, exactly: Ex2 < 2^38; the product < 2^45; ``rshr(product, n) = floor(product * 2^-n +
1/2)`` is 2^-n times an integer of magnitude below 2^45 + 2^(n-1), where n <= 10 + 15 + 26; t is an
integer below 2^43, and its shift by fb <= 10 bits likewise. All have at most 53 significant bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.formats import (
    INT8,
    INT24,
    UINT8,
    check_columns,
    check_int,
    check_range,
    row_blocks,
)
from hwgen.numerics.rounding import floor_log2, rne_shift

_HALF = np.ldexp(1, -1)
Squares = Literal["compressed", "exact"]

CHANNELS_MINIMUM = 8
CHANNELS_MAXIMUM = (
    1 << 16
)  #: Bound of the reference's 64-bit arithmetic, see the module's docstring.
ALPHA_MAXIMUM = 3
GAMMA_MAXIMUM = 127
GAMMA_SHIFT_MAXIMUM = 15
BETA_FRACTION_BITS_MAXIMUM = 10
RSQRT_BITS = 10  #: Fraction bits of the reciprocal square root, and the width of a table entry.
RSQRT_INDEX_BITS = 6  #: Fraction bits of the table's index.
RSQRT_FIRST = 1 << RSQRT_INDEX_BITS  #: Index of the table's first entry, 64.


def _rsqrt_entry(k: int) -> int:
    """``round(2^10 / sqrt((k + 1/2) / 64))``, exactly.

    The square of the argument is 2^27 / (2k + 1). ``round(a) = floor((floor(2a) + 1) / 2)``, and
    ``floor(2a)`` is the integer square root of ``floor(4 a^2)``. There is no tie: it would need an
    odd divisor of 2^29 above 1.
    """
    double = isqrt((1 << (2 * RSQRT_BITS + RSQRT_INDEX_BITS + 3)) // (2 * k + 1))
    return (double + 1) >> 1


#: T[64..255]: ``RSQRT_TABLE[idx - 64]`` is the 10-bit reciprocal square root of index ``idx``.
RSQRT_TABLE: npt.NDArray[np.int16] = np.array(
    [_rsqrt_entry(k) for k in range(RSQRT_FIRST, 4 * RSQRT_FIRST)], dtype=np.int16
)
RSQRT_TABLE.flags.writeable = False


@dataclass(frozen=True, kw_only=True)
class AILayerNormShape:
    """What is built: lanes and the widest row. Everything else is run-time data."""

    lanes: int = 16  #: Channels per cycle; does not change the result.
    max_channels: int = 1024  #: Widest row.

    def __post_init__(self) -> None:
        """Refuse units that the contract does not cover."""
        check_int(self.lanes, 1, None, "lanes")
        check_int(self.max_channels, CHANNELS_MINIMUM, CHANNELS_MAXIMUM, "max_channels")

    @property
    def max_slices(self) -> int:
        """Groups of lanes of the widest row."""
        return -(-self.max_channels // self.lanes)

    @property
    def sum_bits(self) -> int:
        """Width of Ex, signed."""
        return (self.max_channels * 2040).bit_length() + 1

    @property
    def square_sum_bits(self) -> int:
        """Width of Ex2, unsigned, in either mode of the squares."""
        return (self.max_channels * 2040 * 2040).bit_length()

    @property
    def variance_bits(self) -> int:
        """Width of C*Ex2 - Ex^2, signed: it can be negative, because compressed squares err."""
        return (self.max_channels * self.max_channels * 2040 * 2040).bit_length() + 1

    @property
    def centred_bits(self) -> int:
        """Width of C*d*2^alpha - Ex, signed."""
        return (2 * self.max_channels * 2040).bit_length() + 1

    @property
    def product_bits(self) -> int:
        """Width of gamma_q * r * (C*d*2^alpha - Ex), signed."""
        largest = GAMMA_MAXIMUM * int(RSQRT_TABLE[0]) * 2 * self.max_channels * 2040
        return largest.bit_length() + 1


def dynamic_compress(
    magnitude: npt.ArrayLike,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Four significant bits of ``|d|``: ``|d|^2`` is about ``2^4 * y^2 * 2^(4 select)``.

    Below 64 ``y = rne(m / 4)``, with 16 carried into the coarse range as (4, 1), which is exact;
    otherwise ``y = min(15, rne(m / 16))`` and select is 1.

    Args:
        magnitude: 0..255, any shape.

    Returns:
        y (uint8, 0..15) and select (uint8, 0 or 1), of the shape of ``magnitude``.
    """
    m = UINT8.check(magnitude, "magnitude")
    fine = rne_shift(m, 2)
    coarse = np.minimum(rne_shift(m, 4), 15)
    is_coarse = m >= 64
    carried = ~is_coarse & (fine == 16)
    y = np.where(is_coarse, coarse, np.where(carried, 4, fine))
    return y.astype(np.uint8), (is_coarse | carried).astype(np.uint8)


def _square_table(zero_point: int, squares: Squares) -> npt.NDArray[np.int64]:
    """Entry x: the square of ``x - zero_point`` that the statistics see, with its factor 2^4."""
    d = np.arange(256, dtype=np.int64) - zero_point
    if squares == "exact":
        return d * d
    y, select = (part.astype(np.int64) for part in dynamic_compress(np.abs(d)))
    return ((y * y) << (4 * select)) << 4


class _Layer:
    """The constants of one layer as the rows' arithmetic takes them."""

    def __init__(
        self,
        *,
        square_table: npt.NDArray[np.int64],
        alpha: npt.NDArray[np.int64],
        gamma: npt.NDArray[np.int64],
        beta: npt.NDArray[np.int64],
        zero_point: int,
        gamma_shift: int,
        beta_fraction_bits: int,
        output_zero_point: int,
    ) -> None:
        """Convert; all arrays [C]."""
        self.channels = len(alpha)
        self.factors = (1 << alpha).astype(np.float64)
        self.square_factors = (1 << (2 * alpha)).astype(np.float64)
        self.squares = square_table.astype(np.float64)
        self.alpha, self.square_table = alpha, square_table
        self.zero_point = zero_point
        self.centring = self.channels * self.factors
        self.gamma = gamma.astype(np.float64)
        self.shift = RSQRT_BITS + gamma_shift - beta_fraction_bits
        self.output_zero_point = output_zero_point
        # rshr(t + beta, fb) = floor(t * 2^-fb + (beta * 2^-fb + 1/2))
        self.beta_factor = np.ldexp(1, -beta_fraction_bits)
        self.beta = np.ldexp(beta.astype(np.float64), -beta_fraction_bits) + _HALF

    def compiled(self, x: npt.NDArray[Any], out: npt.NDArray[np.int8], kernels: Kernels) -> None:
        """:meth:`rows` of any number of rows, by a compiled loop."""
        kernels.layer_norm(
            *(x, self.zero_point, self.alpha, self.square_table),
            *(RSQRT_TABLE.astype(np.float64), RSQRT_INDEX_BITS),
            *(self.centring, self.gamma, self.shift, _HALF, self.beta_factor, self.beta),
            *(self.output_zero_point, out),
        )

    def rows(self, x: npt.NDArray[Any], out: npt.NDArray[np.int8]) -> None:
        """One block of rows [R, C]."""
        # Stage 1: exact sums, so neither the order nor the number of lanes matters.
        d = x.astype(np.float64)
        d -= self.zero_point
        ex = (d @ self.factors).astype(np.int64)
        ex2 = (np.take(self.squares, x) @ self.square_factors).astype(np.int64)

        # Between the stages: sigma is never taken below one code, hence the floor C^2.
        v = np.maximum(self.channels * ex2 - ex * ex, self.channels * self.channels)
        e = floor_log2(v) >> 1
        index = (v << RSQRT_INDEX_BITS) >> (2 * e)
        r = RSQRT_TABLE[index - RSQRT_FIRST].astype(np.float64)

        # Stage 2. The shift is at least 10 + 3 + 0 - 10, because V >= C^2 >= 64 makes e >= 3.
        d *= self.centring
        d -= ex[:, None]
        d *= self.gamma
        d *= np.ldexp(r, -(self.shift + e))[:, None]
        d += _HALF
        np.floor(d, out=d)
        d *= self.beta_factor
        d += self.beta
        np.floor(d, out=d)
        d += self.output_zero_point
        np.clip(d, INT8.minimum, INT8.maximum, out=d)
        np.copyto(out, d, casting="unsafe")


def ailayernorm(
    x: npt.ArrayLike,
    *,
    alpha: npt.ArrayLike,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    zero_point: int = 128,
    gamma_shift: int = 6,
    beta_fraction_bits: int = 8,
    output_zero_point: int = 0,
    squares: Squares = "compressed",
    max_channels: int = 1024,
    kernels: Kernels | None = None,
) -> npt.NDArray[np.int8]:
    """AILayerNorm of every row (last axis).

    Args:
        x: uint8 range [..., C], 8 <= C <= max_channels: power-of-two-factor codes.
        alpha: [C], 0..3: channel c has scale ``s * 2^alpha_c``.
        gamma: [C], -127..127, scale ``s_out * 2^-gamma_shift``.
        beta: [C], signed 24 bits, scale ``s_out * 2^-beta_fraction_bits``.
        zero_point: of x, 0..255.
        gamma_shift: 0..15.
        beta_fraction_bits: 0..10.
        output_zero_point: -128..127.
        squares: ``"compressed"`` (SOLE's) or ``"exact"``.
        max_channels: the widest row that the unit takes.
        kernels: compiled loops for the same.

    Returns:
        int8 [..., C].
    """
    codes = UINT8.check(x, "x")
    if codes.ndim < 1:
        raise FormatError(f"x must have at least 1 axis, not shape {codes.shape}")
    check_int(max_channels, CHANNELS_MINIMUM, CHANNELS_MAXIMUM, "max_channels")
    channels = codes.shape[-1]
    check_int(channels, CHANNELS_MINIMUM, max_channels, "Channels of x")
    if squares not in ("compressed", "exact"):
        raise FormatError(f"squares must be 'compressed' or 'exact', not {squares!r}")
    zero_point = check_int(zero_point, 0, 255, "zero_point")
    alphas = check_columns(alpha, UINT8, channels, "alpha")
    check_range(alphas, 0, ALPHA_MAXIMUM, "alpha")
    gammas = check_columns(gamma, INT8, channels, "gamma")
    check_range(gammas, -GAMMA_MAXIMUM, GAMMA_MAXIMUM, "gamma")
    betas = check_columns(beta, INT24, channels, "beta")
    gamma_shift = check_int(gamma_shift, 0, GAMMA_SHIFT_MAXIMUM, "gamma_shift")
    beta_fraction_bits = check_int(
        beta_fraction_bits, 0, BETA_FRACTION_BITS_MAXIMUM, "beta_fraction_bits"
    )
    output_zero_point = check_int(
        output_zero_point, INT8.minimum, INT8.maximum, "output_zero_point"
    )
    layer = _Layer(
        square_table=_square_table(zero_point, squares),
        alpha=np.broadcast_to(alphas, channels).astype(np.int64),
        gamma=np.broadcast_to(gammas, channels).astype(np.int64),
        beta=np.broadcast_to(betas, channels).astype(np.int64),
        zero_point=zero_point,
        gamma_shift=gamma_shift,
        beta_fraction_bits=beta_fraction_bits,
        output_zero_point=output_zero_point,
    )
    rows = codes.reshape(-1, channels)
    out = np.empty(rows.shape, dtype=np.int8)
    if kernels is not None:
        layer.compiled(rows, out, kernels)
        return out.reshape(codes.shape)
    for block in row_blocks(*rows.shape):
        layer.rows(rows[block], out[block])
    return out.reshape(codes.shape)
