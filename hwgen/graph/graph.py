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
from hwgen.graph.assumption import Assumptions, assumptions_to_json
from hwgen.graph.ops import OP_TYPES, FileArrays, Op, Requantise, Tensor
from hwgen.graph.ops.base import check_arrays
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.reading import STRICT, check_version, load_json, printable, shorten, show, validate

SCHEMA_VERSION = 5
METADATA_KEY = "hwgen.graph"
#: Most that is said of a malformed graph: its names can have any length.
_MESSAGE = 400


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
                check_arrays(op)
                results = op.shapes(made, self.spec)
                op.check(made)
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
        return sum(op.macs(self.tensors) for op in self.ops)

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
        file = FileArrays(arrays)
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
