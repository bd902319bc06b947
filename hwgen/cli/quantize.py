# SPDX-License-Identifier: Apache-2.0
"""``hwgen quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwgen.cli.design_options import DesignCommand
from hwgen.cli.group import commands
from hwgen.cli.options import (
    MODEL_HELP,
    calibration_option,
    checkpoint_option,
    container_option,
    examples,
    existing,
    expect_option,
    force_option,
    json_option,
    softmax_function,
    softmax_option,
    squares_option,
    weight_bits_option,
)
from hwgen.cli.output import Output, short
from hwgen.numerics.softmax import SoftmaxMode


@commands.command(
    cls=DesignCommand,
    stated=("softmax_vec",),
    epilog=MODEL_HELP
    + "\n\n"
    + examples(
        "hwgen quantize digits -o digits.graph",
        "hwgen quantize deit_tiny --checkpoint deit_tiny.safetensors -o tiny.graph",
        "hwgen quantize vit_base --checkpoint b.pt --calibration images/ --weight-bits 4 -o b.g",
        "hwgen quantize digits --weight-bits '4,blocks.0.*=6,head=4' -o digits.graph",
        "hwgen quantize deit_tiny --checkpoint t.pt --weight-bits widths.toml -o tiny.graph",
        "hwgen quantize digits --softmax sole --softmax-lanes 16 -o digits.graph",
    ),
)
@click.argument("model")
@checkpoint_option
@container_option
@calibration_option
@expect_option
@weight_bits_option
@squares_option
@softmax_option
@click.option("-o", "--output", "graph_path", type=click.Path(path_type=Path), required=True)
@force_option
@json_option
@click.pass_obj
def quantize(
    output: Output,
    model: str,
    checkpoint: Path | None,
    container: str | None,
    calibration: Path | None,
    expect: Path | None,
    weight_bits: Any,
    squares: str,
    softmax: SoftmaxMode | None,
    graph_path: Path,
    force: bool,
    as_json: bool,
    softmax_vec: int | None,
) -> None:
    """Quantise a checkpoint to an integer graph."""
    from hwgen import flow
    from hwgen.graph.weight_bits import weight_bits_text
    from hwgen.outputs import check_file
    from hwgen.report.design import assumed_rows, quality_rows, saturation_text
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.design import recognise_design
    from hwgen.stages.load import Request, calibration_images, compare_with_expected, load
    from hwgen.stages.quantise import quantise

    reporter = Reporter()
    request = Request.of(
        model,
        checkpoint=checkpoint,
        calibration=calibration,
        weight_bits=weight_bits,
        squares=squares,
        container=container,
        softmax=softmax_function(softmax, softmax_vec, graph_only=True),
    )
    inputs = existing(model, request.checkpoint, calibration, expect, weight_bits.source)
    check_file(graph_path, recognise_design, inputs=inputs, force=force)
    loaded = load(request, reporter)
    agreement = None
    if expect is not None:
        agreement = compare_with_expected(
            loaded, expect, lambda: calibration_images(request), reporter
        )
    graph = quantise(loaded, reporter)
    graph.save(graph_path)
    facts = flow.describe_graph(graph) | {"graph": str(graph_path)}
    if agreement is not None:
        facts["expect"] = agreement.to_json()
    shown = facts | {
        "logit_saturation": saturation_text(graph.metadata.logit_saturation),
        "weight_bits": weight_bits_text(facts["layer_weight_bits"]),
    }
    if not facts["layer_weight_shares"]:
        del shown["layer_weight_shares"]
    for name in ("assumed", "layer_weight_bits", *graph.metadata.quality()):
        del shown[name]
    for warning in graph.metadata.warnings:
        reporter.warn(warning)
    rows = [[k, short(v)] for k, v in shown.items()]
    rows += quality_rows(facts) + assumed_rows(graph.metadata.assumed)
    output.result(facts, lambda: print_table(str(graph_path), rows))
