# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.errors import FormatError
from hwgen.numerics.fractional_softmax import (
    exponentials,
    fractional_exponent,
    fractional_softmax,
    reciprocals,
)
from hwgen.numerics.softmax import SoftmaxFunction

from . import naive

FORMS = [(g, bits) for g in range(4) for bits in range(1, 6)]


def _logits(seed: int, shape: tuple[int, ...], spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.normal(0, spread, shape)), -128, 127).astype(np.int8)


def _equal(x: np.ndarray, f: int, g: int, bits: int) -> None:
    codes, shifts = fractional_softmax(
        x, fraction_bits=f, exponent_fraction_bits=g, divider_bits=bits, max_length=4095
    )
    assert (codes.dtype, shifts.dtype, codes.shape, shifts.shape) == (
        *(np.uint8, np.uint8),
        *(x.shape, x.shape[:-1]),
    )
    for row, got, shift in zip(x.tolist(), codes.tolist(), shifts.tolist(), strict=True):
        assert (got, shift) == naive.fractional_softmax(row, f=f, g=g, bits=bits)


@pytest.mark.parametrize(("g", "bits"), FORMS)
def test_tables_are_those_of_exact_logarithms(g: int, bits: int) -> None:
    assert list(exponentials(g)) == [naive.exponential(j, g) for j in range(2**g)]
    expected = [[naive.reciprocal(j, q, g, bits) for q in range(2**bits)] for j in range(2**g)]
    assert [list(row) for row in reciprocals(g, bits)] == expected
    assert max(map(max, expected)) <= 252


def test_exponent_of_every_distance() -> None:
    for g in range(4):
        for f in range(16):
            expected = [min(2 ** (4 + g) - 1, naive.rshr(23 * d, f + 4 - g)) for d in range(256)]
            assert fractional_exponent(np.arange(256), f, g).tolist() == expected


@pytest.mark.parametrize(("g", "bits"), FORMS)
def test_equals_the_naive_model(g: int, bits: int) -> None:
    for length in (1, 2, 3, 33, 197):
        for f, spread in ((0, 3), (3, 10), (4, 30), (7, 60), (15, 60)):
            _equal(_logits(length * 100 + f, (4, length), spread), f, g, bits)


@pytest.mark.parametrize("length", [400, 511, 512, 577, 785, 1024, 4095])
def test_long_rows(length: int) -> None:
    for g, bits, f, spread in ((2, 4, 4, 20), (3, 5, 6, 5), (0, 1, 3, 1), (1, 2, 15, 90)):
        _equal(_logits(length + g, (1, length), spread), f, g, bits)


@settings(deadline=None)
@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=70),
    st.integers(0, 15),
    st.sampled_from(FORMS),
)
def test_any_row(row: list[int], f: int, form: tuple[int, int]) -> None:
    _equal(np.array([row], np.int8), f, *form)


def test_extreme_rows() -> None:
    length = 1024
    ramp = np.repeat(np.arange(-128, 128), 4)
    rows = np.stack(
        [
            np.full(length, -128),
            np.full(length, 127),
            ramp,
            np.where(np.arange(length) == length - 1, 127, -128),
            np.where(np.arange(length) % 2, 127, -128),
        ]
    ).astype(np.int8)
    for g, bits in ((0, 5), (2, 4), (3, 1)):
        for f in (0, 4, 15):
            _equal(rows, f, g, bits)


@pytest.mark.parametrize(("bits", "most"), [(4, 0.04), (5, 0.02)])
def test_equal_logits_keep_their_mass_at_any_length(bits: int, most: float) -> None:
    for length in range(1, 4096):
        codes, shift = fractional_softmax(
            np.zeros(length, np.int8), divider_bits=bits, max_length=4095
        )
        assert abs(int(codes.sum(dtype=int)) / 2 ** (8 + int(shift)) - 1) <= most, length


def test_shifts_reach_eleven_and_a_single_element_has_none() -> None:
    assert fractional_softmax([[5]])[1].tolist() == [0]
    assert fractional_softmax(np.zeros((1, 4095), np.int8), max_length=4095)[1].tolist() == [11]
    assert fractional_softmax(np.zeros((0, 5), np.int8))[1].shape == (0,)


def test_the_function_of_a_mode() -> None:
    x = _logits(3, (5, 40), 20)
    fractional = SoftmaxFunction.fractional(1, 3)
    codes, shifts = fractional(x, fraction_bits=4, max_length=40)
    expected = fractional_softmax(x, exponent_fraction_bits=1, divider_bits=3)
    assert shifts is not None and fractional.has_shifts
    assert np.array_equal(codes, expected[0]) and np.array_equal(shifts, expected[1])
    sole = SoftmaxFunction.sole(8)
    codes, none = sole(x, fraction_bits=4, max_length=40)
    assert none is None and not sole.has_shifts
    assert codes.tolist() == [naive.e2softmax(row, f=4, vec=8) for row in x.tolist()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "exact"}, "^mode must be one of sole, fractional, not 'exact'"),
        ({"mode": "sole"}, "^vec must be an integer, not None"),
        (
            {"mode": "sole", "vec": 8, "divider_bits": 4},
            "^divider_bits must be absent in mode sole",
        ),
        (
            {"mode": "fractional", "vec": 8, "exponent_fraction_bits": 2, "divider_bits": 4},
            "^vec must be absent in mode fractional, not 8",
        ),
        (
            {"mode": "fractional", "exponent_fraction_bits": 4, "divider_bits": 4},
            r"^exponent_fraction_bits must be in 0\.\.3, not 4",
        ),
    ],
)
def test_refuses_what_is_no_function(values: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        SoftmaxFunction(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction_bits": 16}, r"^fraction_bits must be in 0\.\.15, not 16"),
        ({"exponent_fraction_bits": 4}, r"^exponent_fraction_bits must be in 0\.\.3, not 4"),
        ({"divider_bits": 0}, r"^divider_bits must be in 1\.\.5, not 0"),
        ({"divider_bits": 6}, r"^divider_bits must be in 1\.\.5, not 6"),
        ({"max_length": 2}, r"^Row length must be in 1\.\.2, not 3"),
        ({"max_length": 4096}, r"^max_length must be in 1\.\.4095, not 4096"),
        ({"logits": [[0, 128]]}, r"^logits\[0, 1\] must be in -128\.\.127, not 128"),
        ({"logits": np.zeros((2, 0), np.int8)}, r"^Row length must be in 1\.\.1024, not 0"),
        ({"logits": 3}, "^logits must have at least 1 axis"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        fractional_softmax(**{"logits": [[1, 2, 3]]} | change)
