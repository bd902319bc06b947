# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml says about packages agrees with the folders."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import hwgen.boards
import hwgen.sim

REPOSITORY = Path(__file__).parents[1]
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
RENAMED = {"hwgen.sim": "sim", "hwgen.boards": "boards"}


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
    assert set(SETTINGS["packages"]) == found


def test_every_data_file_travels() -> None:
    for package in SETTINGS["packages"]:
        patterns = SETTINGS["package-data"].get(package, [])
        for path in folder_of(package).iterdir():
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(fnmatch(path.name, pattern) for pattern in patterns), path


def test_renamed_packages_import_under_the_name_of_the_project() -> None:
    assert Path(hwgen.sim.__file__).parent.name == "sim"
    assert Path(hwgen.boards.__file__).parent.name == "boards"
