# SPDX-License-Identifier: Apache-2.0
"""Writes a design folder as a whole or not at all."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from hwgen.emit.manifest import FILE_NAME, check_file_name, digest, file_digest, listed_files
from hwgen.errors import ConfigError, FormatError
from hwgen.files import is_unfinished, sweep, unfinished_folder
from hwgen.outputs import SEAL, check_inputs_outside, sealed
from hwgen.reading import MAX_DESIGN_FILE_BYTES, load_json, printable, read_bytes, show

#: Files that later steps leave beside the generated ones; they describe the old design and go
#: with it.
LATER_FILES = frozenset(
    {
        *("accuracy.json", "simulation.json", "synthesis.json", "synthesis_other.json"),
        *("report.html", "trace.json"),
    }
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


def check_replaceable(
    folder: Path,
    listed: Listed = listed_files,
    *,
    inputs: Iterable[Path] = (),
    force: bool = False,
) -> None:
    """Refuse a folder where an output must not go, by the rule of :mod:`hwgen.outputs`.

    Args:
        folder: where the output is to go.
        listed: reads a manifest of this kind.
        inputs: what the command reads, files and folders.
        force: a folder whose files have been edited may be replaced.

    Raises:
        UsageError: it is an input, or holds one.
        ConfigError: replacing it would destroy what hwgen did not write, or what was edited.
    """
    check_inputs_outside(folder, inputs)
    if not os.path.lexists(folder):
        return
    where = printable(str(folder))
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError("Output must be a folder, not another kind of file", where=where)
    sweep(folder)
    names = {entry.name for entry in folder.iterdir() if not is_unfinished(entry.name)}
    if not names:
        return
    try:
        files = listed(folder)
    except FormatError as error:
        raise ConfigError(
            "Output folder must be absent, empty or a design of hwgen; it holds other files",
            where=where,
            why=f"no valid {FILE_NAME}",
        ) from error
    if foreign := sorted(names - set(files) - LATER_FILES - {FILE_NAME}):
        raise ConfigError(
            f"Output folder must hold generated files only; move {show(foreign[0])} elsewhere",
            where=where,
        )
    edited = [name for name in sorted(names & set(files)) if is_edited(folder / name, files[name])]
    edited += [name for name in sorted(names - set(files)) if is_edited(folder / name)]
    if edited and not force:
        raise ConfigError(
            f"Output folder must hold its files as hwgen wrote them, and {edited[0]} was changed;"
            " give --force to replace it",
            where=where,
        )


def is_edited(path: Path, expected: str | None = None) -> bool:
    """Whether a file is another than the expected one, or a document whose seal is broken."""
    if expected is not None:
        return file_digest(path) != expected
    if path.suffix != ".json":
        return False
    try:
        values = load_json(read_bytes(path, limit=MAX_DESIGN_FILE_BYTES), where=str(path))
    except FormatError:
        return True
    return isinstance(values, dict) and SEAL in values and values != sealed(values)


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
    *,
    force: bool = False,
) -> Path:
    """Write a design folder; an old design of ours is replaced, anything else refused.

    All is written into a sibling first and renamed at the end: a full disk or an interrupt leaves
    the old folder as it was, and no half-written one.

    Args:
        folder: where; its parents are made.
        files: name -> content, without the manifest; names are plain file names.
        manifest: lists exactly these files.
        listed: reads a manifest of this kind: only a folder that has one is replaced.
        force: a folder whose files have been edited may be replaced.

    Raises:
        ConfigError: the folder is not ours, was edited, or cannot be written.
    """
    for name in files:
        check_file_name(name)
    if {name: digest(data) for name, data in files.items()} != dict(manifest.files):
        raise FormatError("The manifest must list exactly the files that are written")
    folder = Path(os.path.abspath(folder))
    check_replaceable(folder, listed, force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(folder.parent) as stage:
            for name, data in {**files, FILE_NAME: manifest.to_bytes()}.items():
                with (stage / name).open("wb") as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
            put_in_place(stage, folder)
    except OSError as error:
        raise ConfigError(
            f"Output folder must be writable: {error.strerror or error}",
            where=printable(str(folder)),
        ) from error
    return folder


def put_in_place(stage: Path, folder: Path) -> None:
    """Give a filled folder its name, beside it; whatever had that name is removed with the stage.

    Raises:
        OSError: it cannot be renamed; the old folder is there as it was.
    """
    if not folder.exists():
        stage.rename(folder)
    elif not _exchange(stage, folder):  # afterwards the old folder bears the stage's name
        _replace(stage, folder)


def _replace(stage: Path, folder: Path) -> None:
    """Two renames, undone if the second does not happen."""
    with unfinished_folder(folder.parent) as empty:
        old = empty / folder.name
        folder.rename(old)
        try:
            stage.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
