# SPDX-License-Identifier: Apache-2.0
"""The compiled loops against NumPy's: the same bits, of random arguments and at every corner."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.graph.interpreter import Interpreter
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.compiled import Kernels, compiled_kernels, kernels_text
from hwgen.numerics.fractional_softmax import fractional_softmax
from hwgen.numerics.layer import Layer, attention
from hwgen.numerics.requantise import Scale, ptf_codes
from hwgen.numerics.softmax import SoftmaxFunction

from ..program.graphs import random_graph, random_image, spec

INT32 = 2**31 - 1
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    found = compiled_kernels()
    if found is None:
        pytest.skip("numba is not installed: NumPy's loops are all there is")
    return found


def equal(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("element", [np.float32, np.float64])
@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_requantise_and_its_forms(kernels: Kernels, element: type, seed: int) -> None:
    """Accumulators, biases, multipliers and shifts up to their ends; ties; rows' shifts."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, 9), rng.integers(1, 40)
    shift = rng.integers(1, 36, columns)
    # Small shifts get small sums, or everything would clip.
    spread = np.minimum(2.0 ** (shift - 6), 2**30 if element is np.float64 else 2**23)
    acc = np.trunc(rng.uniform(-1, 1, (rows, columns)) * spread)
    ends = [-INT32, INT32, -1, 0, 1] if element is np.float64 else [-(2**24), 2**24, -1, 0, 1]
    acc = np.where(rng.random(acc.shape) < 0.2, rng.choice(ends, acc.shape), acc).astype(element)
    scale = Scale(
        bias=np.zeros(columns, np.int64)
        if element is np.float64
        else rng.integers(-(2**30), 2**30, columns) >> rng.integers(0, 30, columns),
        multiplier=rng.choice([0, 2**15, 2**15 + 1, 40503, 2**16 - 1], columns),
        shift=shift,
        columns=int(columns),
    )
    more = scale.check_rows(rng.integers(0, 12, rows).astype(np.uint8), (int(rows),))
    added = rng.integers(-32768, 32768, acc.shape).astype(np.int16)
    low = int(rng.integers(-128, 1))
    forms: list[tuple[type, dict[str, Any]]] = [
        (np.int8, {"zero_point": int(rng.integers(-128, 128)), "low": low}),
        (np.int8, {"low": -127, "high": int(rng.integers(0, 128))}),
        (np.int8, {"rows": more, "low": low}),
        (np.int16, {"added": added, "low": -32768, "high": 32767}),
        (np.int16, {"low": -32768, "high": 32767}),
    ]
    for kind, form in forms:
        expected, got = (np.full(acc.shape, 77, kind) for _ in range(2))
        scale.narrow(acc, expected, **form)
        scale.narrow(acc, got, **form, kernels=kernels)
        equal(got, expected)


def test_every_tie_and_its_neighbours(kernels: Kernels) -> None:
    """``(2 k + 1) / 2`` rounds upwards for either sign, with every shift."""
    odd = np.arange(-301, 302)
    for shift in range(1, 48):
        scale = Scale(bias=0, multiplier=2**15, shift=shift, columns=len(odd) * 3)
        near = (odd[:, None] << max(0, shift - 16)) + [-1, 0, 1]
        expected, got = np.empty((2, 1, near.size), np.int16)
        acc = np.clip(near.reshape(1, -1), -INT32, INT32).astype(np.float64)
        scale.narrow(acc, expected, low=-32768, high=32767)
        scale.narrow(acc, got, low=-32768, high=32767, kernels=kernels)
        equal(got, expected)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_layers_and_attention(kernels: Kernels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m, k, c = (int(rng.integers(1, size)) for size in (4, 30, 60, 70))
    x = rng.integers(-128, 128, (n, m, k)).astype(np.int8)
    layer = Layer(
        rng.integers(-127, 128, (k, c)).astype(np.int8),
        weight_bits=8,
        bias=rng.integers(-9999, 9999, c),
        multiplier=rng.integers(2**15, 2**16, c),
        shift=rng.integers(24, 30, c),
    )
    table = rng.permutation(np.arange(-128, 128)).astype(np.int8)
    residual = rng.integers(-32768, 32768, (n, m, c)).astype(np.int16)
    for form in ({}, {"zero_point": -20, "low": -127}, {"table": table}):
        equal(layer.int8(x, **form, kernels=kernels), layer.int8(x, **form))
    equal(layer.int16(x, residual, kernels=kernels), layer.int16(x, residual))
    equal(layer.int16(x, kernels=kernels), layer.int16(x))

    codes = rng.integers(0, 256, (n, 2, m, k)).astype(np.uint8)
    # As a network's heads: a view whose axes were exchanged.
    values = rng.integers(-127, 128, (n, k, 2, c)).astype(np.int8).transpose(0, 2, 1, 3)
    constants = {"multiplier": int(rng.integers(2**15, 2**16)), "shift": 26}
    shifts = rng.integers(0, 12, (n, 2, m)).astype(np.uint8)
    for more in (None, shifts):
        expected = attention(codes, values, **constants, row_shift=more)
        equal(attention(codes, values, **constants, row_shift=more, kernels=kernels), expected)


@pytest.mark.parametrize("shift", range(12))
def test_ptf_codes_of_every_residual(kernels: Kernels, shift: int) -> None:
    every = np.arange(-32768, 32768).astype(np.int16).reshape(-1, 64)
    rng = np.random.default_rng(shift)
    for alpha in (rng.integers(0, 4, 64), 3):
        for zero_point in (0, 128, 255):
            form: dict[str, Any] = {"shift": shift, "alpha": alpha, "zero_point": zero_point}
            equal(ptf_codes(every, **form, kernels=kernels), ptf_codes(every, **form))


@given(SEEDS, st.sampled_from(["compressed", "exact"]))
@settings(max_examples=150, deadline=None)
def test_ailayernorm(kernels: Kernels, seed: int, squares: Any) -> None:
    rng = np.random.default_rng(seed)
    rows, channels = int(rng.integers(0, 7)), int(rng.choice([8, 9, 17, 64, 192, 1024]))
    spread = rng.choice([0.3, 2, 30, 200])
    x = np.clip(rng.normal(rng.integers(0, 256), spread, (rows, channels)), 0, 255)
    form: dict[str, Any] = {
        "alpha": rng.integers(0, 4, channels),
        "gamma": rng.integers(-127, 128, channels),
        "beta": rng.integers(-(2**23), 2**23, channels) >> rng.integers(0, 20, channels),
        "zero_point": int(rng.integers(0, 256)),
        "gamma_shift": int(rng.integers(0, 16)),
        "beta_fraction_bits": int(rng.integers(0, 11)),
        "output_zero_point": int(rng.integers(-128, 128)),
        "squares": squares,
    }
    codes = x.astype(np.uint8)
    equal(ailayernorm(codes, **form, kernels=kernels), ailayernorm(codes, **form))


@pytest.mark.parametrize("squares", ["compressed", "exact"])
def test_ailayernorm_at_its_ends(kernels: Kernels, squares: Any) -> None:
    """The largest sums and variances: 65536 channels at either end of the range."""
    for channels in (8, 65536):
        ends = np.where(np.arange(channels) % 2, 255, 0)
        rows = [ends, np.roll(ends, 1), np.full(channels, 0), np.full(channels, 255)]
        rows.append(np.where(np.arange(channels) == 3, 255, 0))
        codes = np.stack(rows).astype(np.uint8)
        for zero_point in (0, 255):
            for alpha in (0, 3):
                form: dict[str, Any] = {
                    "alpha": alpha,
                    "gamma": np.resize([127, -127, 1], channels),
                    "beta": np.resize([2**23 - 1, -(2**23), 0], channels),
                    "zero_point": zero_point,
                    "gamma_shift": 0,
                    "beta_fraction_bits": 10,
                    "squares": squares,
                    "max_channels": channels,
                }
                equal(ailayernorm(codes, **form, kernels=kernels), ailayernorm(codes, **form))


@pytest.mark.parametrize("g", range(4))
@pytest.mark.parametrize("bits", range(1, 6))
def test_fractional_softmax(kernels: Kernels, g: int, bits: int) -> None:
    rng = np.random.default_rng(10 * g + bits)
    for f in range(16):
        for length in (1, 2, 31, 197, 4095):
            rows = [np.full(length, value) for value in (-128, 0, 127)]
            rows += [np.where(np.arange(length) == i, 127, -128) for i in (0, length - 1)]
            rows += [np.clip(rng.normal(0, s, length), -128, 127) for s in (3, 30, 200)]
            logits = np.stack(rows).astype(np.int8).reshape(2, 4, length)
            form = {
                "fraction_bits": f,
                "exponent_fraction_bits": g,
                "divider_bits": bits,
                "max_length": 4095,
            }
            for got, expected in zip(
                fractional_softmax(logits, **form, kernels=kernels),
                fractional_softmax(logits, **form),
                strict=True,
            ):
                equal(got, expected)


def boundaries(graph: Any, images: np.ndarray, kernels: Kernels | None) -> dict[str, np.ndarray]:
    kept: dict[str, np.ndarray] = {}
    Interpreter(graph, kernels=kernels).run(images, tap=kept.__setitem__)
    return kept


@pytest.mark.parametrize(
    "function", [SoftmaxFunction.fractional(), SoftmaxFunction.sole()], ids=str
)
@pytest.mark.parametrize(
    "change", [{}, {"pooling": "mean"}, {"class_token": False, "pooling": "mean"}]
)
def test_every_boundary_of_a_network(
    kernels: Kernels, function: SoftmaxFunction, change: dict[str, Any]
) -> None:
    model = spec(depth=2, **change)
    graph = random_graph(model, 3, softmax=function)
    images = np.stack([random_image(model, seed) for seed in range(3)])
    expected, got = (boundaries(graph, images, chosen) for chosen in (None, kernels))
    assert list(got) == list(expected)
    for name, array in expected.items():
        equal(got[name], array)


def test_without_numba_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    try:
        assert compiled_kernels() is None
        assert kernels_text(None) == f"NumPy {np.__version__}"
    finally:
        compiled_kernels.cache_clear()


def test_which_loops_run_is_said(kernels: Kernels) -> None:
    assert kernels_text(kernels).startswith("loops compiled by numba ")
