# SPDX-License-Identifier: Apache-2.0
"""Post-training static quantisation: FloatModel and calibration images -> IntegerGraph.

NumPy only. Weights symmetric per output channel, int8 activations with one static scale per
tensor, one int16 residual stream, power-of-two factors (PTF, FQ-ViT, IJCAI 2022) in front of every
LayerNorm.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hwgen.errors import CheckpointError, UsageError
from hwgen.frontend.calibration import (
    Boundary,
    Calibration,
    affine_scale,
    calibrate,
    snap,
    symmetric_scale,
)
from hwgen.frontend.float_model import FloatModel, activation, exact_activation
from hwgen.graph.graph import GraphMetadata, IntegerGraph
from hwgen.graph.interpreter import clipped_logits, execute
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    DataType,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Requantise,
    Softmax,
    Tensor,
)
from hwgen.graph.spec import ModelSpec
from hwgen.graph.weight_bits import (
    NARROWEST,
    WIDEST,
    Width,
    channel_bits,
    layer_names,
    widest,
)
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.fractional_softmax import SHIFT_ROOM
from hwgen.numerics.requantise import BIASED_BITS, SHIFT_MAXIMUM, ptf_codes
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction

__all__ = ["Calibration", "calibrate", "layer_names", "quantise", "quantise_weights"]

Squares = Literal["compressed", "exact"]

#: The residual stream may grow by this factor beyond what calibration saw before it saturates.
RESIDUAL_HEADROOM = 1.5
#: Likewise the head's logits.
HEAD_HEADROOM = 2.0
#: Fraction of attention logits that may lie beyond the int8 range.
LOGIT_EXCESS = 1e-4
#: Fraction of the integer network's attention logits that saturate, above which there is a warning.
LOGIT_WARNING = 1e-3
#: |mean| / sigma of a LayerNorm input beyond which compressed squares lose accuracy.
MEAN_TO_SIGMA_LIMIT = 2.0
#: A ratio of scales is below this: from here on a multiplier rounds to 2^16 and its shift to 0.
RATIO_LIMIT = 2.0**15 - 0.25
_BETA_FRACTION_BITS = 8
#: With a layer this narrow the quantiser tries with and without bias correction.
_UNCERTAIN_BITS = 2


def quantise(
    model: FloatModel,
    images: np.ndarray | Calibration,
    *,
    weight_bits: int | Mapping[str, Width] = 8,
    squares: Squares = "compressed",
    softmax: SoftmaxFunction = DEFAULT_FUNCTION,
    image_source: str = "unknown",
) -> IntegerGraph:
    """Return the integer graph of a model.

    Args:
        model: the float model.
        images: calibration images uint8 [n, H, W, channels], or their :func:`calibrate` result.
        weight_bits: 1..8. A number holds for the encoder's matrices (patch embedding and head stay
            at 8); a mapping from :func:`layer_names` to widths may name any layer, the others
            have 8.
        squares: AILayerNorm's mode.
        softmax: the softmax of the network; it cannot be changed afterwards, for everything behind
            it is calibrated with it.
        image_source: where the images come from, for the reports.

    Raises:
        UsageError: an unknown layer or an illegal width.
        CheckpointError: a weight or bias that the integer formats cannot represent.
    """
    widths = _layer_widths(model.spec, weight_bits)
    statistics = images if isinstance(images, Calibration) else calibrate(model, images)
    builder = _Builder(model, statistics, widths, squares, softmax)
    builder.build()
    if min(map(_narrowest, widths.values())) <= _UNCERTAIN_BITS:
        # The means of the integer network now differ so much from the float one's that correcting
        # them may do harm (measured at W1: +24 % of top-1 on one model, -16 % on another).
        plain = _Builder(model, statistics, widths, squares, softmax, correct_bias=False)
        plain.build()
        if plain.loss() < builder.loss():
            builder = plain
    metadata = GraphMetadata(
        image_source=image_source,
        calibration_images=statistics.images,
        checkpoint_digest=checkpoint_digest(model),
        squares=squares,
        warnings=tuple(builder.warnings),
        notes=model.notes,
        logit_saturation=builder.logit_saturation,
        assumed=model.assumed,
    )
    return IntegerGraph(
        spec=model.spec, ops=tuple(builder.ops), tensors=builder.tensors, metadata=metadata
    )


def quantise_weights(
    weights: np.ndarray, bits: int, importance: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes int8 [K, N] and scales float64 [N] of weights [K, N].

    Symmetric per column. 1 bit: sign times mean magnitude, sign(0) = +1. 2..6 bits: the clip level
    with the least error, each input weighed by ``importance`` [K] (its mean square). 7 and 8 bits:
    the largest magnitude. A scale is never below ``least`` [N]; a column of zeros gets ``least``.
    """
    w = weights.astype(np.float64)
    if bits == 1:
        scale = np.maximum(_snap_all(np.abs(w).mean(axis=0)), least)
        return np.where(w < 0, -1, 1).astype(np.int8), scale
    limit = (1 << (bits - 1)) - 1
    peak = np.abs(w).max(axis=0)
    scale = peak / limit
    if bits <= 6:
        scale = _search_scales(w, limit, peak, importance)
    scale = np.maximum(_snap_all(scale), least)
    divisor = np.where(scale > 0, scale, 1.0)
    codes = np.clip(np.rint(w / divisor), -limit, limit)
    return codes.astype(np.int8), scale


def _search_scales(
    w: np.ndarray, limit: int, peak: np.ndarray, importance: np.ndarray
) -> np.ndarray:
    h = importance[:, None]
    best = np.full(w.shape[1], np.inf)
    out = peak / limit
    for factor in np.linspace(1.0, 0.3, 24):
        scale = np.where(peak > 0, peak * factor / limit, 1.0)
        codes = np.clip(np.rint(w / scale), -limit, limit)
        # With the codes fixed the best scale is a least-squares fit.
        weighed = codes * h
        norm = (weighed * codes).sum(axis=0)
        scale = np.where(norm > 0, (weighed * w).sum(axis=0) / np.where(norm > 0, norm, 1), scale)
        codes = np.clip(np.rint(w / np.where(scale > 0, scale, 1.0)), -limit, limit)
        error = (h * (codes * scale - w) ** 2).sum(axis=0)
        better = (error < best) & (scale > 0)
        best, out = np.where(better, error, best), np.where(better, scale, out)
    return out


def _snap_all(scales: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(scales)
    out: np.ndarray = np.ldexp(np.rint(mantissa * 4096) / 4096, exponent)
    return out


def _narrowest(width: Width) -> int:
    return width if isinstance(width, int) else min(bits for bits, _ in width)


def _layer_widths(spec: ModelSpec, weight_bits: int | Mapping[str, Width]) -> dict[str, Width]:
    names = layer_names(spec)
    widths: dict[str, Width] = dict.fromkeys(names, WIDEST)
    if isinstance(weight_bits, Mapping):
        for name in weight_bits:
            if name not in widths:
                near = difflib.get_close_matches(name, names, n=3) or names[:3]
                raise UsageError(
                    f"Weight widths must be given for layers of the model, not {name!r};"
                    f" the nearest: {', '.join(near)}"
                )
        widths.update(weight_bits)
    else:
        widths.update(dict.fromkeys(names[1:-1], weight_bits))
    for name, width in widths.items():
        for bits in [bits for bits, _ in width] if isinstance(width, tuple) else [width]:
            if type(bits) is not int or not NARROWEST <= bits <= WIDEST:
                raise UsageError(
                    f"Weight width of {name!r} must be an integer in {NARROWEST}..{WIDEST},"
                    f" not {bits!r}"
                )
    return widths


def checkpoint_digest(model: FloatModel) -> str:
    """SHA-256 of the tensors: canonical names and float32 values."""
    digest = hashlib.sha256()
    for name in sorted(model.tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(model.tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Codes:
    """Scale and zero point of one int8 tensor."""

    scale: float
    zero_point: int = 0


@dataclass(eq=False)
class _Builder:
    """Builds the operations in order; holds what they share."""

    model: FloatModel
    statistics: Calibration
    widths: Mapping[str, Width]
    squares: Squares
    softmax: SoftmaxFunction
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    logit_saturation: dict[str, float] = field(default_factory=dict)
    correct_bias: bool = True
    residual_scale: float = 1.0
    values: dict[str, np.ndarray] = field(default_factory=dict)  #: of the probes, as far as built

    def build(self) -> None:
        """Quantise the whole network."""
        spec = self.model.spec
        self.residual_scale = self._residual_scale()
        self._embedding()
        stream = "embedding"
        for i in range(spec.depth):
            stream = self._block(f"blocks.{i}", stream)
            self.values = {stream: self.values[stream]}
        self._classifier(stream)

    def loss(self) -> float:
        """Return the mean squared error of the logits on the probes."""
        got = self.values["head"][:, 0] * self.tensors["head"].scale
        return float(np.mean((got - self.statistics.probe_logits) ** 2))

    # Shared steps

    def _append(self, op: Op) -> None:
        """Add an operation and run it on the probes."""
        self.ops.append(op)
        self.values.update(execute(op, self.values, self.statistics.probes))

    def _see(self, name: str) -> Boundary:
        return self.statistics.boundaries[name]

    def _weights(self, name: str) -> np.ndarray:
        """Weights [K, N] of a linear layer, float64."""
        return self.model.tensors[f"{name}.weight"].astype(np.float64).T

    def _bias(self, name: str, columns: int) -> np.ndarray:
        bias = self.model.tensors.get(f"{name}.bias")
        return np.zeros(columns) if bias is None else bias.astype(np.float64)

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: DataType, codes: _Codes) -> None:
        self.tensors[name] = Tensor(
            name=name, shape=shape, dtype=dtype, scale=codes.scale, zero_point=codes.zero_point
        )

    def _residual_scale(self) -> float:
        """One scale for the whole stream: its largest magnitude anywhere, and the constants'."""
        names = [n for n in self.statistics.boundaries if "residual" in n or n == "embedding"]
        peak = max(self._see(name).peak for name in names)
        peak = max(peak, float(np.abs(self._position()).max()))
        if peak == 0:
            raise CheckpointError("Residual stream must not be zero everywhere: the model is dead")
        return snap(RESIDUAL_HEADROOM * peak / 32767)

    def _position(self) -> np.ndarray:
        """Constants that the residual memory starts with, float64 [tokens, width]."""
        position: np.ndarray = self.model.tensors["pos_embed"][0].astype(np.float64)
        if self.model.spec.class_token:
            position[0] += self.model.tensors["cls_token"][0, 0]
        return position

    def _width_fields(self, layer: str, columns: int) -> dict[str, Any]:
        """The fields of an operation that say the widths of its weights."""
        width = self.widths[layer]
        fields: dict[str, Any] = {"weight_bits": widest(width)}
        if not isinstance(width, int):
            parts = 3 if layer.endswith(".qkv") else 1
            fields["channel_bits"] = channel_bits(width, columns, parts=parts)
        return fields

    def _codes(
        self, layer: str, weights: np.ndarray, importance: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """:func:`quantise_weights` with every output channel's own width."""
        fields = self._width_fields(layer, weights.shape[1])
        if "channel_bits" not in fields:
            return quantise_weights(weights, fields["weight_bits"], importance, least)
        codes = np.empty(weights.shape, np.int8)
        scales = np.empty(weights.shape[1])
        for bits in np.unique(fields["channel_bits"]):
            chosen = fields["channel_bits"] == bits
            codes[:, chosen], scales[chosen] = quantise_weights(
                weights[:, chosen], int(bits), importance, least[chosen]
            )
        return codes, scales

    def _columns(
        self,
        layer: str,
        weights: np.ndarray,
        bias: np.ndarray,
        source: _Codes,
        target: np.ndarray | float,
        *,
        boundary: str | None,
        output_zero_point: int = 0,
        low: int = -128,
    ) -> tuple[np.ndarray, Requantise]:
        """Return weight codes int8 [K, N] and requantise constants of a layer.

        ``target`` is the output's scale (one, or per column); ``boundary`` names the layer's input,
        ``None`` stands for the pixels.
        """
        columns = weights.shape[1]
        inputs = self.values["image_codes" if boundary is None else boundary]
        integer_mean = inputs.reshape(-1, inputs.shape[-1]).mean(axis=0, dtype=np.float64)
        integer_mean = (integer_mean - source.zero_point) * source.scale
        if boundary is None:
            mean, importance = integer_mean, np.ones(len(weights))
        else:
            mean = self.statistics.probe_means[boundary]
            importance = self._see(boundary).second_moment
        target = np.broadcast_to(np.asarray(target, dtype=np.float64), (columns,))
        # Below this scale the bias would leave too little of the requantise lanes' 27 bits to the
        # accumulator, or the multiplier's shift its range.
        least = np.maximum(
            np.abs(bias) / (source.scale * 2.0 ** (BIASED_BITS - 3)),
            target * 2.0**-30 / source.scale,
        )
        codes, scales = self._codes(layer, weights, importance, least)
        unused = (np.abs(weights).max(axis=0) == 0) & (bias == 0)
        ratio = source.scale * scales / target
        too_large = ~(ratio < RATIO_LIMIT)
        if too_large.any():
            column = int(np.argmax(too_large))
            raise CheckpointError(
                f"Weights of layer {layer!r} must be small enough for a 16-bit multiplier;"
                f" column {column} (largest magnitude {np.abs(weights[:, column]).max():.3g}) is"
                f" not: one weight step is {ratio[column]:.6g} output codes, at most 32767 can be"
                " represented"
            )
        multiplier, shift = _multipliers(ratio)
        multiplier[unused] = 0
        if self.correct_bias:
            # The mean over the probes becomes the float layer's: the bias takes back the constant
            # part of the error, the rounded weights' and that of everything in front of them.
            bias = bias + mean @ weights - integer_mean @ (codes * scales)
        integer = np.rint(bias / (source.scale * scales))
        integer -= source.zero_point * codes.astype(np.float64).sum(axis=0)
        integer[unused] = 0
        worst = np.abs(integer) + 128 * np.abs(codes.astype(np.float64)).sum(axis=0)
        if not (worst < 2.0**31).all():
            column = int(np.argmax(worst))
            raise CheckpointError(
                f"Bias of layer {layer!r} must fit 32-bit accumulators; that of column {column}"
                f" ({bias[column]:.3g}, {integer[column]:.3g} accumulator steps) does not"
            )
        return codes, Requantise(
            bias=integer.astype(np.int32),
            multiplier=multiplier,
            shift=shift,
            zero_point=output_zero_point,
            low=low,
        )

    # The parts of the network

    def _embedding(self) -> None:
        spec = self.model.spec
        self._append(ImageCodes(name="image_codes", output="image_codes", patch=spec.patch))
        pixels = _Codes(scale=1.0)
        self._tensor("image_codes", (spec.patches, spec.patch_values), "int8", pixels)
        # d = pixel - 128; x = (pixel / 255 - mean) / std
        #                    = d / (255 std) + (128 / 255 - mean) / std
        kernel = self.model.tensors["patch_embed.proj.weight"].astype(np.float64)
        kernel = kernel.transpose(2, 3, 1, 0)  # [dy, dx, channel, width]
        mean, std = np.asarray(spec.mean), np.asarray(spec.std)
        bias = self._bias("patch_embed.proj", spec.width)
        bias = bias + np.einsum("yxcw,c->w", kernel, (128 / 255 - mean) / std)
        weights = (kernel / (255 * std)[:, None]).reshape(spec.patch_values, spec.width)
        codes, requantise = self._columns(
            "embedding", weights, bias, pixels, self.residual_scale, boundary=None
        )
        position = np.rint(self._position() / self.residual_scale).astype(np.int16)
        self._append(
            Embedding(
                name="embedding",
                output="embedding",
                input="image_codes",
                weights=codes,
                **self._width_fields("embedding", codes.shape[1]),
                requantise=requantise,
                position=position,
                class_token=spec.class_token,
            )
        )
        self._stream("embedding")

    def _stream(self, name: str) -> None:
        spec = self.model.spec
        self._tensor(name, (spec.tokens, spec.width), "int16", _Codes(scale=self.residual_scale))

    def _block(self, name: str, stream: str) -> str:
        spec = self.model.spec
        tokens, inner = spec.tokens, spec.attention_width
        norm1 = self._layer_norm(f"{name}.norm1", stream)
        scales = self._query_key_value(name, norm1)
        fraction_bits = self._attention_logits(name, scales)
        softmax = Softmax(
            name=f"{name}.softmax",
            output=f"{name}.softmax",
            input=f"{name}.logits",
            fraction_bits=fraction_bits,
            function=self.softmax,
        )
        self._append(softmax)
        self._tensor(
            f"{name}.softmax", (spec.heads, tokens, tokens), "uint8", _Codes(scale=2.0**-8)
        )
        if softmax.shifts is not None:
            self._tensor(softmax.shifts, (spec.heads, tokens), "uint8", _Codes(scale=1.0))
        seen = self._see(f"{name}.attention")
        attention = _Codes(scale=symmetric_scale(seen.rows, seen.peak))
        multiplier, shift = _multiplier(
            scales[2] * 2.0**-8 / attention.scale,
            f"{name}.attention",
            room=SHIFT_ROOM if softmax.shifts else 0,
        )
        self._append(
            AttentionValues(
                name=f"{name}.attention",
                output=f"{name}.attention",
                codes=f"{name}.softmax",
                value=f"{name}.v",
                heads=spec.heads,
                multiplier=multiplier,
                shift=shift,
                shifts=softmax.shifts,
            )
        )
        self._tensor(f"{name}.attention", (tokens, inner), "int8", attention)
        stream = self._residual_linear(
            f"{name}.proj",
            f"{name}.attn.proj",
            f"{name}.attention",
            attention,
            stream,
            f"{name}.residual1",
        )
        norm2 = self._layer_norm(f"{name}.norm2", stream)
        hidden = self._hidden(name, norm2)
        return self._residual_linear(
            f"{name}.fc2", f"{name}.mlp.fc2", f"{name}.gelu", hidden, stream, f"{name}.residual2"
        )

    def _layer_norm(self, name: str, stream: str, *, rows: int | None = None) -> _Codes:
        spec = self.model.spec
        gamma = self.model.tensors[f"{name}.weight"].astype(np.float64)
        beta = self.model.tensors[f"{name}.bias"].astype(np.float64)
        seen = self._see(name)
        least = float(np.abs(gamma).max()) / 127
        if name == "norm" and spec.pooling == "mean":
            # Symmetric, so that the pooled row is too: mean pooling has no zero point of its own.
            scale = max(symmetric_scale(seen.rows, seen.peak), least)
            codes = _Codes(scale=scale)
        else:
            scale, zero_point = affine_scale(seen.rows, seen.minimum, seen.maximum, least=least)
            codes = _Codes(scale=scale, zero_point=zero_point)
        # Snapping may have moved the scale below the bound by one part in 4096.
        if np.rint(np.abs(gamma).max() / codes.scale) > 127:
            codes = _Codes(scale=codes.scale * (1 + 2.0**-8), zero_point=codes.zero_point)
        gamma_shift, gamma_q = _gamma(gamma / codes.scale)
        beta_q = np.rint(beta / codes.scale * 2**_BETA_FRACTION_BITS)
        if not (np.abs(beta_q) < 2**23).all():
            column = int(np.argmax(np.abs(beta_q)))
            raise CheckpointError(
                f"Bias of LayerNorm {name!r} must fit 24 bits at scale"
                f" {codes.scale * 2.0**-_BETA_FRACTION_BITS:.3g}; that of channel {column}"
                f" ({beta[column]:.3g}) does not"
            )
        residual = self._residual_rows(name, stream, rows)
        ptf_shift, zero_point, alpha = _search_ptf(
            residual,
            gamma,
            beta,
            self.residual_scale,
            {
                "gamma": gamma_q,
                "beta": beta_q.astype(np.int32),
                "gamma_shift": gamma_shift,
                "beta_fraction_bits": _BETA_FRACTION_BITS,
                "output_zero_point": codes.zero_point,
                "squares": self.squares,
            },
            codes,
            spec.layer_norm_epsilon,
        )
        self._append(
            LayerNorm(
                name=name,
                output=name,
                input=stream,
                alpha=alpha,
                gamma=gamma_q,
                beta=beta_q.astype(np.int32),
                ptf_shift=ptf_shift,
                zero_point=zero_point,
                gamma_shift=gamma_shift,
                beta_fraction_bits=_BETA_FRACTION_BITS,
                output_zero_point=codes.zero_point,
                squares=self.squares,
                rows=rows,
            )
        )
        self._tensor(name, (spec.tokens if rows is None else rows, spec.width), "int8", codes)
        return codes

    def _residual_rows(self, name: str, stream: str, rows: int | None) -> np.ndarray:
        """Sample of a LayerNorm's input as residual codes, int16 [n, C]; warns of large means."""
        key = "norm.input" if name == "norm" and rows == 1 else stream
        sample = self._see(key).rows.astype(np.float64)
        sigma = sample.std(axis=1)
        ratio = np.abs(sample.mean(axis=1)) / np.maximum(sigma, 1e-30)
        worst = float(ratio.max())
        if worst > MEAN_TO_SIGMA_LIMIT:
            self.warnings.append(
                f"{name}: |mean|/sigma of the input reaches {worst:.3g}, beyond"
                f" {MEAN_TO_SIGMA_LIMIT:g} compressed squares lose accuracy; try squares='exact'"
            )
        codes = np.rint(sample / self.residual_scale)
        return np.clip(codes, -32768, 32767).astype(np.int16)

    def _query_key_value(self, name: str, source: _Codes) -> tuple[float, float, float]:
        spec = self.model.spec
        inner = spec.attention_width
        seen = [self._see(f"{name}.{letter}") for letter in "qkv"]
        scales = [symmetric_scale(s.rows, s.peak) for s in seen]
        layer = f"{name}.attn.qkv"
        codes, requantise = self._columns(
            f"{name}.qkv",
            self._weights(layer),
            self._bias(layer, 3 * inner),
            source,
            np.repeat(scales, inner),
            boundary=f"{name}.norm1",
            low=-127,
        )
        self._append(
            QueryKeyValue(
                name=f"{name}.qkv",
                output=name,
                input=f"{name}.norm1",
                weights=codes,
                **self._width_fields(f"{name}.qkv", codes.shape[1]),
                requantise=requantise,
                heads=spec.heads,
                head_dim=spec.head_dim,
            )
        )
        for letter, scale in zip("qkv", scales, strict=True):
            self._tensor(f"{name}.{letter}", (spec.tokens, inner), "int8", _Codes(scale=scale))
        return scales[0], scales[1], scales[2]

    def _attention_logits(self, name: str, scales: tuple[float, float, float]) -> int:
        spec = self.model.spec
        excess = self.statistics.logit_excess[f"{name}.logits"]
        holding = [f for f, part in enumerate(excess) if part <= LOGIT_EXCESS]
        fraction_bits = max(holding, default=0)
        ratio = scales[0] * scales[1] * spec.head_dim**-0.5 * 2.0**fraction_bits
        multiplier, shift = _multiplier(ratio, f"{name}.logits")
        op = AttentionLogits(
            name=f"{name}.logits",
            output=f"{name}.logits",
            query=f"{name}.q",
            key=f"{name}.k",
            heads=spec.heads,
            multiplier=multiplier,
            shift=shift,
            fraction_bits=fraction_bits,
        )
        clipped, count = clipped_logits(op, self.values)
        self._append(op)
        self._tensor(
            f"{name}.logits",
            (spec.heads, spec.tokens, spec.tokens),
            "int8",
            _Codes(scale=2.0**-fraction_bits),
        )
        self.logit_saturation[f"{name}.logits"] = clipped / count
        if clipped / count > LOGIT_WARNING or excess[fraction_bits] > LOGIT_EXCESS:
            self.warnings.append(
                f"{name}.logits: {100 * clipped / count:.3g} % of the attention logits saturate"
                f" ({clipped:,} of {count:,}): they exceed"
                f" {127 * 2.0**-fraction_bits:.4g}, which int8 holds with {fraction_bits} fraction"
                " bits"
            )
        return fraction_bits

    def _residual_linear(
        self, layer: str, weights: str, source: str, codes: _Codes, stream: str, output: str
    ) -> str:
        spec = self.model.spec
        weight_codes, requantise = self._columns(
            layer,
            self._weights(weights),
            self._bias(weights, spec.width),
            codes,
            self.residual_scale,
            boundary=source,
        )
        self._append(
            Linear(
                name=layer,
                output=output,
                input=source,
                weights=weight_codes,
                **self._width_fields(layer, weight_codes.shape[1]),
                requantise=requantise,
                residual=stream,
            )
        )
        self._stream(output)
        return output

    def _hidden(self, name: str, source: _Codes) -> _Codes:
        """fc1 and the activation function's table."""
        spec = self.model.spec
        before, after = self._see(f"{name}.fc1"), self._see(f"{name}.gelu")
        target, out, table = _activation_table(spec.activation, before, after)
        layer = f"{name}.mlp.fc1"
        codes, requantise = self._columns(
            f"{name}.fc1",
            self._weights(layer),
            self._bias(layer, spec.mlp_hidden),
            source,
            target.scale,
            boundary=f"{name}.norm2",
            output_zero_point=target.zero_point,
        )
        self._append(
            Linear(
                name=f"{name}.fc1",
                output=f"{name}.gelu",
                input=f"{name}.norm2",
                weights=codes,
                **self._width_fields(f"{name}.fc1", codes.shape[1]),
                requantise=requantise,
                table=table,
            )
        )
        self._tensor(f"{name}.gelu", (spec.tokens, spec.mlp_hidden), "int8", out)
        return out

    def _classifier(self, stream: str) -> None:
        spec = self.model.spec
        pooled = spec.pooling == "mean"
        codes = self._layer_norm("norm", stream, rows=None if pooled else 1)
        source = "norm"
        if pooled:
            seen = self._see("pool")
            scale = symmetric_scale(seen.rows, seen.peak)
            multiplier, shift = _multiplier(codes.scale / (spec.patches * scale), "pool")
            self._append(
                MeanPool(
                    name="pool",
                    output="pool",
                    input="norm",
                    first=int(spec.class_token),
                    multiplier=multiplier,
                    shift=shift,
                )
            )
            codes, source = _Codes(scale=scale), "pool"
            self._tensor("pool", (1, spec.width), "int8", codes)
        seen = self._see(source)
        peak = self._see("head").peak
        target = snap(HEAD_HEADROOM * peak / 32767) if peak > 0 else 1.0
        weights, requantise = self._columns(
            "head",
            self._weights("head"),
            self._bias("head", spec.classes),
            codes,
            target,
            boundary=source,
        )
        self._append(
            Linear(
                name="head",
                output="head",
                input=source,
                weights=weights,
                **self._width_fields("head", weights.shape[1]),
                requantise=requantise,
                wide=True,
            )
        )
        self._tensor("head", (1, spec.classes), "int16", _Codes(scale=target))


def _multipliers(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return m (2^15..2^16-1) and e with m / 2^e next to the ratios, 2^-31 up to RATIO_LIMIT."""
    mantissa, exponent = np.frexp(np.where(ratio > 0, ratio, 0.5))
    m = np.rint(mantissa * 65536).astype(np.int64)
    exponent = exponent + (m == 65536)
    m = np.where(m == 65536, 32768, m)
    return m.astype(np.uint16), (16 - exponent).astype(np.uint8)


def _multiplier(ratio: float, where: str, room: int = 0) -> tuple[int, int]:
    """The same for one ratio; e is at most 47 - ``room``."""
    if not 2.0 ** (room - 31) <= ratio < RATIO_LIMIT:
        raise CheckpointError(
            f"Scale ratio of {where!r} must be within 2^{room - 31}..2^15 for a 16-bit multiplier"
            f" and a shift of 1..{SHIFT_MAXIMUM - room}, not {ratio:.6g}"
        )
    m, e = _multipliers(np.array([ratio]))
    return int(m[0]), int(e[0])


def _gamma(gamma: np.ndarray) -> tuple[int, np.ndarray]:
    """Return kg, as large as the 8 bits allow, and gamma_q = rne(gamma 2^kg)."""
    for shift in range(15, -1, -1):
        codes = np.rint(gamma * 2.0**shift)
        if np.abs(codes).max() <= 127:
            return shift, codes.astype(np.int8)
    raise AssertionError("the output scale keeps gamma within 8 bits")


#: Zero points that the PTF search tries.
_PTF_ZERO_POINTS = tuple(range(64, 193, 16))


def _search_ptf(
    residual: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    residual_scale: float,
    constants: dict[str, object],
    codes: _Codes,
    epsilon: float,
) -> tuple[int, int, np.ndarray]:
    """Return PTF shift t, zero point and alpha [C] of a LayerNorm.

    Per t and zero point every channel takes the alpha of its least squared error (FQ-ViT's rule),
    errors weighed as the normalised output sees them (gamma^2 / sigma^2). Among the best of every
    t the unit's own output decides, so the compressed squares and the statistics count too.
    """
    r = residual.astype(np.int32)
    x = r * residual_scale
    sigma = np.sqrt(x.var(axis=1, keepdims=True) + epsilon)
    wanted = (x - x.mean(axis=1, keepdims=True)) / sigma * gamma + beta
    row_weight = (1 / sigma**2).astype(np.float32)
    shifts = range(15)
    error = np.empty((len(shifts), len(_PTF_ZERO_POINTS), r.shape[1]))
    for u in shifts:
        rounded = (r + ((1 << u) >> 1)) >> u
        for j, zero in enumerate(_PTF_ZERO_POINTS):
            difference = (np.clip(rounded, -zero, 255 - zero) << u) - r
            squares = difference.astype(np.float32) ** 2 * row_weight
            error[u, j] = squares.sum(axis=0, dtype=np.float64)
    error *= gamma**2 + 1e-12 * float(np.max(gamma**2) or 1.0)
    best: tuple[float, int, int, np.ndarray] | None = None
    for t in range(12):
        window = error[t : t + 4]  # alpha, zero point, channel
        j = int(window.min(axis=0).sum(axis=1).argmin())
        alpha = window[:, j].argmin(axis=0).astype(np.uint8)
        zero = _PTF_ZERO_POINTS[j]
        x_codes = ptf_codes(residual, shift=t, alpha=alpha, zero_point=zero)
        y = ailayernorm(
            x_codes,
            alpha=alpha,
            zero_point=zero,
            max_channels=residual.shape[1],
            **constants,  # type: ignore[arg-type]
        )
        got = (y.astype(np.float64) - codes.zero_point) * codes.scale
        loss = float(np.mean((got - wanted) ** 2))
        if best is None or loss < best[0]:
            best = (loss, t, zero, alpha)
    assert best is not None
    return best[1], best[2], best[3]


def _activation_table(
    kind: str, before: Boundary, after: Boundary
) -> tuple[_Codes, _Codes, np.ndarray]:
    """Return the codes before and after the activation function, and the table between them.

    The input's clip is chosen by the error after the function: what lies far below 0 needs no
    codes.
    """
    x = before.rows.reshape(-1).astype(np.float64)
    x = x[:: max(1, x.size >> 15)]
    y = activation(kind, x)
    low, high = min(before.minimum, -1e-6), max(before.maximum, 1e-6)
    tops = [high * 2 ** (-k / 4) for k in range(11)]
    bottoms = [b for b in (-0.25, -0.5, -0.75, -1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0) if b > low]

    def codes_of(interval: tuple[float, float]) -> _Codes:
        scale = snap((interval[1] - interval[0]) / 255)
        zero = int(np.clip(round(-128 - interval[0] / scale), -128, 127))
        return _Codes(scale=scale, zero_point=zero)

    def error(interval: tuple[float, float]) -> float:
        c = codes_of(interval)
        q = np.clip(np.rint(x / c.scale) + c.zero_point, -128, 127) - c.zero_point
        return float(np.mean((activation(kind, q * c.scale) - y) ** 2))

    best = min(((bottom, top) for bottom in [low, *bottoms[::3]] for top in tops), key=error)
    best = min(((bottom, best[1]) for bottom in [low, *bottoms]), key=error)
    target = codes_of(best)
    # Code -127 for the function's minimum: nothing that is not clipped lies on the range's edge.
    out_low = min(after.minimum, 0.0)
    top = min(after.maximum, float(activation(kind, np.array(best[1]))))
    sample = after.rows.reshape(-1)

    def out_codes(high_end: float) -> _Codes:
        scale = snap((high_end - out_low) / 254)
        return _Codes(
            scale=scale, zero_point=int(np.clip(round(-127 - out_low / scale), -128, 127))
        )

    def out_error(high_end: float) -> float:
        c = out_codes(high_end)
        q = np.clip(np.rint(sample / c.scale) + c.zero_point, -128, 127) - c.zero_point
        return float(np.mean((q * c.scale - sample) ** 2, dtype=np.float64))

    top = max(top, out_low + 1e-6)
    out = out_codes(min((top * 2 ** (-k / 8) for k in range(17)), key=out_error))
    reals = exact_activation(kind, target.scale * (np.arange(-128, 128) - target.zero_point))
    table = np.clip(np.rint(reals / out.scale) + out.zero_point, -128, 127)
    return target, out, table.astype(np.int8)
