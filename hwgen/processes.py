# SPDX-License-Identifier: Apache-2.0
"""Other programs: they end when this process does, however it does, and their failures are told.

A program gets a process group of its own, so that what it starts can be ended with it (``g++`` is
a driver: the compiler proper is its child). SIGKILL leaves no chance to do so, and Linux' signal on
a parent's death reaches neither grandchildren nor, safely, children of a process with threads.
So a shell stands by as *guard*: it knows the running groups from a pipe, and when the pipe ends,
which it does with this process, it kills them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hwgen.errors import ToolError
from hwgen.files import is_unfinished

#: ``+ GROUP`` and ``- GROUP`` come as lines.
_GUARD = """
trap '' HUP INT TERM
groups=
while read -r sign group; do
    kept=
    for known in $groups; do [ "$known" = "$group" ] || kept="$kept $known"; done
    groups=$kept
    [ "$sign" = - ] || groups="$groups $group"
done
for group in $groups; do kill -9 "-$group"; done
"""
#: Less than this much free is a full disk, bytes.
_NO_ROOM = 1 << 20
#: Lines of a tool's output that a failure shows.
_LINES = 12
_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|File size limit exceeded"
)
_MEMORY = re.compile(r"Killed|out of memory|Cannot allocate memory|bad_alloc", re.IGNORECASE)
#: A fault at a place, as Verilator, GCC and Clang, and Icarus say it.
_FAULTS = (
    re.compile(r"^%(?:Error|Warning)(?:-\w+)?: ([^\s:]+:\d+(?::\d+)?): (.+)", re.MULTILINE),
    re.compile(r"^([^\s:]+:\d+(?::\d+)?): (?:fatal )?error: (.+)", re.MULTILINE),
    re.compile(r"^([^\s:]+:\d+): (syntax error.*)", re.MULTILINE),
)


class _Guard:
    """The shell that stands by, from the first program on; a fork of this process has its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = 0  #: number of the process that it stands by
        self.pipe = -1  #: to it

    def tell(self, sign: str, group: int) -> None:
        """Tell it that a group runs, or has ended; without a shell nobody is told."""
        with self.lock, contextlib.suppress(OSError):
            if self.owner != os.getpid():
                self.pipe = self.start()
                self.owner = os.getpid()
            os.write(self.pipe, f"{sign} {group}\n".encode())

    @staticmethod
    def start() -> int:
        reading, writing = os.pipe()
        nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        streams = ((reading, 0), (nothing, 1), (nothing, 2))
        actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in streams]
        try:
            os.posix_spawn("/bin/sh", ["sh", "-c", _GUARD], {}, file_actions=actions, setpgroup=0)
        except OSError:
            os.close(writing)
            raise
        finally:
            os.close(reading)
            os.close(nothing)
        return writing


_guard = _Guard()


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that runs within the block; an exception there ends it and all that it started.

    Args:
        command: program and arguments.
        options: of :class:`subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    with subprocess.Popen(command, process_group=0, text=True, **options) as process:
        _guard.tell("+", process.pid)
        try:
            yield process
        except BaseException:
            end(process.pid)
            raise
        finally:
            process.wait()
            _guard.tell("-", process.pid)


def end(group: int) -> None:
    """Kill a group, if it still runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run_tool(
    command: Sequence[str],
    *,
    cwd: Path,
    what: str,
    environment: dict[str, str] | None = None,
    running: set[int] | None = None,
) -> str:
    """Run a tool and return its output.

    Args:
        command: program and arguments.
        cwd: folder that it writes to; its temporary files, too, so that they go with the rest of
            what is unfinished when it is killed.
        what: names it in an error, for example ``"Compiling main.cpp"``.
        environment: by default this process's.
        running: holds the tool's group while it runs, for :func:`end` by another thread.

    Raises:
        ToolError: it failed (:func:`failure`).
    """
    with started(
        command,
        cwd=cwd,
        env={**(environment or os.environ), "TMPDIR": str(cwd)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    ) as process:
        if running is not None:
            running.add(process.pid)
        try:
            output, _ = process.communicate()
        finally:
            if running is not None:
                running.discard(process.pid)
    if process.returncode:
        raise failure(what, process.returncode, output, cwd)
    return output


def failure(what: str, status: int, output: str, folder: Path) -> ToolError:
    """The error of a tool that failed: what, where and why, and the telling lines of its output.

    Args:
        what: names the tool.
        status: its exit status; negative: the signal that ended it.
        output: all that it said.
        folder: that it wrote to.
    """
    lines = output.splitlines()
    telling = [line for line in lines if "rror" in line or "Warning" in line] or lines[-_LINES:]
    detail = "\n".join(telling[:_LINES])
    how = f"ended with status {status}"
    if status < 0:
        name = signal.Signals(-status).name if -status in {*signal.Signals} else ""
        how = f"was ended by signal {name or -status}"
    full = _FULL.search(output)
    if full is not None or _is_full(folder):
        return ToolError(
            f"The disk must have room for what {what[0].lower()}{what[1:]} writes, and has none;"
            " make room, or set HWGEN_CACHE and TMPDIR to folders with room",
            where=str(_lasting(folder)),
            why=full[0] if full is not None else "No space left on device",
            detail=detail,
        )
    if status == -signal.SIGKILL or _MEMORY.search(output):
        return ToolError(
            f"{what} must succeed, but {how}", why="out of memory, probably", detail=detail
        )
    found = next(filter(None, (pattern.search(output) for pattern in _FAULTS)), None)
    return ToolError(
        f"{what} must succeed, but {how}",
        where=found[1] if found else None,
        why=found[2] if found else None,
        detail=detail,
    )


def _lasting(folder: Path) -> Path:
    """The folder, or what an unfinished one that it is or lies in was made in."""
    for part in (folder, *folder.parents):
        if is_unfinished(part.name):
            return part.parent
    return folder


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _NO_ROOM
    except OSError:
        return False
