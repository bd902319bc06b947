# SPDX-License-Identifier: Apache-2.0
"""Folders of units: written, simulated and synthesised; their files are used as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, with_config

from hwgen import __version__
from hwgen.emit.folder import write_folder
from hwgen.emit.manifest import FILE_NAME, check_file_name, digest, file_digest, tool_versions
from hwgen.emit.verilog import convert, convert_leaf
from hwgen.errors import ConfigError, FormatError, HwgenError
from hwgen.outputs import SEAL, sealed
from hwgen.reading import (
    MAX_DESIGN_FILE_BYTES,
    STRICT,
    check_version,
    load_json,
    printable,
    read_bytes,
    show,
    validate,
)
from hwgen.sim.unit_bench import Handshake, run_unit
from hwgen.sim.verilator import Progress
from hwgen.units.base import Unit, UnitResult, Value, Values, Vectors, Words
from hwgen.units.vectors import check_vectors, load_vectors, save_vectors

SCHEMA = "hwgen.unit"
SCHEMA_VERSION = 1

#: The back end writes operands at their own widths; Verilog extends them as meant.
VERILATOR_OPTIONS = ("-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC")


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _Document:
    """The file of a manifest."""

    schema: str
    schema_version: int
    generator: str
    tools: Mapping[str, str]
    unit: str
    top: str
    parameters: Mapping[str, int | str]
    simulation: Annotated[tuple[str, ...], Field(min_length=1)]
    synthesis: tuple[str, ...]
    files: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class UnitManifest:
    """What is in a unit's folder; equal inputs give equal bytes."""

    unit: str  #: name of the unit
    top: str  #: Verilog module
    parameters: Mapping[str, Value]
    simulation: tuple[str, ...]  #: Verilog files of a simulation
    synthesis: tuple[str, ...]  #: Verilog files of a synthesis for UltraScale+
    files: Mapping[str, str]  #: SHA-256 of every file beside the manifest
    tools: Mapping[str, str] = field(default_factory=tool_versions)
    generator: str = f"hwgen {__version__}"

    def __post_init__(self) -> None:
        """Check the names."""
        for name in (*self.files, *self.verilog):
            check_file_name(name)
        if missing := sorted(set(self.verilog) - set(self.files)):
            raise FormatError(f"Every file must have a digest, and {missing[0]} has none")

    @property
    def verilog(self) -> tuple[str, ...]:
        """All Verilog files."""
        return tuple(dict.fromkeys((*self.simulation, *self.synthesis)))

    def to_bytes(self) -> bytes:
        """The file's content."""
        values = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "generator": self.generator,
            "tools": dict(sorted(self.tools.items())),
            "unit": self.unit,
            "top": self.top,
            "parameters": dict(self.parameters),
            "simulation": list(self.simulation),
            "synthesis": list(self.synthesis),
            "files": dict(sorted(self.files.items())),
        }
        return (json.dumps(sealed(values), indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def load(cls, folder: Path) -> UnitManifest:
        """Read the manifest of a unit's folder.

        Raises:
            FormatError: the folder holds none, or one that is not well formed.
        """
        path = folder / FILE_NAME
        if not os.path.lexists(path):
            raise FormatError(
                f"Folder must hold a readable {FILE_NAME} (hwgen unit NAME -o writes one)",
                where=printable(str(folder)),
            )
        where = printable(str(path))
        values = load_json(read_bytes(path), where=where)
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise FormatError(f"Manifest must have the schema {SCHEMA!r}", where=where)
        remedy = "generate the unit again"
        check_version(values, SCHEMA_VERSION, what="Manifest", where=where, remedy=remedy)
        values.pop(SEAL, None)
        document = validate(values, _Document, where=where)
        plain = {item.name: getattr(document, item.name) for item in fields(document)}
        for name in ("schema", "schema_version"):
            del plain[name]
        try:
            return cls(**plain)
        except FormatError as error:
            raise FormatError(error.what, where=where) from error


def find_unit(name: str) -> Unit:
    """The unit of that name.

    Raises:
        FormatError: there is none.
    """
    from hwgen.units import UNITS

    if name not in UNITS:
        raise FormatError(f"Unit must be one of {', '.join(UNITS)}, not {show(name)}")
    return UNITS[name]


class _Texts(NamedTuple):
    """Verilog of a unit: the texts of its files, and which are for what."""

    files: Mapping[str, str]
    simulation: tuple[str, ...]
    synthesis: tuple[str, ...]


def unit_verilog(unit: Unit, parameters: Mapping[str, object] | None = None) -> str:
    """Verilog of a unit for simulation: one text, the same bytes for the same build parameters."""
    texts = _texts_of(unit, unit.resolve(parameters))
    return "\n".join(texts.files[name] for name in texts.simulation)


def _texts_of(unit: Unit, values: Values) -> _Texts:
    return _texts(unit, tuple(unit.build_values(values).items()))


@lru_cache(maxsize=16)
def _texts(unit: Unit, build: tuple[tuple[str, Value], ...]) -> _Texts:
    component = unit.component(dict(build))
    parts = unit.parts(component)
    # Simulation and synthesis differ in these modules only: same name, ports and behaviour.
    primitives = unit.synthesis_parts(component)
    twins = {name: parts.pop(name) for name in primitives}
    shared, twin, primitive = (f"{unit.module}{end}.v" for end in ("", "_twin", "_dsp48e2"))
    files = {shared: convert(component, unit.module, parts, primitives)}
    if not primitives:
        return _Texts(files, (shared,), (shared,))
    for file, leaves in ((twin, twins), (primitive, primitives)):
        leaf_texts = [convert_leaf(leaf, unit.module, name) for name, leaf in leaves.items()]
        files[file] = "\n".join(leaf_texts)
    return _Texts(files, (shared, twin), (shared, primitive))


def emit_unit(
    unit: Unit,
    parameters: Mapping[str, object] | None,
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Path:
    """Write a unit's folder, Verilog and manifest; replaces an old one of ours and nothing else.

    With ``force`` also one whose files have been edited.

    Raises:
        UsageError: an unknown or illegal parameter.
        ConfigError: the folder is not ours, was edited, or cannot be written.
    """
    values = unit.resolve(parameters)
    texts = _texts_of(unit, values)
    files = {name: text.encode() for name, text in texts.files.items()}
    manifest = UnitManifest(
        unit=unit.name,
        top=unit.module,
        parameters=values,
        simulation=texts.simulation,
        synthesis=texts.synthesis,
        files={name: digest(content) for name, content in files.items()},
    )
    return write_folder(Path(folder), files, manifest, listed_files, force=force)


def listed_files(folder: Path) -> Mapping[str, str]:
    """What a unit's manifest lists.

    Raises:
        FormatError: the folder holds no manifest of a unit.
    """
    return UnitManifest.load(folder).files


def simulate(
    unit: Unit,
    parameters: Mapping[str, object] | None,
    vectors: Vectors,
    *,
    handshake: Handshake | None = None,
    verilog: str | None = None,
    top: str | None = None,
    where: str | None = None,
    progress: Progress | None = None,
) -> UnitResult:
    """Push vectors through the Verilated unit and compare with the reference.

    Args:
        unit: the unit.
        parameters: those that differ from the defaults.
        vectors: arrays by name.
        handshake: how VALID and READY are driven.
        verilog: text to simulate; by default emitted now.
        top: module of the text.
        where: name of the vectors in messages.
        progress: told about the build.

    Raises:
        FormatError: vectors that the unit does not take.
        SimulationError: the unit broke the stream contract or did not finish.
    """
    values = unit.resolve(parameters)
    checked, expected, words = _prepare(unit, values, vectors, where)
    text = unit_verilog(unit, values) if verilog is None else verilog
    run = run_unit(
        text,
        top or unit.module,
        words.inputs,
        words.outputs,
        configuration=words.configuration,
        input_stream="i_stream",
        output_stream="o_stream",
        handshake=handshake,
        options=VERILATOR_OPTIONS,
        progress=progress,
    )
    outputs = unit.decode(run.outputs, checked, values)
    difference = first_difference(expected, outputs)
    return UnitResult(outputs, run.cycles, difference is None, difference)


def _prepare(
    unit: Unit, values: Values, vectors: Vectors, where: str | None
) -> tuple[Vectors, Vectors, Words]:
    """Checked vectors, what the reference makes of them, and their words."""
    checked = check_vectors(unit, vectors, where)
    try:
        return checked, unit.reference(checked, values), unit.encode(checked, values)
    except HwgenError as error:
        if error.where is None:
            error.where = where
        raise


def check_vector_file(unit: Unit, values: Values, path: str | os.PathLike[str]) -> None:
    """Refuse vectors that the unit does not take, before anything is written or built.

    Raises:
        FormatError: names, shapes, element types or values are wrong.
    """
    _prepare(unit, values, load_vectors(unit, path), str(path))


def changed_files(folder: Path, manifest: UnitManifest | None = None) -> tuple[str, ...]:
    """Files of a unit's folder that are not the emitted ones any more, or that are missing."""
    files = (manifest or UnitManifest.load(folder)).files
    return tuple(name for name, expected in files.items() if file_digest(folder / name) != expected)


def is_current(unit: Unit, values: Values, folder: Path, *, force: bool = False) -> bool:
    """True if a folder is the unit's with these parameters, to be used as it is, edits included.

    Raises:
        ConfigError: it has been edited, and is another unit's or has other parameters: to write it
            again would destroy the edits, which is done with ``force`` only.
    """
    try:
        manifest = UnitManifest.load(folder)
    except FormatError:
        return False
    same = manifest.unit == unit.name and dict(manifest.parameters) == dict(values)
    if changed := changed_files(folder, manifest):
        if same or force:
            return same
        raise ConfigError(
            f"Folder must hold {unit.name} with these parameters to be used with its edits"
            f" ({', '.join(changed[:4])}); give another folder, or --force to replace it",
            where=str(folder),
        )
    # Emitted by another version of hwgen: nothing is lost if it is written again.
    return same and dict(manifest.files) == _digests(unit, values)


def _digests(unit: Unit, values: Values) -> dict[str, str]:
    return {name: digest(text.encode()) for name, text in _texts_of(unit, values).files.items()}


def first_difference(expected: Vectors, got: Vectors) -> dict[str, object] | None:
    """The first element that differs; element types and shapes must agree as well."""
    for name, array in expected.items():
        other = got[name]
        if array.dtype != other.dtype or array.shape != other.shape:
            return {
                "op": name,
                "index": None,
                "expected": f"{array.dtype} {list(array.shape)}",
                "got": f"{other.dtype} {list(other.shape)}",
            }
        wrong: npt.NDArray[Any] = array != other
        if wrong.any():
            index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
            return {
                "op": name,
                "index": list(index),
                "expected": int(array[index]),
                "got": int(other[index]),
            }
    return None


def _read(folder: Path, manifest: UnitManifest) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The Verilog files, and the names of those that are not the emitted ones any more."""
    contents = {}
    for name in manifest.verilog:
        if not os.path.lexists(folder / name):
            raise FormatError(f"Folder must hold {name}", where=printable(str(folder)))
        contents[name] = read_bytes(folder / name, limit=MAX_DESIGN_FILE_BYTES)
    changed = [
        name for name, content in contents.items() if digest(content) != manifest.files[name]
    ]
    return contents, tuple(changed)


def simulate_folder(
    folder: str | os.PathLike[str],
    vectors: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    handshake: Handshake | None = None,
    progress: Progress | None = None,
) -> UnitResult:
    """Simulate the Verilog files of a unit's folder, with the parameters of its manifest.

    Args:
        folder: as :func:`emit_unit` writes it; the files are used as they are.
        vectors: archive of the inputs.
        output: archive for what the unit returned, nothing else; written even if it is wrong.
        handshake: how VALID and READY are driven.
        progress: told about the build.

    Raises:
        FormatError: the folder or the vectors are not well formed.
        SimulationError: the unit broke the stream contract or did not finish.
    """
    folder = Path(folder)
    manifest = UnitManifest.load(folder)
    unit = find_unit(manifest.unit)
    try:
        values = unit.resolve(manifest.parameters)
    except HwgenError as error:
        raise FormatError(str(error), where=str(folder / FILE_NAME)) from error
    contents, changed = _read(folder, manifest)
    arrays = load_vectors(unit, vectors)
    result = simulate(
        unit,
        values,
        arrays,
        handshake=handshake,
        verilog="\n".join(
            contents[name].decode("utf-8", "replace") for name in manifest.simulation
        ),
        top=manifest.top,
        where=str(vectors),
        progress=progress,
    )
    if output is not None:
        save_vectors(result.outputs, output)
    return UnitResult(
        result.outputs, result.cycles, result.matches_reference, result.first_difference, changed
    )


def synthesise_folder(
    folder: str | os.PathLike[str],
    target: str = "xcup",
    *,
    liberty: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measured resources of the Verilog files of a unit's folder.

    Returns:
        ``lut``, ``ff``, ``dsp``, ``bram36``, ``logic_levels``, ``target``, ``tool``, with a Liberty
        file ``area``, and what the unit adds: figures per multiply-accumulate of an array.

    Raises:
        FormatError: the folder is not well formed.
        ToolError: Yosys is missing or failed.
    """
    from hwgen.synth.yosys import synthesise

    folder = Path(folder)
    manifest = UnitManifest.load(folder)
    unit = find_unit(manifest.unit)
    values = unit.resolve(manifest.parameters)
    _read(folder, manifest)
    primitives = target == "xcup" and liberty is None
    files = [folder / n for n in (manifest.synthesis if primitives else manifest.simulation)]
    report = synthesise(files, manifest.top, target, liberty=liberty, progress=progress)
    facts: dict[str, Any] = {
        **report.resources,
        "logic_levels": report.logic_levels,
        "target": report.target,
        "tool": report.tool,
    }
    if report.area is not None:
        facts["area"] = report.area
    if report.paths:
        facts["clock_paths"] = [asdict(paths) for paths in report.paths]
    modules = {module.name: dict(module.total) for module in report.modules}
    return facts | unit.figures(values, facts, modules)
