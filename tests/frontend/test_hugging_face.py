# SPDX-License-Identifier: Apache-2.0
"""Folders that transformers writes: its own logits in float64 are the float model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.frontend.float_model import FloatModel
from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request, load

torch = pytest.importorskip("torch", reason="torch is not installed: no external reference")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: no external reference"
)

PLAIN: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "image_size": 24,
    "patch_size": 8,
    "num_labels": 7,
}
IMAGES = np.random.default_rng(6).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)


def make(folder: Path, shard: str | None, processor: dict[str, Any], **config: Any) -> np.ndarray:
    """Save a random ViT with its preprocessor; return its logits of IMAGES, float64."""
    torch.manual_seed(11)
    made = transformers.ViTConfig(**(PLAIN | config), attn_implementation="eager")
    model = transformers.ViTForImageClassification(made).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "layernorm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 2:
                parameter.copy_(noise * 2 / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    size = {"height": 24, "width": 24}
    prepare = transformers.ViTImageProcessor(size=size, **processor)
    prepare.save_pretrained(folder)
    pixels = prepare(images=list(IMAGES), return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        logits: np.ndarray = model.double()(pixels["pixel_values"].double()).logits.numpy()
    return logits


def read(folder: Path, model: str | None = None, checkpoint: Path | None = None) -> FloatModel:
    request = Request.of(model or str(folder), checkpoint=checkpoint)
    return load(request, Reporter(quiet=True)).model


OWN = {"image_mean": [0.2, 0.4, 0.6], "image_std": [0.9, 0.8, 0.7]}


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({}, {}),
        ({"layer_norm_eps": 0.05}, {}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {}),
        ({"hidden_act": "relu"}, {}),
        ({}, OWN),
        ({}, {"do_normalize": False}),
        ({"qkv_bias": False}, {}),
        ({"layer_norm_eps": 0.01, "hidden_act": "gelu_new", "qkv_bias": False}, OWN),
    ],
)
@pytest.mark.parametrize("shard", [None, "20KB"])
def test_the_folder_says_it_all(tmp_path, shard, config, processor):
    expected = make(tmp_path, shard, processor, **config)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard is not None)
    got = read(tmp_path).classify(IMAGES)
    assert expected.std() > 0.05
    scale = max(1, np.abs(expected).max())
    assert np.abs(got - expected).max() < 1e-5 * scale
    # A network with defaults is another one: these configurations are felt.
    if config or processor:
        for name in ("config.json", "preprocessor_config.json"):
            values = json.loads((tmp_path / name).read_text())
            for key in ("layer_norm_eps", "hidden_act", "image_mean", "image_std", "do_normalize"):
                values.pop(key, None)
            (tmp_path / name).write_text(json.dumps(values))
        if set(config) != {"qkv_bias"}:
            wrong = read(tmp_path).classify(IMAGES)
            assert np.abs(wrong - expected).max() > 1e-4 * scale


@pytest.mark.parametrize("what", ["folder", "weights", "index"])
def test_a_model_file_and_the_configuration_beside_the_weights(tmp_path, what):
    folder = tmp_path / "hf"
    expected = make(folder, "20KB" if what == "index" else None, OWN, layer_norm_eps=0.05)
    (tmp_path / "m.json").write_text(json.dumps({"name": "m", "heads": 3}))
    index = "model.safetensors.index.json"
    place = {"folder": folder, "weights": folder / "model.safetensors", "index": folder / index}
    model = read(folder, str(tmp_path / "m.json"), place[what])
    assert np.abs(model.classify(IMAGES) - expected).max() < 1e-4
    sources = {name: assumption.source for name, assumption in model.assumed.items()}
    assert sources["heads"] == "model file"
    assert sources["layer_norm_epsilon"] == "config.json"
    assert sources["mean"] == "preprocessor_config.json"


def test_weights_of_the_old_format(tmp_path):
    """``pytorch_model.bin``, as transformers wrote it before safetensors."""
    expected = make(tmp_path, None, OWN, layer_norm_eps=0.05)
    from safetensors.torch import load_file

    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert np.abs(read(tmp_path).classify(IMAGES) - expected).max() < 1e-4
