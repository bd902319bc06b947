# SPDX-License-Identifier: Apache-2.0
"""Results of simulation and synthesis: frozen, saved beside the design they were measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from hwgen.emit.manifest import Manifest, digest
from hwgen.errors import ConfigError, FormatError
from hwgen.files import reason, replace_file

SCHEMA_VERSION = 1

#: Ending of the file of a synthesis for another device than the board's.
OTHER_TARGET = "_other"

#: What a JSON value of a field must be, by the field's annotation.
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
    "tuple[str, ...]": (list,),
    "Mapping[str, int]": (dict,),
    "Mapping[str, Any]": (dict,),
}


def design_digest(folder: Path, manifest: Manifest) -> str:
    """SHA-256 over the design's files as they are now: a result holds for these bytes only."""
    parts = [digest(manifest.to_bytes())]
    for name in sorted(manifest.files):
        try:
            parts.append(f"{name} {digest((folder / name).read_bytes())}")
        except OSError:
            parts.append(f"{name} missing")
    return digest("\n".join(parts).encode())


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base: a JSON file with a schema, written whole or not at all."""

    design: str  #: :func:`design_digest` of what was measured

    def to_json(self) -> dict[str, Any]:
        """Plain values with schema and version."""
        schema = {"schema": f"hwgen.{self._name()}", "schema_version": SCHEMA_VERSION}
        return schema | asdict(self)

    @classmethod
    def _name(cls) -> str:
        return cls.__name__.removesuffix("Result").lower()

    @classmethod
    def path(cls, folder: Path, kind: str = "") -> Path:
        """Where the result of a design folder lies; ``kind`` tells others of the same name."""
        return folder / f"{cls._name()}{kind}.json"

    def save(self, folder: Path, *, kind: str = "") -> Path:
        """Write the result into the design folder.

        Raises:
            ConfigError: the folder cannot be written.
        """
        path = self.path(folder, kind)
        text = json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"
        try:
            replace_file(path, lambda stream: stream.write(text.encode()))
        except OSError as error:
            raise ConfigError(
                f"Result must be writable: {reason(error)}", where=str(path)
            ) from error
        return path

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The result of a design folder; None if there is none of this version."""
        path = cls.path(folder)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise FormatError(f"Result must be a JSON file: {error}", where=str(path)) from error
        if (
            not isinstance(values, dict)
            or values.pop("schema", None) != f"hwgen.{cls._name()}"
            or values.pop("schema_version", None) != SCHEMA_VERSION
        ):
            return None
        if set(values) != {item.name for item in fields(cls)}:
            raise FormatError("Result must have exactly its fields", where=str(path))
        for item in fields(cls):
            kinds = _KINDS.get(str(item.type))
            if kinds is not None and type(values[item.name]) not in kinds:
                raise FormatError(
                    f"{item.name} must be {item.type}, not {values[item.name]!r:.80}",
                    where=str(path),
                )
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class SimulationResult(Result):
    """Whole frames on the emitted Verilog, compared with the reference."""

    matches_reference: bool
    layers_checked: int  #: boundaries compared per image
    images: int  #: images simulated
    cycles: int  #: per frame, the worst of the images
    clock_mhz: float
    macs: int  #: per frame, of the graph's matmuls, no padding
    macs_per_cycle: int  #: products that the array can make per cycle
    busy_cycles: int  #: cycles in which the array took activations, of the worst frame
    stall_cycles: Mapping[str, int]  #: the other cycles of the worst frame by cause
    wall_seconds: float  #: of the simulation, without building it
    memory_latency: int  #: cycles
    memory_bandwidth: float  #: bytes per cycle
    image_source: str
    predicted_cycles: int | None = None
    changed_files: tuple[str, ...] = ()
    top1: float | None = None
    top1_images: int | None = None
    top1_float: float | None = None

    @property
    def fps(self) -> float:
        """Frames per second at the design's clock."""
        return 1e6 * self.clock_mhz / self.cycles

    @property
    def useful_macs_per_cycle(self) -> float:
        """MACs of the graph per cycle of the frame."""
        return self.macs / self.cycles

    @property
    def array_utilisation(self) -> float:
        """Useful products over those that the array could have made, a fraction."""
        return self.macs / (self.cycles * self.macs_per_cycle)

    def contract(self) -> dict[str, Any]:
        """The keys that scripts rely on; accuracy only where there are labels."""
        values: dict[str, Any] = {
            "matches_reference": self.matches_reference,
            "layers_checked": self.layers_checked,
            "images": self.images,
            "cycles": self.cycles,
            "predicted_cycles": self.predicted_cycles,
            "clock_mhz": self.clock_mhz,
            "fps": self.fps,
            "macs": self.macs,
            "useful_macs_per_cycle": self.useful_macs_per_cycle,
            "array_utilisation": self.array_utilisation,
            "busy_cycles": self.busy_cycles,
            "stall_cycles": dict(self.stall_cycles),
            "wall_seconds": self.wall_seconds,
            "memory_latency": self.memory_latency,
            "memory_bandwidth": self.memory_bandwidth,
            "image_source": self.image_source,
            "changed_files": list(self.changed_files),
        }
        if self.predicted_cycles is None:
            del values["predicted_cycles"]
        for name in ("top1", "top1_images", "top1_float"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return values


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a design takes of one resource of its board."""

    resource: str  #: ``lut``, ``ff``, ``dsp`` or ``bram36``
    used: float
    available: int  #: of the device
    limit: int  #: what a design may use of it
    overrun: float | None  #: used / limit if that is beyond 1

    @property
    def fraction(self) -> float:
        """Used of available."""
        return self.used / self.available

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "used": self.used,
            "available": self.available,
            "limit": self.limit,
            "percent": 100 * self.fraction,
            "overrun": self.overrun,
        }


@dataclass(frozen=True, kw_only=True)
class SynthesisResult(Result):
    """Counts of a synthesis."""

    lut: int
    ff: int
    dsp: int
    bram36: float
    logic_levels: int | None
    tool: str
    target: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def contract(self) -> dict[str, Any]:
        """The keys that scripts rely on, and what else the tool said."""
        values = asdict(self)
        del values["design"], values["extra"]
        return values | dict(self.extra)
