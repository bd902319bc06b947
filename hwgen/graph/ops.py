# SPDX-License-Identifier: Apache-2.0
"""Operations of the integer graph: one frozen dataclass per operation.

Every operation names its input and output tensors; shapes are per image, without the batch axis.
All constants are integer arrays in the formats of the numerics package. Floating point appears
only as the ``scale`` of a :class:`Tensor`, which is information for reports and never takes part
in the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import PlainValidator, ValidationInfo, with_config

from hwgen.errors import FormatError
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.reading import STRICT, show


@dataclass(frozen=True)
class FileArrays:
    """The arrays of a graph's file: context of reading the operations that own them."""

    arrays: Mapping[str, np.ndarray]
    used: set[str] = field(default_factory=set)  #: names of those that have an owner

    def left(self) -> Iterator[str]:
        """Names of those that have none."""
        return (name for name in sorted(self.arrays) if name not in self.used)


def _array(value: object, info: ValidationInfo) -> np.ndarray:
    """The array that ``{"array": NAME}`` stands for."""
    file = info.context
    assert isinstance(file, FileArrays)
    if not isinstance(value, dict) or set(value) != {"array"}:
        raise ValueError('a table {"array": NAME}')
    name = value["array"]
    if not isinstance(name, str) or name not in file.arrays or name in file.used:
        raise FormatError(
            f"array must be one of the file that nothing else names, not {show(name)}"
        )
    file.used.add(name)
    return file.arrays[name]


def _optional_array(value: object, info: ValidationInfo) -> np.ndarray | None:
    return None if value is None else _array(value, info)


Array = Annotated[np.ndarray, PlainValidator(_array)]
ArrayOrNone = Annotated[np.ndarray | None, PlainValidator(_optional_array)]
DataType = Literal["uint8", "int8", "int16"]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One named tensor: a layer boundary that the accelerator materialises.

    ``real value = (code - zero_point) * scale``; ``shape`` is ``(tokens, channels)`` except for
    attention logits and codes, which are ``(heads, tokens, tokens)``, and the rows' shifts,
    ``(heads, tokens)``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DataType
    scale: float = 1.0
    zero_point: int = 0


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Requantise:
    """Constants of one requantise step, per output column.

    ``out = clip(rshr((acc + bias) * multiplier, shift) + zero_point, low, high)`` for int8
    outputs; the int16 forms (residual, head) use ``bias``, ``multiplier`` and ``shift`` only.
    """

    bias: Array  #: int32 [N]
    multiplier: Array  #: uint16 [N]: 0 (dead column) or 2^15..2^16-1
    shift: Array  #: uint8 [N]: 1..47
    zero_point: int = 0
    low: int = -128
    high: int = 127


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Op:
    """Base of all operations. ``name`` is unique and is what a mismatch report prints."""

    name: str
    output: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCodes(Op):
    """Pixels uint8 [H, W, channels] -> int8 [patches, patch*patch*channels], ``d = pixel - 128``.

    Patches are row-major; within a patch the order is (dy, dx, channel).
    """

    patch: int


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding(Op):
    """Patch embedding in the residual form: int16 [tokens, width].

    Row of patch p: ``clip(rshr((codes @ weights + bias) * m, e) + position[first + p])`` with
    ``first = 1`` when there is a class token, else 0. With a class token row 0 of the output is
    ``position[0]`` itself (class embedding + its position, already added).
    """

    input: str
    weights: Array  #: int8 [K, width]
    weight_bits: int
    requantise: Requantise
    channel_bits: ArrayOrNone = None  #: uint8 [width], as in :class:`Linear`
    position: Array  #: int16 [tokens, width], the constants that the residual memory starts with
    class_token: bool


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


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Op):
    """``requantise(input @ weights)``; optionally followed by a 256-entry table (GELU).

    int8 in; int8 out in general; int16 out for ``residual`` (added in place: input of the same
    shape) and for ``wide=True`` (the head: the residual form with r = 0).

    ``weight_bits`` is the width of the weights, or of the widest ones where the output channels
    have widths of their own: those are ``channel_bits``.
    """

    input: str
    weights: Array  #: int8 [K, N]
    weight_bits: int
    requantise: Requantise
    channel_bits: ArrayOrNone = None  #: uint8 [N]
    table: ArrayOrNone = None  #: int8 [256]: y = table[code + 128]
    residual: str | None = None
    wide: bool = False


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True, eq=False)
class QueryKeyValue(Op):
    """The three projections of attention from one input; outputs ``<output>.q``, ``.k``, ``.v``.

    Column order of weights and constants: q of all heads, k of all heads, v of all heads,
    ``head_dim`` columns a head. The constants' clip is -127..127 with zero point 0 for all three.
    """

    input: str
    weights: Array  #: int8 [K, 3 * heads * head_dim]
    weight_bits: int
    requantise: Requantise
    heads: int
    head_dim: int
    channel_bits: ArrayOrNone = None  #: uint8 [3 * heads * head_dim], as in :class:`Linear`

    @property
    def outputs(self) -> tuple[str, str, str]:
        """Names of the tensors q, k, v, each ``(tokens, heads * head_dim)``."""
        return (f"{self.output}.q", f"{self.output}.k", f"{self.output}.v")


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
