# SPDX-License-Identifier: Apache-2.0
"""Output files: whole or not at all, and only in the place of regular files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from hwgen.errors import ConfigError, FormatError
from hwgen.files import replace_file
from hwgen.graph.safetensors_file import write_safetensors
from hwgen.units import save_vectors

ARRAYS = {"x": np.arange(3, dtype=np.int8)}


def save_tensors(path: Path) -> None:
    write_safetensors(path, ARRAYS, {})


def save_archive(path: Path) -> None:
    save_vectors(ARRAYS, path)


@pytest.mark.parametrize("save", [save_tensors, save_archive])
def test_what_is_no_file_is_left_alone(save, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises((ConfigError, FormatError), match=f"{name}.*it is a"):
            save(tmp_path / name)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises((ConfigError, FormatError), match=r"/dev/null.*device"):
        save(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert {p.name for p in tmp_path.iterdir()} == {"pipe", "link", "folder"}


@pytest.mark.parametrize("save", [save_tensors, save_archive])
def test_links_are_followed(save, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "file"
    link = tmp_path / "link"
    link.symlink_to(target)
    save(link)  # the target does not exist yet
    first = target.read_bytes()
    target.write_bytes(b"old")
    target.chmod(0o640)
    save(link)
    assert link.is_symlink()
    assert target.read_bytes() == first
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    replace_file(path, lambda stream: None)
    assert path.is_file()
