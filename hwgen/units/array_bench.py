# SPDX-License-Identifier: Apache-2.0
"""Every kind of column in every width side by side: what a product a cycle costs.

A piece of the array alone, with all that the accelerator's has: columns of one kind, the broadcast
of their weights, the skew, the accumulators in block RAM and their reading for DRAIN. Synthesised
with Yosys, and kept by content.
"""

from __future__ import annotations

import gc
import re
import warnings
from dataclasses import dataclass

from hwgen.columns import KINDS, ColumnGroup
from hwgen.emit.verilog import convert, convert_leaf
from hwgen.errors import ToolError
from hwgen.files import scratch_folder
from hwgen.report.regions import PageTable
from hwgen.report.terminal import Reporter
from hwgen.rtl.systolic_array import SystolicArray
from hwgen.synth.yosys import SynthesisReport, synthesise

#: Rows and columns of the array that is counted, and the depth of its accumulators (DeiT's tokens).
ROWS = 64
COLUMNS = 32
TILE_ROWS = 197
#: Name of the counted module.
_TOP = "array"


@dataclass(frozen=True, kw_only=True)
class ColumnFigures:
    """An array of one kind and width; ``column_*``: of its columns alone, without their frame."""

    kind: str
    weight_bits: int
    rows: int
    columns: int
    macs_per_cycle: int
    lut: int
    ff: int
    dsp: int
    bram36: float
    lut_per_mac: float
    ff_per_mac: float
    macs_per_dsp: float | None
    column_lut_per_mac: float
    column_ff_per_mac: float
    logic_levels: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.kind}:{self.weight_bits}"


def column_names() -> tuple[str, ...]:
    """All kinds and widths, ``dual:8``, in the order of the table."""
    return tuple(f"{kind.name}:{bits}" for kind in KINDS.values() for bits in kind.weight_bits)


def column_figures(name: str, reporter: Reporter) -> ColumnFigures:
    """Synthesise an array of one kind and width (``dual:8``).

    Raises:
        ToolError: Yosys is missing or failed.
    """
    kind, _, bits = name.partition(":")
    group = ColumnGroup(kind, COLUMNS, int(bits))
    report = _synthesise(group, reporter)
    (leaf,) = [m for m in report.modules if re.match(rf"{_TOP}_column_", m.name)]
    macs = ROWS * group.columns
    resources = {name: int(value) for name, value in report.resources.items() if name != "bram36"}

    def per_mac(count: float) -> float:
        return round(count / macs, 3)

    return ColumnFigures(
        kind=group.kind,
        weight_bits=group.weight_bits,
        rows=ROWS,
        columns=group.columns,
        macs_per_cycle=macs,
        **resources,
        bram36=report.bram36,
        lut_per_mac=per_mac(report.lut),
        ff_per_mac=per_mac(report.ff),
        macs_per_dsp=round(macs / report.dsp, 3) if report.dsp else None,
        column_lut_per_mac=per_mac(leaf.instances * leaf.total["lut"]),
        column_ff_per_mac=per_mac(leaf.instances * leaf.total["ff"]),
        logic_levels=report.logic_levels or 0,
    )


def _synthesise(group: ColumnGroup, reporter: Reporter) -> SynthesisReport:
    """Counts of an array of one group whose columns DRAIN takes all at once."""
    array = SystolicArray(
        rows=ROWS,
        groups=(group,),
        lanes=group.columns,
        tile_rows=TILE_ROWS,
        # What a group that takes slices costs in an accelerator.
        slice_widths=(group.weight_bits,) if group.takes_slices else (),
    )
    leaves, blocks = array.leaves(), array.synthesis_leaves()
    for part in blocks:
        leaves.pop(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the leaves that are replaced are never elaborated
        texts = [convert(array, _TOP, leaves, blocks)]
        texts += [convert_leaf(leaf, _TOP, part) for part, leaf in blocks.items()]
        del array, leaves, blocks
        gc.collect()  # Amaranth warns of them when they go
    with reporter.stage(f"columns {group}"), scratch_folder() as folder:
        files = []
        for index, text in enumerate(texts):
            files.append(folder / f"{index}.v")
            files[-1].write_text(text)
        try:
            return synthesise(files, _TOP, "xcup", progress=reporter)
        except ToolError as error:
            raise ToolError(error.what, where=f"{ROWS} rows of {group}", why=error.why) from error


_HEADER = (
    *("columns", "MAC/cycle", "LUT", "FF", "DSP", "BRAM36", "LUT/MAC", "FF/MAC", "MAC/DSP"),
    *("LUT/MAC, columns alone", "FF/MAC, columns alone", "logic levels"),
)


def row(figures: ColumnFigures) -> list[str]:
    """A line of the table, ready for :data:`TABLE`."""
    return [
        figures.name,
        f"{figures.macs_per_cycle:,}",
        f"{figures.lut:,}",
        f"{figures.ff:,}",
        f"{figures.dsp:,}",
        f"{figures.bram36:g}",
        f"{figures.lut_per_mac:.2f}",
        f"{figures.ff_per_mac:.2f}",
        "" if figures.macs_per_dsp is None else f"{figures.macs_per_dsp:.2f}",
        f"{figures.column_lut_per_mac:.2f}",
        f"{figures.column_ff_per_mac:.2f}",
        str(figures.logic_levels),
    ]


TABLE = PageTable(
    region="bench array: columns",
    title=f"Columns, {ROWS} rows x {COLUMNS} (synthesised with Yosys, xcup)",
    header=_HEADER,
    order=column_names(),
)
