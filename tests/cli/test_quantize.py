# SPDX-License-Identifier: Apache-2.0
"""``hwgen quantize``: bad models, checkpoints and images; the graph's bytes."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.frontend.images import digits_dataset
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.models import DIGITS_CHECKPOINT

Command = Callable[..., Any]


def digits_state() -> dict[str, np.ndarray]:
    return read_safetensors(DIGITS_CHECKPOINT)[0]


def fails(done: Any, status: int, *words: str) -> None:
    assert done.status == status, done.err
    error = done.json["error"]
    for word in words:
        assert word in error, error
    assert error in done.err


def quantize(hwgen: Command, checkpoint: Path, *more: object, model: str = "digits") -> Any:
    return hwgen("quantize", model, "--checkpoint", checkpoint, "-o", "g", "--json", *more)


def test_graph_is_written_and_repeatable(hwgen: Command, tmp_path: Path) -> None:
    done = hwgen("quantize", "digits", "-o", "a", "--json")
    assert done.status == 0
    graph = IntegerGraph.load(tmp_path / "a")
    assert done.json["macs"] == graph.macs()
    assert done.json["logit_saturation"] == dict(graph.metadata.logit_saturation)
    assert len(done.json["logit_saturation"]) == 4
    assert 20 < done.json["logit_sqnr_db"] < 40 and done.json["quality_images"] == 64
    assert done.json["logit_sqnr_db"] == graph.metadata.logit_sqnr_db
    assert 0.9 < done.json["float_agreement"] <= 1
    assert set(done.json["softmax_mass"]) == {f"blocks.{i}.softmax" for i in range(4)}
    assert all(0.5 < m["min"] <= m["mean"] < 1.1 for m in done.json["softmax_mass"].values())
    assert done.json["warnings"] == []
    done = hwgen("quantize", "digits", "-o", "b")
    assert re.search(r"logit SQNR +[23][0-9]\.[0-9] dB \(64 images\)", done.out)
    assert re.search(r"softmax mass +[0-9.]+ in the mean of blocks", done.out)
    assert done.status == 0
    assert re.search(r"logit_saturation +(none in 4 layers|[0-9.e-]+ %, at most)", done.out)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    narrow = hwgen("quantize", "digits", "-o", "c", "--weight-bits", "4")
    assert narrow.status == 0
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_widths_by_layer(hwgen: Command, tmp_path: Path) -> None:
    """A text and a file that say the same give the same graph; the graph has what they say."""
    (tmp_path / "w.toml").write_text('"blocks.*" = 4\n"blocks.*.fc1" = 6\nhead = 7\n')
    text = "4,blocks.*.fc1=6,head=7"
    assert hwgen("quantize", "digits", "-o", "a", "--weight-bits", "w.toml").status == 0
    done = hwgen("quantize", "digits", "-o", "b", "--weight-bits", text, "--json")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    graph = IntegerGraph.load(tmp_path / "a")
    widths = {op.name: op.weight_bits for op in graph.ops if hasattr(op, "weight_bits")}
    assert (widths["embedding"], widths["head"]) == (8, 7)
    assert {widths[f"blocks.{i}.fc1"] for i in range(4)} == {6}
    assert {widths[f"blocks.{i}.{part}"] for i in range(4) for part in ("qkv", "fc2")} == {4}
    assert done.json["layer_weight_bits"] == widths and done.json["weight_bits"] == [4, 6, 7, 8]
    done = hwgen("quantize", "digits", "-o", "c", "--weight-bits", text)
    assert re.search(rf"weight_bits +{re.escape(text)} ", done.out)
    # The file is an input: no output replaces it.
    done = hwgen("quantize", "digits", "-o", "w.toml", "--weight-bits", "w.toml", "--force")
    assert done.status == 2 and "another file than the input, not w.toml" in done.err


def test_widths_that_name_no_layer(hwgen: Command, tmp_path: Path) -> None:
    spec = ("quantize", "digits", "-o", "g", "--json", "--weight-bits")
    fails(hwgen(*spec, "blocks.*.fc3=4"), 2, "'blocks.*.fc3' matches none", "blocks.*.fc2")
    fails(hwgen(*spec, "w.json"), 1, "w.json: File must be readable")
    (tmp_path / "w.json").write_text('{"heads": 4}')
    fails(hwgen(*spec, "w.json"), 1, "w.json: Weight widths", "'heads'", "nearest", "head")
    assert not (tmp_path / "g").exists()


def test_quality_is_measured_on_images_held_back(hwgen: Command, tmp_path: Path) -> None:
    images = digits_dataset()[2][:20]
    np.savez(tmp_path / "c.npz", images=images)
    done = hwgen("quantize", "digits", "--calibration", "c.npz", "-o", "g", "--json")
    # Images 7 and 15: calibration has not seen them.
    assert (done.json["calibration_images"], done.json["quality_images"]) == (18, 2)
    np.savez(tmp_path / "c.npz", images=np.delete(images, [7, 15], axis=0)[:4])
    done = hwgen("quantize", "digits", "--calibration", "c.npz", "-o", "h", "--json")
    assert (done.json["calibration_images"], done.json["quality_images"]) == (4, 4)


def test_poor_calibration_and_accuracy_are_warned_of(hwgen: Command, tmp_path: Path) -> None:
    images = digits_dataset()[2][:20]
    images[3] = 7
    np.savez(tmp_path / "c.npz", images=images)
    done = hwgen(
        "quantize", "digits", "--calibration", "c.npz", "--weight-bits", "1", "-o", "g", "--json"
    )
    assert done.status == 0
    assert "1 of 18 images are constant" in done.json["warnings"][0]
    assert "below 15 dB" in done.json["warnings"][-1]
    assert all(f"warning: {warning}" in done.err for warning in done.json["warnings"])


def test_unknown_model_names_the_nearest(hwgen: Command) -> None:
    fails(hwgen("quantize", "diet_tiny", "-o", "g", "--json"), 1, "'diet_tiny'", "deit_tiny")


def test_known_model_without_checkpoint_is_wrong_usage(hwgen: Command) -> None:
    fails(hwgen("quantize", "deit_tiny", "-o", "g", "--json"), 2, "--checkpoint")


def test_missing_checkpoint(hwgen: Command, tmp_path: Path) -> None:
    fails(quantize(hwgen, tmp_path / "none.safetensors"), 1, "none.safetensors", "missing")


def test_tensors_missing_wrong_or_surplus(hwgen: Command, tmp_path: Path) -> None:
    state = digits_state()
    state["head.weight"] = np.zeros((10, 63), np.float32)
    state["surplus"] = np.zeros(1, np.float32)
    del state["blocks.2.mlp.fc1.bias"]
    write_safetensors(tmp_path / "c.safetensors", state, {})
    done = quantize(hwgen, tmp_path / "c.safetensors")
    fails(done, 1, "blocks.2.mlp.fc1.bias", "head.weight", "10x63", "10x64", "surplus")
    assert not (tmp_path / "g").exists()


def test_nan(hwgen: Command, tmp_path: Path) -> None:
    state = digits_state()
    weights = state["blocks.1.attn.qkv.weight"].copy()
    weights[3, 5] = np.nan
    state["blocks.1.attn.qkv.weight"] = weights
    write_safetensors(tmp_path / "c.safetensors", state, {})
    fails(quantize(hwgen, tmp_path / "c.safetensors"), 1, "NaN", "blocks.1.attn.qkv.weight")


@pytest.mark.parametrize("size", [0, 7, 100, 100_000])
def test_truncated(hwgen: Command, tmp_path: Path, size: int) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(DIGITS_CHECKPOINT.read_bytes()[:size])
    fails(quantize(hwgen, path), 1, "c.safetensors", "truncated")


HUGE = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}


def with_length(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ((1 << 62).to_bytes(8, "little"), ("header length",)),
        (with_length(b"[1]\n"), ("JSON object",)),
        (with_length(json.dumps({"x": HUGE}).encode()), ("must take",)),
        (with_length(b"[" * 5000), ("JSON",)),
    ],
)
def test_absurd_header(
    hwgen: Command, tmp_path: Path, header: bytes, words: tuple[str, ...]
) -> None:
    (tmp_path / "c.safetensors").write_bytes(header + bytes(4))
    fails(quantize(hwgen, tmp_path / "c.safetensors"), 1, *words)


class Canary:
    """Unpickling it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickle_payload_is_not_executed(hwgen: Command, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("torch", reason="reading .pt files needs torch")
    canary = tmp_path / "executed"
    path = tmp_path / f"c{suffix}"
    path.write_bytes(pickle.dumps({"model": Canary(str(canary))}))
    fails(quantize(hwgen, path), 1, str(path))
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists()  # the payload is alive: this test can fail


def test_calibration_of_another_size_is_refused(hwgen: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=np.zeros((2, 9, 8, 1), np.uint8))
    done = hwgen("quantize", "digits", "--calibration", "i.npz", "-o", "g", "--json")
    fails(done, 1, "[n, 8, 8, 1]", "not resized", "[2, 9, 8, 1]")
    done = hwgen("quantize", "digits", "--calibration", "none.npz", "-o", "g", "--json")
    fails(done, 2, "none.npz")


def test_output_that_cannot_be_written_is_refused_first(hwgen: Command) -> None:
    fails(hwgen("quantize", "digits", "-o", "no/such/folder/g", "--json"), 1, "no/such/folder/g")
    fails(hwgen("quantize", "digits", "-o", ".", "--json"), 1, "folder")


def test_output_that_is_no_file_is_refused(hwgen: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    fails(hwgen("quantize", "digits", "-o", "pipe", "--json"), 1, "pipe")
    fails(hwgen("quantize", "digits", "-o", "/dev/null", "--json"), 1, "/dev/null", "device")
    fails(hwgen("quantize", "digits", "-o", "/dev/full/g", "--json"), 1, "/dev/full")


def test_no_room_for_the_graph(tmp_path: Path) -> None:
    """The system refuses to let a file grow: as on a full disk, the write itself fails."""
    write_safetensors(tmp_path / "g", {}, {"hwgen.graph": "old"}, seal=True)
    old = (tmp_path / "g").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", WITH_SMALL_FILES, "quantize", "digits", "-o", "g", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large" in json.loads(done.stdout)["error"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"g": old}


#: The command line where no file may have more than 64 KiB; a graph of the digits has 180.
WITH_SMALL_FILES = """
import resource, sys
from hwgen.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
sys.exit(main())
"""


def test_the_softmax_is_chosen_by_name(hwgen: Command, tmp_path: Path) -> None:
    for options, expected in (
        ((), "fractional with 2 exponent fraction bits and 4 divider bits"),
        (
            ("--softmax", "fractional"),
            "fractional with 2 exponent fraction bits and 4 divider bits",
        ),
        (("--softmax", "sole"), "sole with slices of 32"),
        (("--softmax", "sole", "--softmax-lanes", 8), "sole with slices of 8"),
    ):
        done = hwgen("quantize", "digits", *options, "-o", "g", "--json", "--force")
        assert done.status == 0, done.err
        assert done.json["softmax"] == expected
        functions = {
            op.function for op in IntegerGraph.load(tmp_path / "g").ops if hasattr(op, "function")
        }
        assert {str(function) for function in functions} == {expected}
    fails(hwgen("quantize", "digits", "--softmax", "exact", "-o", "h", "--json"), 2, "--softmax")
    fails(
        hwgen("quantize", "digits", "--softmax-lanes", 8, "-o", "h", "--json"),
        *(2, "--softmax-lanes must be absent with the softmax fractional, not 8"),
    )
