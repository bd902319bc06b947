# SPDX-License-Identifier: Apache-2.0
"""NumPy archives (.npz): read with suspicion, and written with a seal.

Nothing is unpickled. An array's ``.npy`` header, the archive's directory and the data must agree,
and memory is taken as data arrive: a small file that declares a huge array costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import stat
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from hwgen.errors import FormatError
from hwgen.outputs import State
from hwgen.reading import printable

_CHUNK_BYTES = 1 << 20
_MAX_AXES = 8
_SUFFIX = ".npy"
#: Bytes of an array's header; NumPy's own bound is 10,000 characters.
_MAX_HEADER_BYTES = 10_000
#: Arrays of an archive: its directory is read as a whole.
_MAX_MEMBERS = 10_000
_SEAL = b"hwgen sha256 "
#: A name or reason is shown up to this many characters.
_SHOWN = 120
#: What damaged archives, members and headers raise.
_DAMAGE = (
    OSError,
    ValueError,  # also of encodings
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    RecursionError,
    NotImplementedError,  # a method of compression
    RuntimeError,  # an encrypted member
    SyntaxError,
    tokenize.TokenError,  # NumPy's second attempt at a header
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(
    path: str | os.PathLike[str],
    *,
    limit_bytes: int,
    names: Collection[str] | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of an archive, and the names of all that it holds.

    Args:
        path: a regular file.
        limit_bytes: what the arrays may take together.
        names: the arrays to read, as far as they are there; by default all.

    Raises:
        FormatError: the file is no archive of plain numbers, damaged, or too large.
    """
    where = printable(str(path))
    try:
        # zipfile would wait for a pipe's end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FormatError(f"{where}: must be an .npz archive of plain arrays, not a folder")
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
            if len(items) > _MAX_MEMBERS:
                raise FormatError(
                    f"{where}: must hold at most {_MAX_MEMBERS} arrays, not {len(items)}"
                )
            members = {_name(item): item for item in items}
            if len(members) != len(items):
                raise FormatError(f"{where}: names of arrays must be unique")
            chosen = {n: m for n, m in members.items() if names is None or n in names}
            size = sum(member.file_size for member in chosen.values())
            if size > limit_bytes:
                raise FormatError(
                    f"{where}: arrays must unpack to at most {limit_bytes} bytes, not {size}"
                )
            arrays = {}
            for name, member in chosen.items():
                with archive.open(member) as stream:
                    arrays[name] = _read_array(
                        stream, member, f"{where}: {_shown(member.filename)}"
                    )
            return arrays, list(members)
    except FormatError:
        raise
    except _DAMAGE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FormatError(
            f"{where}: must be a readable .npz archive of plain arrays"
            f" ({type(error).__name__}: {_shown(why)})"
        ) from error


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An archive whose comment is a seal; equal arrays give equal bytes."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(arrays))
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = _seal(arrays)
    return content.getvalue()


def recognise_npz(path: str | os.PathLike[str], *, limit_bytes: int) -> State:
    """What a file is: an archive of :func:`npz_bytes` says so in its comment."""
    try:
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment
    # NotImplementedError: a version of the format that Python does not read.
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return State.FOREIGN
    if not comment.startswith(_SEAL):
        return State.FOREIGN
    try:
        arrays, _ = read_npz(path, limit_bytes=limit_bytes)
    except FormatError:  # ours once, and damaged since
        return State.EDITED
    return State.OWN if comment == _seal(arrays) else State.EDITED


def _seal(arrays: Mapping[str, np.ndarray]) -> bytes:
    """What an archive's comment says: whose it is, and the SHA-256 of names, types and values."""
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        plain = np.ascontiguousarray(array)
        whole.update(f"{name!r} {plain.dtype.str} {array.shape} ".encode())
        whole.update(plain.data)
    return _SEAL + whole.hexdigest().encode()


class NpzRows:
    """One array of an archive, read by rows of its first axis: memory for those rows only.

    Rows are read forwards; another opening begins again.
    """

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        """Read the header only.

        Raises:
            FormatError: the file is no archive of plain numbers, or has no such array.
        """
        self._path, self._name = path, name
        with _opened(path, name) as (_, shape, dtype):
            self.shape, self.dtype = shape, dtype

    def read(self, blocks: Iterable[slice]) -> Iterator[np.ndarray]:
        """Rows of slices that follow each other, gaps allowed.

        Raises:
            FormatError: the archive is damaged.
        """
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _opened(self._path, self._name) as (stream, _, _), _damage(self._path):
            at = 0
            for block in blocks:
                for size, wanted in ((block.start - at, False), (block.stop - block.start, True)):
                    data = _take(stream, size * row, keep=wanted)
                    if wanted:
                        yield np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])
                at = block.stop
            if at == self.shape[0]:
                stream.read(1)  # at the end the checksum is compared


def _take(stream: IO[bytes], size: int, *, keep: bool) -> bytearray:
    data, left = bytearray(), size
    while left:
        chunk = stream.read(min(_CHUNK_BYTES, left))
        if not chunk:
            raise FormatError(f"must hold {left} bytes more")
        left -= len(chunk)
        if keep:
            data += chunk
    return data


@contextlib.contextmanager
def _damage(path: str | os.PathLike[str]) -> Iterator[None]:
    where = printable(str(path))
    try:
        yield
    except FormatError as error:
        raise FormatError(error.what if where in error.what else f"{where}: {error}") from error
    except _DAMAGE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FormatError(
            f"{where}: must be a readable .npz archive of plain arrays"
            f" ({type(error).__name__}: {_shown(why)})"
        ) from error


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike[str], name: str
) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
    """The data of an array, behind its header, with shape and element type."""
    where = printable(str(path))
    with _damage(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FormatError(f"{where}: must be an .npz archive of plain arrays, not a folder")
        with zipfile.ZipFile(path) as archive:
            members = {_name(item): item for item in archive.infolist()[:_MAX_MEMBERS]}
            if name not in members:
                listed = ", ".join(_shown(n) for n in list(members)[:8]) or "nothing"
                raise FormatError(f"{where}: must hold an array {name!r}, not {listed}")
            member = members[name]
            with archive.open(member) as stream:
                place = f"{where}: {_shown(member.filename)}"
                shape, fortran, dtype = _checked_header(stream, member, place)
                if fortran:
                    raise FormatError(f"{place}: must be stored in C order, image after image")
                yield stream, shape, dtype


def _shown(text: str) -> str:
    """A name or reason from the archive, as far as one line can show it."""
    return printable(text[:_SHOWN])


def _name(item: zipfile.ZipInfo) -> str:
    return item.filename.removesuffix(_SUFFIX)


def _read_array(stream: IO[bytes], member: zipfile.ZipInfo, where: str) -> np.ndarray:
    """One array, after its header has been checked against the member's size."""
    shape, fortran, dtype = _checked_header(stream, member, where)
    need = math.prod(shape) * dtype.itemsize
    data = bytearray()
    while len(data) < need:
        chunk = stream.read(min(_CHUNK_BYTES, need - len(data)))
        if not chunk:
            raise FormatError(f"{where}: must hold {need} bytes, but ends after {len(data)}")
        data += chunk
    stream.read(1)  # at the end the checksum is compared
    array: np.ndarray[Any, Any] = np.frombuffer(data, dtype=dtype)
    if fortran:
        return array.reshape(shape[::-1]).T
    return array.reshape(shape)


def _checked_header(
    stream: IO[bytes], member: zipfile.ZipInfo, where: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if not member.filename.endswith(_SUFFIX):
        raise FormatError(f"{where}: must be an array (.npy)")
    shape, fortran, dtype = _read_header(stream, where)
    if dtype.kind not in "biuf":
        raise FormatError(f"{where}: must hold plain arrays of numbers, not {_shown(str(dtype))}")
    if len(shape) > _MAX_AXES or not all(0 <= size < 1 << 48 for size in shape):
        raise FormatError(
            f"{where}: shape must be up to {_MAX_AXES} sizes, not {_shown(str(shape))}"
        )
    need = math.prod(shape) * dtype.itemsize  # Python integers: a product cannot wrap
    left = member.file_size - stream.tell()
    if need != left:
        raise FormatError(
            f"{where}: {dtype} of shape {list(shape)} must take {need} bytes, but the archive holds"
            f" {left}"
        )
    return shape, fortran, dtype


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order (whether Fortran's) and element type; the header's length is checked first."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    if version not in readers:
        raise FormatError(f"{where}: .npy version must be 1.0 or 2.0, not {version}")
    size, reader = readers[version]
    prefix = stream.read(size)
    length = int.from_bytes(prefix, "little")
    if length > _MAX_HEADER_BYTES:
        raise FormatError(
            f"{where}: header must have at most {_MAX_HEADER_BYTES} bytes, not {length}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's remarks on old headers
        shape, fortran, dtype = reader(io.BytesIO(prefix + stream.read(length)))
    return shape, fortran, dtype
