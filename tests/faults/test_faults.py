# SPDX-License-Identifier: Apache-2.0
"""The list of faults fits the tree: every text to replace occurs exactly once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .inject import REPOSITORY, Failure, Fault, TestRun, judge, load_faults

FAULTS = load_faults()
#: Fewest faults in each module of hardware and of the compiler.
LEAST = 3
COMPILER = ("buffer_plan", "hazards", "packing", "schedule", "weight_planes")
FAULT = Fault(name="n", unit="u", file="a.py", old="x = 1", new="x = 2", test="a.py")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_applies(fault: Fault) -> None:
    assert fault.problem(REPOSITORY) is None


@pytest.mark.command
def test_every_fault_names_a_test() -> None:
    """A fault whose test is no longer there shows nothing."""
    files = sorted({fault.test.partition("::")[0] for fault in FAULTS})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *files], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    tests = {line for line in done.stdout.splitlines() if "::" in line}
    assert len(tests) > 500
    named = tests | {test.partition("[")[0] for test in tests} | set(files)
    assert {fault.test for fault in FAULTS} <= named


def test_names_are_unique_and_units_have_three() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    few = [unit for unit, count in Counter(f.unit for f in FAULTS).items() if count < LEAST]
    assert not few


def test_every_module_has_three() -> None:
    hardware = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "hwgen" / "rtl").rglob("*.py")
        # What describes logic: Amaranth's or, of a leaf, Verilog's.
        if any(word in path.read_text() for word in ("def elaborate", "endmodule", "m.d.sync"))
    }
    assert len(hardware) > 15
    modules = hardware | {f"hwgen/program/{name}.py" for name in COMPILER}
    counts = Counter(fault.file for fault in FAULTS)
    few = {module: counts[module] for module in sorted(modules) if counts[module] < LEAST}
    assert not few
    assert sum(count for file, count in counts.items() if "/program/lower/" in file) >= 2 * LEAST


def test_text_that_does_not_occur_once_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    assert FAULT.problem(tmp_path) == "old text occurs 2 times in a.py"
    assert Fault(name="n", unit="u", file="b.py", old="", new="", test="").problem(tmp_path)


TEST = ("/x/tests/rtl/test_a.py", "test_a")


@pytest.mark.parametrize(
    ("types", "way", "outcome"),
    [
        (("AssertionError", "Exception"), (TEST,), "caught"),
        (("Failed", "Exception"), (TEST,), "caught"),
        (("MismatchError", "HwgenError"), (TEST, ("/x/sim/compare.py", "compare")), "caught"),
        (("SimulationError", "HwgenError"), (TEST, ("/x/sim/unit_bench.py", "run_unit")), "caught"),
        (("HangError", "Exception"), (TEST, ("/x/sim/unit_bench.py", "run_unit")), "caught"),
        # A description that is none, hardware that does not build, a compiler that hangs.
        (("TypeError", "Exception"), (TEST,), "broken"),
        (("ImportError", "Exception"), (("/x/tests/rtl/test_a.py", "<module>"),), "broken"),
        (("ToolError", "HwgenError"), (TEST, ("/x/sim/verilator.py", "build")), "broken"),
        (("AssertionError", "Exception"), (TEST, ("/x/hwgen/rtl/load.py", "elaborate")), "broken"),
        (("AssertionError",), (TEST, ("/y/amaranth/hdl/_ir.py", "add_driver")), "broken"),
        (("HangError", "Exception"), (TEST, ("/x/sim/verilator.py", "build")), "broken"),
        (("SimulationError",), (TEST, ("/x/sim/unit_bench.py", "pack_words")), "broken"),
    ],
)
def test_what_counts(
    types: tuple[str, ...], way: tuple[tuple[str, str], ...], outcome: str
) -> None:
    failure = Failure(test="test_a.py::test_a", types=types, message="m", way=way)
    result = judge(FAULT, TestRun(failures=(failure,)))
    assert (result.outcome, result.failed) == (outcome, ("test_a.py::test_a",))
    assert types[0] in result.why


def test_a_test_that_passes_catches_nothing() -> None:
    assert judge(FAULT, TestRun(passed=1)).outcome == "NOT caught"
    assert judge(FAULT, TestRun(output="no end")).outcome == "broken"
