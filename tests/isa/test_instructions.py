# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    BODY_OFFSET,
    BY_CODE,
    BY_NAME,
    CHECKED_BITS,
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
    with_check,
)


def fields_of(opcode: str, rng: np.random.Generator | None = None, top: bool = False):
    out = {}
    for field in BY_NAME[opcode].fields:
        if rng is None:
            out[field.name] = field.maximum if top else field.minimum
        else:
            bits = int.from_bytes(rng.bytes(8), "little") & ((1 << field.bits) - 1)
            out[field.name] = field.minimum + bits
    return out


def waits_of(opcode: str, value: Callable[[], int]) -> tuple[int, ...]:
    """Thresholds of the engines that it waits for."""
    return tuple(value() if e in BY_NAME[opcode].waits_for else 0 for e in Engine)


@pytest.mark.parametrize("opcode", [o.name for o in OPCODES])
def test_encode_decode_round_trip(opcode: str) -> None:
    rng = np.random.default_rng(0)
    cases = [
        Instruction(opcode, fields_of(opcode)),
        Instruction(opcode, fields_of(opcode, top=True), waits_of(opcode, lambda: 0xFFFF)),
    ]
    for _ in range(50):
        waits = waits_of(opcode, lambda: int(rng.integers(1 << WAIT_BITS)))
        cases.append(Instruction(opcode, fields_of(opcode, rng), waits))
    for index, case in enumerate(cases):
        data = encode(case, index)
        assert len(data) == INSTRUCTION_BYTES
        assert decode(data, index) == case


def word_of(instruction: Instruction) -> int:
    """The instruction without its check."""
    return int.from_bytes(encode(instruction, 0), "little") & ((1 << CHECKED_BITS) - 1)


@pytest.mark.parametrize("opcode", [o.name for o in OPCODES])
def test_fields_do_not_overlap(opcode: str) -> None:
    """Each field alone sets bits of its own place only."""
    zero = {field.name: 0 for field in BY_NAME[opcode].fields}
    offsets = field_offsets(BY_NAME[opcode])
    base = word_of(Instruction(opcode, zero))
    used = (1 << BODY_OFFSET) - 1
    for field in BY_NAME[opcode].fields:
        value = -1 if field.signed else field.maximum
        word = word_of(Instruction(opcode, zero | {field.name: value}))
        mask = ((1 << field.bits) - 1) << offsets[field.name]
        assert word ^ base == mask
        assert not used & mask
        used |= mask
    assert used < 1 << CHECKED_BITS


@pytest.mark.parametrize("opcode", [o.name for o in OPCODES])
def test_waits_stand_behind_the_opcode(opcode: str) -> None:
    """Those of the others in the order of the engines; BEGIN, before which nothing runs, none."""
    entry = BY_NAME[opcode]
    base = word_of(Instruction(opcode, fields_of(opcode)))
    others = [engine for engine in Engine if engine != entry.engine]
    for place, engine in enumerate(others if opcode != "BEGIN" else ()):
        waits = tuple(0xABCD if e == engine else 0 for e in Engine)
        word = word_of(Instruction(opcode, fields_of(opcode), waits))
        assert word ^ base == 0xABCD << (OPCODE_BITS + WAIT_BITS * place)


@pytest.mark.parametrize("opcode", ["BEGIN", "DRAIN", "STORE"])
def test_waits_that_an_instruction_does_not_have(opcode: str) -> None:
    own = BY_NAME[opcode].engine or Engine.LOAD
    waits = tuple(3 * (e == own) for e in Engine)
    message = f"{opcode} must not wait for {own.name}: its threshold must be 0, not 3"
    with pytest.raises(ProgramError, match=message):
        Instruction(opcode, fields_of(opcode), waits)


def test_an_eighth_engine_has_room() -> None:
    """A threshold more in every instruction, beside the longest body."""
    for opcode in OPCODES:
        offsets = field_offsets(opcode)
        ends = [offsets[field.name] + field.bits for field in opcode.fields]
        thresholds = OPCODE_BITS + WAIT_BITS * len(opcode.waits_for)
        assert max([*ends, thresholds]) + WAIT_BITS <= CHECKED_BITS


def test_opcodes_are_unique_and_fit() -> None:
    assert len(BY_CODE) == len(BY_NAME) == len(OPCODES)
    assert all(0 < code < 1 << OPCODE_BITS for code in BY_CODE)
    assert {o.engine for o in OPCODES} == {None, *Engine}


def test_the_check_is_the_documented_crc() -> None:
    """Bit by bit, as the page describes it; the reference value is the CRC's published one."""

    def crc(data: bytes) -> int:
        value = 0xFFFF
        for byte in data:
            value ^= byte << 8
            for _ in range(8):
                value = (value << 1 ^ (0x1021 if value & 0x8000 else 0)) & 0xFFFF
        return value

    assert crc(b"123456789") == 0x29B1
    rng = np.random.default_rng(1)
    for index in (0, 1, 0xFFFF, 0x1_2345):
        body = rng.bytes(CHECKED_BITS // 8)
        check = crc(body) ^ (index & 0xFFFF)
        assert with_check(body, index) == body + bytes([check >> 8, check & 0xFF])


@pytest.mark.parametrize("opcode", ["BEGIN", "LOAD_TILES", "END"])
def test_damage_is_found(opcode: str) -> None:
    """Any single bit, and another's place."""
    rng = np.random.default_rng(2)
    instruction = Instruction(opcode, fields_of(opcode, rng))
    word = int.from_bytes(encode(instruction, 7), "little")
    for bit in range(INSTRUCTION_BITS):
        with pytest.raises(ProgramError, match="instruction 7: The check must be 0x"):
            decode((word ^ 1 << bit).to_bytes(INSTRUCTION_BYTES, "little"), 7)
    for index in (0, 6, 8, 0x4007):
        with pytest.raises(ProgramError, match=f"instruction {index}: The check must be"):
            decode(word.to_bytes(INSTRUCTION_BYTES, "little"), index)


def test_errors() -> None:
    with pytest.raises(ProgramError, match="Opcode must be one of"):
        Instruction("JUMP", {})
    with pytest.raises(ProgramError, match=r"Opcode must be one of .*, not 0"):
        decode(with_check(bytes(CHECKED_BITS // 8), 3), 3)
    with pytest.raises(ProgramError, match="An instruction must be 32 bytes, not 31"):
        decode(bytes(31), 0)
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
