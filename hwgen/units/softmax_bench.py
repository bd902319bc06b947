# SPDX-License-Identifier: Apache-2.0
"""Both modes of the softmax unit side by side: what they cost.

The unit alone with its default lanes, synthesised with Yosys and simulated on the emitted Verilog.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.files import scratch_folder
from hwgen.numerics.softmax import SoftmaxMode
from hwgen.report.terminal import Reporter
from hwgen.units import UNITS, emit_unit, simulate, synthesise_folder

#: Rows that are simulated: as many of one length, one behind the other.
ROWS = 64
LENGTHS = (197, 1024)


@dataclass(frozen=True, kw_only=True)
class UnitFigures:
    """The unit of one mode."""

    mode: SoftmaxMode
    lut: int
    ff: int
    bram36: float
    logic_levels: int | None
    cycles: dict[int, int]  #: of :data:`ROWS` rows, by their length


def unit_figures(mode: SoftmaxMode, reporter: Reporter) -> UnitFigures:
    """Synthesise and simulate the unit of one mode; both are kept by content.

    Raises:
        HwgenError: the unit differs from its reference.
        ToolError: Yosys or Verilator is missing or failed.
    """
    unit = UNITS["e2softmax"]
    values = unit.resolve({"mode": mode})
    rng = np.random.default_rng(1)
    cycles = {}
    with reporter.stage(f"unit {mode}"), scratch_folder() as folder:
        reporter("Yosys", 0.0)
        emit_unit(unit, values, folder / "unit")
        counts = synthesise_folder(folder / "unit")
        for length in LENGTHS:
            logits = np.clip(rng.normal(0, 30, (ROWS, length)), -128, 127).astype(np.int8)
            result = simulate(unit, values, {"logits": logits}, progress=reporter)
            if not result.matches_reference:
                raise HwgenError(f"e2softmax must equal its reference: {result.first_difference}")
            cycles[length] = result.cycles
    return UnitFigures(
        mode=mode,
        lut=int(counts["lut"]),
        ff=int(counts["ff"]),
        bram36=counts["bram36"],
        logic_levels=counts["logic_levels"],
        cycles=cycles,
    )


def unit_rows(figures: list[UnitFigures]) -> list[list[str]]:
    """A table of the units, ready with :data:`UNIT_HEADER`."""
    return [
        [
            item.mode,
            f"{item.lut:,}",
            f"{item.ff:,}",
            f"{item.bram36:g}",
            str(item.logic_levels),
            *(f"{item.cycles[length]:,}" for length in LENGTHS),
        ]
        for item in figures
    ]


UNIT_HEADER = (
    *("mode", "LUT", "FF", "BRAM36", "levels"),
    *(f"cycles of {ROWS} x {length}" for length in LENGTHS),
)
