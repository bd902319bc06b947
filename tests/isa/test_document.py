# SPDX-License-Identifier: Apache-2.0
"""docs/isa.md is what the tables say."""

from __future__ import annotations

from enum import EnumType
from pathlib import Path

from hwgen.isa import instructions
from hwgen.isa.document import markdown
from hwgen.isa.instructions import FIELD_ENUMS, OPCODES

PAGE = Path(__file__).parents[2] / "docs" / "isa.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m hwgen.isa.document > docs/isa.md"


def test_every_value_of_a_field_has_a_meaning() -> None:
    docs = {field.doc for opcode in OPCODES for field in opcode.fields}
    kinds = {kind for kind in vars(instructions).values() if isinstance(kind, EnumType)}
    assert {kind for kind in kinds if kind.__name__ in docs} == set(FIELD_ENUMS)
    lines = markdown().splitlines()
    for kind in FIELD_ENUMS:
        for member in kind:
            assert member.doc
            assert f"- {int(member)} {member.name}: {member.doc}" in lines
