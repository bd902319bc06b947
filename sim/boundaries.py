# SPDX-License-Identifier: Apache-2.0
"""The table of layer boundaries: which words of the activation memory hold which tensor, and when.

Format of the file (JSON), written by the compiler::

    {"schema": "hwgen.boundaries", "schema_version": 2,
     "tensors": [{"name": ..., "shape": [..., tokens, channels],
                  "dtype": "int8" | "uint8" | "int16",
                  "parts": [{"engine": "DRAIN", "count": n, "base": word, "stride": words,
                             "first_token": t, "tokens": n, "first_channel": c, "channels": n,
                             "skip": n, "index": [...]}]}]}

in network order. A part is complete when the engine has completed ``count`` instructions since
START. Its channel ``first_channel + j`` of token ``first_token + i`` is element ``k % per_word``,
``k = skip + j``, of word ``base + (k // per_word) * stride + first_token + i``, where a word of
``rows`` bytes holds ``per_word`` elements, little endian; words of the row shifts, which have a
bank number of their own, are one byte. ``index`` picks the leading axes (heads) of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, with_config

from hwgen.errors import FormatError
from hwgen.isa.instructions import OFFSET_BITS, ROW_SHIFT_BANK, Engine
from hwgen.reading import STRICT, check_version, load_json, printable, read_bytes, show, validate

SCHEMA = "hwgen.boundaries"
SCHEMA_VERSION = 2
_DTYPES: dict[str, np.dtype[Any]] = {
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "int16": np.dtype("<i2"),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One piece of a tensor: where it lies and when it is complete."""

    engine: Engine
    count: int
    base: int  #: word address of channel ``first_channel`` of token 0
    stride: int  #: words between slices
    first_token: int
    tokens: int
    first_channel: int
    channels: int
    skip: int = 0  #: elements of the first word in front of the part
    index: tuple[int, ...] = ()  #: leading axes of the tensor

    def word_bytes(self, rows: int) -> int:
        """Bytes of a word of the part's bank, in a design of ``rows`` rows."""
        first = self.base + self.first_token
        return 1 if first >> OFFSET_BITS == ROW_SHIFT_BANK else rows

    def slices(self, rows: int, itemsize: int) -> int:
        """Slices of one word that the part spans."""
        return -(-(self.skip + self.channels) * itemsize // self.word_bytes(rows))


@dataclass(frozen=True)
class Boundary:
    """One tensor that the chip materialises."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: tuple[Part, ...]

    def assemble(self, words: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.integer]:
        """The tensor from the recorded words of its parts, [slices, tokens, word] bytes each."""
        tensor = np.zeros(self.shape, self.dtype)
        for part, record in zip(self.parts, words, strict=True):
            values = np.ascontiguousarray(record.transpose(1, 0, 2)).reshape(part.tokens, -1)
            values = values.view(self.dtype)[:, part.skip : part.skip + part.channels]
            target = tensor[part.index]
            target[
                part.first_token : part.first_token + part.tokens,
                part.first_channel : part.first_channel + part.channels,
            ] = values
        return tensor


#: Bounds of what a table may ask for: axes, elements of all tensors, bytes of the file.
_MAX_AXES = 8
_MAX_ELEMENTS = 1 << 30
_MAX_TABLE_BYTES = 1 << 27

_Size = Annotated[int, Field(ge=1, lt=1 << 20)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _PartEntry:
    """One part, as the file has it."""

    engine: str
    count: Annotated[int, Field(ge=0, lt=1 << 16)]
    base: Annotated[int, Field(ge=0, lt=1 << 20)]
    stride: Annotated[int, Field(ge=0, lt=1 << 17)]
    first_token: Annotated[int, Field(ge=0)]
    tokens: Annotated[int, Field(ge=1)]
    first_channel: Annotated[int, Field(ge=0)]
    channels: Annotated[int, Field(ge=1)]
    skip: Annotated[int, Field(ge=0, lt=1 << 8)]
    index: tuple[Annotated[int, Field(ge=0)], ...] = ()

    def __post_init__(self) -> None:
        """Check the name of the engine."""
        if self.engine not in Engine.__members__:
            known = ", ".join(Engine.__members__)
            raise FormatError(f"engine must be one of {known}, not {show(self.engine)}")


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _TensorEntry:
    """One tensor, as the file has it."""

    name: Annotated[str, Field(max_length=1000)]
    shape: Annotated[tuple[_Size, ...], Field(min_length=2, max_length=_MAX_AXES)]
    dtype: Literal["int8", "uint8", "int16"]
    parts: tuple[_PartEntry, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _Table:
    """The file."""

    schema: str
    schema_version: int
    tensors: tuple[_TensorEntry, ...]


def _part(entry: _PartEntry, shape: tuple[int, ...]) -> Part:
    """One part that lies within its tensor."""
    *leading, tokens, channels = shape
    if (
        entry.first_token + entry.tokens > tokens
        or entry.first_channel + entry.channels > channels
        or len(entry.index) != len(leading)
        or not all(i < extent for i, extent in zip(entry.index, leading, strict=True))
    ):
        raise FormatError(
            f"Part must lie within {list(shape)}, not at index {list(entry.index[:_MAX_AXES])},"
            f" tokens {entry.first_token}+{entry.tokens},"
            f" channels {entry.first_channel}+{entry.channels}"
        )
    values = {item.name: getattr(entry, item.name) for item in fields(entry)}
    return Part(**values | {"engine": Engine[entry.engine]})


def _boundary(entry: _TensorEntry) -> Boundary:
    """One tensor whose parts cover it exactly once."""
    parts = tuple(_part(part, entry.shape) for part in entry.parts)
    # The sum first: what is covered twice could take any time.
    covered = sum(part.tokens * part.channels for part in parts)
    if covered == math.prod(entry.shape):
        seen = np.zeros(entry.shape, np.bool_)
        for part in parts:
            seen[part.index][
                part.first_token : part.first_token + part.tokens,
                part.first_channel : part.first_channel + part.channels,
            ] = True
        if seen.all():
            return Boundary(entry.name, entry.shape, _DTYPES[entry.dtype], parts)
    raise FormatError(f"Parts of {show(entry.name)} must cover the tensor exactly once")


def parse(values: Any, where: str | None = None) -> tuple[Boundary, ...]:
    """The table from its JSON form.

    Raises:
        FormatError: it is not well formed, or its parts do not cover a tensor exactly once.
    """
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise FormatError(f"Table must have the schema {SCHEMA!r}", where=where)
    remedy = "generate the design again"
    check_version(values, SCHEMA_VERSION, what="Table", where=where, remedy=remedy)
    table = validate(values, _Table, where=where)
    elements = sum(math.prod(entry.shape) for entry in table.tensors)
    if elements > _MAX_ELEMENTS:
        raise FormatError(
            f"Tensors must have at most {_MAX_ELEMENTS} elements together, not {elements}",
            where=where,
        )
    try:
        boundaries = tuple(_boundary(entry) for entry in table.tensors)
    except FormatError as error:
        raise FormatError(error.what, where=where) from error
    if len({boundary.name for boundary in boundaries}) != len(boundaries):
        raise FormatError("Names of tensors must be unique", where=where)
    return boundaries


def load(path: Path) -> tuple[Boundary, ...]:
    """Read a table from its file.

    Raises:
        FormatError: as :func:`parse` does, or the file is no JSON.
    """
    where = printable(str(path))
    return parse(load_json(read_bytes(path, limit=_MAX_TABLE_BYTES), where=where), where)
