# SPDX-License-Identifier: Apache-2.0
"""The order of files: side by side, the long ones first and the quick ones in the gaps."""

from __future__ import annotations

import pytest

#: Files of few and long tests, longest first.
LONG = (
    *("test_top.py", "test_run.py", "test_killed.py", "test_readme.py", "test_frames.py"),
    *("test_debugging.py", "test_icarus.py", "test_design.py", "test_library.py"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files stay together: their fixtures are made once."""

    def place(item: pytest.Item) -> tuple[int, int]:
        name = item.path.name
        marks = {mark.name for mark in item.iter_markers()}
        return (
            LONG.index(name) if name in LONG else len(LONG),
            0 if "verilator" in marks else 1 if "command" in marks else 2,
        )

    first = {}
    for item in items:
        first[item.path] = min(first.get(item.path, place(item)), place(item))
    items.sort(key=lambda item: first[item.path])
