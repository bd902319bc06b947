# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench softmax``: the exact softmax it compares with, and its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request, held_out_images
from hwgen.stages.softmax_bench import (
    FUNCTIONS,
    QUALITY_HEADER,
    UNIT_HEADER,
    UnitFigures,
    describe,
    quality_figures,
    quality_rows,
    unit_rows,
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
    values = json.loads(json.dumps(describe([], found)))
    assert values["quality"][1]["logit_sqnr_db"] == fractional


def test_units_side_by_side() -> None:
    units = [
        UnitFigures(
            mode=mode, lut=lut, ff=5, bram36=0.5, logic_levels=4, cycles={197: 485, 1024: 2110}
        )
        for mode, lut in (("sole", 1000), ("fractional", 1300))
    ]
    assert unit_rows(units)[1] == ["fractional", "1,300", "5", "0.5", "4", "485", "2,110"]
    assert len(UNIT_HEADER) == 7
    values = json.loads(json.dumps(describe(units, [])))
    assert values["lut_ratio"] == 1.3
    assert values["units"][0]["cycles"] == {"197": 485, "1024": 2110}


@pytest.mark.slow
@pytest.mark.verilator
def test_levels_and_luts_of_the_units() -> None:
    from hwgen.numerics.softmax import MODES
    from hwgen.stages.softmax_bench import unit_figures

    sole, fractional = (unit_figures(mode, Reporter(quiet=True)) for mode in MODES)
    assert fractional.lut <= 1.5 * sole.lut
    for item in (sole, fractional):
        assert item.logic_levels is not None and item.logic_levels <= 5
    # A row's slices more, and the constant latency; not more per slice.
    for length, count in fractional.cycles.items():
        assert count - sole.cycles[length] <= -(-length // 32) + 2
