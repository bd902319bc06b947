# SPDX-License-Identifier: Apache-2.0
"""The safetensors container, read with suspicion and written deterministically.

Layout (public specification of safetensors): 8 bytes little-endian header length, the header as
JSON ``{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}``, then
the data. Every size is checked against the file's before memory is taken; the data must cover the
rest of the file without gaps and overlaps, so two files of equal meaning cannot differ in hidden
bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel, field_validator

from hwgen.errors import FormatError
from hwgen.files import reason, replace_file
from hwgen.outputs import Recognise, State
from hwgen.reading import STRICT, load_json, open_regular, printable, show, validate

#: Longest header, in bytes: what it unpacks to takes a multiple of that as memory. The format
#: itself allows 100 MB; headers of today's largest models take some MB.
MAX_HEADER_BYTES = 1 << 25

#: Longest axis: no file of today's is longer, and NumPy's sizes hold it.
MAX_AXIS = 1 << 48
_MAX_AXES = 8

#: Metadata entry of the seal (:mod:`hwgen.outputs`).
SEAL_KEY = "hwgen.sha256"

_NUMPY_DTYPES: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(v).str: k for k, v in _NUMPY_DTYPES.items() if k != "BF16"}


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and the metadata of a file; BF16 comes back as float32 (exact).

    Raises:
        FormatError: the file is not a well-formed safetensors file; the message says what and
        where.
    """
    where = printable(str(path))
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        entries, metadata, start = _read_header(stream, size, where)
        tensors = {}
        for name, (dtype, shape, begin, end) in entries.items():
            stream.seek(start + begin)
            data = stream.read(end - begin)
            if len(data) != end - begin:
                raise FormatError(f"{where}: tensor {show(name)} is cut off: the file changed")
            array = np.frombuffer(data, dtype=_NUMPY_DTYPES[dtype]).reshape(shape)
            if dtype == "BF16":
                array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
            tensors[name] = array
        return tensors, metadata


def recognise(keys: Collection[str]) -> Recognise:
    """Recognises sealed files whose metadata have one of the keys."""

    def look(path: Path) -> State:
        try:
            tensors, metadata = read_safetensors(path)
        except FormatError:
            return State.FOREIGN
        if not set(keys) & set(metadata):
            return State.FOREIGN
        return State.OWN if metadata.get(SEAL_KEY) == _seal(tensors, metadata) else State.EDITED

    return look


def _seal(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and values, and of all other metadata."""
    whole = hashlib.sha256()
    plain = sorted((key, text) for key, text in metadata.items() if key != SEAL_KEY)
    whole.update(json.dumps(plain).encode())
    for name, array in sorted(tensors.items()):
        plainly = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        head = json.dumps([name, plainly.dtype.str, list(array.shape)])
        whole.update(f"{head}{hashlib.sha256(plainly.data).hexdigest()}".encode())
    return whole.hexdigest()


def data_bytes(path: str | Path) -> int:
    """Bytes of all tensors of a well-formed file, as they are stored."""
    path = Path(path)
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return os.fstat(stream.fileno()).st_size - 8 - int(length)


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    *,
    seal: bool = False,
) -> None:
    """Write a file, atomically; its bytes depend on names, values and metadata only.

    With ``seal`` the metadata get one entry more, by which :func:`recognise` sees that nobody has
    changed the file.
    """
    path = Path(path)
    if seal:
        metadata = {**metadata, SEAL_KEY: _seal(tensors, metadata)}
    # Wide types first, then by name: every tensor is aligned to its item size, as the format's
    # writers do.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in order:
        array = tensors[name]
        dtype = _NAMES.get(array.dtype.newbyteorder("<").str)
        if dtype is None:
            raise FormatError(f"Tensor {name!r} must have a plain number type, not {array.dtype}")
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)

    def write(stream: IO[bytes]) -> None:
        stream.write(struct.pack("<Q", len(text)))
        stream.write(text)
        for name in order:
            array = tensors[name]
            stream.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())

    try:
        replace_file(path, write)
    except OSError as error:
        raise FormatError(
            f"Output file must be writable, not {str(path)!r}: {reason(error)}"
        ) from error


_Entry = tuple[str, tuple[int, ...], int, int]


def _read_header(
    stream: Any, size: int, where: str
) -> tuple[dict[str, _Entry], dict[str, str], int]:
    if size < 8:
        raise FormatError(
            f"{where}: a safetensors file must have at least 8 bytes, not {size}: truncated or"
            " empty"
        )
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > min(MAX_HEADER_BYTES, size - 8) or length < 2:
        raise FormatError(
            f"{where}: header length must be 2..{min(MAX_HEADER_BYTES, size - 8)} bytes (the file"
            f" has {size}), not {length}: truncated, or not a safetensors file"
        )
    try:
        pairs = load_json(stream.read(length), where=where)
    except FormatError as error:
        raise FormatError(f"{where}: header must be JSON: {error.what}") from error
    if not isinstance(pairs, dict):
        raise FormatError(f"{where}: header must be a JSON object, not {show(pairs)}")
    metadata = pairs.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{where}: __metadata__ must be an object of strings")
    start = 8 + length
    entries = {name: _check_entry(name, entry, where) for name, entry in pairs.items()}
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            kind = "overlap" if begin < position else "leave a gap before"
            raise FormatError(
                f"{where}: tensor {show(name)} must start at data offset {position}, not {begin}:"
                f" tensors {kind} it"
            )
        position = end
    if position != size - start:
        kind = "truncated file" if position > size - start else "bytes that no tensor owns"
        raise FormatError(
            f"{where}: tensors must cover the file's {size - start} data bytes exactly, not"
            f" {position}: {kind}"
        )
    return entries, metadata, start


class _HeaderEntry(BaseModel):
    """One tensor, as the header has it."""

    model_config = STRICT

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        if dtype not in _NUMPY_DTYPES:
            raise ValueError(f"one of {', '.join(_NUMPY_DTYPES)}")
        return dtype

    @field_validator("shape")
    @classmethod
    def _sizes(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) > _MAX_AXES or not all(0 <= n <= MAX_AXIS for n in shape):
            raise ValueError(f"a list of at most {_MAX_AXES} sizes in 0..{MAX_AXIS}")
        return shape

    @field_validator("data_offsets")
    @classmethod
    def _range(cls, offsets: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= offsets[0] <= offsets[1]:
            raise ValueError("[begin, end]")
        return offsets


def _check_entry(name: str, values: Any, where: str) -> _Entry:
    where = f"{where}: tensor {show(name)}"
    if not isinstance(values, dict):
        raise FormatError(f"{where} must have dtype, shape and data_offsets, not {show(values)}")
    entry = validate(values, _HeaderEntry, where=where)
    shape, (begin, end) = entry.shape, entry.data_offsets
    # Python integers: a product cannot wrap.
    need = math.prod(shape) * np.dtype(_NUMPY_DTYPES[entry.dtype]).itemsize
    if end - begin != need:
        raise FormatError(
            f"{where}: {entry.dtype} of shape {list(shape)} must take {need} bytes, not"
            f" {end - begin} (data_offsets {[begin, end]})"
        )
    # NumPy counts the other axes of an empty array, too.
    if math.prod(max(n, 1) for n in shape) >= 1 << 59:
        raise FormatError(
            f"{where}: shape must be of a size that NumPy can hold, not {list(shape)}"
        )
    return entry.dtype, shape, begin, end
