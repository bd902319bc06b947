# SPDX-License-Identifier: Apache-2.0
"""Networks that are no plain pre-norm ViT, by their tensors' names or by what is said of them.

Some differ in names: those would be refused as not recognised, but a name helps. Others have the
very same names and shapes (a post-norm encoder has norm1 and norm2, too): only a configuration can
tell them, wherever it lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hwgen.errors import CheckpointError
from hwgen.frontend.texts import quoted
from hwgen.reading import show

#: What a part of a tensor's name tells.
_BY_NAME: tuple[tuple[str, str], ...] = (
    (r"head_dist|(cls|distillation)_classifier", "a distillation head"),
    (r"dist_token|distillation_tokens?", "a distillation token"),
    (r"fc_norm", "a LayerNorm after pooling (timm's fc_norm)"),
    (r"norm_pre|ln_pre|pre_layr?norm|patch_norm|norm_embed", "a LayerNorm before the blocks"),
    (r"[qk]_?norm|norm_?[qk]|query_norm|key_norm", "normalised queries and keys (qk-norm)"),
    (r"[qk]_(ln|layernorm)", "normalised queries and keys (qk-norm)"),
    (r"(reg|register|storage)_tokens?", "register tokens"),
    (r"attn_pool|attention_pool\w*|probe", "attention pooling"),
    (r"(shared_)?rel(ative)?_pos\w*|attention_biases", "relative position biases"),
    (r"rope\w*|rotary\w*|freqs(_cis)?|inv_freq", "rotary position embedding"),
    (r"w12|w[123]|fc1_[gx]|(gate|up|down)_proj|weights_(in|out)|gate", "a gated MLP (SwiGLU)"),
    (r"attns|ffns|in_proj_mlp|attn_out_proj|mlp_out_proj|in_norm", "parallel blocks"),
    (r"(post|sandwich)_?(norm|ln)\w*|(norm|ln)_post|norm[34]", "norms after the branches"),
    (r"(pre_feedforward|post_(attention|feedforward))\w*", "norms after the branches"),
    (r"inner_attn_ln|ffn_(ln|layernorm)", "norms inside the branches"),
    (r"gamma_[12]|layer_scale[12]?|lambda1", "LayerScale under other names"),
    (r"temperature|logit_scale|tau", "a learned temperature of attention"),
    (r"proj_[lw]", "attention that mixes its heads"),
    (r"pre_logits|head_hidden", "a hidden layer before the head"),
    (r"blocks_token_only|cls_attn\w*", "class attention"),
    (r"lora_\w+|adapter\w*|adaptmlp", "adapters that are not merged into the weights"),
    (r"weight_[gv]|parametrizations", "weights that are computed when they are used"),
    (r"weight_scale|zero_points?|qweight|qzeros", "weights that are quantised already"),
    (r"running_(mean|var)|num_batches_tracked", "BatchNorm"),
)
_PATTERNS = tuple((re.compile(pattern), what) for pattern, what in _BY_NAME)
_UNDISTILLED = "take the variant without it (deit_*_patch16_224, not deit_*_distilled_*)"
_ADVICE = {
    "a distillation head": _UNDISTILLED,
    "a distillation token": _UNDISTILLED,
    "LayerScale under other names": "a model file's name_map can name its tensors"
    " (blocks.{i}.ls1.gamma, blocks.{i}.ls2.gamma)",
}

_POST_NORM = "LayerNorm after the branches (post-norm)"
_PRE_NORM_FALSE = (
    "norm_first",
    "layer_norm_first",
    "pre_norm",
    "do_pre_norm",
    "use_pre_norm",
    "is_pre_norm",
    "do_layer_norm_before",
    "normalize_before",
    "encoder_normalize_before",
)
_POST_NORM_TRUE = (
    "post_norm",
    "use_post_norm",
    "is_post_norm",
    "res_post_norm",
    "norm_last",
    "layer_norm_last",
    "norm_after",
    "post_layer_norm",
    "use_post_layer_norm",
    "apply_post_layer_norm",
)
_NORM_PLACE = ("norm_order", "norm_position", "norm_place", "norm_placement", "norm_style")
#: Key -> the value that tells another network, and which.
_BY_VALUE: dict[str, tuple[bool, str]] = {
    **dict.fromkeys(_PRE_NORM_FALSE, (False, _POST_NORM)),
    **dict.fromkeys(_POST_NORM_TRUE, (True, _POST_NORM)),
    "sandwich_norm": (True, "norms before and after the branches (sandwich norm)"),
    **dict.fromkeys(
        ("qk_norm", "use_qk_norm", "qk_layer_norm", "qk_normalization"),
        (True, "normalised queries and keys (qk-norm)"),
    ),
    **dict.fromkeys(
        ("parallel_block", "parallel_blocks", "parallel_residual", "use_parallel_residual"),
        (True, "attention and MLP in parallel"),
    ),
    **dict.fromkeys(
        ("use_relative_position_bias", "use_shared_relative_position_bias", "use_rel_pos"),
        (True, "relative position biases"),
    ),
    "use_absolute_position_embeddings": (False, "no learned position embedding"),
    **dict.fromkeys(("use_swiglu_ffn", "swiglu", "use_swiglu"), (True, "a gated MLP (SwiGLU)")),
    **dict.fromkeys(("use_rope", "rotary", "use_rotary"), (True, "rotary position embedding")),
    **dict.fromkeys(
        ("reg_tokens", "num_register_tokens", "num_reg_tokens"), (True, "register tokens")
    ),
    **dict.fromkeys(("scale_attn_norm", "scale_mlp_norm"), (True, "norms inside the branches")),
    "fc_norm": (True, "a LayerNorm after pooling (fc_norm)"),
}


def _plain(key: str) -> str:
    """``layer_norm_first``, ``layernorm-first`` and ``norm_first`` are one key."""
    return re.sub(r"[-_]", "", key.lower()).replace("layernorm", "norm")


_KEYS = {_plain(key): said for key, said in _BY_VALUE.items()}
_PLACE_KEYS = {_plain(key) for key in _NORM_PLACE}
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_MAX_DEPTH = 8


def refuse_by_name(names: Iterable[str]) -> None:
    """Refuse tensors of another network; they are those that no model of ours has.

    Raises:
        CheckpointError: names the tensor and what it belongs to.
    """
    for name in names:
        for part in name.split("."):
            for pattern, what in _PATTERNS:
                if pattern.fullmatch(part):
                    advice = f"; {_ADVICE[what]}" if what in _ADVICE else ""
                    raise CheckpointError(
                        f"Checkpoint must be a plain pre-norm ViT or DeiT, without {what}, not one"
                        f" with {quoted(name)!r}{advice}"
                    )


def refuse_what_is_said(values: Mapping[Any, Any], where: str) -> None:
    """Refuse a configuration that says another network, at any depth; other keys mean nothing here.

    Args:
        values: a configuration, a checkpoint's hyperparameters, a file's metadata.
        where: the file, for the message.

    Raises:
        CheckpointError: names the key, its value and what it means.
    """
    left: list[tuple[Mapping[Any, Any], int]] = [(values, 0)]
    seen = {id(values)}  # a mapping of a pickle may hold itself
    for tree, depth in left:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                if depth < _MAX_DEPTH and id(value) not in seen:
                    seen.add(id(value))
                    left.append((value, depth + 1))
            elif isinstance(key, str) and (told := _meaning(_plain(key), value)):
                raise CheckpointError(
                    f"{where}: the network must be a plain pre-norm ViT or DeiT, not one with"
                    f" {told}: {quoted(key)} is {show(value)}, and its tensors may have the same"
                    " names"
                )


def _meaning(key: str, value: object) -> str | None:
    if key in _PLACE_KEYS and isinstance(value, str):
        if re.search("post|after|last", value, re.IGNORECASE):
            return _POST_NORM
        return "norms before and after the branches" if "sandwich" in value.lower() else None
    truth = _TRUTH.get(value.lower()) if isinstance(value, str) else value
    if key not in _KEYS or not isinstance(truth, bool | int):
        return None
    told, what = _KEYS[key]
    return what if bool(truth) is told else None
