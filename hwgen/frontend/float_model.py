# SPDX-License-Identifier: Apache-2.0
"""The floating-point model: one canonical naming, checked name by name, and its NumPy forward pass.

The canonical names are timm's (``blocks.0.attn.qkv.weight``, ...). Weights keep their checkpoint's
layout ``[out, in]``; LayerScale, where a checkpoint has it, is folded into ``attn.proj`` and
``mlp.fc2`` at load.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hwgen.errors import CheckpointError
from hwgen.graph.spec import ModelSpec

Tap = Callable[[str, np.ndarray], None]

#: More offending names than this are counted, not listed.
_MAX_LISTED = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatModel:
    """A Vision Transformer in floating point. Build it with :meth:`from_state_dict`."""

    spec: ModelSpec
    tensors: Mapping[
        str, np.ndarray
    ]  #: float32, canonical name -> array, every name of expected_shapes
    notes: tuple[str, ...] = ()  #: What the import did beyond copying: ignored or folded tensors.
    _float64: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def from_state_dict(cls, spec: ModelSpec, tensors: Mapping[str, np.ndarray]) -> FloatModel:
        """Return the model of a state dict in timm's, Hugging Face's or the spec's own naming.

        Raises:
            CheckpointError: missing, unexpected or wrongly shaped tensors, NaN or infinity, or a
                head that is not supported; every offending name is listed.
        """
        _refuse_unsupported(tensors)
        found, notes = _canonical(spec, tensors)
        expected = expected_shapes(spec)
        scales = {n: (spec.width,) for n in _layer_scale_names(spec)}
        problems: list[str] = []
        missing = [name for name in expected if name not in found]
        extra = [name for name in found if name not in expected and name not in scales]
        if missing:
            problems.append(f"missing: {_listing(missing)}")
        if extra:
            problems.append(f"not part of the model: {_listing(extra)}")
        shaped = {**expected, **scales}
        wrong = [
            f"{n} has {_shape(a.shape)}, must have {_shape(shaped[n])}"
            for n, a in found.items()
            if n in shaped and a.shape != shaped[n]
        ]
        if wrong:
            problems.append(f"wrong shape: {_listing(wrong)}")
        integers = [n for n, a in found.items() if n in shaped and a.dtype.kind != "f"]
        if integers:
            problems.append(f"not floating point: {_listing(integers)}")
        broken = [n for n, a in found.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
        if broken:
            problems.append(f"NaN or infinity in: {_listing(broken)}")
        if problems:
            raise CheckpointError(
                f"Checkpoint must fit model {spec.name!r} ({spec.depth} blocks of width"
                f" {spec.width}), which it does not: {'; '.join(problems)}"
            )
        out = {name: np.array(found[name], dtype=np.float32) for name in expected}
        folded = [name for name in scales if name in found]
        for name in folded:
            block = name.rsplit(".", 2)[0]
            target = f"{block}.attn.proj" if ".ls1." in name else f"{block}.mlp.fc2"
            gamma = found[name].astype(np.float32)
            out[f"{target}.weight"] *= gamma[:, None]
            out[f"{target}.bias"] *= gamma
        if folded:
            notes.append(f"LayerScale folded into proj and fc2 ({len(folded)} tensors)")
        for array in out.values():
            array.flags.writeable = False
        return cls(spec=spec, tensors=out, notes=tuple(notes))

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 images [n, H, W, channels] as ``(pixel / 255 - mean) / std``, float64."""
        spec = self.spec
        expected = (spec.image_size, spec.image_size, spec.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"Images must be uint8 [n, {', '.join(map(str, expected))}],"
                f" not {images.dtype} {_shape(images.shape)}"
            )
        return (images / 255.0 - np.asarray(spec.mean)) / np.asarray(spec.std)

    def forward(
        self, images: np.ndarray, *, dtype: type = np.float64, tap: Tap | None = None
    ) -> np.ndarray:
        """Return the logits [n, classes] of normalised images [n, H, W, channels].

        ``tap(name, array)`` receives every boundary, named as in the integer graph, batch axis
        first; besides, ``blocks.N.fc1`` (before the activation function) and
        ``norm.input`` (the class token's row of the last residual).
        """
        spec = self.spec
        get = self._parameters(dtype)
        see: Tap = tap if tap is not None else _no_tap
        n = images.shape[0]
        side, p = spec.image_size // spec.patch, spec.patch
        patches: np.ndarray = images.astype(dtype).reshape(n, side, p, side, p, spec.channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, spec.patches, spec.patch_values)
        kernel = get("patch_embed.proj.weight").transpose(2, 3, 1, 0).reshape(-1, spec.width)
        x = patches @ kernel + get("patch_embed.proj.bias")
        if spec.class_token:
            x = np.concatenate([np.broadcast_to(get("cls_token"), (n, 1, spec.width)), x], axis=1)
        x = x + get("pos_embed")
        see("embedding", x)
        for i in range(spec.depth):
            x = self._block(f"blocks.{i}", x, get, see)
        if spec.pooling == "class_token":
            x = x[:, :1]
            see("norm.input", x)
        x = _layer_norm(x, get("norm.weight"), get("norm.bias"), spec.layer_norm_epsilon)
        see("norm", x)
        if spec.pooling == "mean":
            x = x[:, int(spec.class_token) :].mean(axis=1, keepdims=True)
            see("pool", x)
        x = x @ get("head.weight").T + get("head.bias")
        see("head", x)
        return x[:, 0]

    def classify(self, images: np.ndarray, *, batch: int = 32) -> np.ndarray:
        """Return the float logits [n, classes] of uint8 images, ``batch`` at a time."""
        parts = [
            self.forward(self.preprocess(images[i : i + batch]))
            for i in range(0, len(images), batch)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.spec.classes))

    def _parameters(self, dtype: type) -> Callable[[str], np.ndarray]:
        if dtype == np.float32:
            return self.tensors.__getitem__
        if not self._float64:
            self._float64.update({n: a.astype(np.float64) for n, a in self.tensors.items()})
        return self._float64.__getitem__

    def _block(
        self, name: str, x: np.ndarray, get: Callable[[str], np.ndarray], see: Tap
    ) -> np.ndarray:
        spec = self.spec
        n, tokens, _ = x.shape
        eps = spec.layer_norm_epsilon
        y = _layer_norm(x, get(f"{name}.norm1.weight"), get(f"{name}.norm1.bias"), eps)
        see(f"{name}.norm1", y)
        y = y @ get(f"{name}.attn.qkv.weight").T
        if spec.qkv_bias:
            y = y + get(f"{name}.attn.qkv.bias")
        parts = np.split(y, 3, axis=-1)
        for letter, part in zip("qkv", parts, strict=True):
            see(f"{name}.{letter}", part)
        q, k, v = (
            a.reshape(n, tokens, spec.heads, spec.head_dim).transpose(0, 2, 1, 3) for a in parts
        )
        logits = (q @ k.transpose(0, 1, 3, 2)) * (spec.head_dim**-0.5)
        see(f"{name}.logits", logits)
        codes = np.exp(logits - logits.max(axis=-1, keepdims=True))
        codes /= codes.sum(axis=-1, keepdims=True)
        see(f"{name}.softmax", codes)
        y = (codes @ v).transpose(0, 2, 1, 3).reshape(n, tokens, spec.attention_width)
        see(f"{name}.attention", y)
        x = x + y @ get(f"{name}.attn.proj.weight").T + get(f"{name}.attn.proj.bias")
        see(f"{name}.residual1", x)
        y = _layer_norm(x, get(f"{name}.norm2.weight"), get(f"{name}.norm2.bias"), eps)
        see(f"{name}.norm2", y)
        y = y @ get(f"{name}.mlp.fc1.weight").T + get(f"{name}.mlp.fc1.bias")
        see(f"{name}.fc1", y)
        y = activation(spec.activation, y)
        see(f"{name}.gelu", y)
        x = x + y @ get(f"{name}.mlp.fc2.weight").T + get(f"{name}.mlp.fc2.bias")
        see(f"{name}.residual2", x)
        return x


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return every canonical tensor of a model and its shape."""
    w, a, h = spec.width, spec.attention_width, spec.mlp_hidden
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (w, spec.channels, spec.patch, spec.patch),
        "patch_embed.proj.bias": (w,),
        "pos_embed": (1, spec.tokens, w),
    }
    if spec.class_token:
        shapes["cls_token"] = (1, 1, w)
    for i in range(spec.depth):
        block = {
            "norm1.weight": (w,),
            "norm1.bias": (w,),
            "attn.qkv.weight": (3 * a, w),
            "attn.qkv.bias": (3 * a,),
            "attn.proj.weight": (w, a),
            "attn.proj.bias": (w,),
            "norm2.weight": (w,),
            "norm2.bias": (w,),
            "mlp.fc1.weight": (h, w),
            "mlp.fc1.bias": (h,),
            "mlp.fc2.weight": (w, h),
            "mlp.fc2.bias": (w,),
        }
        if not spec.qkv_bias:
            del block["attn.qkv.bias"]
        shapes.update({f"blocks.{i}.{name}": shape for name, shape in block.items()})
    shapes |= {"norm.weight": (w,), "norm.bias": (w,)}
    shapes |= {"head.weight": (spec.classes, w), "head.bias": (spec.classes,)}
    return shapes


# Error function: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26
# (|error| <= 1.5e-7).
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def erf(x: np.ndarray) -> np.ndarray:
    """Return the error function, element by element; absolute error at most 1.5e-7.

    For the float model's activations, of which there are millions; :func:`exact_activation` is for
    what ends up in a table.
    """
    m = np.abs(x)
    t = 1.0 / (1.0 + 0.3275911 * m)
    poly = t * (_ERF[0] + t * (_ERF[1] + t * (_ERF[2] + t * (_ERF[3] + t * _ERF[4]))))
    out: np.ndarray = np.copysign(1.0 - poly * np.exp(-m * m), x)
    return out


def activation(kind: str, x: np.ndarray) -> np.ndarray:
    """Return the activation function ``gelu_erf``, ``gelu_tanh`` or ``relu`` of ``x``."""
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


def exact_activation(kind: str, x: np.ndarray) -> np.ndarray:
    """Return :func:`activation` of few values with the C library's error function."""
    if kind != "gelu_erf":
        return activation(kind, x)
    return np.array([0.5 * v * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])


def _layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> np.ndarray:
    d = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(d * d, axis=-1, keepdims=True)
    return d / np.sqrt(variance + eps) * gamma + beta


def _no_tap(name: str, array: np.ndarray) -> None:
    del name, array


def _layer_scale_names(spec: ModelSpec) -> list[str]:
    return [f"blocks.{i}.{ls}.gamma" for i in range(spec.depth) for ls in ("ls1", "ls2")]


_REFUSED = {
    "head_dist": "a distillation head",
    "dist_token": "a distillation token",
    "distillation_token": "a distillation token",
    "fc_norm": "a LayerNorm after pooling (timm's fc_norm)",
    "norm_pre": "a LayerNorm before the blocks",
    "q_norm": "normalised queries and keys",
    "k_norm": "normalised queries and keys",
    "reg_token": "register tokens",
    "attn_pool": "attention pooling",
    "relative_position_bias_table": "relative position biases",
}


def _refuse_unsupported(tensors: Mapping[str, np.ndarray]) -> None:
    for name in tensors:
        for part in name.split("."):
            what = _REFUSED.get(part)
            if what is not None:
                raise CheckpointError(
                    f"Checkpoint must be a plain ViT or DeiT, without {what}, not one with"
                    f" {name!r}; use the variant without it (for DeiT: deit_*_patch16_224, not"
                    " deit_*_distilled_*)"
                )


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


def _canonical(
    spec: ModelSpec, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the tensors under timm's names; what is not recognised keeps its own."""
    notes: list[str] = []
    if spec.name_map:
        found = _by_name_map(spec, tensors)
    elif any(
        name.startswith(("vit.", "deit.")) or ".layernorm_before." in name for name in tensors
    ):
        found = _from_hugging_face(spec, tensors, notes)
    else:
        found = dict(tensors)
    kernel = found.get("patch_embed.proj.weight")
    if kernel is not None and kernel.shape == (spec.width, spec.patch_values):
        # A linear patch embedding, values in the order (dy, dx, channel).
        found["patch_embed.proj.weight"] = kernel.reshape(
            spec.width, spec.patch, spec.patch, spec.channels
        ).transpose(0, 3, 1, 2)
        notes.append("linear patch embedding read in the order (dy, dx, channel)")
    return found, notes


def _from_hugging_face(
    spec: ModelSpec, tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    ignored = []
    for full, array in tensors.items():
        name = full.removeprefix("vit.").removeprefix("deit.")
        if name.startswith("pooler."):
            ignored.append(full)
            continue
        layer = _HF_LAYER.fullmatch(name)
        qkv = _HF_QKV.fullmatch(layer[2]) if layer else None
        if layer and qkv:
            letter = qkv[2] or qkv[1][0]
            parts.setdefault(f"blocks.{layer[1]}.attn.qkv.{layer[3]}", {})[letter] = array
        elif layer and layer[2] in _HF_BLOCK:
            found[f"blocks.{layer[1]}.{_HF_BLOCK[layer[2]]}.{layer[3]}"] = array
        else:
            found[_HF_TOP.get(name, full)] = array
    for name, three in parts.items():
        shape: tuple[int, ...] = (spec.attention_width,)
        if name.endswith("weight"):
            shape = (spec.attention_width, spec.width)
        absent = [letter for letter in "qkv" if letter not in three]
        wrong = [letter for letter in three if three[letter].shape != shape]
        if absent or wrong:
            raise CheckpointError(
                f"Checkpoint must give query, key and value of {name!r} with shape {_shape(shape)};"
                f" missing: {absent or 'none'}; wrong shape: {wrong or 'none'}"
            )
        found[name] = np.concatenate([three[letter] for letter in "qkv"])
    if ignored:
        notes.append(f"ignored (the classifier does not use them): {_listing(sorted(ignored))}")
    return found


def _by_name_map(spec: ModelSpec, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    translate: dict[str, str] = {}
    for canonical, theirs in spec.name_map:
        blocks = range(spec.depth) if "{i}" in canonical else range(1)
        for i in blocks:
            translate[theirs.replace("{i}", str(i))] = canonical.replace("{i}", str(i))
    absent = [theirs for theirs in translate if theirs not in tensors]
    if absent:
        raise CheckpointError(
            "Checkpoint must hold the names of the model file's name_map; missing:"
            f" {_listing(absent)}"
        )
    return {translate.get(name, name): array for name, array in tensors.items()}


def _listing(names: list[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
