# SPDX-License-Identifier: Apache-2.0
"""What Yosys (target xcup) counts for the accelerator of a configuration, without building it.

DSPs and block RAMs follow from the structure and are exact. LUTs and flip-flops are sums over the
units of the accelerator: each a linear function of a few structural features
(:mod:`hwgen.explore.structure`), with coefficients fitted to syntheses of the unit alone.
``scripts/measure_resources`` measures and fits; what it found lies in ``measured.json`` beside
this module: counts, coefficients, and the errors on complete designs that were not fitted. The
coefficients are in the file, rather than fitted when the model is loaded, so that an estimate is
plain arithmetic, the same on every machine, and a change of the fit shows in a review.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from hwgen.columns import Groups
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, FormatError
from hwgen.explore.array_structure import column_name
from hwgen.explore.structure import UNITS
from hwgen.reading import read_json

#: What the model was fitted to; written by ``scripts/measure_resources``.
MEASURED = Path(__file__).with_name("measured.json")
MEASURED_SCHEMA_VERSION = 1
RESOURCES: tuple[str, ...] = ("lut", "ff", "dsp", "bram36")


@dataclass(frozen=True, kw_only=True)
class ResourceEstimate:
    """What a complete accelerator costs, as :mod:`hwgen.synth` counts."""

    lut: int
    ff: int
    dsp: int
    bram36: float
    #: unit -> resource -> count; the sums are the totals
    modules: Mapping[str, Mapping[str, float]]


# The file -----------------------------------------------------------------------------------------

_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What Yosys counted."""

    lut: _Count
    ff: _Count
    dsp: _Count
    bram36: _Number


@dataclass(frozen=True, kw_only=True)
class UnitRun:
    """A unit that was synthesised alone, with those of its parameters."""

    unit: str
    parameters: Mapping[str, bool | int | str | tuple[int, ...]]
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class DesignRun:
    """A complete design, by unit."""

    name: str
    config: Annotated[AcceleratorConfig, PlainValidator(AcceleratorConfig.from_json)]
    units: Mapping[str, Counts]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Coefficients of a unit's features: each adds so many LUTs and flip-flops."""

    lut: Mapping[str, float]
    ff: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The file: what was counted, and the model that follows."""

    schema_version: Annotated[int, Field(ge=MEASURED_SCHEMA_VERSION, le=MEASURED_SCHEMA_VERSION)]
    tool: str  #: name and version
    recipe: str  #: of :mod:`hwgen.synth.yosys`
    error: Mapping[str, _Number]  #: largest relative error on :attr:`validation`, by resource
    coefficients: Mapping[str, Fit]  #: by unit
    fit: tuple[UnitRun, ...]  #: what the coefficients are fitted to
    validation: tuple[DesignRun, ...]  #: what they are not

    def __post_init__(self) -> None:
        """Check that every unit and resource is there; ``ValueError`` says what must be."""
        if set(self.error) != set(RESOURCES):
            raise FormatError(f"error must have the keys {', '.join(RESOURCES)}")
        if set(self.coefficients) != set(UNITS):
            raise FormatError(f"coefficients must have the keys {', '.join(UNITS)}")


@functools.cache
def measurements(path: Path = MEASURED) -> Measurements:
    """The measurements, and the coefficients and errors of the model.

    Raises:
        FormatError: the file is missing or damaged.
    """
    try:
        return read_json(path, Measurements)
    except FormatError as error:
        raise FormatError(
            error.what, where=error.where, why="scripts/measure_resources writes the file"
        ) from error


# The model ----------------------------------------------------------------------------------------


def is_measured(groups: Groups, rows: int, coefficients: Mapping[str, Fit] | None = None) -> bool:
    """Whether the model knows columns of these kinds and widths with so many rows."""
    known = (coefficients or measurements().coefficients)["columns"].lut
    return all(column_name(group, rows) in known for group in groups)


def unit_counts(
    name: str, parameters: Mapping[str, Any], coefficients: Mapping[str, Fit]
) -> dict[str, float]:
    """What one unit costs, by resource; LUTs and flip-flops are whole numbers.

    Args:
        name: one of :data:`hwgen.explore.structure.UNITS`.
        parameters: values of the unit's parameters.
        coefficients: fits of all units.

    Raises:
        FormatError: a feature of the unit has no coefficient.
    """
    unit = UNITS[name]
    features = unit.features(**parameters)
    counts: dict[str, float] = {}
    for resource, fit in (("lut", coefficients[name].lut), ("ff", coefficients[name].ff)):
        try:
            counts[resource] = round(fsum(fit[key] * value for key, value in features.items()))
        except KeyError as error:
            raise FormatError(
                f"coefficients.{name}.{resource} must have the key {error.args[0]!r}",
                why="scripts/measure_resources writes the file",
            ) from error
    return counts | {"dsp": unit.dsp(**parameters), "bram36": unit.bram36(**parameters)}


@functools.lru_cache(maxsize=1 << 16)
def _unit_counts(name: str, parameters: tuple[tuple[str, Any], ...]) -> Mapping[str, float]:
    """:func:`unit_counts` with the measured coefficients: designs of a space share most units."""
    counts = unit_counts(name, dict(parameters), measurements().coefficients)
    return MappingProxyType(counts)


def estimate_with(config: AcceleratorConfig, coefficients: Mapping[str, Fit]) -> ResourceEstimate:
    """:func:`estimate_resources` with given coefficients."""
    if not is_measured(config.groups, config.rows, coefficients):
        raise ConfigError(
            "groups must be of columns that the resource model knows, not"
            f" {config.groups} with {config.rows} rows",
            why="scripts/measure_resources has not counted some of them; synthesise the design",
        )
    modules = {}
    for name, unit in UNITS.items():
        values = unit.of(config)
        if coefficients is measurements().coefficients:
            modules[name] = _unit_counts(name, tuple(values.items()))
        else:
            modules[name] = unit_counts(name, values, coefficients)

    def total(resource: str) -> float:
        return sum(counts[resource] for counts in modules.values())

    return ResourceEstimate(
        lut=int(total("lut")),
        ff=int(total("ff")),
        dsp=int(total("dsp")),
        bram36=total("bram36"),
        modules=modules,
    )


def estimate_resources(config: AcceleratorConfig) -> ResourceEstimate:
    """What Yosys would count for the complete accelerator of a configuration.

    DSPs and block RAMs are equal to Yosys' counts, LUTs and flip-flops within :func:`model_error`,
    on the designs that were measured. Takes well below a millisecond; nothing is built.

    Raises:
        ConfigError: columns that were not measured.
        FormatError: the measurements are missing or damaged.
    """
    return estimate_with(config, measurements().coefficients)


def model_error() -> Mapping[str, float]:
    """Largest relative error on complete designs that were not fitted, by resource.

    Raises:
        FormatError: the measurements are missing or damaged.
    """
    return MappingProxyType(measurements().error)


def cascades(config: AcceleratorConfig) -> int:
    """Cascades of the array: ``rows`` DSP48E2 blocks each, for two or four columns."""
    return int(sum(group.dsps for group in config.groups))
