# SPDX-License-Identifier: Apache-2.0
"""Options, help, exit status, and the purity of ``--json``."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwgen.cli import main

Command = Callable[..., Any]


def test_version(hwgen: Command) -> None:
    from hwgen import __version__

    done = hwgen("--version")
    assert (done.status, done.out) == (0, f"hwgen, version {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("quantize",),
        ("quantize", "digits"),
        ("quantize", "digits", "-o", "g", "--weight-bits", "9"),
        ("quantize", "digits", "-o", "g", "--weight-bits", "x"),
        ("quantize", "digits", "-o", "g", "--squares", "round"),
        ("models", "--nonsense"),
    ],
)
def test_wrong_usage_is_status_2(hwgen: Command, arguments: tuple[str, ...]) -> None:
    done = hwgen(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert done.err
    done = hwgen(*arguments, "--json")
    assert done.status == 2
    assert set(done.json) == {"error", "kind"}
    assert done.json["error"] in done.err


def test_models(hwgen: Command) -> None:
    done = hwgen("models", "--json")
    assert done.status == 0
    names = [model["name"] for model in done.json["models"]]
    assert {"digits", "deit_tiny", "deit_small", "deit_base", "vit_large"} <= set(names)
    assert "deit_tiny_patch16_224" in names
    assert "digits" in hwgen("models").out


@pytest.mark.parametrize(
    "error",
    [
        *(
            OSError(number, os.strerror(number), "some/file")
            for number in (
                errno.ENAMETOOLONG,
                errno.ENOTDIR,
                errno.EISDIR,
                errno.ELOOP,
                errno.EFBIG,
                errno.EIO,
                errno.ENOMEM,
                errno.ENOSPC,
            )
        ),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'errno', '')}",
)
def test_conditions_of_the_system_are_no_fault_of_the_program(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("hwgen.boards.get_board", fail)
    assert main(["boards", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "fault of hwgen" not in err
    if getattr(error, "filename", None):
        assert json.loads(out)["error"].startswith("some/file: ")


def test_other_errors_are_said_to_be_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise IsADirectoryError(errno.EISDIR, "no file is named here")

    monkeypatch.setattr("hwgen.boards.get_board", fail)
    assert main(["boards"]) == 1
    assert "fault of hwgen" in capsys.readouterr().err


def test_paths_that_cannot_be(hwgen: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    long = "n" * 300
    for arguments in (
        ("quantize", "digits", "--checkpoint", f"{long}.pt", "-o", "g"),
        ("quantize", "digits", "-o", f"{long}/g"),
        ("quantize", "digits", "-o", "loop"),
        ("quantize", long, "-o", "g"),
        ("simulate", "file/x"),
        ("report", "loop"),
        ("generate", long),
        ("run", "-o", "file/x", "--images", long),
    ):
        done = hwgen(*arguments, "--json")
        assert done.status in (1, 2), arguments
        assert "fault of hwgen" not in done.err, arguments
