# SPDX-License-Identifier: Apache-2.0
"""What the quantisation of every operation shares: statistics, probes, codes of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Literal, TypeVar

import numpy as np

from hwgen.errors import CheckpointError
from hwgen.frontend.calibration import Boundary, Calibration, snap
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.naming import parameter_of
from hwgen.frontend.quantiser.weights import RATIO_LIMIT, fixed_points, quantise_weights
from hwgen.graph.network import Network
from hwgen.graph.ops import Batch, ImageCodes, Op, Requantise, Tensor, Weighted
from hwgen.numerics.requantise import BIASED_BITS

Squares = Literal["compressed", "exact"]
W = TypeVar("W", bound=Weighted)

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
    network: Network  #: the operations that there will be, without values
    squares: Squares
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    logit_saturation: dict[str, float] = field(default_factory=dict)
    correct_bias: bool = True
    residual_scale: float = field(init=False)
    _pixels: set[str] = field(init=False)  #: tensors that calibration has not seen
    values: dict[str, np.ndarray] = field(default_factory=dict)  #: of the probes, while needed

    def __post_init__(self) -> None:
        """One scale for the stream."""
        self.residual_scale = self._residual_scale()
        pixels = (op for op in self.network.ops if isinstance(op, ImageCodes))
        self._pixels = {op.output for op in pixels}

    def loss(self) -> float:
        """Return the mean squared error of the logits on the probes."""
        name = self.network.ops[-1].output
        got = self.values[name][:, 0] * self.tensors[name].scale
        return float(np.mean((got - self.statistics.probe_logits) ** 2))

    def add(self, op: Op, *codes: Codes) -> None:
        """Add an operation with its outputs' codes, and run it on the probes."""
        self.ops.append(op)
        for name, own in zip(op.outputs, codes, strict=True):
            shape = self.network.tensors[name]
            self.tensors[name] = replace(shape, scale=own.scale, zero_point=own.zero_point)
        self.values.update(op.execute(Batch(images=self.statistics.probes, values=self.values)))

    def codes(self, tensor: str) -> Codes:
        """Scale and zero point of a tensor that has been made."""
        made = self.tensors[tensor]
        return Codes(scale=made.scale, zero_point=made.zero_point)

    def stream_codes(self) -> Codes:
        """Those of the residual stream."""
        return Codes(scale=self.residual_scale)

    def users(self, tensor: str) -> list[Op]:
        """Operations that will read a tensor."""
        return [op for op in self.network.ops if tensor in op.inputs]

    def see(self, name: str) -> Boundary:
        """What calibration saw at a boundary."""
        return self.statistics.boundaries[name]

    def parameter(self, op: Op, kind: str) -> np.ndarray | None:
        """An operation's ``weight`` or ``bias`` as the checkpoint has it, float64."""
        found = self.model.tensors.get(f"{parameter_of(op.name)}.{kind}")
        return None if found is None else found.astype(np.float64)

    def weights(self, op: Weighted) -> np.ndarray:
        """Weights [K, N] of a layer, float64."""
        weights = self.parameter(op, "weight")
        assert weights is not None
        return weights.T

    def bias(self, op: Weighted) -> np.ndarray:
        """Biases [N] of a layer, float64; zeros where it has none."""
        bias = self.parameter(op, "bias")
        return np.zeros(op.weights.shape[1]) if bias is None else bias

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

    def _codes(
        self, op: Weighted, weights: np.ndarray, importance: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """:func:`quantise_weights` with every output channel's own width."""
        if op.channel_bits is None:
            return quantise_weights(weights, op.weight_bits, importance, least)
        codes = np.empty(weights.shape, np.int8)
        scales = np.empty(weights.shape[1])
        for bits in np.unique(op.channel_bits):
            chosen = op.channel_bits == bits
            codes[:, chosen], scales[chosen] = quantise_weights(
                weights[:, chosen], int(bits), importance, least[chosen]
            )
        return codes, scales

    def with_weights(
        self,
        op: W,
        target: np.ndarray | float,
        *,
        output_zero_point: int = 0,
        weights: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> W:
        """Return a layer of the network with its weights and constants.

        Args:
            op: the layer.
            target: the output's scale, one or per column.
            output_zero_point: the output's zero point.
            weights: float64 [K, N]; the checkpoint's if not given.
            bias: float64 [N]; the checkpoint's if not given.
        """
        weights = self.weights(op) if weights is None else weights
        bias = self.bias(op) if bias is None else bias
        layer, source = op.name, self.codes(op.input)
        columns = weights.shape[1]
        inputs = self.values[op.input]
        integer_mean = inputs.reshape(-1, inputs.shape[-1]).mean(axis=0, dtype=np.float64)
        integer_mean = (integer_mean - source.zero_point) * source.scale
        if op.input in self._pixels:
            mean, importance = integer_mean, np.ones(len(weights))
        else:
            mean = self.statistics.probe_means[op.input]
            importance = self.see(op.input).second_moment
        target = np.broadcast_to(np.asarray(target, dtype=np.float64), (columns,))
        # Below this scale the bias would leave too little of the requantise lanes' 27 bits to the
        # accumulator, or the multiplier's shift its range.
        least = np.maximum(
            np.abs(bias) / (source.scale * 2.0 ** (BIASED_BITS - 3)),
            target * 2.0**-30 / source.scale,
        )
        codes, scales = self._codes(op, weights, importance, least)
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
        requantise = Requantise(
            bias=integer.astype(np.int32),
            multiplier=multiplier,
            shift=shift,
            zero_point=output_zero_point,
            low=op.requantise.low,
            high=op.requantise.high,
        )
        return replace(op, weights=codes, requantise=requantise)


@singledispatch
def quantise_operation(op: Op, builder: Builder) -> None:
    """Give an operation of the network its values, and add it with its outputs' codes.

    The modules of this package register what they quantise.
    """
    del builder
    raise TypeError(f"Operation must be a known one, not {type(op).__name__}")
