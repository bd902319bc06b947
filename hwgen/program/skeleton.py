# SPDX-License-Identifier: Apache-2.0
"""A graph of shapes without weights: enough for buffer plan, schedule and cycle model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
)
from hwgen.graph.spec import ModelSpec
from hwgen.graph.weight_bits import Width, channel_bits, widest
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction


@dataclass(frozen=True, kw_only=True)
class SkeletonGraph:
    """Operations and tensors of a model; every array has its shape, but no memory behind it."""

    spec: ModelSpec
    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]
    mac_count: int

    def macs(self) -> int:
        """Multiply-accumulates per image, no padding."""
        return self.mac_count


def _zeros(dtype: type[np.generic], *shape: int) -> np.ndarray:
    return np.broadcast_to(dtype(0), shape)


def _constants(columns: int, low: int = -128) -> Requantise:
    return Requantise(
        bias=_zeros(np.int32, columns),
        multiplier=_zeros(np.uint16, columns),
        shift=_zeros(np.uint8, columns),
        low=low,
    )


def skeleton_graph(
    spec: ModelSpec,
    *,
    weight_bits: int | Mapping[str, Width] = 8,
    softmax: SoftmaxFunction = DEFAULT_FUNCTION,
) -> SkeletonGraph:
    """The operations of a model, as the quantiser makes them, without their values.

    Args:
        spec: geometry of the model.
        weight_bits: width of the encoder's layers (embedding and head: 8), or widths by operation
            name (others: 8).
        softmax: the softmax.
    """
    ops: list[Op] = []
    tensors: dict[str, Tensor] = {}
    t, w, a = spec.tokens, spec.width, spec.attention_width
    macs = 0

    def bits(name: str, columns: int, *, encoder: bool = True, parts: int = 1) -> dict[str, Any]:
        """The fields of an operation that say its widths."""
        if isinstance(weight_bits, int):
            return {"weight_bits": weight_bits if encoder else 8}
        width = weight_bits.get(name, 8)
        fields: dict[str, Any] = {"weight_bits": widest(width)}
        if not isinstance(width, int):
            fields["channel_bits"] = channel_bits(width, columns, parts=parts)
        return fields

    def add(op: Op, shape: tuple[int, ...], dtype: Any, names: tuple[str, ...] = ()) -> None:
        ops.append(op)
        for name in names or (op.output,):
            tensors[name] = Tensor(name=name, shape=shape, dtype=dtype)

    def norm(name: str, source: str, rows: int | None = None) -> str:
        op = LayerNorm(
            name=name,
            output=name,
            input=source,
            alpha=_zeros(np.uint8, w),
            gamma=_zeros(np.int8, w),
            beta=_zeros(np.int32, w),
            ptf_shift=0,
            zero_point=0,
            gamma_shift=0,
            beta_fraction_bits=0,
            rows=rows,
        )
        add(op, (rows or t, w), "int8")
        return name

    def linear(name: str, source: str, columns: int, dtype: str = "int8", **kind: Any) -> str:
        nonlocal macs
        rows, k = tensors[source].shape
        macs += rows * k * columns
        op = Linear(
            name=name,
            output=name,
            input=source,
            weights=_zeros(np.int8, k, columns),
            **bits(name, columns, encoder=not kind.get("wide", False)),
            requantise=_constants(columns),
            **kind,
        )
        add(op, (rows, columns), dtype)
        return name

    add(
        ImageCodes(name="image_codes", output="image_codes", patch=spec.patch),
        (spec.patches, spec.patch_values),
        "int8",
    )
    macs += spec.patches * spec.patch_values * w
    embedding = Embedding(
        name="embedding",
        output="embedding",
        input="image_codes",
        weights=_zeros(np.int8, spec.patch_values, w),
        **bits("embedding", w, encoder=False),
        requantise=_constants(w),
        position=_zeros(np.int16, t, w),
        class_token=spec.class_token,
    )
    add(embedding, (t, w), "int16")
    stream = "embedding"
    for index in range(spec.depth):
        name = f"blocks.{index}"
        source = norm(f"{name}.norm1", stream)
        qkv = QueryKeyValue(
            name=f"{name}.qkv",
            output=name,
            input=source,
            weights=_zeros(np.int8, w, 3 * a),
            **bits(f"{name}.qkv", 3 * a, parts=3),
            requantise=_constants(3 * a, -127),
            heads=spec.heads,
            head_dim=spec.head_dim,
        )
        macs += t * w * 3 * a + 2 * t * t * a
        add(qkv, (t, a), "int8", qkv.outputs)
        square = (spec.heads, t, t)
        logits = AttentionLogits(
            name=f"{name}.logits",
            output=f"{name}.logits",
            query=qkv.outputs[0],
            key=qkv.outputs[1],
            heads=spec.heads,
            multiplier=1 << 15,
            shift=20,
            fraction_bits=4,
        )
        add(logits, square, "int8")
        codes = f"{name}.softmax"
        weights = Softmax(
            name=codes, output=codes, input=logits.output, fraction_bits=4, function=softmax
        )
        add(weights, square, "uint8")
        if weights.shifts is not None:
            tensors[weights.shifts] = Tensor(name=weights.shifts, shape=square[:2], dtype="uint8")
        values = AttentionValues(
            name=f"{name}.attention",
            output=f"{name}.attention",
            codes=codes,
            value=qkv.outputs[2],
            heads=spec.heads,
            multiplier=1 << 15,
            shift=20,
            shifts=weights.shifts,
        )
        add(values, (t, a), "int8")
        stream = linear(f"{name}.proj", values.output, w, "int16", residual=stream)
        source = norm(f"{name}.norm2", stream)
        source = linear(f"{name}.fc1", source, spec.mlp_hidden, table=_zeros(np.int8, 256))
        stream = linear(f"{name}.fc2", source, w, "int16", residual=stream)
    if spec.pooling == "mean":
        source = norm("norm", stream)
        pool = MeanPool(
            name="pool",
            output="pool",
            input=source,
            first=int(spec.class_token),
            multiplier=1 << 15,
            shift=20,
        )
        add(pool, (1, w), "int8")
        source = "pool"
    else:
        source = norm("norm", stream, rows=1)
    linear("head", source, spec.classes, "int16", wide=True)
    return SkeletonGraph(spec=spec, ops=tuple(ops), tensors=tensors, mac_count=macs)
