# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of the residual stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from hwgen.errors import FormatError
from hwgen.graph.ops.base import Array, Batch, Op, Shapes, Tensor, Values, check_shape, input_shape
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.ailayernorm import (
    BETA_FRACTION_BITS_MAXIMUM,
    GAMMA_SHIFT_MAXIMUM,
    ailayernorm,
)
from hwgen.numerics.formats import INT24, check_int, check_range
from hwgen.numerics.requantise import PTF_ALPHA_MAXIMUM, PTF_SHIFT_MAXIMUM, ptf_codes
from hwgen.reading import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm(Op):
    """PTF codes read off the int16 residual by shifts, then AILayerNorm -> int8.

    ``x = clip(rshr(r, ptf_shift + alpha_c) + zero_point, 0, 255)``. ``rows`` limits the operation
    to the first rows of the input (the class token's, before the head); ``None`` means all.
    """

    input: str
    alpha: Array  #: uint8 [C], 0..3
    gamma: Array  #: int8 [C], -127..127
    beta: Array  #: int32 [C], signed 24 bits
    ptf_shift: int  #: 0..11
    zero_point: int  #: 0..255
    gamma_shift: int  #: 0..15
    beta_fraction_bits: int  #: 0..10
    output_zero_point: int = 0
    squares: Literal["compressed", "exact"] = "compressed"
    rows: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The residual stream."""
        return (self.input,)

    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """The input's, or its first rows."""
        del spec
        shape = input_shape(made, self.input, "int16")
        for name in ("alpha", "gamma", "beta"):
            check_shape(name, getattr(self, name), (shape[1],))
        rows = shape[0] if self.rows is None else check_int(self.rows, 1, shape[0], "rows")
        return {self.output: ((rows, shape[1]), "int8")}

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Every constant has its range."""
        del made
        check_range(self.alpha, 0, PTF_ALPHA_MAXIMUM, "alpha")
        check_range(self.gamma, -127, 127, "gamma")
        INT24.check(self.beta, "beta")
        check_int(self.ptf_shift, 0, PTF_SHIFT_MAXIMUM, "ptf_shift")
        check_int(self.zero_point, 0, 255, "zero_point")
        check_int(self.gamma_shift, 0, GAMMA_SHIFT_MAXIMUM, "gamma_shift")
        check_int(self.beta_fraction_bits, 0, BETA_FRACTION_BITS_MAXIMUM, "beta_fraction_bits")
        check_int(self.output_zero_point, -128, 127, "output_zero_point")
        if self.squares not in ("compressed", "exact"):
            raise FormatError(f"squares must be 'compressed' or 'exact', not {self.squares!r}")

    def execute(self, batch: Batch) -> Values:
        """Codes by shifts, then the unit's arithmetic."""
        residual = batch.values[self.input]
        rows = residual if self.rows is None else residual[:, : self.rows]
        codes = ptf_codes(
            rows,
            shift=self.ptf_shift,
            alpha=self.alpha,
            zero_point=self.zero_point,
            kernels=batch.kernels,
        )
        out = ailayernorm(
            codes,
            alpha=self.alpha,
            gamma=self.gamma,
            beta=self.beta,
            zero_point=self.zero_point,
            gamma_shift=self.gamma_shift,
            beta_fraction_bits=self.beta_fraction_bits,
            output_zero_point=self.output_zero_point,
            squares=self.squares,
            max_channels=codes.shape[-1],
            kernels=batch.kernels,
        )
        return {self.output: out}
