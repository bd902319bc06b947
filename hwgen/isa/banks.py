# SPDX-License-Identifier: Apache-2.0
"""Which engines read and write which bank of the activation memory: the paths that exist.

The role of a bank says what lies in it, and so who needs it. The hardware has these paths and no
others: an access on a path that is not here ends the frame with ADDRESS_RANGE, as one outside its
bank does. Crossbar, compiler and program interpreter follow this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hwgen.config import BANK_ROLES
from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    OFFSET_BITS,
    DrainMode,
    Engine,
    Instruction,
    StationarySource,
)

#: Clients of the memory, reading and writing. The first that wants a bank is granted it.
READERS = (
    Engine.MATMUL,
    Engine.STATIONARY,
    Engine.DRAIN,
    Engine.SOFTMAX,
    Engine.LAYERNORM,
    Engine.STORE,
)
WRITERS = (Engine.DRAIN, Engine.SOFTMAX, Engine.LAYERNORM, Engine.LOAD)


@dataclass(frozen=True)
class BankPaths:
    """The engines that reach a bank."""

    readers: tuple[Engine, ...]
    writers: tuple[Engine, ...]


_SCORES = BankPaths((Engine.MATMUL, Engine.SOFTMAX), (Engine.DRAIN, Engine.SOFTMAX))

#: By role. STATIONARY reads normalised tokens for their mean.
BANK_PATHS: Mapping[str, BankPaths] = {
    "residual": BankPaths(
        (Engine.DRAIN, Engine.LAYERNORM, Engine.STORE), (Engine.DRAIN, Engine.LOAD)
    ),
    "normalised": BankPaths((Engine.MATMUL, Engine.STATIONARY), (Engine.LAYERNORM,)),
    "query": BankPaths((Engine.MATMUL,), (Engine.DRAIN,)),
    "key_value": BankPaths((Engine.STATIONARY,), (Engine.DRAIN,)),
    "scores0": _SCORES,
    "scores1": _SCORES,
    "hidden": BankPaths((Engine.MATMUL,), (Engine.DRAIN, Engine.LOAD)),
}


def banks_of(engine: Engine, *, write: bool) -> tuple[int, ...]:
    """Numbers of the banks that an engine reads, or writes."""
    paths = [BANK_PATHS[role] for role in BANK_ROLES]
    return tuple(
        bank
        for bank, path in enumerate(paths)
        if engine in (path.writers if write else path.readers)
    )


def word_addresses(instruction: Instruction) -> Iterator[tuple[str, bool]]:
    """Fields of an instruction that name words it reads or writes, and whether it writes them."""
    match instruction.opcode:
        case "LOAD_WORDS" | "LOAD_IMAGE":
            yield "destination", True
        case "STATIONARY":
            if instruction["source"] != StationarySource.WEIGHTS:
                yield "base", False
        case "MATMUL":
            yield "base", False
        case "DRAIN":
            if instruction["mode"] == DrainMode.RESIDUAL:
                yield "destination", False
            yield "destination", True
        case "SOFTMAX" | "LAYERNORM":
            yield "source", False
            yield "destination", True
        case "STORE":
            yield "source", False


def check_paths(instruction: Instruction, where: str | None = None) -> None:
    """Refuse an instruction that would use a path that does not exist.

    Args:
        instruction: any.
        where: name for the error message.

    Raises:
        ProgramError: names the banks that the engine reaches.
    """
    for field, write in word_addresses(instruction):
        engine = instruction.engine
        assert engine is not None
        bank, legal = instruction[field] >> OFFSET_BITS, banks_of(engine, write=write)
        if bank not in legal:
            names = ", ".join(f"{b} ({BANK_ROLES[b]})" for b in legal)
            raise ProgramError(
                f"{instruction.opcode}.{field} must be in bank {names}, not {bank}",
                where=where,
                why=f"{engine.name} {'writes' if write else 'reads'} no other",
                nearest=min(legal, key=lambda b: (abs(b - bank), b)),
            )
