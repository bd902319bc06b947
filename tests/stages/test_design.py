# SPDX-License-Identifier: Apache-2.0
"""Designs: their files with and without a graph, and which graphs and boards go with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.boards import Board, get_board
from hwgen.errors import DoesNotFitError, FormatError, ModelError, UsageError
from hwgen.frontend.models import MODELS, get_model
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.network import network_of
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.report.terminal import Reporter
from hwgen.stages.configure import Hardware, check_fits
from hwgen.stages.design import (
    Design,
    Shapes,
    design,
    design_name,
    known_model,
    open_design,
    open_source,
    shapes_of,
)
from hwgen.stages.emit import graph_bytes
from hwgen.stages.lower import board_memory, check_runs, compiled, lower, prediction
from hwgen.stages.options import BY_NAME, DesignOptions

from ..program.graphs import random_graph, spec

REPORTER = Reporter(quiet=True)
BOARD = get_board("zcu102")
NONE = DesignOptions()


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    """17 tokens of width 32."""
    return random_graph(spec(), 1)


@pytest.fixture
def whole(graph: IntegerGraph) -> Design:
    """A design with its graph, not quite the preset's."""
    return design(graph, BOARD, DesignOptions(values={"row_blocks": 3, "columns": 32}), REPORTER)


def equal(first: Design, second: Design) -> bool:
    """Everything but the graph's arrays, which their bytes compare."""
    one, two = first.graph, second.graph
    if (one is None) != (two is None):
        return False
    same = one is None or two is None or graph_bytes(one) == graph_bytes(two)
    return same and all(
        getattr(first, name) == getattr(second, name)
        for name in (
            "model",
            "shapes",
            "config",
            "row_blocks",
            "frames_per_start",
            "frames_in_flight",
            "board",
            "notes",
        )
    )


@pytest.mark.parametrize("channels", [0, -1, 65, 1 << 62, 1.5, None])
def test_odd_shapes_take_no_memory(whole: Design, channels: object) -> None:
    with pytest.raises(FormatError, match=r"'channels' must be an integer in 1\.\.64"):
        replace(whole.shapes, channels=channels)  # type: ignore[arg-type]


@pytest.mark.parametrize("with_graph", [True, False])
def test_a_design_survives_its_file(whole: Design, with_graph: bool, tmp_path: Path) -> None:
    assert whole.notes
    assert whole.row_blocks == 3
    chosen = whole if with_graph else replace(whole, graph=None)
    chosen.save(tmp_path / "d")
    again = Design.load(tmp_path / "d")
    assert again is not None
    assert equal(again, chosen)
    assert again.name == "tiny_zcu102"
    again.save(tmp_path / "e")
    assert (tmp_path / "d").read_bytes() == (tmp_path / "e").read_bytes()
    tensors, metadata = read_safetensors(tmp_path / "d")
    if with_graph:  # it is a graph, too
        assert IntegerGraph.load(tmp_path / "d").macs() == whole.graph.macs()  # type: ignore[union-attr]
    else:
        assert (tensors, set(metadata)) == ({}, {"hwgen.design", "hwgen.sha256"})
        with pytest.raises(FormatError, match="must be a graph"):
            IntegerGraph.load(tmp_path / "d")


def test_a_graph_is_no_design(graph: IntegerGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "g")
    assert Design.load(tmp_path / "g") is None
    assert open_design(tmp_path / "g", None, NONE) is None


def test_a_design_is_written_once(
    whole: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No moment at which the file is a graph without its hardware."""
    from hwgen.graph import graph as graph_module

    written: list[set[str]] = []
    write = graph_module.write_safetensors

    def watch(
        path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str], *, seal: bool
    ) -> None:
        written.append(set(metadata))
        write(path, arrays, metadata, seal=seal)

    monkeypatch.setattr(graph_module, "write_safetensors", watch)
    whole.save(tmp_path / "d")
    assert written == [{"hwgen.graph", "hwgen.design"}]


def document(whole: Design, tmp_path: Path) -> dict[str, Any]:
    """The entry of a design's file as plain values."""
    replace(whole, graph=None).save(tmp_path / "plain")
    _, metadata = read_safetensors(tmp_path / "plain")
    values = json.loads(metadata["hwgen.design"])
    assert isinstance(values, dict)
    return values


def test_the_document_is_readable(whole: Design, tmp_path: Path) -> None:
    values = document(whole, tmp_path)
    assert values["model"] == "tiny"
    assert values["shapes"]["width"] == 32
    softmax = [values["shapes"][name] for name in ("softmax_mode", "softmax_vec", "divider_bits")]
    assert softmax == ["fractional", None, 4]
    assert values["row_blocks"] == 3
    assert values["board"] == BOARD.to_json()
    assert len(values["shapes_digest"]) == 64


FRACTIONAL = SoftmaxFunction.fractional()
SHAPES = Shapes.of(spec(), FRACTIONAL)


@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"schema_version": 1},
            "Design must have schema version 7; it was made by version 1: explore or generate",
        ),
        ({"schema_version": None}, "Design must have schema version 7, not null"),
        ({"board": None}, "board must be a table, not null"),
        ({"board": "zcu102"}, "board must be a table, not 'zcu102'"),
        ({"config": 7}, "config must be a table, not 7"),
        ({"config": {"k" * 5000: 1}}, "config: 'kkkkkkkkkk"),
        (
            {"rows": 7},
            "rows must be a known key (board, config, frames_in_flight, frames_per_start, model,",
        ),
        ({"row_blocks": 0}, "row_blocks must be at least 1, not 0"),
        ({"row_blocks": "2"}, "row_blocks must be an integer, not '2'"),
        ({"row_blocks": 5000}, "row_blocks must be at most 4095, not 5000"),
        ({"notes": "x"}, "notes must be a list, not 'x'"),
        ({"notes": [1]}, "notes[0] must be a text, not 1"),
        ({"model": ""}, "model must be a name, not an empty text"),
        ({"model": 3}, "model must be a text, not 3"),
        ({"shapes": {}}, "shapes.image_size, shapes.channels, "),
        ({"shapes": None}, "shapes must be a table, not null"),
        ({"shapes_digest": "0"}, "shapes_digest must be the SHA-256 of the shapes, and is not"),
    ],
)
def test_malformed_designs_are_refused(
    whole: Design, change: dict[str, object], line: str, with_graph: bool, tmp_path: Path
) -> None:
    values = document(whole, tmp_path)
    path = tmp_path / "d"

    def write(text: str) -> None:
        if with_graph:
            assert whole.graph is not None
            whole.graph.save(path, more={"hwgen.design": text})
        else:
            write_safetensors(path, {}, {"hwgen.design": text})

    write(json.dumps(values))
    assert Design.load(path) is not None
    write(json.dumps(values | change))
    with pytest.raises(FormatError) as caught:
        Design.load(path)
    assert str(caught.value).startswith(f"{path}, hwgen.design: {line}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("shape", "value", "line"),
    [
        ("width", 0, "shapes: Model field 'width' must be an integer in 8..8192, not 0"),
        ("width", 1 << 40, "shapes: Model field 'width' must be"),
        ("channels", 0, "shapes: Model field 'channels' must be"),
        ("image_size", 7, "shapes: Model field 'image_size' must be a multiple of the patch"),
        ("pooling", "sum", "shapes.pooling must be 'class_token' or 'mean', not 'sum'"),
        ("class_token", False, "shapes: Model field 'pooling' must be 'mean' when"),
        ("class_token", 1, "shapes.class_token must be true or false, not 1"),
        ("depth", 2.0, "shapes.depth must be an integer, not 2.0"),
        ("width", 64, "shapes_digest must be the SHA-256 of the shapes"),
    ],
)
def test_shapes_that_no_model_has(
    whole: Design, shape: str, value: object, line: str, tmp_path: Path
) -> None:
    values = document(whole, tmp_path)
    values["shapes"][shape] = value
    write_safetensors(tmp_path / "d", {}, {"hwgen.design": json.dumps(values)})
    with pytest.raises(FormatError) as caught:
        Design.load(tmp_path / "d")
    assert line in str(caught.value)


def test_other_damage(whole: Design, tmp_path: Path) -> None:
    path = tmp_path / "d"
    text = json.dumps(document(whole, tmp_path))
    # Whatever the depth, no RecursionError.
    deep = text.replace('"notes": [', '"notes": [' + "[" * 100_000 + "]" * 100_000 + ",")
    for entry, message in (
        (deep, "nested at most 32 deep"),
        (text[:-1], "File must be JSON"),
        ("[]", "must have schema version 7, not null"),
        (text.replace('"model"', '"board"'), "must stand once"),
    ):
        write_safetensors(path, {}, {"hwgen.design": entry})
        with pytest.raises(FormatError, match=message):
            Design.load(path)
    # Tensors without a graph that says what they are.
    write_safetensors(path, {"x": np.zeros(3, np.int8)}, {"hwgen.design": text})
    with pytest.raises(FormatError, match="must be a graph"):
        Design.load(path)
    whole.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError, match="truncated"):
        Design.load(path)


def test_a_file_whose_graph_is_anothers(whole: Design, tmp_path: Path) -> None:
    text = json.dumps(document(whole, tmp_path))
    random_graph(spec(mlp_hidden=64), 1).save(tmp_path / "d", more={"hwgen.design": text})
    with pytest.raises(ModelError, match="mlp_hidden must be the design's 48, not 64"):
        Design.load(tmp_path / "d")


@pytest.mark.parametrize(
    ("changes", "softmax", "message"),
    [
        ({"image_size": 12, "width": 64}, FRACTIONAL, "image_size must be the design's 8, not 12"),
        ({"width": 64}, FRACTIONAL, "width must be the design's 32, not 64"),
        ({"depth": 1}, FRACTIONAL, "depth must be the design's 2, not 1"),
        ({"heads": 1, "head_dim": 32}, FRACTIONAL, "heads must be the design's 2, not 1"),
        ({"classes": 11}, FRACTIONAL, "classes must be the design's 10, not 11"),
        ({"pooling": "mean"}, FRACTIONAL, "pooling must be the design's class_token, not mean"),
        ({}, SoftmaxFunction.sole(), "softmax_mode must be the design's fractional, not sole"),
        (
            {},
            SoftmaxFunction.fractional(2, 5),
            "divider_bits must be the design's 4, not 5",
        ),
    ],
)
def test_a_graph_of_other_shapes(
    whole: Design,
    changes: dict[str, Any],
    softmax: SoftmaxFunction,
    message: str,
    tmp_path: Path,
) -> None:
    other = random_graph(spec(**changes), 1, softmax=softmax)
    assert shapes_of(other).digest != whole.shapes.digest
    with pytest.raises(ModelError, match=f"graph of 'tiny': {message}"):
        whole.with_graph(other)
    replace(whole, graph=None).save(tmp_path / "d")
    other.save(tmp_path / "g")
    with pytest.raises(ModelError, match=f"graph .*/g: {message}"):
        open_source(tmp_path / "d", tmp_path / "g", None, NONE, REPORTER)


def test_what_does_not_decide_shapes_is_free(whole: Design) -> None:
    other = replace(spec(), name="twin", activation="relu", std=(0.1,))
    graph = random_graph(other, 5)
    again = whole.with_graph(graph)
    assert (again.model, again.name) == ("twin", "twin_zcu102")
    assert again.graph is graph
    assert again.shapes == whole.shapes == SHAPES
    assert again.shapes.digest == SHAPES.digest


@pytest.mark.parametrize("softmax", [SoftmaxFunction.sole(16), SoftmaxFunction.fractional(1, 3)])
@pytest.mark.parametrize("model", [*MODELS.values(), spec(pooling="mean", class_token=False)])
def test_shapes_make_a_model_of_the_same_shapes(model: ModelSpec, softmax: SoftmaxFunction) -> None:
    shapes = Shapes.of(model, softmax)
    assert Shapes.of(shapes.spec(model.name), softmax) == shapes


def test_a_design_without_a_graph_needs_one(whole: Design, tmp_path: Path) -> None:
    bare = replace(whole, graph=None)
    bare.save(tmp_path / "d")
    with pytest.raises(UsageError) as caught:
        open_source(tmp_path / "d", None, None, NONE, REPORTER)
    assert "--graph must be given" in str(caught.value)
    assert "hwgen quantize tiny --softmax fractional -o GRAPH" in str(caught.value)
    with pytest.raises(UsageError, match="'tiny_zcu102' must have a graph to be lowered"):
        lower(bare, REPORTER)
    assert whole.graph is not None
    whole.graph.save(tmp_path / "g")
    opened = open_source(tmp_path / "d", tmp_path / "g", None, NONE, REPORTER)
    assert isinstance(opened, Design)
    assert equal(opened, whole)


def test_of_two_graphs_the_given_one_is_taken_and_it_is_said(
    whole: Design, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.save(tmp_path / "d")
    other = random_graph(spec(), 9)
    other.save(tmp_path / "g")
    opened = open_source(tmp_path / "d", tmp_path / "g", None, NONE, Reporter(quiet=True))
    assert isinstance(opened, Design)
    assert opened.graph is not None
    assert graph_bytes(opened.graph) == graph_bytes(other)
    assert "g is taken, not the one that" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="--graph must be given with a design"):
        open_source(tmp_path / "g", tmp_path / "g", None, NONE, REPORTER)


def test_a_design_is_for_its_board(whole: Design, tmp_path: Path) -> None:
    path = tmp_path / "d"
    whole.save(path)
    for given in (None, BOARD):
        opened = open_source(path, None, given, NONE, REPORTER)
        assert isinstance(opened, Design)
        assert opened.board == BOARD
    other = Board.from_json(BOARD.to_json() | {"name": "other"})
    with pytest.raises(UsageError, match="must be the design's 'zcu102' or absent, not 'other'"):
        open_design(path, other, NONE)
    other = Board.from_json(BOARD.to_json() | {"clock": {"mhz": 200}})
    with pytest.raises(UsageError, match="the two boards 'zcu102' differ in clock"):
        open_design(path, other, NONE)


def test_options_do_not_contradict_a_design(whole: Design, tmp_path: Path) -> None:
    whole.save(tmp_path / "d")
    own = {name: whole.parameters[name] for name in BY_NAME}
    assert open_design(tmp_path / "d", None, DesignOptions(values=own)) is not None
    others = {"rows": 64, "row_blocks": 2, "bank_words": (9,) * 7, "clock_mhz": 200}
    for name, value in others.items():
        options = DesignOptions(values={name: value})
        with pytest.raises(UsageError, match=r"must be the design's .* or absent, not"):
            open_design(tmp_path / "d", None, options)


def test_row_blocks_reach_the_program(whole: Design) -> None:
    """Lowered as the design says, and equal to the graph: the program's interpreter checks it."""
    lowered = lower(whole, REPORTER)
    rows = [i["rows"] for i in lowered.program.instructions if i.opcode == "LAYERNORM"]
    assert rows[:3] == [6, 6, 5]
    with pytest.raises(DoesNotFitError, match="scores0 must be at most 12 words, not 34"):
        lower(replace(whole, row_blocks=1), REPORTER)


@pytest.mark.parametrize(("model", "blocks"), [("deit_tiny", 2), ("deit_small", 1)])
def test_row_blocks_that_nobody_states_take_the_fewest_cycles(model: str, blocks: int) -> None:
    """Shapes decide it, so a network without weights will do."""
    network = network_of(get_model(model))
    chosen = design(network, BOARD, NONE, REPORTER)
    memory = board_memory(BOARD, chosen.config.clock_mhz)
    cycles = {}
    for count in (1, 2):
        stated = design(network, BOARD, DesignOptions(values={"row_blocks": count}), REPORTER)
        assert (stated.row_blocks, stated.notes) == (count, ())
        program = compiled(network, stated, memory, skeleton=True)
        cycles[count] = prediction(program, memory).frame_cycles
    assert chosen.row_blocks == blocks == min(cycles, key=cycles.__getitem__)
    saved = 100 * (1 - cycles[1] / cycles[2])
    note = f"row_blocks = 1 is taken instead of 2: {saved:.1f} % fewer cycles, by the cycle model"
    assert chosen.notes == ((note,) if blocks == 1 else ())


def test_row_blocks_that_do_not_fit_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(spec: ModelSpec, board: Board, options: DesignOptions, *softmax: Any) -> Hardware:
        if options.values.get("row_blocks") == 1:
            raise DoesNotFitError("Block RAM for activations", 2, 1, "blocks")
        return check_fits(spec, board, options, *softmax)

    monkeypatch.setattr("hwgen.stages.design.check_fits", full)
    assert design(network_of(get_model("deit_small")), BOARD, NONE, REPORTER).row_blocks == 2


def test_hardware_that_cannot_run_the_model_is_refused_from_shapes(whole: Design) -> None:
    config = whole.config
    check_runs(spec(), Hardware(config=config, row_blocks=3))
    with pytest.raises(ValueError, match="max_row_length must be at least the model's 17"):
        short = config.replace(max_row_length=16)
        check_runs(spec(), Hardware(config=short, row_blocks=3))
    with pytest.raises(ValueError, match=r"row_blocks must be in 1\.\.17"):
        check_runs(spec(), Hardware(config=config, row_blocks=18))


def test_the_hardware_as_plain_values(whole: Design) -> None:
    assert whole.describe() == {
        "board": "zcu102",
        "config": whole.config.to_json(),
        "row_blocks": 3,
        "frames_per_start": 1,
        "frames_in_flight": 1,
    }


def test_known_models(whole: Design) -> None:
    with pytest.raises(UsageError, match="design's model 'tiny' is none of the known ones"):
        known_model(whole)
    assert known_model(replace(whole, model="deit_tiny", graph=None)) == "deit_tiny"


def test_design_names_are_identifiers() -> None:
    assert design_name("my model-2", "zcu102") == "my_model_2_zcu102"
    assert design_name("2b", "zcu102") == "design_2b_zcu102"
    names = {design_name(name, "zcu102") for name in ("x" * 200, "x" * 201, "ä", "ö", "_")}
    assert len(names) == 5
    assert max(map(len, names)) == 64
    assert all(name.isidentifier() and name.isascii() for name in names)
