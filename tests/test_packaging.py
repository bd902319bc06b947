# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml says about packages agrees with the folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import hwgen.boards
import hwgen.sim

pytestmark = pytest.mark.command

REPOSITORY = Path(__file__).parents[1]
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
RENAMED = {"hwgen.sim": "sim", "hwgen.boards": "boards"}
#: Packages of the repository that do not travel in the wheel.
AT_HOME = {"hwgen.sim.cocotb_bench"}


def folder_of(package: str) -> Path:
    for name, folder in RENAMED.items():
        if package == name or package.startswith(f"{name}."):
            return REPOSITORY / (folder + package.removeprefix(name).replace(".", "/"))
    return REPOSITORY / package.replace(".", "/")


def test_every_package_is_listed() -> None:
    found = set()
    for folder, name in [("hwgen", "hwgen"), *((f, n) for n, f in RENAMED.items())]:
        for path in (REPOSITORY / folder).glob("**/__init__.py"):
            below = path.parent.relative_to(REPOSITORY / folder)
            found.add(".".join((name, *below.parts)))
    assert sorted(SETTINGS["packages"]) == sorted(found - AT_HOME)


def test_every_data_file_travels() -> None:
    for package in SETTINGS["packages"]:
        patterns = SETTINGS["package-data"].get(package, [])
        for path in folder_of(package).iterdir():
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(fnmatch(path.name, pattern) for pattern in patterns), path


def test_every_pattern_of_data_files_has_a_file() -> None:
    for package, patterns in SETTINGS["package-data"].items():
        names = [path.name for path in folder_of(package).iterdir()]
        for pattern in patterns:
            assert any(fnmatch(name, pattern) for name in names), (package, pattern)


#: The command line of the wheel and of nothing else: the editable installation's finder would fill
#: every gap.
RUN = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__name__", "").lower()]
from hwgen.cli import main
status = main()
places = {n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "hwgen"}
assert all(place.startswith(sys.path[1]) for place in places.values()), places
sys.exit(status)
"""


def test_the_wheel_works_by_itself(tmp_path: Path) -> None:
    """Built from a copy, installed elsewhere, used in an empty folder."""
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, target = (tmp_path / name for name in ("source", "wheels", "target"))
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("hwgen", "sim", "boards"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels)]
    command(*pip, *build, str(source))
    (wheel,) = wheels.glob("hwgen-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if "cocotb" in name or "tests" in name]
    assert len(names) == len(set(names))
    command(*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    run = [sys.executable, "-c", RUN]
    boards = json.loads(command(*run, "boards", "--json", cwd=empty, env=environment))
    assert [board["name"] for board in boards["boards"]] == hwgen.boards.list_boards()
    command(*run, "unit", "elementwise", "-o", "X", cwd=empty, env=environment)
    assert {path.name for path in (empty / "X").iterdir()} == {
        "hwgen_elementwise.v",
        "manifest.json",
    }
    models = json.loads(command(*run, "models", "--json", cwd=empty, env=environment))
    assert models["models"][0]["embedded_checkpoint"] is True


def command(*arguments: str, **options: Any) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_renamed_packages_import_under_the_name_of_the_project() -> None:
    assert Path(hwgen.sim.__file__).parent.name == "sim"
    assert Path(hwgen.boards.__file__).parent.name == "boards"
