# SPDX-License-Identifier: Apache-2.0
"""``hwgen report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hwgen.cli.group import commands
from hwgen.cli.options import examples, json_option
from hwgen.cli.output import Output, print_evidence


@commands.command(
    epilog=examples(
        "hwgen report rtl_out/digits_zcu102", "hwgen report rtl_out/digits_zcu102 --json"
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def report(output: Output, folder: Path, as_json: bool) -> None:
    """Show what is known of a design: configuration, simulation, synthesis."""
    from hwgen import flow

    evidence = flow.Evidence.load(folder)
    values = flow.describe_evidence(evidence)
    changed = evidence.folder.manifest.changed_files(folder)
    for name in changed:
        print(f"warning: {folder / name} was changed since it was generated", file=sys.stderr)
    values["changed_files"] = changed
    output.result(values, lambda: print_evidence(evidence))
