# SPDX-License-Identifier: Apache-2.0
"""No instruction uses a path to a bank that the hardware does not have."""

from __future__ import annotations

from hwgen.config import BANK_ROLES
from hwgen.errors import ProgramError
from hwgen.isa.banks import banks_of
from hwgen.isa.instructions import BY_NAME
from hwgen.program.hazards import Access


def check_paths(opcode: str, accesses: tuple[Access, ...], where: str | None = None) -> None:
    """Refuse an instruction that would use a path that does not exist.

    Args:
        opcode: of the instruction.
        accesses: what it reads and writes (:data:`hwgen.program.machine.ACCESSES`).
        where: name for the error message.

    Raises:
        ProgramError: names the banks that the engine reaches.
    """
    engine = BY_NAME[opcode].engine
    for access in accesses:
        if not access.field:
            continue  # a slot
        assert engine is not None
        bank, legal = access.bank, banks_of(engine, write=access.write)
        if bank not in legal:
            names = ", ".join(f"{b} ({BANK_ROLES[b]})" for b in legal)
            raise ProgramError(
                f"{opcode}.{access.field} must be in bank {names}, not {bank}",
                where=where,
                why=f"{engine.name} {'writes' if access.write else 'reads'} no other",
                nearest=min(legal, key=lambda b: (abs(b - bank), b)),
            )
