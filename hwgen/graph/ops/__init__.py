# SPDX-License-Identifier: Apache-2.0
"""Operations of the integer graph, a module each: one frozen dataclass per operation.

A module says all of an operation that the graph needs: fields, inputs and outputs, shape rules,
execution, multiply-accumulates. Where operations stand in a network says
:mod:`hwgen.graph.network`.
"""

from __future__ import annotations

from hwgen.graph.ops.attention_logits import AttentionLogits
from hwgen.graph.ops.attention_values import AttentionValues
from hwgen.graph.ops.base import Batch, DataType, FileArrays, Op, Requantise, Tensor, last_uses
from hwgen.graph.ops.embedding import Embedding
from hwgen.graph.ops.image_codes import ImageCodes
from hwgen.graph.ops.layer_norm import LayerNorm
from hwgen.graph.ops.linear import Linear
from hwgen.graph.ops.mean_pool import MeanPool
from hwgen.graph.ops.query_key_value import QueryKeyValue
from hwgen.graph.ops.softmax import Softmax
from hwgen.graph.ops.weighted import Weighted

#: All of them by name, as a graph's file has it.
OP_TYPES: dict[str, type[Op]] = {
    cls.__name__: cls
    for cls in (
        ImageCodes,
        Embedding,
        LayerNorm,
        Linear,
        QueryKeyValue,
        AttentionLogits,
        Softmax,
        AttentionValues,
        MeanPool,
    )
}

__all__ = [
    "OP_TYPES",
    "AttentionLogits",
    "AttentionValues",
    "Batch",
    "DataType",
    "Embedding",
    "FileArrays",
    "ImageCodes",
    "LayerNorm",
    "Linear",
    "MeanPool",
    "Op",
    "QueryKeyValue",
    "Requantise",
    "Softmax",
    "Tensor",
    "Weighted",
    "last_uses",
]
