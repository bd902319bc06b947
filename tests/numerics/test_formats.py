# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwgen.errors import FormatError, HwgenError
from hwgen.numerics.formats import (
    INT8,
    INT16,
    INT24,
    INT32,
    UINT8,
    UINT16,
    IntFormat,
    check_columns,
    check_int,
    check_weights,
    weight_format,
)


@pytest.mark.parametrize(
    ("number_format", "minimum", "maximum", "dtype"),
    [
        (INT8, -128, 127, np.int8),
        (UINT8, 0, 255, np.uint8),
        (INT16, -32768, 32767, np.int16),
        (UINT16, 0, 65535, np.uint16),
        (INT24, -8388608, 8388607, np.int32),
        (INT32, -2147483648, 2147483647, np.int32),
        (IntFormat(63, True), -(2**62), 2**62 - 1, np.int64),
        (IntFormat(1, False), 0, 1, np.uint8),
    ],
)
def test_ranges(number_format: IntFormat, minimum: int, maximum: int, dtype: type) -> None:
    assert (number_format.minimum, number_format.maximum) == (minimum, maximum)
    assert number_format.dtype == dtype
    checked = number_format.check([minimum, maximum], "x")
    assert checked.dtype == dtype
    assert checked.tolist() == [minimum, maximum]
    for value in (minimum - 1, maximum + 1):
        with pytest.raises(FormatError, match=rf"^x\[1\] must be in .*, not {value};"):
            number_format.check(np.array([0, value], dtype=np.int64), "x")


def test_format_error_names_place_range_value_and_nearest() -> None:
    expected = r"^codes\[1, 2\] must be in -128\.\.127, not 300; nearest legal value: 127$"
    with pytest.raises(FormatError, match=expected):
        INT8.check([[0, 1, 2], [3, 4, 300]], "codes")


def test_format_error_is_a_value_error_and_an_hwgen_error() -> None:
    assert issubclass(FormatError, ValueError)
    assert issubclass(FormatError, HwgenError)


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([True]), [2**70]])
def test_only_integers_pass(values: object) -> None:
    with pytest.raises(
        FormatError, match=r"^x must be an integer array, not (float64|bool|object)"
    ):
        INT8.check(values, "x")


def test_unsigned_64_bit_values_do_not_wrap_into_range() -> None:
    with pytest.raises(FormatError, match="not 18446744073709551615"):
        INT8.check(np.array([2**64 - 1], dtype=np.uint64), "x")


def test_formats_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        INT8.bits = 9  # type: ignore[misc]


@pytest.mark.parametrize("bits", [0, 64])
def test_format_width_is_bounded(bits: int) -> None:
    with pytest.raises(FormatError, match=rf"Format width must be in 1\.\.63, not {bits}"):
        IntFormat(bits, True)


@pytest.mark.parametrize("bits", range(1, 9))
def test_weight_formats_are_symmetric(bits: int) -> None:
    largest = 1 if bits == 1 else 2 ** (bits - 1) - 1
    assert (weight_format(bits).minimum, weight_format(bits).maximum) == (-largest, largest)
    assert check_weights([-largest, largest], bits).tolist() == [-largest, largest]
    for value in (-largest - 1, largest + 1):
        with pytest.raises(FormatError, match=rf"^w\[0\] must be in .*, not {value}"):
            check_weights([value], bits, "w")


def test_one_bit_weights_have_no_zero_and_two_bit_weights_do() -> None:
    with pytest.raises(FormatError, match=r"^w\[1, 0\] must be -1 or \+1, not 0"):
        check_weights([[1, -1], [0, 1]], 1, "w")
    assert check_weights([0, 1, -1], 2).tolist() == [0, 1, -1]


@pytest.mark.parametrize("bits", [0, 9, True, 4.0])
def test_weight_width_is_bounded(bits: object) -> None:
    with pytest.raises(FormatError, match=r"^Weight width must be "):
        weight_format(bits)  # type: ignore[arg-type]


def test_check_int() -> None:
    assert check_int(np.int16(5), 0, 7, "x") == 5
    with pytest.raises(FormatError, match=r"^x must be in 0\.\.7, not 9; nearest legal value: 7$"):
        check_int(9, 0, 7, "x")
    with pytest.raises(FormatError, match=r"^x must be at least 1, not 0; nearest legal value: 1$"):
        check_int(0, 1, None, "x")
    with pytest.raises(FormatError, match=r"^x must be an integer, not 1\.0$"):
        check_int(1.0, 0, 7, "x")


def test_check_columns_takes_one_value_per_column_or_one_for_all() -> None:
    assert check_columns(3, INT8, 4, "b").shape == ()
    assert check_columns([1, 2, 3, 4], INT8, 4, "b").shape == (4,)
    with pytest.raises(FormatError, match=r"^b must have shape \(4,\), not \(3,\)"):
        check_columns([1, 2, 3], INT8, 4, "b")
