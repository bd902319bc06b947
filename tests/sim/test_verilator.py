# SPDX-License-Identifier: Apache-2.0
"""The build cache: content decides, failures leave nothing behind, missing tools are named."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.errors import ToolError
from hwgen.sim import verilator
from hwgen.sim.verilator import Build, Source, build

pytestmark = pytest.mark.verilator

VERILOG = b"""
module counter(input clk, output reg [7:0] q);
  always @(posedge clk) q <= q + 8'd1;
endmodule
"""
HARNESS = b"""
#include "Vdut.h"
int main() { Vdut dut; dut.q = 3; dut.eval(); return 42; }
"""


def spec(verilog: bytes = VERILOG, harness: bytes = HARNESS) -> Build:
    return Build(
        top="counter",
        verilog=(Source("counter.v", verilog),),
        harness=(Source("main.cpp", harness),),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own that shares the compiled runtime of the user's."""
    shared = verilator.cache_folder()
    build(spec())  # makes the runtime
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    (tmp_path / "verilator").mkdir()
    for runtime in (shared / "verilator").glob("runtime-*"):
        if runtime.is_dir():
            shutil.copytree(runtime, tmp_path / "verilator" / runtime.name)
    return tmp_path


def test_second_build_is_the_first(cache: Path) -> None:
    seen: list[str] = []
    first = build(spec(), lambda text, fraction: seen.append(text))
    assert "translating the Verilog" in seen
    assert first.is_relative_to(cache)
    before = first.stat().st_mtime_ns
    assert build(spec()) == first
    assert first.stat().st_mtime_ns == before
    assert subprocess.run([first], check=False).returncode == 42


@pytest.mark.parametrize("damage", [b"", b"#!/bin/sh\necho other\n"])
def test_a_damaged_build_is_made_again(cache: Path, damage: bytes) -> None:
    path = build(spec())
    path.write_bytes(damage)
    seen: list[str] = []
    assert build(spec(), lambda text, fraction: seen.append(text)) == path
    assert "translating the Verilog" in seen
    assert subprocess.run([path], check=False).returncode == 42


def test_content_decides() -> None:
    tools = verilator.find_toolchain()
    key = spec().key(tools)
    assert spec().key(tools) == key
    assert spec(verilog=VERILOG + b" ").key(tools) != key
    assert spec(harness=HARNESS + b" ").key(tools) != key
    # The compiler's command decides, too: flags in CXX, or another compiler of the same version.
    flags = replace(tools, compiler=(*tools.compiler, "-m32"))
    other = replace(tools, compiler=("/opt/cross/bin/g++",))
    assert len({key, spec().key(flags), spec().key(other)}) == 3


def test_runtime_of_another_command_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(verilator, "fill_once", lambda folder, make: None)
    tools = verilator.find_toolchain()
    folders = {
        verilator._runtime(replace(tools, compiler=command), ("verilated",), lambda *_: None)[
            0
        ].parent
        for command in (tools.compiler, (*tools.compiler, "-m32"))
    }
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("verilog", "harness", "message"),
    [
        (
            VERILOG.replace(b"q + 8'd1", b"q + extra"),
            HARNESS,
            "IMPLICIT|extra",
        ),  # warnings are errors
        (VERILOG.replace(b"endmodule", b""), HARNESS, "syntax error"),
        (
            VERILOG,
            HARNESS.replace(b"dut.q", b"dut.p"),
            r"Compiling .*\n.*main\.cpp.*no member named",
        ),
    ],
)
def test_failure_leaves_nothing(cache: Path, verilog: bytes, harness: bytes, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        build(spec(verilog, harness))
    left = [p.name for p in (cache / "verilator").iterdir() if p.suffix != ".lock"]
    assert all(name.startswith("runtime-") for name in left)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match="apt install g"):
        verilator.find_toolchain()


def test_concurrent_builds_share_one_result(cache: Path) -> None:
    program = textwrap.dedent(
        f"""
        from hwgen.sim.verilator import Build, Source, build
        print(build(Build(top="counter", verilog=(Source("counter.v", {VERILOG!r}),),
                          harness=(Source("main.cpp", {HARNESS!r}),))))
        """
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(paths) == 1
    assert subprocess.run([paths.pop()], check=False).returncode == 42
