# SPDX-License-Identifier: Apache-2.0
"""Bars of the trace: where they begin and end, simulated beside predicted."""

from __future__ import annotations

from pathlib import Path

from hwgen.isa.instructions import Engine
from hwgen.outputs import State
from hwgen.report.trace import recognise_trace, trace_events, write_trace

LABELS = [("LOAD_TILES", "embedding"), ("MATMUL", "embedding"), ("LOAD_TABLE", "gelu")]
SIMULATED = {Engine.LOAD: [(10, 40), (20, 70)], Engine.MATMUL: [(45, 60)]}
PREDICTED = {Engine.LOAD: [(10, 41), (50, 71)], Engine.MATMUL: [(44, 61)]}


def bars(predicted: dict[Engine, list[tuple[int, int]]]) -> dict[str, list[tuple[str, int, int]]]:
    """Name, first and last cycle of every bar by the name of its track, in the tracks' order."""
    events = trace_events(SIMULATED, predicted, LABELS, 2.0)["traceEvents"]
    order = {e["tid"]: e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert order.keys() == names.keys()
    return {
        names[tid]: [
            (e["name"], round(2 * e["ts"]), round(2 * (e["ts"] + e["dur"])))
            for e in events
            if e["ph"] == "X" and e["tid"] == tid
        ]
        for tid in sorted(names, key=order.__getitem__)
    }


def test_bars_begin_when_taken_and_none_lies_over_another() -> None:
    found = bars(PREDICTED)
    # LOAD took its second instruction while it worked on the first.
    assert found["LOAD"] == [("embedding", 10, 40), ("gelu", 40, 70)]
    assert found["LOAD predicted"] == [("embedding", 10, 41), ("gelu", 50, 71)]
    assert found["MATMUL"] == [("embedding", 45, 60)]
    assert found["MATMUL predicted"] == [("embedding", 44, 61)]
    events = trace_events(SIMULATED, PREDICTED, LABELS, 2.0)["traceEvents"]
    second = next(e for e in events if e["ph"] == "X" and e["name"] == "gelu")
    assert second["cat"] == "LOAD_TABLE"
    assert (second["args"]["taken_cycle"], second["args"]["completed_cycle"]) == (20, 70)


def test_predicted_lies_below_simulated() -> None:
    names = [name + kind for name in Engine.__members__ for kind in ("", " predicted")]
    assert list(bars(PREDICTED)) == names
    assert list(bars({})) == list(Engine.__members__)  # a program that cannot be predicted


def test_a_trace_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace(path, SIMULATED, PREDICTED, LABELS, 300)
    assert recognise_trace(path) is State.OWN
    first = path.read_bytes()
    write_trace(path, SIMULATED, PREDICTED, LABELS, 300)
    assert path.read_bytes() == first
    path.write_text('{"traceEvent": []}')
    assert recognise_trace(path) is State.FOREIGN
