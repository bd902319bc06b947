# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on the command line: what is assumed is said, what is unclear is refused."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.graph.assumption import assumptions_from_json
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.models import DIGITS_CHECKPOINT

Command = Callable[..., Any]

SPEC = MODELS["digits"]
#: The model file of the digits with as little as the checkpoint leaves open.
MINIMAL = {
    "name": "mine",
    "image_size": 8,
    "channels": 1,
    "patch": 2,
    "width": 64,
    "depth": 4,
    "heads": 4,
    "mlp_hidden": 128,
    "classes": 10,
    "mean": [0.5],
    "std": [0.5],
}


def digits_state() -> dict[str, np.ndarray]:
    return read_safetensors(DIGITS_CHECKPOINT)[0]


def fails(done: Any, *words: str) -> str:
    assert done.status == 1, done.err
    error = done.json["error"]
    assert isinstance(error, str)
    for word in words:
        assert word in error, error
    return error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The digits' weights as a Hugging Face folder, in two shards; a model file beside it."""
    place = tmp_path / "hf"
    place.mkdir()
    state = digits_state()
    names = sorted(state)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map = {name: shards[i >= 20] for i, name in enumerate(names)}
    for shard in shards:
        part = {n: a for n, a in state.items() if weight_map[n] == shard}
        write_safetensors(place / shard, part, {})
    total = sum(array.nbytes for array in state.values())
    (place / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    (place / "config.json").write_text(
        json.dumps({"model_type": "vit", "layer_norm_eps": 1e-6, "hidden_act": "gelu"})
    )
    (place / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5], "image_std": [0.5], "size": 8})
    )
    model = {k: v for k, v in MINIMAL.items() if k not in ("mean", "std")}
    (tmp_path / "mine.json").write_text(json.dumps(model))
    return place


def quantize(hwgen: Command, model: object, *more: object) -> Any:
    return hwgen("quantize", model, "-o", "g", "--json", *more)


def test_assumed_of_the_embedded_model(hwgen: Command, tmp_path: Path) -> None:
    done = quantize(hwgen, "digits")
    assumed = done.json["assumed"]
    assert assumed["mean"] == {"value": [0.5], "source": "model table"}
    assert assumed["layer_norm_epsilon"] == {"value": 1e-6, "source": "model table"}
    assert assumed["norm_order"]["value"].startswith("pre-norm")
    assert set(assumed) == {
        *("image_size", "mean", "std", "heads", "head_dim", "activation", "layer_norm_epsilon"),
        *("crop_fraction", "resize_mode", "interpolation"),
        *("pooling", "norm_order", "attention_scale", "class_token_position", "qkv_layout"),
        "transposed",
    }
    graph = IntegerGraph.load(tmp_path / "g")
    assert graph.metadata.assumed == assumptions_from_json(assumed)
    shown = hwgen("quantize", "digits", "-o", "g").out
    assert "assumed mean" in shown
    assert "0.5 (model table)" in shown


def test_assumed_of_a_folder(hwgen: Command, folder: Path) -> None:
    done = quantize(hwgen, "mine.json", "--checkpoint", folder)
    assert done.status == 0, done.err
    assumed = done.json["assumed"]
    assert assumed["heads"] == {"value": 4, "source": "model file"}
    assert assumed["head_dim"] == {"value": 16, "source": "default"}
    assert assumed["layer_norm_epsilon"] == {"value": 1e-6, "source": "config.json"}
    assert assumed["activation"] == {"value": "gelu_erf", "source": "config.json"}
    assert assumed["mean"] == {"value": [0.5], "source": "preprocessor_config.json"}
    assert assumed["file"]["value"] == "model.safetensors.index.json"
    # The same weights and the same network as the embedded one's.
    assert done.json["checkpoint_digest"] == quantize(hwgen, "digits").json["checkpoint_digest"]


def test_the_index_and_the_weights_find_their_configuration(hwgen: Command, folder: Path) -> None:
    done = quantize(hwgen, "mine.json", "--checkpoint", folder / "model.safetensors.index.json")
    assert done.json["assumed"]["mean"]["source"] == "preprocessor_config.json"
    shard = folder / "model-00001-of-00002.safetensors"
    fails(quantize(hwgen, "mine.json", "--checkpoint", shard), "one of 2 shards", "index.json")


def test_a_contradiction_is_refused(hwgen: Command, folder: Path, tmp_path: Path) -> None:
    model = json.loads((tmp_path / "mine.json").read_text()) | {"layer_norm_epsilon": 1e-5}
    (tmp_path / "mine.json").write_text(json.dumps(model))
    done = quantize(hwgen, "mine.json", "--checkpoint", folder)
    fails(done, "layer_norm_epsilon", "mine.json says", "1e-05", "layer_norm_eps = 1e-06")
    (folder / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-12}))
    fails(quantize(hwgen, "digits", "--checkpoint", folder), "model table says", "1e-12", "MODEL")
    assert not (tmp_path / "g").exists()


def test_a_post_norm_network_with_the_same_names(hwgen: Command, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"norm_first": False}))
    done = quantize(hwgen, "mine.json", "--checkpoint", folder)
    fails(done, "config.json", "post-norm", "norm_first is false")


def test_the_configuration_changes_the_network(hwgen: Command, folder: Path) -> None:
    before = quantize(hwgen, "mine.json", "--checkpoint", folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": 0.1, "image_std": 1})
    )
    after = quantize(hwgen, "mine.json", "--checkpoint", folder)
    assert (before.status, after.status) == (0, 0)
    assert after.json["assumed"]["mean"]["value"] == [0.1]
    assert before.json["logit_sqnr_db"] != after.json["logit_sqnr_db"]


def test_prefixes(hwgen: Command, tmp_path: Path) -> None:
    state = {f"module._orig_mod.{n}": a for n, a in digits_state().items()}
    write_safetensors(tmp_path / "c.safetensors", state, {})
    done = quantize(hwgen, "digits", "--checkpoint", "c.safetensors")
    assert done.json["assumed"]["prefix"]["value"] == "module._orig_mod."
    write_safetensors(tmp_path / "c.safetensors", {**state, "loss": np.ones(1, np.float32)}, {})
    error = fails(quantize(hwgen, "digits", "--checkpoint", "c.safetensors"), "prefix")
    assert "--container module._orig_mod" in error
    option = ("--container", "module._orig_mod")
    done = quantize(hwgen, "digits", "--checkpoint", "c.safetensors", *option)
    assert done.status == 0, done.err
    assert any("not read: loss" in note for note in done.json["notes"])


def test_several_state_dicts(hwgen: Command, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="reading .pt files needs torch")
    state = {n: torch.tensor(a) for n, a in digits_state().items()}
    average = {n: 1.01 * t for n, t in state.items()}
    torch.save({"model": state, "model_ema": average, "epoch": 3}, tmp_path / "c.pth")
    digests = []
    fails(quantize(hwgen, "digits", "--checkpoint", "c.pth"), "model, model_ema", "--container")
    for key in ("model", "model_ema"):
        done = quantize(hwgen, "digits", "--checkpoint", "c.pth", "--container", key)
        assert done.status == 0, done.err
        assert done.json["assumed"]["container"] == {"value": key, "source": "option --container"}
        digests.append(done.json["checkpoint_digest"])
    assert digests[0] == quantize(hwgen, "digits").json["checkpoint_digest"] != digests[1]
    torch.save({"model": state, "epoch": 3}, tmp_path / "c.pth")
    done = quantize(hwgen, "digits", "--checkpoint", "c.pth")
    assert done.json["assumed"]["container"]["value"] == "model"


def test_another_head_says_what_to_write(hwgen: Command, tmp_path: Path) -> None:
    state = digits_state()
    state["head.weight"], state["head.bias"] = state["head.weight"][:7], state["head.bias"][:7]
    write_safetensors(tmp_path / "c.safetensors", state, {})
    error = fails(
        quantize(hwgen, "digits", "--checkpoint", "c.safetensors"), '"classes": 7 (not 10)'
    )
    (tmp_path / "m.json").write_text(error.partition("a model file that fits is ")[2])
    done = quantize(hwgen, "m.json", "--checkpoint", "c.safetensors")
    assert done.status == 0, done.err
    assert done.json["assumed"]["heads"] == {"value": 4, "source": "model file"}


def test_a_graph_of_the_version_before(hwgen: Command, tmp_path: Path) -> None:
    assert quantize(hwgen, "digits").status == 0
    data = (tmp_path / "g").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = re.sub(rb'(\\"schema_version\\":)\d+', rb"\g<1>1", data[8 : 8 + length])
    assert header != data[8 : 8 + length]
    (tmp_path / "old").write_bytes(data[:8] + header + data[8 + length :])
    fails(hwgen("generate", "old", "-o", "out", "--json"), "made by version 1: quantise again")
    assert not (tmp_path / "out").exists()


# --expect

IMAGES = digits_dataset()[2][:12]


@pytest.fixture
def logits() -> np.ndarray:
    return FloatModel.from_state_dict(SPEC, load_checkpoint(DIGITS_CHECKPOINT)).classify(IMAGES)


def test_expected_logits(hwgen: Command, tmp_path: Path, logits: np.ndarray) -> None:
    np.savez(tmp_path / "l.npz", logits=logits.astype(np.float32), images=IMAGES)
    done = quantize(hwgen, "digits", "--expect", "l.npz")
    assert done.status == 0, done.err
    found = done.json["expect"]
    assert found["images"] == 12
    assert found["top1_agreement"] == 1
    assert 0 < found["max_abs_difference"] < 1e-5 < found["bound"]
    assert found["sqnr_db"] > 120
    assert "float model against l.npz: largest difference" in done.err
    # On the calibration images, where the file has none.
    np.savez(tmp_path / "l.npz", logits=logits)
    np.savez(tmp_path / "i.npz", images=IMAGES)
    done = quantize(hwgen, "digits", "--expect", "l.npz", "--calibration", "i.npz")
    assert done.json["expect"]["images"] == 12
    assert done.json["expect"]["sqnr_db"] is None
    fails(quantize(hwgen, "digits", "--expect", "l.npz"), "a row for each image", "256", "not 12")


def test_logits_of_another_preprocessing(
    hwgen: Command, tmp_path: Path, logits: np.ndarray
) -> None:
    """The weights of the digits, their logits, but a model file with another mean."""
    np.savez(tmp_path / "l.npz", logits=logits, images=IMAGES)
    (tmp_path / "m.json").write_text(json.dumps(MINIMAL | {"mean": [0.45]}))
    arguments = ("--checkpoint", DIGITS_CHECKPOINT, "--expect", "l.npz")
    done = quantize(hwgen, "m.json", *arguments)
    fails(done, "l.npz", "first at image 0", "mean = 0.45 (model file)", "heads = 4 (model file)")
    values = done.json
    assert values["assumed"]["mean"] == {"value": [0.45], "source": "model file"}
    assert values["expect"]["max_abs_difference"] > values["expect"]["bound"]
    assert values["expect"]["first_difference"]["image"] == 0
    assert not (tmp_path / "g").exists()
    done = hwgen("run", "m.json", *arguments, "--json")
    fails(done, "first at image 0")
    assert not (tmp_path / "rtl_out").exists()


@pytest.mark.parametrize("verb", [("quantize", "digits", "-o", "g"), ("run",)])
def test_expected_logits_that_are_none(
    hwgen: Command, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    assert hwgen(*verb, "--expect", "none.npz", "--json").status == 2
    np.savez(tmp_path / "l.npz", logits=np.zeros((2, 9)))
    fails(hwgen(*verb, "--expect", "l.npz", "--json"), "floats [n, 10]", "[2, 9]")
