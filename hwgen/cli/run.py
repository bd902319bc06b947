# SPDX-License-Identifier: Apache-2.0
"""``hwgen run``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hwgen.cli.design_options import DesignCommand, stated
from hwgen.cli.group import commands
from hwgen.cli.options import (
    BOARD_SOURCE,
    MODEL_HELP,
    Finite,
    bandwidth_option,
    board_option,
    calibration_option,
    checkpoint_option,
    container_option,
    examples,
    existing,
    expect_option,
    force_option,
    images_option,
    json_option,
    latency_option,
    softmax_function,
    softmax_option,
    squares_option,
    weight_bits_option,
)
from hwgen.cli.output import Output, describe_error, print_evidence
from hwgen.errors import UsageError
from hwgen.numerics.softmax import SoftmaxMode
from hwgen.stages.options import DesignOptions


@commands.command(
    cls=DesignCommand,
    epilog=MODEL_HELP
    + " Without MODEL: the design's, else the embedded 'digits' and its held-out images.\n\n"
    + examples(
        "hwgen run",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors",
        "hwgen run --board ./my_board.toml",
        "hwgen run deit_small --checkpoint s.pt --calibration train/ --images val.npz --json",
        "hwgen run --rows 16 --columns 32 --ports 2 --softmax-lanes 16",
        "hwgen run --weight-bits 'blocks.*.fc1=4,blocks.*.fc2=4'",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors --fps 400 --synth",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors --design tiny.design",
    ),
)
@click.argument("model", required=False)
@click.option(
    "--fps",
    type=Finite(0, 1e9, min_open=True),
    metavar="N",
    help="Build the cheapest design that reaches N frames per second; see 'hwgen explore'.",
)
@click.option(
    "--design",
    "design_path",
    type=click.Path(path_type=Path),
    metavar="DESIGN",
    help="Build this design ('hwgen generate --design-out' writes one).",
)
@board_option
@checkpoint_option
@container_option
@calibration_option
@images_option
@expect_option
@weight_bits_option
@squares_option
@softmax_option
@latency_option
@bandwidth_option
@click.option("--synth", is_flag=True, help="Synthesise with Yosys, too (minutes).")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Design folder. Default: rtl_out/<model>_<board>.",
)
@force_option
@json_option
@click.pass_context
def run(
    context: click.Context,
    model: str | None,
    fps: float | None,
    design_path: Path | None,
    board: Any,
    checkpoint: Path | None,
    container: str | None,
    calibration: Path | None,
    images: int | Path | None,
    expect: Path | None,
    weight_bits: Any,
    squares: str,
    softmax: SoftmaxMode | None,
    memory_latency: int | None,
    memory_bandwidth: float | None,
    synth: bool,
    out: Path | None,
    force: bool,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Quantise, generate, simulate and check a model: every stage in order."""
    from hwgen import flow
    from hwgen.boards import DEFAULT_BOARD
    from hwgen.report.terminal import Reporter
    from hwgen.stages.design import known_model, open_design
    from hwgen.stages.load import Request

    output: Output = context.obj
    reporter = Reporter()
    settings = flow.Settings(
        options=DesignOptions(values=stated(parameters)),
        out=out,
        images=images,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        synthesise=synth,
        expect=expect,
    )
    if board is not None:
        settings = replace(settings, board=board)
    function = softmax_function(softmax, parameters["softmax_vec"])
    if design_path is not None:
        if fps is not None:
            raise UsageError("--fps and --design must not be given together")
        design = open_design(design_path, board, settings.options)
        if design is None:
            raise UsageError(f"--design must be a design, and {design_path} is a graph")
        if design.graph is not None:
            reporter.say(f"the model is quantised anew; the graph in {design_path} is not used")
        settings = replace(settings, board=design.board, design=design)
        function = design.shapes.softmax
        if softmax is not None and softmax != function.mode:
            raise UsageError(
                f"--softmax must be the design's {function.mode} or absent, not {softmax}"
            )
        model = model or known_model(design)
    request = Request.of(
        model or "digits",
        checkpoint=checkpoint,
        calibration=calibration,
        weight_bits=weight_bits,
        squares=squares,
        container=container,
        softmax=function,
    )
    given = (model, request.checkpoint, calibration, expect, design_path, weight_bits.source)
    chosen = images if isinstance(images, Path) else None
    inputs = existing(*given, chosen, context.meta.get(BOARD_SOURCE))
    settings = replace(settings, inputs=inputs, force=force)
    explored: dict[str, Any] = {}
    if fps is not None:
        source = context.meta.get(BOARD_SOURCE, DEFAULT_BOARD)
        request, settings, explored = flow.find_design(
            request, settings, reporter, fps=fps, source=model or "digits", board_source=source
        )
    evidence = flow.run_all(request, settings, reporter)
    values = flow.describe_evidence(evidence) | explored
    if evidence.agreement is not None:
        values["expect"] = evidence.agreement.to_json()
    missed = flow.missed_rate(evidence, fps)
    if missed is not None:
        values |= describe_error(missed)
        print(f"error: {missed}", file=sys.stderr)
    output.result(values, lambda: print_evidence(evidence))
    return 0 if missed is None else missed.exit_status
