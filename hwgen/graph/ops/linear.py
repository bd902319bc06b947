# SPDX-License-Identifier: Apache-2.0
"""A linear layer: into the residual stream, to the logits, or to codes with a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import (
    INT8_EDGES,
    INT16_EDGES,
    ArrayOrNone,
    Batch,
    Shapes,
    Tensor,
    Values,
    check_shape,
    input_shape,
)
from hwgen.graph.ops.weighted import Weighted
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.layer import Layer
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Weighted):
    """``requantise(input @ weights)``; optionally followed by a 256-entry table (GELU).

    int8 in; int8 out in general; int16 out for ``residual`` (added in place: input of the same
    shape) and for ``wide=True`` (the head: the residual form with r = 0).
    """

    table: ArrayOrNone = None  #: int8 [256]: y = table[code + 128]
    residual: str | None = None
    wide: bool = False

    @property
    def is_int16(self) -> bool:
        """The output is of 16 bits."""
        return self.wide or self.residual is not None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streamed operand, and what is added to."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    @property
    def edges(self) -> tuple[int, ...]:
        """Of a table's output: of the format."""
        if self.is_int16:
            return INT16_EDGES
        return (self.requantise.low, self.requantise.high) if self.table is None else INT8_EDGES

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """A row per row of the input."""
        del spec
        out = self.product_shape(made)
        if not self.is_int16:
            if self.table is not None:
                check_shape("table", self.table, (256,))
            return {self.output: (out, "int8")}
        if self.residual is not None:
            if self.wide:
                raise FormatError("wide must be False when there is a residual, not True")
            found = input_shape(made, self.residual, "int16")
            if found != out:
                raise FormatError(f"residual must have shape {out}, not {found}")
        if self.table is not None:
            raise FormatError("table must be None for an int16 output")
        return {self.output: (out, "int16")}

    def check(self, made: Mapping[str, Tensor]) -> None:
        """An int16 output has no clip of its own."""
        super().check(made)
        r = self.requantise
        if self.is_int16 and (r.zero_point, r.low, r.high) != (0, -128, 127):
            raise FormatError(
                "requantise of an int16 output must keep the default zero point and clip,"
                f" not {(r.zero_point, r.low, r.high)}"
            )

    def apply(self, layer: Layer, batch: Batch) -> Values:
        """Product, requantise step and what follows it."""
        rows, r = batch.values[self.input], self.requantise
        if self.is_int16:
            added = None if self.residual is None else batch.values[self.residual]
            return {self.output: layer.int16(rows, added, kernels=batch.kernels)}
        out = layer.int8(
            rows,
            zero_point=r.zero_point,
            low=r.low,
            high=r.high,
            table=self.table,
            kernels=batch.kernels,
        )
        return {self.output: out}
