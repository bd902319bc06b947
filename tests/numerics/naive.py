# SPDX-License-Identifier: Apache-2.0
"""Deliberately naive models of every unit: Python integers, one element at a time.

Written from the definition of each unit line by line and independent of the package: nothing of
:mod:`hwgen` is imported. Slow and plain on purpose; the vectorised units are compared with them.
"""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from math import floor

Row = list[int]


def rshr(x: int, n: int) -> int:
    """floor((x + 2^(n-1)) / 2^n) in rational numbers."""
    if n == 0:
        return x
    return floor((x + Fraction(2**n, 2)) / 2**n)


def rne(x: Fraction) -> int:
    """Nearest integer, ties to even: what Python's round does on rationals."""
    return round(x)


def clip(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def log2exp(d: int, f: int) -> int:
    return min(15, rshr(23 * d, f + 4))


def e2softmax(row: Row, *, f: int, vec: int) -> Row:
    exponents: Row = []
    maxima: Row = []  # of each slice, running
    total = 0
    previous = None
    for start in range(0, len(row), vec):
        group = row[start : start + vec]
        maximum = max(group) if previous is None else max(previous, *group)
        if previous is not None:
            total = total >> log2exp(maximum - previous, f)
        for x in group:
            y = log2exp(maximum - x, f)
            exponents.append(y)
            total += 2 ** (15 - y)
        maxima.append(maximum)
        previous = maximum
    leading = len(bin(total)) - 3  # "0b1..." has the leading one at position len - 3
    ks = leading - 15
    q = bin(total)[3]
    c = 145 if q == "1" else 209
    out = []
    for i, y in enumerate(exponents):
        correction = log2exp(maxima[-1] - maxima[i // vec], f)
        out.append(rshr(c, min(15, correction + y) + ks))
    return out


#: 60 decimal digits; its powers and logarithms are correctly rounded.
EXACT = Context(prec=60)


@cache
def exponential(j: int, g: int) -> int:
    """E[j] = rne(2^15 * 2^(-j / 2^g))"""
    return rne(Fraction(EXACT.power(Decimal(2), EXACT.divide(Decimal(15 * 2**g - j), 2**g))))


@cache
def reciprocal(j: int, q: int, g: int, bits: int) -> int:
    """R[j][q] = rne(2^8 * 2^(-j / 2^g) * 2^Q * ln((2^Q + q + 1) / (2^Q + q)))"""
    power = EXACT.power(Decimal(2), EXACT.divide(Decimal((8 + bits) * 2**g - j), 2**g))
    ratio = EXACT.divide(Decimal(2**bits + q + 1), Decimal(2**bits + q))
    return rne(Fraction(EXACT.multiply(power, EXACT.ln(ratio))))


def fractional_softmax(row: Row, *, f: int, g: int, bits: int) -> tuple[Row, int]:
    maximum = max(row)
    exponents = [min(2 ** (4 + g) - 1, rshr(23 * (maximum - x), f + 4 - g)) for x in row]
    total = 0
    for y in exponents:
        total += floor(Fraction(exponential(y % 2**g, g), 2 ** (y // 2**g)))
    leading = len(bin(total)) - 3
    q = int(bin(total)[3 : 3 + bits], 2)
    codes = [rshr(reciprocal(y % 2**g, q, g, bits), y // 2**g) for y in exponents]
    return codes, leading - 15


def dynamic_compress(m: int) -> tuple[int, int]:
    if m < 64:
        y = rne(Fraction(m, 4))
        return (4, 1) if y == 16 else (y, 0)
    return min(15, rne(Fraction(m, 16))), 1


@cache
def rsqrt(k: int) -> int:
    """round(2^10 / sqrt((k + 1/2)/64)) by search: the t whose square brackets the exact value."""
    square = Fraction(2**20) / ((Fraction(k) + Fraction(1, 2)) / 64)
    t = 0
    while (t + Fraction(1, 2)) ** 2 <= square:
        t += 1
    return t


def ailayernorm(
    row: Row,
    *,
    alpha: Row,
    gamma: Row,
    beta: Row,
    zp: int,
    kg: int,
    fb: int,
    zo: int,
    squares: str,
) -> Row:
    channels = len(row)
    ex = 0
    ex2 = 0
    for x, a in zip(row, alpha, strict=True):
        d = x - zp
        ex += d * 2**a
        if squares == "exact":
            ex2 += d**2 * 2 ** (2 * a)
        else:
            y, sel = dynamic_compress(abs(d))
            ex2 += 2**4 * y**2 * 2 ** (4 * sel) * 2 ** (2 * a)
    v = max(channels * ex2 - ex**2, channels**2)
    e = (v.bit_length() - 1) // 2
    idx = floor(Fraction(v * 64, 4**e))
    assert 64 <= idx <= 255
    r = rsqrt(idx)
    out = []
    for x, a, g, b in zip(row, alpha, gamma, beta, strict=True):
        t = rshr(g * r * (channels * (x - zp) * 2**a - ex), 10 + e + kg - fb) + b
        out.append(clip(rshr(t, fb) + zo, -128, 127))
    return out


def matmul(a: list[Row], w: list[Row]) -> list[Row]:
    return [
        [sum(a[i][k] * w[k][j] for k in range(len(w))) for j in range(len(w[0]))]
        for i in range(len(a))
    ]


def requantise(acc: int, b: int, m: int, e: int, zo: int = 0, lo: int = -128, hi: int = 127) -> int:
    return clip(rshr((acc + b) * m, e) + zo, lo, hi)


def requantise_shifted(acc: int, b: int, m: int, e: int, ks: int, lo: int, hi: int) -> int:
    return clip(rshr((acc + b) * m, e + ks), lo, hi)


def requantise_residual(acc: int, b: int, m: int, e: int, r: int) -> int:
    return clip(rshr((acc + b) * m, e) + r, -32768, 32767)


def ptf_code(r: int, t: int, alpha: int, zp: int) -> int:
    return clip(rshr(r, t + alpha) + zp, 0, 255)
