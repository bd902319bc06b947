# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench``: the tables of docs/figures.md."""

from __future__ import annotations

from dataclasses import asdict
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


@commands.group(epilog=examples("hwgen bench graph", "hwgen bench softmax --json"))
def bench() -> None:
    """Measure what docs/figures.md shows."""


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
