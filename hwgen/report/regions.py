# SPDX-License-Identifier: Apache-2.0
"""Tables of a Markdown page that a command writes: regions between two marks.

A region begins with ``<!-- NAME -->`` and ends with ``<!-- end -->``, each alone on a line. What
stands between is a table whose lines begin with the names of what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwgen.errors import ConfigError, FormatError
from hwgen.files import reason, replace_file
from hwgen.reading import printable, read_bytes

END = "<!-- end -->"
_MAX_BYTES = 1 << 24


def mark(name: str) -> str:
    """The line with which a region begins."""
    return f"<!-- {name} -->"


def read_page(path: Path, names: Sequence[str]) -> str:
    """A page that has these regions.

    Raises:
        FormatError: it cannot be read, or lacks one.
    """
    where = printable(str(path))
    try:
        text = read_bytes(path, limit=_MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"Page must be UTF-8: {error}", where=where) from error
    lines = text.split("\n")
    for name in names:
        if lines.count(mark(name)) != 1 or END not in lines[lines.index(mark(name)) :]:
            raise FormatError(
                f"Page must have the line {mark(name)} once, and {END} behind it", where=where
            )
    return text


def region(text: str, name: str) -> list[str]:
    """The lines of a region."""
    lines = text.split("\n")
    start = lines.index(mark(name)) + 1
    return lines[start : lines.index(END, start)]


def with_region(text: str, name: str, body: Sequence[str]) -> str:
    """The page with another region."""
    lines = text.split("\n")
    start = lines.index(mark(name)) + 1
    return "\n".join([*lines[:start], *body, *lines[lines.index(END, start) :]])


def write_page(path: Path, text: str) -> None:
    """Put the page in the place of the old one.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        replace_file(path, lambda stream: stream.write(text.encode()))
    except OSError as error:
        where = printable(str(path))
        raise ConfigError(f"Page must be writable: {reason(error)}", where=where) from error


def _first(cells: list[str]) -> str:
    return cells[0]


def _new(new: list[str], old: list[str]) -> list[str]:
    return new


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table that is the whole of a region."""

    region: str
    title: str  #: on a terminal
    header: Sequence[str]
    order: Sequence[str]  #: the names of all lines
    name_of: Callable[[list[str]], str] = _first  #: name of a line
    #: a line that is measured again, from the new and the old one
    keep: Callable[[list[str], list[str]], list[str]] = _new

    def lines(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """In Markdown."""
        return [_line(self.header), "|" + "---|" * len(self.header), *map(_line, rows)]

    def rows(self, page: str) -> dict[str, list[str]]:
        """The lines of a page by their names; none where the header is another."""
        lines = region(page, self.region)
        if not lines or lines[0] != _line(self.header):
            return {}
        split = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
        return {self.name_of(cells): cells for cells in split}

    def rewritten(self, page: str, rows: Iterable[list[str]]) -> str:
        """The page with these lines; those that were not measured again stay, in order."""
        found = self.rows(page)
        for cells in rows:
            name = self.name_of(cells)
            found[name] = self.keep(cells, found[name]) if name in found else cells
        kept = [found[name] for name in self.order if name in found]
        return with_region(page, self.region, self.lines(kept))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
