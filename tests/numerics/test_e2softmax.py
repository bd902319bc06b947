# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.errors import FormatError
from hwgen.numerics.e2softmax import CODES, E2SoftmaxShape, e2softmax, log2exp

from . import naive

#: The codes of the 8-bit output with half-up rounding; external truth, not derived here.
PUBLISHED_CODES = {0, 1, 2, 3, 5, 7, 9, 13, 18, 26, 36, 52, 73, 105, 145, 209}


def _logits(seed: int, shape: tuple[int, ...], spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.normal(0, spread, shape)), -128, 127).astype(np.int8)


def _naive_rows(x: np.ndarray, f: int, vec: int) -> list[list[int]]:
    return [naive.e2softmax(row, f=f, vec=vec) for row in x.reshape(-1, x.shape[-1]).tolist()]


def test_log2exp_of_every_distance() -> None:
    for f in range(16):
        expected = [naive.log2exp(d, f) for d in range(256)]
        assert log2exp(np.arange(256), f).tolist() == expected


@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 64, 65, 197])
@pytest.mark.parametrize("vec", [1, 3, 32, 256])
def test_equals_the_naive_model(length: int, vec: int) -> None:
    for f, spread in ((0, 3), (3, 10), (4, 30), (7, 60)):
        x = _logits(length * 1000 + vec, (6, length), spread)
        out = e2softmax(x, fraction_bits=f, vec=vec)
        assert out.dtype == np.uint8
        assert out.tolist() == _naive_rows(x, f, vec)


@settings(deadline=None)
@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=70),
    st.integers(0, 15),
    st.integers(1, 40),
)
def test_any_row(row: list[int], f: int, vec: int) -> None:
    out = e2softmax(np.array([row]), fraction_bits=f, vec=vec)[0].tolist()
    assert out == naive.e2softmax(row, f=f, vec=vec)


@pytest.mark.parametrize("vec", [1, 32, 33])
def test_extreme_rows(vec: int) -> None:
    length = 1024
    ramp = np.repeat(np.arange(-128, 128), 4)
    rows = np.stack(
        [
            np.full(length, -128),
            np.full(length, 127),
            ramp,
            ramp[::-1],
            np.where(np.arange(length) == length - 1, 127, -128),
            np.where(np.arange(length) == 0, 127, -128),
            np.where(np.arange(length) % 2, 127, -128),
        ]
    )
    for f in (0, 4, 15):
        out = e2softmax(rows, fraction_bits=f, vec=vec)
        assert out.tolist() == _naive_rows(rows, f, vec)


def test_the_sixteen_codes() -> None:
    assert set(CODES) == PUBLISHED_CODES
    seen: set[int] = set()
    for seed, (f, spread) in enumerate([(4, 10), (4, 30), (3, 30), (6, 90), (0, 1)]):
        for length in (1, 2, 3, 5, 20, 197):
            x = _logits(seed, (200, length), spread)
            seen |= set(np.unique(e2softmax(x, fraction_bits=f)).tolist())
    assert seen == PUBLISHED_CODES


def test_a_single_element_is_0818_not_one() -> None:
    assert e2softmax(np.array([[-7]])).tolist() == [[209]]


def test_the_slice_length_is_part_of_the_function() -> None:
    x = _logits(0, (200, 197), 25)
    assert np.mean(np.any(e2softmax(x, vec=32) != e2softmax(x, vec=1024), axis=1)) > 0.3


def test_a_common_offset_cancels() -> None:
    x = np.clip(_logits(1, (20, 100), 20), -100, 100)
    assert np.array_equal(e2softmax(x), e2softmax(x + np.int8(27)))


def test_rows_are_independent_and_leading_axes_are_kept() -> None:
    x = _logits(2, (3, 4, 500, 50), 20)
    out = e2softmax(x)
    assert out.shape == x.shape
    assert np.array_equal(out[2, 3, 499], e2softmax(x[2, 3, 499]))
    assert e2softmax(np.zeros((0, 5), dtype=np.int8)).shape == (0, 5)


def test_shape_widths_hold_the_extremes() -> None:
    shape = E2SoftmaxShape()
    assert (shape.vec, shape.max_length) == (32, 1024)
    assert (shape.sum_bits, shape.exponent_bits, shape.max_slices) == (26, 4, 32)
    assert E2SoftmaxShape(vec=8, max_length=197).max_slices == 25
    assert E2SoftmaxShape(max_length=1).exponent_bits == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction_bits": 16}, r"^fraction_bits must be in 0\.\.15, not 16"),
        ({"fraction_bits": -1}, r"^fraction_bits must be in 0\.\.15, not -1"),
        ({"vec": 0}, "^vec must be at least 1, not 0"),
        ({"max_length": 2}, r"^Row length must be in 1\.\.2, not 3"),
        (
            {"logits": np.zeros((2, 1025), dtype=np.int8)},
            r"^Row length must be .*1024, not 1025",
        ),
        ({"logits": np.zeros((2, 0), dtype=np.int8)}, r"^Row length must be in 1\.\.1024, not 0"),
        ({"logits": [[0, 128]]}, r"^logits\[0, 1\] must be in -128\.\.127, not 128"),
        ({"logits": [[0.5]]}, "^logits must be an integer array, not float64"),
        ({"logits": 3}, "^logits must have at least 1 axis"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        e2softmax(**{"logits": [[1, 2, 3]]} | change)


def test_log2exp_refuses() -> None:
    with pytest.raises(FormatError, match=r"^distance\[0\] must be in 0\.\.255, not -1"):
        log2exp([-1], 4)


@pytest.mark.parametrize("f", range(16))
def test_every_distance_at_every_scale(f: int) -> None:
    rows = np.stack([np.arange(-128, 128), np.arange(127, -129, -1)]).astype(np.int8)
    for vec in (32, 100, 256):
        out = e2softmax(rows, fraction_bits=f, vec=vec)
        expected = [naive.e2softmax(row, f=f, vec=vec) for row in rows.tolist()]
        assert out.tolist() == expected


@pytest.mark.parametrize("vec", [511, 512, 513, 600])
def test_long_slices(vec: int) -> None:
    rng = np.random.default_rng(vec)
    rows = np.stack([np.zeros(600), rng.integers(-3, 4, 600), rng.integers(-128, 128, 600)])
    out = e2softmax(rows.astype(np.int8), fraction_bits=4, vec=vec)
    expected = [naive.e2softmax(row, f=4, vec=vec) for row in rows.astype(int).tolist()]
    assert out.tolist() == expected
