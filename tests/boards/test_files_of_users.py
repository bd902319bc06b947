# SPDX-License-Identifier: Apache-2.0
"""``--board FILE``: the whole way to a simulation, the file gone meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hwgen.boards
from hwgen.boards import open_board
from hwgen.cli import main
from hwgen.flow import Settings, run_flow
from hwgen.graph.graph import IntegerGraph
from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request

pytestmark = pytest.mark.command

ZCU102 = (Path(hwgen.boards.__file__).parent / "zcu102.toml").read_text()


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    result = run_flow(Request.of("digits"), Settings(), Reporter(quiet=True), until="quantise")
    assert isinstance(result, IntegerGraph)
    return result


@pytest.fixture
def command(
    graph: IntegerGraph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """``command("generate", "g", "--board", "my.toml")`` beside a graph ``g``: status, object."""
    monkeypatch.chdir(tmp_path)
    graph.save(tmp_path / "g")

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main([*arguments, "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        # A file that takes a known board's name for other facts is pointed out.
        borrowed = status == 0 and "./my.toml" in arguments
        assert ("./my.toml is named 'zcu102' as a board of hwgen" in err) is borrowed
        return status, json.loads(out)

    return run


@pytest.mark.verilator
def test_a_design_does_not_need_its_board_file(command: Any, tmp_path: Path) -> None:
    """The Verilog is that of the zcu102's design, so that its simulation need not be built anew."""
    path = tmp_path / "my.toml"
    path.write_text(
        ZCU102.replace("latency_cycles = 100", "latency_cycles = 333")
        .replace("14_000_000_000", "6_000_000_000")
        .replace("AMD ZCU102", "Mine")
    )
    mine = open_board("./my.toml")
    status, made = command("generate", "g", "--board", "./my.toml", "-o", "d")
    assert (status, made["board"], made["memory_latency"]) == (0, "zcu102", 333)
    path.unlink()
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert manifest["board"] == mine.to_json()
    assert manifest["board"]["title"] == "Mine"
    assert manifest["simulation"] == ["digits_zcu102.v", "digits_zcu102_twin.v"]
    assert manifest["synthesis"] == ["digits_zcu102.v", "digits_zcu102_dsp48e2.v"]
    status, result = command("simulate", "d", "--images", "1")
    assert (status, result["matches_reference"], result["memory_latency"]) == (0, True, 333)
    assert result["memory_bandwidth"] == pytest.approx(20)
    assert result["predicted_cycles"] == made["predicted_cycles"]
    status, report = command("report", "d")
    assert (status, report["board"], report["cycles"]) == (0, "zcu102", result["cycles"])


def test_the_name_of_the_board_is_that_of_the_design(command: Any, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(ZCU102.replace('"zcu102"', '"Lab-7"'))
    status, made = command("generate", "g", "--board", "my.toml")
    assert (status, made["board"], made["name"]) == (0, "Lab-7", "digits_Lab_7")
    assert [path.name for path in (tmp_path / "rtl_out").iterdir()] == ["digits_Lab_7"]


ECP5 = """\
name = "versa"
title = "Lattice ECP5 Versa"
part = "LFE5UM5G-85F-8BG381"
synthesis_target = "ecp5"
resources = {lut = 83640, ff = 83640, dsp = 156, bram36 = 104}
budget = {lut = 0.7, ff = 0.5, dsp = 0.8, bram36 = 0.8}
clock = {mhz = 100}
memory = {bytes_per_second = 1_000_000_000, latency_cycles = 50, ports = 1, port_bits = 128}
preset = {rows = 16, columns = 16, memory_ports = 1}
"""


def test_other_devices_get_no_primitive(command: Any, tmp_path: Path) -> None:
    """Neither in a list of files nor beside it: the plain twin of the column is in both lists."""
    (tmp_path / "versa.toml").write_text(ECP5)
    status, made = command("generate", "g", "--board", "versa.toml", "-o", "d")
    assert status == 0, made
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert manifest["board"]["dsp_primitive"] == "none"
    verilog = ["digits_versa.v", "digits_versa_twin.v"]
    assert manifest["simulation"] == manifest["synthesis"] == verilog
    assert sorted(path.name for path in (tmp_path / "d").glob("*.v")) == verilog
    assert not any("dsp48" in (tmp_path / "d" / name).read_text().lower() for name in verilog)
    assert set(manifest["files"]) | {"manifest.json"} == {
        path.name for path in (tmp_path / "d").iterdir()
    }


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "x/../../y", "x.y", "a b", "", ".x", "x\\n", "x" * 33]
)
def test_a_name_chooses_no_path(command: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "my.toml").write_text(ZCU102.replace('"zcu102"', f'"{name}"'))
    status, made = command("generate", "g", "--board", "my.toml")
    assert status == 1
    assert made["error"].startswith("my.toml: name must be 1 to 32 letters, digits, '_' and '-'")
    assert {path.name for path in tmp_path.iterdir()} == {"g", "my.toml"}


@pytest.mark.parametrize("verb", [("run",), ("generate", "g")])
def test_what_is_no_board(command: Any, tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "mine").write_text(ZCU102.replace("mhz = 300", "mhz = 0"))
    status, made = command(*verb, "--board", "mine")
    assert status == 2
    assert made["error"].endswith("or a .toml file, not 'mine'; nearest legal value: ./mine")
    status, made = command(*verb, "--board", "./mine")
    assert status == 1
    assert made["error"] == ("./mine: clock.mhz must be at least 1, not 0; nearest legal value: 1")
    status, made = command(*verb, "--board", "none.toml")
    assert status == 1
    assert made["error"] == "none.toml: File must be readable: No such file or directory"
    assert {path.name for path in tmp_path.iterdir()} == {"g", "mine"}
