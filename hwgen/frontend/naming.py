# SPDX-License-Identifier: Apache-2.0
"""Names and layouts: a state dict of timm, Hugging Face or a name map -> the canonical tensors.

The canonical names are timm's (``blocks.0.attn.qkv.weight``, ...), weights ``[out, in]``, a fused
qkv's rows in the order (q k v, head, channel). What cannot be told apart by names and shapes is
taken as the specification says, and said in :attr:`Canonical.assumed`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwgen.errors import CheckpointError, ModelError
from hwgen.frontend.other_networks import refuse_by_name
from hwgen.frontend.statements import DEFAULT, FILE, model_file_text
from hwgen.frontend.texts import listing, quoted, shape_text
from hwgen.graph.assumption import Assumption
from hwgen.graph.network import network_of
from hwgen.graph.ops import Embedding, LayerNorm, QueryKeyValue, Weighted
from hwgen.graph.spec import DEFAULT_PATCH_LAYOUT, DEFAULT_QKV_LAYOUT, ModelSpec

#: What wrappers put in front of every name: DataParallel and DistributedDataParallel,
#: torch.compile, Lightning and Fabric, training scripts, moving averages, self-supervised students
#: and teachers.
PREFIXES = (
    "module",
    "_orig_mod",
    "_forward_module",
    "model",
    "backbone",
    "encoder",
    "net",
    "network",
    "student",
    "teacher",
    "ema",
    "ema_model",
    "model_ema",
    "base_model",
    "vit",
    "deit",
)

#: Tensors that no classifier's output depends on, by the last parts of their names.
_HARMLESS = {
    "pooler.dense.weight": "Hugging Face's pooler, which the classifier does not use",
    "pooler.dense.bias": "Hugging Face's pooler, which the classifier does not use",
    "mask_token": "the mask of masked image modelling, which a whole image has none of",
    "position_ids": "the numbers 0, 1, 2 ... of the positions",
    "n_averaged": "the number of averaged models",
    "total_ops": "a profiler's count",
    "total_params": "a profiler's count",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Canonical:
    """The tensors of a checkpoint under canonical names; what is not recognised keeps its own."""

    tensors: dict[str, np.ndarray]
    assumed: dict[str, Assumption]
    notes: list[str]


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return every canonical tensor of a model and its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for op in network_of(spec).ops:
        name = parameter_of(op.name)
        match op:
            case Embedding():
                shapes[f"{name}.weight"] = (spec.width, spec.channels, spec.patch, spec.patch)
                shapes[f"{name}.bias"] = (spec.width,)
                shapes["pos_embed"] = (1, *op.position.shape)
                if op.class_token:
                    shapes["cls_token"] = (1, 1, spec.width)
            case Weighted():
                reduction, columns = op.weights.shape
                shapes[f"{name}.weight"] = (columns, reduction)
                if spec.qkv_bias or not isinstance(op, QueryKeyValue):
                    shapes[f"{name}.bias"] = (columns,)
            case LayerNorm():
                shapes |= {f"{name}.weight": op.gamma.shape, f"{name}.bias": op.beta.shape}
    return shapes


#: Part of a block -> its tensors, where they are called otherwise.
_PARAMETERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def parameter_of(op: str) -> str:
    """Canonical name of an operation's weight and bias, without the ending."""
    if op == "embedding":
        return "patch_embed.proj"
    block, dot, part = op.rpartition(".")
    return f"{block}{dot}{_PARAMETERS.get(part, part)}"


def _block_names(spec: ModelSpec) -> list[str]:
    """Names of a block's tensors, those that it may leave out among them."""
    first = "blocks.0."
    names = expected_shapes(replace(spec, qkv_bias=True))
    return [name.removeprefix(first) for name in names if name.startswith(first)]


def layer_scale_names(spec: ModelSpec) -> list[str]:
    """Return the names of LayerScale's tensors, which a checkpoint may have."""
    return [f"blocks.{i}.{ls}.gamma" for i in range(spec.depth) for ls in ("ls1", "ls2")]


def mappable_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return the canonical names that a name map may give, ``{i}`` for the block's number."""
    block = [*_block_names(spec), "ls1.gamma", "ls2.gamma"]
    block += [f"attn.{letter}.{part}" for letter in "qkv" for part in ("weight", "bias")]
    top = ["patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed", "cls_token"]
    top += ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    return (*top, *(f"blocks.{{i}}.{name}" for name in block))


def canonical(spec: ModelSpec, tensors: Mapping[str, np.ndarray]) -> Canonical:
    """Return the tensors of a state dict under canonical names, in canonical layout.

    Raises:
        CheckpointError: the network is another one by its names, or its layout is not what the
            specification says.
        ModelError: the specification's name map or layouts do not hold together.
    """
    _check_names(spec)
    assumed: dict[str, Assumption] = {}
    notes: list[str] = []
    found = _without_harmless(dict(tensors), notes)
    prefix = _shared_prefix(found, [theirs for _, theirs in spec.name_map])
    if prefix:
        found = {name.removeprefix(prefix): array for name, array in found.items()}
        assumed["prefix"] = Assumption(prefix, "of every name; taken off")
    if spec.name_map:
        found = _by_name_map(spec, found)
    elif any(name.startswith(("vit.", "deit.")) or ".layernorm_before." in name for name in found):
        found = _from_hugging_face(found)
    ours = re.compile(r"blocks\.\d+\.(ls[12]\.gamma|attn\.[qkv]\.\w+)")
    refuse_by_name(name for name in found if not ours.fullmatch(name))
    _turn(spec, found)
    _join_qkv(spec, found, assumed, notes)
    _fit_embeddings(spec, found, assumed, notes)
    return Canonical(tensors=found, assumed=assumed, notes=notes)


# Prefixes and buffers


def _without_harmless(tensors: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    ignored: dict[str, list[str]] = {}
    for name in tensors:
        for ending, why in _HARMLESS.items():
            if name == ending or name.endswith(f".{ending}"):
                ignored.setdefault(why, []).append(name)
    for why, names in ignored.items():
        notes.append(f"ignored: {listing(sorted(names))} ({why})")
    dropped = {name for names in ignored.values() for name in names}
    return {name: array for name, array in tensors.items() if name not in dropped}


def _shared_prefix(names: Iterable[str], theirs: Iterable[str] = ()) -> str:
    """What wrappers put in front of every name; nothing that a name map itself names."""
    left, prefix = list(names), ""
    while left:
        first = left[0].partition(".")[0] + "."
        if first[:-1] not in PREFIXES or not all(name.startswith(first) for name in left):
            break
        if any(name.startswith(prefix + first) for name in theirs):
            break
        prefix += first
        left = [name.removeprefix(first) for name in left]
    return prefix


#: Names that a whole model has once, by convention.
_ANCHORS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")


def prefix_advice(spec: ModelSpec, names: Collection[str]) -> str | None:
    """Return what to do where a model's names stand behind a prefix that not all tensors share."""
    anchors = (*_ANCHORS, *(t for c, t in spec.name_map if c == _ANCHORS[0]))
    prefixes = set()
    for name in names:
        for anchor in anchors:
            if name.endswith(f".{anchor}"):
                prefix = name.removesuffix(anchor)
                if anchor == _ANCHORS[1]:  # in whose own names these belong
                    prefix = re.sub(r"(^|\.)(vit|deit)\.$", r"\1", prefix)
                prefixes.add(prefix)
    prefixes -= {""}
    if not prefixes:
        return None
    options = " or ".join(f"--container {quoted(prefix[:-1])}" for prefix in sorted(prefixes))
    which = " and ".join(repr(quoted(prefix)) for prefix in sorted(prefixes))
    if len(prefixes) > 1:
        return f"names of models stand behind the prefixes {which}: choose one with {options}"
    if _ANCHORS[0] in names:
        return (
            f"besides the model without a prefix there is one behind {which}: give {options} to"
            " read that one, or save the other alone"
        )
    return (
        f"the names of a model stand behind the prefix {which}, which not every tensor has: give"
        f" {options} to read only those, or name all tensors in the name_map of a model file"
    )


# Naming conventions


_HF_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_HF_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}
# transformers up to 4: encoder.layer.N.attention.attention.query;
# from 5 on: layers.N.attention.q_proj.
_HF_LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")
_HF_QKV = re.compile(r"attention\.(?:attention\.(query|key|value)|([qkv])_proj)")


def _from_hugging_face(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for full, array in tensors.items():
        name = full.removeprefix("vit.").removeprefix("deit.")
        layer = _HF_LAYER.fullmatch(name)
        qkv = _HF_QKV.fullmatch(layer[2]) if layer else None
        if layer and qkv:
            target = f"blocks.{layer[1]}.attn.{qkv[2] or qkv[1][0]}.{layer[3]}"
        elif layer and layer[2] in _HF_BLOCK:
            target = f"blocks.{layer[1]}.{_HF_BLOCK[layer[2]]}.{layer[3]}"
        else:
            target = _HF_TOP.get(name, full)
        _put(found, target, array, full)
    return found


def _by_name_map(spec: ModelSpec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    translate: dict[str, str] = {}
    for name, theirs in spec.name_map:
        blocks = range(spec.depth) if "{i}" in name else range(1)
        for i in blocks:
            source, target = theirs.replace("{i}", str(i)), name.replace("{i}", str(i))
            if source in translate:
                raise ModelError(
                    f"Model field 'name_map' must use a name of the checkpoint once, not {source!r}"
                    f" for {translate[source]!r} and for {target!r}"
                )
            translate[source] = target
    absent = [theirs for theirs in translate if theirs not in tensors]
    if absent:
        near = {n: m[0] for n in absent if (m := difflib.get_close_matches(n, tensors, n=1))}
        hint = f"; the nearest of the checkpoint: {listing(list(near.values()))}" if near else ""
        raise CheckpointError(
            "Checkpoint must hold the names of the model file's name_map; missing:"
            f" {listing(absent)}{hint}"
        )
    found: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        _put(found, translate.get(name, name), array, name)
    return found


def _put(found: dict[str, np.ndarray], target: str, array: np.ndarray, source: str) -> None:
    if target in found:
        raise CheckpointError(
            f"Checkpoint must hold every tensor once; {quoted(source)!r} is a second"
            f" {quoted(target)!r}"
        )
    found[target] = array


def _check_names(spec: ModelSpec) -> None:
    """Refuse canonical names in name_map and transposed that no model has."""
    known = mappable_names(spec)
    matrices = [n for n in known if n.endswith(".weight") and "norm" not in n]
    for name_field, names, legal in (
        ("name_map", [name for name, _ in spec.name_map], known),
        ("transposed", spec.transposed, [n for n in matrices if "patch_embed" not in n]),
    ):
        for name in names:
            plain = re.sub(r"^blocks\.\d+\.", "blocks.{i}.", name)
            if plain not in legal:
                near = difflib.get_close_matches(plain, legal, n=3) or list(legal[:3])
                raise ModelError(
                    f"Model field {name_field!r} must have canonical names, not {name!r}; the"
                    f" nearest: {', '.join(near)}"
                )
    for name, theirs in spec.name_map:
        if ("{i}" in name) != ("{i}" in theirs):
            raise ModelError(
                "Model field 'name_map' must have '{i}' (the block's number) in both names or in"
                f" neither, not {name!r} and {theirs!r}"
            )


# Layouts


def _turn(spec: ModelSpec, found: dict[str, np.ndarray]) -> None:
    """Turn the matrices that are stored as [in, out]."""
    for name in spec.transposed:
        blocks = range(spec.depth) if "{i}" in name else range(1)
        for i in blocks:
            full = name.replace("{i}", str(i))
            if full in found and found[full].ndim == 2:
                found[full] = found[full].T


_QKV_PART = re.compile(r"(blocks\.\d+\.attn)\.([qkv])\.(weight|bias)")


def _join_qkv(
    spec: ModelSpec,
    found: dict[str, np.ndarray],
    assumed: dict[str, Assumption],
    notes: list[str],
) -> None:
    """Make one qkv of three tensors, and put its rows in the order (q k v, head, channel)."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name in list(found):
        if part := _QKV_PART.fullmatch(name):
            parts.setdefault(f"{part[1]}.qkv.{part[3]}", {})[part[2]] = found.pop(name)
    for name, three in parts.items():
        shape: tuple[int, ...] = (spec.attention_width,)
        if name.endswith("weight"):
            shape = (spec.attention_width, spec.width)
        absent = [letter for letter in "qkv" if letter not in three]
        wrong = [letter for letter in three if three[letter].shape != shape]
        if absent or wrong:
            raise CheckpointError(
                f"Checkpoint must give query, key and value of {name!r} with shape"
                f" {shape_text(shape)}; missing: {', '.join(absent) or 'none'}; wrong shape:"
                f" {', '.join(f'{n} {shape_text(three[n].shape)}' for n in wrong) or 'none'}"
            )
        _put(found, name, np.concatenate([three[letter] for letter in "qkv"]), f"{name} in parts")
    source = DEFAULT if spec.qkv_layout == DEFAULT_QKV_LAYOUT else FILE
    words = spec.qkv_layout.split(" ")
    if parts:
        inner = [word for word in words if word in ("head", "dim")]
        if words[0] != "qkv":
            raise ModelError(
                "Model field 'qkv_layout' must begin with 'qkv' for a checkpoint that has q, k and"
                f" v as tensors of their own, not {spec.qkv_layout!r}"
            )
        assumed["qkv_layout"] = Assumption(" ".join(inner), source)
    else:
        assumed["qkv_layout"] = Assumption(spec.qkv_layout, source)
        notes.append(f"rows of attn.qkv read in the order ({', '.join(words)})")
    if spec.qkv_layout != DEFAULT_QKV_LAYOUT:
        order = _qkv_rows(spec)
        for name, array in found.items():
            ours = re.fullmatch(r"blocks\.\d+\.attn\.qkv\.(weight|bias)", name)
            if ours and array.shape[:1] == order.shape:  # another length is a wrong shape
                found[name] = array[order]


def _qkv_rows(spec: ModelSpec) -> np.ndarray:
    """Row of the checkpoint for each row in the order (q k v, head, channel)."""
    words = spec.qkv_layout.split(" ")
    letters = next(word for word in words if word not in ("head", "dim"))
    sizes = {letters: 3, "head": spec.heads, "dim": spec.head_dim}
    rows = np.arange(3 * spec.attention_width).reshape([sizes[word] for word in words])
    rows = rows.transpose([words.index(word) for word in (letters, "head", "dim")])
    return rows[[letters.index(letter) for letter in "qkv"]].reshape(-1)


def _fit_embeddings(
    spec: ModelSpec,
    found: dict[str, np.ndarray],
    assumed: dict[str, Assumption],
    notes: list[str],
) -> None:
    """Give patch, position and class embedding their canonical axes."""
    kernel = found.get("patch_embed.proj.weight")
    if kernel is not None and kernel.shape == (spec.width, spec.patch_values):
        words = spec.patch_layout.split(" ")
        sizes = {"dy": spec.patch, "dx": spec.patch, "channel": spec.channels}
        kernel = kernel.reshape(spec.width, *(sizes[word] for word in words))
        axes = [1 + words.index(word) for word in ("channel", "dy", "dx")]
        found["patch_embed.proj.weight"] = kernel.transpose(0, *axes)
        notes.append(f"linear patch embedding read in the order ({', '.join(words)})")
        source = DEFAULT if spec.patch_layout == DEFAULT_PATCH_LAYOUT else FILE
        assumed["patch_layout"] = Assumption(spec.patch_layout, source)
    shapes = {"pos_embed": (1, spec.tokens, spec.width), "cls_token": (1, 1, spec.width)}
    for name, shape in shapes.items():
        array = found.get(name)
        # Axes of one element mean nothing: [tokens, width] is [1, tokens, width].
        if array is not None and _without_ones(array.shape) == _without_ones(shape):
            found[name] = array.reshape(shape)
    position = found.get("pos_embed")
    if (
        spec.class_token
        and "cls_token" in found
        and position is not None
        and _without_ones(position.shape) == _without_ones((spec.patches, spec.width))
    ):
        # A class token that no position is added to (timm's no_embed_class).
        rows = position.reshape(1, spec.patches, spec.width)
        found["pos_embed"] = np.concatenate([np.zeros_like(rows[:, :1]), rows], axis=1)
        notes.append("the position embedding has no row for the class token")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


# Advice and texts


def shape_advice(spec: ModelSpec, found: Mapping[str, np.ndarray]) -> str | None:
    """Return the model file that the shapes of a checkpoint fit, if one is found."""
    changes: dict[str, Any] = {
        "class_token": "cls_token" in found,
        "qkv_bias": "blocks.0.attn.qkv.bias" in found,
    }
    kernel, head = found.get("patch_embed.proj.weight"), found.get("head.weight")
    position, hidden = found.get("pos_embed"), found.get("blocks.0.mlp.fc1.weight")
    if kernel is not None and kernel.ndim == 4:
        changes["patch"] = kernel.shape[2]
    if head is not None and head.ndim == 2:
        changes["classes"] = head.shape[0]
    if hidden is not None and hidden.ndim == 2:
        changes["mlp_hidden"] = hidden.shape[0]
    if position is not None and position.ndim == 3:
        side = math.isqrt(max(0, position.shape[1] - int(changes["class_token"])))
        changes["image_size"] = side * changes.get("patch", spec.patch)
    blocks = {int(m[1]) for name in found if (m := re.match(r"blocks\.(\d{1,4})\.", name))}
    if blocks:
        changes["depth"] = max(blocks) + 1
    changes = {name: size for name, size in changes.items() if size != getattr(spec, name)}
    try:
        better = replace(spec, **changes)
    except ModelError:
        return None
    shapes = expected_shapes(better)
    optional = set(layer_scale_names(better))
    fits = all(n in found and found[n].shape == shape for n, shape in shapes.items())
    if not changes or not fits or set(found) - set(shapes) - optional:
        return None
    said = ", ".join(
        f'"{name}": {json.dumps(size)} (not {json.dumps(getattr(spec, name))})'
        for name, size in changes.items()
    )
    if spec.name_map:  # then there is a model file
        return f"the model file fits with {said}"
    return f"the tensors say {said}: a model file that fits is {model_file_text(better)}"


def transposed_advice(
    shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray]
) -> str | None:
    """Return how to say that matrices are stored as [in, out], if their shapes are those."""
    turned = {
        re.sub(r"^blocks\.\d+\.", "blocks.{i}.", name): None
        for name, shape in shapes.items()
        if name in found and len(shape) == 2 and shape[0] != shape[1]
        if found[name].shape == shape[::-1]
    }
    if not turned:
        return None
    names = json.dumps(list(turned))
    return (
        f'matrices stored as [in, out] (Conv1D, Keras, Flax): say so with "transposed": {names} in'
        " a model file, square ones of the same kind included"
    )
