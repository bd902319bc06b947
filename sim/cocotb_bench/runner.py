# SPDX-License-Identifier: Apache-2.0
"""Builds Verilog with cocotb's VPI (Verilator, Icarus) and runs one cocotb test in it."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwgen.errors import SimulationError, ToolError
from hwgen.processes import run_tool, started
from hwgen.sim.verilator import Build, Source, build

#: Names the folder of the job for the cocotb test.
FOLDER_VARIABLE = "HWGEN_BENCH_FOLDER"


def _main(text: str) -> bytes:
    """Cocotb's main program; our builds keep the time in Verilator's context."""
    step = "main_time = next_time;"
    if step not in text:
        raise ToolError(f"cocotb's verilator.cpp must contain {step!r}; try cocotb 2.1")
    return text.replace(step, f"{step} Verilated::threadContextp()->time(main_time);").encode()


def build_cocotb(top: str, verilog: Sequence[Source], *, options: Sequence[str] = ()) -> Path:
    """The executable of a bench, from the cache or built now; signals of ``top`` are public.

    Raises:
        ToolError: cocotb, Verilator or the compiler is missing or failed.
    """
    try:
        import cocotb_tools.config as cocotb_config
    except ImportError as error:
        raise ToolError(
            "cocotb must be installed to verify with it; try: pip install 'hwgen[dev]'"
        ) from error
    libraries = Path(cocotb_config.libs_dir)
    main = Path(cocotb_config.share_dir) / "lib" / "verilator" / "verilator.cpp"
    public = f'`verilator_config\npublic_flat_rw -module "{top}" -var "*"\n'
    return build(
        Build(
            top=top,
            verilog=(*verilog, Source("public.vlt", public.encode())),
            harness=(
                Source("Vtop.h", b'#include "Vdut.h"\nusing Vtop = Vdut;\n'),
                Source("main.cpp", _main(main.read_text())),
            ),
            options=tuple(options),
            vpi=True,
            libraries=(f"-Wl,-rpath,{libraries}", f"-L{libraries}", "-lcocotbvpi_verilator"),
        )
    )


def build_icarus(
    top: str, verilog: Sequence[Path], folder: Path, *, options: Sequence[str]
) -> Path:
    """The executable of a bench in Icarus Verilog, four-state, made in an empty ``folder``.

    Raises:
        ToolError: Icarus refused the files.
    """
    import cocotb_tools.config as cocotb_config

    libraries = Path(cocotb_config.libs_dir)
    # Icarus 11 finds modules by this suffix only.
    (folder / "bench.vpi").symlink_to(libraries / "libcocotbvpi_icarus.so")
    (folder / "timescale").write_text("+timescale+1ns/1ps\n")
    program = folder / "program.vvp"
    command = ["iverilog", *options, "-c", "timescale", "-s", top, "-o", program.name]
    run_tool([*command, *map(str, verilog)], cwd=folder, what="Icarus Verilog")
    executable = folder / "simulation"
    # Icarus applies a write of cocotb's at once, which would race with the clock's edge: cocotb
    # itself has to hold it back.
    lines = [
        "#!/bin/sh",
        "unset COCOTB_TRUST_INERTIAL_WRITES",
        f"export LD_LIBRARY_PATH={shlex.quote(str(libraries))}",
        f"exec vvp -M {shlex.quote(str(folder))} -m bench {shlex.quote(str(program))}",
    ]
    executable.write_text("\n".join([*lines, ""]))
    executable.chmod(0o755)
    return executable


def read_job() -> Any:
    """The job of :func:`run_cocotb`, within the simulation."""
    return pickle.loads((Path(os.environ[FOLDER_VARIABLE]) / "job").read_bytes())


def write_report(report: dict[str, Any]) -> None:
    """What :func:`run_cocotb` returns, from within the simulation."""
    (Path(os.environ[FOLDER_VARIABLE]) / "report").write_text(json.dumps(report))


def run_cocotb(
    executable: Path, *, top: str, module: str, job: object, seed: int, timeout: float
) -> dict[str, Any]:
    """Run the only cocotb test of a module; it takes ``job`` and leaves a report.

    Raises:
        SimulationError: the simulation did not run to its end, or the test failed.
    """
    import find_libpython
    from cocotb_tools.check_results import get_results
    from cocotb_tools.config import pygpi_entry_point

    with tempfile.TemporaryDirectory(prefix="hwgen-cocotb-") as name:
        folder = Path(name)
        (folder / "job").write_bytes(pickle.dumps(job))
        results = folder / "results.xml"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYGPI_PYTHON_BIN": sys.executable,
            "GPI_USERS": f"{find_libpython.find_libpython()};{pygpi_entry_point()}",
            "COCOTB_TOPLEVEL": top,
            "COCOTB_TEST_MODULES": module,
            "TOPLEVEL_LANG": "verilog",
            "COCOTB_TRUST_INERTIAL_WRITES": "1",
            "COCOTB_RESULTS_FILE": str(results),
            "COCOTB_RANDOM_SEED": str(seed),
            "COCOTB_LOG_LEVEL": "WARNING",
            FOLDER_VARIABLE: str(folder),
        }
        command = [str(executable), "+verilator+rand+reset+2", f"+verilator+seed+{seed}"]
        with (folder / "log").open("w") as log:
            try:
                with started(
                    command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
                ) as process:
                    status = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise SimulationError(
                    f"The bench must end in {timeout:.0f} s, and did not (seed {seed})"
                ) from error
        text = (folder / "log").read_text(errors="replace")
        tail = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[-30:])
        if not results.is_file() or not (folder / "report").is_file():
            raise SimulationError(f"The bench ended with status {status} (seed {seed}):\n{tail}")
        tests, failed = get_results(results)
        if tests != 1 or failed:
            raise SimulationError(f"{failed} of {tests} cocotb tests failed (seed {seed}):\n{tail}")
        report: dict[str, Any] = json.loads((folder / "report").read_text())
        return report
