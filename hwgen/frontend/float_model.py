# SPDX-License-Identifier: Apache-2.0
"""The floating-point model: one canonical naming, checked name by name, and its NumPy forward pass.

Names and layouts are those of :mod:`hwgen.frontend.naming`. LayerScale, where a checkpoint has it,
is folded into ``attn.proj`` and ``mlp.fc2`` at load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hwgen.errors import CheckpointError
from hwgen.frontend.naming import (
    canonical,
    expected_shapes,
    layer_scale_names,
    parameter_of,
    prefix_advice,
    shape_advice,
    transposed_advice,
)
from hwgen.frontend.statements import DEFAULT
from hwgen.frontend.texts import listing, shape_text
from hwgen.graph.assumption import Assumption
from hwgen.graph.network import network_of
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Softmax,
    last_uses,
)
from hwgen.graph.ops.heads import join_heads, split_heads
from hwgen.graph.spec import ModelSpec

Tap = Callable[[str, np.ndarray], None]

#: Fields of the specification that no tensor's shape says.
_UNSAID = (
    "image_size",
    "mean",
    "std",
    "crop_fraction",
    "resize_mode",
    "interpolation",
    "heads",
    "head_dim",
    "activation",
    "layer_norm_epsilon",
    "pooling",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatModel:
    """A Vision Transformer in floating point. Build it with :meth:`from_state_dict`."""

    spec: ModelSpec
    tensors: Mapping[
        str, np.ndarray
    ]  #: float32, canonical name -> array, every name of expected_shapes
    notes: tuple[str, ...] = ()  #: What the import did beyond copying: ignored or folded tensors.
    #: What the tensors do not say: name -> value and source.
    assumed: Mapping[str, Assumption] = field(default_factory=dict)
    _float64: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def from_state_dict(
        cls,
        spec: ModelSpec,
        tensors: Mapping[str, np.ndarray],
        *,
        sources: Mapping[str, str] | None = None,
        assumed: Mapping[str, Assumption] | None = None,
    ) -> FloatModel:
        """Return the model of a state dict in timm's, Hugging Face's or the spec's own naming.

        Args:
            spec: what the tensors must be, and what they do not say.
            tensors: the state dict.
            sources: where the specification's fields are from; the others have defaults.
            assumed: what was taken for granted in reading the tensors.

        Raises:
            CheckpointError: missing, unexpected or wrongly shaped tensors, NaN or infinity, or a
                network that is not supported; every offending name is listed.
        """
        read = canonical(spec, tensors)
        found, notes = read.tensors, read.notes
        expected = expected_shapes(spec)
        scales = {n: (spec.width,) for n in layer_scale_names(spec)}
        problems: list[str] = []
        missing = [name for name in expected if name not in found]
        extra = [name for name in found if name not in expected and name not in scales]
        if missing:
            problems.append(f"missing: {listing(missing)}")
        if extra:
            problems.append(f"not part of the model: {listing(extra)}")
        shaped = {**expected, **scales}
        wrong = [
            f"{n} has {shape_text(a.shape)}, must have {shape_text(shaped[n])}"
            for n, a in found.items()
            if n in shaped and a.shape != shaped[n]
        ]
        if wrong:
            problems.append(f"wrong shape: {listing(wrong)}")
        misfit = bool(problems)
        integers = [n for n, a in found.items() if n in shaped and a.dtype.kind != "f"]
        if integers:
            problems.append(f"not floating point: {listing(integers)}")
        broken = [n for n, a in found.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
        if broken:
            problems.append(f"NaN or infinity in: {listing(broken)}")
        if misfit and (advice := prefix_advice(spec, found)):
            problems = [advice]  # every name is missing and another one surplus
        elif misfit:
            hints = (transposed_advice(expected, found), shape_advice(spec, found))
            problems += filter(None, hints)
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
        taken = {**_assumed_fields(spec, sources or {}), **read.assumed, **(assumed or {})}
        return cls(spec=spec, tensors=out, notes=tuple(notes), assumed=taken)

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 images [n, H, W, channels] as ``(pixel / 255 - mean) / std``, float64."""
        spec = self.spec
        expected = (spec.image_size, spec.image_size, spec.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"Images must be uint8 [n, {', '.join(map(str, expected))}],"
                f" not {images.dtype} {shape_text(images.shape)}"
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
        get = self._parameters(dtype)
        see: Tap = tap if tap is not None else _no_tap
        ops = network_of(self.spec).ops
        images = images.astype(dtype)
        values: dict[str, np.ndarray] = {}
        for op, freed in zip(ops, last_uses(ops), strict=True):
            made = self._compute(op, values, images, get, see)
            for name, array in made.items():
                if not isinstance(op, ImageCodes):  # no boundary: the pixels themselves
                    see(name, array)
                values[name] = array
            for name in freed:
                values.pop(name, None)
        return values[ops[-1].output][:, 0]

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

    def _compute(
        self,
        op: Op,
        values: Mapping[str, np.ndarray],
        images: np.ndarray,
        get: Callable[[str], np.ndarray],
        see: Tap,
    ) -> dict[str, np.ndarray]:
        """The outputs of one operation, as real numbers."""
        spec = self.spec
        parameter = parameter_of(op.name)
        match op:
            case ImageCodes():
                return {op.output: _patches(spec, images)}
            case Embedding():
                kernel = get(f"{parameter}.weight").transpose(2, 3, 1, 0).reshape(-1, spec.width)
                x = values[op.input] @ kernel + get(f"{parameter}.bias")
                if op.class_token:
                    row = np.broadcast_to(get("cls_token"), (len(x), 1, spec.width))
                    x = np.concatenate([row, x], axis=1)
                return {op.output: x + get("pos_embed")}
            case LayerNorm():
                x = values[op.input]
                if op.rows is not None:
                    x = x[:, : op.rows]
                    see(f"{op.name}.input", x)
                gamma, beta = get(f"{parameter}.weight"), get(f"{parameter}.bias")
                return {op.output: _layer_norm(x, gamma, beta, spec.layer_norm_epsilon)}
            case QueryKeyValue():
                y = values[op.input] @ get(f"{parameter}.weight").T
                if spec.qkv_bias:
                    y = y + get(f"{parameter}.bias")
                return dict(zip(op.outputs, np.split(y, 3, axis=-1), strict=True))
            case AttentionLogits():
                q, k = (split_heads(values[name], op.heads) for name in op.inputs)
                return {op.output: (q @ k.transpose(0, 1, 3, 2)) * (spec.head_dim**-0.5)}
            case Softmax():
                logits = values[op.input]
                codes = np.exp(logits - logits.max(axis=-1, keepdims=True))
                codes /= codes.sum(axis=-1, keepdims=True)
                return {op.output: codes}
            case AttentionValues():
                y = values[op.codes] @ split_heads(values[op.value], op.heads)
                return {op.output: join_heads(y)}
            case Linear():
                y = values[op.input] @ get(f"{parameter}.weight").T
                if op.residual is not None:
                    y = values[op.residual] + y
                y = y + get(f"{parameter}.bias")
                if op.table is not None:
                    see(op.name, y)
                    y = activation(spec.activation, y)
                return {op.output: y}
            case MeanPool():
                return {op.output: values[op.input][:, op.first :].mean(axis=1, keepdims=True)}
            case _:
                raise TypeError(f"Operation must be a known one, not {type(op).__name__}")


def _patches(spec: ModelSpec, images: np.ndarray) -> np.ndarray:
    """[n, H, W, channels] -> [n, patches, patch * patch * channels]."""
    side, p = spec.image_size // spec.patch, spec.patch
    pixels = images.reshape(len(images), side, p, side, p, spec.channels)
    pixels = pixels.transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(len(images), spec.patches, spec.patch_values)


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


def _assumed_fields(spec: ModelSpec, sources: Mapping[str, str]) -> dict[str, Assumption]:
    """What the specification says and the tensors do not, and what every ViT here has."""
    taken = {name: Assumption(getattr(spec, name), sources.get(name, DEFAULT)) for name in _UNSAID}
    taken["norm_order"] = Assumption("pre-norm: attention, then MLP", DEFAULT)
    taken["attention_scale"] = Assumption("1/sqrt(head_dim)", DEFAULT)
    if spec.class_token:
        taken["class_token_position"] = Assumption("first", DEFAULT)
    if spec.channels == 3:
        taken["channel_order"] = Assumption("RGB", DEFAULT)
    if spec.transposed:
        taken["transposed"] = Assumption(spec.transposed, sources.get("transposed", DEFAULT))
    else:
        taken["transposed"] = Assumption("none: matrices are [out, in]", DEFAULT)
    return taken


def _no_tap(name: str, array: np.ndarray) -> None:
    del name, array
