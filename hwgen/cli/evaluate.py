# SPDX-License-Identifier: Apache-2.0
"""``hwgen evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwgen.cli.group import commands
from hwgen.cli.options import (
    container_option,
    examples,
    existing,
    force_option,
    json_option,
)
from hwgen.cli.output import Output


@commands.command(
    epilog=examples(
        "hwgen evaluate digits.graph --images test.npz",
        "hwgen evaluate tiny.graph --images imagenet/val/ --checkpoint deit_tiny.safetensors",
        "hwgen evaluate tiny.graph --images val.npz -o predictions.json --json",
    )
)
@click.argument("graph", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR|NPZ",
    required=True,
    help="Images, with labels for an accuracy: a folder, resized and cropped as the graph says, or"
    " an archive of the model's size.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Weights of the float model, a file or folder as for 'hwgen quantize'. Default: none, the"
    " integer graph alone.",
)
@container_option
@click.option(
    "-o",
    "--output",
    "predictions",
    type=click.Path(path_type=Path),
    help="Write every image's likeliest classes (JSON).",
)
@force_option
@json_option
@click.pass_obj
def evaluate(
    output: Output,
    graph: Path,
    images: Path,
    checkpoint: Path | None,
    container: str | None,
    predictions: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the accuracy of a graph, no hardware needed.

    With --checkpoint the float model runs beside it: how often both agree, and at which layer
    boundary how much is lost. A run that was killed goes on where it was.
    """
    from hwgen.frontend.images import stream_images
    from hwgen.graph.graph import IntegerGraph
    from hwgen.outputs import check_file
    from hwgen.report.design import mass_text
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages import evaluate as stage

    reporter = Reporter()
    if predictions is not None:
        inputs = existing(graph, images, checkpoint)
        check_file(predictions, stage.recognise_predictions, inputs=inputs, force=force)
    network = IntegerGraph.load(graph)
    stream = stream_images(images, network.spec)
    if stream.note is not None:
        reporter.warn(stream.note)
    model = None
    if checkpoint is not None:
        model = stage.float_model(network, checkpoint, container, reporter)
    found = stage.evaluate(graph, network, model, stream, reporter)
    values = found.contract() | {"graph": str(graph), "model": network.spec.name}
    if predictions is not None:
        found.save_predictions(predictions)
        values["predictions"] = str(predictions)

    def table() -> None:
        print_table(str(graph), _rows(values, mass_text(values["softmax_mass"])))
        if sqnr := values.get("layer_sqnr_db"):
            rows = [[name, "exact" if db is None else f"{db:.1f}"] for name, db in sqnr.items()]
            print_table("SQNR of layer boundaries", rows, header=("boundary", "dB"))

    output.result(values, table)


def _rows(values: dict[str, Any], mass: str) -> list[list[str]]:
    rows = [["images", f"{values['images']:,}"]]
    for top in ("top1", "top5"):
        if top in values:
            text = f"{100 * values[top]:.2f} %"
            if f"{top}_float" in values:
                text += f" (float model: {100 * values[f'{top}_float']:.2f} %)"
            rows.append([f"{top[:3]}-{top[3]}", text])
    if "agreement" in values:
        rows.append(["same class as the float model", f"{100 * values['agreement']:.2f} %"])
        sqnr = values["logit_sqnr_db"]
        rows.append(["logit SQNR", "exact" if sqnr is None else f"{sqnr:.2f} dB"])
    rows.append(["softmax mass", mass])
    if values["images_per_second"] is not None:
        speed = f"{values['images_per_second']:,.1f} ({values['images_computed']:,} images)"
        rows.append(["images per second", speed])
    if "predictions" in values:
        rows.append(["predictions", values["predictions"]])
    return rows
