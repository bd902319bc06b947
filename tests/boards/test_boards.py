# SPDX-License-Identifier: Apache-2.0
"""Board files and the objects that travel with designs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import hwgen.boards
from hwgen.boards import RESOURCES, Board, get_board, list_boards, open_board
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, FormatError
from hwgen.synth.yosys import TARGETS

FOLDER = Path(hwgen.boards.__file__).parent


@pytest.mark.parametrize("name", list_boards())
def test_every_board_loads(name: str) -> None:
    board = get_board(name)
    assert board.name == name
    assert board.synthesis_target in TARGETS
    AcceleratorConfig().replace(**dict(board.preset))
    assert all(board.limit(resource) >= 1 for resource in RESOURCES)


@pytest.mark.parametrize("name", list_boards())
def test_a_board_survives_json(name: str) -> None:
    board = get_board(name)
    text = json.dumps(board.to_json(), allow_nan=False)
    again = Board.from_json(json.loads(text))
    assert again == board
    assert json.dumps(again.to_json()) == text
    assert hash(again) == hash(board)


def test_zcu102() -> None:
    board = get_board("zcu102")
    assert {name: board.limit(name) for name in RESOURCES} == {
        "lut": 191856,
        "ff": 274080,
        "dsp": 2016,
        "bram36": 729,
    }
    assert board.memory_bytes_per_cycle == pytest.approx(46.67, abs=0.01)
    assert board.overruns({"dsp": 2016, "lut": 191857}).keys() == {"lut"}


def test_a_board_does_not_change() -> None:
    board = get_board("zcu102")
    with pytest.raises(ValidationError, match="frozen"):
        board.clock.mhz = 400


def test_unknown_board_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"not 'ZCU103'.*nearest legal value: zcu102"):
        get_board("ZCU103")


def test_what_is_a_file_and_what_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = get_board("zcu102")
    for name in ("mine.toml", "mine", "zcu102"):
        text = (FOLDER / "zcu102.toml").read_text()
        (tmp_path / name).write_text(text.replace('"zcu102"', '"mine"'))
    mine = Board.from_json(known.to_json() | {"name": "mine"})
    for path in ("mine.toml", "./mine.toml", "./mine", str(tmp_path / "mine"), "./zcu102"):
        assert open_board(path) == mine
    assert open_board("zcu102") == known  # a name, whatever lies in this folder
    with pytest.raises(ConfigError, match=r"not 'mine'; nearest legal value: \./mine$"):
        open_board("mine")
    with pytest.raises(FormatError, match=r"none\.toml: File must be readable: No such file"):
        open_board("none.toml")
    with pytest.raises(FormatError, match=r"\./zcu103: File must be readable: No such file"):
        open_board("./zcu103")


def test_a_board_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    shutil.copy(FOLDER / "zcu102.toml", path)
    before = open_board(str(path))
    path.write_text(path.read_text().replace("mhz = 300", "mhz = 200"))
    assert open_board(str(path)).clock.mhz == 200
    assert before == get_board("zcu102")


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("budget", "dsp", 1.5, "budget.dsp must be at most 1.0, not 1.5"),
        ("budget", "dsp", 1e-9, "budget.dsp must leave at least 1 of 2520, not 1e-09 of it"),
        ("clock", "mhz", 0, "clock.mhz must be at least 1, not 0"),
        ("memory", "port_bits", 64, "memory.port_bits must be 128, not 64"),
        ("memory", "ports", 1, "preset.memory_ports must be at most memory.ports = 1, not 2"),
        ("preset", "rows", 0, "preset.rows must be 16, 32, 64 or 128, not 0"),
        (
            "preset",
            "columns",
            40,
            "preset.columns must be 16 or a multiple of 32 up to 1024 with 32 rows, not 40",
        ),
    ],
)
def test_ranges(section: str, key: str, value: Any, line: str) -> None:
    values = get_board("zcu102").to_json()
    values[section][key] = value
    with pytest.raises(FormatError) as caught:
        Board.from_json(values, where="f")
    assert str(caught.value).startswith(f"f: {line}")
