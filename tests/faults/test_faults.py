# SPDX-License-Identifier: Apache-2.0
"""The list of faults fits the tree: every text to replace occurs exactly once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .inject import REPOSITORY, Fault, load_faults

FAULTS = load_faults()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_applies(fault: Fault) -> None:
    assert fault.problem(REPOSITORY) is None


def test_names_are_unique_and_units_have_three() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    few = [unit for unit, count in Counter(f.unit for f in FAULTS).items() if count < 3]
    assert not few


def test_text_that_does_not_occur_once_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    fault = Fault(name="n", unit="u", file="a.py", old="x = 1", new="x = 2", test="a.py")
    assert fault.problem(tmp_path) == "old text occurs 2 times in a.py"
    assert Fault(name="n", unit="u", file="b.py", old="", new="", test="").problem(tmp_path)
