# SPDX-License-Identifier: Apache-2.0
"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO


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
    temporary = target.with_name(f".hwgen-{secrets.token_hex(8)}.tmp")
    # The system applies the umask; a replaced file keeps its own mode.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def reason(error: OSError) -> str:
    """The system's sentence without number and path."""
    return error.strerror or str(error)
