# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import CheckpointError
from hwgen.frontend import random_weights
from hwgen.frontend.float_model import FloatModel, activation, erf

from .networks import SPEC, hugging_face, random_state, torch_forward


@pytest.mark.parametrize("kind", ["gelu_erf", "gelu_tanh"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_hugging_face(kind, dtype):
    spec = replace(SPEC, activation=kind)
    torch, reference = hugging_face(spec)
    images = np.random.default_rng(1).standard_normal((3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).logits.numpy()
    state = {n: t.numpy() for n, t in reference.state_dict().items()}
    model = FloatModel.from_state_dict(spec, state)
    got = model.forward(images, dtype=dtype)
    assert expected.std() > 0.5
    assert np.abs(got - expected).max() < 1e-4


def test_old_hugging_face_names_give_the_same_model():
    _, reference = hugging_face(SPEC)
    state = {n: t.numpy() for n, t in reference.state_dict().items()}
    rename = {
        "vit.layers.": "vit.encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    old = {}
    for name, array in state.items():
        for new_part, old_part in rename.items():
            name = name.replace(new_part, old_part)
        old[name] = array
    old["vit.pooler.dense.weight"] = np.zeros((48, 48), np.float32)
    new_model = FloatModel.from_state_dict(SPEC, state)
    old_model = FloatModel.from_state_dict(SPEC, old)
    for name in new_model.tensors:
        assert np.array_equal(new_model.tensors[name], old_model.tensors[name]), name
    assert any("vit.pooler.dense.weight" in note for note in old_model.notes)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pooling": "mean"},
        {"pooling": "mean", "class_token": False},
        {"qkv_bias": False, "activation": "relu"},
        {"head_dim": 32, "channels": 1, "mean": (0.4,), "std": (0.3,)},
    ],
)
@pytest.mark.parametrize("layer_scale", [False, True])
def test_timm_names_pooling_and_layer_scale(change, layer_scale):
    spec = replace(SPEC, **change)
    state = random_state(spec)
    if layer_scale:
        rng = np.random.default_rng(9)
        for i in range(spec.depth):
            for ls in ("ls1", "ls2"):
                gamma = rng.standard_normal(spec.width).astype(np.float32)
                state[f"blocks.{i}.{ls}.gamma"] = gamma
    images = np.random.default_rng(2).standard_normal((2, 32, 32, spec.channels))
    images = images.astype(np.float32)
    expected = torch_forward(spec, state, images)
    got = FloatModel.from_state_dict(spec, state).forward(images)
    assert np.abs(got - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


def test_preprocess_normalises_per_channel():
    spec = replace(SPEC, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    model = FloatModel.from_state_dict(spec, random_state(spec))
    pixels = np.full((1, 32, 32, 3), 51, np.uint8)  # 0.2
    assert np.allclose(model.preprocess(pixels)[0, 0, 0], [0.2, 0.0, -0.05])


def test_taps_name_every_boundary():
    model = FloatModel.from_state_dict(SPEC, random_state(SPEC))
    seen = {}
    model.forward(np.zeros((1, 32, 32, 3)), tap=lambda n, a: seen.setdefault(n, a.shape))
    assert seen["blocks.2.logits"] == (1, 3, 17, 17)
    assert seen["blocks.0.gelu"] == (1, 17, 96)
    assert seen["norm"] == (1, 1, 48)
    assert len(seen) == 1 + 12 * 3 + 3


def test_erf_against_the_c_library():
    import math

    x = np.linspace(-6, 6, 4001)
    assert np.abs(erf(x) - [math.erf(v) for v in x]).max() < 2e-7
    assert activation("gelu_erf", np.array([0.0]))[0] == 0


def refused(change, match):
    state = random_state(SPEC)
    change(state)
    with pytest.raises(CheckpointError, match=match):
        FloatModel.from_state_dict(SPEC, state)


def test_missing_tensor_is_named():
    refused(lambda s: s.pop("blocks.1.mlp.fc1.bias"), r"missing: blocks\.1\.mlp\.fc1\.bias")


def test_unexpected_tensor_is_named():
    refused(
        lambda s: s.update({"blocks.3.norm1.weight": np.ones(48, np.float32)}),
        r"not part of the model: blocks\.3\.norm1\.weight",
    )


def test_wrong_shape_is_named():
    refused(
        lambda s: s.update({"head.bias": np.ones(12, np.float32)}),
        r"head\.bias has 12, must have 11",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_named(value):
    def change(state):
        state["norm.bias"][7] = value

    refused(change, r"NaN or infinity in: norm\.bias")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("head_dist.weight", "distillation head"),
        ("dist_token", "distillation token"),
        ("fc_norm.weight", "fc_norm"),
        ("blocks.0.attn.q_norm.weight", "normalised queries"),
    ],
)
def test_unsupported_variants_are_refused(name, match):
    refused(lambda s: s.update({name: np.ones(3, np.float32)}), match)


def test_name_map_and_linear_patch_embedding():
    spec = replace(SPEC, name_map=(("blocks.{i}.norm1.weight", "layers.{i}.0.norm.weight"),))
    state = random_state(SPEC)
    theirs = {
        n.replace("blocks.", "layers.").replace(".norm1.weight", ".0.norm.weight")
        if n.endswith("norm1.weight")
        else n: a
        for n, a in state.items()
    }
    kernel = theirs["patch_embed.proj.weight"]
    theirs["patch_embed.proj.weight"] = kernel.transpose(0, 2, 3, 1).reshape(48, -1)
    model = FloatModel.from_state_dict(spec, theirs)
    for name, array in state.items():
        assert np.array_equal(model.tensors[name], array), name
    del theirs["layers.2.0.norm.weight"]
    with pytest.raises(CheckpointError, match=r"layers\.2\.0\.norm\.weight"):
        FloatModel.from_state_dict(spec, theirs)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_random_weights_fit_the_model(qkv_bias: bool) -> None:
    spec = replace(SPEC, qkv_bias=qkv_bias)
    state = random_weights.random_state(spec, 0)
    assert ("blocks.0.attn.qkv.bias" in state) == qkv_bias
    assert set(FloatModel.from_state_dict(spec, state).tensors) == set(state)
