# SPDX-License-Identifier: Apache-2.0
"""Where results of a command go, and how failures are said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any

import click

from hwgen.errors import (
    DoesNotFitError,
    HwgenError,
    InfeasibleError,
    MismatchError,
    ToolError,
    UnexpectedLogitsError,
)

#: Exit status of an interrupted command.
INTERRUPTED = 130
#: Exit status after SIGTERM.
TERMINATED = 143
#: Longest message of a failure; a tool's first lines may be part of it.
_MESSAGE_CHARACTERS = 4000


class Output:
    """Where results go: tables, or one JSON object on the real standard output."""

    def __init__(self, *, as_json: bool, stream: IO[str]) -> None:
        """``stream`` is standard output as it was before anything could write to it."""
        self.as_json = as_json
        self.stream = stream

    def result(self, values: dict[str, Any], table: Callable[[], None]) -> None:
        """Write the result of a command in the form that was asked for."""
        if self.as_json:
            self.write(values)
        else:
            table()

    def write(self, values: dict[str, Any]) -> None:
        """Write one JSON object."""
        print(json.dumps(values, allow_nan=False, default=str), file=self.stream, flush=True)


def describe_error(error: BaseException) -> dict[str, Any]:
    """A failure as the JSON object that ``--json`` prints."""
    # As in the objects of results: whoever reads them need not know which it is.
    values: dict[str, Any] = {"error": sentence(error), "kind": type(error).__name__}
    values |= {"notes": list(getattr(error, "__notes__", ())), "warnings": []}
    if isinstance(error, ToolError) and error.detail:
        values |= {"error": sentence(error.bare()), "detail": error.detail.splitlines()}
    if isinstance(error, MismatchError):
        values["first_difference"] = error.first_difference
        values["matches_reference"] = False
    if isinstance(error, UnexpectedLogitsError):
        values |= {"expect": error.agreement, "assumed": error.assumed}
    if isinstance(error, HwgenError) and error.changed_files:
        values["changed_files"] = list(error.changed_files)
    if isinstance(error, HwgenError):
        values |= error.views
    if isinstance(error, InfeasibleError):
        values |= {
            "feasible": False,
            "binding_resource": error.binding_resource,
            "best_fps": error.best_fps,
        }
    if isinstance(error, DoesNotFitError):
        values |= {
            "resource": error.resource,
            "demand": error.demand,
            "bound": error.bound,
            "unit": error.unit,
            "levers": list(error.levers),
        }
    return values


def sentence(error: BaseException) -> str:
    """What happened, in printable characters and of bounded length."""
    from hwgen.reading import printable

    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    # Messages bound what they quote; whatever slips through does not reach the terminal.
    if len(text) > _MESSAGE_CHARACTERS:
        text = f"{text[:_MESSAGE_CHARACTERS]}..."
    return printable(text, keep="\n") or type(error).__name__


def print_evidence(evidence: Any) -> None:
    """The table of everything that is known of a design."""
    from hwgen.report.design import rows
    from hwgen.report.terminal import print_table
    from hwgen.stages.synthesise import board_usage

    manifest = evidence.folder.manifest
    title = f"{manifest.name}: {evidence.folder.path}"
    synthesis = evidence.synthesis
    usage = board_usage(manifest.board, synthesis) if synthesis is not None else []
    print_table(title, rows(manifest, evidence.simulation, synthesis, usage, evidence.accuracy))


def short(value: object) -> str:
    """A value as a cell of a table."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"
