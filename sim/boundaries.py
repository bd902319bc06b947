# SPDX-License-Identifier: Apache-2.0
"""The table of layer boundaries: which words of the activation memory hold which tensor, and when.

Format of the file (JSON), written by the compiler::

    {"schema": "hwgen.boundaries", "schema_version": 1,
     "tensors": [{"name": ..., "shape": [..., tokens, channels],
                  "dtype": "int8" | "uint8" | "int16",
                  "parts": [{"engine": "DRAIN", "count": n, "base": word, "stride": words,
                             "first_token": t, "tokens": n, "first_channel": c, "channels": n,
                             "index": [...]}]}]}

in network order. A part is complete when the engine has completed ``count`` instructions since
START. Its channel ``first_channel + j`` of token ``first_token + i`` lies in word
``base + (j // per_word) * stride + first_token + i``, where a word of ``rows`` bytes holds
``per_word`` channels, little endian. ``index`` picks the leading axes (heads) of the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.isa.instructions import Engine

SCHEMA = "hwgen.boundaries"
SCHEMA_VERSION = 1
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
    index: tuple[int, ...] = ()  #: leading axes of the tensor

    def slices(self, rows: int, itemsize: int) -> int:
        """Slices of one word that the part spans."""
        return -(-self.channels * itemsize // rows)


@dataclass(frozen=True)
class Boundary:
    """One tensor that the chip materialises."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: tuple[Part, ...]

    def assemble(
        self, words: Sequence[npt.NDArray[np.uint8]], rows: int
    ) -> npt.NDArray[np.integer]:
        """The tensor from the recorded words of its parts, [slices, tokens, rows] bytes each."""
        tensor = np.zeros(self.shape, self.dtype)
        for part, record in zip(self.parts, words, strict=True):
            values = np.ascontiguousarray(record.transpose(1, 0, 2)).reshape(part.tokens, -1)
            values = values.view(self.dtype)[:, : part.channels]
            target = tensor[part.index]
            target[
                part.first_token : part.first_token + part.tokens,
                part.first_channel : part.first_channel + part.channels,
            ] = values
        return tensor


def _integer(values: dict[str, Any], key: str, low: int, high: int) -> int:
    value = values[key]
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{key} must be in {low}..{high}, not {value!r}")
    return value


def _part(values: dict[str, Any], shape: tuple[int, ...]) -> Part:
    tokens, channels = shape[-2:]
    name = values["engine"]
    if name not in Engine.__members__:
        raise FormatError(f"engine must be one of {list(Engine.__members__)}, not {name!r}")
    first_token = _integer(values, "first_token", 0, tokens - 1)
    first_channel = _integer(values, "first_channel", 0, channels - 1)
    index = tuple(values.get("index", ()))
    if len(index) != len(shape) - 2 or not all(
        type(i) is int and 0 <= i < extent for i, extent in zip(index, shape, strict=False)
    ):
        raise FormatError(f"index must pick the leading axes of {list(shape)}, not {list(index)}")
    return Part(
        engine=Engine[name],
        count=_integer(values, "count", 0, (1 << 16) - 1),
        base=_integer(values, "base", 0, (1 << 20) - 1),
        stride=_integer(values, "stride", 0, (1 << 17) - 1),
        first_token=first_token,
        tokens=_integer(values, "tokens", 1, tokens - first_token),
        first_channel=first_channel,
        channels=_integer(values, "channels", 1, channels - first_channel),
        index=index,
    )


def parse(values: Any, where: str | None = None) -> tuple[Boundary, ...]:
    """The table from its JSON form.

    Raises:
        FormatError: it is not well formed, or its parts do not cover a tensor exactly once.
    """
    boundaries = []
    try:
        if values["schema"] != SCHEMA or values["schema_version"] != SCHEMA_VERSION:
            raise FormatError(f"Table must have the schema {SCHEMA!r}, version {SCHEMA_VERSION}")
        for entry in values["tensors"]:
            shape = tuple(entry["shape"])
            if len(shape) < 2 or not all(type(n) is int and 0 < n < 1 << 20 for n in shape):
                raise FormatError(f"shape must be two or more sizes, not {list(shape)}")
            if entry["dtype"] not in _DTYPES:
                raise FormatError(f"dtype must be one of {list(_DTYPES)}, not {entry['dtype']!r}")
            parts = tuple(_part(part, shape) for part in entry["parts"])
            covered = np.zeros(shape, np.uint8)
            for part in parts:
                covered[part.index][
                    part.first_token : part.first_token + part.tokens,
                    part.first_channel : part.first_channel + part.channels,
                ] += 1
            if not (covered == 1).all():
                raise FormatError(f"Parts of {entry['name']!r} must cover the tensor exactly once")
            boundaries.append(Boundary(str(entry["name"]), shape, _DTYPES[entry["dtype"]], parts))
    except FormatError as error:
        raise FormatError(error.what, where=where) from error
    except (KeyError, TypeError, IndexError) as error:
        raise FormatError(f"Table must be complete: {error!r}", where=where) from error
    if len({boundary.name for boundary in boundaries}) != len(boundaries):
        raise FormatError("Names of tensors must be unique", where=where)
    return tuple(boundaries)


def load(path: Path) -> tuple[Boundary, ...]:
    """Read a table from its file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(
            f"Table must be a readable JSON file: {error}", where=str(path)
        ) from error
    return parse(values, where=str(path))
