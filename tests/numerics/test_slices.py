# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.numerics.matmul import matmul_int64
from hwgen.numerics.slices import slice_count, weight_slices

WIDTHS = [(w, s) for w in range(1, 9) for s in range(2, 9)]


def _all_weights(bits: int) -> np.ndarray:
    if bits == 1:
        return np.array([-1, 1], dtype=np.int8)
    limit = 2 ** (bits - 1) - 1
    return np.arange(-limit, limit + 1).astype(np.int8)


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize(("weight_bits", "slice_bits"), WIDTHS)
def test_digits_give_back_every_weight(weight_bits: int, slice_bits: int, carry: bool) -> None:
    weights = _all_weights(weight_bits)
    slices = weight_slices(weights, weight_bits=weight_bits, slice_bits=slice_bits, carry=carry)
    assert len(slices) == slice_count(weight_bits, slice_bits) == -(-weight_bits // slice_bits)
    total = [0] * len(weights)
    for digits in slices:
        total = [(t << slice_bits) + int(d) for t, d in zip(total, digits, strict=True)]
    assert total == weights.tolist()


@pytest.mark.parametrize(("weight_bits", "slice_bits"), WIDTHS)
def test_digits_fit_the_cells(weight_bits: int, slice_bits: int) -> None:
    """With carry half a step more than two's complement; without, unsigned below the top."""
    half = 1 << (slice_bits - 1)
    weights = _all_weights(weight_bits)
    signed = weight_slices(weights, weight_bits=weight_bits, slice_bits=slice_bits)
    assert -half <= signed.min() <= signed.max() <= half
    plain = weight_slices(weights, weight_bits=weight_bits, slice_bits=slice_bits, carry=False)
    assert -half <= plain[0].min() <= plain[0].max() < half
    assert plain[1:].size == 0 or 0 <= plain[1:].min() <= plain[1:].max() < 2 * half


@pytest.mark.parametrize(("weight_bits", "slice_bits"), WIDTHS)
def test_passes_over_slices_multiply_like_the_weights(weight_bits: int, slice_bits: int) -> None:
    rng = np.random.default_rng(weight_bits * 9 + slice_bits)
    weights = rng.choice(_all_weights(weight_bits), (12, 5))
    a = rng.integers(-128, 128, (3, 12))
    total = np.zeros((3, 5), dtype=np.int64)
    for digits in weight_slices(weights, weight_bits=weight_bits, slice_bits=slice_bits):
        total = (total << slice_bits) + matmul_int64(a, digits)
    assert np.array_equal(total, matmul_int64(a, weights))


def test_other_weights_are_refused() -> None:
    with pytest.raises(FormatError, match="weights"):
        weight_slices([8], weight_bits=4, slice_bits=2)
    with pytest.raises(FormatError, match="Slice width"):
        slice_count(4, 0)
