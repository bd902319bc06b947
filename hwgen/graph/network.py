# SPDX-License-Identifier: Apache-2.0
"""The network of a specification: its operations in order and the shapes of its tensors.

The one place that says what a Vision Transformer consists of. The operations are those of the
integer graph, but have no values: an array has its shape, and no memory behind it. Float model,
quantiser, compiler and explorer walk them; the names of a checkpoint's tensors follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

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
    Requantise,
    Softmax,
    Tensor,
    Weighted,
)
from hwgen.graph.spec import ModelSpec
from hwgen.graph.widths import WIDEST, Width, channel_bits, widest
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction


@dataclass(frozen=True, kw_only=True)
class Network:
    """Operations without values in execution order, and their tensors, of scale 1."""

    spec: ModelSpec
    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]

    def macs(self) -> int:
        """Multiply-accumulates per image, no padding."""
        return sum(op.macs(self.tensors) for op in self.ops)


def network_of(
    spec: ModelSpec,
    *,
    weight_bits: int | Mapping[str, Width] = WIDEST,
    softmax: SoftmaxFunction = DEFAULT_FUNCTION,
) -> Network:
    """The network of a specification.

    Args:
        spec: geometry of the model.
        weight_bits: width of the encoder's layers (embedding and head: 8), or widths by operation
            name (others: 8).
        softmax: the softmax.
    """
    widths = weight_bits if isinstance(weight_bits, int) else tuple(sorted(weight_bits.items()))
    return _network(spec, widths, softmax)


def layer_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return the operations that have weights, in execution order."""
    return tuple(op.name for op in network_of(spec).ops if isinstance(op, Weighted))


def in_encoder(layer: str) -> bool:
    """A layer is part of a block."""
    return layer not in _OUTER_LAYERS


@lru_cache(maxsize=8)
def _network(
    spec: ModelSpec, widths: int | tuple[tuple[str, Width], ...], softmax: SoftmaxFunction
) -> Network:
    tensors: dict[str, Tensor] = {}
    ops: list[Op] = []
    bits = widths if isinstance(widths, int) else dict(widths)
    for op in _operations(_Layers(spec, bits), softmax):
        ops.append(op)
        for name, (shape, dtype) in op.shapes(tensors, spec).items():
            tensors[name] = Tensor(name=name, shape=shape, dtype=dtype)
    return Network(spec=spec, ops=tuple(ops), tensors=MappingProxyType(tensors))


def _operations(layers: _Layers, softmax: SoftmaxFunction) -> Iterator[Op]:
    """The whole network."""
    spec = layers.spec
    yield ImageCodes(name="image_codes", output="image_codes", patch=spec.patch)
    yield Embedding(
        name="embedding",
        output="embedding",
        input="image_codes",
        **layers.fields("embedding", spec.patch_values, spec.width),
        position=_zeros(np.int16, spec.tokens, spec.width),
        class_token=spec.class_token,
    )
    stream = "embedding"
    for index in range(spec.depth):
        block = f"blocks.{index}"
        yield from _attention(layers, block, stream, softmax)
        yield from _mlp(layers, block)
        stream = f"{block}.residual2"
    source = "norm"
    if spec.pooling == "mean":
        yield layers.norm("norm", stream)
        source = "pool"
        yield MeanPool(
            name="pool",
            output="pool",
            input="norm",
            first=int(spec.class_token),
            multiplier=_MULTIPLIER,
            shift=_SHIFT,
        )
    else:
        yield layers.norm("norm", stream, rows=1)
    yield layers.linear("head", source, "head", spec.width, spec.classes, wide=True)


def _attention(layers: _Layers, block: str, stream: str, softmax: SoftmaxFunction) -> Iterator[Op]:
    """The first half of a block; its output is ``residual1``."""
    spec = layers.spec
    width, inner, heads = spec.width, spec.attention_width, spec.heads
    yield layers.norm(f"{block}.norm1", stream)
    projections = QueryKeyValue(
        name=f"{block}.qkv",
        output=block,
        input=f"{block}.norm1",
        **layers.fields(f"{block}.qkv", width, 3 * inner, low=-127, parts=3),
        heads=heads,
        head_dim=spec.head_dim,
    )
    yield projections
    query, key, value = projections.outputs
    yield AttentionLogits(
        name=f"{block}.logits",
        output=f"{block}.logits",
        query=query,
        key=key,
        heads=heads,
        multiplier=_MULTIPLIER,
        shift=_SHIFT,
        fraction_bits=_FRACTION_BITS,
    )
    weights = Softmax(
        name=f"{block}.softmax",
        output=f"{block}.softmax",
        input=f"{block}.logits",
        fraction_bits=_FRACTION_BITS,
        function=softmax,
    )
    yield weights
    yield AttentionValues(
        name=f"{block}.attention",
        output=f"{block}.attention",
        codes=weights.output,
        value=value,
        heads=heads,
        multiplier=_MULTIPLIER,
        shift=_SHIFT,
        shifts=weights.shifts,
    )
    yield layers.linear(
        *(f"{block}.proj", f"{block}.attention", f"{block}.residual1", inner, width),
        residual=stream,
    )


def _mlp(layers: _Layers, block: str) -> Iterator[Op]:
    """The second half of a block; its output is ``residual2``."""
    width, hidden = layers.spec.width, layers.spec.mlp_hidden
    yield layers.norm(f"{block}.norm2", f"{block}.residual1")
    yield layers.linear(
        *(f"{block}.fc1", f"{block}.norm2", f"{block}.gelu", width, hidden),
        table=_zeros(np.int8, 256),
    )
    yield layers.linear(
        *(f"{block}.fc2", f"{block}.gelu", f"{block}.residual2", hidden, width),
        residual=f"{block}.residual1",
    )


#: Layers with weights before and behind the blocks.
_OUTER_LAYERS = ("embedding", "head")
#: What stands for constants that a network does not have.
_MULTIPLIER, _SHIFT, _FRACTION_BITS = 1 << 15, 20, 4


def _zeros(dtype: type[np.generic], *shape: int) -> np.ndarray:
    """An array of a shape, with no memory behind it."""
    return np.broadcast_to(dtype(0), shape)


class _Layers:
    """Makes operations whose arrays follow from a few sizes."""

    def __init__(self, spec: ModelSpec, widths: int | Mapping[str, Width]) -> None:
        self.spec = spec
        self.widths = widths

    def fields(
        self, name: str, reduction: int, columns: int, *, low: int = -128, parts: int = 1
    ) -> dict[str, Any]:
        """Weights, their widths and constants; of ``parts`` the widths begin anew."""
        width: Width = WIDEST
        if not isinstance(self.widths, int):
            width = self.widths.get(name, WIDEST)
        elif in_encoder(name):
            width = self.widths
        fields: dict[str, Any] = {"weight_bits": widest(width)}
        if not isinstance(width, int):
            fields["channel_bits"] = channel_bits(width, columns, parts=parts)
        return fields | {
            "weights": _zeros(np.int8, reduction, columns),
            "requantise": Requantise(
                bias=_zeros(np.int32, columns),
                multiplier=_zeros(np.uint16, columns),
                shift=_zeros(np.uint8, columns),
                low=low,
            ),
        }

    def linear(
        self, name: str, source: str, output: str, reduction: int, columns: int, **kind: Any
    ) -> Linear:
        """A linear layer of a kind: table, residual or wide."""
        fields = self.fields(name, reduction, columns)
        return Linear(name=name, output=output, input=source, **fields, **kind)

    def norm(self, name: str, stream: str, rows: int | None = None) -> LayerNorm:
        """A LayerNorm of the stream."""
        width = self.spec.width
        return LayerNorm(
            name=name,
            output=name,
            input=stream,
            alpha=_zeros(np.uint8, width),
            gamma=_zeros(np.int8, width),
            beta=_zeros(np.int32, width),
            ptf_shift=0,
            zero_point=0,
            gamma_shift=0,
            beta_fraction_bits=0,
            rows=rows,
        )
