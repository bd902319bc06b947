# SPDX-License-Identifier: Apache-2.0
"""What the weights of a model do not say and hwgen takes for granted, and where it has it from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, with_config

from hwgen.errors import FormatError
from hwgen.reading import STRICT, show, validate

Value = bool | int | float | str | tuple[bool | int | float | str, ...]


def _tuple(value: object) -> object:
    """The object checks what it holds."""
    return tuple(value) if isinstance(value, list) else value


_MAX_TEXT = 400
_MAX_ENTRIES = 256


@with_config(STRICT)
@dataclass(frozen=True)
class Assumption:
    """One value and its source: ``model table``, ``model file``, ``config.json``, ``default`` …"""

    value: Annotated[Value, PlainValidator(_tuple)]
    source: str

    def __post_init__(self) -> None:
        """Check both; what is printed must be printable."""
        _check(self.source, "source", (str,))
        kinds = (bool, int, float, str)
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        if len(values) > _MAX_ENTRIES:
            raise FormatError(f"value must have at most {_MAX_ENTRIES} entries, not {len(values)}")
        for value in values:
            _check(value, "value", kinds)

    def __str__(self) -> str:
        """``0.5, 0.5, 0.5 (model table)``."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        return f"{', '.join(map(str, values))} ({self.source})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"value": value, "source": self.source}


def _check(value: object, what: str, kinds: tuple[type, ...]) -> None:
    good = type(value) in kinds
    if isinstance(value, str):
        good = good and value.isprintable() and len(value) <= _MAX_TEXT
    elif isinstance(value, float):
        good = good and math.isfinite(value)
    if not good:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise FormatError(f"{what} of an assumption must be {names}, not {show(value)}")


def _check_names(assumed: Mapping[str, Assumption]) -> Mapping[str, Assumption]:
    for name in assumed:
        _check(name, "name", (str,))
    return assumed


#: As files have them: by name.
Assumptions = Annotated[
    Mapping[str, Assumption], Field(max_length=_MAX_ENTRIES), AfterValidator(_check_names)
]


@with_config(STRICT)
@dataclass(frozen=True)
class _Assumed:
    """So that a fault has the key before it."""

    assumed: Assumptions


def assumptions_to_json(assumed: Mapping[str, Assumption]) -> dict[str, Any]:
    """The mapping ``assumed`` of results: name -> value and source, in alphabetical order."""
    return {name: assumption.to_json() for name, assumption in sorted(assumed.items())}


def assumptions_from_json(item: object) -> Mapping[str, Assumption]:
    """Inverse of :func:`assumptions_to_json`.

    Raises:
        FormatError: it is something else.
    """
    return validate({"assumed": item}, _Assumed).assumed
