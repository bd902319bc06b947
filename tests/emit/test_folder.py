# SPDX-License-Identifier: Apache-2.0
"""Manifest and folder: complete, refused where they must be, replaced as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import get_board
from hwgen.config import AcceleratorConfig
from hwgen.emit import folder as folder_module
from hwgen.emit.folder import check_replaceable, write_folder
from hwgen.emit.manifest import Manifest, ProgramFacts, digest
from hwgen.errors import ConfigError, FormatError
from hwgen.isa.build import build_identity

from .manifests import manifest as manifest_of


def files(text: str = "module x; endmodule\n") -> dict[str, bytes]:
    return {"x.v": text.encode(), "program.bin": b"\1\2", "b.json": b"{}", "g.safetensors": b"g"}


def manifest(content: dict[str, bytes]) -> Manifest:
    digests = {name: digest(data) for name, data in content.items()}
    return manifest_of(digests, weight_bits={"block0": 4})


def write(path: Path, text: str = "module x; endmodule\n") -> Path:
    return write_folder(path, files(text), manifest(files(text)))


def content(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path / "rtl_out" / "x")
    loaded = Manifest.load(path)
    assert loaded == manifest(files())
    assert loaded.to_bytes() == (path / "manifest.json").read_bytes()
    assert loaded.changed_files(path) == []
    (path / "x.v").write_text("changed")
    (path / "b.json").unlink()
    assert loaded.changed_files(path) == ["b.json", "x.v"]


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x")
    (path / "x.v").unlink()
    os.mkfifo(path / "x.v")
    assert Manifest.load(path).changed_files(path) == ["x.v"]


def test_own_folder_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "x")
    (path / "report.html").write_text("old report")
    write(path, "other")
    assert content(path).keys() == {*files(), "manifest.json"}
    assert (path / "x.v").read_text() == "other"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_replacing_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_exchange", lambda first, second: False)
    path = write(tmp_path / "x")
    write(path, "other")
    assert (path / "x.v").read_text() == "other"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="must be absent, empty or a design of hwgen"):
        write(foreign)
    own = write(tmp_path / "own")
    (own / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"move 'notes.txt' elsewhere"):
        write(own)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="must be a folder"):
        write(tmp_path / "file")
    link = tmp_path / "link"
    link.symlink_to(own)
    with pytest.raises(ConfigError, match="must be a folder"):
        write(link)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert content(write(empty)).keys() == {*files(), "manifest.json"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_the_old_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write(tmp_path / "x")
    before = content(path)

    def full(_: int) -> None:
        raise error

    monkeypatch.setattr(folder_module.os, "fsync", full)
    with pytest.raises((ConfigError, KeyboardInterrupt)) as caught:
        write(path, "other")
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert content(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_names_choose_no_place(tmp_path: Path) -> None:
    for name in ("../x.v", "a/b.v", "/etc/x", "..", "", ".hidden"):
        with pytest.raises(FormatError, match="File name must be"):
            replace(manifest(files()), files={**manifest(files()).files, name: "0"})
    with pytest.raises(FormatError, match="exactly the files"):
        write_folder(tmp_path / "x", {**files(), "more.v": b""}, manifest(files()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "must have the schema"),
        (
            {"schema_version": 1},
            "must have schema version 6; it was made by version 1: generate the design again",
        ),
        ({"schema_version": True}, "must have schema version 6, not true"),
        ({"board": "zcu102"}, "board must be a table, not 'zcu102'"),
        (
            {"board": {}},
            r"board.name, board.title, .* must be stated, and are missing \(and 3 more faults\)",
        ),
        ({"counters": {}}, "counters must be those of this version"),
        ({"extra": None}, "extra must be a table, not null"),
        ({"more": 1}, r"more must be a known key .*; nearest legal value: model"),
        ({"name": "x; exec"}, "name must be a Verilog identifier .*, not 'x; exec'"),
        ({"simulation": ["../../x.v"]}, "File name must be"),
        ({"simulation": ["y.v"]}, r"must have a digest, and y\.v has none"),
        ({"files": {"x.v": 3}}, r"files.'x.v' must be a text, not 3"),
        ({"top": 3}, "top must be a text, not 3"),
        ({"program": {}}, "program.image, .* must be stated, and are missing"),
        ({"config": {}}, "config: rows, groups, .* must be stated, and are missing"),
        ({"config": AcceleratorConfig().to_json() | {"rows": 7}}, r"config\.rows must be 16, 32"),
        ({"config": 7}, "config must be a table, not 7"),
        ({"row_blocks": 0}, "row_blocks must be at least 1, not 0"),
        ({"row_blocks": True}, "row_blocks must be an integer, not true"),
        ({"notes": "a sentence"}, "notes must be a list, not 'a sentence'"),
        ({"notes": [1]}, r"notes\[0\] must be a text, not 1"),
        (
            {"extra": {"logit_saturation": {"x": "much"}}},
            r"extra\.logit_saturation\.x must be a number, not 'much'",
        ),
        ({"extra": {"softmax_mass": {"x": {"mean": 1}}}}, r"extra\.softmax_mass\.x\.min must be"),
        ({"extra": {"logit_sqnr_db": True}}, r"extra\.logit_sqnr_db must be a number, not true"),
        ({"extra": {"calibration_source": [1]}}, r"extra\.calibration_source must be a text"),
        (
            {"extra": {"assumed": {"mean": 0.5}}},
            r"extra\.assumed\.mean must be a table, not 0\.5",
        ),
    ],
)
def test_malformed_manifests_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "x")
    values = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(values | change))
    with pytest.raises(FormatError, match=message):
        Manifest.load(path)


@pytest.mark.parametrize("key", [f.name for f in fields(ProgramFacts) if f.type == "int"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, 1 << 60])
def test_numbers_of_the_program_are_positive_integers(
    tmp_path: Path, key: str, value: object
) -> None:
    path = write(tmp_path / "x")
    values = json.loads((path / "manifest.json").read_text())
    values["program"][key] = value
    (path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(FormatError, match=rf"program.{key} must be an integer( in 1\.\.|, not )"):
        Manifest.load(path)


def test_the_build_is_the_configurations(tmp_path: Path) -> None:
    path = write(tmp_path / "x")
    values = json.loads((path / "manifest.json").read_text())
    identity = build_identity(Manifest.load(path).config)
    assert values["build"] == f"{identity:016x}"
    for wrong in ("0" * 16, None, identity):
        (path / "manifest.json").write_text(json.dumps(values | {"build": wrong}))
        with pytest.raises(FormatError, match="build must be the configuration's"):
            Manifest.load(path)


@pytest.mark.parametrize("key", [f.name for f in fields(AcceleratorConfig)])
def test_numbers_of_the_configuration_are_integers(key: str) -> None:
    good = AcceleratorConfig().to_json()
    flag = isinstance(good[key], bool)
    for kind in (float, str, int) if flag else (float, str, bool):
        if key == "groups":
            value: object = kind(2)
        else:
            value = [kind(n) for n in good[key]] if key == "bank_words" else kind(good[key])
        place, legal = key, "true or false" if flag else "an integer"
        if key == "groups":
            legal = "a list"
        elif key == "bank_words":
            place = r"bank_words\[0\]"
        with pytest.raises(FormatError, match=f"^{place} must be {legal}, not "):
            AcceleratorConfig.from_json(good | {key: value})
    assert AcceleratorConfig.from_json(good) == AcceleratorConfig()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rows": 7}, "rows must be 16, 32, 64 or 128, not 7; nearest legal value: 16"),
        ({"row": 16}, "row must be a known key (bank_words, "),
        ({"groups": [7]}, 'groups[0] must be a column group, as "dual:16:8", not 7'),
        ({"groups": ["dual:16"]}, "groups[0]: a column group must be KIND:COLUMNS:BITS"),
        ({"groups": ["dual:16:8", "dual:3:8"]}, "groups[1]: columns of a group must be an even"),
        ({"groups": ["digits:16:4"]}, "groups must be at least 8 columns of 8 bits with 16 rows"),
        ({"groups": []}, "groups must be 1..4 column groups, not "),
        ({"bank_words": [64]}, "bank_words must be 7 sizes in 1..131072, not 64; nearest legal"),
        ({"read_fifo_beats": 8}, "read_fifo_beats must be at least 32 (two bursts), not 8"),
    ],
)
def test_what_a_configuration_says_wrong(change: dict[str, object], line: str) -> None:
    good = AcceleratorConfig().to_json()
    with pytest.raises(FormatError) as caught:
        AcceleratorConfig.from_json(good | change)
    assert str(caught.value).startswith(line)
    assert len(str(caught.value)) < 400
    del good["rows"]
    with pytest.raises(FormatError, match=r"^rows must be stated, and is missing$"):
        AcceleratorConfig.from_json(good)
    with pytest.raises(FormatError, match=r"^row must be a known key .*nearest legal value: rows$"):
        AcceleratorConfig.from_json(good | {"row": 16})


def test_a_folder_of_an_older_version_can_be_replaced(tmp_path: Path) -> None:
    """Its design is refused with the advice to generate it again, which must be possible there."""
    path = write(tmp_path / "x")
    values = json.loads((path / "manifest.json").read_text())
    del values["sha256"]  # a later version's
    older = values | {"schema_version": 1, "board": "zcu102"}
    (path / "manifest.json").write_text(json.dumps(older))
    with pytest.raises(FormatError, match="generate the design again"):
        Manifest.load(path)
    check_replaceable(path)
    write(path, "other")
    assert Manifest.load(path).board == get_board("zcu102")
    (path / "manifest.json").write_text(json.dumps(older))
    (path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        write(path)


@pytest.mark.parametrize("key", sorted(manifest(files()).to_json()))
def test_every_key_must_be_there(tmp_path: Path, key: str) -> None:
    values = manifest(files()).to_json()
    del values[key]
    with pytest.raises(FormatError, match=r"^m: ") as caught:
        Manifest.from_json(values, where="m")
    assert key.removesuffix("_version") in str(caught.value)


ODD_VALUES: tuple[object, ...] = (
    *(None, True, 0, -1, 1.5, 1 << 62, 1 << 64, 10**5000, 1e308, float("nan"), float("inf")),
    *("", "x" * 3000, "\x1b[31m", "\ud800", "../x", [], {}, [[]], {"a": {}}, [[[1]] * 40]),
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*place, key))


def changed(value: Any, place: tuple[Any, ...], new: object) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = changed(value[place[0]], place[1:], new)
    return copy


def test_any_value_anywhere_is_fine_or_refused_in_one_line() -> None:
    values = manifest(files()).to_json()
    accepted = set()
    for place in places(values):
        for new in ODD_VALUES:
            try:
                read = Manifest.from_json(changed(values, place, new), where="m")
            except FormatError as error:
                assert str(error).startswith("m: ")
                assert str(error).isprintable()
                assert len(str(error)) < 500
            else:
                assert Manifest.from_json(json.loads(read.to_bytes())) == read
                accepted.add(place[0])
    # Free texts, and numbers for which the odd value is a legal one.
    assert accepted <= {
        "model",
        "generator",
        "tools",
        "extra",
        "files",
        "notes",
        "config",
        "program",
        "board",
    }
    assert len(accepted) > 4


def test_missing_and_broken_manifests(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="must hold a readable manifest"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match="must be JSON"):
        Manifest.load(tmp_path)
