# SPDX-License-Identifier: Apache-2.0
"""``hwgen generate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hwgen.cli.design_options import DesignCommand, stated
from hwgen.cli.group import commands
from hwgen.cli.options import (
    BOARD_SOURCE,
    board_option,
    examples,
    existing,
    force_option,
    json_option,
)
from hwgen.cli.output import Output, print_evidence
from hwgen.stages.options import DesignOptions


@commands.command(
    cls=DesignCommand,
    epilog="SOURCE is a graph of 'hwgen quantize', which gets the board's preset changed by the"
    " options, or a design; a design without a graph needs --graph.\n\n"
    + examples(
        "hwgen generate digits.graph -o rtl_out/digits",
        "hwgen generate digits.graph --columns 32 --ports 2 --clock 250",
        "hwgen generate tiny.graph --board zcu102 -o rtl_out/tiny --json",
        "hwgen generate tiny.graph --board ./my_board.toml",
        "hwgen generate tiny.design --graph tiny.graph --design-out tiny_with_graph.design",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--graph",
    "graph_path",
    type=click.Path(path_type=Path),
    metavar="GRAPH",
    help="The graph that the design runs, in the place of its own.",
)
@board_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Design folder. Default: rtl_out/<model>_<board>.",
)
@click.option(
    "--design-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the design with its graph: one file to generate from, or for 'run --design'.",
)
@force_option
@json_option
@click.pass_context
def generate(
    context: click.Context,
    source: Path,
    graph_path: Path | None,
    board: Any,
    out: Path | None,
    design_out: Path | None,
    force: bool,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Write Verilog, program, packed weights and manifest."""
    from hwgen import flow
    from hwgen.outputs import check_file
    from hwgen.report.terminal import Reporter
    from hwgen.stages.design import open_source, recognise_design

    output: Output = context.obj
    reporter = Reporter()
    options = DesignOptions(values=stated(parameters))
    inputs = existing(source, graph_path, context.meta.get(BOARD_SOURCE))
    if design_out is not None:
        check_file(design_out, recognise_design, inputs=inputs, force=force)
    start = open_source(source, graph_path, board, options, reporter)
    settings = flow.Settings(options=options, out=out, inputs=inputs, force=force)
    if board is not None:
        settings = replace(settings, board=board)

    folder = flow.generate_all(start, settings, reporter, design_out=design_out)
    evidence = flow.Evidence(folder=folder)
    facts = flow.describe_evidence(evidence) | {"files": dict(folder.manifest.files)}
    if design_out is not None:
        facts["design"] = str(design_out)
    output.result(facts, lambda: print_evidence(evidence))
