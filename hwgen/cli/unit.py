# SPDX-License-Identifier: Apache-2.0
"""``hwgen unit NAME``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hwgen.cli.group import commands
from hwgen.cli.options import examples, existing
from hwgen.cli.output import Output, short
from hwgen.errors import UsageError
from hwgen.files import scratch_folder


class _UnitGroup(click.Group):
    """One command per unit; its options are the unit's parameters."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the units."""
        from hwgen.units import UNITS

        return list(UNITS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one unit."""
        from hwgen.units import UNITS

        return _unit_command(cmd_name) if cmd_name in UNITS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the known units where click would only say that there is no such command."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            raise click.UsageError(f"Unit must be one of {', '.join(names)}, not {args[0]!r}", ctx)
        return super().resolve_command(ctx, args)


@commands.command(
    cls=_UnitGroup,
    epilog=examples(
        "hwgen unit e2softmax --vec 32 -o softmax",
        "hwgen unit systolic-array --rows 16 --columns 16 --simulate in.npz --output out.npz",
        "hwgen unit ailayernorm --help             its parameters and vectors",
    ),
)
def unit() -> None:
    """Build, simulate or synthesise one unit alone."""


def _unit_command(name: str) -> click.Command:
    from hwgen.units import UNITS

    chosen = UNITS[name]
    file = click.Path(path_type=Path)
    options: list[click.Parameter] = [
        click.Option(
            [p.option, p.name],
            metavar="WORD" if p.choices else "N",
            help=f"{p.doc} ({p.legal}; default {p.default})",
        )
        for p in chosen.parameters
    ]
    arrays = ", ".join(
        f"{e.name} {'|'.join(e.dtypes) or 'integers'} {e.shape}{' (optional)' * e.optional}"
        for e in chosen.inputs
    )
    results = ", ".join(f"{e.name} {'|'.join(e.dtypes)} {e.shape}" for e in chosen.outputs)
    options += [
        click.Option(
            ["-o", "--out", "folder"],
            type=file,
            help="Folder of the Verilog; without --simulate and --synth rtl_out/UNIT.",
        ),
        click.Option(["--simulate", "vectors"], type=file, help=f"Push an .npz through: {arrays}."),
        click.Option(["--output", "returned"], type=file, help=f".npz for the results: {results}."),
        click.Option(["--synth"], is_flag=True, help="Synthesise with Yosys and count."),
        click.Option(["--force"], is_flag=True, help="Replace outputs that were edited."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
    ]

    @click.pass_obj
    def run_unit(
        output: Output,
        folder: Path | None,
        vectors: Path | None,
        returned: Path | None,
        synth: bool,
        force: bool,
        as_json: bool,
        **given: str | None,
    ) -> int:
        values = {key: value for key, value in given.items() if value is not None}
        return _unit(output, name, values, folder, vectors, returned, synth, force)

    return click.Command(name, params=options, callback=run_unit, help=chosen.doc)


def _unit(
    output: Output,
    name: str,
    given: dict[str, str],
    folder: Path | None,
    vectors: Path | None,
    returned: Path | None,
    synth: bool,
    force: bool,
) -> int:
    from hwgen.emit.folder import check_replaceable
    from hwgen.outputs import check_distinct, check_file
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.units import (
        UNITS,
        changed_files,
        check_vector_file,
        emit_unit,
        is_current,
        listed_files,
        recognise_vectors,
        simulate_folder,
        synthesise_folder,
    )

    chosen = UNITS[name]
    values = chosen.resolve(given)
    if returned is not None and vectors is None:
        raise UsageError("--output must be given together with --simulate, not alone")
    if folder is None and vectors is None and not synth:
        folder = Path("rtl_out", name)
    inputs = existing(vectors)
    check_distinct((folder, returned))
    if returned is not None:
        check_file(returned, recognise_vectors, inputs=inputs, force=force)
    if vectors is not None:
        check_vector_file(chosen, values, vectors)
    # A simulation or synthesis is of the files as they are, edits included.
    measured = vectors is not None or synth
    as_it_is = folder is not None and measured and is_current(chosen, values, folder, force=force)
    if folder is not None and not as_it_is:
        check_replaceable(folder, listed_files, inputs=inputs, force=force)
    reporter = Reporter()
    facts: dict[str, Any] = {"unit": name, "parameters": values}
    status = 0
    with scratch_folder() as scratch:
        place = folder if folder is not None else scratch / name
        with reporter.stage("emit"):
            reporter(f"writing the Verilog of {name}", 0.0)
            if not as_it_is:
                emit_unit(chosen, values, place, force=force)
        if folder is not None:
            facts["out"] = str(folder)
        if measured:
            facts["changed_files"] = list(changed_files(place))
            for file in facts["changed_files"]:
                reporter.warn(f"{place / file} was changed since it was generated; used as it is")
        if vectors is not None:
            with reporter.stage("simulate"):
                result = simulate_folder(place, vectors, returned, progress=reporter)
            facts |= {"matches_reference": result.matches_reference, "cycles": result.cycles}
            if returned is not None:
                facts["output"] = str(returned)
            if result.first_difference is not None:
                facts |= {
                    "error": f"{name} differs from the reference: {dict(result.first_difference)}",
                    "first_difference": dict(result.first_difference),
                }
                print(f"error: {facts['error']}", file=sys.stderr)
                status = 1
        if synth:
            with reporter.stage("synthesise"):
                reporter("Yosys", 0.0)
                facts |= synthesise_folder(place)
    output.result(facts, lambda: print_table(name, [[k, short(v)] for k, v in facts.items()]))
    return status
