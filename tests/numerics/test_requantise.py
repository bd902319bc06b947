# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import FormatError
from hwgen.numerics.requantise import (
    count_saturated,
    ptf_codes,
    requantise,
    requantise_int16,
    requantise_residual,
)

from . import naive

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def _case(seed: int, out_bits: int, rows: int = 40, columns: int = 23) -> dict[str, np.ndarray]:
    """Accumulators scaled so that most results do not saturate an output of ``out_bits``."""
    rng = np.random.default_rng(seed)
    shift = rng.integers(out_bits + 8, 40, columns)
    multiplier = rng.integers(2**15, 2**16, columns)
    multiplier[rng.random(columns) < 0.1] = 0
    limit = np.minimum((1 << (shift + out_bits - 17)), INT32_MAX >> 1)
    return {
        "accumulators": rng.integers(-limit, limit, (rows, columns)),
        "bias": rng.integers(-limit // 4, limit // 4 + 1, columns),
        "multiplier": multiplier,
        "shift": shift,
    }


def _columns(case: dict[str, np.ndarray]) -> list[tuple[int, int, int, int]]:
    names = ("bias", "multiplier", "shift")
    rows, columns = case["accumulators"].shape
    return [
        (int(case["accumulators"][i, j]), *(int(case[name][j]) for name in names))
        for i in range(rows)
        for j in range(columns)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("zo", "lo", "hi"), [(0, -128, 127), (-17, -128, 127), (0, -127, 127)])
def test_requantise_equals_the_naive_model(seed: int, zo: int, lo: int, hi: int) -> None:
    case = _case(seed, 8)
    out = requantise(**case, zero_point=zo, low=lo, high=hi)
    expected = [naive.requantise(*values, zo, lo, hi) for values in _columns(case)]
    assert out.dtype == np.int8
    assert out.ravel().tolist() == expected
    assert np.mean((out > lo) & (out < hi)) > 0.5  # a saturated test would see no rounding


@pytest.mark.parametrize("seed", range(4))
def test_residual_form_equals_the_naive_model(seed: int) -> None:
    case = _case(seed, 16)
    r = np.random.default_rng(seed + 99).integers(-32768, 32768, case["accumulators"].shape)
    out = requantise_residual(**case, residual=r)
    expected = [
        naive.requantise_residual(*values, int(x))
        for values, x in zip(_columns(case), r.ravel(), strict=True)
    ]
    assert out.dtype == np.int16
    assert out.ravel().tolist() == expected
    assert np.array_equal(
        requantise_int16(**case), requantise_residual(**case, residual=np.zeros_like(r))
    )


@given(
    st.integers(INT32_MIN, INT32_MAX),
    st.integers(INT32_MIN, INT32_MAX),
    st.sampled_from([0, 2**15, 2**15 + 1, 40503, 2**16 - 1]),
    st.integers(1, 47),
)
def test_extreme_words(acc: int, b: int, m: int, e: int) -> None:
    def call(accumulators: Any, **kwargs: Any) -> int:
        return int(requantise(np.array([[accumulators]]), **kwargs)[0, 0])

    constants = {"bias": [b], "multiplier": [m], "shift": [e]}
    if INT32_MIN <= acc + b <= INT32_MAX:
        assert call(acc, **constants) == naive.requantise(acc, b, m, e)
    else:
        with pytest.raises(
            FormatError, match=rf"^accumulator \+ bias\[0, 0\] must .*not {acc + b}"
        ):
            call(acc, **constants)


def test_corner_products_do_not_wrap() -> None:
    acc = np.array([[INT32_MIN, INT32_MAX]])
    for m in (2**15, 2**16 - 1):
        for e in (1, 15, 16, 31, 39, 40, 46, 47):
            out = requantise_int16(acc, bias=0, multiplier=m, shift=e)
            expected = [naive.requantise_residual(int(a), 0, m, e, 0) for a in acc[0]]
            assert out[0].tolist() == expected


def test_ties_round_up_and_dead_columns_give_the_zero_point() -> None:
    acc = np.array([[-3, -1, 1, 3]])
    out = requantise(acc, bias=0, multiplier=2**15, shift=16)  # a factor of exactly 1/2
    assert out.tolist() == [[-1, 0, 1, 2]]
    out = requantise(acc, bias=5, multiplier=[0, 0, 2**15, 0], shift=16, zero_point=-9)
    assert out.tolist() == [[-9, -9, -6, -9]]


def test_many_rows_and_leading_axes() -> None:
    case = _case(7, 8, rows=6000)
    out = requantise(**case)
    assert np.array_equal(
        out[-40:], requantise(**case | {"accumulators": case["accumulators"][-40:]})
    )
    shaped = case["accumulators"].reshape(20, 300, -1)
    assert np.array_equal(requantise(**case | {"accumulators": shaped}).reshape(out.shape), out)


def test_saturation_is_counted() -> None:
    acc = np.array([[-129, -128, 127, 128, 500]]) * 2
    constants = {"bias": 0, "multiplier": 2**15, "shift": 16}
    assert requantise(acc, **constants).tolist() == [[-128, -128, 127, 127, 127]]
    assert count_saturated(acc, **constants) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiplier": 2**15 - 1}, r"^multiplier\[0\] must be 0 or in 32768\.\.65535, not 32767"),
        ({"multiplier": 2**16}, r"^multiplier must be in 0\.\.65535, not 65536"),
        ({"shift": 0}, r"^shift must be in 1\.\.47, not 0"),
        ({"shift": [1, 48]}, r"^shift\[1\] must be in 1\.\.47, not 48"),
        ({"bias": 2**31}, "^bias must be in .*, not 2147483648"),
        ({"bias": [1, 2, 3]}, r"^bias must have shape \(2,\), not \(3,\)"),
        ({"accumulators": [[0, 2**31]]}, r"^accumulators\[0, 1\] must be in .*, not 2147483648"),
        ({"zero_point": 128}, r"^zero_point must be in -128\.\.127, not 128"),
        ({"low": 5, "high": 4}, r"^high must be in 5\.\.127, not 4"),
        ({"low": -129}, r"^low must be in -128\.\.127, not -129"),
    ],
)
def test_requantise_refuses(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"accumulators": [[0, 1]], "bias": 0, "multiplier": 2**15, "shift": 1}
    requantise(**good)
    with pytest.raises(FormatError, match=message):
        requantise(**good | change)


def test_an_overflow_deep_in_a_batch_is_located() -> None:
    acc = np.zeros((3, 40000, 2), dtype=np.int32)
    acc[2, 39999, 1] = INT32_MAX
    with pytest.raises(FormatError, match=r"^accumulator \+ bias\[2, 39999, 1\]"):
        requantise(acc, bias=1, multiplier=2**15, shift=1)


def test_residual_must_have_the_same_shape_and_fit_16_bits() -> None:
    good: dict[str, Any] = {"bias": 0, "multiplier": 2**15, "shift": 1}
    with pytest.raises(FormatError, match=r"^residual must have shape \(1, 2\), not \(2,\)"):
        requantise_residual([[0, 1]], **good, residual=[0, 1])
    with pytest.raises(FormatError, match=r"^residual\[0, 1\] must be in -32768\.\.32767"):
        requantise_residual([[0, 1]], **good, residual=[[0, 32768]])


@pytest.mark.parametrize("t", [0, 1, 5, 11])
@pytest.mark.parametrize("zp", [0, 128, 255])
def test_ptf_codes_of_every_residual(t: int, zp: int) -> None:
    r = np.arange(-32768, 32768)[:, None] + np.zeros(4, dtype=np.int64)
    out = ptf_codes(r, shift=t, alpha=np.arange(4), zero_point=zp)
    assert out.dtype == np.uint8
    every = slice(None, None, 37) if t else slice(32768 - 300, 32768 + 300)
    expected = [[naive.ptf_code(int(x), t, a, zp) for a, x in enumerate(row)] for row in r[every]]
    assert out[every].tolist() == expected
    assert out[[0, -1]].tolist() == [
        [naive.ptf_code(x, t, a, zp) for a in range(4)] for x in (-32768, 32767)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": 12}, r"^PTF shift must be in 0\.\.11, not 12"),
        ({"alpha": [0, 4]}, r"^alpha\[1\] must be in 0\.\.3, not 4"),
        ({"zero_point": 256}, r"^zero_point must be in 0\.\.255, not 256"),
        ({"residual": [[0, 40000]]}, r"^residual\[0, 1\] must be in"),
    ],
)
def test_ptf_codes_refuses(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"residual": [[0, 1]], "shift": 1, "alpha": [0, 3], "zero_point": 128}
    ptf_codes(**good)
    with pytest.raises(FormatError, match=message):
        ptf_codes(**good | change)


def test_row_shift_adds_to_the_shift_of_every_column() -> None:
    rng = np.random.default_rng(7)
    acc = rng.integers(-(2**24), 2**24, (2, 12, 5))
    multiplier = rng.integers(2**15, 2**16, 5)
    shift = rng.integers(20, 36, 5)
    row_shift = np.stack([np.arange(12), rng.integers(0, 12, 12)])
    out = requantise(acc, bias=0, multiplier=multiplier, shift=shift, low=-127, row_shift=row_shift)
    expected = [
        [
            [
                naive.requantise_shifted(int(v), 0, int(m), int(e), int(ks), -127, 127)
                for v, m, e in zip(row, multiplier, shift, strict=True)
            ]
            for row, ks in zip(rows, shifts, strict=True)
        ]
        for rows, shifts in zip(acc, row_shift, strict=True)
    ]
    assert out.tolist() == expected


@pytest.mark.parametrize(
    ("row_shift", "message"),
    [
        ([1, 2, 3], r"^row_shift must have shape \(2,\), not \(3,\)"),
        ([0, 12], r"^row_shift beside a shift of 36\[1\] must be in 0\.\.11, not 12"),
        ([-1, 0], r"^row_shift\[0\] must be in 0\.\.255, not -1"),
    ],
)
def test_refuses_a_row_shift(row_shift: list[int], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        requantise(np.zeros((2, 3), int), bias=0, multiplier=1 << 15, shift=36, row_shift=row_shift)
