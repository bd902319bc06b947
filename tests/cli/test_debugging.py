# SPDX-License-Identifier: Apache-2.0
"""docs/debugging.md, followed: its commands, what they print, and what its tables say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "debugging.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.verilator


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def without_figures(text: str) -> str:
    """Cycles and counts are those of a version."""
    return re.sub(r"[0-9][0-9,]*", "N", text)


def values_at(wave: Path, cycle: int, names: Iterable[str]) -> dict[str, int]:
    """Signals below the top level in a cycle, before its rising clock edge; two's complement."""
    wanted, scope = set(names), [""]
    codes: dict[str, tuple[list[str], int]] = {}
    bits: dict[str, str] = {}
    with wave.open() as stream:
        for line in stream:
            words = line.split()
            if line.startswith("#") and int(line[1:]) > 10 * cycle:
                break
            if words[:1] == ["$scope"]:
                scope.append(words[2])
            elif words[:1] == ["$upscope"]:
                scope.pop()
            elif words[:1] == ["$var"]:
                name = ".".join([*scope[3:], words[4]])
                if name in wanted:
                    codes.setdefault(words[3], ([], int(words[2])))[0].append(name)
            elif len(words) == 2 and words[0][0] == "b" and words[1] in codes:
                bits[words[1]] = words[0][1:]
    found = {}
    for code, (known_as, width) in codes.items():
        value = int(bits[code], 2)
        for name in known_as:
            found[name] = value - (value >> (width - 1) << width)
    return found


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The page's commands, as a shell runs them: the folder, and what the last one said."""
    place = tmp_path_factory.mktemp("debugging")
    (place / "bin").mkdir()
    command = place / "bin" / "hwgen"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hwgen "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    (commands,) = blocks("sh")
    *before, last = commands.splitlines()
    for line in before:
        subprocess.run(["sh", "-c", line], cwd=place, env=environment, check=True)
    done = subprocess.run(
        ["sh", "-c", f"{last} --json"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (place / "answer.json").write_text(done.stdout)
    return place, done.stderr


def test_the_message_is_the_pages(followed: tuple[Path, str]) -> None:
    said = without_figures(followed[1])
    for line in blocks("text")[0].splitlines():
        assert without_figures(line) in said
    answer = json.loads((followed[0] / "answer.json").read_text())
    assert (answer["dump"], answer["wave"]) == ("tensors", "mismatch.vcd")
    assert answer["trace"] == "rtl_out/digits/trace.json"
    difference = answer["first_difference"]
    cycle, (first, last) = difference["cycle"], answer["wave_cycles"]
    assert answer["wave_image"] == difference["image"] == 0
    assert (first, last) == (max(0, cycle - 512), cycle + 64)
    assert not (followed[0] / "rtl_out" / "digits" / "simulation.json").exists()


def test_the_dump_says_how_it_spreads(followed: tuple[Path, str]) -> None:
    (script,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=followed[0], capture_output=True, text=True, check=True
    )
    expected = blocks("text")[1].splitlines()
    lines = done.stdout.splitlines()
    assert len(lines) > len(expected)
    counts = re.compile(r"(?<=^embedding )[0-9]+")
    for line, found in zip(expected, lines, strict=False):
        assert counts.sub("N", found) == counts.sub("N", line)


def test_the_trace_names_the_instruction(followed: tuple[Path, str]) -> None:
    difference = json.loads((followed[0] / "answer.json").read_text())["first_difference"]
    path = followed[0] / "rtl_out" / "digits" / "trace.json"
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    covering = [
        event["name"]
        for event in events
        if event["ph"] == "X"
        and event["tid"] == tracks["DRAIN"]
        and event["ts"] * 300 <= difference["cycle"] <= (event["ts"] + event["dur"]) * 300
    ]
    assert covering == ["embedding"] == [difference["op"]]


def test_the_waveform_shows_the_cause(followed: tuple[Path, str]) -> None:
    """The page's table: the write, and backwards from it to the last value that is right."""
    difference = json.loads((followed[0] / "answer.json").read_text())["first_difference"]
    cycle, lane = difference["cycle"], difference["lane"]
    wave = followed[0] / "mismatch.vcd"
    banks = [f"memory.bank{number}.bank_write_" for number in range(7)]
    write = values_at(wave, cycle, [f"{bank}{part}" for bank in banks for part in ("en", "data")])
    written = [
        (write[f"{bank}data"] >> 16 * lane & 0xFFFF) - (0x10000 if difference["got"] < 0 else 0)
        for bank in banks
        if write[f"{bank}en"]
    ]
    assert difference["got"] in written
    unit = f"drain_engine.requantise_{lane}."
    assert values_at(wave, cycle - 5, [f"{unit}code"]) == {f"{unit}code": difference["got"]}
    assert values_at(wave, cycle - 6, [f"{unit}summed"]) == {f"{unit}summed": difference["got"]}
    operands = values_at(wave, cycle - 7, [f"{unit}narrow", f"{unit}addend"])
    narrow, addend = operands[f"{unit}narrow"], operands[f"{unit}addend"]
    assert ((narrow + 1) >> 1) + addend == difference["expected"]
    assert (narrow >> 1) + addend == difference["got"]
    figures = [f"{narrow}, {addend}", str(difference["got"]), f"is {(narrow + 1) >> 1},"]
    assert all(figure in PAGE for figure in figures)
