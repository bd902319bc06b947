# SPDX-License-Identifier: Apache-2.0
"""Every unit on the cocotb bench: READY and VALID from 1 to 99 %, resets at random cycles.

Whatever came before, the words of the next passage are the reference's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwgen.sim.cocotb_bench.unit import UnitScenario, run_unit_bench
from hwgen.units import UNITS, unit_verilog
from hwgen.units.folder import VERILATOR_OPTIONS, first_difference
from hwgen.units.vectors import check_vectors

pytestmark = pytest.mark.verilator

MIXED = (0.01, 0.3, 0.7, 0.99)
SCENARIOS = [
    {},
    {"ready_after_valid": True},
    {"valid": (0.01,), "ready": (0.99,)},
    {"valid": (0.99,), "ready": (0.01,)},
    {"valid": MIXED, "ready": MIXED},
    {"valid": MIXED, "ready": MIXED, "ready_after_valid": True},
    *({"valid": (0.5, 0.99), "ready": (0.2, 0.99), "resets": 4} for _ in range(4)),
    *({"resets": 4} for _ in range(4)),
    {"valid": (0.99,), "ready": (0.1,), "resets": 4},
]


def vectors(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """A few rows of odd sizes, full range."""
    if name == "systolic-array":
        return {
            "activations": rng.integers(-128, 128, (11, 13)).astype(np.int8),
            "weights": rng.integers(-7, 8, (13, 9)).astype(np.int8),
        }
    if name == "e2softmax":
        return {"logits": rng.integers(-128, 128, (9, 49)).astype(np.int8)}
    if name == "ailayernorm":
        return {
            "x": rng.integers(0, 256, (9, 97)).astype(np.uint8),
            "alpha": rng.integers(0, 4, 97),
            "gamma": rng.integers(-127, 128, 97).astype(np.int16),
            "beta": rng.integers(-(1 << 14), 1 << 14, 97).astype(np.int32),
        }
    if name == "requantise":
        return {
            "accumulators": rng.integers(-(1 << 23), 1 << 23, (7, 37)).astype(np.int32),
            "bias": rng.integers(-(1 << 20), 1 << 20, 37).astype(np.int32),
            "multiplier": rng.integers(1 << 15, 1 << 16, 37).astype(np.uint16),
            "shift": rng.integers(28, 40, 37).astype(np.uint8),
            "residual": rng.integers(-(1 << 15), 1 << 15, (7, 37)).astype(np.int16),
        }
    return {
        "codes": rng.integers(-128, 128, (9, 33)).astype(np.int8),
        "table": rng.integers(-128, 128, 256).astype(np.int8),
    }


CASES: tuple[tuple[str, dict[str, object]], ...] = (
    ("systolic-array", {"rows": 5, "columns": 7, "weight_bits": 4, "tile_rows": 8}),
    ("e2softmax", {"vec": 8, "max_length": 60}),
    ("e2softmax", {"vec": 8, "max_length": 60, "mode": "fractional"}),
    ("ailayernorm", {"max_channels": 128}),
    ("requantise", {}),
    ("elementwise", {}),
)


def test_every_unit_has_a_case() -> None:
    assert {name for name, _ in CASES} == set(UNITS)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_passages(name: str, parameters: dict[str, object]) -> None:
    unit = UNITS[name]
    values = unit.resolve(parameters)
    given = check_vectors(unit, vectors(name, np.random.default_rng(7)), None)
    words = unit.encode(given, values)
    expected = unit.reference(given, values)
    scenarios = [UnitScenario(seed=seed, **how) for seed, how in enumerate(SCENARIOS)]
    passages = run_unit_bench(
        unit_verilog(unit, values),
        unit.module,
        words.inputs,
        words.outputs,
        words.configuration,
        scenarios,
        options=VERILATOR_OPTIONS,
    )
    assert len(passages) == len(scenarios)
    for scenario, passage in zip(scenarios, passages, strict=True):
        assert passage.error is None, (scenario, passage.error)
        difference = first_difference(expected, unit.decode(passage.outputs, given, values))
        assert difference is None, (scenario, difference)
    # The resets came in the middle of the words.
    cuts = [cut for passage in passages for cut in passage.cut]
    assert sum(taken > 0 for taken, _ in cuts) > 20
    assert sum(returned > 0 for _, returned in cuts) > 5
