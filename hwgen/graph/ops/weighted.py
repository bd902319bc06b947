# SPDX-License-Identifier: Apache-2.0
"""What the operations with a matrix of weights have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import (
    Array,
    ArrayOrNone,
    Batch,
    Op,
    Requantise,
    Step,
    Tensor,
    Values,
    check_clip,
    check_shape,
    input_shape,
)
from hwgen.numerics.formats import INT8, check_int, check_weights
from hwgen.numerics.layer import Layer
from hwgen.numerics.matmul import max_reduction
from hwgen.numerics.requantise import check_constants
from hwgen.reading import STRICT

_INT32_MAXIMUM = 2**31 - 1


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted(Op):
    """``requantise(input @ weights)`` in one of its forms; the input is int8 [tokens, K].

    ``weight_bits`` is the width of the weights, or of the widest ones where the output channels
    have widths of their own: those are ``channel_bits``.
    """

    input: str
    weights: Array  #: int8 [K, N]
    weight_bits: int
    requantise: Requantise
    channel_bits: ArrayOrNone = None  #: uint8 [N]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streamed operand."""
        return (self.input,)

    def product_shape(self, made: Mapping[str, Tensor]) -> tuple[int, int]:
        """Shape of ``input @ weights``; the arrays' shapes must fit it."""
        rows, reduction = input_shape(made, self.input, "int8")
        weights, requantise = self.weights, self.requantise
        if weights.ndim != 2 or weights.shape[0] != reduction:
            raise FormatError(
                f"weights must have shape [{reduction}, N], not {list(weights.shape)}"
            )
        columns = weights.shape[1]
        if self.channel_bits is not None:
            check_shape("channel_bits", self.channel_bits, (columns,))
        for name in ("bias", "multiplier", "shift"):
            check_shape(f"requantise.{name}", getattr(requantise, name), (columns,))
        return rows, columns

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Weights and constants; no input may take accumulator + bias out of int32."""
        del made
        weights, weight_bits, requantise = self.weights, self.weight_bits, self.requantise
        check_int(weight_bits, 1, 8, "weight_bits")
        if self.channel_bits is None:
            check_weights(weights, weight_bits)
        else:
            _check_channels(weights, weight_bits, self.channel_bits)
        reduction, columns = weights.shape
        if reduction > max_reduction(weight_bits=weight_bits):
            raise FormatError(
                f"weights must have at most {max_reduction(weight_bits=weight_bits)} rows,"
                f" not {reduction}: int32 could overflow"
            )
        check_constants(
            bias=requantise.bias,
            multiplier=requantise.multiplier,
            shift=requantise.shift,
            columns=columns,
        )
        INT8.check(np.array(requantise.zero_point), "requantise.zero_point")
        check_clip(requantise.low, requantise.high)
        worst = 128 * np.abs(weights.astype(np.int64)).sum(axis=0)
        worst += np.abs(requantise.bias.astype(np.int64))
        if worst.size and int(worst.max()) > _INT32_MAXIMUM:
            column = int(worst.argmax())
            raise FormatError(
                f"accumulator + bias of column {column} must fit int32 for every input,"
                f" not reach {int(worst.max())}"
            )

    def macs(self, tensors: Mapping[str, Tensor]) -> int:
        """Tokens x K x N."""
        return int(tensors[self.input].shape[0] * self.weights.size)

    @abstractmethod
    def apply(self, layer: Layer, batch: Batch) -> Values:
        """:meth:`execute` with weights and constants as :meth:`layer` has them."""

    def execute(self, batch: Batch) -> Values:
        """Once."""
        return self.apply(self.layer(), batch)

    def prepare(self) -> Step:
        """Weights and constants are checked and converted now."""
        return partial(self.apply, self.layer())

    def layer(self) -> Layer:
        """Weights and constants, checked and converted."""
        r = self.requantise
        return Layer(
            self.weights,
            weight_bits=self.weight_bits,
            bias=r.bias,
            multiplier=r.multiplier,
            shift=r.shift,
        )


def _check_channels(weights: np.ndarray, weight_bits: int, channel_bits: np.ndarray) -> None:
    """Every output channel's weights have its own width, the widest has the layer's."""
    if channel_bits.size and int(channel_bits.max()) != weight_bits:
        raise FormatError(
            f"channel_bits must be {weight_bits} at most, and somewhere, not"
            f" {int(channel_bits.max())}"
        )
    for bits in np.unique(channel_bits):
        check_int(int(bits), 1, 8, "channel_bits")
        check_weights(weights[:, channel_bits == bits], int(bits))
