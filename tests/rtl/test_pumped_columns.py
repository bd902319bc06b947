# SPDX-License-Identifier: Apache-2.0
"""The column of blocks at twice the clock and its twin: to their contract, every cycle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from amaranth import Module, Value

from hwgen.rtl.columns import pumped
from hwgen.rtl.columns.base import Leaf
from hwgen.rtl.columns.pumped import PumpedColumns, PumpedDspColumn
from tests.rtl.pumped_bench import Array, Stimulus, expected, simulate, stimulus

pytestmark = pytest.mark.verilator

ROWS = (2, 8, 18)
MOST = max(ROWS)
#: Back to back, and with every number of cycles from one half of a pass to more than a pass.
DISTANCES = (1, 2, 3, 5, 8, 9, 17, 18, 19, 27)


class WrongPhase(PumpedDspColumn):
    """Takes the first half of a cycle for the second."""

    def _phase(self, m: Module) -> list[Value]:
        return [~half for half in super()._phase(m)]


def leaves_of(*rows: int) -> dict[str, Leaf]:
    """Both leaves of each number of rows."""
    found: dict[str, Leaf] = {}
    for r in rows:
        found[f"twin_{r}"] = PumpedColumns(r).leaf()
        found[f"dsp_{r}"] = PumpedColumns(r).synthesis_leaf()
    return found


class Sparse(PumpedDspColumn):
    """Looks at the low lane every fourth row."""

    def elaborate(self, platform: object) -> Module:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pumped, "TAP_ROWS", 4)
            return super().elaborate(platform)


class LateFirstTap(PumpedDspColumn):
    """Looks at the low lane first after more rows than it holds."""

    def elaborate(self, platform: object) -> Module:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pumped, "FIRST_TAP_ROWS", 7)
            return super().elaborate(platform)


Simulated = dict[bool, tuple[dict[str, Array], Stimulus]]


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    """Sums of every leaf, and the stimulus; by whether data are late."""
    columns = PumpedColumns(8)
    leaves = leaves_of(*ROWS) | {
        "phase": WrongPhase(columns),
        "sparse": Sparse(columns),
        "late": LateFirstTap(columns),
    }
    found = {}
    for late in (False, True):
        given = stimulus(7 + late, MOST, DISTANCES)
        found[late] = (simulate(leaves, given, late=late), given)
    return found


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("rows", ROWS)
def test_both_leaves_keep_the_contract(simulated: Simulated, rows: int, late: bool) -> None:
    outputs, given = simulated[late]
    wanted = expected(rows, given)[given.settled :]
    for kind in ("twin", "dsp"):
        np.testing.assert_array_equal(
            outputs[f"{kind}_{rows}"][given.settled :], wanted, err_msg=kind
        )
    # The stimulus reaches the ends.
    assert wanted.max() == rows * 127 * 255
    assert wanted.min() == -rows * 128 * 255


@pytest.mark.parametrize("kind", ["phase", "sparse", "late"])
def test_wrong_leaves_are_seen(simulated: Simulated, kind: str) -> None:
    outputs, given = simulated[False]
    wanted = expected(8, given)[given.settled :]
    assert (outputs[kind][given.settled :] != wanted).any()


def test_no_row_is_loaded_in_the_cycle_of_its_swap() -> None:
    """Weights given a row a cycle, the swap in the cycle after the last; the next begin with it."""
    for rows in range(2, 257, 2):
        for p, behind in enumerate(PumpedColumns(rows).skew):
            loaded = p + p // 16 + 1  # after the first row was given
            assert loaded < rows + behind, (rows, p)
            assert behind < loaded, (rows, p)  # of the pass behind, given from the swap on


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize(
    "sizes",
    [range(2, 33, 2), range(34, 65, 10), (64,), (128,), (256,)],
    ids=lambda sizes: f"{min(sizes)}-{max(sizes)}",
)
def test_every_number_of_rows(sizes: Sequence[int], late: bool) -> None:
    """Even R, those of every accelerator among them; swaps at every distance."""
    most = max(sizes)
    given = stimulus(most, most, tuple(range(1, most + 9)), repeat=3)
    outputs = simulate(leaves_of(*sizes), given, late=late)
    for rows in sizes:
        wanted = expected(rows, given)[given.settled :]
        for kind in ("twin", "dsp"):
            found = outputs[f"{kind}_{rows}"][given.settled :]
            np.testing.assert_array_equal(found, wanted, err_msg=f"{kind}_{rows}")
