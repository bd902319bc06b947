# SPDX-License-Identifier: Apache-2.0
"""The sums over the values, weighed by the softmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import Batch, Op, Shapes, Tensor, Values, check_clip, input_shape
from hwgen.graph.ops.heads import check_heads, check_scalar_requantise, join_heads, split_heads
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.formats import check_int
from hwgen.numerics.fractional_softmax import SHIFT_ROOM
from hwgen.numerics.layer import attention
from hwgen.numerics.requantise import SHIFT_MAXIMUM, SHIFT_MINIMUM
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionValues(Op):
    """Per head ``clip(rshr(codes @ v * m, e), low, high)`` -> int8 [tokens, heads * head_dim].

    With ``shifts``, those of the codes' rows, a row's shift is added to e, which is at most 35.
    """

    codes: str
    value: str
    heads: int
    multiplier: int
    shift: int
    low: int = -127
    high: int = 127
    shifts: str | None = None  #: uint8 [heads, tokens]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The codes are streamed, the value is stationary."""
        return (self.codes, self.value, *(() if self.shifts is None else (self.shifts,)))

    @property
    def output_heads(self) -> int:
        """All of them."""
        return self.heads

    @property
    def edges(self) -> tuple[int, ...]:
        """Of its own clip."""
        return (self.low, self.high)

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """The value's."""
        del spec
        codes = input_shape(made, self.codes, "uint8", axes=3)
        value = input_shape(made, self.value, "int8")
        check_heads(self.heads, value[1])
        if codes != (self.heads, value[0], value[0]):
            raise FormatError(
                f"codes must be [{self.heads}, {value[0]}, {value[0]}], not {list(codes)}"
            )
        expected = f"{self.codes}.shift" if f"{self.codes}.shift" in made else None
        if self.shifts != expected:
            raise FormatError(
                f"shifts must be {expected!r}, those of the codes, not {self.shifts!r}"
            )
        if self.shifts is not None:
            input_shape(made, self.shifts, "uint8")
        return {self.output: (value, "int8")}

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Constants; the rows' shifts need room."""
        tokens = made[self.value].shape[0]
        check_scalar_requantise(self.multiplier, self.shift, tokens, signed=False)
        check_clip(self.low, self.high)
        if self.shifts is not None:
            check_int(self.shift, SHIFT_MINIMUM, SHIFT_MAXIMUM - SHIFT_ROOM, "shift")

    def macs(self, tensors: Mapping[str, Tensor]) -> int:
        """Tokens x tokens x columns of all heads."""
        tokens, columns = tensors[self.value].shape
        return tokens * tokens * columns

    def execute(self, batch: Batch) -> Values:
        """Head by head, then side by side."""
        out = attention(
            batch.values[self.codes],
            split_heads(batch.values[self.value], self.heads),
            multiplier=self.multiplier,
            shift=self.shift,
            low=self.low,
            high=self.high,
            row_shift=None if self.shifts is None else batch.values[self.shifts],
            kernels=batch.kernels,
        )
        return {self.output: join_heads(out)}
