# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench``: tables; that both sides of ``bench graph`` compute the same network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.cli import main
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.frontend.random_weights import random_state
from hwgen.frontend.torch_eager import TorchEager
from hwgen.models import DIGITS_CHECKPOINT
from hwgen.numerics.compiled import compiled_kernels, kernels_text
from hwgen.stages import array_bench, bench_graph
from hwgen.units import array_bench as column_bench

Command = Callable[..., Any]
DIGITS = MODELS["digits"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(DIGITS, name="other", pooling="mean", activation="gelu_tanh", depth=1)
    monkeypatch.setattr(bench_graph, "NETWORKS", ((DIGITS, 40), (other, 20)))
    monkeypatch.setattr(bench_graph, "ROUNDS", 2)


def test_the_table(call: Command, small: None) -> None:
    pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    done = call("bench", "graph")
    assert done.status == 0, done.err
    rows = done.json["networks"]
    assert [(row["network"], row["images"]) for row in rows] == [("digits", 40), ("other", 20)]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["integer"] / row["torch"])
        assert row["integer"] > 0 and row["threads"] >= 1 and row["torch_batch"] <= row["images"]
    assert set(done.json["versions"]) == {"torch", "integer graph"}
    assert done.json["versions"]["integer graph"] == kernels_text(compiled_kernels())


def test_which_loops_ran_is_said(
    call: Command, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    done = call("bench", "graph", "--numpy")
    assert done.json["versions"]["integer graph"] == f"NumPy {np.__version__}"
    assert main(["bench", "graph"]) == 0
    assert kernels_text(compiled_kernels()) in " ".join(capsys.readouterr().out.split())


def test_two_different_networks_are_not_compared(
    call: Command, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    honest = TorchEager.run
    monkeypatch.setattr(TorchEager, "run", lambda *a: honest(*a)[:, ::-1])
    done = call("bench", "graph")
    assert done.status == 1
    assert "must compute the same, and do not" in done.json["error"]


def test_torch_must_be_there(
    call: Command, small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = call("bench", "graph")
    assert done.status == 2
    assert "needs torch, which is not installed" in done.json["error"]


@pytest.mark.parametrize("change", [{}, {"pooling": "mean", "activation": "relu"}])
def test_torch_eager_is_the_float_model(change: dict[str, Any]) -> None:
    pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    spec = replace(DIGITS, **change)
    state = load_checkpoint(DIGITS_CHECKPOINT) if not change else random_state(spec, 3)
    model = FloatModel.from_state_dict(spec, state)
    images = digits_dataset()[2][:9]
    theirs = TorchEager(model, 1)
    got = theirs.run(theirs.prepare(model.preprocess(images)), 4)
    assert np.abs(got - model.classify(images)).max() < 1e-4


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of 16 rows, two of one design."""
    tiny = array_bench.FrameDesign("digits", "4", "dual:8:8,digits:24:4", 8)
    monkeypatch.setattr(array_bench, "DESIGNS", (tiny, replace(tiny, weight_bits="8")))
    names = tuple(design.name for design in array_bench.DESIGNS)
    monkeypatch.setattr(array_bench, "TABLE", replace(array_bench.TABLE, order=names))
    small = {"rows": 16, "memory_ports": 1, "requantise_lanes": 8, "layernorm_lanes": 4}
    monkeypatch.setattr(array_bench, "COMMON", small)
    monkeypatch.setattr(column_bench, "ROWS", 16)
    monkeypatch.setattr(column_bench, "COLUMNS", 4)


def test_the_array(call: Command, lines: None, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path("page.md")
    text = "".join(
        f"<!-- bench array: {name} -->\n<!-- end -->\n" for name in ("columns", "frames")
    )
    page.write_text(text)
    done = call("bench", "array", "--match", "*al:8*", "--write", page)
    assert done.status == 0, done.err
    values = done.json
    (dual,) = values["columns"]
    assert (dual["kind"], dual["weight_bits"], dual["macs_per_cycle"]) == ("dual", 8, 64)
    assert (dual["dsp"], dual["macs_per_dsp"]) == (32, 2)
    four, eight = values["frames"]
    assert (four["weight_bits"], eight["weight_bits"]) == ("4", "8")
    assert four["weight_bytes"] < eight["weight_bytes"]
    assert four["gops"] == pytest.approx(2 * four["macs"] * four["fps"] / 1e9)
    assert "simulated_cycles" not in four
    assert "| dual:8 | 64 |" in page.read_text() and "| digits | 4 |" in page.read_text()
    assert "frames" in done.err
    # Again, one line of one table; the others stay.
    before = page.read_text()
    assert (
        main(["bench", "array", "--table", "frames", "--match", "*W4*", "--write", "page.md"]) == 0
    )
    assert page.read_text() == before
    out = capsys.readouterr().out
    assert f"{four['predicted_cycles']:,}" in out and "Columns" not in out


def test_lines_and_pages_that_are_not_there(call: Command, lines: None) -> None:
    done = call("bench", "array", "--match", "dual:9")
    assert done.status == 2
    assert (
        "--match must match a line, not 'dual:9'; nearest legal value: dual:8" in done.json["error"]
    )
    Path("page.md").write_text("no table\n")
    done = call("bench", "array", "--match", "dual:8", "--write", "page.md")
    assert done.status == 1
    assert "page.md: Page must have the line <!-- bench array: columns -->" in done.json["error"]
    assert Path("page.md").read_text() == "no table\n"
