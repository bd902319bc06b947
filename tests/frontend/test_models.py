# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from hwgen.errors import ModelError
from hwgen.frontend.models import ALIASES, MODELS, ModelSpec, get_model


@pytest.mark.parametrize("name", [*MODELS, *ALIASES])
def test_every_name_is_known(name):
    assert get_model(name).name == name


def test_geometry_of_deit():
    spec = get_model("deit_small")
    assert (spec.tokens, spec.width, spec.heads, spec.attention_width) == (197, 384, 6, 384)
    assert get_model("vit_large_patch16_384").tokens == 577
    assert get_model("deit_tiny_patch16_224.fb_in1k").width == 192


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ModelError, match=r"not 'deit_tny'; the nearest names: .*deit_tiny"):
        get_model("deit_tny")


def test_model_file_round_trip(tmp_path):
    spec = MODELS["vit_tiny"]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(spec.to_json()))
    assert get_model(path) == spec


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"colour": 1}, r"'colour' must be a known key .*image_size"),
        ({"width": "64"}, r"m\.json: Model field 'width' must be an integer, not '64'"),
        ({"depth": True}, r"'depth' must be an integer"),
        ({"depth": 0}, r"'depth' must be an integer in 1\.\.256, not 0"),
        ({"image_size": 225}, r"multiple of the patch \(16\), not 225; the nearest is 224"),
        ({"pooling": "max"}, r"'pooling' must be 'class_token' or 'mean', not 'max'"),
        ({"class_token": False}, r"must be 'mean' when there is no class token"),
        ({"mean": [0.5]}, r"'mean' must be 3 numbers"),
        ({"mean": [0.5, "x", 0.5]}, r"m\.json: Model field 'mean\[1\]' must be a number, not 'x'"),
        ({"std": [0.5, 0.0, 0.5]}, r"'std' must be positive"),
        ({"layer_norm_epsilon": float("nan")}, r"Numbers must be finite, not NaN"),
        ({"layer_norm_epsilon": "1e-6"}, r"'layer_norm_epsilon' must be a number"),
        ({"activation": "swish"}, r"'activation' must be 'gelu_erf'"),
        ({"name_map": [1]}, r"'name_map' must be a table of canonical name -> checkpoint name"),
        ({"name_map": {"a": 1}}, r"'name_map' must be a table of canonical name"),
        ({"name": ""}, r"Model name must be a non-empty string"),
        ({"layer_norm_epsilon": 10**400}, r"Integers must be of 64 bits"),
        ({"mean": [0.5, 10**400, 0.5]}, r"Integers must be of 64 bits"),
        ({"qkv_layout": "qkv heads dim"}, r"'qkv_layout' must be the words of 'qkv head dim'"),
        ({"qkv_layout": "qqv head dim"}, r"'qkv_layout' must be the words of 'qkv head dim'"),
        ({"qkv_layout": 3}, r"'qkv_layout' must be a text, not 3"),
        ({"patch_layout": "dy channel"}, r"'patch_layout' must be the words of 'dy dx channel'"),
        ({"crop_fraction": 0}, r"'crop_fraction' must be a number in 0\.1\.\.1, not 0"),
        ({"crop_fraction": 1.5}, r"'crop_fraction' must be a number in 0\.1\.\.1, not 1\.5"),
        ({"resize_mode": "squash"}, r"'resize_mode' must be 'shortest', 'stretch' or 'none'"),
        ({"interpolation": "cubic"}, r"'interpolation' must be .*; nearest legal value: bicubic"),
        ({"transposed": "head.weight"}, r"'transposed' must be a list"),
        ({"transposed": [1]}, r"'transposed\[0\]' must be a text, not 1"),
    ],
)
def test_bad_model_files(tmp_path, change, match):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({**MODELS["vit_tiny"].to_json(), **change}))
    with pytest.raises(ModelError, match=match):
        get_model(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "\ud800".encode("utf-16", "surrogatepass"),
        "[" * 9999,
        f'{{"width": {"9" * 5000}}}',
    ],
    ids=lambda text: repr(text)[:12],
)
def test_files_that_are_no_model(tmp_path, text):
    path = tmp_path / "m.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match="Model file must"):
        get_model(path)


def test_head_dim_is_a_heads_share_of_the_width(tmp_path):
    path = tmp_path / "m.json"
    values = {**MODELS["vit_tiny"].to_json(), "width": 160, "heads": 5}
    del values["head_dim"]
    path.write_text(json.dumps(values))
    assert get_model(path).head_dim == 32
    path.write_text(json.dumps(values | {"heads": 3}))
    with pytest.raises(ModelError, match="must give head_dim"):
        get_model(path)


def test_missing_field_is_named():
    with pytest.raises(ModelError, match="Model fields width and depth must be stated, and are"):
        ModelSpec.from_json({"name": "x", "heads": 1, "mlp_hidden": 8})
