# SPDX-License-Identifier: Apache-2.0
"""Regions of a page: found, replaced, merged line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.errors import ConfigError, FormatError
from hwgen.report.regions import PageTable, read_page, region, write_page

TABLE = PageTable(region="t", title="", header=("name", "count"), order=("a", "b", "c"))
PAGE = "# Title\n\n<!-- t -->\n<!-- end -->\n\n<!-- u -->\nother\n<!-- end -->\n"


def test_lines_are_put_in_order_and_others_stay() -> None:
    first = TABLE.rewritten(PAGE, [["b", "1"]])
    assert region(first, "t") == ["| name | count |", "|---|---|", "| b | 1 |"]
    second = TABLE.rewritten(first, [["a", "2"], ["b", "3"]])
    assert region(second, "t")[2:] == ["| a | 2 |", "| b | 3 |"]
    assert TABLE.rows(second) == {"a": ["a", "2"], "b": ["b", "3"]}
    assert TABLE.rewritten(second, []) == second
    assert region(second, "u") == ["other"]
    assert second.startswith("# Title\n\n") and second.endswith("<!-- end -->\n")
    # A line that is none of the table's any more goes; of a table with another header all do.
    assert region(TABLE.rewritten(second.replace("| a |", "| z |"), []), "t")[2:] == ["| b | 3 |"]
    assert TABLE.rows(second.replace("| name |", "| names |")) == {}


def test_what_is_kept_of_an_old_line() -> None:
    table = PageTable(
        region="t",
        title="",
        header=("name", "count"),
        order=("a",),
        keep=lambda new, old: [*new[:-1], new[-1] + old[-1]],
    )
    assert table.rows(table.rewritten(TABLE.rewritten(PAGE, [["a", "2"]]), [["a", "1"]])) == {
        "a": ["a", "12"]
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PAGE.replace("<!-- t -->", "<!-- s -->").encode(), "the line <!-- t --> once"),
        (PAGE.replace("<!-- u -->", "<!-- t -->").encode(), "the line <!-- t --> once"),
        (b"<!-- end -->\n<!-- t -->\n", "<!-- end --> behind it"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_page_without_the_region(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        read_page(path, ["t"])
    assert str(path) in str(caught.value)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Page must be writable"):
        write_page(tmp_path / "none" / "p.md", "")
