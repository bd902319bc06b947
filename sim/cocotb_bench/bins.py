# SPDX-License-Identifier: Apache-2.0
"""Coverage bins of the bench: which stalls, errors and resets must have been seen.

A stall bin is hit in a cycle in which the channel stands still while at least :data:`CROWD` bursts
are outstanding at the port: AR, AW, W: the master's offer is refused; R, B: the memory holds back a
beat that it owes. Error bins: a beat with that response was taken; it was offered under the same
condition, or ("alone") in the only burst in flight at the port, or in a burst of a place that has a
name. Reset bins: the phase of the frame in the cycle in which the reset takes effect. AXI4-Lite
bins: AW, W, AR: the design refuses the host's offer; B, R: the host refuses the design's.
"""

from __future__ import annotations

#: Outstanding bursts at the moment of a stall or an error response.
CROWD = 4

POSITIONS = ("first", "middle", "last")
#: Kinds of transactions: of the read channels of port 0, of those of the other ports (which carry
#: nothing but their part of the weights), of the write channels.
READERS = ("weights", "fetch", "load")
FURTHER_READERS = ("weights",)
WRITERS = ("store",)
#: What loads read, one by one; the first fetch of a frame and its last store.
LOADS = ("image", "positions", "layernorm", "table")
FIRST_FETCH, LAST_STORE = "first fetch", "last store"
AXIL = ("AW", "W", "B", "AR", "R")
AXIL_REQUESTS, AXIL_RESPONSES = "axil requests at once", "axil responses at once"
#: A fetch of what lies beyond END.
OVERRUN = "fetch beyond END"
RESPONSES = {"SLVERR": 2, "DECERR": 3}
RESETS = ("soft", "hard")
PHASES = (
    "before start",
    "image load",
    "matmul",
    "drain",
    "softmax",
    "layernorm",
    "store",
    "waiting for END",
    "idle after",
)


def position_of(beat: int, length: int) -> str:
    """Position of a beat in a burst of ``length`` beats."""
    return "first" if beat == 0 else "last" if beat == length - 1 else "middle"


def _port(port: int) -> str:
    return f"port {port}" if port else ""


def stall(channel: str, kind: str, position: str = "", port: int = 0) -> str:
    """Name of a stall bin."""
    return " ".join(filter(None, ("stall", channel, kind, position, _port(port))))


def error(
    channel: str,
    kind: str,
    response: str,
    position: str = "",
    port: int = 0,
    *,
    alone: bool = False,
) -> str:
    """Name of an error bin; ``kind`` may be a place."""
    how = "alone" if alone else ""
    return " ".join(filter(None, ("error", channel, kind, position, response, how, _port(port))))


def axil_stall(channel: str) -> str:
    """Name of a stall bin of the register port."""
    return f"axil stall {channel}"


def reset(kind: str, phase: str) -> str:
    """Name of a reset bin."""
    return f"{kind} reset, {phase}"


def _required_reads(port: int) -> list[str]:
    kinds = FURTHER_READERS if port else READERS
    names = [stall("AR", kind, port=port) for kind in kinds]
    names += [stall("R", kind, position, port) for kind in kinds for position in POSITIONS]
    for response in RESPONSES:
        names += [error("R", k, response, p, port) for k in kinds for p in POSITIONS]
        names += [error("R", k, response, port=port, alone=True) for k in kinds]
    return names


def required(ports: int = 1) -> list[str]:
    """All bins that a run must hit: every one with one port, those of the reads with more."""
    if ports > 1:
        return [name for port in range(ports) for name in _required_reads(port)]
    names = _required_reads(0)
    names += [stall(channel, kind) for channel in ("AW", "B") for kind in WRITERS]
    names += [stall("W", kind, position) for kind in WRITERS for position in POSITIONS]
    for response in RESPONSES:
        names += [error("R", place, response) for place in (*LOADS, FIRST_FETCH)]
        names += [error("B", kind, response) for kind in (*WRITERS, LAST_STORE)]
        names += [error("B", kind, response, alone=True) for kind in WRITERS]
    names += [axil_stall(channel) for channel in AXIL]
    names += [AXIL_REQUESTS, AXIL_RESPONSES, OVERRUN]
    names += [reset(kind, phase) for kind in RESETS for phase in PHASES]
    return names
