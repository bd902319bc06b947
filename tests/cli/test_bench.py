# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench graph``: its table, and that both sides compute the same network."""

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
from hwgen.stages import bench_graph

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
