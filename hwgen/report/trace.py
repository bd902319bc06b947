# SPDX-License-Identifier: Apache-2.0
"""A trace of one frame for Perfetto: when each engine completed each instruction.

The format is the Trace Event Format (JSON, complete events ``X``), one track per engine. The
hardware tells completions only: an instruction's bar reaches from the completion before it of the
same engine to its own, so waiting is part of the bar of the instruction that waited.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwgen.errors import ConfigError
from hwgen.files import reason, replace_file
from hwgen.isa.instructions import BY_NAME, Engine
from hwgen.outputs import State

_BEGINNING = b'{"traceEvents":'


def trace_events(
    completions: Mapping[Engine, Iterable[int]],
    labels: Sequence[tuple[str, str]],
    clock_mhz: float,
) -> dict[str, Any]:
    """The trace as plain values.

    Args:
        completions: cycle of every completion since START, by engine.
        labels: opcode and operation of every instruction, in program order.
        clock_mhz: turns cycles into microseconds.
    """
    events: list[dict[str, Any]] = []
    for engine in Engine:
        names = [(code, op) for code, op in labels if BY_NAME[code].engine == engine]
        thread = {"pid": 1, "tid": int(engine)}
        events.append({**thread, "ph": "M", "name": "thread_name", "args": {"name": engine.name}})
        before = 0
        for index, cycle in enumerate(completions.get(engine, ())):
            code, op = names[index] if index < len(names) else (engine.name, "")
            events.append(
                {
                    **thread,
                    "ph": "X",
                    "name": op or code,
                    "cat": code,
                    "ts": before / clock_mhz,
                    "dur": (int(cycle) - before) / clock_mhz,
                    "args": {"instruction": index, "opcode": code, "completed_cycle": int(cycle)},
                }
            )
            before = int(cycle)
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def recognise_trace(path: Path) -> State:
    """What a file is: nobody edits a trace, so its beginning is enough."""
    with path.open("rb") as stream:
        return State.OWN if stream.read(len(_BEGINNING)) == _BEGINNING else State.FOREIGN


def write_trace(
    path: Path,
    completions: Mapping[Engine, Iterable[int]],
    labels: Sequence[tuple[str, str]],
    clock_mhz: float,
) -> None:
    """Write the trace as a file.

    Raises:
        ConfigError: it cannot be written.
    """
    text = json.dumps(trace_events(completions, labels, clock_mhz), separators=(",", ":"))
    try:
        replace_file(path, lambda stream: stream.write(f"{text}\n".encode()))
    except OSError as error:
        raise ConfigError(f"Trace must be writable: {reason(error)}", where=str(path)) from error
