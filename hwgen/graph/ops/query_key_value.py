# SPDX-License-Identifier: Apache-2.0
"""The three projections of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import Batch, Shapes, Tensor, Values, check_shape
from hwgen.graph.ops.weighted import Weighted
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.formats import check_int
from hwgen.numerics.layer import Layer
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class QueryKeyValue(Weighted):
    """The three projections of attention from one input; outputs ``<output>.q``, ``.k``, ``.v``.

    Column order of weights and constants: q of all heads, k of all heads, v of all heads,
    ``head_dim`` columns a head. The constants' clip is -127..127 with zero point 0 for all three.
    """

    heads: int
    head_dim: int

    @property
    def outputs(self) -> tuple[str, str, str]:
        """Names of the tensors q, k, v, each ``(tokens, heads * head_dim)``."""
        return (f"{self.output}.q", f"{self.output}.k", f"{self.output}.v")

    @property
    def output_heads(self) -> int:
        """All of them."""
        return self.heads

    @property
    def edges(self) -> tuple[int, ...]:
        """Symmetric: k and v are stationary operands."""
        return (self.requantise.low, self.requantise.high)

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """Three tensors of all heads."""
        del spec
        tokens, _ = self.product_shape(made)
        check_int(self.heads, 1, None, "heads")
        check_int(self.head_dim, 1, None, "head_dim")
        columns = self.heads * self.head_dim
        check_shape("weights", self.weights, (made[self.input].shape[1], 3 * columns))
        return {name: ((tokens, columns), "int8") for name in self.outputs}

    def check(self, made: Mapping[str, Tensor]) -> None:
        """The constants' clip is fixed."""
        super().check(made)
        r = self.requantise
        if (r.zero_point, r.low, r.high) != (0, -127, 127):
            raise FormatError(
                "requantise must have zero point 0 and clip -127..127,"
                f" not {(r.zero_point, r.low, r.high)}"
            )

    def apply(self, layer: Layer, batch: Batch) -> Values:
        """One product, cut in three."""
        r = self.requantise
        out = layer.int8(
            batch.values[self.input],
            zero_point=r.zero_point,
            low=r.low,
            high=r.high,
            kernels=batch.kernels,
        )
        parts = np.split(out, 3, axis=-1)
        return dict(zip(self.outputs, map(np.ascontiguousarray, parts), strict=True))
