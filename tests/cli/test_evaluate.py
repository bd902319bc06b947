# SPDX-License-Identifier: Apache-2.0
"""``hwgen evaluate``: its numbers, folders of any size, and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.frontend.images import digits_dataset
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run
from hwgen.models import DIGITS_CHECKPOINT

Command = Callable[..., Any]

_, _, IMAGES, LABELS = digits_dataset()
TIMES = {"seconds", "images_per_second", "images_computed"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluation"


def numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def test_the_numbers_are_those_of_the_graph(call: Command, graph: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=IMAGES, labels=LABELS)
    done = call(
        "evaluate", graph, "--images", "i.npz", "--checkpoint", DIGITS_CHECKPOINT, "-o", "p.json"
    )
    assert done.status == 0, done.err
    logits = run(IntegerGraph.load(tmp_path / graph), IMAGES).astype(int)
    order = np.argsort(-logits, axis=1, kind="stable")
    found = done.json
    assert found["images"] == found["images_computed"] == len(IMAGES)
    assert found["top1"] == np.mean(order[:, 0] == LABELS) > 0.9
    assert found["top5"] == np.mean((order[:, :5] == LABELS[:, None]).any(axis=1))
    assert found["top5"] > found["top1"] and found["top1_float"] > 0.9
    assert 0.95 < found["agreement"] <= 1
    assert found["logit_sqnr_db"] == found["layer_sqnr_db"]["head"] > 20
    assert found["layer_sqnr_db"]["embedding"] > 40
    assert set(found["softmax_mass"]) == {f"blocks.{i}.softmax" for i in range(4)}
    assert found["images_per_second"] > 0
    rows = json.loads((tmp_path / "p.json").read_text())["predictions"]
    assert [row["classes"] for row in rows] == order[:, :5].tolist()
    assert [row["label"] for row in rows] == LABELS.tolist()
    same = np.mean([row["classes"][0] == row["classes_float"][0] for row in rows])
    assert found["agreement"] == same
    # Nothing that hwgen did not write is replaced; its own file is.
    assert call("evaluate", graph, "--images", "i.npz", "-o", "p.json").status == 0
    (tmp_path / "p.json").write_text("{}")
    assert call("evaluate", graph, "--images", "i.npz", "-o", "p.json").status == 1


def test_without_a_checkpoint_the_integer_keys_only(
    call: Command, graph: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "i.npz", images=IMAGES[:30], labels=LABELS[:30])
    found = call("evaluate", graph, "--images", "i.npz").json
    assert {"top1", "top5", "images", "images_per_second"} < set(found)
    for key in ("top1_float", "agreement", "logit_sqnr_db", "layer_sqnr_db"):
        assert key not in found
    np.savez(tmp_path / "i.npz", images=IMAGES[:30])
    assert "top1" not in call("evaluate", graph, "--images", "i.npz").json


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES[:, :6]}, "must be uint8 [n, 8, 8, 1]"),
        ({"images": IMAGES[:0]}, "at least one image"),
        ({"pictures": IMAGES}, "must hold an array 'images', not pictures"),
        ({"images": IMAGES[:3], "labels": LABELS[:2]}, "labels must be integers [3]"),
        ({"images": np.asfortranarray(IMAGES[:3])}, "stored in C order"),
    ],
)
def test_bad_archives(
    call: Command, graph: str, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "i.npz", **arrays)
    done = call("evaluate", graph, "--images", "i.npz")
    assert done.status == 1
    assert message in done.json["error"]


def test_a_damaged_archive_ends_with_one_line(call: Command, graph: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=IMAGES)
    data = bytearray((tmp_path / "i.npz").read_bytes())
    data[4000] ^= 1
    (tmp_path / "i.npz").write_bytes(data)
    done = call("evaluate", graph, "--images", "i.npz")
    assert done.status == 1
    assert "must be a readable .npz archive" in done.json["error"]


def test_a_folder_is_resized_and_cropped_as_the_graph_says(
    call: Command, graph: str, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pictures = []
    for number in range(10):
        folder = tmp_path / "set" / str(number)
        folder.mkdir(parents=True)
        big = np.kron(IMAGES[number, :, :, 0], np.ones((4, 5), np.uint8))  # 32 x 40
        pillow.fromarray(big).save(folder / "x.png")
        # The shortest edge to 10, floor(8 / 0.8), then the centre.
        small = pillow.fromarray(big).resize((12, 10), pillow.Resampling.BILINEAR)
        pictures.append(np.asarray(small)[1:9, 2:10, None])
    network = IntegerGraph.load(tmp_path / graph)
    spec = replace(network.spec, crop_fraction=0.8, interpolation="bilinear")
    replace(network, spec=spec).save(tmp_path / "resized")
    done = call("evaluate", "resized", "--images", "set", "-o", "p.json")
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "p.json").read_text())["predictions"]
    expected = np.argsort(-run(network, np.stack(pictures)).astype(int), axis=1, kind="stable")
    assert [row["classes"] for row in rows] == expected[:, :5].tolist()
    assert [row["file"] for row in rows] == [f"{n}/x.png" for n in range(10)]
    assert done.json["top1"] == np.mean(expected[:, 0] == np.arange(10))
    # What is stretched is not what is cut.
    replace(network, spec=replace(spec, resize_mode="stretch")).save(tmp_path / "stretched")
    other = call("evaluate", "stretched", "--images", "set", "-o", "q.json")
    assert other.status == 0
    stretched = json.loads((tmp_path / "q.json").read_text())["predictions"]
    assert [row["classes"] for row in stretched] != [row["classes"] for row in rows]
    # Never resized: refused.
    replace(network, spec=replace(spec, resize_mode="none")).save(tmp_path / "as_it_is")
    refused = call("evaluate", "as_it_is", "--images", "set")
    assert refused.status == 1
    assert "must be 8x8 pixels" in refused.json["error"]


def test_other_weights_are_told(call: Command, graph: str, tmp_path: Path) -> None:
    from hwgen.graph.safetensors_file import read_safetensors, write_safetensors

    state = read_safetensors(DIGITS_CHECKPOINT)[0]
    state["head.bias"] = state["head.bias"] + 1
    write_safetensors(tmp_path / "c.safetensors", state, {})
    np.savez(tmp_path / "i.npz", images=IMAGES[:30])
    done = call("evaluate", graph, "--images", "i.npz", "--checkpoint", "c.safetensors")
    assert done.status == 0
    assert "other weights than the graph was made of" in done.err


def test_a_killed_run_goes_on_with_the_same_numbers(
    hwgen: Command, graph: str, tmp_path: Path, own_cache: Path
) -> None:
    copies = 12
    np.savez(
        tmp_path / "i.npz",
        images=np.concatenate([np.roll(IMAGES, k, axis=2) for k in range(copies)]),
        labels=np.tile(LABELS, copies),
    )
    command = ["evaluate", graph, "--images", "i.npz", "--checkpoint", str(DIGITS_CHECKPOINT)]
    whole = hwgen(*command, "-o", "whole.json", "--json")
    assert whole.status == 0
    assert not list(own_cache.iterdir())
    rng = random.Random(time.time_ns())
    known = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "hwgen", *command, "-o", "parts.json", "--json"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and _lines(own_cache) <= known:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        known = _lines(own_cache)
    assert 0 < known < copies * len(IMAGES)
    journal = next(own_cache.iterdir())
    with journal.open("ab") as stream:  # killed while it wrote
        stream.write(b'{"start": 12345, "sums"')
    done = hwgen(*command, "-o", "parts.json", "--json")
    assert done.status == 0
    assert "images are known from a run before" in done.err
    assert 0 < done.json["images_computed"] < whole.json["images_computed"]
    expected = numbers(whole.json) | {"predictions": "parts.json"}
    assert numbers(done.json) == expected
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(own_cache.iterdir())


def _lines(folder: Path) -> int:
    if not folder.exists():
        return 0
    return sum(path.read_bytes().count(b"\n") for path in folder.iterdir())


def test_other_images_are_another_evaluation(
    call: Command, graph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "i.npz", images=IMAGES, labels=LABELS)
    monkeypatch.setattr("hwgen.stages.evaluate.Path.unlink", lambda *_, **__: None)
    first = call("evaluate", graph, "--images", "i.npz").json
    again = call("evaluate", graph, "--images", "i.npz").json
    assert again["images_computed"] == 0 and again["images_per_second"] is None
    assert numbers(first) == numbers(again)
    os.utime(tmp_path / "i.npz", ns=(1, 1))
    assert call("evaluate", graph, "--images", "i.npz").json["images_computed"] == len(IMAGES)
