# SPDX-License-Identifier: Apache-2.0
"""What the cycle-by-cycle benches of small units share: Amaranth's simulator and seeded stalls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from amaranth import Elaboratable
from amaranth.sim import Simulator

#: The simulator's context: ``get``, ``set``, ``tick``.
Context = Any


def simulate(unit: Elaboratable, bench: Callable[[Context], Coroutine[Any, Any, None]]) -> None:
    """Run a bench on a unit until it returns."""
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


class Chance:
    """Draws of one stream of stalls: true in ``percent`` of the cycles."""

    def __init__(self, percent: int, seed: list[int]) -> None:
        self.percent = percent
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> bool:
        return self.percent == 100 or int(self._rng.integers(100)) < self.percent
