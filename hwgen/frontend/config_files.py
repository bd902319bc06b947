# SPDX-License-Identifier: Apache-2.0
"""``config.json`` and ``preprocessor_config.json`` beside a checkpoint: what they say of the model.

``config.json`` is Hugging Face transformers' (of a ViT) or timm's. What is not a plain pre-norm ViT
by such a file is refused, whatever the tensors' names are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hwgen.errors import FormatError, ModelError
from hwgen.frontend.models import ALIASES
from hwgen.frontend.other_networks import refuse_what_is_said
from hwgen.frontend.statements import Statement
from hwgen.reading import load_json, read_bytes, show, validate

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"

#: transformers' kinds of models whose classifier is the network of this project.
_MODEL_TYPES = ("vit", "vit_msn", "deit")
_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
#: timm's kinds of central crop, and its names of Pillow's filters; Pillow's numbers of them.
_CROP_MODES = {"center": "shortest", "squash": "stretch"}
_INTERPOLATIONS = {name: name for name in ("nearest", "bilinear", "bicubic", "lanczos")}
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_POOLING = {"token": "class_token", "avg": "mean"}
#: What timm's model_args may hold beside fields of ours: it changes nothing once a model is
#: trained, shows in the tensors, or is refused by its value.
_OTHER_ARGS = {
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "init_values",
    "no_embed_class",
    "scale_attn_norm",
    "scale_mlp_norm",
    "qk_norm",
    "reg_tokens",
    "fc_norm",
}


# What a validator in front of another sees and returns is Python's: tuples, not lists.


def _numbers(value: object) -> object:
    """One number stands for all channels."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _pair(value: object) -> object:
    """One side stands for both."""
    pair = _numbers(value)
    return pair * 2 if isinstance(pair, tuple) and len(pair) == 1 else pair


def _size(value: object) -> object:
    """A side, or sides by name; a shortest edge says nothing of the other one."""
    if isinstance(value, Mapping):
        sides = (value.get("height"), value.get("width"))
        return None if None in sides else sides
    return _pair(value)


_Pair = Annotated[tuple[int, int] | None, BeforeValidator(_pair)]
_Size = Annotated[tuple[int, int] | None, BeforeValidator(_size)]
_Numbers = Annotated[tuple[float, ...] | None, BeforeValidator(_numbers)]


class _Lenient(BaseModel):
    """Of a format with many keys: those that say something here, typed; others are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class _TimmWeights(_Lenient):
    """How timm preprocesses images for a model's weights."""

    input_size: tuple[int, int, int] | None = None
    mean: _Numbers = None
    std: _Numbers = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    crop_mode: str | None = None
    interpolation: str | None = None


class _Config(_Lenient):
    """``config.json`` of transformers (upper part) or timm (lower part)."""

    model_type: str | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str | None = None
    layer_norm_eps: float | None = None
    image_size: _Pair = None
    patch_size: _Pair = None
    num_channels: int | None = None
    qkv_bias: bool | None = None
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None

    architecture: str | None = None
    num_classes: int | None = None
    global_pool: str | None = None
    pretrained_cfg: _TimmWeights | None = None
    model_args: dict[str, Any] | None = None


class _Preprocessor(_Lenient):
    """``preprocessor_config.json`` of transformers."""

    do_normalize: bool | None = None
    image_mean: _Numbers = None
    image_std: _Numbers = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    do_resize: bool | None = None
    size: _Size = None
    shortest_edge: int | None = None  #: of the key ``size``
    do_center_crop: bool | None = None
    crop_size: _Size = None
    resample: int | None = None
    do_flip_channel_order: bool | None = None


def read_configuration(folder: Path, before: Sequence[Statement] = ()) -> list[Statement]:
    """Return what the configuration files of a folder say; an empty list if there are none.

    Args:
        folder: where they lie.
        before: what is known of the model already: its number of channels.

    Raises:
        FormatError: a file is no JSON object of bounded size, or a key has a wrong type.
        CheckpointError, ModelError: it says a network that is not built here.
    """
    statements: list[Statement] = []
    if os.path.lexists(path := folder / CONFIG):
        statements.append(_read_config(path))
    if os.path.lexists(path := folder / PREPROCESSOR):
        statements.append(_read_preprocessor(path, [*before, *statements]))
    return statements


def is_configuration(values: object) -> bool:
    """Whether the values of a JSON file are a configuration, not a model file."""
    return isinstance(values, Mapping) and bool({"model_type", "architecture"} & set(values))


def _load(path: Path) -> dict[str, Any]:
    values = load_json(read_bytes(path), where=str(path))
    if not isinstance(values, dict):
        raise FormatError(
            f"File beside the checkpoint must hold one JSON object, not {show(values)}; if it is"
            " not of this model, move it away",
            where=str(path),
        )
    return values


class _Said:
    """Fields of a model with the keys that said them; a second value must be the first's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.keys: dict[str, str] = {}

    def say(self, field: str, value: object, key: str) -> None:
        """Take a value that is not None; a key that says a field again overrides it."""
        if value is not None:
            self.values[field] = list(value) if isinstance(value, tuple) else value
            self.keys[field] = key

    def square(self, field: str, sides: tuple[int, int] | None, key: str) -> None:
        """Take the side of a square."""
        if sides is not None and sides[0] != sides[1]:
            raise ModelError(
                f"{self.path}: {key} must be square, not {sides[0]} x {sides[1]}: images and"
                " patches are"
            )
        self.say(field, sides and sides[0], key)

    def word(self, field: str, value: str | None, key: str, legal: Mapping[str, str]) -> None:
        """Take a value by its name elsewhere."""
        if value is not None and value not in legal:
            raise ModelError(
                f"{self.path}: {key} must be one of {', '.join(legal)}, not {show(value)}: no other"
                f" {field} is built"
            )
        self.say(field, value and legal[value], key)

    def statement(self) -> Statement:
        """All of it."""
        return Statement(
            source=self.path.name, values=self.values, keys=self.keys, path=str(self.path)
        )


def _read_config(path: Path) -> Statement:
    values = _load(path)
    said = _Said(path)
    config = validate(values, _Config, where=str(path))
    if config.architecture is not None:
        _say_timm(config, said)
    else:
        refuse_what_is_said(values, str(path))
        _say_transformers(config, said)
    return said.statement()


def _say_transformers(config: _Config, said: _Said) -> None:
    if config.model_type is not None:
        if config.model_type not in _MODEL_TYPES:
            raise ModelError(
                f"{said.path}: model_type must be one of {', '.join(_MODEL_TYPES)}, not"
                f" {show(config.model_type)}: another network may have the same tensors"
            )
        # All of these classify by the class token.
        said.say("class_token", True, "class token by its model_type")
        said.say("pooling", "class_token", "pooling by its model_type")
    said.say("width", config.hidden_size, "hidden_size")
    said.say("depth", config.num_hidden_layers, "num_hidden_layers")
    said.say("heads", config.num_attention_heads, "num_attention_heads")
    said.say("mlp_hidden", config.intermediate_size, "intermediate_size")
    said.word("activation", config.hidden_act, "hidden_act", _ACTIVATIONS)
    said.say("layer_norm_epsilon", config.layer_norm_eps, "layer_norm_eps")
    said.square("image_size", config.image_size, "image_size")
    said.square("patch", config.patch_size, "patch_size")
    said.say("channels", config.num_channels, "num_channels")
    said.say("qkv_bias", config.qkv_bias, "qkv_bias")
    said.say("classes", config.num_labels, "num_labels")
    said.say("classes", config.id2label and len(config.id2label), "id2label (its entries)")


def _say_timm(config: _Config, said: _Said) -> None:
    name = str(config.architecture)
    if name not in ALIASES:
        raise ModelError(
            f"{said.path}: architecture must be one of {', '.join(ALIASES)}, not {show(name)}:"
            " another one of timm's may have the same tensors and compute something else (norms"
            " after the branches, another activation); if it is a plain ViT, describe it in a model"
            " file and move this file away"
        )
    spec = ALIASES[name]
    for field in ("width", "depth", "heads", "head_dim", "mlp_hidden", "patch", "channels"):
        said.say(field, getattr(spec, field), "architecture")
    for field in ("class_token", "qkv_bias", "activation", "layer_norm_epsilon"):
        said.say(field, getattr(spec, field), "architecture")
    weights = config.pretrained_cfg or _TimmWeights()
    if weights.input_size is not None:
        channels, *sides = weights.input_size
        said.say("channels", channels, "pretrained_cfg.input_size")
        said.square("image_size", (sides[0], sides[1]), "pretrained_cfg.input_size")
    said.say("mean", weights.mean, "pretrained_cfg.mean")
    said.say("std", weights.std, "pretrained_cfg.std")
    _say_timm_images(weights, said)
    said.say("classes", config.num_classes, "num_classes")
    said.word("pooling", config.global_pool, "global_pool", _POOLING)
    _say_timm_args(config.model_args or {}, said)


def _say_timm_images(weights: _TimmWeights, said: _Said) -> None:
    """How timm makes pictures of any size the model's."""
    key = "pretrained_cfg"
    said.word("resize_mode", weights.crop_mode, f"{key}.crop_mode", _CROP_MODES)
    said.word("interpolation", weights.interpolation, f"{key}.interpolation", _INTERPOLATIONS)
    said.say("crop_fraction", weights.crop_pct, f"{key}.crop_pct")


class _TimmArgs(_Lenient):
    """Arguments with which a timm model was made, where they are not its name's."""

    img_size: _Pair = None
    patch_size: _Pair = None
    in_chans: int | None = None
    num_classes: int | None = None
    embed_dim: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] | None = None
    qkv_bias: bool | None = None
    class_token: bool | None = None
    global_pool: str | None = None
    act_layer: str | None = None
    pre_norm: bool | None = None  #: a LayerNorm before the blocks, not the blocks' kind


def _say_timm_args(values: Mapping[str, Any], said: _Said) -> None:
    where = f"{said.path}: model_args"
    known = {*_TimmArgs.model_fields, *_OTHER_ARGS}
    if unknown := sorted(set(values) - known):
        raise ModelError(
            f"{where} must hold arguments that are understood, not {', '.join(map(show, unknown))}:"
            " they may change what is computed"
        )
    args = validate(dict(values), _TimmArgs, where=where)
    if args.pre_norm:
        raise ModelError(
            f"{where}: pre_norm must be false: no LayerNorm before the blocks is built"
        )
    refuse_what_is_said({k: v for k, v in values.items() if k != "pre_norm"}, where)
    said.square("image_size", args.img_size, "model_args.img_size")
    said.square("patch", args.patch_size, "model_args.patch_size")
    said.say("channels", args.in_chans, "model_args.in_chans")
    said.say("classes", args.num_classes, "model_args.num_classes")
    said.say("width", args.embed_dim, "model_args.embed_dim")
    said.say("depth", args.depth, "model_args.depth")
    said.say("heads", args.num_heads, "model_args.num_heads")
    said.say("qkv_bias", args.qkv_bias, "model_args.qkv_bias")
    said.say("class_token", args.class_token, "model_args.class_token")
    said.word("pooling", args.global_pool, "model_args.global_pool", _POOLING)
    said.word("activation", args.act_layer, "model_args.act_layer", _ACTIVATIONS)
    width, heads = said.values["width"], said.values["heads"]
    if args.embed_dim is not None or args.num_heads is not None:
        said.say("head_dim", width // max(heads, 1), "model_args")
    if args.mlp_ratio is not None or args.embed_dim is not None:
        said.say("mlp_hidden", int(width * (args.mlp_ratio or 4.0)), "model_args")


def _read_preprocessor(path: Path, before: list[Statement]) -> Statement:
    values = _load(path)
    said = _Said(path)
    size = values.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    found = validate(values | {"shortest_edge": shortest}, _Preprocessor, where=str(path))
    if found.do_flip_channel_order:
        raise ModelError(
            f"{path}: do_flip_channel_order must be false, not true: channels are taken as RGB;"
            " save the patch embedding with its input channels in that order"
        )
    channels = next((s.values["channels"] for s in before if "channels" in s.values), 3)
    # x = (scale * pixel - mean) / std = (pixel / 255 - mean / (255 scale)) / (std / (255 scale))
    scale = 1.0 if found.do_rescale is False else (found.rescale_factor or 1 / 255)
    unit = 255 * scale
    mean, std = found.image_mean, found.image_std
    if found.do_normalize is False:
        mean, std = (0.0,) * channels, (1.0,) * channels
    for field, key, numbers in (("mean", "image_mean", mean), ("std", "image_std", std)):
        if numbers is not None:
            spread = numbers * channels if len(numbers) == 1 else numbers
            said.say(field, [float(number / unit) for number in spread], key)
    crop = found.crop_size if found.do_center_crop else None
    resized = found.size if found.do_resize is not False else None
    said.square("image_size", crop or resized, "crop_size" if crop else "size")
    edge: int | None = None
    if found.do_resize is False:
        said.say("resize_mode", "none", "do_resize")
    elif found.shortest_edge is not None:
        said.say("resize_mode", "shortest", "size.shortest_edge")
        edge = found.shortest_edge
    elif resized is not None and resized[0] == resized[1]:
        said.say("resize_mode", "stretch", "size")
        edge = resized[0]
    side = said.values.get("image_size")
    if edge is not None and side is not None:
        if edge < side:
            raise ModelError(f"{path}: size must be at least the crop_size {side}, not {edge}")
        said.say("crop_fraction", side / edge, "crop_size / size")
    if found.resample is not None and found.do_resize is not False:
        if found.resample not in _RESAMPLE:
            raise ModelError(
                f"{path}: resample must be one of {', '.join(map(str, _RESAMPLE))} (Pillow's"
                f" {', '.join(_RESAMPLE.values())}), not {found.resample}"
            )
        said.say("interpolation", _RESAMPLE[found.resample], "resample")
    return said.statement()
