# SPDX-License-Identifier: Apache-2.0
"""What every operation of the integer graph is: fields, inputs and outputs, shapes, execution.

Every operation names its input and output tensors; shapes are per image, without the batch axis.
All constants are integer arrays in the formats of the numerics package. Floating point appears
only as the ``scale`` of a :class:`Tensor`, which is information for reports and never takes part
in the arithmetic.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import PlainValidator, ValidationInfo, with_config

from hwgen.errors import FormatError
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.formats import check_int
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

#: Element type of every array field; a field that is not here is no array.
ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    "weights": np.dtype(np.int8),
    "channel_bits": np.dtype(np.uint8),
    "position": np.dtype(np.int16),
    "alpha": np.dtype(np.uint8),
    "gamma": np.dtype(np.int8),
    "beta": np.dtype(np.int32),
    "table": np.dtype(np.int8),
    "bias": np.dtype(np.int32),
    "multiplier": np.dtype(np.uint16),
    "shift": np.dtype(np.uint8),
}

#: Outputs of an operation: name -> shape and element type.
Shapes = dict[str, tuple[tuple[int, ...], DataType]]
#: Tensors of a batch by name, batch axis first.
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What operations are executed on."""

    images: np.ndarray  #: uint8 [n, H, W, channels]
    values: Values  #: tensors of earlier operations
    kernels: Kernels | None = None  #: compiled loops, where there are any


#: An operation with what it needs for many executions.
Step = Callable[[Batch], Values]

#: First and last code of the formats, where a clip ends.
INT8_EDGES = (-128, 127)
INT16_EDGES = (-32768, 32767)


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
class Op(ABC):
    """Base of all operations. ``name`` is unique and is what a mismatch report prints.

    An operation without values (:mod:`hwgen.graph.network`) has arrays of the right shape with
    nothing in them: :meth:`shapes` and :meth:`macs` look at no element of an array.
    """

    name: str
    output: str

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads, the streamed operand first."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that it makes."""
        return (self.output,)

    @property
    def output_heads(self) -> int:
        """Heads that the channels of its outputs consist of; 0 where they are no heads'."""
        return 0

    @property
    def edges(self) -> tuple[int, ...]:
        """Codes on the edge of its outputs' clip; none where nothing is clipped."""
        return INT8_EDGES

    @abstractmethod
    def shapes(self, made: Mapping[str, Tensor], spec: ModelSpec) -> Shapes:
        """Shapes and element types of its outputs.

        Args:
            made: tensors of earlier operations.
            spec: geometry of the model.

        Raises:
            FormatError: an input that is not there, or shapes that do not fit each other.
        """

    def check(self, made: Mapping[str, Tensor]) -> None:
        """Check the values of its fields, whose shapes are right.

        Raises:
            FormatError: a value outside its range.
        """
        del made

    def macs(self, tensors: Mapping[str, Tensor]) -> int:
        """Multiply-accumulates per image, no padding; 0 without a matrix multiply."""
        del tensors
        return 0

    @abstractmethod
    def execute(self, batch: Batch) -> Values:
        """Return the tensors that it makes, bit by bit as the hardware."""

    def prepare(self) -> Step:
        """:meth:`execute` for many batches: what is converted for it is so once."""
        return self.execute


def last_uses(ops: tuple[Op, ...]) -> list[list[str]]:
    """Per operation the tensors that nothing after it reads; the last one's outputs stay."""
    last: dict[str, int] = {}
    for number, op in enumerate(ops):
        for name in (*op.inputs, *op.outputs):
            last[name] = number
    for name in ops[-1].outputs:
        del last[name]
    freed: list[list[str]] = [[] for _ in ops]
    for name, number in last.items():
        freed[number].append(name)
    return freed


# Checks that operations share ---------------------------------------------------------------------


def input_shape(
    made: Mapping[str, Tensor], name: str, dtype: DataType, *, axes: int = 2
) -> tuple[int, ...]:
    """Shape of an input of an element type and a number of axes."""
    tensor = made.get(name)
    if tensor is None:
        raise FormatError(f"input {name!r} must be produced by an earlier operation; it is not")
    if tensor.dtype != dtype or len(tensor.shape) != axes:
        raise FormatError(
            f"input {name!r} must be {dtype} with {axes} axes, not {tensor.dtype} {tensor.shape}"
        )
    return tuple(tensor.shape)


def check_arrays(item: Op | Requantise) -> None:
    """Every array must have its field's element type."""
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        if isinstance(value, Requantise):
            check_arrays(value)
        elif str(f.type).startswith("Array") and value is not None:
            dtype = ARRAY_DTYPES[f.name]
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                raise FormatError(f"{f.name} must be an array of {dtype}, not {kind}")


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """An array must have a shape."""
    if array.shape != shape:
        raise FormatError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")


def check_clip(low: int, high: int) -> None:
    """Bounds of a clip to int8."""
    check_int(low, -128, 127, "low")
    check_int(high, low, 127, "high")
