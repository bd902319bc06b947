# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.numerics.formats import weight_format
from hwgen.numerics.matmul import attention_matmul, matmul, matmul_int64, max_reduction

from . import naive


def _weights(rng: np.random.Generator, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    if bits == 1:
        return rng.choice(np.array([-1, 1], dtype=np.int8), shape)
    limit = weight_format(bits).maximum
    return rng.integers(-limit, limit + 1, shape).astype(np.int8)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_equals_integer_arithmetic(bits: int, dtype: type) -> None:
    rng = np.random.default_rng(bits)
    info = np.iinfo(dtype)
    for m, k, n in ((1, 1, 1), (5, 7, 3), (33, 129, 65)):
        a = rng.integers(info.min, info.max + 1, (m, k)).astype(dtype)
        w = _weights(rng, bits, (k, n))
        out = matmul(a, w, weight_bits=bits)
        assert out.dtype == np.int32
        assert np.array_equal(out, matmul_int64(a, w))
    assert out[:2, :2].tolist() == naive.matmul(a[:2].tolist(), w[:, :2].tolist())


@pytest.mark.parametrize(
    ("dtype", "bits", "longest"),
    [(np.int8, 8, 132104), (np.uint8, 8, 66311), (np.int8, 1, 16777215), (np.uint8, 2, 8421504)],
)
def test_longest_reduction(dtype: type, bits: int, longest: int) -> None:
    assert max_reduction(weight_bits=bits, signed=dtype == np.int8) == longest


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("sign", [-1, 1])
def test_exact_at_the_overflow_bound_and_refused_one_beyond(dtype: type, sign: int) -> None:
    k = max_reduction(signed=dtype == np.int8)
    extreme = -128 if dtype == np.int8 else 255
    a = np.full((2, k), extreme, dtype=dtype)
    w = np.full((k, 1), 127 * sign, dtype=np.int8)
    # An odd sum needs every bit: a single-precision product would lose it.
    a[1, 0] = extreme + 1 if extreme < 0 else extreme - 1
    out = matmul(a, w)
    assert out.tolist() == [
        [extreme * 127 * sign * k],
        [127 * sign * (extreme * k + (1 if extreme < 0 else -1))],
    ]
    assert np.array_equal(out, matmul_int64(a, w))
    with pytest.raises(FormatError, match=rf"^Reduction length must be at most {k}, not {k + 1}"):
        matmul(np.zeros((1, k + 1), dtype=dtype), np.zeros((k + 1, 1), dtype=np.int8))


def test_leading_axes_of_activations() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(-128, 128, (2, 3, 5, 8)).astype(np.int8)
    w = _weights(rng, 8, (8, 6))
    assert np.array_equal(matmul(a, w), matmul_int64(a, w))


def test_many_rows_are_computed_in_blocks() -> None:
    rng = np.random.default_rng(4)
    a = rng.integers(-128, 128, (2901, 3000)).astype(np.int8)
    w = _weights(rng, 4, (3000, 2))
    assert np.array_equal(matmul(a, w, weight_bits=4), matmul_int64(a, w))


def test_attention_products() -> None:
    rng = np.random.default_rng(5)
    q = rng.integers(-127, 128, (2, 3, 9, 16)).astype(np.int8)
    k = rng.integers(-127, 128, (2, 3, 11, 16)).astype(np.int8)
    p = rng.integers(0, 210, (2, 3, 9, 11)).astype(np.uint8)
    logits = attention_matmul(q, k.swapaxes(-1, -2))
    assert np.array_equal(logits, matmul_int64(q, k.swapaxes(-1, -2)))
    assert np.array_equal(attention_matmul(p, k), matmul_int64(p, k))


def test_stationary_codes_are_symmetric() -> None:
    codes = np.array([[1], [-128]], dtype=np.int8)
    with pytest.raises(FormatError, match=r"^weights\[1, 0\] must be in -127\.\.127, not -128"):
        attention_matmul(np.zeros((1, 2), dtype=np.int8), codes)


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.bool_])
def test_activations_must_be_bytes(dtype: type) -> None:
    with pytest.raises(FormatError, match=r"^Activations must be int8 or uint8, not"):
        matmul(np.zeros((1, 2), dtype=dtype), np.zeros((2, 1), dtype=np.int8))


def test_shapes_must_agree() -> None:
    a = np.zeros((2, 3), dtype=np.int8)
    with pytest.raises(FormatError, match=r"^Weights must have 3 rows"):
        matmul(a, np.zeros((2, 3), dtype=np.int8))
    with pytest.raises(FormatError, match=r"^Activations must have at least 2 axes"):
        matmul(a[0], np.zeros((3, 3), dtype=np.int8))
    with pytest.raises(FormatError, match=r"^Leading axes must agree"):
        matmul(np.zeros((2, 2, 3), dtype=np.int8), np.zeros((3, 3, 3), dtype=np.int8))


def test_weights_outside_their_width_are_refused() -> None:
    with pytest.raises(FormatError, match=r"^weights\[0, 0\] must be in -7\.\.7, not -8"):
        matmul(np.zeros((1, 1), dtype=np.int8), np.array([[-8]]), weight_bits=4)
