# SPDX-License-Identifier: Apache-2.0
"""Output files: whole or not at all, and only in the place of regular files."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from hwgen import files
from hwgen.cache import fill_once
from hwgen.emit import folder as folder_module
from hwgen.errors import ConfigError, FormatError, HwgenError, ToolError
from hwgen.files import replace_file
from hwgen.graph.safetensors_file import write_safetensors
from hwgen.report.results import SimulationResult
from hwgen.report.trace import write_trace
from hwgen.units import UNITS, emit_unit, save_vectors

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


def test_a_folder_that_is_swept_at_once_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's sweep comes between the making of the folder and its lock, or has it already."""
    mkdir, places = os.mkdir, []

    def swept(path: Path, mode: int) -> None:
        mkdir(path, mode)
        places.append(path)
        if len(places) == 1:
            files.sweep(tmp_path)
        if len(places) == 2:
            handles.append(os.open(path, os.O_RDONLY))
            fcntl.flock(handles[0], fcntl.LOCK_EX)

    handles: list[int] = []
    monkeypatch.setattr(os, "mkdir", swept)
    with files.unfinished_folder(tmp_path) as folder:
        assert folder.is_dir()
        assert len(places) == 3
    os.close(handles[0])


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    replace_file(path, lambda stream: None)
    assert path.is_file()


class FullDisk(io.RawIOBase):
    """A file on a disk that is full after ten bytes."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.left = 10

    def fileno(self) -> int:
        return self.handle

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if size > self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= size
        return os.write(self.handle, data)

    def close(self) -> None:
        if not self.closed:
            os.close(self.handle)
        super().close()


def save_result(path: Path) -> None:
    SimulationResult(
        design="d",
        matches_reference=True,
        layers_checked=1,
        images=1,
        cycles=1,
        frames_per_start=1,
        latency_cycles=1,
        clock_mhz=300,
        macs=1,
        weight_bytes=1,
        macs_per_cycle=1,
        busy_cycles=1,
        stall_cycles={},
        wall_seconds=1,
        memory_latency=1,
        memory_bandwidth=1,
        image_source="digits",
    ).save(path.parent)


def save_trace(path: Path) -> None:
    write_trace(path, {}, {}, [], 300)


@pytest.mark.parametrize("moment", ["write", "sync"])
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("save", [save_tensors, save_archive, save_result, save_trace])
def test_a_full_disk_leaves_nothing_half_written(
    save: Callable[[Path], None],
    old: bytes | None,
    moment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "simulation.json"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(files.os, "fdopen", lambda handle, mode: FullDisk(handle))
        else:
            patch.setattr(files.os, "fsync", full)
        with pytest.raises(HwgenError, match="No space left on device"):
            save(path)
    left = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert left == ({} if old is None else {path.name: old})
    save(path)  # with room again
    assert path.read_bytes() != old


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_no_half_filled_cache(tmp_path: Path) -> None:
    def make(partial: Path) -> None:
        (partial / "half").write_bytes(b"half")
        full()

    folder = tmp_path / "cache" / "key"
    with pytest.raises(ToolError, match=r"No space left on device.*HWGEN_CACHE"):
        fill_once(folder, make)
    assert {p.suffix for p in folder.parent.iterdir()} <= {".lock"}
    fill_once(folder, lambda partial: None)
    assert folder.is_dir()


@pytest.mark.parametrize("place", ["fsync", "mkdir"])
def test_a_full_disk_leaves_no_half_written_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module.os, place, full)
    with pytest.raises(ConfigError, match="No space left on device"):
        emit_unit(UNITS["elementwise"], {}, tmp_path / "unit")
    assert not list(tmp_path.iterdir())
