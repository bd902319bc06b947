# SPDX-License-Identifier: Apache-2.0
"""Killed at any moment: the same command then succeeds, with the same bytes, and nothing is left.

SIGKILL leaves a process no chance to clean up. A moment is either the n-th change of the file
system that the process makes (where something half-done would be seen), or a time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from hwgen.files import is_unfinished

#: The command line in a process that kills itself at its n-th change of the file system; 0: never,
#: and then it says how many there were. Verilog is none, or kept in a file: what takes most of the
#: time is the same in every run.
KILLED = """
import json, os, pathlib, signal, sys
at, verilog = int(sys.argv[1]), sys.argv[2]
del sys.argv[1:3]
sys.dont_write_bytecode = True
from hwgen.cli import main
import hwgen.rtl.accelerator, hwgen.emit.verilog, hwgen.stages.emit
kept = pathlib.Path(verilog)
texts = json.loads(kept.read_text()) if kept.is_file() else []
if verilog == "none" or texts:
    class NoHardware:
        def __init__(self, config):
            self.leaves = self.synthesis_leaves = dict
    hwgen.rtl.accelerator.Accelerator = NoHardware
    given = iter(texts)
    hwgen.emit.verilog.convert = lambda *_: next(given, "// left out\\n")
    hwgen.stages.emit._leaf_texts = lambda *_: next(given, "")
else:
    def keeping(make):
        return lambda *arguments: texts.append(make(*arguments)) or texts[-1]
    hwgen.emit.verilog.convert = keeping(hwgen.emit.verilog.convert)
    hwgen.stages.emit._leaf_texts = keeping(hwgen.stages.emit._leaf_texts)
changes = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym"}
count = 0
def watch(event, arguments):
    global count
    if event in changes or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
status = main()
print("changes", count, file=sys.stderr)
if verilog != "none":
    kept.write_text(json.dumps(texts))
sys.exit(status)
"""


class Place:
    """Everything that a command may leave something in.

    Its outputs, the system's place for temporary files and, if it has its own, the cache.
    """

    def __init__(self, folder: Path, *, own_cache: bool = False) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir(parents=True)
        (folder / "work").mkdir()
        self.cache = folder / "cache" if own_cache else None
        if self.cache is not None:
            self.environment["HWGEN_CACHE"] = str(self.cache)

    def start(self, *arguments: str, at: int = 0, verilog: bool = True) -> subprocess.Popen[str]:
        kind = str(self.folder / "verilog.json") if verilog else "none"
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(at), kind, *arguments],
            cwd=self.folder / "work",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, verilog: bool = True) -> int:
        """Run to the end; how many changes of the file system there were."""
        process = self.start(*arguments, verilog=verilog)
        _, err = process.communicate()
        assert process.returncode == 0, err
        return int(err.split("changes ")[-1])

    def kill_at(self, at: int, *arguments: str, verilog: bool = True) -> None:
        """Run until the process kills itself."""
        process = self.start(*arguments, at=at, verilog=verilog)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
        self.check_nothing_runs()

    def check_nothing_runs(self) -> None:
        """Compilers and simulations that a killed command had started end with it, and soon."""
        mark = f"TMPDIR={self.environment['TMPDIR']}\0".encode()
        deadline = time.monotonic() + 30
        while left := [*filter(lambda path: mark in _environment(path), Path("/proc").iterdir())]:
            assert time.monotonic() < deadline, [(path / "cmdline").read_bytes() for path in left]
            time.sleep(0.05)

    def content(self) -> dict[str, bytes]:
        """All outputs; of a simulation not the time that it took."""
        found = {}
        for path in sorted((self.folder / "work").rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                if path.name == "simulation.json":
                    values = json.loads(data)
                    del values["wall_seconds"], values["sha256"]
                    data = json.dumps(values).encode()
                found[str(path.relative_to(self.folder))] = data
        return found

    def check_nothing_is_left(self) -> None:
        assert not list((self.folder / "tmp").iterdir())
        left = [path for path in self.folder.rglob("*") if is_unfinished(path.name)]
        assert not left
        if self.cache is not None:
            names = {path.suffix for path in self.cache.glob("*/*")}
            assert names <= {"", ".lock"}


def _environment(process: Path) -> bytes:
    """Of a process that runs; a zombie has none."""
    try:
        return (process / "environ").read_bytes() + b"\0"
    except OSError:  # no process, another user's, or just ended
        return b""


GENERATE = ("generate", "g", "-o", "d")
SIMULATE = ("simulate", "d", "--images", "1")
RUN = ("run", "--images", "1", "-o", "d")


@pytest.fixture
def place(tmp_path: Path, graph: str) -> Place:
    """A graph ``g`` and an empty cache."""
    made = Place(tmp_path / "place", own_cache=True)
    shutil.copy(tmp_path / graph, made.folder / "work" / "g")
    return made


@pytest.mark.parametrize("older", [False, True])
def test_generate_killed(place: Place, older: bool) -> None:
    """In an empty place, and over the design that is there."""
    moments = place.run(*GENERATE, verilog=False)
    good = place.content()
    assert moments > 15
    # The last ones are where the folder comes into being.
    for at in (random.Random(older).randrange(1, moments), moments - 3):
        if not older:
            shutil.rmtree(place.folder / "work" / "d")
        place.kill_at(at, *GENERATE, verilog=False)
        place.run(*GENERATE, verilog=False)
        assert place.content() == good
        place.check_nothing_is_left()


@pytest.mark.verilator
def test_run_and_simulate_killed(tmp_path: Path) -> None:
    """With the user's cache, where the simulation is built already, or is from now on."""
    place = Place(tmp_path)
    place.run(*RUN)
    good = place.content()
    assert "work/d/accuracy.json" in good
    # Counted anew: the first may have built the simulation.
    moments = place.run(*RUN)
    rng = random.Random(1)
    place.kill_at(rng.randrange(moments // 2, moments), *RUN)
    place.run(*RUN)
    assert place.content() == good
    place.check_nothing_is_left()
    moments = place.run(*SIMULATE)
    place.kill_at(rng.randrange(1, moments), *SIMULATE)
    place.run(*SIMULATE)
    assert place.content() == good
    place.check_nothing_is_left()


@dataclass(frozen=True)
class Whole:
    """A command that nothing killed."""

    before: Path  #: copy of its working folder before it ran
    seconds: float
    content: dict[str, bytes]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, digits_graph: Path
) -> Callable[[tuple[str, ...], bool], Whole]:
    """Runs a command to its end, once: its time with a cache of its own is another."""

    @cache
    def run(command: tuple[str, ...], own_cache: bool) -> Whole:
        folder = tmp_path_factory.mktemp("whole")
        place = Place(folder / "place", own_cache=own_cache)
        shutil.copy(digits_graph, place.folder / "work" / "g")
        if command is SIMULATE:
            place.run(*GENERATE)
        before = Path(shutil.copytree(place.folder / "work", folder / "before"))
        started = time.monotonic()
        place.run(*command)
        return Whole(before, time.monotonic() - started, place.content())

    return run


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize("seed", range(40))
def test_killed_at_any_time(
    seed: int, tmp_path: Path, whole: Callable[[tuple[str, ...], bool], Whole]
) -> None:
    """By the clock; every fourth with a cache of its own, so that the build is killed, too."""
    rng = random.Random(seed)
    command = (GENERATE, SIMULATE, RUN)[seed % 3]
    good = whole(command, seed % 4 == 0)
    place = Place(tmp_path / "place", own_cache=seed % 4 == 0)
    shutil.copytree(good.before, place.folder / "work", dirs_exist_ok=True)
    process = place.start(*command)
    time.sleep(rng.uniform(0.1, 1) * good.seconds)
    process.kill()
    process.communicate()
    place.check_nothing_runs()
    place.run(*command)
    assert place.content() == good.content
    place.check_nothing_is_left()
