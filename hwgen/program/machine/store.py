# SPDX-License-Identifier: Apache-2.0
"""STORE: words to external memory."""

from __future__ import annotations

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    BEAT_BYTES,
    Engine,
    Instruction,
)
from hwgen.program.hazards import Access, Fields, words
from hwgen.program.machine.state import Machine, Step
from hwgen.program.machine.timeline import HANDOVER, Process, Timeline

#: STORE: read latency and turn-round of a word; last beat -> response beyond the memory's latency.
STORE_WORD = 7
STORE_RESPONSE = 5


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    yield lambda: True
    data, valid = machine.read(i["source"], i["stride"], i["words"], 1)
    start = i["address"] * BEAT_BYTES
    size = i["words"] * machine.config.rows
    if start + size > len(machine.output):
        raise machine.fail(
            f"External write must end within {len(machine.output)} bytes, not at {start + size}", i
        )
    # Padding behind the last class was never written; the host does not look at it.
    place = start % (len(machine.output) // machine.program.frames)
    used = max(0, min(size, 2 * machine.program.classes - place))
    if not valid.reshape(-1)[:used].all():
        raise machine.fail("Words must be written before they are stored", i)
    machine.output[start : start + size] = data.reshape(-1)
    yield lambda: True


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction reads."""
    del config, opcode
    stored = words(
        fields,
        "source",
        stride=fields["stride"],
        slices=fields["words"],
        tokens=1,
        write=False,
    )
    return (stored,)


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    time = 0
    beats = model.config.rows // BEAT_BYTES
    for number, instruction in model.by_engine[Engine.STORE]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.STORE].append(taken)
        model.progress += 1
        words = instruction["words"]
        per_word = max(STORE_WORD, beats + 1, beats * BEAT_BYTES / model.memory.bytes_per_cycle)
        time = taken + int(words * per_word) + model.memory.latency + STORE_RESPONSE
        model.complete(Engine.STORE, taken, time)
