# SPDX-License-Identifier: Apache-2.0
"""Packages of two trees in one process are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwgen.errors import ToolError
from hwgen.installation import check_one_tree, package_folder, parts

REPOSITORY = Path(__file__).parents[1]


def test_this_tree_is_one() -> None:
    check_one_tree(package_folder(), parts())


def test_checkouts_and_wheels() -> None:
    here, other = Path("/here/hwgen"), Path("/other/hwgen")
    for root in (here, here.parent):
        check_one_tree(here, {"sim": root / "sim", "boards": root / "boards"})
    for root in (other, other.parent):
        with pytest.raises(ToolError) as caught:
            check_one_tree(here, {"sim": here.parent / "sim", "boards": root / "boards"})
        assert str(caught.value) == (
            f"/here/hwgen: hwgen.boards must come from /here/boards, not {root}/boards"
            " (two checkouts are mixed: run hwgen in another folder, or install this checkout:"
            " pip install -e /here)"
        )
    with pytest.raises(ToolError, match="not nowhere \\(this checkout is not installed"):
        check_one_tree(here, {"sim": None})


@pytest.mark.command
def test_a_second_checkout(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("hwgen", "sim", "boards"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)

    def hwgen(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hwgen", *arguments],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")},
            capture_output=True,
            text=True,
            check=False,
        )

    done = hwgen("boards")
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"error: {tmp_path}/hwgen: hwgen.sim must come from {tmp_path}/sim, not "
    assert done.stderr.startswith(expected)
    assert "pip install -e" in done.stderr and "Traceback" not in done.stderr
    done = hwgen("doctor", "--json")
    (check,) = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "hwgen"]
    assert (done.returncode, check["ok"], check["needed"]) == (1, False, True)
    assert "two checkouts are mixed" in check["advice"]
