# SPDX-License-Identifier: Apache-2.0
"""Vector files of units: NumPy archives, read without trust."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import ConfigError, FormatError
from hwgen.files import reason, replace_file, resolve_target
from hwgen.graph.npz_file import npz_bytes, read_npz, recognise_npz
from hwgen.outputs import State
from hwgen.units.base import Entry, Unit, Vectors

#: Refused above: a small archive can unpack to any size.
MAXIMUM_BYTES = 1 << 30


def load_vectors(unit: Unit, path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a vector file: names, element types and shapes checked.

    Raises:
        FormatError: not a readable archive, or not the arrays that the unit takes.
    """
    arrays, _ = read_npz(path, limit_bytes=MAXIMUM_BYTES)
    return check_vectors(unit, arrays, str(path))


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
    try:
        resolve_target(path)
        Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)
        content = npz_bytes(arrays)
        replace_file(path, lambda stream: stream.write(content))
    except OSError as error:
        raise ConfigError(
            f"Output file must be writable: {reason(error)}", where=str(path)
        ) from error


def recognise_vectors(path: Path) -> State:
    """What a file is: an archive that :func:`save_vectors` wrote says so in its comment."""
    return recognise_npz(path, limit_bytes=MAXIMUM_BYTES)
