# SPDX-License-Identifier: Apache-2.0
r"""Weight slices: how a layer of weight width W runs on columns of width Wc < W.

A weight is cut into ``ceil(W / Wc)`` digits, least significant first::

    weight = sum over passes p of digit_p * 2^(p * Wc)

All digits but the top one are unsigned, 0..2^Wc - 1; the top one is signed two's complement. Signed
digits throughout could not do it: [-7, 7] digits reach only +-119 of the 8-bit range, and +-1
digits only odd numbers. The array makes one pass per slice and adds the result, shifted left, to
the accumulator.

What a column does with its Wc stored bits is a flag of the pass, :class:`DigitMode`:

* ``UNSIGNED``: the bits are 0..2^Wc - 1;
* ``SIGNED``: the bits are two's complement, -2^(Wc-1)..2^(Wc-1) - 1. The top slice of a cut weight
  can be -2^(Wc-1), which no weight of a layer of width Wc is. A top slice of fewer than Wc
  significant bits is sign-extended. On 1-bit columns the bit means 0 or -1;
* ``SIGN``: only 1-bit columns, only layers of width 1: bit 0 means +1 and bit 1 means -1.

A layer with W <= Wc is a single slice, the weights themselves; weights of width 1 are a single
slice on any column and are ordinary two's complement -1 and +1 on columns of 2 bits and more.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import check_int, check_range, check_weights


class DigitMode(IntEnum):
    """What the stored bits of a column mean during a pass."""

    UNSIGNED = 0
    SIGNED = 1
    SIGN = 2


class WeightSlice(NamedTuple):
    """One pass over the weights."""

    digits: npt.NDArray[np.int8]  #: Digit values, the shape of the weights.
    left_shift: int  #: Shift of the pass's result into the accumulator.
    signed: bool  #: False: digits are 0..2^Wc - 1. True: the top slice.


def slice_count(weight_bits: int, column_bits: int) -> int:
    """Passes of a layer of ``weight_bits`` on columns of ``column_bits``: ``ceil(W / Wc)``."""
    w = check_int(weight_bits, 1, 8, "Weight width")
    c = check_int(column_bits, 1, 8, "Column width")
    return -(-w // c)


def weight_slices(weights: npt.ArrayLike, weight_bits: int, column_bits: int) -> list[WeightSlice]:
    """Cut weights into slices, least significant first: ``sum(digits << left_shift) == weights``.

    Args:
        weights: any shape, values of ``weight_bits`` bits.
        weight_bits: W, 1..8.
        column_bits: Wc, 1..8.

    Returns:
        ``ceil(W / Wc)`` slices; all but the last unsigned.
    """
    passes = slice_count(weight_bits, column_bits)
    values = check_weights(weights, weight_bits)
    mask = (1 << column_bits) - 1
    # A cut weight has Wc <= 7, so unsigned digits fit int8; >> floors, so the top keeps the sign.
    slices = [
        WeightSlice(((values >> (p * column_bits)) & mask).astype(np.int8), p * column_bits, False)
        for p in range(passes - 1)
    ]
    shift = (passes - 1) * column_bits
    slices.append(WeightSlice((values >> shift).astype(np.int8), shift, True))
    return slices


def digit_mode(*, weight_bits: int, column_bits: int, signed: bool) -> DigitMode:
    """The pass flag of a slice of a layer of ``weight_bits`` on columns of ``column_bits``."""
    if not signed:
        return DigitMode.UNSIGNED
    if weight_bits == 1 and column_bits == 1:
        return DigitMode.SIGN
    return DigitMode.SIGNED


def encode_digits(
    digits: npt.ArrayLike, *, column_bits: int, mode: DigitMode
) -> npt.NDArray[np.uint8]:
    """The ``column_bits`` bits that a column stores for each digit, 0..2^Wc - 1."""
    c = check_int(column_bits, 1, 8, "Column width")
    if mode is DigitMode.SIGN:
        signs = check_weights(digits, 1, "digits")
        if c != 1:
            raise FormatError(f"Column width must be 1 in mode SIGN, not {c}", nearest=1)
        return (signs < 0).astype(np.uint8)
    low, high = (0, (1 << c) - 1)
    if mode is DigitMode.SIGNED:
        low, high = -(1 << (c - 1)), (1 << (c - 1)) - 1
    values = check_range(digits, low, high, "digits").astype(np.int16)
    return (values & ((1 << c) - 1)).astype(np.uint8)


def decode_digits(
    codes: npt.ArrayLike, *, column_bits: int, mode: DigitMode
) -> npt.NDArray[np.int16]:
    """The digit that each stored code means: the inverse of :func:`encode_digits`."""
    c = check_int(column_bits, 1, 8, "Column width")
    values = check_range(codes, 0, (1 << c) - 1, "codes").astype(np.int16)
    if mode is DigitMode.UNSIGNED:
        return values
    if mode is DigitMode.SIGN:
        if c != 1:
            raise FormatError(f"Column width must be 1 in mode SIGN, not {c}", nearest=1)
        return (1 - 2 * values).astype(np.int16)
    return (values - ((values >> (c - 1)) << c)).astype(np.int16)
