# SPDX-License-Identifier: Apache-2.0
"""Stage synthesise: what Yosys makes of the folder's files, and what that is of the board."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwgen.boards import RESOURCES, Board
from hwgen.report.results import OTHER_TARGET, SynthesisResult, Usage, design_digest
from hwgen.report.terminal import Reporter
from hwgen.stages.emit import DesignFolder, warn_of_changes


def synthesise(
    folder: DesignFolder,
    reporter: Reporter,
    *,
    target: str | None = None,
    liberty: Path | None = None,
) -> SynthesisResult:
    """Count what Yosys makes of the folder's files; a changed one is named, and used.

    Raises:
        ToolError: Yosys is missing or fails.
    """
    from hwgen.synth.yosys import synthesise as run_yosys

    manifest = folder.manifest
    warn_of_changes(folder, reporter)
    design = design_digest(folder.path, manifest)  # before the files are read
    target = target or manifest.board.synthesis_target
    # Only one family has the primitives of the synthesis list; the others take their twins.
    has_primitives = target == "xcup" and liberty is None
    names = manifest.synthesis if has_primitives else manifest.simulation
    with reporter.stage("synthesise"):
        measured = run_yosys(
            [folder.path / name for name in names],
            manifest.top,
            target,
            liberty=liberty,
            progress=reporter,
        )
    extra: dict[str, Any] = {"synthesis_seconds": measured.wall_seconds}
    if measured.area is not None:
        extra["area"] = measured.area
    if measured.modules:
        extra["modules"] = {
            module.name: {"instances": module.instances, **module.own}
            for module in measured.modules
        }
    if measured.paths:
        extra["clock_paths"] = [asdict(paths) for paths in measured.paths]
    return SynthesisResult(
        design=design,
        lut=round(measured.lut),
        ff=round(measured.ff),
        dsp=round(measured.dsp),
        bram36=measured.bram36,
        logic_levels=measured.logic_levels,
        tool=measured.tool,
        target=measured.target,
        extra=extra,
    )


def _is_for(board: Board, result: SynthesisResult) -> bool:
    # Cells of a Liberty file have an area.
    return result.target == board.synthesis_target and "area" not in result.extra


def board_usage(board: Board, result: SynthesisResult) -> list[Usage]:
    """What a design takes of its board; nothing where it was synthesised for other devices."""
    if not _is_for(board, result):
        return []
    used = {resource: float(getattr(result, resource)) for resource in RESOURCES}
    over = board.overruns(used)
    return [
        Usage(
            resource=resource,
            used=used[resource],
            available=board.resources[resource],
            limit=board.limit(resource),
            overrun=over.get(resource),
        )
        for resource in RESOURCES
    ]


def describe_synthesis(board: Board, result: SynthesisResult) -> dict[str, Any]:
    """A synthesis, with what it takes of the board if it is for the board's device."""
    values = result.contract()
    if usage := board_usage(board, result):
        values["board_usage"] = {item.resource: item.to_json() for item in usage}
        values["overruns"] = [item.resource for item in usage if item.overrun is not None]
    return values


def check_synthesis_place(
    folder: DesignFolder, target: str | None, liberty: Path | None, *, force: bool = False
) -> None:
    """Refuse to replace what is no synthesis of ours, before one is made.

    Raises:
        UsageError: the result would replace the Liberty file.
        ConfigError: the file that is there must stay.
    """
    own = liberty is None and target in (None, folder.manifest.board.synthesis_target)
    inputs = () if liberty is None else (liberty,)
    kind = "" if own else OTHER_TARGET
    SynthesisResult.check_place(folder.path, kind=kind, inputs=inputs, force=force)


def save_synthesis(folder: DesignFolder, result: SynthesisResult) -> Path:
    """Save a synthesis; only one for the board's device is what the design's report shows."""
    own = _is_for(folder.manifest.board, result)
    return result.save(folder.path, kind="" if own else OTHER_TARGET)
