# SPDX-License-Identifier: Apache-2.0
"""Results of slow tools, kept by content in the user's cache folder.

What lies there is executed or believed, so an entry counts only if nobody else can have written it
(owner and mode of its folders and files) and if its files have the bytes that were put there (their
digests, kept in the entry). Another entry is made anew. The digests find damage: a full disk, a
crash, an accident; against others it is the owner that counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from hwgen.errors import FormatError, ToolError
from hwgen.files import unfinished_folder
from hwgen.reading import read_json

#: File of an entry: name -> SHA-256 of every file beside it.
_DIGESTS = "digests.json"


def cache_folder() -> Path:
    """Where builds are kept: ``HWGEN_CACHE``, or ``hwgen`` in the user's cache folder.

    Raises:
        ToolError: there is neither. What lies there is executed, so no folder that others can
            write to will do.
    """
    if configured := os.environ.get("HWGEN_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "hwgen"
    except RuntimeError as error:
        raise ToolError(
            "The cache of builds must have a place: set HWGEN_CACHE to a folder of your own"
            " (there is no home folder)"
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it if this process dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_sound(folder: Path) -> bool:
    """Whether an entry is there, the user's own and undamaged."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
        if not _is_own(folder, stat.S_ISDIR) or not _is_own(folder / _DIGESTS, stat.S_ISREG):
            return False
        digests = read_json(folder / _DIGESTS, dict[str, str])
        return names == sorted({*digests, _DIGESTS}) and all(
            _is_own(folder / name, stat.S_ISREG) and _digest(folder / name) == expected
            for name, expected in digests.items()
        )
    except (OSError, FormatError):
        return False


@contextlib.contextmanager
def kept_file(kind: str, name: str) -> Iterator[IO[bytes]]:
    """A file of the cache that grows while it is worked on, for one process at a time.

    Args:
        kind: the folder of such files.
        name: of the file, by what it depends on.

    Returns:
        the file, open for reading and for writing at its end; whoever is done removes it by its
        ``name``.

    Raises:
        ToolError: the cache cannot be written, others can write to it, or another process has it.
    """
    path = cache_folder() / kind / name
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_own(path.parent)
        while True:
            stream = path.open("a+b")
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    break
            stream.close()  # whoever had it was done, and has removed it
    except BlockingIOError as error:
        raise ToolError(f"Another process is at the same {kind}: wait for it, or end it") from error
    except OSError as error:
        raise ToolError(
            f"The cache must be writable, but {str(path.parent)!r} failed: {error}; set HWGEN_CACHE"
            " to another folder"
        ) from error
    with stream:
        stream.seek(0)
        yield stream


def fill_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Fill ``folder`` by ``make`` unless it is sound: atomic, and safe beside other processes.

    Args:
        folder: the entry; its parent is a folder of the cache, for one kind of entries.
        make: puts files, and no folders, into the folder that it is given.

    Raises:
        ToolError: the cache cannot be written, or others can write to it.
    """
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        _check_own(folder.parent)
        if is_sound(folder):
            return
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if is_sound(folder):
                return
            with unfinished_folder(folder.parent, 0o700) as partial:
                make(partial)
                digests = {entry.name: _digest(entry) for entry in sorted(partial.iterdir())}
                (partial / _DIGESTS).write_text(json.dumps(digests))
                for entry in partial.iterdir():
                    entry.chmod(stat.S_IMODE(entry.stat().st_mode) & ~0o022)  # whatever the umask
                _remove(folder)  # damaged
                partial.rename(folder)
    except OSError as error:
        raise ToolError(
            f"The cache of builds must be writable, but {str(folder.parent)!r} failed: {error}; "
            "set HWGEN_CACHE to another folder"
        ) from error


def _check_own(kind: Path) -> None:
    """Refuse a folder whose entries others can exchange."""
    found, above = kind.lstat(), kind.parent.stat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o022:
        kind.chmod(0o700)  # ours, of an earlier version and a permissive umask
    open_to_all = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    if not _is_own(kind, stat.S_ISDIR) or open_to_all:
        place = kind.parent if open_to_all else kind
        raise ToolError(
            f"The cache of builds must be the user's own, for what lies there is executed, and"
            f" {str(place)!r} can be written by others; set HWGEN_CACHE to a folder of your own"
        )


def _is_own(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether a path itself, no link, is of the kind and can be written by the user alone."""
    found = path.lstat()
    own = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return own and kind(found.st_mode)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Remove whatever is there; a link itself, not what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
