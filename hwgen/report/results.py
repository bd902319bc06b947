# SPDX-License-Identifier: Apache-2.0
"""Results of simulation and synthesis: frozen, saved beside the design they were measured on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, with_config

from hwgen.emit.manifest import Manifest, digest, file_digest
from hwgen.errors import ConfigError, FormatError
from hwgen.files import reason, replace_file
from hwgen.outputs import SEAL, check_file, recognise_json, sealed
from hwgen.reading import STRICT, check_stated, load_json, printable, read_bytes, validate

SCHEMA_VERSION = 3

#: What every clock is, and so every rate that follows from one.
ASSUMED = "assumed, nothing was placed"

#: Ending of the file of a synthesis for another device than the board's.
OTHER_TARGET = "_other"

#: Largest result file: the modules of a synthesis take some hundred bytes each.
_MAX_BYTES = 1 << 24

Count = Annotated[int, Field(ge=0)]  #: of 64 bits, as all integers of JSON here
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Rate = Annotated[float, Field(gt=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def design_digest(folder: Path, manifest: Manifest) -> str:
    """SHA-256 over the design's files as they are now: a result holds for these bytes only."""
    parts = [digest(manifest.to_bytes())]
    for name in sorted(manifest.files):
        parts.append(f"{name} {file_digest(folder / name) or 'missing'}")
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

    @classmethod
    def check_place(
        cls, folder: Path, *, kind: str = "", inputs: Iterable[Path] = (), force: bool = False
    ) -> None:
        """Refuse to write a result there, before the work, by the rule of :mod:`hwgen.outputs`.

        Raises:
            UsageError: the file is an input.
            ConfigError: the file that is there must stay.
        """
        recognise = recognise_json(f"hwgen.{cls._name()}")
        check_file(cls.path(folder, kind), recognise, inputs=inputs, force=force)

    def save(self, folder: Path, *, kind: str = "") -> Path:
        """Write the result into the design folder.

        Raises:
            ConfigError: the folder cannot be written.
        """
        path = self.path(folder, kind)
        text = json.dumps(sealed(self.to_json()), indent=2, allow_nan=False) + "\n"
        try:
            replace_file(path, lambda stream: stream.write(text.encode()))
        except OSError as error:
            raise ConfigError(
                f"Result must be writable: {reason(error)}", where=str(path)
            ) from error
        return path

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The result of a design folder; None if there is none of this version.

        Raises:
            FormatError: the file cannot be read, or does not hold what a result must.
        """
        path = cls.path(folder)
        if not os.path.lexists(path):
            return None
        where = printable(str(path))
        values = load_json(read_bytes(path, limit=_MAX_BYTES), where=where)
        if (
            not isinstance(values, dict)
            or values.pop("schema", None) != f"hwgen.{cls._name()}"
            or values.pop("schema_version", None) != SCHEMA_VERSION
        ):
            return None
        values.pop(SEAL, None)
        check_stated(values, [item.name for item in fields(cls)], where=where)
        return validate(values, cls, where=where)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class AccuracyResult(Result):
    """Top-1 of the design's graph on every image with a label; no simulation takes its place."""

    top1: Fraction  #: of the integer graph
    top1_images: Positive
    top1_float: Fraction  #: of the float model, on the same images
    image_source: str

    def contract(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
        return {
            "top1": self.top1,
            "top1_images": self.top1_images,
            "top1_float": self.top1_float,
            "top1_source": self.image_source,
        }


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SimulationResult(Result):
    """Whole frames on the emitted Verilog, compared with the reference."""

    matches_reference: bool
    layers_checked: Count  #: boundaries compared per image
    images: Positive  #: images simulated
    cycles: Positive  #: per frame, the worst of the images; of several frames a START their mean
    frames_per_start: Positive
    latency_cycles: Positive  #: from START to the interrupt, the worst
    clock_mhz: Rate
    macs: Count  #: per frame, of the graph's matmuls, no padding
    weight_bytes: Count  #: packed weights streamed per frame
    macs_per_cycle: Positive  #: products that the array can make per cycle
    busy_cycles: Count  #: cycles in which the array took activations, of the worst frame
    stall_cycles: Mapping[str, Count]  #: the other cycles of the worst frame by cause
    wall_seconds: Amount  #: of the simulation, without building it
    memory_latency: Positive  #: cycles
    memory_bandwidth: Rate  #: bytes per cycle
    image_source: str
    dsp_clock_mhz: Rate | None = None  #: where DSP blocks run at twice the clock
    predicted_cycles: Positive | None = None
    changed_files: tuple[str, ...] = ()
    top1: Fraction | None = None  #: of the simulated images, if they have labels
    top1_images: Positive | None = None

    @property
    def fps(self) -> float:
        """Frames per second at the design's clock."""
        return 1e6 * self.clock_mhz / self.cycles

    @property
    def clocks(self) -> str:
        """The clocks in words; both are assumptions, nothing is placed."""
        dsp = f", DSP blocks {self.dsp_clock_mhz:g} MHz" if self.dsp_clock_mhz else ""
        return f"{self.clock_mhz:g} MHz{dsp}"

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
            "frames_per_start": self.frames_per_start,
            "latency_cycles": self.latency_cycles,
            "predicted_cycles": self.predicted_cycles,
            "clock_mhz": self.clock_mhz,
            "fps": self.fps,
            "macs": self.macs,
            "weight_bytes": self.weight_bytes,
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
        if self.dsp_clock_mhz is not None:
            values["dsp_clock_mhz"] = self.dsp_clock_mhz
        for name in ("top1", "top1_images"):
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


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SynthesisResult(Result):
    """Counts of a synthesis."""

    lut: Count
    ff: Count
    dsp: Count
    bram36: Amount
    logic_levels: Count | None
    tool: str
    target: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would take the place of a figure."""
        if taken := sorted({item.name for item in fields(self)} & set(self.extra)):
            raise FormatError(f"extra must have other keys than the result, not {taken[0]!r}")

    def contract(self) -> dict[str, Any]:
        """The keys that scripts rely on, and what else the tool said."""
        values = asdict(self)
        del values["design"], values["extra"]
        return values | dict(self.extra)
