# SPDX-License-Identifier: Apache-2.0
"""Which engines read and write which bank of the activation memory: the paths that exist.

The role of a bank says what lies in it, and so who needs it. The hardware has these paths and no
others: an access on a path that is not here ends the frame with ADDRESS_RANGE, as one outside its
bank does. Crossbar, compiler and program interpreter follow this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwgen.config import BANK_ROLES
from hwgen.isa.instructions import Engine

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
