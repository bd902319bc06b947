# SPDX-License-Identifier: Apache-2.0
"""The engines without their hardware, a module each: behaviour, named timings, timeline.

``accesses`` says what words an instruction reads and writes, from its fields; hazards follow from
it (:mod:`hwgen.program.hazards`). ``execute`` is the behaviour, a generator: it yields the
condition of its next event and then does it (:mod:`hwgen.program.interpreter`). ``timeline``
computes when instructions are taken and done, pass by pass and tile by tile, as far as what it
waits for has its times (:mod:`hwgen.program.cycle_model`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import Engine, Instruction
from hwgen.program.hazards import Access, Fields
from hwgen.program.machine import drain, layernorm, load, matmul, softmax, stationary, store
from hwgen.program.machine.state import Machine, Step
from hwgen.program.machine.timeline import Process, Timeline

ACCESSES: Mapping[Engine, Callable[[AcceleratorConfig, str, Fields], tuple[Access, ...]]] = {
    Engine.LOAD: load.accesses,
    Engine.STATIONARY: stationary.accesses,
    Engine.MATMUL: matmul.accesses,
    Engine.DRAIN: drain.accesses,
    Engine.SOFTMAX: softmax.accesses,
    Engine.LAYERNORM: layernorm.accesses,
    Engine.STORE: store.accesses,
}
EXECUTE: Mapping[Engine, Callable[[Machine, Instruction], Step]] = {
    Engine.LOAD: load.execute,
    Engine.STATIONARY: stationary.execute,
    Engine.MATMUL: matmul.execute,
    Engine.DRAIN: drain.execute,
    Engine.SOFTMAX: softmax.execute,
    Engine.LAYERNORM: layernorm.execute,
    Engine.STORE: store.execute,
}
TIMELINES: tuple[Callable[[Timeline], Process], ...] = (
    load.timeline,
    stationary.timeline,
    matmul.timeline,
    drain.timeline,
    softmax.timeline,
    layernorm.timeline,
    store.timeline,
)


def accesses_of(config: AcceleratorConfig, instruction: Instruction) -> tuple[Access, ...]:
    """What an instruction reads and writes; the sequencer's own nothing."""
    if instruction.engine is None:
        return ()
    return ACCESSES[instruction.engine](config, instruction.opcode, instruction.fields)
