# SPDX-License-Identifier: Apache-2.0
"""Small graphs with random constants, scaled so that most codes neither saturate nor vanish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hwgen.graph.graph import IntegerGraph
from hwgen.graph.network import network_of
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Requantise,
)
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction

#: Standard deviation of activations that the constants aim at.
_SPREAD = 40


def spec(**changes) -> ModelSpec:
    """A tiny model: 8 x 8 pixels, 17 tokens, two blocks of two heads."""
    values = {
        "name": "tiny",
        "image_size": 8,
        "channels": 1,
        "patch": 2,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "head_dim": 16,
        "mlp_hidden": 48,
        "classes": 10,
    }
    values |= changes
    channels = values["channels"]
    return ModelSpec(**{"mean": (0.5,) * channels, "std": (0.5,) * channels, **values})


def _weights(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> np.ndarray:
    if bits == 1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    limit = (1 << (bits - 1)) - 1
    return rng.integers(-limit, limit + 1, shape, dtype=np.int8)


def _shift(deviation: float, spread: float) -> int:
    return int(np.clip(np.round(np.log2(deviation * 2.0**15.5 / spread)), 1, 47))


def _requantise(
    rng: np.random.Generator, old: Requantise, k: int, bits: int, spread: float
) -> Requantise:
    columns = len(old.bias)
    deviation = 60 * np.sqrt(k) * (1 if bits == 1 else 2 ** (bits - 1) / np.sqrt(3))
    centre = _shift(deviation, spread)
    return replace(
        old,
        bias=rng.integers(-int(deviation), int(deviation) + 1, columns, dtype=np.int32),
        multiplier=rng.integers(1 << 15, 1 << 16, columns, dtype=np.uint16),
        shift=rng.integers(max(1, centre - 1), centre + 2, columns).astype(np.uint8),
        zero_point=old.zero_point,
    )


def random_graph(
    model: ModelSpec,
    seed: int = 0,
    *,
    weight_bits: int | Mapping[str, int] = 8,
    softmax: SoftmaxFunction = DEFAULT_FUNCTION,
) -> IntegerGraph:
    """A valid graph of a model with random constants."""
    rng = np.random.default_rng(seed)
    network = network_of(model, weight_bits=weight_bits, softmax=softmax)
    ops: list[Op] = []
    for op in network.ops:
        match op:
            case Embedding() | Linear() | QueryKeyValue():
                k = op.weights.shape[0]
                spread = _SPREAD
                if isinstance(op, Embedding) or (isinstance(op, Linear) and op.residual):
                    spread = 300
                changes = {
                    "weights": _weights(rng, op.weights.shape, op.weight_bits),
                    "requantise": _requantise(rng, op.requantise, k, op.weight_bits, spread),
                }
                if isinstance(op, Embedding):
                    changes["position"] = rng.integers(-900, 900, op.position.shape, dtype=np.int16)
                if isinstance(op, Linear) and op.table is not None:
                    changes["table"] = rng.permutation(np.arange(-128, 128, dtype=np.int16)).astype(
                        np.int8
                    )
                    changes["requantise"] = replace(changes["requantise"], zero_point=-20)
                op = replace(op, **changes)
            case LayerNorm():
                c = len(op.gamma)
                op = replace(
                    op,
                    alpha=rng.integers(0, 4, c).astype(np.uint8),
                    gamma=rng.integers(-127, 128, c, dtype=np.int8),
                    beta=rng.integers(-4000, 4000, c, dtype=np.int32),
                    ptf_shift=2,
                    zero_point=120,
                    gamma_shift=2,
                    beta_fraction_bits=8,
                    output_zero_point=3,
                    squares="exact" if op.name.endswith("norm2") else "compressed",
                )
            case AttentionLogits():
                deviation = 30 * 30 * np.sqrt(model.head_dim)
                op = replace(op, multiplier=40_001, shift=_shift(deviation, _SPREAD))
            case AttentionValues():
                op = replace(op, multiplier=50_003, shift=_shift(256 * 32, _SPREAD))
            case MeanPool():
                deviation = 40 * np.sqrt(model.tokens)
                op = replace(op, multiplier=60_007, shift=_shift(deviation, _SPREAD))
        ops.append(op)
    return IntegerGraph(spec=model, ops=tuple(ops), tensors=network.tensors)


def random_image(model: ModelSpec, seed: int = 0) -> np.ndarray:
    """One image, uint8 [H, W, channels]."""
    rng = np.random.default_rng(seed)
    size = (model.image_size, model.image_size, model.channels)
    return rng.integers(0, 256, size, dtype=np.uint8)
