# SPDX-License-Identifier: Apache-2.0
"""The fused pass against Python integers, at every place where floating point could round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.errors import FormatError
from hwgen.numerics.formats import weight_format
from hwgen.numerics.layer import Layer, attention
from hwgen.numerics.matmul import matmul_int64, stationary

from . import naive

MULTIPLIERS = [0, 2**15, 2**15 + 1, 40503, 2**16 - 1]


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes and constants; most outputs inside the clip, some far outside, some ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, k, n = (draw(st.integers(1, size)) for size in (5, 40, 4))
    bits = draw(st.integers(1, 8))
    limit = weight_format(bits).maximum
    extreme = draw(st.booleans())
    x = rng.choice([-128, 127], (m, k)) if extreme else rng.integers(-128, 128, (m, k))
    w = rng.choice([-limit, limit], (k, n))
    if bits > 1 and not extreme:
        w = rng.integers(-limit, limit + 1, (k, n))
    shift = rng.integers(1, 48, n) if draw(st.booleans()) else rng.integers(18, 34, n)
    spread = draw(st.sampled_from([1, 1000, 2**24, 2**31 - 1 - 128 * 127 * 40]))
    return {
        "x": x.astype(np.int8),
        "w": w.astype(np.int8),
        "bits": bits,
        "bias": rng.integers(-spread, spread + 1, n),
        "multiplier": rng.choice(MULTIPLIERS, n),
        "shift": shift,
        "residual": rng.integers(-32768, 32768, (m, n)).astype(np.int16),
        "zero_point": int(rng.integers(-128, 128)),
    }


def expected(case: dict[str, Any], residual: np.ndarray | None, **clip: int) -> list[list[int]]:
    acc = naive.matmul(case["x"].tolist(), case["w"].tolist())
    constants = list(
        zip(*(case[name].tolist() for name in ("bias", "multiplier", "shift")), strict=True)
    )
    if residual is None:
        return [
            [naive.requantise(a, *c, **clip) for a, c in zip(row, constants, strict=True)]
            for row in acc
        ]
    return [
        [naive.requantise_residual(a, *c, r) for a, c, r in zip(row, constants, more, strict=True)]
        for row, more in zip(acc, residual.tolist(), strict=True)
    ]


def make(case: dict[str, Any], **change: Any) -> Layer:
    values = case | change
    return Layer(
        values["w"],
        weight_bits=values["bits"],
        bias=values["bias"],
        multiplier=values["multiplier"],
        shift=values["shift"],
    )


@given(layers())
@settings(max_examples=300, deadline=None)
def test_equals_the_naive_models(case: dict[str, Any]) -> None:
    layer = make(case)
    zo = case["zero_point"]
    out = layer.int8(case["x"], zero_point=zo, low=-127)
    assert out.tolist() == expected(case, None, zo=zo, lo=-127)
    out = layer.int16(case["x"], case["residual"])
    assert out.tolist() == expected(case, case["residual"])
    assert layer.int16(case["x"]).tolist() == expected(case, np.zeros_like(case["residual"]))


def test_the_bound_of_float32_is_the_weights_own() -> None:
    # 128 * 131072 = 2^24: the last sum of magnitudes that float32 holds.
    column = np.full((1033, 1), 127, dtype=np.int8)
    column[-1] = 131072 - 1032 * 127  # 8
    assert stationary(column, signed=True).dtype == np.float32
    column[-1] += 1
    assert stationary(column, signed=True).dtype == np.float64
    assert stationary(column[:518], signed=False).dtype == np.float32
    assert stationary(column[:519], signed=False).dtype == np.float64
    assert stationary(np.ones((60000, 1), np.int8), signed=False).dtype == np.float32
    batched = np.full((3, 1100, 2), 100, dtype=np.int8)
    assert stationary(batched, signed=True).dtype == np.float32
    batched[2, :, 1] = 127
    assert stationary(batched, signed=True).dtype == np.float64


@pytest.mark.parametrize("last", [8, 9, 127])
@pytest.mark.parametrize("order", [1, -1])
def test_odd_sums_at_the_bound_of_float32(last: int, order: int) -> None:
    # One step beyond, an odd sum above 2^24 would lose its last bit in float32.
    w = np.full((1033, 1), 127, dtype=np.int8)
    w[-1] = last
    w = w[::order]
    x = np.full((4, 1033), -128, dtype=np.int8)
    x[1, 0 if order > 0 else -1] = -127
    x[2, -1 if order > 0 else 0] = -127
    x[3] = 127
    layer = Layer(w, weight_bits=8, bias=0, multiplier=2**15, shift=15)
    acc = matmul_int64(x, w)
    for low in range(0, int(np.abs(acc).max()) + 1, 1 << 15):  # every window of 16 bits
        base = np.where(acc < 0, low, -low)
        windowed = Layer(w, weight_bits=8, bias=int(base[0, 0]), multiplier=2**15, shift=15)
        got = windowed.int16(x)
        want = np.clip(acc + base[0, 0], -32768, 32767)
        assert np.array_equal(got, want)
    assert np.array_equal(layer.int8(x), np.clip(acc, -128, 127))


def test_many_rows_leading_axes_and_a_table() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (3, 700, 96)).astype(np.int8)
    w = rng.integers(-127, 128, (96, 200)).astype(np.int8)
    table = rng.permutation(np.arange(-128, 128)).astype(np.int8)
    constants = {
        "bias": rng.integers(-9999, 9999, 200),
        "multiplier": rng.integers(2**15, 2**16, 200),
        "shift": 26,
    }
    layer = Layer(w, weight_bits=8, **constants)
    acc = matmul_int64(x, w)
    scaled = ((acc + constants["bias"]) * constants["multiplier"] + (1 << 25)) >> 26
    codes = np.clip(scaled + 5, -128, 127)
    assert np.mean(np.abs(codes) < 127) > 0.5
    assert np.array_equal(layer.int8(x, zero_point=5), codes)
    assert np.array_equal(layer.int8(x, zero_point=5, table=table), table[codes + 128])
    assert layer.int8(x[:0]).shape == (0, 700, 200)


def test_an_accumulator_beyond_int32_is_refused() -> None:
    w = np.full((2, 3), 127, dtype=np.int8)
    x = np.zeros((2, 2, 2), dtype=np.int8)
    layer = Layer(w, weight_bits=8, bias=[0, 2**31 - 1, 0], multiplier=2**15, shift=1)
    assert layer.int8(x).ravel().tolist() == [0, 127, 0] * 4
    x[1, 1, 0] = 1
    with pytest.raises(FormatError, match=r"^accumulator \+ bias\[3, 1\] must be in .*2147483774"):
        layer.int8(x)


@pytest.mark.parametrize("row_shift", [False, True])
@pytest.mark.parametrize("keys", [1, 7, 600])
def test_attention_equals_integer_arithmetic(keys: int, row_shift: bool) -> None:
    rng = np.random.default_rng(keys)
    p = rng.integers(0, 256, (5, 2, 9, keys)).astype(np.uint8)
    v = rng.integers(-127, 128, (5, 9, 2, keys)).astype(np.int8).transpose(0, 2, 3, 1)
    shift, m = 23 + keys.bit_length() // 2 - 5 * row_shift, 50001
    rows = rng.integers(0, 12, (5, 2, 9)).astype(np.uint8) if row_shift else None
    out = attention(p, v, multiplier=m, shift=shift, low=-127, row_shift=rows)
    total = shift + (0 if rows is None else rows[..., None].astype(np.int64))
    expected = (matmul_int64(p, v) * m + (1 << (total - 1))) >> total
    assert np.array_equal(out, np.clip(expected, -127, 127))
    assert np.mean(np.abs(out) < 127) > 0.5
    q = rng.integers(-128, 128, (5, 2, 3, 9)).astype(np.int8)
    keys_first = v.swapaxes(-1, -2)
    out = attention(q, keys_first, multiplier=m, shift=25)
    expected = (matmul_int64(q, keys_first) * m + (1 << 24)) >> 25
    assert np.array_equal(out, np.clip(expected, -128, 127))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((1, 2), np.uint8)}, "^Activations must be int8, not uint8"),
        ({"x": np.zeros((1, 3), np.int8)}, "^Activations must have 2 columns, not shape"),
        ({"w": np.zeros((1, 2, 2), np.int8)}, "^Weights must have 2 axes, not shape"),
        ({"w": np.full((2, 1), -8), "bits": 4}, r"^weights\[0, 0\] must be in -7\.\.7"),
        ({"w": np.zeros((132105, 1), np.int8)}, "^Reduction length must be at most 132104"),
        ({"shift": 48}, r"^shift must be in 1\.\.47, not 48"),
        ({"zero_point": 128}, r"^zero_point must be in"),
        ({"residual": np.zeros((1, 2), np.int16)}, r"^residual must have shape \(1, 1\)"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    case: dict[str, Any] = {
        "x": np.zeros((1, 2), np.int8),
        "w": np.zeros((2, 1), np.int8),
        "bits": 8,
        "bias": 0,
        "multiplier": 2**15,
        "shift": 1,
        "zero_point": 0,
        "residual": np.zeros((1, 1), np.int16),
    }

    def call(case: dict[str, Any]) -> None:
        layer = make(case)
        layer.int8(case["x"], zero_point=case["zero_point"])
        layer.int16(case["x"], case["residual"])

    call(case)
    with pytest.raises(FormatError, match=message):
        call(case | change)


def test_attention_refuses() -> None:
    p, v = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 3, 4), np.int8)
    attention(p, v, multiplier=2**15, shift=40, row_shift=np.full((1, 2), 7, np.uint8))
    with pytest.raises(FormatError, match=r"^row_shift beside a shift of 40\[0, 1\] must be in 0"):
        rows = np.array([[7, 8]], np.uint8)
        attention(p, v, multiplier=2**15, shift=40, row_shift=rows)
    with pytest.raises(FormatError, match=r"^row_shift must have shape \(1, 2\), not \(2,\)"):
        attention(p, v, multiplier=2**15, shift=40, row_shift=np.zeros(2, np.uint8))
    with pytest.raises(FormatError, match=r"^Stationary codes must be int8, not uint8$"):
        attention(p, v.astype(np.uint8), multiplier=2**15, shift=40)
    with pytest.raises(FormatError, match=r"^weights\[0, 0, 0\] must be in -127\.\.127"):
        attention(p, np.full_like(v, -128), multiplier=2**15, shift=40)
