# SPDX-License-Identifier: Apache-2.0
"""The documents: every command of the README runs, every file that is named is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line
]


def test_every_line_is_a_script_or_hwgen() -> None:
    assert len(LINES) >= 8
    assert {line.split()[0] for line in LINES} == {
        "./scripts/quickstart",
        "./scripts/test",
        "hwgen",
    }


@pytest.mark.parametrize("name", ["scripts/quickstart", "scripts/test", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    path = REPOSITORY / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.verilator
def test_commands_run_in_order(tmp_path: Path) -> None:
    for line in LINES:
        words = shlex.split(line)
        if words[0] != "hwgen":
            continue
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert done.stdout, line


def test_links_lead_somewhere() -> None:
    for document in ("README.md", "CHANGELOG.md", "docs/decisions.md", "docs/roadmap.md"):
        text = (REPOSITORY / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (REPOSITORY / document).parent.joinpath(target).exists(), target


def test_two_commands_need_no_torch() -> None:
    quickstart = (REPOSITORY / "scripts" / "quickstart").read_text(encoding="utf-8")
    assert "need_environment run" in quickstart
