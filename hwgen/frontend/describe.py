# SPDX-License-Identifier: Apache-2.0
"""A model as all describe it: the table or a model file, the configuration beside the weights."""

from __future__ import annotations

from pathlib import Path

from hwgen.errors import FormatError, ModelError
from hwgen.frontend.config_files import (
    CONFIG,
    is_configuration,
    read_configuration,
)
from hwgen.frontend.models import ALIASES, MODELS, state_model
from hwgen.frontend.other_networks import refuse_what_is_said
from hwgen.frontend.statements import FILE, Described, Statement, resolve
from hwgen.reading import load_json, read_bytes


def configuration_folder(model: str) -> Path | None:
    """Return the folder that describes a model, if MODEL names one or its ``config.json``."""
    path = Path(model)
    if model in MODELS or model.partition(".")[0] in ALIASES:
        return None  # a folder of that name can be given as ./NAME
    if path.is_dir():
        return path
    if path.name != CONFIG or not path.is_file():
        return None
    try:
        values = load_json(read_bytes(path), where=str(path))
    except FormatError:
        return None  # a model file of that name, and a bad one
    return path.parent if is_configuration(values) else None


def describe(model: str, beside: Path | None) -> Described:
    """Return a model with the sources of its fields.

    What the table or the model file leaves out is taken from ``config.json`` and
    ``preprocessor_config.json`` in the folder of the weights, what these leave out has defaults.

    Args:
        model: a known name, a JSON model file, or a folder with a ``config.json``.
        beside: the folder of the weights, if there are any.

    Raises:
        ModelError, CheckpointError, FormatError: the model is unknown or not one that is built
            here, a file is bad, or two sources contradict each other.
    """
    folder = configuration_folder(model)
    if folder is None:
        own = state_model(model)
        if own.source == FILE:
            refuse_what_is_said(own.values, model)
        statements = [own]
    else:
        name = Statement(source="name of the folder", values={"name": folder.resolve().name})
        statements = [name, *read_configuration(folder)]
        if len(statements) == 1:
            raise ModelError(
                f"Model must be a known name, a JSON file or a folder with {CONFIG}, not {model!r}:"
                f" a folder without {CONFIG}"
            )
    if beside is not None and (folder is None or folder.resolve() != beside.resolve()):
        statements += read_configuration(beside, statements)
    silent = [s.source for s in statements if not s.values]
    notes = [f"{source} beside the weights says nothing that is known here" for source in silent]
    return resolve(statements, notes=tuple(notes))
