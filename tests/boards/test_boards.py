# SPDX-License-Identifier: Apache-2.0
"""Board files and the objects that travel with designs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import hwgen.boards
from hwgen.boards import CASCADE_ROWS, RESOURCES, Board, get_board, list_boards, open_board
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, FormatError, HwgenError
from hwgen.frontend.models import MODELS
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.stages.configure import configure
from hwgen.stages.lower import board_memory
from hwgen.stages.options import DesignOptions
from hwgen.synth.yosys import TARGETS

FOLDER = Path(hwgen.boards.__file__).parent


@pytest.mark.parametrize("name", list_boards())
def test_every_board_loads(name: str) -> None:
    board = get_board(name)
    assert board.name == name
    assert board.synthesis_target in TARGETS
    AcceleratorConfig().replace(**board.preset.fields())
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
    with pytest.raises(ConfigError, match=r"not 'ZCU1O2'.*nearest legal value: zcu102"):
        get_board("ZCU1O2")


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
        ("budget", "dsp", 1e-9, "budget.dsp must leave at least 1 of 1248, not 1e-09 of it"),
        ("clock", "mhz", 0, "clock.mhz must be at least 1, not 0"),
        ("memory", "port_bits", 64, "memory.port_bits must be 128, not 64"),
        ("memory", "ports", 1, "preset.memory_ports must be at most memory.ports = 1, not 2"),
        ("preset", "rows", 0, "preset.rows must be 16, 32, 64 or 128, not 0"),
        (
            "preset",
            "columns",
            39,
            "preset.columns must be an even number in 8..1024, not 39",
        ),
    ],
)
def test_ranges(section: str, key: str, value: Any, line: str) -> None:
    values = get_board("kv260").to_json()
    values[section][key] = value
    with pytest.raises(FormatError) as caught:
        Board.from_json(values, where="f")
    assert str(caught.value).startswith(f"f: {line}")


@pytest.mark.parametrize(
    ("name", "cascades"),
    [
        ("zcu102", (152, 76, 29, 11)),
        ("kv260", (78, 39, 13, 0)),
        ("ultra96v2", (20, 10, 5, 0)),
        ("u250", (192, 96, 32, 0)),
        ("zcu104", (None,) * 4),
    ],
)
def test_cascades_that_fit(name: str, cascades: tuple[int | None, ...]) -> None:
    board = get_board(name)
    assert tuple(board.cascades(rows) for rows in CASCADE_ROWS) == cascades
    assert board.dsp_primitive == "DSP48E2"


@pytest.mark.parametrize("name", list_boards())
def test_presets_can_be_built(name: str) -> None:
    """Two columns share a cascade; what stands beside the array needs DSPs, too."""
    board = get_board(name)
    for preset in (board.preset, board.preset.small):
        groups = preset.fields()["groups"]
        cascades, fit = sum(group.dsps for group in groups), board.cascades(preset.rows)
        assert fit is None or cascades <= fit
        assert preset.rows * cascades < board.limit("dsp")
        assert preset.memory_ports <= board.memory.ports
        # As many ports as the memory feeds, not more.
        assert 16 * (preset.memory_ports - 1) < board.memory_bytes_per_cycle


def edited(**changes: Any) -> dict[str, Any]:
    values = get_board("zcu102").to_json() | changes
    return {key: value for key, value in values.items() if value is not ...}


@pytest.mark.parametrize(
    ("part", "target", "usual"),
    [
        ("xczu9eg-ffvb1156-2-e", "xcup", "DSP48E2"),
        ("XCKU5P-2FFVB676E", "xcup", "DSP48E2"),
        ("xcvu9p-flga2104-2-i", "xcup", "DSP48E2"),
        ("xck26-sfvc784-2LV-c", "xcup", "DSP48E2"),
        ("xc7z020clg400-1", "xcup", "none"),
        ("xcvc1902-vsva2197-2MP-e-S", "xcup", "none"),
        ("LFE5UM5G-85F-8BG381", "ecp5", "none"),
        ("unheard-of", "xcup", "DSP48E2"),
    ],
)
def test_the_primitive_follows_from_the_part(part: str, target: str, usual: str) -> None:
    absent = {"dsp_primitive": ..., "dsp_column_heights": ...}
    board = Board.from_json(edited(part=part, synthesis_target=target, **absent))
    assert board.dsp_primitive == usual
    assert board.cascades(16) is None
    # The plain twins work anywhere.
    plain = edited(part=part, synthesis_target=target, **absent | {"dsp_primitive": "none"})
    assert Board.from_json(plain).dsp_primitive == "none"


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("xc7z020clg400-1", "is 7 series and has DSP48E1"),
        ("XA7A100T", "is 7 series and has DSP48E1"),
        ("xcvc1902", "is Versal and has DSP58"),
        ("xcve2302", "is Versal and has DSP58"),
        ("xcvp1202", "is Versal and has DSP58"),
        ("xcvh1582", "is Versal and has DSP58"),
        ("xcvm1802", "is Versal and has DSP58"),
        ("xc6slx45", "is of an older generation and has another DSP block"),
    ],
)
def test_parts_without_the_primitive(part: str, why: str) -> None:
    with pytest.raises(FormatError) as caught:
        Board.from_json(edited(part=part), where="f")
    assert str(caught.value) == (
        f"f: dsp_primitive must be 'none', not 'DSP48E2' (part {part!r} {why});"
        " nearest legal value: none"
    )


@pytest.mark.parametrize(
    ("part", "target", "right", "maker"),
    [
        ("LFE5U-85F", "xcup", "ecp5", "Lattice"),
        ("LIFCL-40", "xcup", "ecp5", "Lattice"),
        ("iCE40UP5K", "xcup", "ecp5", "Lattice"),
        ("xczu9eg-ffvb1156-2-e", "ecp5", "xcup", "AMD"),
    ],
)
def test_parts_of_other_makers(part: str, target: str, right: str, maker: str) -> None:
    with pytest.raises(FormatError) as caught:
        Board.from_json(edited(part=part, synthesis_target=target), where="f")
    assert str(caught.value) == (
        f"f: synthesis_target must be {right!r}, not {target!r} (part {part!r} is {maker}'s);"
        f" nearest legal value: {right}"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"part": "LFE5U-85F", "synthesis_target": "ecp5"},
            (
                "dsp_primitive must be 'none', not 'DSP48E2' (synthesis_target 'ecp5' has no"
                " DSP48E2); nearest legal value: none"
            ),
        ),
        (
            {"dsp_primitive": "none"},
            "dsp_column_heights must be absent (dsp_primitive is 'none': no cascades)",
        ),
        (
            {"dsp_column_heights": [[96, 7], [168, 10]]},
            "dsp_column_heights must add up to resources.dsp = 2520, not 2352",
        ),
        (
            {"dsp_column_heights": []},
            "dsp_column_heights must add up to resources.dsp = 2520, not 0",
        ),
        (
            {"dsp_column_heights": [[96, 7], [168]]},
            "dsp_column_heights[1][1] must be stated, and is missing",
        ),
        (
            {"dsp_column_heights": [[96, 7], [168, 0]]},
            "dsp_column_heights[1][1] must be at least 1, not 0; nearest legal value: 1",
        ),
        ({"dsp_column_heights": 168}, "dsp_column_heights must be a list, not 168"),
    ],
    ids=str,
)
def test_contradictions(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(FormatError) as caught:
        Board.from_json(edited(**changes), where="f")
    assert str(caught.value) == f"f: {line}"


def test_memory_follows_the_clock_of_the_design() -> None:
    board = get_board("zcu102")
    assert (
        board_memory(board, AcceleratorConfig().clock_mhz).bandwidth == board.memory_bytes_per_cycle
    )
    slower = board_memory(board, 150)
    assert slower.bandwidth == 2 * board.memory_bytes_per_cycle
    assert slower.latency == board.memory.latency_cycles


#: A legal board of four lines a section, for damages whose place is known.
PLAIN = """\
name = "mine"
title = "Mine"
part = "xczu9eg"
synthesis_target = "xcup"
[resources]
lut = 1000
ff = 2000
dsp = 300
bram36 = 40
[budget]
lut = 0.5
ff = 0.5
dsp = 1
bram36 = 0.5
[clock]
mhz = 300
[memory]
bytes_per_second = 1_000_000_000
latency_cycles = 100
ports = 2
port_bits = 128
[preset]
rows = 16
columns = 16
memory_ports = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('name = "mine"', "name = mine", "File must be TOML: Invalid value (at line 1, column 8)"),
        ("dsp = 300", "dsp = 300\ndsp = 300", r"File must be TOML: Cannot overwrite a value (at"),
        ("[clock]", "[budget]", "File must be TOML: Cannot declare ('budget',) twice (at line 15"),
        ("Mine", "Mi\0ne", r"File must be TOML: Illegal character '\x00' (at line 2, column 12)"),
        ("Mine", "M\udcffine", "File must be UTF-8 text, not byte 0xff in line 2"),
        ("Mine", "\\u001b[31m", r"title must be 1 to 80 printable characters, not '\x1b[31m'"),
        ("Mine", "m" * 81, f"title must be 1 to 80 printable characters, not '{'m' * 57}...'"),
        ("Mine", "m" * 2000, "Line 2 must have at most 1000 characters, not 2010"),
        (
            '"mine"',
            '"../mine"',
            (
                "name must be 1 to 32 letters, digits, '_' and '-', the first a letter or digit,"
                " not '../mine'"
            ),
        ),
        (
            '"xczu9eg"',
            '""',
            "part must be the ordering name of a device, 1 to 64 characters without spaces, not ''",
        ),
        (
            '"xcup"',
            '"xcu"',
            "synthesis_target must be 'xcup' or 'ecp5', not 'xcu'; nearest legal value: xcup",
        ),
        ("bram36 = 40", "bram36 = nan", "resources.bram36 must be a finite number, not nan"),
        ("bram36 = 40", "bram36 = inf", "resources.bram36 must be a finite number, not inf"),
        ("bram36 = 40", "bram36 = 40.5", "resources.bram36 must be an integer, not 40.5"),
        ("bram36 = 40", "bram36 = []", "resources.bram36 must be an integer, not an empty list"),
        ("bram36 = 40", "bram36 = true", "resources.bram36 must be an integer, not true"),
        (
            "bram36 = 40",
            "bram36 = -40",
            "resources.bram36 must be at least 1, not -40; nearest legal value: 1",
        ),
        (
            "bram36 = 40",
            "bram36 = 0x" + "f" * 900,
            "resources.bram36 must be an integer of 64 bits, not an integer of 3600 bits",
        ),
        (
            "bram36 = 40",
            "bram36 = 1979-05-27",
            "resources.bram36 must be a text, a number, true, false, a list or a table, not a date",
        ),
        (
            "lut = 1000",
            "luts = 1000",
            (
                "resources.luts must be a known key (bram36, dsp, ff, lut) (and 1 more fault);"
                " nearest legal value: resources.lut"
            ),
        ),
        ("lut = 1000\n", "", "resources.lut must be stated, and is missing"),
        ("dsp = 1\n", "dsp = 1.01\n", "budget.dsp must be at most 1.0, not 1.01; nearest"),
        ("dsp = 1\n", "dsp = 0\n", "budget.dsp must be more than 0.0, not 0"),
        ("lut = 0.5", 'lut = "half"', "budget.lut must be a number, not 'half'"),
        ("lut = 0.5", "lut = 1e-4", "budget.lut must leave at least 1 of 1000, not 0.0001 of it"),
        ("mhz = 300", "mhz = 1001", "clock.mhz must be at most 1000, not 1001; nearest"),
        ("mhz = 300", "mhz = 300\ndsp_mhz = 1", "clock.dsp_mhz must be at least 2, not 1; nearest"),
        ("[clock]\nmhz = 300\n", "", "clock must be stated, and is missing"),
        (
            "[clock]\nmhz = 300\n",
            "[[clock]]\nmhz = 300\n",
            "clock must be a table, not a list",
        ),
        (
            "1_000_000_000",
            "1",
            "memory.bytes_per_second must be at least 10000000, not 1; nearest legal value: 1000",
        ),
        (
            "ports = 2",
            "ports = 0",
            "memory.ports must be at least 1, not 0; nearest legal value: 1",
        ),
        ("port_bits = 128", "port_bits = 512", "memory.port_bits must be 128, not 512; nearest"),
        ("rows = 16", "rows = {}", "preset.rows must be an integer, not an empty table"),
        ("rows = 16", "rows = 0", "preset.rows must be 16, 32, 64 or 128, not 0"),
        (
            "rows = 16",
            "ro7s = 16",
            (
                "preset.ro7s must be a known key (columns, groups, layernorm_lanes, memory_ports,"
                " requantise_lanes, rows, small, softmax_vec) (and 1 more fault); nearest legal"
                " value: preset.rows"
            ),
        ),
        (
            "columns = 16",
            "columns = 11",
            "preset.columns must be an even number in 8..1024, not 11",
        ),
        ("memory_ports = 1", "memory_ports = 7", "preset.memory_ports must be in 1..6, not 7"),
        (
            "memory_ports = 1",
            "memory_ports = 3",
            "preset.memory_ports must be at most memory.ports = 2, not 3; nearest legal value: 2",
        ),
        ("[preset]", "[preset.more]", "preset.more must be a known key (columns, groups, layerno"),
        ("columns = 16", "", "preset: columns or groups must be stated, one of them"),
        (
            "columns = 16",
            'columns = 16\ngroups = "dual:16:8"',
            "preset: columns or groups must be stated",
        ),
        ("columns = 16", 'groups = "dual:17:8"', "preset: columns of a group must be an even numb"),
        ("columns = 16", 'groups = "digits:16:4"', "preset.groups must be at least 8 columns of 8"),
        (
            "[preset]",
            "[preset.small]\nrows = 16\ncolumns = 8\nmemory_ports = 3\n[preset]",
            "preset.small.memory_ports must be at most memory.ports = 2, not 3; nearest legal",
        ),
        (
            "[preset]",
            "[presets]",
            "presets must be a known key (budget, clock, dsp_column_heights,",
        ),
        (
            PLAIN,
            "",
            "name, title, part, synthesis_target, resources and budget must be stated, and are m",
        ),
    ],
    ids=lambda text: text[:40],
)
def test_damaged_files(tmp_path: Path, old: str, new: str, line: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PLAIN)
    assert open_board(str(path)).name == "mine"
    assert PLAIN.count(old) == 1
    path.write_bytes(PLAIN.replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(FormatError) as caught:
        open_board(str(path))
    assert str(caught.value).startswith(f"{path}: {line}")
    assert str(caught.value).isprintable()


#: Pieces that are likely to hit what a reader does not expect.
PIECES = st.sampled_from(
    [
        *(b"", b"\0", b"\xff", b'"', b"'", b"[", b"]", b"[]", b"{}", b"=", b"\n", b".", b"-", b"0"),
        *(b"nan", b"inf", b"1e999", b"true", b'""', b"1979-05-27", b"0x" + b"f" * 300, b"[" * 200),
        *(b"\xef\xbb\xbf", b"\\ud800", b"\x1b[31m", b"[[a]]\n", b"a.a.a.a = 1\n", b"9" * 30, b"_"),
    ]
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 12), PIECES | st.binary(max_size=3)
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(list_boards()), edits=EDITS)
def test_mutated_files_are_boards_or_one_line(
    name: str, edits: list[tuple[float, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Comments are left out: a mutation there changes nothing."""
    text = (FOLDER / f"{name}.toml").read_text()
    data = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#")).encode()
    for place, length, piece in edits:
        start = int(place * len(data))
        data = data[:start] + piece + data[start + length :]
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    path.write_bytes(data)
    try:
        board = open_board(str(path))
    except HwgenError as error:
        line = str(error)
        assert line.startswith(f"{path}: ")
        assert line.isprintable()
        assert len(line) < len(str(path)) + 400
    else:
        assert Board.from_json(board.to_json()) == board
        configure(MODELS["digits"], board, DesignOptions(), SoftmaxFunction.sole())
        board_memory(board, board.clock.mhz)
        assert board.overruns({"dsp": board.limit("dsp")}) == {}
