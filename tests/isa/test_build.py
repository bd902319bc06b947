# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.columns import dense
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.build import begin, build_identity, check_begin
from hwgen.isa.instructions import Instruction

CONFIG = AcceleratorConfig()


def test_identity_follows_the_hardware_and_nothing_else() -> None:
    changes = [
        {"rows": 32, "groups": dense(32)},
        {"queue_depth": 4},
        {"bank_words": (64, 64, 64, 64, 64, 64, 65)},
        {"instruction_check": False},
    ]
    identities = {build_identity(CONFIG.replace(**change)) for change in changes}
    assert len(identities | {build_identity(CONFIG)}) == len(changes) + 1
    assert build_identity(CONFIG.replace(clock_mhz=200)) == build_identity(CONFIG)
    assert all(0 < identity < 1 << 64 for identity in identities)


def test_another_version_of_the_instruction_set_is_another_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = build_identity(CONFIG)
    monkeypatch.setattr("hwgen.isa.build.ISA_VERSION", 1000)
    assert build_identity(CONFIG) != before


def test_what_the_hardware_refuses() -> None:
    first = begin(CONFIG)
    check_begin(first, CONFIG)
    for wrong in (
        Instruction("END", {}),
        replace(first, fields=first.fields | {"magic": first["magic"] ^ 1}),
    ):
        with pytest.raises(ProgramError, match="must begin with BEGIN and its magic"):
            check_begin(wrong, CONFIG)
    with pytest.raises(ProgramError, match="A memory image must be for the build 0x"):
        check_begin(first, CONFIG.replace(queue_depth=4))
