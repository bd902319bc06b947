# SPDX-License-Identifier: Apache-2.0
"""Vector files of units: NumPy archives, read without trust."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import ConfigError, FormatError
from hwgen.units.base import Entry, Unit, Vectors

#: Refused above: a small archive can unpack to any size.
MAXIMUM_BYTES = 1 << 30


def load_vectors(unit: Unit, path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a vector file: names, element types and shapes checked.

    Raises:
        FormatError: not a readable archive, or not the arrays that the unit takes.
    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > MAXIMUM_BYTES:
            raise FormatError(
                f"Vectors must unpack to at most {MAXIMUM_BYTES} bytes, not {size}", where=where
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FormatError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise FormatError(
            "Vectors must be a readable .npz archive of plain arrays", where=where, why=str(reason)
        ) from error
    return check_vectors(unit, arrays, where)


def check_vectors(unit: Unit, arrays: Vectors, where: str | None = None) -> dict[str, Any]:
    """The arrays in native byte order; their names, element types and shapes must be the unit's."""
    wanted = {entry.name: entry for entry in unit.inputs}
    names = ", ".join(f"{e.name}{' (optional)' if e.optional else ''}" for e in unit.inputs)
    if unknown := sorted(set(arrays) - set(wanted)):
        raise FormatError(
            f"Vectors of {unit.name} must hold {names} and nothing else, not {unknown[0]!r}",
            where=where,
        )
    missing = [e.name for e in unit.inputs if not e.optional and e.name not in arrays]
    if missing:
        raise FormatError(
            f"Vectors of {unit.name} must hold {names}; {missing[0]!r} is missing", where=where
        )
    sizes: dict[str, tuple[int, str]] = {}
    checked = {}
    for name, entry in wanted.items():
        if name in arrays:
            checked[name] = _check(entry, np.asarray(arrays[name]), sizes, where)
    return checked


def _check(
    entry: Entry, array: npt.NDArray[Any], sizes: dict[str, tuple[int, str]], where: str | None
) -> npt.NDArray[Any]:
    native = array.dtype.newbyteorder("=")
    if entry.dtypes:
        if native.name not in entry.dtypes:
            raise FormatError(
                f"{entry.name} must be {' or '.join(entry.dtypes)}, not {array.dtype}", where=where
            )
    elif native.kind not in "iu":
        raise FormatError(f"{entry.name} must be an integer array, not {array.dtype}", where=where)
    if array.ndim != len(entry.axes):
        raise FormatError(
            f"{entry.name} must have shape {entry.shape}, not {list(array.shape)}", where=where
        )
    for index, (axis, size) in enumerate(zip(entry.axes, array.shape, strict=True)):
        if isinstance(axis, int):
            expected, why = axis, None
        elif axis in sizes:
            expected, owner = sizes[axis]
            why = f"{axis} of {owner}"
        else:
            if size == 0:
                raise FormatError(
                    f"{entry.name} must have at least 1 along axis {index} ({axis}), not 0",
                    where=where,
                    nearest=1,
                )
            sizes[axis] = (size, entry.name)
            continue
        if size != expected:
            raise FormatError(
                f"{entry.name} must have shape {entry.shape} with {axis} = {expected}, "
                f"not {list(array.shape)}",
                where=where,
                why=why,
                nearest=expected,
            )
    return np.ascontiguousarray(array, dtype=native)


def save_vectors(arrays: Vectors, path: str | os.PathLike[str]) -> None:
    """Write an archive whole or not at all; equal arrays give equal bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    target = Path(os.path.abspath(path))
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **dict(arrays))
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise ConfigError(
            f"Output file must be writable: {error.strerror or error}", where=str(target)
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
