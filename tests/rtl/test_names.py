# SPDX-License-Identifier: Apache-2.0
"""Names in the Verilog are stated in the source, not taken from Python's bytecode."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hwgen

SOURCES = sorted(
    file
    for folder in ("rtl", "units")
    for file in (Path(hwgen.__file__).parent / folder).rglob("*.py")
)


def nameless(source: str) -> Iterator[int]:
    """Lines on which the name of a signal or of a memory's port is left to the language."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        named = any(keyword.arg == "name" for keyword in node.keywords)
        if called in ("Signal", "Signal.like") and not named:
            yield node.lineno
        if called in ("Memory", "memory.Memory") or called.endswith((".read_port", ".write_port")):
            yield node.lineno


def test_every_name_is_stated() -> None:
    found = [f"{file.name}:{line}" for file in SOURCES for line in nameless(file.read_text())]
    assert len(SOURCES) > 20
    assert found == []


def test_what_is_found() -> None:
    assert list(nameless("a = Signal(3)\nb = Signal.like(a)\nc = Signal(name='c')")) == [1, 2]
    assert list(nameless("m = memory.Memory(d)\nr = m.read_port()\nw = m.write_port()")) == [
        1,
        2,
        3,
    ]
