# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench array``: docs/figures.md shows what it finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import get_board
from hwgen.frontend.models import MODELS
from hwgen.report.terminal import Reporter
from hwgen.stages import array_bench
from hwgen.stages.array_bench import COMMON, DESIGNS, TABLE, FrameDesign, frame_figures, row
from hwgen.units.array_bench import TABLE as COLUMNS
from hwgen.units.array_bench import column_figures, column_names
from hwgen.units.array_bench import row as column_row

pytestmark = pytest.mark.command

PAGE = Path(__file__).parents[2] / "docs" / "figures.md"
ZCU102 = get_board("zcu102")
#: What makes a page of today's figures.
COMMAND = "hwgen bench array --write docs/figures.md"


def test_the_page_has_the_frames_that_the_models_predict() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [row(frame_figures(design, ZCU102)) for design in DESIGNS]
    assert TABLE.rewritten(text, rows) == text, f"run: {COMMAND} --table frames"


def test_the_page_has_a_line_of_every_kind_and_width() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert tuple(COLUMNS.rows(text)) == column_names(), f"run: {COMMAND} --table columns"
    assert COLUMNS.rewritten(text, []) == text


def test_a_line_of_columns_is_what_yosys_counts() -> None:
    found = column_figures("digits:1", Reporter(quiet=True))
    assert COLUMNS.rows(PAGE.read_text(encoding="utf-8"))["digits:1"] == column_row(found)
    assert (found.macs_per_cycle, found.dsp, found.macs_per_dsp) == (2048, 0, None)
    assert 0 < found.column_lut_per_mac < found.lut_per_mac
    assert found.logic_levels >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", column_names())
def test_every_line_of_columns_is_what_yosys_counts(name: str) -> None:
    found = column_figures(name, Reporter(quiet=True))
    assert COLUMNS.rows(PAGE.read_text(encoding="utf-8"))[name] == column_row(found)


def test_a_simulation_holds_as_long_as_the_prediction_does() -> None:
    figures = frame_figures(DESIGNS[2], ZCU102)
    told = row(
        replace(figures, simulated_cycles=500_000, boundaries_equal=148, logit_sqnr_db=22.44)
    )
    assert told[:-1] == row(figures)[:-1]
    useful = figures.macs / 500_000
    error = 100 * (figures.predicted_cycles / 500_000 - 1)
    assert told[-1] == f"500,000 (predicted {error:+.2f} %), {useful:,.0f}, 148, 22.4 dB"
    assert TABLE.keep(row(figures), told) == told
    other = row(replace(figures, predicted_cycles=figures.predicted_cycles + 1))
    assert TABLE.keep(other, told) == other


@pytest.mark.slow
@pytest.mark.verilator
def test_a_frame_in_rtl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_bench, "COMMON", {**COMMON, "rows": 16, "memory_ports": 1,
                        "requantise_lanes": 16})  # fmt: skip
    small = FrameDesign("digits", "4", "dual:8:8,digits:24:4", 8)
    figures = array_bench.simulated(frame_figures(small, ZCU102), ZCU102, Reporter(quiet=True))
    assert figures.macs > MODELS["digits"].depth
    assert figures.boundaries_equal == 52
    assert figures.simulated_cycles is not None and figures.logit_sqnr_db is not None
    assert abs(figures.predicted_cycles / figures.simulated_cycles - 1) < 0.03
    assert figures.to_json()["simulated_cycles"] == figures.cycles == figures.simulated_cycles
