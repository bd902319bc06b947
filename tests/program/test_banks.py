# SPDX-License-Identifier: Apache-2.0
"""The paths to the banks: programs use all of them, and what would use another is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hwgen.columns import dense
from hwgen.config import BANK_ROLES, AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.banks import BANK_PATHS, READERS, WRITERS, banks_of
from hwgen.isa.instructions import BY_NAME, OFFSET_BITS, Engine, Instruction, encode
from hwgen.program import lower as lowering
from hwgen.program.buffer_plan import plan_buffers, preset_config
from hwgen.program.interpreter import run_program
from hwgen.program.lower import lower
from hwgen.program.machine import accesses_of
from hwgen.program.program import Program

from .graphs import random_graph, random_image, spec


def example(**shape: object) -> Program:
    graph = random_graph(spec(depth=1, **shape), 2)
    return lower(graph, preset_config(graph, rows=16, groups=dense(16)))


def test_programs_use_every_path_and_no_other() -> None:
    used = set()
    for program in (example(), example(pooling="mean")):
        for instruction in program.instructions:
            for access in accesses_of(program.config, instruction):
                if access.field:
                    assert instruction[access.field] >> OFFSET_BITS == access.bank
                    used.add((instruction.engine, access.write, access.bank))
    paths = {
        (engine, write, bank)
        for clients, write in ((READERS, False), (WRITERS, True))
        for engine in clients
        for bank in banks_of(engine, write=write)
    }
    assert used == paths
    assert set(BANK_PATHS) == set(BANK_ROLES)


def test_every_word_address_is_looked_at() -> None:
    """Fields of an instruction that are words of the activation memory, by their width."""
    for opcode in BY_NAME.values():
        words = {f.name for f in opcode.fields if f.bits == OFFSET_BITS + 3 and f.name != "beats"}
        words -= {"weight_beats"}
        fields = dict.fromkeys((f.name for f in opcode.fields), 0) | {"source": 1, "mode": 2}
        given = {f.name: fields[f.name] for f in opcode.fields}
        accesses = accesses_of(AcceleratorConfig(), Instruction(opcode.name, given))
        assert {access.field for access in accesses} - {""} == words


def test_packed_weights_have_no_word() -> None:
    fields = dict.fromkeys((f.name for f in BY_NAME["STATIONARY"].fields), 0)
    assert accesses_of(AcceleratorConfig(), Instruction("STATIONARY", fields)) == ()


@pytest.mark.parametrize(
    ("opcode", "field", "bank", "said"),
    [
        ("MATMUL", "base", 3, "must be in bank 1 (normalised), 2 (query), 4 (scores0), 5"),
        ("STATIONARY", "base", 2, "must be in bank 1 (normalised), 3 (key_value), not 2"),
        ("DRAIN", "destination", 1, "DRAIN writes no other"),
        ("DRAIN", "destination", 2, "must be in bank 0 (residual), not 2 (DRAIN reads no other)"),
        ("SOFTMAX", "source", 7, "nearest legal value: 5"),
        ("LAYERNORM", "destination", 0, "LAYERNORM writes no other"),
        ("LOAD_WORDS", "destination", 1, "must be in bank 0 (residual), 6 (hidden), not 1"),
        ("STORE", "source", 6, "STORE reads no other"),
    ],
)
def test_the_interpreter_refuses_other_paths(opcode: str, field: str, bank: int, said: str) -> None:
    program = example()
    instructions = list(program.instructions)
    wanted = {"STATIONARY": ("source", 1), "DRAIN": ("mode", 2 if bank == 2 else 0)}.get(opcode)
    number = next(
        n
        for n, i in enumerate(instructions)
        if i.opcode == opcode and (wanted is None or i[wanted[0]] == wanted[1])
    )
    fields = {**instructions[number].fields, field: bank << OFFSET_BITS}
    instructions[number] = dataclasses.replace(instructions[number], fields=fields)
    code = encode(instructions[number], number)
    image = bytearray(program.image)
    image[len(code) * number : len(code) * (number + 1)] = code
    with pytest.raises(ProgramError) as caught:
        run_program(dataclasses.replace(program, image=bytes(image)), random_image(spec(depth=1)))
    assert str(caught.value).startswith(f"instruction {number}: {opcode}.{field} must be in bank")
    assert said in str(caught.value)


def test_the_compiler_refuses_other_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def misplaced(*args: Any, **options: Any) -> object:
        plan = plan_buffers(*args, **options)
        name = "blocks.0.norm1"
        place = dataclasses.replace(plan.places[name], role="residual", base=0)
        return dataclasses.replace(plan, places={**plan.places, name: place})

    monkeypatch.setattr(lowering, "plan_buffers", misplaced)
    with pytest.raises(ProgramError, match=r"norm1: LAYERNORM\.destination must be in bank 1"):
        example()
    assert banks_of(Engine.LAYERNORM, write=True) == (1,)
