# SPDX-License-Identifier: Apache-2.0
"""Prefixes, layouts and names of other frameworks: the right network, or a refusal by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import CheckpointError, ModelError
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.naming import PREFIXES, expected_shapes
from hwgen.graph.assumption import Assumption
from hwgen.graph.spec import ModelSpec

from .networks import SPEC, random_state, torch_forward

STATE = random_state(SPEC)


def same(model: FloatModel, state: dict[str, np.ndarray] = STATE) -> None:
    """The model has exactly these tensors."""
    assert set(model.tensors) == set(state)
    for name, array in state.items():
        assert np.array_equal(model.tensors[name], array), name


def refused(state: dict[str, np.ndarray], match: str, spec: ModelSpec = SPEC) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        FloatModel.from_state_dict(spec, state)
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix",
    [
        *(f"{p}." for p in PREFIXES),
        "module._orig_mod.",
        "model.student.backbone.",
        "module.model_ema.module.",
    ],
)
def test_a_prefix_of_every_name_is_taken_off_and_said(prefix):
    model = FloatModel.from_state_dict(SPEC, {prefix + n: a for n, a in STATE.items()})
    same(model)
    assert model.assumed["prefix"].value == prefix


def test_no_prefix_no_word_of_one():
    assert "prefix" not in FloatModel.from_state_dict(SPEC, STATE).assumed


def test_a_prefix_in_front_of_hugging_face_names():
    theirs = hugging_face_names(STATE)
    same(FloatModel.from_state_dict(SPEC, theirs))
    model = FloatModel.from_state_dict(SPEC, {f"model.{n}": a for n, a in theirs.items()})
    same(model)
    assert model.assumed["prefix"].value == "model."


def hugging_face_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    top = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    block = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    out = {}
    for name, array in state.items():
        stem, _, part = name.rpartition(".")
        number = re.match(r"blocks\.(\d+)\.(.*)", stem)
        if name in top:
            out[top[name]] = array
        elif number is None:
            out[f"{top[stem]}.{part}"] = array
        elif number[2] == "attn.qkv":
            for word, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                out[f"vit.encoder.layer.{number[1]}.attention.attention.{word}.{part}"] = third
        else:
            out[f"vit.encoder.layer.{number[1]}.{block[number[2]]}.{part}"] = array
    return out


def test_a_prefix_that_only_some_names_have_is_named():
    state = {f"model.{n}": a for n, a in STATE.items()}
    loss = {"criterion.weight": np.ones(11, np.float32)}
    said = refused(state | loss, "prefix 'model.', which not every tensor has")
    assert "--container model " in said
    ema = {f"teacher.backbone.{n}": a for n, a in STATE.items()}
    said = refused(state | ema, r"prefixes 'model\.' and 'teacher\.backbone\.'")
    assert "--container model or --container teacher.backbone" in said
    said = refused(STATE | ema, r"besides the model without a prefix .* 'teacher\.backbone\.'")
    theirs = {f"net.{n}": a for n, a in hugging_face_names(STATE).items()}
    assert "--container net " in refused(theirs | loss, r"behind the prefix 'net\.'")


@pytest.mark.parametrize("prefix", ["my_wrapper.", "model.my_wrapper."])
def test_an_unknown_prefix_is_named(prefix):
    said = refused({prefix + n: a for n, a in STATE.items()}, "prefix 'my_wrapper.'")
    assert "--container my_wrapper " in said


def test_a_name_map_may_name_the_prefix_itself():
    theirs = {f"model.{n}".replace("norm1", "ln_a"): a for n, a in STATE.items()}
    for prefix in ("", "model."):
        names = (
            mapped(prefix)
            if prefix
            else (
                ("blocks.{i}.norm1.weight", "blocks.{i}.ln_a.weight"),
                ("blocks.{i}.norm1.bias", "blocks.{i}.ln_a.bias"),
            )
        )
        model = FloatModel.from_state_dict(replace(SPEC, name_map=names), theirs)
        same(model)
        assert ("prefix" in model.assumed) == (not prefix)


def mapped(prefix: str) -> tuple[tuple[str, str], ...]:
    """A name map of every canonical name."""
    plain = {re.sub(r"^blocks\.\d+\.", "blocks.{i}.", n): None for n in expected_shapes(SPEC)}
    return tuple((n, prefix + n.replace("norm1", "ln_a")) for n in plain)


def test_harmless_tensors_are_left_out_and_said():
    extra = {
        "n_averaged": np.array(3),
        "mask_token": np.zeros((1, 1, 48), np.float32),
        "blocks.0.total_ops": np.zeros(1),
    }
    model = FloatModel.from_state_dict(SPEC, {**extra, **STATE})
    same(model)
    assert all(any(name in note for note in model.notes) for name in extra)
    wrapped = {f"module.{n}": a for n, a in STATE.items()} | {"n_averaged": np.array(3)}
    same(FloatModel.from_state_dict(SPEC, wrapped))  # torch's AveragedModel


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("head_dist.weight", "a distillation head"),
        ("distillation_classifier.weight", "a distillation head"),
        ("dist_token", "a distillation token"),
        ("embeddings.distillation_token", "a distillation token"),
        ("fc_norm.weight", "fc_norm"),
        ("norm_pre.weight", "a LayerNorm before the blocks"),
        ("blocks.0.attn.q_norm.weight", "qk-norm"),
        ("blocks.0.attn.k_norm.weight", "qk-norm"),
        ("blocks.0.attn.norm_q.weight", "qk-norm"),
        ("reg_token", "register tokens"),
        ("register_tokens", "register tokens"),
        ("attn_pool.latent", "attention pooling"),
        ("blocks.0.attn.relative_position_bias_table", "relative position biases"),
        ("blocks.0.attn.relative_position_index", "relative position biases"),
        ("shared_rel_pos.mlp.fc1.weight", "relative position biases"),
        ("rope.periods", "rotary"),
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.mlp.fc1_g.weight", "SwiGLU"),
        ("blocks.0.mlp.gate_proj.weight", "SwiGLU"),
        ("blocks.0.attns.0.proj.weight", "parallel blocks"),
        ("blocks.0.norm3.weight", "norms after the branches"),
        ("blocks.0.post_norm1.weight", "norms after the branches"),
        ("blocks.0.attn.inner_attn_ln.weight", "norms inside the branches"),
        ("blocks.0.gamma_1", "LayerScale under other names.*name_map"),
        ("blocks.0.attn.temperature", "temperature"),
        ("pre_logits.fc.weight", "a hidden layer before the head"),
        ("blocks.0.attn.qkv.lora_A.weight", "adapters"),
        ("blocks.0.attn.qkv.weight_g", "computed when they are used"),
        ("blocks.0.attn.qkv.weight_scale", "quantised already"),
        ("blocks.0.norm1.running_mean", "BatchNorm"),
    ],
)
def test_other_networks_are_refused_by_name(name, what):
    said = refused({**STATE, name: np.ones(3, np.float32)}, what)
    assert name in said


def test_an_unused_tensor_is_an_error_whatever_its_name():
    refused(
        {**STATE, "blocks.0.mystery": np.ones(3, np.float32)}, "not part of the model: .*mystery"
    )
    refused({**STATE, "blocks.0.count": np.ones(3, np.int64)}, "not part of the model: .*count")


def test_names_that_a_terminal_would_obey_are_escaped():
    said = refused({**STATE, "\x1b[2J" + "x" * 5000: np.ones(1, np.float32)}, "not part of")
    assert "\x1b" not in said
    assert len(said) < 1000


# Layouts


def reordered(array: np.ndarray, layout: str, spec: ModelSpec = SPEC) -> np.ndarray:
    """Rows of a fused qkv, from (qkv, head, dim) to another order, element by element."""
    words = layout.split()
    letters = next(word for word in words if word not in ("head", "dim"))
    sizes = {letters: 3, "head": spec.heads, "dim": spec.head_dim}
    out = np.empty_like(array)
    for part, letter in enumerate("qkv"):
        for head in range(spec.heads):
            for dim in range(spec.head_dim):
                index = {letters: letters.index(letter), "head": head, "dim": dim}
                row = 0
                for word in words:
                    row = row * sizes[word] + index[word]
                out[row] = array[(part * spec.heads + head) * spec.head_dim + dim]
    return out


@pytest.mark.parametrize(
    "layout", ["head qkv dim", "head dim qkv", "qkv dim head", "dim head qkv", "kqv head dim"]
)
def test_qkv_in_another_order(layout):
    theirs = {n: reordered(a, layout) if "qkv" in n else a for n, a in STATE.items()}
    model = FloatModel.from_state_dict(replace(SPEC, qkv_layout=layout), theirs)
    same(model)
    assert model.assumed["qkv_layout"] == Assumption(layout, "model file")
    silent = FloatModel.from_state_dict(SPEC, theirs)
    assert silent.assumed["qkv_layout"] == Assumption("qkv head dim", "default")
    assert "rows of attn.qkv read in the order (qkv, head, dim)" in silent.notes
    assert not np.array_equal(
        silent.tensors["blocks.0.attn.qkv.weight"], STATE["blocks.0.attn.qkv.weight"]
    )


def separate(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """q, k and v under names of their own."""
    out = {}
    for name, array in state.items():
        if ".attn.qkv." in name:
            for letter, third in zip("qkv", np.split(array, 3), strict=True):
                out[name.replace(".attn.qkv.", f".sa.to_{letter}.")] = third
        else:
            out[name] = array
    return out


SEPARATE = tuple(
    (f"blocks.{{i}}.attn.{letter}.{part}", f"blocks.{{i}}.sa.to_{letter}.{part}")
    for letter in "qkv"
    for part in ("weight", "bias")
)


def test_separate_q_k_and_v_by_name_map():
    spec = replace(SPEC, name_map=SEPARATE)
    model = FloatModel.from_state_dict(spec, separate(STATE))
    same(model)
    assert model.assumed["qkv_layout"] == Assumption("head dim", "default")
    theirs = separate(
        {n: reordered(a, "qkv dim head") if "qkv" in n else a for n, a in STATE.items()}
    )
    same(FloatModel.from_state_dict(replace(spec, qkv_layout="qkv dim head"), theirs))
    with pytest.raises(ModelError, match="must begin with 'qkv'"):
        FloatModel.from_state_dict(replace(spec, qkv_layout="head qkv dim"), theirs)
    del theirs["blocks.1.sa.to_k.bias"]
    refused(theirs, r"missing: blocks\.1\.sa\.to_k\.bias", spec)
    theirs["blocks.1.sa.to_k.bias"] = np.zeros(47, np.float32)
    refused(theirs, r"shape 48; missing: none; wrong shape: k 47", spec)


MATRICES = tuple(
    f"blocks.{{i}}.{n}.weight" for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
)


def test_matrices_stored_as_in_out():
    """Conv1D of GPT-2's kind: the square projection cannot be seen, the others say so."""
    theirs = {
        n: a.T if re.sub(r"\d+", "{i}", n, count=1) in MATRICES else a for n, a in STATE.items()
    }
    model = FloatModel.from_state_dict(replace(SPEC, transposed=MATRICES), theirs)
    same(model)
    assert model.assumed["transposed"].value == MATRICES
    said = refused(theirs, "wrong shape: .*stored as \\[in, out\\]")
    listed = json.loads(re.search(r'"transposed": (\[.*?\])', said)[1])
    assert set(listed) == set(MATRICES) - {"blocks.{i}.attn.proj.weight"}
    assert "square ones" in said


@pytest.mark.parametrize("layout", ["channel dy dx", "dx dy channel", "dy channel dx"])
def test_linear_patch_embedding_in_another_order(layout):
    kernel = STATE["patch_embed.proj.weight"]  # [width, channel, dy, dx]
    axes = [("channel", "dy", "dx").index(word) + 1 for word in layout.split()]
    theirs = {**STATE, "patch_embed.proj.weight": kernel.transpose(0, *axes).reshape(48, -1)}
    model = FloatModel.from_state_dict(replace(SPEC, patch_layout=layout), theirs)
    same(model)
    assert model.assumed["patch_layout"] == Assumption(layout, "model file")
    silent = FloatModel.from_state_dict(SPEC, theirs)
    assert silent.assumed["patch_layout"] == Assumption("dy dx channel", "default")
    assert "patch_layout" not in FloatModel.from_state_dict(SPEC, STATE).assumed


def test_position_without_a_row_for_the_class_token():
    """The no_embed_class of timm: the class token is put in front after the positions are added."""
    theirs = {**STATE, "pos_embed": STATE["pos_embed"][:, 1:]}
    model = FloatModel.from_state_dict(SPEC, theirs)
    images = np.random.default_rng(3).standard_normal((2, 32, 32, 3)).astype(np.float32)
    padded = np.concatenate([np.zeros((1, 1, 48), np.float32), theirs["pos_embed"]], axis=1)
    expected = torch_forward(SPEC, {**STATE, "pos_embed": padded}, images)
    assert np.abs(model.forward(images) - expected).max() < 1e-4 * np.abs(expected).max()
    assert any("no row for the class token" in note for note in model.notes)


def test_axes_of_one_element_may_be_missing():
    theirs = {**STATE, "pos_embed": STATE["pos_embed"][0], "cls_token": STATE["cls_token"][0, 0]}
    same(FloatModel.from_state_dict(SPEC, theirs))


# What to write into a model file


def advised(state: dict[str, np.ndarray], spec: ModelSpec = SPEC) -> ModelSpec:
    """The specification of the model file that the error prints."""
    said = refused(state, "a model file that fits is", spec)
    return ModelSpec.from_json(json.loads(said.partition("a model file that fits is ")[2]))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10},
        {"image_size": 64},
        {"patch": 4, "image_size": 16},
        {"patch": 16, "image_size": 64, "classes": 3},
        {"depth": 2},
        {"mlp_hidden": 100},
        {"qkv_bias": False},
        {"class_token": False, "pooling": "mean"},
    ],
)
def test_the_error_says_how_to_describe_the_checkpoint(change):
    theirs = replace(SPEC, **change)
    state = random_state(theirs)
    start = replace(SPEC, pooling=theirs.pooling)
    assert advised(state, start) == theirs
    same(FloatModel.from_state_dict(advised(state, start), state), state)


def test_the_key_is_named_with_both_values():
    said = refused(
        random_state(replace(SPEC, classes=10)), "head.weight has 10x48, must have 11x48"
    )
    assert '"classes": 10 (not 11)' in said


def test_no_advice_that_would_not_help():
    """Another width leaves the heads open; a missing tensor is not mended by a model file."""
    assert "model file" not in refused(
        random_state(replace(SPEC, width=64, head_dim=16, heads=4)), "wrong"
    )
    state = random_state(replace(SPEC, classes=10))
    del state["norm.bias"]
    assert "model file" not in refused(state, r"missing: norm\.bias")


# Name maps


def test_torchvision_by_name_map():
    """The example of docs/models.md; names as torchvision's vit_b_16 has them."""
    top = {
        "patch_embed.proj.weight": "conv_proj.weight",
        "patch_embed.proj.bias": "conv_proj.bias",
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "norm.weight": "encoder.ln.weight",
        "norm.bias": "encoder.ln.bias",
        "head.weight": "heads.head.weight",
        "head.bias": "heads.head.bias",
    }
    block = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    names = dict(top)
    layer = "encoder.layers.encoder_layer_{i}."
    for part in ("weight", "bias"):
        names[f"blocks.{{i}}.attn.qkv.{part}"] = f"{layer}self_attention.in_proj_{part}"
        names |= {f"blocks.{{i}}.{n}.{part}": f"{layer}{t}.{part}" for n, t in block.items()}
    spec = replace(SPEC, name_map=tuple(sorted(names.items())))
    theirs = {}
    for name, array in STATE.items():
        number = re.match(r"blocks\.(\d+)", name)
        pattern = re.sub(r"^blocks\.\d+", "blocks.{i}", name)
        theirs[names[pattern].replace("{i}", number[1] if number else "")] = array
    same(FloatModel.from_state_dict(spec, theirs))


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (
            {"blocks.{i}.norm3.weight": "x.{i}"},
            r"canonical names, not 'blocks\.\{i\}\.norm3.weight'.*norm1",
        ),
        ({"blocks.{i}.norm1.weight": "x"}, r"'\{i\}' .* in both names or in neither"),
        ({"norm.weight": "x", "norm.bias": "x"}, r"use a name of the checkpoint once, not 'x'"),
    ],
)
def test_name_maps_that_do_not_hold_together(names, match):
    spec = replace(SPEC, name_map=tuple(names.items()))
    with pytest.raises(ModelError, match=match):
        FloatModel.from_state_dict(spec, {**STATE, "x": STATE["norm.bias"]})


def test_transposed_must_name_matrices():
    with pytest.raises(
        ModelError, match=r"canonical names, not 'blocks\.\{i\}\.fc1\.weight'.*mlp\.fc1"
    ):
        FloatModel.from_state_dict(replace(SPEC, transposed=("blocks.{i}.fc1.weight",)), STATE)


def test_a_tensor_twice_is_refused():
    spec = replace(SPEC, name_map=(("norm.weight", "ln.weight"),))
    refused({**STATE, "ln.weight": STATE["norm.weight"]}, "every tensor once", spec)


def test_missing_names_of_the_map_give_the_nearest():
    spec = replace(SPEC, name_map=(("norm.weight", "final_norm.weight"),))
    refused({**STATE, "final_nrm.weight": STATE["norm.weight"]}, "nearest .*final_nrm", spec)


# What is taken for granted


def test_everything_that_the_tensors_do_not_say_is_listed():
    model = FloatModel.from_state_dict(SPEC, STATE, sources={"mean": "config.json"})
    assert model.assumed["mean"] == Assumption((0.5, 0.5, 0.5), "config.json")
    assert model.assumed["std"] == Assumption((0.5, 0.5, 0.5), "default")
    assert {name: a.value for name, a in model.assumed.items() if name != "transposed"} == {
        "image_size": 32,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_fraction": 1.0,
        "resize_mode": "shortest",
        "interpolation": "bicubic",
        "heads": 3,
        "head_dim": 16,
        "activation": "gelu_erf",
        "layer_norm_epsilon": 1e-6,
        "pooling": "class_token",
        "norm_order": "pre-norm: attention, then MLP",
        "attention_scale": "1/sqrt(head_dim)",
        "class_token_position": "first",
        "channel_order": "RGB",
        "qkv_layout": "qkv head dim",
    }
