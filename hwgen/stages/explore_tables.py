# SPDX-License-Identifier: Apache-2.0
"""The answer of an exploration as tables: for the terminal, and as comma-separated values."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hwgen.boards import RESOURCES
from hwgen.columns import dense
from hwgen.config import AcceleratorConfig
from hwgen.explore.resources import model_error
from hwgen.explore.search import MARGIN, TOLERANCE
from hwgen.explore.space import Candidate
from hwgen.files import replace_file
from hwgen.outputs import State
from hwgen.stages.explore import LABELS, Exploration, number


def rows(exploration: Exploration) -> list[list[str]]:
    """The designs of the answer, ready for a table with :data:`HEADER`."""
    return [
        [
            f"{found.fps:,.1f}",
            f"{found.cycles:,}",
            _clocks(found.point.config),
            _array(found.point.candidate),
            str(found.point.candidate.memory_ports),
            str(found.point.candidate.requantise_lanes),
            str(found.point.candidate.layernorm_lanes),
            str(found.point.candidate.softmax_vec),
            str(found.point.candidate.row_blocks),
            *(number(found.point, name) for name in RESOURCES),
            f"{100 * found.point.cost:.1f} %",
        ]
        for found in exploration.answer.designs
    ]


def _clocks(config: AcceleratorConfig) -> str:
    return f"{config.clock_mhz}/{config.dsp_clock_mhz}" if config.clk2x else f"{config.clock_mhz}"


def _array(candidate: Candidate) -> str:
    uniform = candidate.groups == dense(candidate.columns)
    array = f"{candidate.rows} x {candidate.columns if uniform else candidate.groups}"
    return array + ", no rotation" * (not candidate.rotation)


def summary(exploration: Exploration) -> list[list[str]]:
    """What is to be said beside the designs, name and value."""
    answer, request = exploration.answer, exploration.request
    board, error = request.board, model_error()
    limits = request.limits()
    placed = {rows: fits for rows, fits in limits.cascades.items() if fits is not None}
    estimated = (
        f"LUT and FF estimated, worst error {100 * error['lut']:.1f} % and"
        f" {100 * error['ff']:.1f} % (added where limits are checked);"
        " DSP and BRAM36 as Yosys counts"
    )
    counted = (
        f"{answer.designs_legal:,} legal, {answer.designs_within_limits:,} within the limits,"
        f" {answer.designs_evaluated:,} evaluated in {answer.seconds:.1f} s"
    )
    table = [
        ["board", board.name],
        ["clocks", request.clocks],
        ["limits", ", ".join(f"{limits.resources[n]:,} {LABELS[n]}" for n in RESOURCES)],
        [
            "placement",
            ", ".join(f"{fits} cascades of {rows}" for rows, fits in placed.items())
            or "unknown: the board file has no heights of its DSP columns",
        ],
        [
            "memory",
            f"{request.memory.bandwidth:.1f} B/cycle, {request.memory.latency} cycles latency",
        ],
        ["cycles", "predicted by the event-driven model"],
        ["resources", estimated],
        ["cost", "mean share of the four limits"],
        ["designs", counted],
    ]
    if request.fps is None:
        table.append(["front", f"designs less than {100 * TOLERANCE:g} % apart are one"])
    else:
        table.append(
            ["target", f"{request.fps:g} FPS, predicted at least {100 * MARGIN:g} % above it"]
        )
    if why := exploration.why():
        table.append(["runner-up", why])
    if (chosen := exploration.chosen) is not None:
        table.append(["build it with", exploration.command(chosen)])
    elif answer.best is not None:
        point = answer.best.point
        rate = f"{answer.best.fps:,.1f} FPS at {point.config.clocks}"
        table.append(["fastest", f"{rate}: {point.candidate.text()}"])
        table.append(["build it with", exploration.command(answer.best)])
    return table


#: Column names of :func:`rows`.
HEADER = (
    *("FPS", "cycles", "MHz", "array", "ports", "requantise lanes", "LayerNorm lanes"),
    *("softmax lanes", "row blocks"),
    *("LUT", "FF", "DSP", "BRAM36", "cost"),
)


_CSV_CHOICES = (
    *("rows", "columns", "groups", "memory_ports", "softmax_vec", "requantise_lanes"),
    *("layernorm_lanes", "row_blocks", "rotation"),
)
_CSV_HEADER = (
    *("fps", "cycles", "clock_mhz", "dsp_clock_mhz"),
    *_CSV_CHOICES,
    *RESOURCES,
    *("cost", "command"),
)


def recognise_csv(path: Path) -> State:
    """What a file is: a table of designs by its header; it has no place for a seal."""
    with path.open("rb") as stream:
        first = stream.read(1000).split(b"\n")[0]
    return State.EDITED if first == ",".join(_CSV_HEADER).encode() else State.FOREIGN


def write_csv(exploration: Exploration, path: Path) -> None:
    """The designs as a table of comma-separated values, one line each."""
    text = io.StringIO()
    names = _CSV_CHOICES
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for found in exploration.answer.designs:
        point = found.point
        writer.writerow(
            [
                *(f"{found.fps:.3f}", found.cycles),
                *(point.config.clock_mhz, point.config.dsp_clock_mhz),
                *(getattr(point.candidate, name) for name in names),
                *(getattr(point.resources, name) for name in RESOURCES),
                *(f"{point.cost:.6f}", exploration.command(found)),
            ]
        )
    replace_file(path, lambda stream: stream.write(text.getvalue().encode()))
