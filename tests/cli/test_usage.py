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
    assert set(done.json) == {"error", "kind", "notes", "warnings"}
    assert done.json["notes"] == done.json["warnings"] == []
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


@pytest.mark.parametrize(
    ("model", "count", "most"),
    [
        ("digits", "99999999999999999999999", "at most the 500 held-out digits"),
        ("small.json", "99999999999999999999999", "at most 10000 synthetic ones"),
        ("small.json", "10001", "at most 10000 synthetic ones, not 10001"),
        ("digits", "9" * 5000, ""),
    ],
)
def test_absurd_numbers_of_images(
    call: Command, tmp_path: Path, model: str, count: str, most: str
) -> None:
    from dataclasses import replace

    from hwgen.frontend.models import MODELS
    from hwgen.models import DIGITS_CHECKPOINT

    other = replace(MODELS["digits"], name="other")  # not the digits: its images are synthetic
    (tmp_path / "small.json").write_text(json.dumps(other.to_json()))
    done = call("run", model, "--checkpoint", DIGITS_CHECKPOINT, "--images", count)
    assert done.status in (1, 2)
    assert most in done.json["error"]
    assert len(done.json["error"]) < 4100


def test_messages_are_bounded_and_cannot_command_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hwgen.errors import FormatError

    def fail() -> None:
        raise FormatError("\x1b[31mred\n" + "x" * 10**6)

    monkeypatch.setattr("hwgen.doctor.examine", fail)
    assert main(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    assert len(err) < 4100
    assert "\\x1b[31mred\n" in err
    assert "\x1b" not in err
    assert json.loads(out)["error"] in err
