# SPDX-License-Identifier: Apache-2.0
"""Stage design: the hardware that runs a graph on a board."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import with_config

from hwgen.boards import Board
from hwgen.config import AcceleratorConfig
from hwgen.emit.manifest import ConfigTable
from hwgen.errors import DoesNotFitError, UsageError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.safetensors_file import read_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.reading import STRICT, check_version, load_json, printable, validate
from hwgen.report.terminal import Reporter

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A graph with the hardware that runs it; its file is the graph's with one more entry."""

    graph: IntegerGraph
    config: AcceleratorConfig
    board: Board

    @property
    def name(self) -> str:
        """Name of the Verilog top and default name of the folder: ``<model>_<board>``."""
        return design_name(self.graph.spec, self.board.name)

    def save(self, path: Path) -> None:
        """Write the design; the file is also a graph."""
        document = {
            "schema_version": DESIGN_SCHEMA_VERSION,
            "board": self.board.to_json(),
            "config": self.config.to_json(),
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
        return cls(graph=IntegerGraph.load(path), config=document.config, board=document.board)


def preset(board: Board, spec: ModelSpec) -> dict[str, int]:
    """The board's preset array for a model, as fields of the configuration.

    A layer that fills an array's rows fewer than four times spends most of its cycles on loading
    and skew, so a narrow model gets half the rows, columns and ports of the preset, down to 16
    rows.
    """
    values: dict[str, int] = {**dict(board.preset), "clock_mhz": board.clock.mhz}
    while values["rows"] > 16 and spec.width < 4 * values["rows"]:
        for name in ("rows", "columns", "memory_ports"):
            values[name] = max(1, values[name] // 2)
    return values


def memory_blocks(spec: ModelSpec, rows: int, columns: int) -> int:
    """36 Kbit block RAMs of the activation memory and the accumulators: a lower bound.

    A block is 512 x 64, 1024 x 32, 2048 x 16 or 4096 x 8 bits with byte enables.
    """
    from hwgen.program.buffer_plan import default_tile_rows, plan_buffers

    tile_rows = default_tile_rows(spec.tokens)
    plan = plan_buffers(spec, rows=rows, columns=columns, tile_rows=tile_rows)
    memories = [(words, 8 * rows) for words in plan.words] + [(tile_rows, 32 * columns)] * 2
    return sum(
        min(-(-depth // (512 << k)) * -(-width // (64 >> k)) for k in range(4))
        for depth, width in memories
    )


def check_fits(spec: ModelSpec, board: Board) -> None:
    """Refuse a model whose activations do not fit the board, before anything is computed.

    Raises:
        DoesNotFitError: names the demand, the bound, and the nearest image size that fits.
    """
    values = preset(board, spec)
    rows, columns = values["rows"], values["columns"]
    bound = board.limit("bram36")

    def demand(size: int) -> int | None:
        try:
            return memory_blocks(replace(spec, image_size=size), rows, columns)
        except DoesNotFitError:
            return None

    needed = demand(spec.image_size)
    if needed is not None and needed <= bound:
        return
    smaller = range(spec.image_size - spec.patch, 0, -spec.patch)
    nearest = next((n for n in smaller if (demand(n) or bound + 1) <= bound), None)
    levers = ["a larger patch", "a narrower model"]
    if nearest is not None:
        tokens = replace(spec, image_size=nearest).tokens
        levers.insert(0, f"images of {nearest} x {nearest} pixels ({tokens} tokens), which fit")
    if needed is None:  # beyond what an address can name: the plan says what
        try:
            memory_blocks(spec, rows, columns)
        except DoesNotFitError as error:
            where = f"model {spec.name!r} on {board.name}"
            raise DoesNotFitError(
                error.resource, error.demand, error.bound, error.unit, levers, where=where
            ) from error
    assert needed is not None
    raise DoesNotFitError(
        "Block RAM for activations",
        needed,
        bound,
        "blocks of 36 Kbit",
        levers,
        where=f"model {spec.name!r} on {board.name}"
        f" ({board.budget['bram36']:.0%} of its block RAM)",
    )


def design(graph: IntegerGraph, board: Board, reporter: Reporter) -> Design:
    """The board's preset array, with memories that fit the graph exactly."""
    from hwgen.program.buffer_plan import preset_config

    with reporter.stage("design"):
        check_fits(graph.spec, board)
        config = preset_config(graph, **preset(board, graph.spec))
        return Design(graph=graph, config=config, board=board)


def open_source(path: Path, board: Board | None) -> IntegerGraph | Design:
    """A design, or a graph that the board's preset will run.

    Raises:
        FormatError: the file is neither.
        UsageError: the design is for another board.
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
    return found
