# SPDX-License-Identifier: Apache-2.0
"""Progress and messages on standard error, tables on standard output."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hwgen.reading import printable

#: Without a terminal, a line is written at most this often (seconds) for a step that moves on.
_QUIET_SECONDS = 5.0


class Reporter:
    """Tells on standard error what is being done: a bar on a terminal, single lines elsewhere.

    Call it with a sentence and the fraction done, 0 ... 1; it fits wherever the simulator, the
    synthesis or the flow takes a progress function.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """A quiet reporter says nothing but what :meth:`say` and :meth:`warn` are given."""
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._quiet = quiet
        self._last = ("", 0.0)

    def say(self, text: str) -> None:
        """Write a line; what a file put into it cannot command the terminal."""
        self.console.print(printable(text, keep="\n"), markup=False)

    def warn(self, text: str) -> None:
        """Write a warning."""
        text = printable(f"warning: {text}", keep="\n")
        self.console.print(text, style="yellow", markup=False)

    def __call__(self, text: str, fraction: float) -> None:
        """Say what is being done and how much of it is done."""
        if self._quiet:
            return
        label = printable(f"{self._stage}: {text}" if self._stage else text)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=label, completed=min(max(fraction, 0.0), 1.0))
            return
        if self.console.is_terminal:
            return
        now = time.monotonic()
        told, when = self._last
        kind = re.sub(r"[0-9]+.*", "", text)
        if kind != told or now - when >= _QUIET_SECONDS:
            self._last = (kind, now)
            self.say(f"{label} ({100 * fraction:.0f} %)" if 0 < fraction < 1 else label)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the progress of one stage while it runs."""
        self._stage = name
        self._last = ("", 0.0)
        if self.console.is_terminal and not self._quiet:
            columns = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
            with Progress(*columns, console=self.console, transient=True) as bar:
                self._bar, self._task = bar, bar.add_task(name, total=1.0)
                try:
                    yield
                finally:
                    self._bar = self._task = None
                    self._stage = ""
        else:
            try:
                yield
            finally:
                self._stage = ""


def print_table(
    title: str, rows: Sequence[Sequence[str]], *, header: Sequence[str] | None = None
) -> None:
    """Write a table on standard output; without ``header`` the first column holds the names."""
    title = printable(title)
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=header is not None)
    width = len(header) if header is not None else max((len(row) for row in rows), default=1)
    for index in range(width):
        table.add_column(header[index] if header is not None else "", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell, keep="\n") for cell in row))
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
