# SPDX-License-Identifier: Apache-2.0
"""Writes a design folder as a whole or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from hwgen.emit.manifest import FILE_NAME, check_file_name, digest, listed_files
from hwgen.errors import ConfigError, FormatError

#: Files that later steps leave beside the generated ones; they describe the old design and go
#: with it.
LATER_FILES = frozenset(
    {"report.html", "simulation.json", "synthesis.json", "synthesis_other.json", "trace.json"}
)


class FolderManifest(Protocol):
    """What a folder's manifest must offer here."""

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 of every file beside the manifest."""

    def to_bytes(self) -> bytes:
        """The manifest file's content."""


#: The files that the manifest of a folder of one kind lists; FormatError where there is none.
Listed = Callable[[Path], Mapping[str, str]]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_replaceable(folder: Path, listed: Listed = listed_files) -> None:
    """Refuse a folder that is not ours, or that holds something which is not ours.

    Raises:
        ConfigError: replacing it would destroy what hwgen did not write.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError("Output must be a folder, not another kind of file", where=str(folder))
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        return
    try:
        files = listed(folder)
    except FormatError as error:
        raise ConfigError(
            "Output folder must be absent, empty or a design of hwgen; it holds other files",
            where=str(folder),
            why=f"no valid {FILE_NAME}",
        ) from error
    if foreign := sorted(names - set(files) - LATER_FILES - {FILE_NAME}):
        raise ConfigError(
            f"Output folder must hold generated files only; move {foreign[0]!r} elsewhere",
            where=str(folder),
        )


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def write_folder(
    folder: Path,
    files: Mapping[str, bytes],
    manifest: FolderManifest,
    listed: Listed = listed_files,
) -> Path:
    """Write a design folder; an old design of ours is replaced, anything else refused.

    All is written into a sibling first and renamed at the end: a full disk or an interrupt leaves
    the old folder as it was, and no half-written one.

    Args:
        folder: where; its parents are made.
        files: name -> content, without the manifest; names are plain file names.
        manifest: lists exactly these files.
        listed: reads a manifest of this kind: only a folder that has one is replaced.

    Raises:
        ConfigError: the folder is not ours, or cannot be written.
    """
    for name in files:
        check_file_name(name)
    if {name: digest(data) for name, data in files.items()} != dict(manifest.files):
        raise FormatError("The manifest must list exactly the files that are written")
    folder = Path(os.path.abspath(folder))
    check_replaceable(folder, listed)
    stage: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        umask = os.umask(0)
        os.umask(umask)
        stage.chmod(0o777 & ~umask)
        for name, data in {**files, FILE_NAME: manifest.to_bytes()}.items():
            with (stage / name).open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        if not folder.exists():
            stage.rename(folder)
            stage = None
        elif not _exchange(stage, folder):
            _replace(stage, folder)
            stage = None
    except OSError as error:
        raise ConfigError(
            f"Output folder must be writable: {error.strerror or error}", where=str(folder)
        ) from error
    finally:
        if stage is not None:  # after an exchange, the old design; after a failure, the new one
            shutil.rmtree(stage, ignore_errors=True)
    return folder


def _replace(stage: Path, folder: Path) -> None:
    """Two renames, undone if the second does not happen."""
    old = stage.with_name(f"{stage.name}.old")
    folder.rename(old)
    try:
        stage.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
