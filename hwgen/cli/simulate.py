# SPDX-License-Identifier: Apache-2.0
"""``hwgen simulate``."""

from __future__ import annotations

from pathlib import Path

import click

from hwgen.cli.group import commands
from hwgen.cli.options import (
    bandwidth_option,
    examples,
    force_option,
    images_option,
    json_option,
    latency_option,
)
from hwgen.cli.output import Output, print_evidence


@commands.command(
    epilog=examples(
        "hwgen simulate rtl_out/digits_zcu102",
        "hwgen simulate rtl_out/digits_zcu102 --images 5 --memory-bandwidth 4 --json",
        "hwgen simulate rtl_out/tiny --images val.npz --trace",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@images_option
@click.option("--trace", is_flag=True, help="Write trace.json (Perfetto) into the folder.")
@latency_option
@bandwidth_option
@force_option
@json_option
@click.pass_obj
def simulate(
    output: Output,
    folder: Path,
    images: int | Path | None,
    trace: bool,
    memory_latency: int | None,
    memory_bandwidth: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Simulate a design's files as they are and compare every layer with the reference."""
    from hwgen import flow
    from hwgen.report.terminal import Reporter
    from hwgen.stages.emit import DesignFolder

    reporter = Reporter()
    opened = DesignFolder.load(folder)
    settings = flow.Settings(
        images=images,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        force=force,
    )
    evidence = flow.simulate_design(opened, settings, reporter, trace=trace)
    assert evidence.simulation is not None
    values = {"name": opened.manifest.name, "out": str(folder)} | evidence.simulation.contract()
    if trace:
        values["trace"] = str(folder / "trace.json")
    output.result(values, lambda: print_evidence(evidence))
