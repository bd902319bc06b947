# SPDX-License-Identifier: Apache-2.0
"""Design files on the command line: written, with and without a graph, generated from, run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.emit.manifest import Manifest
from hwgen.graph.graph import IntegerGraph
from hwgen.stages.design import Design

Command = Callable[..., Any]

SMALL = ("--rows", 16, "--columns", 8, "--row-blocks", 2)


@pytest.fixture
def design(graph: str, call: Command, no_verilog: None) -> Design:
    """``D``: a design with its graph; ``bare``: the same without; ``made``: its folder."""
    done = call("generate", graph, *SMALL, "-o", "made", "--design-out", "D")
    assert done.status == 0, done.err
    assert done.json["design"] == "D"
    found = Design.load(Path("D"))
    assert found is not None
    assert found.describe().items() <= done.json.items()
    replace(found, graph=None).save(Path("bare"))
    return found


def folder_bytes(name: str) -> dict[str, bytes]:
    """Everything in a design folder."""
    manifest = Manifest.load(Path(name))
    return {
        file: Path(name, file).read_bytes()
        for file in ("manifest.json", "program.bin", "graph.safetensors", *manifest.files)
    }


def test_a_design_makes_the_same_folder_with_its_own_graph_or_a_given_one(
    design: Design, graph: str, call: Command
) -> None:
    assert (design.config.rows, design.config.columns, design.row_blocks) == (16, 8, 2)
    for arguments in (("D",), ("bare", "--graph", graph), ("D", "--graph", graph, *SMALL)):
        done = call("generate", *arguments, "-o", "again", "--design-out", "E")
        assert done.status == 0, done.err
        assert folder_bytes("again") == folder_bytes("made")
        assert Path("E").read_bytes() == Path("D").read_bytes()
        assert ("is taken" in done.err) == (arguments[:2] == ("D", "--graph"))


def test_a_design_without_a_graph_asks_for_one(design: Design, call: Command) -> None:
    done = call("generate", "bare", "-o", "x")
    assert done.status == 2
    assert "--graph must be given" in done.json["error"]
    assert "hwgen quantize digits --softmax fractional -o GRAPH" in done.json["error"]
    assert not Path("x").exists()


def test_a_wrong_graph_is_named_by_its_first_difference(design: Design, call: Command) -> None:
    assert call("quantize", "digits", "--softmax", "sole", "-o", "h").status == 0
    done = call("generate", "D", "--graph", "h", "-o", "x")
    assert done.status == 1
    expected = "graph h: softmax_mode must be the design's fractional, not sole"
    assert expected in done.json["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "D", "--rows", 32), "--rows must be the design's 16 or absent, not 32"),
        (("generate", "D", "--board", "kv260"), "--board must be the design's 'zcu102' or absent"),
        (("generate", "g", "--graph", "g"), "--graph must be given with a design"),
        (("generate", "g", "--design-out", "g"), "Output must be another file than the input"),
        (
            ("generate", "bare", "--graph", "g", "--design-out", "g"),
            "Output must be another file than the input",
        ),
        (
            ("generate", "g", "-o", "made", "--design-out", "made/D"),
            "Outputs must be in different places, none within another, not made and made/D",
        ),
        (("run", "--design", "D", "--row-blocks", 1), "--row-blocks must be the design's 2 or"),
        (("run", "--design", "D", "--softmax-lanes", 16), "--softmax-lanes must be the design's"),
        (
            ("run", "--design", "D", "--softmax", "sole"),
            "--softmax must be the design's fractional",
        ),
        (("run", "--design", "D", "--board", "kv260"), "--board must be the design's 'zcu102'"),
        (("run", "--design", "g"), "--design must be a design, and g is a graph"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_contradictions_are_wrong_usage(
    arguments: tuple[object, ...], message: str, design: Design, call: Command
) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    done = call(*arguments)
    assert done.status == 2
    assert message in done.json["error"]
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    assert not Path("rtl_out").exists()


def test_a_design_that_cannot_be_written_is_refused_before_the_work(
    graph: str, call: Command
) -> None:
    for place in (".", "missing/D"):
        done = call("generate", graph, "-o", "x", "--design-out", place)
        assert done.status == 1
        assert "Output" in done.json["error"]
        assert not Path("x").exists()


def test_run_refuses_another_model_before_its_checkpoint_is_read(
    design: Design, call: Command
) -> None:
    done = call("run", "deit_tiny", "--checkpoint", "none", "--design", "D")
    assert done.status == 1
    assert "model 'deit_tiny': image_size must be the design's 8, not 224" in done.json["error"]


def test_run_refuses_a_design_that_cannot_run_its_model(design: Design, call: Command) -> None:
    smaller = design.config.replace(bank_words=(136, 68, 68, 136, 18, 17, 136))
    replace(design, config=smaller, graph=None).save(Path("small"))
    done = call("run", "--checkpoint", "none", "--design", "small")
    assert done.status == 1
    assert done.json["resource"] == "activation memory scores1"
    assert (done.json["demand"], done.json["bound"]) == (18, 17)


def test_run_needs_a_model_where_the_designs_is_not_known(design: Design, call: Command) -> None:
    replace(design, model="mine", graph=None).save(Path("mine"))
    done = call("run", "--design", "mine")
    assert done.status == 2
    assert "MODEL must be given" in done.json["error"]


def test_models_whose_names_make_one_folder_name_are_told_apart(
    graph: str, call: Command, no_verilog: None
) -> None:
    loaded = IntegerGraph.load(graph)
    for file, name in (("one", "my model"), ("other", "my.model")):
        replace(loaded, spec=replace(loaded.spec, name=name)).save(file)
    folder = Path("rtl_out", "my_model_zcu102")
    for _ in range(2):  # its own place may be taken again
        assert call("generate", "one").status == 0
    kept = (folder / "manifest.json").read_bytes()
    done = call("generate", "other")
    assert done.status == 1
    assert done.json["error"] == (
        f"{folder}: Design folder must be free or of model 'my.model' on zcu102, and is of"
        " 'my model' on zcu102; name another with -o (both names make the same folder name)"
    )
    assert (folder / "manifest.json").read_bytes() == kept
    assert call("generate", "other", "-o", folder).status == 0  # on request
    assert call("generate", "one").status == 1


@pytest.mark.verilator
def test_a_design_is_run_simulated_and_equal(
    call: Command, hide_verilog: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Other rows, columns, slices, row blocks and FIFOs than the preset's, end to end."""
    sole = ("--softmax", "sole", "--softmax-lanes", 16)
    assert call("quantize", "digits", *sole, "-o", "g").status == 0
    fifos = ("--queue-depth", 3, "--burst-beats", 4, "--read-fifo-beats", 8, "--outstanding", 3)
    with pytest.MonkeyPatch.context() as patch:
        hide_verilog(patch)
        done = call("generate", "g", *SMALL, *fifos, "--ports", 2, "--design-out", "D")
        assert done.status == 0, done.err
    done = call("run", "--design", "D", "--images", 2, "-o", "d")
    assert done.status == 0, done.err
    assert "the graph in D is not used" in " ".join(done.err.split())
    values = done.json
    assert values["matches_reference"] is True
    graph = IntegerGraph.load("d/graph.safetensors")
    assert (values["images"], values["layers_checked"]) == (2, len(graph.tensors))
    config = values["config"]
    assert (config["rows"], config["groups"], config["softmax_vec"]) == (16, ["dual:8:8"], 16)
    assert (config["queue_depth"], config["burst_beats"], config["outstanding"]) == (3, 4, 3)
    assert (config["memory_ports"], values["row_blocks"], values["notes"]) == (2, 2, [])
    # The prediction for another memory compiles the graph anew: with the design's row blocks.
    slow = call("simulate", "d", "--images", 1, "--memory-bandwidth", 3).json
    assert slow["predicted_cycles"] > values["predicted_cycles"]
