# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench``: the tables of docs/figures.md."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

import click

from hwgen.cli.group import commands
from hwgen.cli.options import (
    calibration_option,
    checkpoint_option,
    container_option,
    examples,
    images_option,
    json_option,
)
from hwgen.cli.output import Output
from hwgen.errors import UsageError


@commands.group(
    epilog=examples("hwgen bench array", "hwgen bench graph", "hwgen bench softmax --json")
)
def bench() -> None:
    """Measure what docs/figures.md shows."""


#: Tables of ``hwgen bench array``.
_TABLES = ("columns", "frames")


@bench.command(
    epilog="Columns are synthesised with Yosys, each kind and width alone (half a minute each, then"
    " kept); frames are predicted by the cycle model for the designs of the table, their resources"
    " estimated.\n\n"
    + examples(
        "hwgen bench array",
        "hwgen bench array --table frames --match 'deit_tiny*' --json",
        "hwgen bench array --table frames --match 'deit_tiny W4*' --simulate",
        "hwgen bench array --write docs/figures.md",
    )
)
@click.option(
    "--table",
    "chosen",
    type=click.Choice(_TABLES),
    help="One of the tables. Default: both.",
)
@click.option(
    "--match",
    default="*",
    metavar="PATTERN",
    help="Those lines only whose names match: 'digits:*', 'deit_base W4*'. Default: all.",
)
@click.option(
    "--simulate",
    "in_rtl",
    is_flag=True,
    help="Simulate a frame of each design in RTL, every boundary compared (up to an hour each).",
)
@click.option(
    "--write",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Put the lines into the tables of this page (docs/figures.md); others stay.",
)
@json_option
@click.pass_obj
def array(
    output: Output,
    chosen: str | None,
    match: str,
    in_rtl: bool,
    page: Path | None,
    as_json: bool,
) -> None:
    """Columns of every kind and width, and whole frames of DeiT on designs that use them."""
    from hwgen.boards import DEFAULT_BOARD, get_board
    from hwgen.report.regions import read_page, write_page
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages import array_bench as frames
    from hwgen.stages.lower import board_memory
    from hwgen.units import array_bench as columns

    every = {"columns": columns.TABLE, "frames": frames.TABLE}
    tables = {name: every[name] for name in (_TABLES if chosen is None else (chosen,))}
    names = [name for table in tables.values() for name in table.order]
    if not (wanted := {name for name in names if fnmatchcase(name, match)}):
        nearest = difflib.get_close_matches(match, names, n=1, cutoff=0.0)[0]
        raise UsageError(f"--match must match a line, not {match!r:.80}", nearest=nearest)
    text = ""
    if page is not None:
        text = read_page(page, [table.region for table in tables.values()])
    reporter, board = Reporter(), get_board(DEFAULT_BOARD)
    memory = board_memory(board, board.clock.mhz)
    pieces, found = [], []
    if "columns" in tables:
        order = [name for name in columns.TABLE.order if name in wanted]
        pieces = [columns.column_figures(name, reporter) for name in order]
    if "frames" in tables:
        designs = [design for design in frames.DESIGNS if design.name in wanted]
        with reporter.stage("frames"):
            for number, design in enumerate(designs):
                reporter(design.name, number / len(designs))
                found.append(frames.frame_figures(design, board))
        if in_rtl:
            found = [frames.simulated(figures, board, reporter) for figures in found]
    rows = {
        "columns": [columns.row(figures) for figures in pieces],
        "frames": [frames.row(figures) for figures in found],
    }
    if page is not None:
        for name, table in tables.items():
            text = table.rewritten(text, rows[name])
        write_page(page, text)
    values = {
        "board": board.name,
        "clock_mhz": board.clock.mhz,
        "memory_latency": memory.latency,
        "memory_bandwidth": memory.bandwidth,
        "columns": [asdict(figures) for figures in pieces],
        "frames": [figures.to_json() for figures in found],
    }

    def show() -> None:
        for name, table in tables.items():
            if rows[name]:
                print_table(table.title, rows[name], header=table.header)

    output.result(values, show)


@bench.command(
    epilog=examples(
        "hwgen bench graph",
        "OPENBLAS_NUM_THREADS=1 hwgen bench graph",
        "hwgen bench graph --numpy",
    )
)
@click.option(
    "--numpy",
    "numpy_only",
    is_flag=True,
    help="NumPy's loops, even where compiled ones (hwgen[fast]) are installed.",
)
@json_option
@click.pass_obj
def graph(output: Output, numpy_only: bool, as_json: bool) -> None:
    """Speed of the integer graph beside torch's eager float32 (needs torch; a minute).

    Both run the same networks on the same images and as many threads as BLAS takes. The table
    says which loops the integer graph had.
    """
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.bench_graph import bench_graph, to_json

    rows, versions = bench_graph(Reporter(), numpy_only=numpy_only)
    header = ("network", "threads", "integer graph", "torch eager", "batch", "ratio")
    table = [
        [
            row.network,
            str(row.threads),
            f"{row.integer:,.1f}",
            f"{row.torch:,.1f}",
            str(row.torch_batch),
            f"{row.ratio:.2f}",
        ]
        for row in rows
    ]
    title = f"Images per second (torch {versions['torch']}; {versions['integer graph']})"
    output.result(to_json(rows, versions), lambda: print_table(title, table, header=header))


@bench.command(
    epilog=examples(
        "hwgen bench softmax",
        "hwgen bench softmax v.json --checkpoint v.pt --calibration c.npz --images t.npz",
    ),
)
@click.argument("model", required=False)
@checkpoint_option
@container_option
@calibration_option
@images_option
@json_option
@click.pass_obj
def softmax(
    output: Output,
    model: str | None,
    checkpoint: Path | None,
    container: str | None,
    calibration: Path | None,
    images: int | Path | None,
    as_json: bool,
) -> None:
    """Both functions of the softmax: LUTs, levels, cycles of the unit; SQNR and top-1 of networks.

    Networks: the embedded 'digits' on its held-out images, and MODEL if one is given.
    """
    from hwgen.numerics.softmax import MODES
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages import softmax_bench as networks
    from hwgen.stages.load import Request, held_out_images
    from hwgen.units import softmax_bench as hardware

    reporter = Reporter()
    requests = [(Request.of("digits"), held_out_images(Request.of("digits").spec, 500))]
    if model is not None:
        request = Request.of(
            model, checkpoint=checkpoint, container=container, calibration=calibration
        )
        chosen = images if images is not None else networks.DEFAULT_IMAGES
        requests.append((request, held_out_images(request.spec, chosen)))
    quality = [
        item
        for request, chosen in requests
        for item in networks.quality_figures(request, chosen, reporter)
    ]
    units = [hardware.unit_figures(mode, reporter) for mode in MODES]

    def show() -> None:
        print_table("E2Softmax, one unit", hardware.unit_rows(units), header=hardware.UNIT_HEADER)
        print_table(
            "Networks, W8A8", networks.quality_rows(quality), header=networks.QUALITY_HEADER
        )

    values = {
        "units": [asdict(item) for item in units],
        "lut_ratio": round(units[1].lut / units[0].lut, 3),
        "quality": [asdict(item) for item in quality],
    }
    output.result(values, show)
