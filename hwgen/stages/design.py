# SPDX-License-Identifier: Apache-2.0
"""Stage design: the hardware that runs a graph on a board."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import with_config

from hwgen.boards import Board
from hwgen.config import AcceleratorConfig
from hwgen.emit.manifest import ConfigTable, RowBlocks
from hwgen.errors import UsageError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import Softmax
from hwgen.graph.safetensors_file import read_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.reading import STRICT, check_version, load_json, printable, validate
from hwgen.report.terminal import Reporter
from hwgen.stages.configure import check_fits
from hwgen.stages.options import DesignOptions

#: Longest name of a design.
_NAME_CHARACTERS = 64
DESIGN_SCHEMA_VERSION = 2
_DESIGN_KEY = "hwgen.design"


def design_name(spec: ModelSpec, board: str) -> str:
    """``<model>_<board>``, a Verilog identifier: it does not depend on the folder.

    Spaces, dots and dashes become underscores; a name with other characters, or a long one, gets a
    digest as well, so that it does not fall together with its like.
    """
    plain = f"{spec.name}_{board}"
    name = re.sub(r"[^A-Za-z0-9_]", "_", plain)
    name = name if re.match(r"[A-Za-z_]", name) else f"design_{name}"
    if re.fullmatch(r"[-A-Za-z0-9_. ]*", plain) and len(name) <= _NAME_CHARACTERS:
        return name
    return f"{name[: _NAME_CHARACTERS - 9]}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _Document:
    """The entry of a design's file beside the graph's."""

    schema_version: int
    board: Board
    config: ConfigTable
    row_blocks: RowBlocks
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A graph with the hardware that runs it; its file is the graph's with one more entry."""

    graph: IntegerGraph
    config: AcceleratorConfig
    row_blocks: int  #: ranges of tokens that a program processes one behind the other
    board: Board
    notes: tuple[str, ...] = ()  #: what was chosen although nobody asked for it, and why

    @property
    def name(self) -> str:
        """Name of the Verilog top and default name of the folder: ``<model>_<board>``."""
        return design_name(self.graph.spec, self.board.name)

    @property
    def parameters(self) -> dict[str, int | tuple[int, ...]]:
        """What options can state of it, by the names of :data:`hwgen.stages.options.OPTIONS`."""
        values = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        return values | {"row_blocks": self.row_blocks}

    def save(self, path: Path) -> None:
        """Write the design; the file is also a graph."""
        document = {
            "schema_version": DESIGN_SCHEMA_VERSION,
            "board": self.board.to_json(),
            "config": self.config.to_json(),
            "row_blocks": self.row_blocks,
            "notes": list(self.notes),
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        self.graph.save(path, more={_DESIGN_KEY: text})

    @classmethod
    def load(cls, path: Path) -> Design | None:
        """Read a design; None if the file is a graph without one.

        Raises:
            FormatError: the file is neither, or is of another version.
        """
        _, metadata = read_safetensors(path)
        if _DESIGN_KEY not in metadata:
            return None
        where = f"{printable(str(path))}, {_DESIGN_KEY}"
        values = load_json(metadata[_DESIGN_KEY], where=where)
        check_version(
            *(values, DESIGN_SCHEMA_VERSION),
            what="Design",
            where=where,
            remedy="generate the design again",
        )
        document = validate(values, _Document, where=where)
        return cls(
            graph=IntegerGraph.load(path),
            config=document.config,
            row_blocks=document.row_blocks,
            board=document.board,
            notes=document.notes,
        )


def softmax_slices(graph: IntegerGraph) -> int:
    """Slice length of a graph's softmax."""
    return next(op.vec for op in graph.ops if isinstance(op, Softmax))


def design(graph: IntegerGraph, board: Board, options: DesignOptions, reporter: Reporter) -> Design:
    """The board's preset, changed by the options, with memories that fit the graph exactly."""
    with reporter.stage("design"):
        hardware = check_fits(graph.spec, board, options, softmax_slices(graph))
        for note in hardware.notes:
            reporter.say(note)
        return Design(
            graph=graph,
            config=hardware.config,
            row_blocks=hardware.row_blocks,
            board=board,
            notes=hardware.notes,
        )


def open_source(path: Path, board: Board | None, options: DesignOptions) -> IntegerGraph | Design:
    """A design, or a graph that the board's preset, changed by the options, will run.

    Raises:
        FormatError: the file is neither.
        UsageError: the design is for another board, or is not what the options state.
    """
    found = Design.load(path)
    if found is None:
        return IntegerGraph.load(path)
    if board is not None and board.name != found.board.name:
        raise UsageError(
            f"--board must be the design's {found.board.name!r} or absent, not {board.name!r}"
        )
    if board is not None and board != found.board:
        own = found.board.to_json()
        key = next(key for key, value in board.to_json().items() if value != own[key])
        raise UsageError(
            "--board must say what the design's board says, or be absent:"
            f" the two boards {board.name!r} differ in {key}"
        )
    options.check_agreement(found.parameters)
    return found
