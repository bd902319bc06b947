# SPDX-License-Identifier: Apache-2.0
"""What the quantisation of every operation shares: statistics, probes, codes of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hwgen.errors import CheckpointError
from hwgen.frontend.calibration import Boundary, Calibration, snap
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.quantiser.weights import RATIO_LIMIT, fixed_points, quantise_weights
from hwgen.graph.ops import Batch, DataType, Op, Requantise, Tensor
from hwgen.graph.weight_bits import Width, channel_bits, widest
from hwgen.numerics.requantise import BIASED_BITS
from hwgen.numerics.softmax import SoftmaxFunction

Squares = Literal["compressed", "exact"]

#: The residual stream may grow by this factor beyond what calibration saw before it saturates.
RESIDUAL_HEADROOM = 1.5


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Scale and zero point of one int8 tensor."""

    scale: float
    zero_point: int = 0


@dataclass(eq=False)
class Builder:
    """Operations and tensors as far as built, and what their quantisation shares."""

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
    residual_scale: float = field(init=False)
    values: dict[str, np.ndarray] = field(default_factory=dict)  #: of the probes, as far as built

    def __post_init__(self) -> None:
        """One scale for the stream."""
        self.residual_scale = self._residual_scale()

    def loss(self) -> float:
        """Return the mean squared error of the logits on the probes."""
        got = self.values["head"][:, 0] * self.tensors["head"].scale
        return float(np.mean((got - self.statistics.probe_logits) ** 2))

    def append(self, op: Op) -> None:
        """Add an operation and run it on the probes."""
        self.ops.append(op)
        self.values.update(op.execute(Batch(images=self.statistics.probes, values=self.values)))

    def see(self, name: str) -> Boundary:
        """What calibration saw at a boundary."""
        return self.statistics.boundaries[name]

    def weights(self, name: str) -> np.ndarray:
        """Weights [K, N] of a linear layer, float64."""
        return self.model.tensors[f"{name}.weight"].astype(np.float64).T

    def bias(self, name: str, columns: int) -> np.ndarray:
        """Biases [N] of a linear layer, float64; zeros where it has none."""
        bias = self.model.tensors.get(f"{name}.bias")
        return np.zeros(columns) if bias is None else bias.astype(np.float64)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: DataType, codes: Codes) -> None:
        """Add a tensor."""
        self.tensors[name] = Tensor(
            name=name, shape=shape, dtype=dtype, scale=codes.scale, zero_point=codes.zero_point
        )

    def _residual_scale(self) -> float:
        """One scale for the whole stream: its largest magnitude anywhere, and the constants'."""
        names = [n for n in self.statistics.boundaries if "residual" in n or n == "embedding"]
        peak = max(self.see(name).peak for name in names)
        peak = max(peak, float(np.abs(self.position()).max()))
        if peak == 0:
            raise CheckpointError("Residual stream must not be zero everywhere: the model is dead")
        return snap(RESIDUAL_HEADROOM * peak / 32767)

    def position(self) -> np.ndarray:
        """Constants that the residual memory starts with, float64 [tokens, width]."""
        position: np.ndarray = self.model.tensors["pos_embed"][0].astype(np.float64)
        if self.model.spec.class_token:
            position[0] += self.model.tensors["cls_token"][0, 0]
        return position

    def width_fields(self, layer: str, columns: int) -> dict[str, Any]:
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
        fields = self.width_fields(layer, weights.shape[1])
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

    def columns(
        self,
        layer: str,
        weights: np.ndarray,
        bias: np.ndarray,
        source: Codes,
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
            importance = self.see(boundary).second_moment
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
        multiplier, shift = fixed_points(ratio)
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

    def stream(self, name: str) -> None:
        """Add a tensor of the residual stream."""
        spec = self.model.spec
        self.tensor(name, (spec.tokens, spec.width), "int16", Codes(scale=self.residual_scale))
