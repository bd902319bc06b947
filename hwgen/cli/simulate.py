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
from hwgen.errors import UsageError


@commands.command(
    epilog=examples(
        "hwgen simulate rtl_out/digits_zcu102",
        "hwgen simulate rtl_out/digits_zcu102 --images 5 --memory-bandwidth 4 --json",
        "hwgen simulate rtl_out/tiny --images val.npz --trace",
        "hwgen simulate rtl_out/tiny --dump tensors --wave tiny.vcd",
        "hwgen simulate rtl_out/tiny --wave tiny.vcd --from-cycle 4000 --to-cycle 4500",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@images_option
@click.option(
    "--trace",
    is_flag=True,
    help="Write trace.json (Perfetto) into the folder: when each engine worked on what, simulated"
    " and predicted.",
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    metavar="OUTDIR",
    help="Write every layer boundary of every image, simulated and reference, as"
    " OUTDIR/image_0000.npz and so on: arrays '<boundary>/rtl' and '<boundary>/reference'.",
)
@click.option(
    "--wave",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write all signals of a window of cycles (VCD; GTKWave and Surfer read it): by default 512"
    " cycles before the first difference to 64 behind it, or without one the first 577 of image 0."
    " A second simulation with a build of its own, which is kept as well. A cycle of 'digits' takes"
    " 35 KB at most, of larger arrays more in proportion: a whole frame can be gigabytes.",
)
@click.option(
    "--from-cycle",
    type=click.IntRange(0),
    metavar="N",
    help="First cycle of --wave, counted from START. Default: 576 before --to-cycle.",
)
@click.option(
    "--to-cycle",
    type=click.IntRange(0),
    metavar="M",
    help="Last cycle of --wave. Default: 576 behind --from-cycle.",
)
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
    dump: Path | None,
    wave: Path | None,
    from_cycle: int | None,
    to_cycle: int | None,
    memory_latency: int | None,
    memory_bandwidth: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Simulate a design's files as they are and compare every layer with the reference.

    docs/debugging.md shows how a mismatch is found with --dump, --trace and --wave.
    """
    from hwgen import flow
    from hwgen.report.terminal import Reporter
    from hwgen.stages.emit import DesignFolder
    from hwgen.stages.inspection import Inspection

    if wave is None and (from_cycle is not None or to_cycle is not None):
        raise UsageError("--from-cycle and --to-cycle must be given with --wave FILE")
    if from_cycle is not None and to_cycle is not None and from_cycle > to_cycle:
        raise UsageError(
            f"--to-cycle must be at least --from-cycle, {from_cycle}, not {to_cycle}",
            nearest=from_cycle,
        )
    reporter = Reporter()
    opened = DesignFolder.load(folder)
    settings = flow.Settings(
        images=images,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        force=force,
    )
    inspection = Inspection(
        trace=folder / "trace.json" if trace else None,
        dump=dump,
        wave=wave,
        from_cycle=from_cycle,
        to_cycle=to_cycle,
    )
    evidence = flow.simulate_design(opened, settings, reporter, inspection=inspection)
    assert evidence.simulation is not None
    values = {"name": opened.manifest.name, "out": str(folder)} | evidence.simulation.contract()
    output.result(values | dict(evidence.views), lambda: print_evidence(evidence))
