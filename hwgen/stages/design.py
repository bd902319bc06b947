# SPDX-License-Identifier: Apache-2.0
"""Stage design: the hardware that runs a model on a board.

A design's file is a safetensors container with one metadata entry, ``hwgen.design``: a JSON object
with a schema version. With its graph the file is the graph's with one more entry; without, it
holds no tensors, and any graph of the same shapes goes with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import with_config

from hwgen.boards import Board
from hwgen.config import AcceleratorConfig
from hwgen.emit.manifest import ConfigTable, FramesInFlight, FramesPerStart, RowBlocks
from hwgen.errors import DoesNotFitError, FormatError, ModelError, UsageError
from hwgen.frontend.models import model_names
from hwgen.graph.graph import METADATA_KEY, IntegerGraph
from hwgen.graph.ops import Softmax
from hwgen.graph.safetensors_file import read_safetensors, recognise, write_safetensors
from hwgen.graph.spec import MAX_CHANNELS, ModelSpec, Pooling
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction, SoftmaxMode
from hwgen.reading import STRICT, check_version, load_json, printable, validate
from hwgen.report.terminal import Reporter
from hwgen.stages.configure import Hardware, check_fits
from hwgen.stages.options import DesignOptions

#: Longest name of a design.
_NAME_CHARACTERS = 64
DESIGN_SCHEMA_VERSION = 7
_DESIGN_KEY = "hwgen.design"


#: Recognises the files of designs and graphs among outputs.
recognise_design = recognise((_DESIGN_KEY, METADATA_KEY))


def design_name(model: str, board: str) -> str:
    """``<model>_<board>``, a Verilog identifier: it does not depend on the folder.

    Spaces, dots and dashes become underscores; a name with other characters, or a long one, gets a
    digest as well, so that it does not fall together with its like.
    """
    plain = f"{model}_{board}"
    name = re.sub(r"[^A-Za-z0-9_]", "_", plain)
    name = name if re.match(r"[A-Za-z_]", name) else f"design_{name}"
    if re.fullmatch(r"[-A-Za-z0-9_. ]*", plain) and len(name) <= _NAME_CHARACTERS:
        return name
    return f"{name[: _NAME_CHARACTERS - 9]}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


#: Fields of :class:`Shapes` that describe the softmax, and their names in the function.
_SOFTMAX = {
    "softmax_mode": "mode",
    "softmax_vec": "vec",
    "exponent_fraction_bits": "exponent_fraction_bits",
    "divider_bits": "divider_bits",
}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a design knows of a model: all that decides tensor shapes, and the softmax."""

    image_size: int
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    head_dim: int
    mlp_hidden: int
    classes: int
    class_token: bool
    pooling: Pooling
    softmax_mode: SoftmaxMode
    softmax_vec: int | None  #: slice length, mode ``sole``
    exponent_fraction_bits: int | None  #: mode ``fractional``
    divider_bits: int | None

    def __post_init__(self) -> None:
        """Refuse what no model has."""
        try:
            self.spec("model")
            _ = self.softmax  # refused if it is no function
        except ModelError as error:
            raise FormatError(error.what) from error

    @classmethod
    def of(cls, spec: ModelSpec, softmax: SoftmaxFunction) -> Shapes:
        """The shapes of a model."""
        names = [item.name for item in fields(cls) if item.name not in _SOFTMAX]
        values = {name: getattr(softmax, field) for name, field in _SOFTMAX.items()}
        return cls(**{name: getattr(spec, name) for name in names}, **values)

    @property
    def softmax(self) -> SoftmaxFunction:
        """The function of the softmax."""
        return SoftmaxFunction(**{field: getattr(self, name) for name, field in _SOFTMAX.items()})

    def spec(self, name: str) -> ModelSpec:
        """A model of these shapes; what does not decide shapes is as by default."""
        values: dict[str, Any] = asdict(self)
        for name in _SOFTMAX:
            del values[name]
        # The specification refuses other numbers of channels: no memory for them.
        known = type(self.channels) is int and self.channels <= MAX_CHANNELS
        half = (0.5,) * self.channels if known else ()
        return ModelSpec(name=name, mean=half, std=half, **values)

    @property
    def digest(self) -> str:
        """SHA-256 of the fields as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, other: Shapes, where: str) -> None:
        """Refuse a model or graph of other shapes.

        Args:
            other: its shapes.
            where: what it is, for the message.

        Raises:
            ModelError: names the first field that differs, in the order of the fields.
        """
        own = asdict(self)
        for name, value in asdict(other).items():
            if value != own[name]:
                raise ModelError(
                    f"{name} must be the design's {own[name]}, not {value}",
                    where=where,
                    why="a design is made for the shapes of one model",
                )


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _Document:
    """The entry of a design's file."""

    schema_version: int
    model: str
    shapes: Shapes
    shapes_digest: str
    board: Board
    config: ConfigTable
    row_blocks: RowBlocks
    frames_per_start: FramesPerStart
    frames_in_flight: FramesInFlight
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if self.shapes_digest != self.shapes.digest:
            raise FormatError("shapes_digest must be the SHA-256 of the shapes, and is not")
        if not self.model:
            raise FormatError("model must be a name, not an empty text")


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """The hardware that runs a model, how its program is cut, and the graph, if it is there yet.

    Raises:
        ModelError: the graph has other shapes than the design.
    """

    model: str  #: name of the model: for the names of design and folder
    shapes: Shapes
    config: AcceleratorConfig
    row_blocks: int  #: ranges of tokens that a program processes one behind the other
    frames_per_start: int = 1  #: images that a START works on
    frames_in_flight: int = 1  #: at a time
    board: Board
    notes: tuple[str, ...] = ()  #: what was chosen although nobody asked for it, and why
    graph: IntegerGraph | None = None

    def __post_init__(self) -> None:
        """Check the graph's shapes."""
        if self.graph is not None:
            self.shapes.check(shapes_of(self.graph), f"graph of {self.graph.spec.name!r}")

    @property
    def name(self) -> str:
        """Name of the Verilog top and default name of the folder: ``<model>_<board>``."""
        return design_name(self.model, self.board.name)

    @property
    def parameters(self) -> dict[str, int | tuple[int, ...]]:
        """What options can state of it, by the names of :data:`hwgen.stages.options.OPTIONS`."""
        values = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        return values | {
            "columns": self.config.columns,
            "dsp_clock_mhz": self.config.dsp_clock_mhz,
            "no_pump": not self.config.clk2x,
            "row_blocks": self.row_blocks,
            "frames_per_start": self.frames_per_start,
            "frames_in_flight": self.frames_in_flight,
        }

    def describe(self) -> dict[str, Any]:
        """The hardware as plain values."""
        return {
            "board": self.board.name,
            "config": self.config.to_json(),
            "row_blocks": self.row_blocks,
            "frames_per_start": self.frames_per_start,
            "frames_in_flight": self.frames_in_flight,
        }

    def with_graph(self, graph: IntegerGraph) -> Design:
        """This design for a graph of the same shapes.

        Raises:
            ModelError: names the first field in which the shapes differ.
        """
        return replace(self, model=graph.spec.name, graph=graph)

    def save(self, path: Path) -> None:
        """Write the design, with its graph if it has one: the file is then also a graph.

        Raises:
            FormatError: the file cannot be written.
        """
        document = {
            "schema_version": DESIGN_SCHEMA_VERSION,
            "model": self.model,
            "shapes": asdict(self.shapes),
            "shapes_digest": self.shapes.digest,
            "board": self.board.to_json(),
            "config": self.config.to_json(),
            "row_blocks": self.row_blocks,
            "frames_per_start": self.frames_per_start,
            "frames_in_flight": self.frames_in_flight,
            "notes": list(self.notes),
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        if self.graph is None:
            write_safetensors(path, {}, {_DESIGN_KEY: text}, seal=True)
        else:
            self.graph.save(path, more={_DESIGN_KEY: text})

    @classmethod
    def load(cls, path: Path) -> Design | None:
        """Read a design; None if the file is a graph without one.

        Raises:
            FormatError: the file is neither, or is of another version.
            ModelError: the design is for other shapes than those of the graph in the file.
        """
        tensors, metadata = read_safetensors(path)
        if _DESIGN_KEY not in metadata:
            return None
        where = f"{printable(str(path))}, {_DESIGN_KEY}"
        values = load_json(metadata[_DESIGN_KEY], where=where)
        check_version(
            *(values, DESIGN_SCHEMA_VERSION),
            what="Design",
            where=where,
            remedy="explore or generate it again",
        )
        document = validate(values, _Document, where=where)
        # Without a graph nothing says what tensors are.
        graph = IntegerGraph.load(path) if tensors or METADATA_KEY in metadata else None
        return cls(
            model=document.model,
            shapes=document.shapes,
            config=document.config,
            row_blocks=document.row_blocks,
            frames_per_start=document.frames_per_start,
            frames_in_flight=document.frames_in_flight,
            board=document.board,
            notes=document.notes,
            graph=graph,
        )


def shapes_of(graph: IntegerGraph) -> Shapes:
    """The shapes of a graph."""
    functions = (op.function for op in graph.ops if isinstance(op, Softmax))
    return Shapes.of(graph.spec, next(functions, DEFAULT_FUNCTION))


def design(graph: IntegerGraph, board: Board, options: DesignOptions, reporter: Reporter) -> Design:
    """The board's preset, changed by the options, with memories that fit the graph exactly.

    Where the options do not say them, the row blocks are what takes the fewest cycles.
    """
    with reporter.stage("design"):
        shapes = shapes_of(graph)
        hardware = check_fits(graph.spec, board, options, shapes.softmax)
        if "row_blocks" not in options.values:
            hardware = _fastest_blocks(graph, board, options, hardware, reporter)
        for note in hardware.notes:
            reporter.say(note)
        return Design(
            model=graph.spec.name,
            shapes=shapes,
            config=hardware.config,
            row_blocks=hardware.row_blocks,
            frames_per_start=hardware.frames_per_start,
            frames_in_flight=hardware.frames_in_flight,
            board=board,
            notes=hardware.notes,
            graph=graph,
        )


def _fastest_blocks(
    graph: IntegerGraph,
    board: Board,
    options: DesignOptions,
    usual: Hardware,
    reporter: Reporter,
) -> Hardware:
    """The hardware with as many row blocks as take the fewest cycles, by the cycle model.

    Two of them hide LayerNorm and softmax of one behind the array working on the other, and cost
    the weights of a layer's first and last tiles a second time. Which counts for more depends on
    model, columns, lanes and memory.

    Args:
        graph: the model.
        board: its memory; what its budget does not hold is not tried.
        options: what the user states.
        usual: the hardware by the rule (:func:`hwgen.program.buffer_plan.row_blocks`).
        reporter: told of the tries, which take a second each with a large model.
    """
    from hwgen.program.buffer_plan import ceil_div
    from hwgen.stages.lower import board_memory, compiled, prediction

    memory = board_memory(board, usual.config.clock_mhz)
    softmax = usual.config.softmax
    fewest = ceil_div(graph.spec.tokens, usual.config.tile_rows)
    tried = [usual]
    for blocks in range(fewest, usual.row_blocks):
        stated = replace(options, values={**options.values, "row_blocks": blocks})
        with suppress(DoesNotFitError, UsageError):
            tried.append(check_fits(graph.spec, board, stated, softmax))
    if len(tried) == 1:
        return usual
    cycles = []
    for number, hardware in enumerate(tried):
        text = f"cycles with {hardware.row_blocks} row block{'s' * (hardware.row_blocks > 1)}"
        reporter(text, number / len(tried))
        program = compiled(graph, hardware, memory, skeleton=True)
        cycles.append(prediction(program, memory).frame_cycles)
    best = cycles.index(min(cycles))
    if best == 0:
        return usual
    note = (
        f"row_blocks = {tried[best].row_blocks} is taken instead of {usual.row_blocks}:"
        f" {100 * (1 - cycles[best] / cycles[0]):.1f} % fewer cycles, by the cycle model"
    )
    return replace(tried[best], notes=(*tried[best].notes, note))


def known_model(chosen: Design) -> str:
    """The design's model, where its name is enough to make it.

    Raises:
        UsageError: it is none of the known ones.
    """
    if chosen.model not in model_names():
        raise UsageError(
            f"MODEL must be given: the design's model {chosen.model!r} is none of the known ones"
        )
    return chosen.model


def open_design(path: Path, board: Board | None, options: DesignOptions) -> Design | None:
    """A design that neither board nor options contradict; None if the file is a graph without one.

    Raises:
        FormatError: the file is neither.
        UsageError: the design is for another board, or is not what the options state.
    """
    found = Design.load(path)
    if found is None:
        return None
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


def open_source(
    path: Path,
    graph_path: Path | None,
    board: Board | None,
    options: DesignOptions,
    reporter: Reporter,
) -> IntegerGraph | Design:
    """A design with its graph, or a graph that the board's preset, changed by the options, runs.

    Args:
        path: the design or graph.
        graph_path: the design's graph, which takes the place of one that the design has.
        board: the board, where the user names one.
        options: what the user states.
        reporter: told which graph is taken where there are two.

    Raises:
        FormatError: a file is neither design nor graph.
        ModelError: the design is for other shapes than the graph's.
        UsageError: the design is contradicted, or there is no graph, or one too many.
    """
    found = open_design(path, board, options)
    if found is None:
        if graph_path is not None:
            raise UsageError(f"--graph must be given with a design, and {path} is a graph itself")
        return IntegerGraph.load(path)
    if graph_path is not None:
        if found.graph is not None:
            reporter.say(f"the graph {graph_path} is taken, not the one that {path} holds")
        graph = IntegerGraph.load(graph_path)
        found.shapes.check(shapes_of(graph), f"graph {graph_path}")
        return found.with_graph(graph)
    if found.graph is None:
        softmax = found.shapes.softmax
        words = f"--softmax {softmax.mode}"
        if softmax.vec is not None:
            words += f" --softmax-lanes {softmax.vec}"
        raise UsageError(
            f"--graph must be given: the design {path} holds no graph"
            f" ('hwgen quantize {found.model} {words} -o GRAPH' makes one)"
        )
    return found
