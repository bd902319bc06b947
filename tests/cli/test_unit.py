# SPDX-License-Identifier: Apache-2.0
"""``hwgen unit`` and ``units``: options from the units' tables, vectors, exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.numerics.elementwise import apply_table

Command = Callable[..., Any]


def test_units(hwgen: Command) -> None:
    names = [unit["name"] for unit in hwgen("units", "--json").json["units"]]
    assert names == ["systolic-array", "e2softmax", "ailayernorm", "requantise", "elementwise"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("softmax",), "systolic-array, e2softmax"),
        (("e2softmax", "--vec", "0"), "nearest legal value: 1"),
        (("e2softmax", "--vec", "many"), "integer"),
        (("e2softmax", "--nonsense", "1"), "--nonsense"),
        (("ailayernorm", "--squares", "rounded"), "compressed"),
        (("e2softmax", "--output", "o.npz"), "--simulate"),
        (("requantise", "--low", "-129"), "--low"),
    ],
)
def test_wrong_usage(hwgen: Command, arguments: tuple[str, ...], word: str) -> None:
    done = hwgen("unit", *arguments, "--json")
    assert done.status == 2
    assert word in done.json["error"]


def test_help_names_parameters_and_vectors(hwgen: Command) -> None:
    out = hwgen("unit", "ailayernorm", "--help").out
    for word in ("--zero-point", "--gamma-shift", "--squares", "alpha", "gamma", "beta"):
        assert word in out


@pytest.mark.verilator
def test_vectors_through_the_unit(hwgen: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(-128, 128, (5, 37)).astype(np.int8)
    table = rng.integers(-128, 128, 256).astype(np.int8)
    np.savez(tmp_path / "in.npz", codes=codes, table=table)
    done = hwgen(
        *("unit", "elementwise", "-o", "u", "--simulate", "in.npz", "--output", "out.npz"),
        "--json",
    )
    assert done.status == 0, done.err
    assert done.json["matches_reference"] is True
    over = hwgen("unit", "elementwise", "--simulate", "in.npz", "--output", "in.npz", "--json")
    assert over.status == 2
    assert "another file" in over.json["error"]
    with np.load(tmp_path / "out.npz") as returned:
        assert returned.files == ["y"]
        np.testing.assert_array_equal(returned["y"], apply_table(codes, table))
    assert (tmp_path / "u" / "manifest.json").is_file()


def requantise_vectors(path: Path) -> None:
    """Accumulators whose rounding constant matters: every half goes up."""
    accumulators = np.arange(-400, 400, dtype=np.int32).reshape(50, 16)
    columns = {
        "bias": np.zeros(16, np.int32),
        "multiplier": np.full(16, 1 << 15, np.uint16),
        "shift": np.full(16, 18, np.uint8),
    }
    np.savez(path, accumulators=accumulators, **columns)  # type: ignore[arg-type]


@pytest.mark.verilator
def test_an_edited_rounding_constant_is_seen(hwgen: Command, tmp_path: Path) -> None:
    """The folder of an edited unit is simulated as it is, not written again."""
    requantise_vectors(tmp_path / "in.npz")
    command = ("unit", "requantise", "-o", "u", "--simulate", "in.npz", "--json")
    done = hwgen(*command)
    assert done.status == 0, done.err
    assert done.json["changed_files"] == []
    path = tmp_path / "u" / "hwgen_requantise.v"
    text = path.read_text()
    rounding = "{ addend, 1'h1 })"
    assert rounding in text
    path.write_text(text.replace(rounding, rounding.replace("1'h1", "1'h0")))
    edited = path.read_text()
    done = hwgen(*command)
    assert path.read_text() == edited
    assert done.status == 1
    assert done.json["matches_reference"] is False
    assert done.json["changed_files"] == ["hwgen_requantise.v"]
    assert done.json["first_difference"]["expected"] != done.json["first_difference"]["got"]
    assert "hwgen_requantise.v was changed" in done.err
    # Edits are never overwritten by a measurement with other parameters, only on request.
    done = hwgen(*command, "--zero-point", "3")
    assert done.status == 1
    assert "hwgen_requantise.v" in done.json["error"]
    assert path.read_text() == edited
    done = hwgen("unit", "requantise", "-o", "u", "--json")
    assert done.status == 1
    assert "--force" in done.json["error"]
    assert path.read_text() == edited
    assert hwgen("unit", "requantise", "-o", "u", "--force").status == 0
    assert path.read_text() == text


@pytest.mark.verilator
def test_verilog_that_does_not_compile_is_told(hwgen: Command, tmp_path: Path) -> None:
    requantise_vectors(tmp_path / "in.npz")
    assert hwgen("unit", "requantise", "-o", "u").status == 0
    path = tmp_path / "u" / "hwgen_requantise.v"
    lines = path.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("endmodule"))
    lines[place] = "  assign nothing = ;"
    path.write_text("\n".join(lines))
    done = hwgen("unit", "requantise", "-o", "u", "--simulate", "in.npz", "--json")
    assert done.status == 1
    assert done.json["error"].startswith(
        f"hwgen_requantise.v:{place + 1}:20: Verilator must succeed, but ended with status 1"
        " (syntax error, unexpected ';'"
    )
    assert done.json["kind"] == "ToolError"
    assert done.json["detail"][0].startswith("%Error: hwgen_requantise.v:")
    assert "hwgen_requantise.v was changed" in done.err
    assert f"error: {done.json['error']}\n{done.json['detail'][0]}" in done.err


#: In the place of the C++ compiler: what it writes is too large for a small disk.
COMPILER = """\
#!/bin/sh
[ "$1" = --version ] && exec echo compiler 1
for word; do target=$word; done
exec head -c 5000000 /dev/zero > "$target"
"""


def test_a_full_disk_under_the_cache_is_told(tmp_path: Path) -> None:
    cache, compiler = tmp_path / "cache", tmp_path / "compiler"
    cache.mkdir()
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    # A disk of its own for this command alone; not every system lets its users have one.
    disk = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=1m none "{cache}" && "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*disk, "true"], check=False).returncode:
        pytest.skip("unshare and mount do not give a disk of one's own")
    codes, table = np.zeros((2, 3), np.int8), np.zeros(256, np.int8)
    np.savez(tmp_path / "in.npz", codes=codes, table=table)
    command = ["unit", "elementwise", "--simulate", "in.npz", "--json"]
    look = f'"$@"; echo "status $?" >&2; find "{cache}" -type f -size +0 >&2'
    done = subprocess.run(
        [*disk, "sh", "-c", look, "sh", sys.executable, "-m", "hwgen", *command],
        cwd=tmp_path,
        env={**os.environ, "HWGEN_CACHE": str(cache), "CXX": str(compiler)},
        capture_output=True,
        text=True,
        check=False,
    )
    values = json.loads(done.stdout)
    assert values["error"].startswith(f"{cache}/verilator: The disk must have room for what")
    assert values["error"].endswith(
        "set HWGEN_CACHE and TMPDIR to folders with room (No space left on device)"
    )
    assert "No space left on device" in values["detail"][0]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "status 1"  # and nothing is left on the disk


def test_vectors_are_checked_before_anything_is_written(hwgen: Command, tmp_path: Path) -> None:
    arrays = {"codes": np.zeros((2, 3), np.int8), "table": np.zeros(255, np.int8)}
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    done = hwgen("unit", "elementwise", "-o", "u", "--simulate", "in.npz", "--json")
    assert done.status == 1
    assert "table" in done.json["error"]
    (tmp_path / "folder").mkdir()
    arrays["table"] = np.zeros(256, np.int8)
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    done = hwgen(
        *("unit", "elementwise", "-o", "u", "--simulate", "in.npz", "--output", "folder"), "--json"
    )
    assert done.status == 1
    assert "folder" in done.json["error"]
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"logits": np.zeros((2, 3), np.float32)}, "int8"),
        ({"logits": np.zeros(3, np.int8)}, "shape"),
        ({"other": np.zeros(3, np.int8)}, "logits"),
    ],
)
def test_bad_vectors_are_status_1(
    hwgen: Command, tmp_path: Path, arrays: dict[str, np.ndarray], word: str
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    done = hwgen("unit", "e2softmax", "--simulate", "in.npz", "--json")
    assert done.status == 1
    assert word in done.json["error"]
    assert "in.npz" in done.json["error"]
