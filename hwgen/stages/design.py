# SPDX-License-Identifier: Apache-2.0
"""Stage design: the hardware that runs a graph on a board."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path

from hwgen.boards import get_board
from hwgen.config import AcceleratorConfig
from hwgen.errors import FormatError, HwgenError, UsageError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import Softmax
from hwgen.graph.safetensors_file import read_safetensors
from hwgen.graph.spec import ModelSpec
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A graph with the hardware that runs it; its file is the graph's with one more entry."""

    graph: IntegerGraph
    config: AcceleratorConfig
    row_blocks: int  #: ranges of tokens that a program processes one behind the other
    board: str
    notes: tuple[str, ...] = ()  #: what was chosen although nobody asked for it, and why

    @property
    def name(self) -> str:
        """Name of the Verilog top and default name of the folder: ``<model>_<board>``."""
        return design_name(self.graph.spec, self.board)

    @property
    def parameters(self) -> dict[str, int | tuple[int, ...]]:
        """What options can state of it, by the names of :data:`hwgen.stages.options.OPTIONS`."""
        values = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        return values | {"row_blocks": self.row_blocks}

    def save(self, path: Path) -> None:
        """Write the design; the file is also a graph."""
        document = {
            "schema_version": DESIGN_SCHEMA_VERSION,
            "board": self.board,
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
        try:
            document = json.loads(metadata[_DESIGN_KEY])
            if document["schema_version"] != DESIGN_SCHEMA_VERSION:
                raise FormatError(
                    f"schema_version must be {DESIGN_SCHEMA_VERSION},"
                    f" not {document['schema_version']!r}"
                )
            config = AcceleratorConfig.from_json(document["config"])
            board = get_board(document["board"]).name
            row_blocks, notes = document["row_blocks"], tuple(document["notes"])
        except (KeyError, TypeError, ValueError, HwgenError) as error:
            raise FormatError(f"Design must be well formed: {error}", where=str(path)) from error
        return cls(
            graph=IntegerGraph.load(path),
            config=config,
            row_blocks=row_blocks,
            board=board,
            notes=notes,
        )


def softmax_slices(graph: IntegerGraph) -> int:
    """Slice length of a graph's softmax."""
    return next(op.vec for op in graph.ops if isinstance(op, Softmax))


def design(graph: IntegerGraph, board: str, options: DesignOptions, reporter: Reporter) -> Design:
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


def open_source(path: Path, board: str | None, options: DesignOptions) -> IntegerGraph | Design:
    """A design, or a graph that the board's preset, changed by the options, will run.

    Raises:
        FormatError: the file is neither.
        UsageError: the design is for another board, or is not what the options state.
    """
    found = Design.load(path)
    if found is None:
        get_board(board or "zcu102")
        return IntegerGraph.load(path)
    if board is not None and board != found.board:
        raise UsageError(f"--board must be the design's {found.board!r} or absent, not {board!r}")
    options.check_agreement(found.parameters)
    return found
