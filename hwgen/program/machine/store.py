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
from hwgen.timings import READ_LATENCY

#: A word's last beat -> the next one's read is granted.
STORE_TURN = 1
#: Last beat -> its burst is offered; beyond the memory's latency: burst on the bus, ``done``.
STORE_BURST = 3
STORE_RESPONSE = 2


def word_cycles(config: AcceleratorConfig) -> int:
    """From a word to the next: read, then handed over beat by beat."""
    return READ_LATENCY + config.rows // BEAT_BYTES + STORE_TURN


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
    per_word = max(word_cycles(model.config), model.config.rows / model.memory.bytes_per_cycle)
    for number, instruction in model.by_engine[Engine.STORE]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.STORE].append(taken)
        model.progress += 1
        last_beat = taken + int(instruction["words"] * per_word)
        time = last_beat + STORE_BURST + model.memory.latency + STORE_RESPONSE
        model.complete(Engine.STORE, taken, time)
