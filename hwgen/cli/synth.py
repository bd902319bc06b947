# SPDX-License-Identifier: Apache-2.0
"""``hwgen synth``."""

from __future__ import annotations

from pathlib import Path

import click

from hwgen.cli.group import commands
from hwgen.cli.options import examples, force_option, json_option
from hwgen.cli.output import Output, short
from hwgen.errors import UsageError


@commands.command(
    epilog=examples(
        "hwgen synth rtl_out/digits_zcu102",
        "hwgen synth rtl_out/digits_zcu102 --target ecp5 --json",
        "hwgen synth rtl_out/digits_zcu102 --liberty cells.lib",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(["xcup", "ecp5"]), help="Device family. Default: the board's."
)
@click.option("--liberty", type=click.Path(path_type=Path), help="Map to the cells of this file.")
@force_option
@json_option
@click.pass_obj
def synth(
    output: Output,
    folder: Path,
    target: str | None,
    liberty: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Synthesise a design's files as they are with Yosys and count."""
    from hwgen.report.design import synthesis_rows
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.emit import DesignFolder
    from hwgen.stages.synthesise import (
        board_usage,
        check_synthesis_place,
        describe_synthesis,
        save_synthesis,
        synthesise,
    )

    if target is not None and liberty is not None:
        raise UsageError("--target and --liberty must not be given together")
    reporter = Reporter()
    opened = DesignFolder.load(folder)
    check_synthesis_place(opened, target, liberty, force=force)
    result = synthesise(opened, reporter, target=target, liberty=liberty)
    saved = save_synthesis(opened, result)
    board = opened.manifest.board
    values = {"name": opened.manifest.name, "out": str(folder)}
    values |= describe_synthesis(board, result) | {"result": str(saved)}

    def table() -> None:
        modules = dict(result.extra.get("modules", {}))
        largest = sorted(modules.items(), key=lambda item: -item[1]["instances"] * item[1]["lut"])
        kinds = ("instances", "lut", "ff", "dsp", "bram36")
        rows = [[name, *(f"{m[kind]:,g}" for kind in kinds)] for name, m in largest[:20]]
        if rows:
            print_table("Largest modules, one instance each", rows, header=("module", *kinds))
        if paths := result.extra.get("clock_paths"):
            keys = ("source", "source_kind", "target", "target_kind", "pins", "logic_levels")
            header = ("from clock", "of a", "to clock", "into a", "pins", "logic levels")
            lines = [[str(path[key]) for key in keys] for path in paths]
            print_table("Paths by clocks", lines, header=header)
        rows = synthesis_rows(result, board_usage(board, result))
        shown = {"modules", "clock_paths"}
        rows += [[k, short(v)] for k, v in result.extra.items() if k not in shown]
        print_table(f"{values['name']}: {folder}", rows)

    output.result(values, table)
