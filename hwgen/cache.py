# SPDX-License-Identifier: Apache-2.0
"""Results of slow tools, kept by content in the user's cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hwgen.errors import ToolError


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


def fill_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Fill ``folder`` by ``make`` unless it exists: atomic, and safe beside other processes.

    Raises:
        ToolError: the cache cannot be written.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():
                return
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that died
            partial.mkdir()
            try:
                make(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ToolError(
            f"The cache of builds must be writable, but {str(folder.parent)!r} failed: {error}; "
            "set HWGEN_CACHE to another folder"
        ) from error
