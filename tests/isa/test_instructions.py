# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    BODY_OFFSET,
    BY_CODE,
    BY_NAME,
    INSTRUCTION_BITS,
    INSTRUCTION_BYTES,
    OPCODE_BITS,
    OPCODES,
    WAIT_BITS,
    Engine,
    Instruction,
    decode,
    encode,
    field_offsets,
)


def fields_of(opcode: str, rng: np.random.Generator | None = None, top: bool = False):
    out = {}
    for field in BY_NAME[opcode].fields:
        if rng is None:
            out[field.name] = field.maximum if top else field.minimum
        else:
            out[field.name] = int(rng.integers(field.minimum, field.maximum + 1))
    return out


@pytest.mark.parametrize("opcode", [o.name for o in OPCODES])
def test_encode_decode_round_trip(opcode: str) -> None:
    rng = np.random.default_rng(0)
    cases = [
        Instruction(opcode, fields_of(opcode)),
        Instruction(opcode, fields_of(opcode, top=True), (0xFFFF,) * len(Engine)),
    ]
    for _ in range(50):
        waits = tuple(int(w) for w in rng.integers(0, 1 << WAIT_BITS, len(Engine)))
        cases.append(Instruction(opcode, fields_of(opcode, rng), waits))
    for case in cases:
        data = encode(case)
        assert len(data) == INSTRUCTION_BYTES
        assert decode(data) == case


@pytest.mark.parametrize("opcode", [o.name for o in OPCODES])
def test_fields_do_not_overlap(opcode: str) -> None:
    """Each field alone sets bits of its own place only."""
    zero = {field.name: 0 for field in BY_NAME[opcode].fields}
    offsets = field_offsets(BY_NAME[opcode])
    base = int.from_bytes(encode(Instruction(opcode, zero)), "little")
    used = (1 << BODY_OFFSET) - 1
    for field in BY_NAME[opcode].fields:
        value = -1 if field.signed else field.maximum
        word = int.from_bytes(encode(Instruction(opcode, zero | {field.name: value})), "little")
        mask = ((1 << field.bits) - 1) << offsets[field.name]
        assert word ^ base == mask
        assert not used & mask
        used |= mask
    assert used < 1 << INSTRUCTION_BITS


def test_waits_stand_behind_the_opcode() -> None:
    for engine in Engine:
        waits = tuple(0xABCD if e == engine else 0 for e in Engine)
        word = int.from_bytes(encode(Instruction("END", {}, waits)), "little")
        assert word >> OPCODE_BITS == 0xABCD << (WAIT_BITS * engine)


def test_opcodes_are_unique_and_fit() -> None:
    assert len(BY_CODE) == len(BY_NAME) == len(OPCODES)
    assert all(0 < code < 1 << OPCODE_BITS for code in BY_CODE)
    assert {o.engine for o in OPCODES} == {None, *Engine}


def test_errors() -> None:
    with pytest.raises(ProgramError, match="Opcode must be one of"):
        Instruction("JUMP", {})
    with pytest.raises(ProgramError, match=r"Opcode must be one of .*, not 0"):
        decode(bytes(INSTRUCTION_BYTES))
    with pytest.raises(ProgramError, match="An instruction must be 32 bytes, not 31"):
        decode(bytes(31))
    with pytest.raises(ProgramError, match="LOAD_TABLE must have fields"):
        Instruction("LOAD_TABLE", {"address": 0})
    with pytest.raises(ProgramError, match=r"LOAD_TABLE\.slot must be in 0\.\.1, not 2"):
        Instruction("LOAD_TABLE", {"address": 0, "slot": 2})
    with pytest.raises(ProgramError, match=r"DRAIN\.low must be in -128\.\.127, not -129"):
        Instruction("DRAIN", fields_of("DRAIN") | {"low": -129})
    with pytest.raises(ProgramError, match="wait thresholds must be 7 values"):
        Instruction("END", {}, (0,) * 6)
    with pytest.raises(ProgramError, match="wait thresholds must be 7 values"):
        Instruction("END", {}, (1 << WAIT_BITS, *(0,) * 6))
