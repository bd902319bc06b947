# SPDX-License-Identifier: Apache-2.0
"""The table "I want to add" of docs/architecture.md: what it lists is enough, and counted.

``additions/*.toml`` are patches: they make an addition in a scratch copy of the tree and say what
must work then. An engine is counted on one that is there, an operation is both made and counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.faults.inject import REPOSITORY, scratch_copy

ADDITIONS = {path.stem: path for path in sorted((Path(__file__).parent / "additions").iterdir())}
#: Most files of hwgen/, sim/ and boards/ that an addition may touch.
MOST_FILES = 8


def table() -> dict[str, set[str]]:
    """Files of each row; a NAME in them is the addition's own."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1:-1] for row in text.splitlines() if row.startswith("| a")]
    files = {row[0].split(":")[0].strip(): set(re.findall(r"`([\w./]+)`", row[1])) for row in rows}
    for (name, listed), row in zip(files.items(), rows, strict=True):
        assert len(listed) == int(row[2]), name
    return files


def apply(root: Path, entry: dict[str, Any]) -> None:
    """Make or change one file."""
    path = root / entry["path"]
    text = entry.get("text", "").lstrip("\n")
    if "text" not in entry:
        text = (root / entry.get("text_of", entry["path"])).read_text(encoding="utf-8")
    for old, new in entry.get("replace", []):
        assert "text_of" in entry or text.count(old) == 1, f"{old!r} in {path}"
        assert old in text
        text = text.replace(old, new)
    assert path.is_file() != ("text" in entry or "text_of" in entry), path
    path.write_text(text, encoding="utf-8")


def test_no_addition_takes_more_files() -> None:
    counts = {name: len(files) for name, files in table().items()}
    assert len(counts) >= 6
    assert max(counts.values()) <= MOST_FILES, counts


@pytest.mark.verilator
@pytest.mark.command
@pytest.mark.parametrize("name", ADDITIONS)
def test_addition(name: str, tmp_path: Path) -> None:
    addition = tomllib.loads(ADDITIONS[name].read_text(encoding="utf-8"))
    root = scratch_copy(tmp_path)
    for entry in addition["file"]:
        apply(root, entry)
    own = {
        "board": "half_kv260",
        "kind of column": "plain",
        "operation of the graph": "rectified",
        "unit that can be built alone": "negate",
    }
    touched = {
        re.sub(rf"\b{own.get(addition['row'], 'NAME')}\b", "NAME", entry["path"])
        for entry in addition["file"]
    }
    article = "an" if addition["row"][0] in "ao" else "a"
    assert touched == table()[f"{article} {addition['row']}"]
    done = subprocess.run(
        [sys.executable, "-c", addition["check"]],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def naming(pattern: str) -> set[str]:
    """Files of hwgen/ and sim/ that name something, comments and the benches' own tables aside."""
    found = set()
    for folder in ("hwgen", "sim"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            code = re.sub(r"#.*", "", re.sub(r'""".*?"""', "", text, flags=re.DOTALL))
            if "cocotb_bench" not in path.parts and re.search(pattern, code):
                found.add(str(path.relative_to(REPOSITORY)))
    return found


def test_an_operation_is_named_where_the_table_says() -> None:
    """Attention logits."""
    named = naming(r"\bAttentionLogits\b")
    own = r"attention(_logits)?\.py"
    assert {re.sub(own, "NAME.py", path) for path in named} == table()["an operation of the graph"]


def test_an_engine_is_named_where_the_table_says() -> None:
    """LAYERNORM: its number, opcode, banks, component, timeline, resources."""
    found = naming(r'Engine\.LAYERNORM|"LAYERNORM"|\bLayerNormEngine\b|"layernorm": ')
    own = r"(layernorm_engine|layer_norm|layernorm)\.py"
    assert {re.sub(own, "NAME.py", path) for path in found} == table()["an engine"]
