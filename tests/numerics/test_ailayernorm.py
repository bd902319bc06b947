# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.errors import FormatError
from hwgen.numerics.ailayernorm import (
    RSQRT_TABLE,
    AILayerNormShape,
    ailayernorm,
    dynamic_compress,
)

from . import naive


def _constants(rng: np.random.Generator, channels: int, fb: int = 8) -> dict[str, np.ndarray]:
    return {
        "alpha": rng.integers(0, 4, channels),
        "gamma": rng.integers(-127, 128, channels),
        "beta": rng.integers(-40 << fb, (40 << fb) + 1, channels),
    }


def _compare(x: np.ndarray, constants: dict[str, np.ndarray], **parameters: Any) -> np.ndarray:
    short = {
        "zp": parameters.get("zero_point", 128),
        "kg": parameters.get("gamma_shift", 6),
        "fb": parameters.get("beta_fraction_bits", 8),
        "zo": parameters.get("output_zero_point", 0),
        "squares": parameters.get("squares", "compressed"),
    }
    lists = {name: value.tolist() for name, value in constants.items()}
    out = ailayernorm(x, **constants, **parameters)
    assert out.dtype == np.int8
    assert out.tolist() == [naive.ailayernorm(row, **lists, **short) for row in x.tolist()]
    return out


def test_table() -> None:
    assert RSQRT_TABLE.shape == (192,)
    assert (RSQRT_TABLE.max(), RSQRT_TABLE.min()) == (1020, 513)
    assert RSQRT_TABLE.tolist() == [naive.rsqrt(k) for k in range(64, 256)]
    with pytest.raises(ValueError, match="read-only"):
        RSQRT_TABLE[0] = 0


def test_dynamic_compress_of_every_magnitude() -> None:
    y, select = dynamic_compress(np.arange(256))
    assert list(zip(y.tolist(), select.tolist(), strict=True)) == [
        naive.dynamic_compress(m) for m in range(256)
    ]


def test_dynamic_compress_corners() -> None:
    y, select = dynamic_compress([0, 2, 6, 61, 62, 63, 64, 72, 88, 247, 248, 255])
    assert y.tolist() == [0, 0, 2, 15, 4, 4, 4, 4, 6, 15, 15, 15]
    assert select.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_compressed_mean_square_error_is_the_papers() -> None:
    """SOLE quotes 0.2 % of E(x^2): half-even gives +0.180 % on 0..255 if 248..255 stayed 16."""
    m = np.arange(256)
    y, select = (part.astype(np.int64) for part in dynamic_compress(m))
    assert y[248:].tolist() == [15] * 8
    y[248:] = 16
    approximate = int((((y * y) << (4 * select)) << 4).sum())
    exact = int((m * m).sum())
    assert 179 * exact < (approximate - exact) * 100000 < 181 * exact


@pytest.mark.parametrize("squares", ["compressed", "exact"])
@pytest.mark.parametrize("channels", [8, 9, 192, 1024])
@pytest.mark.parametrize("spread", [2, 12, 40])
def test_equals_the_naive_model(squares: str, channels: int, spread: float) -> None:
    rng = np.random.default_rng(channels + int(spread))
    constants = _constants(rng, channels)
    x = np.clip(np.rint(rng.normal(128, spread, (4, channels))), 0, 255).astype(np.uint8)
    out = _compare(x, constants, squares=squares)
    assert np.mean((out > -128) & (out < 127)) > 0.5  # a saturated test would see no rounding


@pytest.mark.parametrize("zp", [0, 100, 255])
@pytest.mark.parametrize(("kg", "fb"), [(0, 0), (0, 10), (6, 8), (15, 0), (15, 10)])
def test_parameters(zp: int, kg: int, fb: int) -> None:
    rng = np.random.default_rng(zp + kg)
    x = np.clip(np.rint(rng.normal(zp, 30, (3, 48))), 0, 255).astype(np.uint8)
    constants = _constants(rng, 48, fb)
    for zo in (-128, 3, 127):
        _compare(
            x, constants, zero_point=zp, gamma_shift=kg, beta_fraction_bits=fb, output_zero_point=zo
        )


def test_quiet_rows_are_scaled_by_one_code() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(126, 131, (6, 64)).astype(np.uint8)  # |d| <= 2 compresses to 0
    x[0] = 128
    x[1] = 131
    constants = _constants(rng, 64) | {"alpha": np.zeros(64, dtype=int)}
    out = _compare(x, constants)
    beta = np.clip((constants["beta"] + 128) >> 8, -128, 127)
    assert np.array_equal(out[0], beta)
    assert np.array_equal(out[1], beta)


@pytest.mark.parametrize("squares", ["compressed", "exact"])
def test_extremes_do_not_wrap(squares: str) -> None:
    channels = 1024
    x = np.zeros((6, channels), dtype=np.uint8)
    x[1] = 255
    x[2, ::2] = 255
    x[3, 0] = 255
    x[4] = 255
    x[4, 7] = 0
    x[5] = np.arange(channels) & 255
    sign = np.where(np.arange(channels) % 3 == 0, -1, 1)
    constants = {
        "alpha": np.full(channels, 3),
        "gamma": 127 * sign,
        "beta": np.where(sign > 0, -(2**23), 2**23 - 1),
    }
    for zp in (0, 128, 255):
        for kg, fb in ((0, 10), (0, 0), (15, 10)):
            _compare(
                x,
                constants,
                zero_point=zp,
                gamma_shift=kg,
                beta_fraction_bits=fb,
                squares=squares,
            )
            zero_beta = constants | {"beta": np.zeros(channels, dtype=int)}
            _compare(
                x,
                zero_beta,
                zero_point=zp,
                gamma_shift=kg,
                beta_fraction_bits=fb,
                squares=squares,
            )


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 255), min_size=8, max_size=24),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 15),
    st.integers(0, 10),
    st.sampled_from(["compressed", "exact"]),
)
def test_any_row(row: list[int], seed: int, zp: int, kg: int, fb: int, squares: str) -> None:
    constants = _constants(np.random.default_rng(seed), len(row), fb)
    _compare(
        np.array([row]),
        constants,
        zero_point=zp,
        gamma_shift=kg,
        beta_fraction_bits=fb,
        squares=squares,
    )


def test_leading_axes_and_blocks_of_rows() -> None:
    rng = np.random.default_rng(9)
    x = rng.integers(0, 256, (5, 67, 384)).astype(np.uint8)
    constants = _constants(rng, 384)
    out = ailayernorm(x, **constants)
    assert out.shape == x.shape
    assert np.array_equal(out[4, 66], ailayernorm(x[4, 66], **constants))


def test_the_widest_row_of_the_reference_does_not_wrap() -> None:
    channels = 1 << 16
    x = np.zeros((1, channels), dtype=np.uint8)
    x[0, ::2] = 255
    constants = {name: np.full(channels, value) for name, value in (("alpha", 3), ("gamma", 127))}
    constants["beta"] = np.zeros(channels, dtype=int)
    out = ailayernorm(x, **constants, zero_point=0, squares="exact", max_channels=channels)
    lists = {name: value.tolist() for name, value in constants.items()}
    expected = naive.ailayernorm(x[0].tolist(), **lists, zp=0, kg=6, fb=8, zo=0, squares="exact")
    assert out[0].tolist() == expected


def test_shape_widths() -> None:
    shape = AILayerNormShape()
    assert (shape.sum_bits, shape.square_sum_bits, shape.variance_bits) == (22, 32, 43)
    assert (shape.centred_bits, shape.product_bits, shape.max_slices) == (23, 40, 64)


_GOOD: dict[str, Any] = {"x": [[1] * 8], "alpha": [0] * 8, "gamma": [1] * 8, "beta": [0] * 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [[1] * 7]}, r"^Channels of x must be in 8\.\.1024, not 7"),
        ({"max_channels": 8, "x": [[1] * 9]}, r"^Channels of x must be in 8\.\.8, not 9"),
        ({"max_channels": 7}, r"^max_channels must be in 8\.\.65536, not 7"),
        ({"x": [[256] * 8]}, r"^x\[0, 0\] must be in 0\.\.255, not 256"),
        ({"x": 1}, "^x must have at least 1 axis"),
        ({"alpha": [0] * 7 + [4]}, r"^alpha\[7\] must be in 0\.\.3, not 4"),
        ({"alpha": [0] * 7}, r"^alpha must have shape \(8,\), not \(7,\)"),
        ({"gamma": [-128] + [0] * 7}, r"^gamma\[0\] must be in -127\.\.127, not -128"),
        ({"beta": [2**23] + [0] * 7}, r"^beta\[0\] must be in -8388608\.\.8388607, not 8388608"),
        ({"zero_point": -1}, r"^zero_point must be in 0\.\.255, not -1"),
        ({"gamma_shift": 16}, r"^gamma_shift must be in 0\.\.15, not 16"),
        ({"beta_fraction_bits": 11}, r"^beta_fraction_bits must be in 0\.\.10, not 11"),
        ({"output_zero_point": 128}, r"^output_zero_point must be in -128\.\.127, not 128"),
        ({"squares": "float"}, "^squares must be 'compressed' or 'exact', not 'float'"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    ailayernorm(**_GOOD)
    with pytest.raises(FormatError, match=message):
        ailayernorm(**_GOOD | change)
