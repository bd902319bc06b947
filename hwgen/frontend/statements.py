# SPDX-License-Identifier: Apache-2.0
"""What several sources say of one model, put together; where two of them differ, it is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwgen.errors import ModelError
from hwgen.graph.spec import ModelSpec

TABLE, FILE, DEFAULT = "model table", "model file", "default"

#: Fields that the table says for timm's weights of a geometry; files beside others know better.
OF_THE_WEIGHTS = frozenset({"crop_fraction", "resize_mode", "interpolation"})
#: Two numbers this close are one number that has been through float32.
_SAME = 1e-6
_FIELD = re.compile(r"Model field '(\w+)'")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What one source says: fields of a model file and their values, as in JSON."""

    source: str  #: "model table", "model file", or the name of a configuration file
    values: Mapping[str, Any]
    #: The source's own name of a field, where it has one.
    keys: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None  #: of the file, for messages

    def quote(self, name: str) -> str:
        """``hf/config.json says layer_norm_eps = 1e-12``."""
        key, value = self.keys.get(name, name), json.dumps(self.values[name])
        return f"{self.path or self.source} says {key} = {value:.200}"


@dataclass(frozen=True, kw_only=True)
class Described:
    """A model, and which source each field is from."""

    spec: ModelSpec
    sources: Mapping[str, str]  #: field -> source; a field that is not here has its default
    notes: tuple[str, ...] = ()


def resolve(statements: Sequence[Statement], *, notes: tuple[str, ...] = ()) -> Described:
    """Put statements together; what an earlier one leaves out, a later one fills in.

    Raises:
        ModelError: two sources contradict each other, or what they say is no model.
    """
    values: dict[str, Any] = {}
    given: dict[str, Statement] = {}
    for statement in statements:
        for name, value in statement.values.items():
            if name not in given or (name in OF_THE_WEIGHTS and given[name].source == TABLE):
                values[name], given[name] = value, statement
            elif not _same(values[name], value):
                _contradiction(name, given[name], statement)
    try:
        spec = ModelSpec.from_json(values)
    except ModelError as error:
        found = _FIELD.search(str(error))
        culprit = given.get(found[1]) if found else None
        path = culprit.path if culprit is not None else statements[0].path
        raise ModelError(f"{path}: {error}" if path else str(error)) from error
    sources = {name: given[name].source for name in values}
    return Described(spec=spec, sources=sources, notes=notes)


def _contradiction(name: str, first: Statement, second: Statement) -> None:
    advice = {
        TABLE: "describe the model in a JSON model file with the right value, or give the folder"
        " of the configuration as MODEL",
        FILE: "correct the model file, or leave the key out of it: then the configuration counts",
    }.get(first.source, "correct one of the two files")
    raise ModelError(
        f"Model field {name!r} must be the same wherever it is said, and is not:"
        f" {first.quote(name)}, but {second.quote(name)}; {advice}"
    )


def _same(a: object, b: object) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    numbers = (int, float)
    if type(a) in numbers and type(b) in numbers:
        try:
            return math.isclose(a, b, rel_tol=_SAME)  # type: ignore[arg-type]
        except OverflowError:  # an integer beyond the floats
            return a == b
    return a == b and type(a) is type(b)


def model_file_text(spec: ModelSpec) -> str:
    """The shortest model file of a specification, in one line."""
    defaults = {f.name: f.default for f in dataclasses.fields(ModelSpec)}
    if spec.heads * spec.head_dim == spec.width:
        defaults["head_dim"] = spec.head_dim
    values = {
        name: value
        for name, value in spec.to_json().items()
        if getattr(spec, name) != defaults[name]
    }
    return json.dumps(values)
