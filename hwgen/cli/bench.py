# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench``: the tables of docs/figures.md."""

from __future__ import annotations

import click

from hwgen.cli.group import commands
from hwgen.cli.options import examples, json_option
from hwgen.cli.output import Output


@commands.group(epilog=examples("hwgen bench graph", "hwgen bench graph --json"))
def bench() -> None:
    """Measure what docs/figures.md shows."""


@bench.command(epilog=examples("hwgen bench graph", "OPENBLAS_NUM_THREADS=1 hwgen bench graph"))
@json_option
@click.pass_obj
def graph(output: Output, as_json: bool) -> None:
    """Speed of the integer graph beside torch's eager float32 (needs torch; a minute).

    Both run the same networks on the same images and as many threads as BLAS takes.
    """
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.bench_graph import bench_graph, to_json

    rows, versions = bench_graph(Reporter())
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
    title = f"Images per second (torch {versions['torch']}, NumPy {versions['numpy']})"
    output.result(to_json(rows, versions), lambda: print_table(title, table, header=header))
