# SPDX-License-Identifier: Apache-2.0
"""The examples run and print what they say; docs/api.md lists the interface that is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hwgen import api

REPOSITORY = Path(__file__).parents[1]
#: Lines that each example prints.
PRINTS = {
    "quantise_and_evaluate.py": (
        r"8 bits +9\d\.\d % of 500 images",
        r"embedding +int16 \[17, 64\]",
    ),
    "generate_a_design.py": (r"array 16 x 24, [\d,]+ MACs", r"predicted [\d,]+ cycles a frame"),
    "one_unit.py": (r"1000 codes in \d+ cycles, equal", r"\d+ LUT, \d+ FF, \d+ BRAM36"),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in (REPOSITORY / "examples").iterdir()} == set(PRINTS)


@pytest.mark.command
@pytest.mark.verilator
@pytest.mark.parametrize("name", PRINTS)
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / name)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in PRINTS[name]:
        assert re.search(line, done.stdout), done.stdout


def test_the_document_lists_the_interface() -> None:
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(api.__all__)
    assert all(getattr(api, name) is not None for name in api.__all__)


def test_the_interface_has_docstrings() -> None:
    for name in api.__all__:
        value = getattr(api, name)
        if callable(value):
            assert value.__doc__, name
