# SPDX-License-Identifier: Apache-2.0
"""Softmax of attention's logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import Batch, Op, Shapes, Tensor, Values, input_shape
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.e2softmax import FRACTION_BITS_MAXIMUM
from hwgen.numerics.formats import check_int
from hwgen.numerics.fractional_softmax import LENGTH_MAXIMUM
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Op):
    """Softmax over the last axis: int8 logits -> uint8 codes of scale 2^-8.

    With mode ``fractional`` every row has a shift, uint8 [heads, tokens]: its codes have scale
    ``2^-(8 + shift)``.
    """

    input: str
    fraction_bits: int
    function: SoftmaxFunction

    @property
    def shifts(self) -> str | None:
        """Name of the tensor of the rows' shifts, if the mode has them."""
        return f"{self.output}.shift" if self.function.has_shifts else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The logits."""
        return (self.input,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Codes, and shifts if the mode has them."""
        return (self.output,) if self.shifts is None else (self.output, self.shifts)

    @property
    def edges(self) -> tuple[int, ...]:
        """None: nothing is clipped."""
        return ()

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """The logits'; a shift per row."""
        del spec
        shape = input_shape(made, self.input, "int8", axes=3)
        if not isinstance(self.function, SoftmaxFunction):
            raise FormatError(f"function must be a softmax, not {type(self.function).__name__}")
        results: Shapes = {self.output: (shape, "uint8")}
        if self.shifts is not None:
            results[self.shifts] = (shape[:-1], "uint8")
        return results

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Fraction bits and length that the function takes."""
        check_int(self.fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")
        if self.function.has_shifts:
            check_int(made[self.input].shape[-1], 1, LENGTH_MAXIMUM, "tokens")

    def execute(self, batch: Batch) -> Values:
        """Row by row."""
        logits = batch.values[self.input]
        codes, shifts = self.function(
            logits,
            fraction_bits=self.fraction_bits,
            max_length=logits.shape[-1],
            kernels=batch.kernels,
        )
        if self.shifts is None or shifts is None:
            return {self.output: codes}
        return {self.output: codes, self.shifts: shifts}
