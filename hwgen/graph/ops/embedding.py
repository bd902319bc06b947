# SPDX-License-Identifier: Apache-2.0
"""The patch embedding, with which the residual stream begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import with_config

from hwgen.graph.ops.base import INT16_EDGES, Array, Batch, Shapes, Tensor, Values, check_shape
from hwgen.graph.ops.weighted import Weighted
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.layer import Layer
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding(Weighted):
    """Patch embedding in the residual form: int16 [tokens, width].

    Row of patch p: ``clip(rshr((codes @ weights + bias) * m, e) + position[first + p])`` with
    ``first = 1`` when there is a class token, else 0. With a class token row 0 of the output is
    ``position[0]`` itself (class embedding + its position, already added).
    """

    position: Array  #: int16 [tokens, width], the constants that the residual memory starts with
    class_token: bool

    @property
    def edges(self) -> tuple[int, ...]:
        """Of the stream."""
        return INT16_EDGES

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """A row per token."""
        del spec
        patches, width = self.product_shape(made)
        shape = (patches + int(self.class_token), width)
        check_shape("position", self.position, shape)
        return {self.output: (shape, "int16")}

    def apply(self, layer: Layer, batch: Batch) -> Values:
        """Patches x weights, added to the positions; the class token's row in front."""
        codes = batch.values[self.input]
        patches = self.position[int(self.class_token) :]
        added = np.broadcast_to(patches, (len(codes), *patches.shape))
        out: np.ndarray = layer.int16(codes, added, kernels=batch.kernels)
        if self.class_token:
            row = np.broadcast_to(self.position[:1], (len(out), 1, out.shape[-1]))
            out = np.concatenate([row, out], axis=1)
        return {self.output: out}
