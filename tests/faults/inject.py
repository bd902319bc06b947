# SPDX-License-Identifier: Apache-2.0
"""Puts faults into a scratch copy of the tree and checks that the named tests fail.

A fault of ``*.toml`` beside this file: in ``file`` the text ``old``, which occurs exactly once,
becomes ``new``; then ``test`` must fail. The working tree is never touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
#: pytest's exit status when tests ran and failed.
_TESTS_FAILED = 1
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


def scratch_copy(folder: Path) -> Path:
    """A copy of the tree in which ``hwgen`` is found before the installed one."""
    root = folder / "tree"
    shutil.copytree(REPOSITORY, root, ignore=_IGNORED, symlinks=True)
    for name in ("sim", "boards"):  # they travel under the package's name
        if not (root / "hwgen" / name).exists():
            (root / "hwgen" / name).symlink_to(Path("..") / name)
    return root


def run_test(root: Path, test: str, timeout: float) -> tuple[int, str]:
    """Status and output of a test in a tree; a hang is status -1."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, 9)  # the session that this process started
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                return -1, "timed out"
            raise
    return process.returncode, output


def try_fault(fault: Fault, root: Path, timeout: float) -> str:
    """``caught``, ``NOT caught`` or why the fault could not be tried."""
    problem = fault.problem(root)
    if problem:
        return f"broken: {problem}"
    path = root / fault.file
    original = path.read_text()
    path.write_text(original.replace(fault.old, fault.new))
    try:
        status, output = run_test(root, fault.test, timeout)
    finally:
        path.write_text(original)
    if status == 0:
        return "NOT caught"
    if status == -1:
        return "caught"  # the design hangs
    if status != _TESTS_FAILED or "SyntaxError" in output or "NameError" in output:
        return f"broken: pytest ended with {status}: {output[-400:]}"
    return "caught"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--unit", action="append", help="only faults of this unit (repeatable)")
    parser.add_argument("--name", action="append", help="only this fault (repeatable)")
    parser.add_argument("--list", action="store_true", help="list the faults and stop")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--timeout", type=float, default=900, help="seconds per test")
    options = parser.parse_args()
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
    results = []
    with tempfile.TemporaryDirectory(prefix="hwgen-faults-") as folder:
        root = scratch_copy(Path(folder))
        # A test that fails without a fault catches nothing.
        sound = {}
        for test in dict.fromkeys(fault.test for fault in faults):
            sound[test] = run_test(root, test, options.timeout)[0] == 0
        for fault in faults:
            start = time.monotonic()
            outcome = "broken: the test fails without the fault"
            if sound[fault.test]:
                outcome = try_fault(fault, root, options.timeout)
            seconds = round(time.monotonic() - start, 1)
            results.append({"name": fault.name, "unit": fault.unit, "outcome": outcome})
            print(f"{outcome:12} {seconds:6} s  {fault.name}", file=sys.stderr, flush=True)
    survivors = [result["name"] for result in results if result["outcome"] != "caught"]
    if options.json:
        print(json.dumps({"faults": results, "survivors": survivors}))
    else:
        print(f"{len(results) - len(survivors)} of {len(results)} faults caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
