# SPDX-License-Identifier: Apache-2.0
"""config.json and preprocessor_config.json beside a checkpoint: taken, contradicted, or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import CheckpointError, FormatError, HwgenError, ModelError
from hwgen.frontend.describe import describe
from hwgen.frontend.models import ALIASES, RECIPES, get_model
from hwgen.frontend.statements import Described

#: As transformers writes it.
VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "hidden_dropout_prob": 0.0,
    "torch_dtype": "float32",
}
MODEL = {"name": "m", "width": 32, "depth": 2, "heads": 4, "mlp_hidden": 64, "patch": 4}


def told(
    folder: Path, config: object = None, preprocessor: object = None, model: object = MODEL
) -> Described:
    """What a model file and the files beside a checkpoint say together."""
    for name, values in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        if values is not None:
            text = values if isinstance(values, str) else json.dumps(values)
            (folder / name).write_text(text)
    (folder / "m.json").write_text(json.dumps(model))
    return describe(str(folder / "m.json"), folder)


def test_what_the_model_file_leaves_out_is_taken_from_config(tmp_path):
    found = told(tmp_path, VIT)
    spec = found.spec
    assert (spec.image_size, spec.classes, spec.layer_norm_epsilon) == (16, 3, 1e-12)
    assert (spec.pooling, spec.class_token, spec.head_dim) == ("class_token", True, 8)
    assert found.sources["heads"] == "model file"
    assert found.sources["layer_norm_epsilon"] == "config.json"
    assert "mean" not in found.sources  # a default


def test_a_model_file_needs_no_more_than_a_name(tmp_path):
    found = told(tmp_path, VIT, model={"name": "m"})
    assert (found.spec.width, found.spec.heads) == (32, 4)
    with pytest.raises(
        ModelError, match="fields width, depth, heads and mlp_hidden must be stated"
    ):
        told(tmp_path, {"layer_norm_eps": 1e-5}, model={"name": "m"})


@pytest.mark.parametrize(
    ("config", "key", "ours", "theirs"),
    [
        ({"layer_norm_eps": 1e-3}, "layer_norm_epsilon", "1e-06", "layer_norm_eps = 0.001"),
        ({"num_attention_heads": 2}, "heads", "4", "num_attention_heads = 2"),
        ({"hidden_act": "relu"}, "activation", '"gelu_erf"', 'hidden_act = "relu"'),
        ({"image_size": 32}, "image_size", "16", "image_size = 32"),
        ({"image_size": [32, 32]}, "image_size", "16", "image_size = 32"),
        ({"qkv_bias": False}, "qkv_bias", "true", "qkv_bias = false"),
        ({"id2label": {"0": "x", "1": "y"}}, "classes", "3", "id2label (its entries) = 2"),
        ({"model_type": "vit"}, "pooling", '"mean"', 'pooling by its model_type = "class_token"'),
    ],
)
def test_a_contradiction_names_key_values_and_remedy(tmp_path, config, key, ours, theirs):
    model = MODEL | {"image_size": 16, "classes": 3, "layer_norm_epsilon": 1e-6}
    model |= {"activation": "gelu_erf", "qkv_bias": True, "pooling": "mean"}
    with pytest.raises(ModelError) as caught:
        told(tmp_path, config, model=model)
    said = str(caught.value)
    assert f"'{key}' must be the same wherever it is said" in said
    assert f"m.json says {key} = {ours}, but " in said
    assert f"config.json says {theirs}" in said
    assert "correct the model file, or leave the key out of it" in said


def test_a_contradiction_of_the_table(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-12}))
    with pytest.raises(ModelError, match=r"model table says .* 1e-06, but .*config\.json .*MODEL"):
        describe("deit_tiny", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-6}))
    assert describe("deit_tiny", tmp_path).spec == get_model("deit_tiny")


def test_numbers_that_went_through_float32_are_equal(tmp_path):
    mean = {"image_mean": [0.4850000143051147, 0.4560000002384186, 0.4059999883174896]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(mean))
    assert describe("deit_tiny", tmp_path).spec == get_model("deit_tiny")


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_activations(tmp_path, name):
    assert told(tmp_path, VIT | {"hidden_act": name}).spec.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act must be one of .*not 'quick_gelu'"),
        ({"hidden_act": "silu"}, "hidden_act must be one of .*not 'silu'"),
        ({"model_type": "dinov2"}, "model_type must be one of vit, .*not 'dinov2'"),
        ({"model_type": "vit_mae"}, "model_type must be one of"),
        ({"image_size": [16, 32]}, "image_size must be square, not 16 x 32"),
        ({"patch_size": "4"}, "patch_size must be"),
        ({"hidden_size": 32.5}, "hidden_size must be an integer"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"hidden_size": 1 << 40}, "config.json: Model field 'width' must be"),
        ({"norm_first": False}, "post-norm"),
        ({"layer_norm_first": False}, "post-norm"),
        ({"layernorm_first": False}, "post-norm"),
        ({"do_layer_norm_before": False}, "post-norm"),
        ({"post_norm": True}, "post-norm"),
        ({"use_post_norm": "true"}, "post-norm"),
        ({"encoder": {"layers": {"norm_first": False}}}, "post-norm"),
        ({"norm_order": "post-norm"}, "post-norm"),
        ({"norm_placement": "sandwich"}, "before and after the branches"),
        ({"qk_norm": True}, "qk-norm"),
        ({"use_relative_position_bias": True}, "relative position"),
        ({"use_swiglu_ffn": True}, "SwiGLU"),
        ({"num_register_tokens": 4}, "register tokens"),
        ({"parallel_block": True}, "in parallel"),
        ({"use_absolute_position_embeddings": False}, "no learned position"),
    ],
)
def test_other_networks_are_refused_whatever_their_tensors(tmp_path, change, match):
    with pytest.raises(HwgenError, match=match) as caught:
        told(tmp_path, VIT | change, model={"name": "m"})
    assert "config.json" in str(caught.value)


def test_what_says_a_plain_network_is_no_obstacle(tmp_path):
    plain = {"norm_first": True, "post_norm": False, "qk_norm": False, "num_register_tokens": 0}
    assert told(tmp_path, VIT | plain).spec == told(tmp_path, VIT).spec


def test_a_model_file_that_says_post_norm(tmp_path):
    with pytest.raises(CheckpointError, match=r"m\.json: .*post-norm.*norm_first is false"):
        told(tmp_path, model=MODEL | {"norm_first": False})


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "must be JSON"),
        ("[1]", "must hold one JSON object, not a list; .*move it away"),
        ('{"a": NaN}', "Numbers must be finite"),
        ('{"a": 1, "a": 2}', "must stand once"),
        ("[" * 100_000, "nested at most"),
        ('{"x": "' + "y" * (1 << 24) + '"}', "at most"),
    ],
    ids=lambda value: value[:8],
)
def test_files_that_are_no_configuration(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=match) as caught:
        told(tmp_path)
    assert name in str(caught.value)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FormatError, match="regular"):
        told(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("gone.json")
    with pytest.raises(FormatError, match="readable"):
        told(tmp_path)


def test_a_foreign_configuration_is_said_not_to_count(tmp_path):
    found = told(tmp_path, {"editor": "tabs"}, {})
    assert found.notes == (
        "config.json beside the weights says nothing that is known here",
        "preprocessor_config.json beside the weights says nothing that is known here",
    )


# preprocessor_config.json

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"image_mean": MEAN, "image_std": STD}, MEAN, STD),
        ({"image_mean": 0.5, "image_std": 0.25}, [0.5] * 3, [0.25] * 3),
        ({"do_normalize": False, "image_mean": MEAN, "image_std": STD}, [0.0] * 3, [1.0] * 3),
        # 2 p / 255 - 1 = (p / 255 - 0.5) / 0.5
        (
            {"rescale_factor": 2 / 255, "image_mean": [1] * 3, "image_std": [1] * 3},
            [0.5] * 3,
            [0.5] * 3,
        ),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3},
            [0.5] * 3,
            [0.2] * 3,
        ),
        (
            {"do_rescale": True, "rescale_factor": 0.00392156862745098, "image_mean": MEAN},
            MEAN,
            [0.5] * 3,
        ),
    ],
)
def test_mean_and_std(tmp_path, values, mean, std):
    found = told(tmp_path, VIT, values)
    assert found.spec.mean == pytest.approx(tuple(mean), abs=1e-15)
    assert found.spec.std == pytest.approx(tuple(std), abs=1e-15)
    assert found.sources["mean"] == "preprocessor_config.json"


@pytest.mark.parametrize(
    ("values", "resizing"),
    [
        # As transformers' ViTs, DeiTs and CLIP-like processors write it.
        ({"size": {"height": 16, "width": 16}, "resample": 2}, (16, "stretch", "bilinear")),
        ({"size": 16, "resample": 3}, (16, "stretch", "bicubic")),
        (
            {"size": {"height": 19, "width": 19}, "do_center_crop": True, "crop_size": 16},
            (19, "stretch", "bicubic"),
        ),
        (
            {"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": 16},
            (18, "shortest", "bicubic"),
        ),
        ({"do_resize": False, "size": 99}, (16, "none", "bicubic")),
        ({"resample": 1}, (16, "shortest", "lanczos")),
    ],
)
def test_resizing(tmp_path, values, resizing):
    found = told(tmp_path, VIT, values).spec
    assert (found.resize_to, found.resize_mode, found.interpolation) == resizing


def test_resizing_of_the_weights_overrides_the_table(tmp_path):
    assert get_model("deit_tiny").resize_to == 248  # timm's crop_pct, 0.9
    assert get_model("vit_base_patch16_384").resize_to == 384
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224}
        )
    )
    found = describe("deit_tiny", tmp_path)
    assert (found.spec.resize_to, found.spec.resize_mode) == (256, "stretch")
    assert found.sources["crop_fraction"] == "preprocessor_config.json"
    assert found.sources["interpolation"] == "model table"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"size": 16, "resample": 5}, r"resample must be one of 0, 1, 2, 3 .*, not 5"),
        (
            {"size": 12, "do_center_crop": True, "crop_size": 16},
            "size must be at least the crop_size 16, not 12",
        ),
    ],
)
def test_resizing_that_cannot_be(tmp_path, values, match):
    with pytest.raises(ModelError, match=match):
        told(tmp_path, VIT, values)


def test_channels_of_the_model_file_count(tmp_path):
    model = MODEL | {"channels": 1, "mean": [0.0], "std": [1.0]}
    found = told(tmp_path, None, {"do_normalize": False}, model)
    assert found.spec.mean == (0.0,)


@pytest.mark.parametrize(
    ("values", "side"),
    [
        ({"size": 16}, 16),
        ({"size": {"height": 16, "width": 16}}, 16),
        (
            {
                "size": {"shortest_edge": 20},
                "crop_size": {"height": 16, "width": 16},
                "do_center_crop": True,
            },
            16,
        ),
        ({"size": {"shortest_edge": 20}}, 16),
        ({"size": 20, "do_resize": False}, 16),
    ],
)
def test_image_size(tmp_path, values, side):
    assert told(tmp_path, VIT, values).spec.image_size == side


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"size": 32}, r"config\.json says image_size = 16, but .*preprocessor.* says size = 32"),
        ({"size": {"height": 16, "width": 32}}, "size must be square"),
        ({"image_mean": [0.5]}, None),
        ({"image_mean": [0.5, 0.5]}, r"preprocessor_config\.json: .*'mean' must be 3 numbers"),
        ({"image_std": [0, 1, 1]}, r"'std' must be positive"),
        ({"image_mean": "0.5"}, "image_mean must be"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order must be false"),
    ],
)
def test_preprocessors_that_do_not_fit(tmp_path, values, match):
    if match is None:
        assert told(tmp_path, VIT, values).spec.mean == (0.5,) * 3
        return
    with pytest.raises(HwgenError, match=match):
        told(tmp_path, VIT, values)


# timm

TIMM: dict[str, Any] = {
    "architecture": "vit_small_patch16_224",
    "num_classes": 10,
    "num_features": 384,
    "global_pool": "token",
    "pretrained_cfg": {
        "tag": "dino",
        "input_size": [3, 224, 224],
        "mean": MEAN,
        "std": STD,
        "first_conv": "patch_embed.proj",
    },
}


def test_timm(tmp_path):
    found = told(tmp_path, TIMM, model={"name": "m"})
    assert found.spec.mean == tuple(MEAN)
    assert (found.spec.width, found.spec.heads, found.spec.classes) == (384, 6, 10)
    with pytest.raises(ModelError, match=r"'mean' must be the same .*pretrained_cfg\.mean"):
        describe("vit_small", tmp_path)


def test_resizing_of_timm(tmp_path):
    weights = TIMM["pretrained_cfg"] | {"crop_pct": 0.875, "interpolation": "bilinear"}
    found = told(tmp_path, TIMM | {"pretrained_cfg": weights}, model={"name": "m"}).spec
    found = (found.resize_to, found.resize_mode, found.interpolation)
    assert found == (256, "shortest", "bilinear")
    squash = TIMM | {"pretrained_cfg": weights | {"crop_mode": "squash"}}
    assert told(tmp_path, squash, model={"name": "m"}).spec.resize_mode == "stretch"
    border = TIMM | {"pretrained_cfg": weights | {"crop_mode": "border"}}
    with pytest.raises(ModelError, match=r"crop_mode must be one of center, squash, not 'border'"):
        told(tmp_path, border, model={"name": "m"})


def test_arguments_of_timm(tmp_path):
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3}
    arguments |= {"act_layer": "gelu_tanh", "drop_path_rate": 0.1, "pre_norm": False}
    found = told(tmp_path, TIMM | {"model_args": arguments}, model={"name": "m"})
    spec = found.spec
    assert (spec.image_size, spec.patch, spec.width, spec.depth) == (32, 8, 96, 3)
    assert (spec.heads, spec.head_dim, spec.mlp_hidden) == (3, 32, 384)
    assert spec.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"architecture": "vit_base_patch16_rpn_224"}, "architecture must be one of .*rpn"),
        ({"architecture": "vit_base_patch32_clip_quickgelu_224"}, "architecture must be one of"),
        ({"global_pool": "map"}, "global_pool must be one of token, avg, not 'map'"),
        ({"model_args": {"qk_norm": True}}, "qk-norm"),
        ({"model_args": {"reg_tokens": 4}}, "register tokens"),
        ({"model_args": {"pre_norm": True}}, "pre_norm must be false"),
        ({"model_args": {"mlp_ratio": 1e308}}, "mlp_ratio must be at most 1024"),
        ({"model_args": {"embed_dim": 1 << 40}}, "embed_dim must be at most 1048576"),
        ({"model_args": {"block_fn": "ResPostBlock"}}, "must hold arguments that are understood"),
        ({"model_args": {"act_layer": "quick_gelu"}}, "act_layer must be one of"),
        ({"pretrained_cfg": {"input_size": [3, 224, 448]}}, "must be square"),
    ],
)
def test_networks_of_timm_that_are_not_built(tmp_path, change, match):
    with pytest.raises(HwgenError, match=match):
        told(tmp_path, TIMM | change, model={"name": "m"})


@pytest.mark.parametrize("tag", RECIPES)
def test_recipes_decide_mean_and_std(tag):
    inception = {"dino", "mae", "fb_in1k"} - {tag} == {"dino", "mae", "fb_in1k"}
    spec = get_model(f"vit_base_patch16_224.{tag}")
    assert spec.mean == ((0.5, 0.5, 0.5) if inception else tuple(MEAN))
    assert spec.classes == (21843 if tag == "augreg_in21k" else 1000)


def test_an_unknown_recipe_is_not_guessed():
    with pytest.raises(ModelError, match=r"'augreg_in2k'.*nearest: augreg_in21k, augreg_in1k"):
        get_model("vit_base_patch16_224.augreg_in2k")


# A folder as MODEL


def test_a_folder_is_a_model(tmp_path):
    folder = tmp_path / "my-vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(VIT))
    for model in (folder, folder / "config.json"):
        found = describe(str(model), folder)
        assert (found.spec.name, found.spec.width) == ("my-vit", 32)
        assert found.sources["heads"] == "config.json"


def test_a_folder_without_configuration_is_none(tmp_path):
    with pytest.raises(ModelError, match=r"a folder without config\.json"):
        describe(str(tmp_path), None)


def test_names_of_the_table_come_before_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "deit_tiny_patch16_224"):
        (tmp_path / name).mkdir()
        assert describe(name, None).sources["width"] == "model table"
    assert "deit_tiny_patch16_224" in ALIASES


def test_a_model_file_may_be_called_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODEL))
    assert describe(str(path), None).spec.name == "m"
