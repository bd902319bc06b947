# SPDX-License-Identifier: Apache-2.0
"""Coverage bins of the bench: which stalls, errors and resets must have been seen.

A stall bin is hit in a cycle in which the channel stands still while at least :data:`CROWD` bursts
are outstanding at the port: AR, AW, W: the master's offer is refused; R, B: the memory holds back a
beat that it owes. Error bins: a beat with that response, under the same condition. Reset bins: the
phase of the frame in the cycle in which the reset takes effect.
"""

from __future__ import annotations

#: Outstanding bursts at the moment of a stall or an error response.
CROWD = 4

POSITIONS = ("first", "middle", "last")
#: Kinds of transactions of the read and of the write channels that the requirement names.
READERS = ("weights", "fetch")
WRITERS = ("store",)
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


def stall(channel: str, kind: str, position: str = "") -> str:
    """Name of a stall bin."""
    return " ".join(filter(None, ("stall", channel, kind, position)))


def error(channel: str, kind: str, response: str, position: str = "") -> str:
    """Name of an error bin."""
    return " ".join(filter(None, ("error", channel, kind, position, response)))


def reset(kind: str, phase: str) -> str:
    """Name of a reset bin."""
    return f"{kind} reset, {phase}"


def required() -> list[str]:
    """All bins that a run must hit."""
    names = [stall("AR", kind) for kind in READERS]
    names += [stall("R", kind, position) for kind in READERS for position in POSITIONS]
    names += [stall(channel, kind) for channel in ("AW", "B") for kind in WRITERS]
    names += [stall("W", kind, position) for kind in WRITERS for position in POSITIONS]
    for response in RESPONSES:
        names += [error("R", k, response, p) for k in READERS for p in POSITIONS]
        names += [error("B", kind, response) for kind in WRITERS]
    names += [reset(kind, phase) for kind in RESETS for phase in PHASES]
    return names
