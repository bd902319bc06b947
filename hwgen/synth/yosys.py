# SPDX-License-Identifier: Apache-2.0
"""Synthesises emitted Verilog with Yosys and says what it costs.

Yosys runs in a process of its own: an interrupt ends it, its memory is returned, and a crash is an
error message. Results are kept by content.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, with_config

from hwgen.cache import cache_folder, fill_once
from hwgen.errors import ConfigError, FormatError, ToolError
from hwgen.files import scratch_folder
from hwgen.processes import failure, started
from hwgen.reading import MAX_DESIGN_FILE_BYTES, STRICT, read_bytes, read_json
from hwgen.synth.clock_paths import ClockPaths, clock_paths
from hwgen.synth.netlist import PRIMITIVES, ModuleReport, analyse

#: Targets of :func:`synthesise` beside a Liberty file.
TARGETS: tuple[str, ...] = tuple(PRIMITIVES)

#: Changes when the recipe or the counting changes.
RECIPE = "3"

Progress = Callable[[str, float], None]

#: How a Liberty file begins: space, comments, the library group.
_LIBERTY = re.compile(
    rb"(?>\s+|/\*(?:(?!\*/).)*+\*/|//[^\n]*+\n)*+library\s*+\([^)]*+\)\s*+\{", re.DOTALL
)

# Reads one command a line; says which one it is at.
_WORKER = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.stdin.read().splitlines():
    libyosys.run_pass(command, design)
"""

# `-noiopad -noclkbuf`: the design is a block inside a larger one. The hierarchy is kept: a module
# is synthesised once however often it is used, and the figures are per module. For xcup the step
# map_luts of synth_xilinx is spelt out with abc in place of abc9, which spends seconds on every
# module however small (minutes on a design) and maps for its own delay model, not for levels.
_XCUP = "synth_xilinx -family xcup -noiopad -noclkbuf -top {top} -run "
_MAP = {
    "xcup": (
        _XCUP + "begin:map_luts",
        "opt_expr -mux_undef -noclkinv",
        "abc -luts 2:2,3,6:5,10,20",
        "clean",
        "xilinx_srl -fixed -minlen 3",
        "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6",
        "xilinx_dffopt",
        "opt_lut_ins -tech xilinx",
        _XCUP + "finalize:edif",
    ),
    "ecp5": ("synth_ecp5 -noflatten -top {top}",),
}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SynthesisReport:
    """What a design costs on a target."""

    top: str
    target: str  #: ``xcup``, ``ecp5`` or the name of the Liberty file
    tool: str  #: name and version
    lut: float  #: six-input LUTs (ecp5: four-input), memories and shift registers included
    ff: float
    dsp: float
    bram36: float  #: in units of 36 Kbit
    logic_levels: int | None  #: LUT levels between registers, outside DSP and block RAM paths
    area: float | None  #: with a Liberty file only, in its unit
    modules: tuple[ModuleReport, ...]  #: the top first
    wall_seconds: float  #: of the run that measured it
    paths: tuple[ClockPaths, ...] = ()  #: by their clocks, where there are several

    @property
    def resources(self) -> dict[str, float]:
        """Totals by the names that boards use."""
        return {"lut": self.lut, "ff": self.ff, "dsp": self.dsp, "bram36": self.bram36}


def tool_version() -> str:
    """Name and version of the synthesis tool.

    Raises:
        ToolError: it is not installed.
    """
    try:
        return f"Yosys {metadata.version('pyosys')} (pyosys)"
    except metadata.PackageNotFoundError as error:
        raise ToolError("Yosys must be installed to synthesise; try: pip install pyosys") from error


def _run(commands: Sequence[str], folder: Path) -> str:
    """Run Yosys commands in a folder and return the log.

    Raises:
        ToolError: Yosys reported an error or died.
    """
    with (folder / "log").open("w+", errors="replace") as log:
        with started(
            [sys.executable, "-c", _WORKER],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process:
            process.communicate("\n".join(commands) + "\n")
        log.seek(0)
        text = log.read()
    if process.returncode:
        lines = text.splitlines()
        telling = [line for line in lines if line.startswith("ERROR")][:1] or lines[-5:]
        raise failure("Yosys", process.returncode, "\n".join(telling), folder)
    return text


def _name(identifier: str) -> str:
    """A module name as Yosys commands take it."""
    if not identifier.replace("_", "a").isalnum():
        raise ConfigError(f"Top must be a plain identifier, not {identifier!r}")
    return identifier


def synthesise(
    verilog: Sequence[Path],
    top: str,
    target: str = "xcup",
    *,
    liberty: Path | None = None,
    progress: Progress | None = None,
) -> SynthesisReport:
    """Synthesise files and count what they cost, module by module.

    Args:
        verilog: files, as they are.
        top: name of the top module.
        target: ``xcup`` (UltraScale+) or ``ecp5``; ignored with a Liberty file.
        liberty: cell library of an ASIC process: reports area instead of LUTs.
        progress: told what happens.

    Raises:
        ConfigError: the target is unknown.
        ToolError: a file cannot be read, Yosys fails, or a cell is unknown.
    """
    if liberty is None and target not in TARGETS:
        raise ConfigError(f"Target must be one of {', '.join(TARGETS)}, not {target!r}")
    report: Progress = progress or (lambda *_: None)
    tool = tool_version()
    try:
        contents = [read_bytes(path, limit=MAX_DESIGN_FILE_BYTES) for path in verilog]
        library = None if liberty is None else read_bytes(liberty, limit=MAX_DESIGN_FILE_BYTES)
    except FormatError as error:
        raise ToolError(f"Synthesis needs readable files: {error}") from error
    if library is not None and not _LIBERTY.match(library):
        raise ToolError(
            "Liberty file must begin with 'library (NAME) {', comments aside", where=str(liberty)
        )
    kind = "liberty" if liberty is not None else target
    digest = hashlib.sha256()
    for part in (RECIPE.encode(), tool.encode(), kind.encode(), _name(top).encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for data in (*contents, *([library] if library is not None else [])):
        digest.update(len(data).to_bytes(8, "little") + data)
    folder = cache_folder() / "synthesis" / digest.hexdigest()[:32]

    def make(partial: Path) -> None:
        report(f"synthesising {top} for {kind}", 0.0)
        with scratch_folder() as work:
            for index, data in enumerate(contents):
                (work / f"{index}.v").write_bytes(data)
            if library is not None:
                (work / "cells.lib").write_bytes(library)
            started = time.monotonic()
            reading = [f"read_verilog {index}.v" for index in range(len(contents))]
            if library is not None:
                values = _liberty(reading, top, work)
                values["target"] = liberty.name if liberty is not None else ""
            else:
                values = _fpga(reading, top, target, work, report)
            values |= {"top": top, "tool": tool, "wall_seconds": time.monotonic() - started}
        (partial / "report.json").write_text(json.dumps(values))

    fill_once(folder, make)
    report("synthesis done", 1.0)
    kept = read_json(folder / "report.json", SynthesisReport)
    if kept.logic_levels is None:
        return kept
    # A path that lies within a submodule is no path of the top's.
    levels = [kept.logic_levels, *(module.logic_levels for module in kept.modules)]
    return replace(kept, logic_levels=max(levels))


def _fpga(
    reading: Sequence[str], top: str, target: str, work: Path, report: Progress
) -> dict[str, Any]:
    mapping = [command.format(top=top) for command in _MAP[target]]
    # The mapping reads the target's primitives, then checks the hierarchy.
    _run([*reading, *mapping, "write_json netlist.json"], work)
    report("counting cells and levels", 0.9)
    netlist = json.loads((work / "netlist.json").read_text())
    modules = analyse(netlist, top, target)
    return {
        **modules[0].total,
        "target": target,
        "logic_levels": modules[0].logic_levels,
        "area": None,
        "modules": [asdict(module) for module in modules],
        "paths": [asdict(path) for path in clock_paths(netlist, top, target)],
    }


_SOME_KEYS = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Counted(BaseModel):
    """What Yosys counts in a design mapped to a library."""

    model_config = _SOME_KEYS

    num_cells_by_type: dict[str, int]
    area: float


class _Statistics(BaseModel):
    """Yosys' file of statistics."""

    model_config = _SOME_KEYS

    design: _Counted


def _liberty(reading: Sequence[str], top: str, work: Path) -> dict[str, Any]:
    commands = [
        *reading,
        f"hierarchy -check -top {top}",
        f"synth -flatten -top {top}",
        "dfflibmap -liberty cells.lib",
        "abc -liberty cells.lib",
        "opt_clean -purge",
        f"tee -q -o stat.json stat -json -liberty cells.lib -top {top}",
    ]
    _run(commands, work)
    try:
        design = read_json(work / "stat.json", _Statistics).design
    except FormatError as error:
        raise ToolError(
            f"The Liberty file must give its cells areas that are numbers ({error.what})"
        ) from error
    if left := sorted(kind for kind in design.num_cells_by_type if kind.startswith("$")):
        raise ToolError(f"The Liberty file must have cells for all logic; {left} are left")
    return {
        **dict.fromkeys(("lut", "ff", "dsp", "bram36"), 0),
        "logic_levels": None,
        "area": design.area,
        "modules": [],
    }
