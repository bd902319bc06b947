# SPDX-License-Identifier: Apache-2.0
"""The integer graph: an ordered list of operations with their tensors; validated, saved and loaded.

File format: safetensors. Arrays are named ``<operation>.<field>``; the one metadata entry
``hwgen.graph`` is a JSON object ``{schema_version, spec, tensors, ops, metadata}``. Equal graphs
give equal bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator, ValidationInfo, with_config

from hwgen.errors import FormatError, ModelError
from hwgen.graph import ops as graph_ops
from hwgen.graph.assumption import Assumptions, assumptions_to_json
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Requantise,
    Softmax,
    Tensor,
)
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.ailayernorm import BETA_FRACTION_BITS_MAXIMUM, GAMMA_SHIFT_MAXIMUM
from hwgen.numerics.e2softmax import FRACTION_BITS_MAXIMUM
from hwgen.numerics.formats import INT8, INT24, check_int, check_range, check_weights
from hwgen.numerics.fractional_softmax import LENGTH_MAXIMUM, SHIFT_ROOM
from hwgen.numerics.matmul import max_reduction
from hwgen.numerics.requantise import (
    PTF_ALPHA_MAXIMUM,
    PTF_SHIFT_MAXIMUM,
    SHIFT_MAXIMUM,
    SHIFT_MINIMUM,
    check_constants,
)
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.reading import STRICT, check_version, load_json, printable, shorten, show, validate

SCHEMA_VERSION = 5
METADATA_KEY = "hwgen.graph"
_INT32_MAXIMUM = 2**31 - 1
#: Most that is said of a malformed graph: its names can have any length.
_MESSAGE = 400

#: Element type of every array field; a field that is not here is no array.
_ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
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

OP_TYPES: dict[str, type[Op]] = {
    cls.__name__: cls
    for cls in (
        ImageCodes,
        Embedding,
        LayerNorm,
        Linear,
        QueryKeyValue,
        AttentionLogits,
        Softmax,
        AttentionValues,
        MeanPool,
    )
}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class GraphMetadata:
    """Where a graph comes from: for reports, never for arithmetic."""

    #: "synthetic", "digits", or the digest of the calibration images' pixels
    image_source: str = "none"
    calibration_images: int = 0
    checkpoint_digest: str = ""  #: SHA-256 of the float tensors, canonical names and values
    squares: str = "compressed"
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    #: Fraction of attention logits that the clip to int8 changes, per AttentionLogits operation,
    #: counted in the integer network on the first calibration images.
    logit_saturation: Mapping[str, float] = field(default_factory=dict)
    #: Against the float model, on images that calibration has not seen (unless it had very few);
    #: None where it has not been measured, or is not finite.
    logit_sqnr_db: float | None = None
    float_agreement: float | None = None
    quality_images: int = 0
    #: Per softmax, what the weights of a row sum to: mean and minimum over rows and images.
    softmax_mass: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: What the weights do not say, by name.
    assumed: Assumptions = field(default_factory=dict)

    def quality(self) -> dict[str, Any]:
        """What quantisation cost, as plain values."""
        return {
            "logit_sqnr_db": self.logit_sqnr_db,
            "float_agreement": self.float_agreement,
            "quality_images": self.quality_images,
            "softmax_mass": {name: dict(mass) for name, mass in self.softmax_mass.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"assumed": assumptions_to_json(self.assumed)}


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerGraph:
    """A quantised Vision Transformer: operations in execution order. Valid by construction.

    The input is one image, uint8 [H, W, channels]; the output is the last operation's, int16 [1,
    classes].
    """

    spec: ModelSpec
    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]
    metadata: GraphMetadata = field(default_factory=GraphMetadata)

    def __post_init__(self) -> None:
        """Validate; a graph that breaks a rule does not come into being."""
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        self.validate()

    @property
    def output(self) -> Tensor:
        """The logits."""
        return self.tensors[self.ops[-1].output]

    def validate(self) -> None:
        """Check names, order, shapes, formats and value ranges of everything.

        Raises:
            FormatError: the message names the operation and the rule.
        """
        if not self.ops:
            raise FormatError("Graph must have at least one operation, not 0")
        made: dict[str, Tensor] = {}
        names: set[str] = set()
        for op in self.ops:
            if type(op).__name__ not in OP_TYPES:
                raise FormatError(f"Operation must be one of {', '.join(OP_TYPES)}, not {type(op)}")
            if op.name in names:
                raise FormatError(f"Operation names must be unique, not {op.name!r} twice")
            names.add(op.name)
            try:
                results = _infer(op, made, self.spec)
            except FormatError as error:
                raise FormatError(f"Operation {op.name!r}: {error}") from error
            for name, (shape, dtype) in results.items():
                if name in made:
                    raise FormatError(
                        f"Tensor {name!r} must be produced once, not again by operation {op.name!r}"
                    )
                tensor = self.tensors.get(name)
                if tensor is None or (tensor.name, tuple(tensor.shape), tensor.dtype) != (
                    name,
                    shape,
                    dtype,
                ):
                    raise FormatError(
                        f"Tensor {name!r} of operation {op.name!r} must be {dtype} {list(shape)},"
                        f" not {tensor}"
                    )
                if not math.isfinite(tensor.scale) or tensor.scale <= 0:
                    raise FormatError(
                        f"Scale of tensor {name!r} must be positive, not {tensor.scale!r}"
                    )
                made[name] = tensor
        unmade = sorted(set(self.tensors) - set(made))
        if unmade:
            raise FormatError(f"Tensors must be produced by an operation, not left over: {unmade}")
        output = made.get(self.ops[-1].output)
        if output is None or output.shape != (1, self.spec.classes) or output.dtype != "int16":
            raise FormatError(
                f"Last operation must give int16 [1, {self.spec.classes}] logits, not {output}"
            )

    def macs(self) -> int:
        """Multiply-accumulates per image: M x K x N of every matrix multiply, no padding."""
        return sum(self.op_macs(op) for op in self.ops)

    def op_macs(self, op: Op) -> int:
        """Multiply-accumulates of one operation per image; 0 without a matrix multiply."""
        match op:
            case Embedding() | Linear() | QueryKeyValue():
                return int(self.tensors[op.input].shape[0] * op.weights.size)
            case AttentionLogits():
                tokens, columns = self.tensors[op.query].shape
                return tokens * tokens * columns
            case AttentionValues():
                tokens, columns = self.tensors[op.value].shape
                return tokens * tokens * columns
            case _:
                return 0

    def save(self, path: str | Path, *, more: Mapping[str, str] | None = None) -> None:
        """Write the graph; the file's bytes depend on the graph and on ``more`` metadata only."""
        arrays: dict[str, np.ndarray] = {}
        document = {
            "schema_version": SCHEMA_VERSION,
            "spec": self.spec.to_json(),
            "tensors": [dataclasses.asdict(t) for t in self.tensors.values()],
            "ops": [_encode(op, op.name, arrays) for op in self.ops],
            "metadata": self.metadata.to_json(),
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        write_safetensors(path, arrays, {**(more or {}), METADATA_KEY: text}, seal=True)

    @classmethod
    def load(cls, path: str | Path) -> IntegerGraph:
        """Read and validate a graph.

        Raises:
            FormatError: the file is no graph, of another schema version, or breaks a rule.
        """
        arrays, metadata = read_safetensors(path)
        where = printable(str(path))
        if METADATA_KEY not in metadata:
            raise FormatError(
                f"{where}: must be a graph (metadata entry {METADATA_KEY!r}), it has none;"
                " a checkpoint becomes a graph with 'hwgen quantize'"
            )
        file = graph_ops.FileArrays(arrays)
        try:
            values = load_json(metadata[METADATA_KEY], where=where)
            check_version(
                values, SCHEMA_VERSION, what="Graph", where=where, remedy="quantise again"
            )
            document = validate(values, _Document, context=file)
            _check_stated(values, document, "")
            graph = cls(
                spec=document.spec,
                ops=document.ops,
                tensors={tensor.name: tensor for tensor in document.tensors},
                metadata=document.metadata,
            )
            if left := [*file.left()]:
                raise FormatError(f"every array must belong to one operation, not {left[:5]}")
            if len(document.tensors) != len(graph.tensors):
                raise FormatError("names of tensors must be unique, and are not")
        except (FormatError, ModelError) as error:
            text = shorten(error.what, _MESSAGE)
            raise FormatError(text, where=where, why=error.why, nearest=error.nearest) from error
        return graph


def _op(value: object, info: ValidationInfo) -> Op:
    """An operation; its key ``type`` says which."""
    if not isinstance(value, dict):
        raise ValueError("a table")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in OP_TYPES:
        raise FormatError(f"type must be one of {', '.join(OP_TYPES)}, not {show(kind)}")
    fields = {key: item for key, item in value.items() if key != "type"}
    return validate(fields, OP_TYPES[kind], context=info.context)


def _spec(value: object) -> ModelSpec:
    return ModelSpec.from_json(value)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _Document:
    """The description of a graph in its file."""

    schema_version: int
    spec: Annotated[ModelSpec, PlainValidator(_spec)]
    tensors: tuple[Tensor, ...]
    ops: tuple[Annotated[Op, PlainValidator(_op)], ...]
    metadata: GraphMetadata


def _check_stated(values: Any, made: object, place: str) -> None:
    """Refuse a description that leaves out what has a default: such a graph was not saved so."""
    if isinstance(made, tuple) and isinstance(values, list):
        for index, (value, item) in enumerate(zip(values, made, strict=True)):
            _check_stated(value, item, f"{place}[{index}]")
    elif dataclasses.is_dataclass(made) and isinstance(values, dict):
        prefix = f"{place}." if place else ""
        for f in dataclasses.fields(made):
            if f.name not in values:
                raise FormatError(f"{prefix}{f.name} must be stated, and is missing")
            _check_stated(values[f.name], getattr(made, f.name), f"{prefix}{f.name}")


def _encode(item: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    out: dict[str, Any] = {"type": type(item).__name__} if isinstance(item, Op) else {}
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}.{f.name}"] = value
            value = {"array": f"{prefix}.{f.name}"}
        elif isinstance(value, Requantise | SoftmaxFunction):
            value = _encode(value, f"{prefix}.{f.name}", arrays)
        out[f.name] = value
    return out


_Result = dict[str, tuple[tuple[int, ...], str]]


def _infer(op: Op, made: Mapping[str, Tensor], spec: ModelSpec) -> _Result:
    """Check one operation against its inputs; return its outputs' shapes and element types."""
    _check_arrays(op)
    match op:
        case ImageCodes():
            if op.patch != spec.patch:
                raise FormatError(f"patch must be the model's {spec.patch}, not {op.patch!r}")
            return {op.output: ((spec.patches, spec.patch_values), "int8")}
        case Embedding():
            rows, _ = _input(made, op.input, "int8")
            _check_linear(op, _input(made, op.input, "int8"))
            tokens = rows + int(op.class_token)
            _check_shape("position", op.position, (tokens, op.weights.shape[1]))
            return {op.output: ((tokens, op.weights.shape[1]), "int16")}
        case LayerNorm():
            return _infer_layer_norm(op, made)
        case Linear():
            return _infer_linear(op, made)
        case QueryKeyValue():
            shape = _input(made, op.input, "int8")
            _check_linear(op, shape)
            check_int(op.heads, 1, None, "heads")
            check_int(op.head_dim, 1, None, "head_dim")
            columns = op.heads * op.head_dim
            _check_shape("weights", op.weights, (shape[1], 3 * columns))
            r = op.requantise
            if (r.zero_point, r.low, r.high) != (0, -127, 127):
                raise FormatError(
                    "requantise must have zero point 0 and clip -127..127,"
                    f" not {(r.zero_point, r.low, r.high)}"
                )
            return {name: ((shape[0], columns), "int8") for name in op.outputs}
        case AttentionLogits():
            query, key = _input(made, op.query, "int8"), _input(made, op.key, "int8")
            _check_heads(op.heads, query[1])
            if key != query:
                raise FormatError(f"key must have the query's shape {query}, not {key}")
            _check_scalar_requantise(op.multiplier, op.shift, query[1] // op.heads, signed=True)
            check_int(op.fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")
            return {op.output: ((op.heads, query[0], key[0]), "int8")}
        case Softmax():
            shape = _input(made, op.input, "int8", axes=3)
            check_int(op.fraction_bits, 0, FRACTION_BITS_MAXIMUM, "fraction_bits")
            if not isinstance(op.function, SoftmaxFunction):
                raise FormatError(f"function must be a softmax, not {type(op.function).__name__}")
            if op.function.has_shifts:
                check_int(shape[-1], 1, LENGTH_MAXIMUM, "tokens")
            results: _Result = {op.output: (shape, "uint8")}
            if op.shifts is not None:
                results[op.shifts] = (shape[:-1], "uint8")
            return results
        case AttentionValues():
            codes = _input(made, op.codes, "uint8", axes=3)
            value = _input(made, op.value, "int8")
            _check_heads(op.heads, value[1])
            if codes != (op.heads, value[0], value[0]):
                raise FormatError(
                    f"codes must be [{op.heads}, {value[0]}, {value[0]}], not {list(codes)}"
                )
            _check_scalar_requantise(op.multiplier, op.shift, value[0], signed=False)
            _check_clip(op.low, op.high)
            _check_shifts(op, made)
            return {op.output: (value, "int8")}
        case MeanPool():
            shape = _input(made, op.input, "int8")
            check_int(op.first, 0, shape[0] - 1, "first")
            check_constants(bias=0, multiplier=op.multiplier, shift=op.shift, columns=1)
            return {op.output: ((1, shape[1]), "int8")}
        case _:
            raise FormatError(f"type {type(op).__name__} is not known")


def _check_shifts(op: AttentionValues, made: Mapping[str, Tensor]) -> None:
    """Codes whose rows have shifts need them, and room for them; others have none."""
    expected = f"{op.codes}.shift" if f"{op.codes}.shift" in made else None
    if op.shifts != expected:
        raise FormatError(f"shifts must be {expected!r}, those of the codes, not {op.shifts!r}")
    if op.shifts is not None:
        _input(made, op.shifts, "uint8")
        check_int(op.shift, SHIFT_MINIMUM, SHIFT_MAXIMUM - SHIFT_ROOM, "shift")


def _infer_layer_norm(op: LayerNorm, made: Mapping[str, Tensor]) -> _Result:
    shape = _input(made, op.input, "int16")
    for name in ("alpha", "gamma", "beta"):
        _check_shape(name, getattr(op, name), (shape[1],))
    check_range(op.alpha, 0, PTF_ALPHA_MAXIMUM, "alpha")
    check_range(op.gamma, -127, 127, "gamma")
    INT24.check(op.beta, "beta")
    check_int(op.ptf_shift, 0, PTF_SHIFT_MAXIMUM, "ptf_shift")
    check_int(op.zero_point, 0, 255, "zero_point")
    check_int(op.gamma_shift, 0, GAMMA_SHIFT_MAXIMUM, "gamma_shift")
    check_int(op.beta_fraction_bits, 0, BETA_FRACTION_BITS_MAXIMUM, "beta_fraction_bits")
    check_int(op.output_zero_point, -128, 127, "output_zero_point")
    if op.squares not in ("compressed", "exact"):
        raise FormatError(f"squares must be 'compressed' or 'exact', not {op.squares!r}")
    rows = shape[0] if op.rows is None else check_int(op.rows, 1, shape[0], "rows")
    return {op.output: ((rows, shape[1]), "int8")}


def _infer_linear(op: Linear, made: Mapping[str, Tensor]) -> _Result:
    shape = _input(made, op.input, "int8")
    _check_linear(op, shape)
    out = (shape[0], op.weights.shape[1])
    if op.residual is not None or op.wide:
        if op.residual is not None and op.wide:
            raise FormatError("wide must be False when there is a residual, not True")
        if op.table is not None:
            raise FormatError("table must be None for an int16 output")
        r = op.requantise
        if (r.zero_point, r.low, r.high) != (0, -128, 127):
            raise FormatError(
                "requantise of an int16 output must keep the default zero point and clip,"
                f" not {(r.zero_point, r.low, r.high)}"
            )
        if op.residual is not None and _input(made, op.residual, "int16") != out:
            raise FormatError(f"residual must have shape {out}, not {made[op.residual].shape}")
        return {op.output: (out, "int16")}
    if op.table is not None:
        _check_shape("table", op.table, (256,))
    return {op.output: (out, "int8")}


def _input(made: Mapping[str, Tensor], name: str, dtype: str, *, axes: int = 2) -> tuple[int, ...]:
    tensor = made.get(name)
    if tensor is None:
        raise FormatError(f"input {name!r} must be produced by an earlier operation; it is not")
    if tensor.dtype != dtype or len(tensor.shape) != axes:
        raise FormatError(
            f"input {name!r} must be {dtype} with {axes} axes, not {tensor.dtype} {tensor.shape}"
        )
    return tuple(tensor.shape)


def _check_arrays(item: Any) -> None:
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        if isinstance(value, Requantise):
            _check_arrays(value)
        elif str(f.type).startswith("Array") and value is not None:
            dtype = _ARRAY_DTYPES[f.name]
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                raise FormatError(f"{f.name} must be an array of {dtype}, not {kind}")


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise FormatError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")


def _check_linear(op: Embedding | Linear | QueryKeyValue, shape: tuple[int, ...]) -> None:
    weights, weight_bits, requantise = op.weights, op.weight_bits, op.requantise
    if weights.ndim != 2 or weights.shape[0] != shape[1]:
        raise FormatError(f"weights must have shape [{shape[1]}, N], not {list(weights.shape)}")
    check_int(weight_bits, 1, 8, "weight_bits")
    if op.channel_bits is None:
        check_weights(weights, weight_bits)
    else:
        _check_channels(weights, weight_bits, op.channel_bits)
    if shape[1] > max_reduction(weight_bits=weight_bits):
        raise FormatError(
            f"weights must have at most {max_reduction(weight_bits=weight_bits)} rows,"
            f" not {shape[1]}: int32 could overflow"
        )
    columns = weights.shape[1]
    for name in ("bias", "multiplier", "shift"):
        _check_shape(f"requantise.{name}", getattr(requantise, name), (columns,))
    check_constants(
        bias=requantise.bias,
        multiplier=requantise.multiplier,
        shift=requantise.shift,
        columns=columns,
    )
    INT8.check(np.array(requantise.zero_point), "requantise.zero_point")
    _check_clip(requantise.low, requantise.high)
    worst = 128 * np.abs(weights.astype(np.int64)).sum(axis=0)
    worst += np.abs(requantise.bias.astype(np.int64))
    if worst.size and int(worst.max()) > _INT32_MAXIMUM:
        column = int(worst.argmax())
        raise FormatError(
            f"accumulator + bias of column {column} must fit int32 for every input,"
            f" not reach {int(worst.max())}"
        )


def _check_channels(weights: np.ndarray, weight_bits: int, channel_bits: np.ndarray) -> None:
    """Every output channel's weights have its own width, the widest has the layer's."""
    _check_shape("channel_bits", channel_bits, weights.shape[1:])
    if channel_bits.size and int(channel_bits.max()) != weight_bits:
        raise FormatError(
            f"channel_bits must be {weight_bits} at most, and somewhere, not"
            f" {int(channel_bits.max())}"
        )
    for bits in np.unique(channel_bits):
        check_int(int(bits), 1, 8, "channel_bits")
        check_weights(weights[:, channel_bits == bits], int(bits))


def _check_clip(low: int, high: int) -> None:
    check_int(low, -128, 127, "low")
    check_int(high, low, 127, "high")


def _check_heads(heads: int, columns: int) -> None:
    check_int(heads, 1, None, "heads")
    if columns % heads:
        raise FormatError(f"heads must divide {columns} columns, not {heads}")


def _check_scalar_requantise(multiplier: int, shift: int, reduction: int, *, signed: bool) -> None:
    check_constants(bias=0, multiplier=multiplier, shift=shift, columns=1)
    check_int(reduction, 1, max_reduction(signed=signed), "reduction length")


__all__ = ["OP_TYPES", "SCHEMA_VERSION", "GraphMetadata", "IntegerGraph", "ModelSpec", "graph_ops"]
