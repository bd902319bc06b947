# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench softmax``: the exact softmax it compares with, and networks with each."""

from __future__ import annotations

import numpy as np

from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request, held_out_images
from hwgen.stages.softmax_bench import (
    FUNCTIONS,
    QUALITY_HEADER,
    quality_figures,
    quality_rows,
)


def test_the_exact_softmax() -> None:
    logits = np.array([[16, 0, -128], [0, 0, 0]], np.int8)
    codes, shifts = FUNCTIONS["exact"](logits, fraction_bits=4, max_length=3)
    e = np.exp(1)
    assert shifts is None
    assert codes.tolist() == [[round(256 * e / (1 + e)), round(256 / (1 + e)), 0], [85, 85, 85]]
    assert FUNCTIONS["exact"]([[5]], fraction_bits=0, max_length=1)[0].tolist() == [[255]]


def test_fractional_is_near_the_exact_one_on_digits() -> None:
    request = Request.of("digits")
    found = quality_figures(request, held_out_images(request.spec, 300), Reporter(quiet=True))
    assert [item.function for item in found] == ["sole", "fractional", "exact"]
    sole, fractional, exact = (item.logit_sqnr_db for item in found)
    assert fractional > sole + 6
    assert fractional > exact - 1.5
    for item in found:
        assert item.top1 is not None and item.top1_float is not None
        assert item.top1 > item.top1_float - 0.02 and item.agreement > 0.97
    assert all(len(row) == len(QUALITY_HEADER) for row in quality_rows(found))
