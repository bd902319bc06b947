# SPDX-License-Identifier: Apache-2.0
"""The mean over the tokens, in front of the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import with_config

from hwgen.graph.ops.base import Batch, Op, Shapes, Tensor, Values, input_shape
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.formats import check_int
from hwgen.numerics.pooling import row_sum
from hwgen.numerics.requantise import check_constants, requantise
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class MeanPool(Op):
    """Mean over the tokens from ``first`` on, int8 [1, C].

    ``clip(rshr(row_sum * m, e), -128, 127)``.
    1/N sits in the multiplier; applied to the output of the final LayerNorm.
    """

    input: str
    first: int
    multiplier: int
    shift: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """All tokens."""
        return (self.input,)

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """One row."""
        del spec
        tokens, channels = input_shape(made, self.input, "int8")
        check_int(self.first, 0, tokens - 1, "first")
        return {self.output: ((1, channels), "int8")}

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Constants."""
        del made
        check_constants(bias=0, multiplier=self.multiplier, shift=self.shift, columns=1)

    def execute(self, batch: Batch) -> Values:
        """Sum, then requantise."""
        total = row_sum(batch.values[self.input][:, self.first :])
        out = requantise(total, bias=0, multiplier=self.multiplier, shift=self.shift)
        return {self.output: out[:, None]}
