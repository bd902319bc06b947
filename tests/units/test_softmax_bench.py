# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench softmax``: both units side by side."""

from __future__ import annotations

import pytest

from hwgen.numerics.softmax import MODES
from hwgen.report.terminal import Reporter
from hwgen.units.softmax_bench import UNIT_HEADER, UnitFigures, unit_figures, unit_rows


def test_units_side_by_side() -> None:
    units = [
        UnitFigures(
            mode=mode, lut=lut, ff=5, bram36=0.5, logic_levels=4, cycles={197: 485, 1024: 2110}
        )
        for mode, lut in (("sole", 1000), ("fractional", 1300))
    ]
    assert unit_rows(units)[1] == ["fractional", "1,300", "5", "0.5", "4", "485", "2,110"]
    assert len(UNIT_HEADER) == 7


@pytest.mark.slow
@pytest.mark.verilator
def test_levels_and_luts_of_the_units() -> None:
    sole, fractional = (unit_figures(mode, Reporter(quiet=True)) for mode in MODES)
    assert fractional.lut <= 1.5 * sole.lut
    for item in (sole, fractional):
        assert item.logic_levels is not None and item.logic_levels <= 5
    # A row's slices more, and the constant latency; not more per slice.
    for length, count in fractional.cycles.items():
        assert count - sole.cycles[length] <= -(-length // 32) + 2
