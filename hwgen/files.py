# SPDX-License-Identifier: Apache-2.0
"""Files and folders written whole or not at all, and what a killed run leaves of them.

Everything unfinished has a name of its own kind, ``.hwgen-<16 hexadecimal digits>.tmp``, and is
locked by the process that fills it; the system lets the lock go when that process ends, however it
ends. Whoever writes to a folder first removes what lies there unlocked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_UNFINISHED = re.compile(r"\.hwgen-[0-9a-f]{16}\.tmp")


def is_unfinished(name: str) -> bool:
    """Whether a name is that of a file or folder which is being written, or was left over."""
    return _UNFINISHED.fullmatch(name) is not None


def _new_name() -> str:
    return f".hwgen-{secrets.token_hex(8)}.tmp"


def sweep(folder: Path) -> None:
    """Remove what killed runs left in a folder; what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_unfinished(entry.name):
                _remove_left_over(Path(entry.path))


def _remove_left_over(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone, another user's, or no file and no folder
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails: it is being written
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)


def _locked(path: Path, handle: int) -> bool:
    """Lock a new file or folder; False if somebody's sweep was faster."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # it is being swept: it may still be there, but not for long
        return False
    except OSError:  # a file system without locks: nobody sweeps there either
        pass
    return path.exists()


@contextlib.contextmanager
def unfinished_folder(parent: Path, mode: int = 0o777) -> Iterator[Path]:
    """A new folder to fill and to rename at the end; whatever bears its name then is removed.

    Raises:
        OSError: it cannot be made.
    """
    sweep(parent)
    while True:
        path = parent / _new_name()
        os.mkdir(path, mode)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # swept already
            continue
        if _locked(path, handle):
            break
        os.close(handle)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of the system's place for temporary ones, for the user alone.

    Raises:
        OSError: it cannot be made.
    """
    with unfinished_folder(Path(tempfile.gettempdir()), 0o700) as path:
        yield path


def resolve_target(path: str | os.PathLike[str]) -> Path:
    """Where an output file goes, links followed.

    Raises:
        OSError: something is there that is no regular file: replacing it would destroy it.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device, pipe or socket, not a file", str(path))
    return target


def replace_file(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a new file, and put it in the place of the old one at the end.

    A full disk or an interrupt leaves the old file as it was and nothing beside it.

    Raises:
        OSError: the file cannot be written, or is none (:func:`resolve_target`).
    """
    target = resolve_target(path)
    sweep(target.parent)
    while True:
        temporary = target.with_name(_new_name())
        # The system applies the umask; a replaced file keeps its own mode.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _locked(temporary, handle):
            break
        os.close(handle)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            temporary.replace(target)  # before the lock goes
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def reason(error: OSError) -> str:
    """The system's sentence without number and path."""
    return error.strerror or str(error)
