# SPDX-License-Identifier: Apache-2.0
"""Runs the command line: as a user does, in another process, or in this one; an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hwgen.cli import main
from hwgen.config import AcceleratorConfig


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output; anything else there fails."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Command = Callable[..., Done]


@pytest.fixture
def hwgen(tmp_path: Path) -> Command:
    """``hwgen("models", "--json")`` in an empty folder; never a traceback."""

    def run(
        *arguments: object, timeout: float = 600, environment: dict[str, str] | None = None
    ) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "hwgen", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """``call("generate", "g", "--rows", 32)`` with ``--json`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        status = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return Done(status, out, err)

    return run


@pytest.fixture(scope="module")
def digits_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of the digits."""
    path = tmp_path_factory.mktemp("graph") / "digits"
    assert main(["quantize", "digits", "-o", str(path), "--json"]) == 0
    return path


@pytest.fixture
def graph(digits_graph: Path, tmp_path: Path) -> str:
    """The graph as ``g`` in the empty folder."""
    shutil.copy(digits_graph, tmp_path / "g")
    return "g"


class NoHardware:
    """In the place of the accelerator: no modules."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.leaves = self.synthesis_leaves = dict


@pytest.fixture
def hide_verilog() -> Callable[[pytest.MonkeyPatch], None]:
    """Leaves out the Verilog, which takes most of the time, where nothing looks at it."""

    def hide(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("hwgen.rtl.accelerator.Accelerator", NoHardware)
        patch.setattr("hwgen.emit.verilog.convert", lambda *_: "// left out\n")

    return hide


@pytest.fixture
def no_verilog(
    monkeypatch: pytest.MonkeyPatch, hide_verilog: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """No Verilog in the whole test."""
    hide_verilog(monkeypatch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder runs commands."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.command)
