# SPDX-License-Identifier: Apache-2.0
"""Typed reading of TOML and JSON: whatever a file holds, a valid object or one clear line.

What a file means is a model: a pydantic model or a dataclass, whose fields say what is legal.
Before a model sees a value, the file must be a regular one of bounded size, UTF-8, nested within
:data:`MAX_DEPTH`, without repeated keys, infinities and integers beyond 64 bits.

Models are validated as pydantic validates JSON, strictly: an array is a tuple, a table is a model,
a mapping or a dataclass, and nothing is converted (a text is no number). A validator of a model
raises

- ``ValueError("a power of two")``: what the value must be; the line says where and what it is;
- :class:`HwgenError`: the whole sentence, beginning with a key of the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import re
import stat
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import IO, Any, NoReturn, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from hwgen.errors import FormatError, HwgenError
from hwgen.files import reason

T = TypeVar("T")

#: Configuration of a model: exactly its keys, nothing converted.
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)
#: Tables and lists within each other.
MAX_DEPTH = 32
#: Largest file, unless the caller says otherwise.
MAX_TOML_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 24
#: Largest file of a design or unit folder that is read as a whole.
MAX_DESIGN_FILE_BYTES = 1 << 34
#: tomllib takes memory with the square of a dotted key's length, and a key is within its line.
_MAX_TOML_LINE = 1000
#: Digits of the longest integer of 64 bits, sign included.
_INTEGER_CHARACTERS = 20
#: A value or key is shown up to this many characters.
_SHOWN = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")


def read_toml(path: str | os.PathLike[str], model: type[T], *, limit: int = MAX_TOML_BYTES) -> T:
    """Read a TOML file as an object of the model.

    Raises:
        FormatError: the file cannot be read, is too large, is no TOML, or does not hold what the
            model asks for; names file, key, what is legal and what is there.
    """
    where = printable(str(path))
    text = _decode(read_bytes(path, limit=limit), where)
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _MAX_TOML_LINE:
            raise FormatError(
                f"Line {number} must have at most {_MAX_TOML_LINE} characters, not {len(line)}",
                where=where,
            )
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:
        raise FormatError(f"File must be TOML: {shorten(str(error), 200)}", where=where) from error
    return validate(values, model, where=where)


def read_json(path: str | os.PathLike[str], model: type[T], *, limit: int = MAX_JSON_BYTES) -> T:
    """Read a JSON file as an object of the model.

    Raises:
        FormatError: as :func:`read_toml` does.
    """
    return parse_json(read_bytes(path, limit=limit), model, where=printable(str(path)))


def parse_json(text: str | bytes, model: type[T], *, where: str) -> T:
    """Read JSON as an object of the model.

    Raises:
        FormatError: as :func:`read_toml` does; ``where`` begins the line.
    """
    return validate(_parse_json(text, where), model, where=where)


def load_json(text: str | bytes, *, where: str) -> Any:
    """Plain values of JSON, without a model's checks.

    Raises:
        FormatError: it is no JSON, repeats a key, or holds a number or a depth beyond the bounds.
    """
    values = _parse_json(text, where)
    try:
        _check_plain(values, (), 0)
    except FormatError as error:
        raise FormatError(error.what, where=where) from error
    return values


def check_version(values: Any, version: int, *, what: str, where: str | None, remedy: str) -> None:
    """Refuse a document of another schema version, before anything else is asked of it.

    Args:
        values: plain values of the document.
        version: what its key ``schema_version`` must be.
        what: the document, for example ``"Design"``.
        where: its file.
        remedy: what the user does about it, for example ``"generate the design again"``.

    Raises:
        FormatError: the version is another, or there is none.
    """
    found = values.get("schema_version") if isinstance(values, Mapping) else None
    if type(found) is not int:
        raise FormatError(
            f"{what} must have schema version {version}, not {show(found)}; {remedy}", where=where
        )
    if found != version:
        raise FormatError(
            f"{what} must have schema version {version}; it was made by version"
            f" {show(found)}: {remedy}",
            where=where,
        )


def check_stated(values: Any, names: Iterable[str], *, where: str | None = None) -> None:
    """Refuse a table without all its keys, where a model would put defaults in their places.

    Defaults are for who makes an object, not for a file that lacks a key. A key too many is left
    to :func:`validate`, which names the nearest: often it is the missing one, misspelt.

    Raises:
        FormatError: names what is missing.
    """
    legal = list(names)
    if not isinstance(values, Mapping) or not set(values) <= set(legal):
        return
    if missing := [name for name in legal if name not in values]:
        raise FormatError(_missing(missing[:_MISSING_SHOWN]), where=where)


def validate(values: Any, model: type[T], *, where: str | None = None, context: object = None) -> T:
    """An object of the model from plain values: tables, lists, texts, numbers, booleans, None.

    ``context`` is handed to the model's validators.

    Raises:
        FormatError: the first fault, and how many more there are.
    """
    try:
        _check_plain(values, (), 0)
        checked: T = _adapter(cast(Any, model)).validate_json(
            json.dumps(values, allow_nan=False), strict=True, context=context
        )
    except FormatError as error:
        raise FormatError(error.what, where=where) from error
    except ValidationError as error:
        raise _first_fault(error, model, where) from error
    return checked


def printable(text: str, *, keep: str = "") -> str:
    """The text with everything escaped that a terminal would not show as a character.

    Args:
        text: any text.
        keep: characters that stay as they are, for example line ends.
    """
    return "".join(
        c
        if c.isprintable() or c in keep
        else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def shorten(text: str, length: int) -> str:
    """The text as one printable line of at most ``length`` characters."""
    text = printable(text[: length + 1])
    return text if len(text) <= length else f"{text[: length - 3]}..."


def show(value: object) -> str:
    """A value in a few characters of one line, as an error names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table" if value else "an empty table"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else f"{value[: _SHOWN - 3]}...")
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, int | float):
        return repr(value)
    return f"a {type(value).__name__}"


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a regular file for reading.

    Raises:
        FormatError: it is none, or cannot be read.
    """
    where = printable(str(path))
    try:
        # Without O_NONBLOCK, a named pipe waits for a writer that may never come.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        text = reason(error) if isinstance(error, OSError) else str(error)
        raise FormatError(f"File must be readable: {text}", where=where) from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
            raise FormatError(f"File must be a regular one, not {kind}", where=where)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    except OSError as error:
        raise FormatError(f"File must be readable: {reason(error)}", where=where) from error
    finally:
        os.close(handle)


def read_bytes(path: str | os.PathLike[str], *, limit: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file, never more than ``limit``.

    Raises:
        FormatError: it is none, is too large, or cannot be read.
    """
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        where = printable(str(path))
        raise FormatError(f"File must have at most {limit:,} bytes", where=where)
    return data


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"File must be UTF-8 text, not byte {data[error.start]:#04x} in line {line}",
            where=where,
        ) from error


def _parse_json(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(
            text if isinstance(text, str) else _decode(text, where),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_constant=_refuse_constant,
        )
    except FormatError as error:
        raise FormatError(error.what, where=where) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:
        raise FormatError(f"File must be JSON: {shorten(str(error), 200)}", where=where) from error


def _too_deep(where: str | None) -> FormatError:
    return FormatError(f"Tables and lists must be nested at most {MAX_DEPTH} deep", where=where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise FormatError(f"Key {show(twice)} must stand once in its table, not twice")
    return values


def _integer(text: str) -> int:
    if len(text) > _INTEGER_CHARACTERS:  # before time is spent on a million digits
        raise FormatError(f"Integers must be of 64 bits, not of {len(text)} digits")
    return int(text)


def _refuse_constant(text: str) -> NoReturn:
    raise FormatError(f"Numbers must be finite, not {text}")


_Location = tuple[int | str, ...]


def _check_plain(value: Any, place: _Location, depth: int) -> None:
    """Refuse what JSON cannot say, and what a message could not show."""
    # The most frequent kinds first; a graph has some ten thousand values.
    if isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise _fault(place, "an integer of 64 bits", value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _fault(place, "a finite number", value)
    elif isinstance(value, list | tuple):
        if depth >= MAX_DEPTH:
            raise _too_deep(None)
        for index, item in enumerate(value):
            _check_plain(item, (*place, index), depth + 1)
    elif isinstance(value, Mapping):
        if depth >= MAX_DEPTH:
            raise _too_deep(None)
        for key, item in value.items():
            if not isinstance(key, str):
                raise _fault(place, "a table with texts as keys", key)
            inner = (*place, key)
            _check_text(key, inner)
            _check_plain(item, inner, depth + 1)
    elif value is not None:
        raise _fault(place, "a text, a number, true, false, a list or a table", value)


def _check_text(text: str, place: _Location) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, by an escape
        raise _fault(place, "Unicode text", text) from None


def _fault(place: _Location, expected: str, value: object) -> FormatError:
    return FormatError(f"{_path(place)} must be {expected}, not {show(value)}")


def _path(place: _Location) -> str:
    """``memory.ports``, ``dsp_column_heights[2]``; ``File`` for the whole of it."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else show(part)
            text += f".{key}" if text else key
    return text or "File"


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


#: What a value must be, by pydantic's kind of error; ``{}`` is the bound of its context.
_EXPECTED: Mapping[str, str] = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "mapping_type": "a table",
    "model_type": "a table",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_long": "a text of at most {max_length} characters",
    "string_too_short": "a text of at least {min_length} characters",
    "string_type": "a text",
    "too_long": "a list of at most {max_length} entries",
    "too_short": "a list of at least {min_length} entries",
    "tuple_type": "a list",
}
#: Characters that a line spends on the keys that are known.
_KEYS_SHOWN = 200
#: Most missing keys that a line names.
_MISSING_SHOWN = 6
_MISSING = ("missing", "missing_keyword_only_argument", "missing_argument")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _first_fault(error: ValidationError, model: type, where: str | None) -> FormatError:
    # A default that follows from another key is not asked for where that key is at fault.
    faults = [
        fault
        for fault in error.errors(include_url=False)
        if fault["type"] != "default_factory_not_called"
    ]
    faults.sort(key=lambda fault: fault["type"] in _MISSING)  # often one that is misspelt below
    # All that are missing are named in one sentence.
    count = sum(fault["type"] in _MISSING for fault in faults)
    named = min(count, _MISSING_SHOWN) if count == len(faults) else 1
    fault, more = faults[0], len(faults) - named
    why = f"and {more} more fault{'s' * (more > 1)}" if more else None
    kind, place, value = fault["type"], fault["loc"], fault["input"]
    context = fault.get("ctx", {})
    nearest: object = None
    if kind in _MISSING:
        what = _missing([_path(fault["loc"]) for fault in faults[:_MISSING_SHOWN]])
    elif kind in _UNKNOWN:
        known = _keys(model, place[:-1])
        what = f"{_path(place)} must be a known key"
        if known:
            what += f" ({shorten(', '.join(known), _KEYS_SHOWN)})"
            # Whatever the key, one of those that are legal.
            close = difflib.get_close_matches(str(place[-1])[:_SHOWN], known, n=1, cutoff=0)
            nearest = _path((*place[:-1], close[0]))
    elif kind == "value_error" and isinstance(context["error"], HwgenError):
        inner = context["error"]
        what = _join(place, inner.what)
        why, nearest = "; ".join(filter(None, (inner.why, why))) or None, inner.nearest
    else:
        if kind == "value_error":
            expected = str(context["error"])
        elif kind in _EXPECTED:
            expected = _EXPECTED[kind].format(**context)
        else:
            expected = f"legal: {fault['msg']}"
        what = f"{_path(place)} must be {expected}, not {show(value)}"
        nearest = _nearest(kind, context, value)
    return FormatError(what, where=where, why=why, nearest=nearest)


def _missing(keys: list[str]) -> str:
    listed = ", ".join(keys[:-1]) + " and " * (len(keys) > 1) + keys[-1]
    return f"{listed} must be stated, and {'are' if len(keys) > 1 else 'is'} missing"


def _join(place: _Location, sentence: str) -> str:
    """A sentence on a key of a model, or on several, as one on keys of the file."""
    if not place:
        return sentence
    if sentence.startswith("File must "):  # the whole of a value within the file
        return f"{_path(place)}{sentence.removeprefix('File')}"
    separator = "." if re.match(r"[a-z_][\w.\[\]]* must ", sentence) else ": "
    return f"{_path(place)}{separator}{sentence}"


def _nearest(kind: str, context: Mapping[str, Any], value: object) -> object:
    if kind == "literal_error":
        legal = re.findall(r"'([^']*)'", context["expected"])
        if legal and isinstance(value, str):
            return difflib.get_close_matches(value[:_SHOWN], legal, n=1, cutoff=0)[0]
        numbers = [int(n) for n in re.findall(r"\d+", context["expected"])]
        if not legal and numbers and isinstance(value, int | float):
            return min(numbers, key=lambda number: abs(number - value))
        return None
    return context.get("ge", context.get("le"))


def _keys(model: object, place: _Location) -> list[str]:
    """Keys of the table at a place of a model; none where any key is legal."""
    for part in place:
        model = _entry(model, part)
    fields = _fields(model)
    return sorted(fields) if fields is not None else []


def _fields(model: object) -> dict[str, Any] | None:
    """Key -> type of a pydantic model or a dataclass, else None."""
    if not isinstance(model, type):
        return None
    if not issubclass(model, BaseModel) and not dataclasses.is_dataclass(model):
        return None
    hints = typing.get_type_hints(model)
    names = (
        model.model_fields
        if issubclass(model, BaseModel)
        else [field.name for field in dataclasses.fields(model)]
    )
    return {name: hints[name] for name in names}


def _entry(model: object, part: int | str) -> object:
    """Type of an entry of a type: a field's, a mapping's values', a tuple's items'."""
    fields = _fields(model)
    if fields is not None:
        return fields.get(str(part))
    kinds = [kind for kind in typing.get_args(model) if kind not in (type(None), Ellipsis)]
    if typing.get_origin(model) in (typing.Union, types.UnionType):
        return _entry(kinds[0], part) if len(kinds) == 1 else None
    return kinds[-1] if kinds else None
