# SPDX-License-Identifier: Apache-2.0
"""The rule of outputs on every verb: what stays is refused before the work, and stays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.frontend.images import digits_dataset
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.models import DIGITS_CHECKPOINT
from hwgen.units import UNITS, save_vectors

Command = Callable[..., Any]

UNFINISHED = ".hwgen-0123456789abcdef.tmp"


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder and its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(call: Command, *arguments: object, status: int = 1, folder: Path = Path()) -> str:
    """The error of a command that must leave everything as it is."""
    before = content(folder)
    done = call(*arguments)
    assert done.status == status, done.json
    assert content(folder) == before
    assert "quantise:" not in done.err  # before the work
    assert "simulate:" not in done.err
    return str(done.json["error"])


@pytest.fixture
def place(tmp_path: Path, graph: str) -> Path:
    """A graph ``g``, a checkpoint ``w.safetensors``, images ``i.npz``, vectors, someone's notes."""
    shutil.copy(DIGITS_CHECKPOINT, tmp_path / "w.safetensors")
    _, _, images, labels = digits_dataset()
    np.savez(tmp_path / "i.npz", images=images[:2], labels=labels[:2])
    np.savez(tmp_path / "v.npz", codes=np.zeros((2, 3), np.int8), table=np.zeros(256, np.int8))
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / "n.json").write_text('{"precious": 1}')
    return tmp_path


QUANTIZE = ("quantize", "digits", "--checkpoint", "w.safetensors", "--calibration", "i.npz")


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    "command",
    [
        (*QUANTIZE, "-o", "w.safetensors"),
        (*QUANTIZE, "-o", "i.npz"),
        (*QUANTIZE, "--expect", "n.json", "-o", "n.json"),
        ("generate", "g", "--design-out", "g"),
        ("generate", "g", "-o", "."),
        ("run", "--checkpoint", "w.safetensors", "-o", "."),
        ("run", "--images", "i.npz", "-o", "."),
        ("explore", "g", "--fps", "1", "-o", "g"),
        ("unit", "elementwise", "--simulate", "v.npz", "--output", "v.npz"),
        ("unit", "elementwise", "--simulate", "v.npz", "-o", "."),
    ],
    ids=" ".join,
)
def test_an_input_is_never_replaced(
    place: Path, call: Command, command: tuple[str, ...], force: tuple[str, ...]
) -> None:
    for link in (place / "link", place / "hard"):
        if link.exists():
            link.unlink()
    line = refused(call, *command, *force, status=2)
    assert "input" in line
    # By another name it is the same file.
    if command[-1] != ".":
        (place / "link").symlink_to(place / command[-1])
        os.link(place / command[-1], place / "hard")
        for name in ("link", "hard"):
            assert "input" in refused(call, *command[:-1], name, *force, status=2)


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("stranger", ["notes.txt", "n.json", "w.safetensors", "i.npz"])
@pytest.mark.parametrize(
    "command",
    [
        ("quantize", "digits", "-o"),
        ("generate", "g", "--design-out"),
        ("explore", "digits", "--fps", "1", "-o"),
        ("explore", "digits", "--fps", "1", "--csv"),
        ("unit", "elementwise", "--simulate", "v.npz", "--output"),
    ],
    ids=" ".join,
)
def test_a_strangers_file_is_never_replaced(
    place: Path, call: Command, command: tuple[str, ...], stranger: str, force: tuple[str, ...]
) -> None:
    line = refused(call, *command, stranger, *force)
    assert line.startswith(f"{stranger}: Output must be absent, or of this kind")


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("command", [("generate", "g"), ("run",), ("unit", "elementwise")])
def test_a_strangers_folder_is_never_replaced(
    place: Path, call: Command, command: tuple[str, ...], force: tuple[str, ...]
) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "letter.txt").write_text("dear")
    assert "holds other files" in refused(call, *command, "-o", "mine", *force)


def test_an_own_file_is_replaced_and_an_edited_one_only_with_force(
    place: Path, call: Command
) -> None:
    graph = place / "h"
    assert call("quantize", "digits", "-o", "h").status == 0
    good = graph.read_bytes()
    assert call("quantize", "digits", "-o", "h").status == 0
    tensors, metadata = read_safetensors(graph)
    for change in ("weight", "metadata", "seal"):
        arrays = {name: array.copy() for name, array in tensors.items()}
        texts = dict(metadata)
        if change == "weight":
            arrays["head.weights"][0, 0] ^= 1
        elif change == "metadata":
            texts["note"] = "mine"
        else:
            del texts["hwgen.sha256"]
        write_safetensors(graph, arrays, texts)
        IntegerGraph.load(graph)  # it is a graph, but not the one that was written
        assert "--force" in refused(call, "quantize", "digits", "-o", "h")
        assert call("quantize", "digits", "-o", "h", "--force").status == 0
        assert graph.read_bytes() == good


def test_what_a_unit_returned_is_replaced_unless_it_was_edited(tmp_path: Path) -> None:
    """Without the simulation, which has tests of its own."""
    from hwgen.errors import ConfigError
    from hwgen.outputs import check_file
    from hwgen.units import recognise_vectors

    path = tmp_path / "out.npz"
    check_file(path, recognise_vectors)
    arrays = {"y": np.arange(4, dtype=np.int8)}
    save_vectors(arrays, path)
    check_file(path, recognise_vectors)
    with np.load(path) as archive:
        assert archive.files == ["y"]
    data = path.read_bytes()
    path.write_bytes(data.replace(arrays["y"].tobytes(), b"\0\1\2\4"))
    with pytest.raises(ConfigError, match="--force"):  # ours once, and damaged since
        check_file(path, recognise_vectors)
    comment = data[-len(b"hwgen sha256 ") - 64 :]
    np.savez(path, y=np.zeros(4, np.int8))
    path.write_bytes(path.read_bytes()[:-2] + len(comment).to_bytes(2, "little") + comment)
    with pytest.raises(ConfigError, match="--force"):
        check_file(path, recognise_vectors)
    check_file(path, recognise_vectors, force=True)


@pytest.fixture
def made(place: Path, call: Command, no_verilog: None) -> Path:
    """A design folder ``d``, without Verilog in its files."""
    assert call("generate", "g", "-o", "d").status == 0
    return place / "d"


def test_an_edited_design_is_replaced_only_with_force(made: Path, call: Command) -> None:
    good = content(made)
    assert call("generate", "g", "-o", "d").status == 0
    assert content(made) == good
    manifest = json.loads((made / "manifest.json").read_text())
    edits: dict[str, str] = {
        "digits_zcu102.v": "// mine\n",
        "manifest.json": json.dumps(manifest | {"notes": ["mine"]}),
        "simulation.json": json.dumps({"schema": "hwgen.simulation", "sha256": "0"}),
        "accuracy.json": "{",
    }
    for name, text in edits.items():
        (made / name).write_text(text)
        line = refused(call, "generate", "g", "-o", "d")
        assert f"{name} was changed; give --force to replace it" in line
        assert call("generate", "g", "-o", "d", "--force").status == 0
        assert content(made) == good
    (made / "digits_zcu102.v").unlink()  # nothing that could be lost
    assert call("generate", "g", "-o", "d").status == 0
    (made / "mine.txt").write_text("dear")
    assert "move 'mine.txt' elsewhere" in refused(call, "generate", "g", "-o", "d", "--force")


def test_leftovers_of_a_killed_run_are_no_strangers(made: Path, call: Command) -> None:
    good = content(made)
    (made / UNFINISHED).write_text("half")
    (made.parent / UNFINISHED).mkdir()
    (made.parent / UNFINISHED / "half").write_text("half")
    assert call("generate", "g", "-o", "d").status == 0
    assert content(made) == good
    assert not (made.parent / UNFINISHED).exists()
    (made.parent / UNFINISHED).write_text("half")
    assert call("quantize", "digits", "-o", "h").status == 0
    assert not (made.parent / UNFINISHED).exists()
    (made / ".hwgen-mine.tmp").write_text("mine")  # a stranger's, after all
    assert "elsewhere" in refused(call, "generate", "g", "-o", "d")


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    from hwgen.files import replace_file, sweep, unfinished_folder

    with unfinished_folder(tmp_path) as folder:
        (folder / "half").write_text("half")
        sweep(tmp_path)
        assert (folder / "half").exists()

        def write(stream: Any) -> None:
            stream.write(b"whole")
            sweep(tmp_path)

        replace_file(tmp_path / "file", write)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"whole"}
    (tmp_path / UNFINISHED).symlink_to(tmp_path / "file")
    sweep(tmp_path)
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("verb", ["simulate", "synth"])
def test_results_do_not_replace_what_is_none(made: Path, call: Command, verb: str) -> None:
    path = made / ("simulation.json" if verb == "simulate" else "synthesis.json")
    path.write_text('{"precious": 1}')
    assert "written by hwgen, and is another file" in refused(call, verb, "d", "--force")
    path.write_text(json.dumps({"schema": f"hwgen.{path.stem}", "note": "mine"}))
    assert "give --force to replace it" in refused(call, verb, "d")


def test_a_trace_does_not_replace_what_is_none(made: Path, call: Command) -> None:
    (made / "trace.json").write_text('{"precious": 1}')
    assert "trace.json" in refused(call, "simulate", "d", "--trace")


def test_what_is_left_to_look_into_replaces_nothing_else(made: Path, call: Command) -> None:
    simulate = ("simulate", "d", "--images", "i.npz", "--force")
    assert "is another file" in refused(call, *simulate, "--wave", "notes.txt")
    assert "than the input" in refused(call, *simulate, "--wave", "i.npz", status=2)
    (made.parent / "in").mkdir()
    shutil.copy(made.parent / "i.npz", made.parent / "in" / "i.npz")
    held = ("simulate", "d", "--images", "in/i.npz", "--dump", "in")
    assert "must not hold the input" in refused(call, *held, status=2)
    (made.parent / "mine").mkdir()
    (made.parent / "mine" / "image_0000.npz").write_bytes((made.parent / "v.npz").read_bytes())
    assert "a dump of hwgen only" in refused(call, *simulate, "--dump", "mine")
    for places in (("--wave", "d/w.vcd"), ("--dump", "d/t"), ("--dump", "x", "--wave", "x")):
        assert "in different places" in refused(call, *simulate, *places, status=2)


def test_outputs_are_in_different_places(place: Path, call: Command) -> None:
    for command in (
        ("explore", "digits", "--fps", "1", "-o", "x", "--csv", "./x"),
        ("generate", "g", "-o", "x", "--design-out", "x"),
        ("unit", "elementwise", "-o", "x", "--simulate", "v.npz", "--output", "x/y.npz"),
    ):
        assert "Outputs must be in different places" in refused(call, *command, status=2)


def test_a_table_of_designs_may_have_been_edited(place: Path, call: Command) -> None:
    """A table has no place for a seal."""
    from hwgen.stages.explore_tables import _CSV_HEADER

    (place / "t.csv").write_text(",".join(_CSV_HEADER) + "\n1,2\n")
    assert "--force" in refused(call, "explore", "digits", "--fps", "1", "--csv", "t.csv")


def test_every_unit_folder_follows_the_rule(tmp_path: Path, call: Command) -> None:
    assert set(UNITS) >= {"elementwise"}
    assert call("unit", "elementwise", "-o", "u").status == 0
    path = tmp_path / "u" / "hwgen_elementwise.v"
    path.write_text("// mine\n")
    assert "--force" in refused(call, "unit", "elementwise", "-o", "u")
    assert "--force" in refused(call, "unit", "requantise", "-o", "u")
    assert call("unit", "requantise", "-o", "u", "--force").status == 0
    assert not path.exists()
