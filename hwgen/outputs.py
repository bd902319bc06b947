# SPDX-License-Identifier: Apache-2.0
"""What a command may write over: one rule for every output, file or folder.

An output goes where nothing is yet, or takes the place of what hwgen wrote there and nobody has
touched since. It never takes the place of

- an input of the same command;
- a stranger's file or folder: what does not say that hwgen wrote it;
- an edited one, unless ``--force`` is given. What hwgen writes bears a digest of its own content (a
  *seal*) wherever its format has a place for one; what has none may have been edited.

Leftovers of a killed run are no strangers (:mod:`hwgen.files`). All of it is checked before the
work. The kinds of outputs are known where they are written: each has a function that looks at a
file and says what it is.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hwgen.errors import ConfigError, FormatError, UsageError
from hwgen.files import reason, resolve_target
from hwgen.reading import load_json, printable, read_bytes

#: Key of the seal in JSON documents.
SEAL = "sha256"


class State(enum.Enum):
    """What lies where an output is to go."""

    OWN = enum.auto()  #: written by hwgen, and as it was
    EDITED = enum.auto()  #: written by hwgen, and changed since, or without a seal that says no
    FOREIGN = enum.auto()  #: anything else


#: Says what a regular file is.
Recognise = Callable[[Path], State]


def check_file(
    path: Path, recognise: Recognise, *, inputs: Iterable[Path] = (), force: bool = False
) -> None:
    """Refuse a place where an output file must not go.

    Args:
        path: the file; links are followed.
        recognise: knows the kind of file that is to be written.
        inputs: what the command reads, files and folders.
        force: an edited file may be replaced.

    Raises:
        UsageError: it is one of the inputs.
        ConfigError: its folder does not exist; it is a folder, a pipe or a device; or what is there
            must stay.
    """
    where = printable(str(path))
    if any(_same(path, other) for other in inputs):
        raise UsageError(f"Output must be another file than the input, not {where}")
    if path.is_dir():
        raise ConfigError("Output must be a file, not a folder", where=where)
    if not path.absolute().parent.is_dir():
        raise ConfigError("Output file's folder must exist", where=where)
    try:
        target = resolve_target(path)
    except OSError as error:
        raise ConfigError(f"Output must be a file: {reason(error)}", where=where) from error
    if not target.exists():
        return
    state = recognise(target)
    if state is State.FOREIGN:
        raise ConfigError(
            "Output must be absent, or of this kind and written by hwgen, and is another file;"
            " move it elsewhere",
            where=where,
        )
    if state is State.EDITED and not force:
        raise ConfigError(
            "Output must be absent, or as hwgen wrote it, and may have been edited since; give"
            " --force to replace it",
            where=where,
        )


def check_distinct(paths: Iterable[Path | None]) -> None:
    """Refuse two outputs in one place, or one within another.

    Raises:
        UsageError: there are such.
    """
    places = [(path, Path(os.path.realpath(path))) for path in paths if path is not None]
    for index, (path, place) in enumerate(places):
        for other, taken in places[:index]:
            if place == taken or taken in place.parents or place in taken.parents:
                raise UsageError(
                    "Outputs must be in different places, none within another, not"
                    f" {printable(str(other))} and {printable(str(path))}"
                )


def check_inputs_outside(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output folder that is, or holds, an input: replacing it would remove that.

    Raises:
        UsageError: there is such an input.
    """
    place = Path(os.path.realpath(folder))
    for path in inputs:
        found = Path(os.path.realpath(path))
        if found.exists() and (found == place or place in found.parents):
            raise UsageError(
                f"Output folder {printable(str(folder))} must not hold the input"
                f" {printable(str(path))}"
            )


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return False


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its seal: the SHA-256 of everything else in it."""
    plain = {key: value for key, value in values.items() if key != SEAL}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return plain | {SEAL: hashlib.sha256(text.encode()).hexdigest()}


def recognise_json(schema: str) -> Recognise:
    """Recognises sealed JSON documents with the key ``schema``."""

    def recognise(path: Path) -> State:
        try:
            values = load_json(read_bytes(path), where=str(path))
        except FormatError:
            return State.FOREIGN
        if not isinstance(values, dict) or values.get("schema") != schema:
            return State.FOREIGN
        return State.OWN if values == sealed(values) else State.EDITED

    return recognise
