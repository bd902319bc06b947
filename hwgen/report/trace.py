# SPDX-License-Identifier: Apache-2.0
"""A trace of one frame for Perfetto: when each engine worked on each instruction.

The format is the Trace Event Format (JSON, complete events ``X``). Every engine has two tracks, one
below the other: what was simulated, and what the cycle model predicts for the same program and
memory. Both count cycles from START.

A bar ends when the instruction is completed, in the sense of docs/design.md. It begins when the
engine took it; where that was before the instruction in front of it was completed (LOAD and
STATIONARY work ahead), it begins when that one was. ``args`` have both cycles of every instruction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwgen.errors import ConfigError
from hwgen.files import reason, replace_file
from hwgen.isa.instructions import BY_NAME, Engine
from hwgen.outputs import State

_BEGINNING = b'{"traceEvents":'

#: Per engine and instruction, in order: the cycles in which it was taken and completed.
Schedule = Mapping[Engine, Sequence[tuple[int, int]]]


def trace_events(
    simulated: Schedule,
    predicted: Schedule,
    labels: Sequence[tuple[str, str]],
    clock_mhz: float,
) -> dict[str, Any]:
    """The trace as plain values.

    Args:
        simulated: what was seen.
        predicted: what the cycle model says; without entries there is no such track.
        labels: opcode and operation of every instruction, in program order.
        clock_mhz: turns cycles into microseconds.
    """
    events: list[dict[str, Any]] = []
    schedules = [("", simulated), *([(" predicted", predicted)] if predicted else [])]
    for engine in Engine:
        names = [(code, op) for code, op in labels if BY_NAME[code].engine == engine]
        for track, (title, schedule) in enumerate(schedules):
            number = 2 * int(engine) + track
            thread = {"pid": 1, "tid": number}
            for key, value in (
                ("thread_name", {"name": engine.name + title}),
                ("thread_sort_index", {"sort_index": number}),
            ):
                events.append({**thread, "ph": "M", "name": key, "args": value})
            events += _bars(schedule.get(engine, ()), names, engine, thread, clock_mhz)
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _bars(
    spans: Sequence[tuple[int, int]],
    names: Sequence[tuple[str, str]],
    engine: Engine,
    thread: Mapping[str, int],
    clock_mhz: float,
) -> list[dict[str, Any]]:
    """One engine's instructions, none over another: Perfetto drops what overlaps on a track."""
    bars = []
    before = 0
    for index, (taken, completed) in enumerate(spans):
        code, op = names[index] if index < len(names) else (engine.name, "")
        start = max(int(taken), before)
        bars.append(
            {
                **thread,
                "ph": "X",
                "name": op or code,
                "cat": code,
                "ts": start / clock_mhz,
                "dur": (int(completed) - start) / clock_mhz,
                "args": {
                    "instruction": index,
                    "opcode": code,
                    "taken_cycle": int(taken),
                    "completed_cycle": int(completed),
                },
            }
        )
        before = int(completed)
    return bars


def recognise_trace(path: Path) -> State:
    """What a file is: nobody edits a trace, so its beginning is enough."""
    with path.open("rb") as stream:
        return State.OWN if stream.read(len(_BEGINNING)) == _BEGINNING else State.FOREIGN


def write_trace(
    path: Path,
    simulated: Schedule,
    predicted: Schedule,
    labels: Sequence[tuple[str, str]],
    clock_mhz: float,
) -> None:
    """Write the trace as a file.

    Raises:
        ConfigError: it cannot be written.
    """
    values = trace_events(simulated, predicted, labels, clock_mhz)
    text = json.dumps(values, separators=(",", ":"))
    try:
        replace_file(path, lambda stream: stream.write(f"{text}\n".encode()))
    except OSError as error:
        raise ConfigError(f"Trace must be writable: {reason(error)}", where=str(path)) from error
