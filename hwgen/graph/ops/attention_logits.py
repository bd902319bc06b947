# SPDX-License-Identifier: Apache-2.0
"""The inputs of attention's softmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import Batch, Op, Shapes, Tensor, Values, input_shape
from hwgen.graph.ops.heads import check_heads, check_scalar_requantise, split_heads
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.e2softmax import FRACTION_BITS_MAXIMUM
from hwgen.numerics.formats import check_int
from hwgen.numerics.layer import attention
from hwgen.numerics.matmul import attention_matmul
from hwgen.numerics.requantise import count_saturated
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionLogits(Op):
    """Per head ``clip(rshr(q @ k.T * m, e), -128, 127)`` -> int8 of scale 2^-f.

    Output [heads, tokens, tokens].
    """

    query: str
    key: str
    heads: int
    multiplier: int
    shift: int
    fraction_bits: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The query is streamed, the key is stationary."""
        return (self.query, self.key)

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """A square per head."""
        del spec
        query, key = (input_shape(made, name, "int8") for name in self.inputs)
        check_heads(self.heads, query[1])
        if key != query:
            raise FormatError(f"key must have the query's shape {query}, not {key}")
        return {self.output: ((self.heads, query[0], key[0]), "int8")}

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Constants, and the fraction bits that the softmax takes."""
        head_dim = made[self.query].shape[1] // self.heads
        check_scalar_requantise(self.multiplier, self.shift, head_dim, signed=True)
        check_int(self.fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")

    def macs(self, tensors: Mapping[str, Tensor]) -> int:
        """Tokens x tokens x columns of all heads."""
        tokens, columns = tensors[self.query].shape
        return tokens * tokens * columns

    def execute(self, batch: Batch) -> Values:
        """Head by head."""
        out = attention(
            *self._operands(batch.values),
            multiplier=self.multiplier,
            shift=self.shift,
            kernels=batch.kernels,
        )
        return {self.output: out}

    def _operands(self, values: Values) -> tuple[np.ndarray, np.ndarray]:
        query, key = (split_heads(values[name], self.heads) for name in self.inputs)
        return query, key.swapaxes(-1, -2)

    def clipped(self, values: Values) -> tuple[int, int]:
        """How many logits the clip to int8 changes, and how many there are."""
        acc = attention_matmul(*self._operands(values))
        return count_saturated(acc, bias=0, multiplier=self.multiplier, shift=self.shift), acc.size
