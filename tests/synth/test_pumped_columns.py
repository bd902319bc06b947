# SPDX-License-Identifier: Apache-2.0
"""What Yosys makes of the column at twice the clock: cost, levels, and what crosses the clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.emit.verilog import convert_leaf
from hwgen.rtl.columns.pumped import PumpedColumns
from hwgen.synth.clock_paths import crossings
from hwgen.synth.yosys import synthesise


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "lut", "ff"), [(32, 1.0, 7.7), (64, 0.7, 7.1)])
def test_cost_and_paths(tmp_path: Path, rows: int, lut: float, ff: float) -> None:
    path = tmp_path / "leaf.v"
    path.write_text(convert_leaf(PumpedColumns(rows).synthesis_leaf(), "x", "leaf"))
    report = synthesise([path], "x_leaf")
    macs = 4 * rows
    assert report.dsp == rows
    assert report.lut <= lut * macs
    assert report.ff <= ff * macs
    within = {
        (p.source_kind, p.target_kind): p.logic_levels
        for p in report.paths
        if p.source == p.target == "clk2x"
    }
    # Flip-flops, one LUT between two of them; nothing in front of a block's pins.
    assert within.pop(("register", "register")) == 1
    assert not any(within.values())
    assert not any("memory" in (p.source_kind, p.target_kind) for p in report.paths)
    # Weights, activations, enables and swaps come from the ports, which the leaf alone has not.
    assert {(p.source, p.source_kind, p.target_kind) for p in crossings(report.paths)} == {
        ("clk", "register", "DSP D"),
        ("clk", "register", "register"),
        ("clk2x", "DSP", "register"),
        ("clk2x", "register", "register"),
    }
    assert all(p.logic_levels == 0 for p in crossings(report.paths) if p.source == "clk2x")
