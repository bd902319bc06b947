# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import FormatError
from hwgen.numerics.rounding import floor_log2, rne_shift, rshr

from . import naive


def test_rshr_is_half_up_on_every_small_value() -> None:
    for n in range(7):
        x = np.arange(-300, 301)
        assert rshr(x, n).tolist() == [naive.rshr(int(v), n) for v in x]


def test_rshr_ties_go_up_on_both_sides_of_zero() -> None:
    assert rshr(np.array([-3, -1, 1, 3]), 1).tolist() == [-1, 0, 1, 2]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 63))
def test_rshr_never_wraps_in_64_bits(x: int, n: int) -> None:
    assert int(rshr(np.array([x], dtype=np.int64), n)[0]) == naive.rshr(x, n)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_rshr_never_wraps_in_narrow_types_and_takes_shifts_beyond_the_width(dtype: type) -> None:
    info = np.iinfo(dtype)
    x = np.array([info.min, info.min + 1, -1, 0, 1, info.max - 1, info.max], dtype=dtype)
    for n in range(64):
        y = rshr(x, n)
        assert y.dtype == dtype
        assert y.tolist() == [naive.rshr(int(v), n) for v in x]


def test_rshr_takes_one_shift_per_column() -> None:
    x = np.array([[5, 5, 5], [-5, -5, -5]])
    assert rshr(x, np.array([0, 1, 2], dtype=np.uint8)).tolist() == [[5, 3, 1], [-5, -2, -1]]


def test_rshr_of_unsigned_codes_is_not_taken_modulo_256() -> None:
    assert rshr(np.array([255, 254], dtype=np.uint8), 1).tolist() == [128, 127]


@pytest.mark.parametrize("n", [-1, 64])
def test_rshr_refuses_shifts(n: int) -> None:
    with pytest.raises(FormatError, match=rf"^Shift must be in 0\.\.63, not {n}"):
        rshr(np.array([1]), n)


def test_rshr_refuses_floats() -> None:
    with pytest.raises(FormatError, match="must be an integer array, not float64"):
        rshr(np.array([1.0]), 1)


@given(st.integers(-(2**60), 2**60), st.integers(0, 62))
def test_rne_shift(x: int, n: int) -> None:
    assert int(rne_shift(np.array([x]), n)[0]) == round(naive.Fraction(x, 2**n))


def test_rne_shift_ties_go_to_even() -> None:
    assert rne_shift(np.array([-6, -2, 2, 6, 10]), 2).tolist() == [-2, 0, 0, 2, 2]


def test_floor_log2_at_every_power() -> None:
    powers = [2**k for k in range(63)]
    assert floor_log2(np.array(powers)).tolist() == list(range(63))
    assert floor_log2(np.array(powers[1:]) - 1).tolist() == list(range(62))


@given(st.integers(1, 2**63 - 1))
def test_floor_log2(x: int) -> None:
    assert int(floor_log2(np.array([x]))[0]) == x.bit_length() - 1


@pytest.mark.parametrize("x", [0, -4])
def test_floor_log2_refuses_values_without_a_leading_one(x: int) -> None:
    with pytest.raises(FormatError, match=f"floor_log2 must be at least 1, not {x}"):
        floor_log2(np.array([7, x]))
