# SPDX-License-Identifier: Apache-2.0
"""What hwgen knows and what it finds: ``models``, ``boards``, ``units``, ``doctor``."""

from __future__ import annotations

from typing import Any

import click

from hwgen.cli.group import commands
from hwgen.cli.options import examples, json_option
from hwgen.cli.output import Output


@commands.command(epilog=examples("hwgen models", "hwgen models --json"))
@json_option
@click.pass_obj
def models(output: Output, as_json: bool) -> None:
    """List the known models."""
    from hwgen.frontend.models import ALIASES, MODELS, default_checkpoint
    from hwgen.report.terminal import print_table

    rows = []
    values = []
    for name, spec in {**MODELS, **ALIASES}.items():
        embedded = default_checkpoint(spec) is not None
        values.append(
            {
                "name": name,
                "image_size": spec.image_size,
                "channels": spec.channels,
                "patch": spec.patch,
                "width": spec.width,
                "depth": spec.depth,
                "heads": spec.heads,
                "classes": spec.classes,
                "embedded_checkpoint": embedded,
            }
        )
        rows.append(
            [
                *map(str, (name, spec.image_size, spec.patch, spec.width, spec.depth, spec.heads)),
                str(spec.classes),
                "embedded" if embedded else "--checkpoint",
            ]
        )
    header = ("model", "image", "patch", "width", "blocks", "heads", "classes", "checkpoint")
    output.result({"models": values}, lambda: print_table("Models", rows, header=header))


@commands.command(epilog=examples("hwgen doctor", "hwgen doctor --json"))
@json_option
@click.pass_obj
def doctor(output: Output, as_json: bool) -> int:
    """Check that everything is installed that hwgen needs; status 1 if something is missing."""
    from hwgen.doctor import examine, healthy
    from hwgen.report.terminal import print_table

    checks = examine()
    good = healthy(checks)

    def table() -> None:
        rows = [
            [
                _state(check.ok, check.needed, check.found),
                check.name,
                check.found if check.ok else check.advice,
            ]
            for check in checks
        ]
        print_table("hwgen doctor", rows, header=("", "what", "found, or what to do"))

    output.result({"ok": good, "checks": [check.to_json() for check in checks]}, table)
    return 0 if good else 1


def _state(ok: bool, needed: bool, found: str) -> str:
    if ok:
        return "ok"
    return "WRONG" if found else ("MISSING" if needed else "absent")


def _cascades(board: Any) -> dict[str, int] | None:
    """Cascades that fit, by their rows; None where the placement of the DSPs is not known."""
    from hwgen.boards import CASCADE_ROWS

    fit = {str(rows): board.cascades(rows) for rows in CASCADE_ROWS}
    return None if None in fit.values() else fit


@commands.command(epilog=examples("hwgen boards", "hwgen boards --json"))
@json_option
@click.pass_obj
def boards(output: Output, as_json: bool) -> None:
    """List the boards with their resources, clock and memory."""
    from hwgen.boards import CASCADE_ROWS, RESOURCES, Board, get_board, list_boards
    from hwgen.report.terminal import print_table

    found = [get_board(name) for name in list_boards()]
    values = [
        {
            "name": board.name,
            "title": board.title,
            "part": board.part,
            "clock_mhz": board.clock.mhz,
            "dsp_clock_mhz": board.clock.dsp_mhz,
            "dsp_primitive": board.dsp_primitive,
            "cascades": _cascades(board),
            "resources": {resource: board.resources[resource] for resource in RESOURCES},
            "limits": {resource: board.limit(resource) for resource in RESOURCES},
            "memory_bytes_per_second": board.memory.bytes_per_second,
            "memory_bytes_per_cycle": board.memory_bytes_per_cycle,
            "memory_latency": board.memory.latency_cycles,
            "memory_ports": board.memory.ports,
        }
        for board in found
    ]
    heights = "/".join(map(str, CASCADE_ROWS))

    def columns(board: Board) -> str:
        fit = _cascades(board)
        if fit is None:
            return "none" if board.dsp_primitive == "none" else f"{board.dsp_primitive}, unknown"
        return f"{board.dsp_primitive}, {'/'.join(map(str, fit.values()))}"

    rows = [
        [
            board.name,
            board.part,
            f"{board.clock.mhz}{f'/{most}' if (most := board.clock.dsp_mhz) else ''} MHz",
            *(f"{board.resources[resource]:,}" for resource in RESOURCES),
            columns(board),
            f"{board.memory_bytes_per_cycle:.1f} B/cycle, {board.memory.latency_cycles} cycles",
        ]
        for board in found
    ]
    kind = f"DSP columns, cascades of {heights}"
    header = ("board", "device", "clock", "LUT", "FF", "DSP", "BRAM36", kind, "memory")
    output.result({"boards": values}, lambda: print_table("Boards", rows, header=header))


@commands.command(epilog=examples("hwgen units", "hwgen units --json"))
@json_option
@click.pass_obj
def units(output: Output, as_json: bool) -> None:
    """List the units that can be built, simulated and synthesised alone."""
    from hwgen.report.terminal import print_table
    from hwgen.units import UNITS

    values = [
        {
            "name": unit.name,
            "doc": unit.doc,
            "parameters": [
                {"name": p.name, "option": p.option, "default": p.default, "legal": p.legal}
                for p in unit.parameters
            ],
            "inputs": {entry.name: entry.shape for entry in unit.inputs},
            "outputs": {entry.name: entry.shape for entry in unit.outputs},
        }
        for unit in UNITS.values()
    ]
    rows = [
        [
            unit.name,
            " ".join(f"{p.option} {p.default}" for p in unit.parameters),
            " ".join(f"{entry.name}{entry.shape}" for entry in unit.inputs),
            " ".join(f"{entry.name}{entry.shape}" for entry in unit.outputs),
        ]
        for unit in UNITS.values()
    ]
    header = ("unit", "parameters and defaults", "takes", "returns")
    output.result({"units": values}, lambda: print_table("Units", rows, header=header))
