# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.numerics.matmul import matmul_int64
from hwgen.numerics.slices import (
    DigitMode,
    decode_digits,
    digit_mode,
    encode_digits,
    slice_count,
    weight_slices,
)

WIDTHS = [(w, c) for w in range(1, 9) for c in range(1, 9)]


def _all_weights(bits: int) -> np.ndarray:
    if bits == 1:
        return np.array([-1, 1], dtype=np.int8)
    limit = 2 ** (bits - 1) - 1
    return np.arange(-limit, limit + 1).astype(np.int8)


@pytest.mark.parametrize(("weight_bits", "column_bits"), WIDTHS)
def test_digits_give_back_every_weight(weight_bits: int, column_bits: int) -> None:
    weights = _all_weights(weight_bits)
    slices = weight_slices(weights, weight_bits, column_bits)
    assert len(slices) == slice_count(weight_bits, column_bits) == -(-weight_bits // column_bits)
    total = [0] * len(weights)
    for p, (digits, left_shift, signed) in enumerate(slices):
        assert left_shift == p * column_bits
        assert signed == (p == len(slices) - 1)
        total = [t + (int(d) << left_shift) for t, d in zip(total, digits, strict=True)]
    assert total == weights.tolist()


@pytest.mark.parametrize(("weight_bits", "column_bits"), WIDTHS)
def test_digits_fit_the_bits_of_the_column(weight_bits: int, column_bits: int) -> None:
    for digits, _, signed in weight_slices(_all_weights(weight_bits), weight_bits, column_bits):
        mode = digit_mode(weight_bits=weight_bits, column_bits=column_bits, signed=signed)
        codes = encode_digits(digits, column_bits=column_bits, mode=mode)
        assert codes.max() < 2**column_bits
        assert np.array_equal(decode_digits(codes, column_bits=column_bits, mode=mode), digits)


@pytest.mark.parametrize(("weight_bits", "column_bits"), WIDTHS)
def test_passes_over_slices_multiply_like_the_weights(weight_bits: int, column_bits: int) -> None:
    rng = np.random.default_rng(weight_bits * 9 + column_bits)
    weights = rng.choice(_all_weights(weight_bits), (12, 5))
    a = rng.integers(-128, 128, (3, 12))
    total = np.zeros((3, 5), dtype=np.int64)
    for digits, left_shift, _ in weight_slices(weights, weight_bits, column_bits):
        total += matmul_int64(a, digits) << left_shift
    assert np.array_equal(total, matmul_int64(a, weights))


def test_the_three_meanings_of_a_one_bit_column() -> None:
    def mode(weight_bits: int, signed: bool) -> DigitMode:
        return digit_mode(weight_bits=weight_bits, column_bits=1, signed=signed)

    def decoded(kind: DigitMode) -> list[int]:
        return decode_digits([0, 1], column_bits=1, mode=kind).tolist()

    assert decoded(mode(1, True)) == [1, -1]
    assert decoded(mode(4, False)) == [0, 1]
    assert decoded(mode(4, True)) == [0, -1]


def test_known_slices() -> None:
    low, high = weight_slices([-127, 127, -1], 8, 4)
    assert (low.digits.tolist(), low.left_shift, low.signed) == ([1, 15, 15], 0, False)
    assert (high.digits.tolist(), high.left_shift, high.signed) == ([-8, 7, -1], 4, True)
    assert encode_digits(high.digits, column_bits=4, mode=DigitMode.SIGNED).tolist() == [8, 7, 15]


def test_refuses() -> None:
    with pytest.raises(FormatError, match=r"^weights\[0\] must be in -7\.\.7, not 8"):
        weight_slices([8], 4, 2)
    with pytest.raises(FormatError, match=r"^Column width must be in 1\.\.8, not 0"):
        weight_slices([1], 4, 0)
    with pytest.raises(FormatError, match=r"^Column width must be 1 in mode SIGN, not 2"):
        encode_digits([1], column_bits=2, mode=DigitMode.SIGN)
    with pytest.raises(FormatError, match=r"^digits\[0\] must be in 0\.\.15, not -1"):
        encode_digits([-1], column_bits=4, mode=DigitMode.UNSIGNED)
    with pytest.raises(FormatError, match=r"^codes\[0\] must be in 0\.\.1, not 2"):
        decode_digits([2], column_bits=1, mode=DigitMode.SIGN)
