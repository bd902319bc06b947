# SPDX-License-Identifier: Apache-2.0
"""Columns at twice the clock with DSP blocks, in units and whole frames: as with their twins.

The same files but for the leaves, at two clocks; the same words, boundaries and cycles.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .primitives import check_frame, check_unit

pytestmark = pytest.mark.verilator


def test_a_unit_matrix_is_the_same_with_blocks(tmp_path: Path) -> None:
    """The last cascade is used in part; back-to-back passes, several tiles."""
    parameters = {"rows": 10, "columns": 6, "cells": "pumped", "tile_rows": 16}
    check_unit(tmp_path / "unit", "DSP48E2", parameters, (18, 43, 11))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 16, 32, 64])
def test_units_of_other_sizes(tmp_path: Path, rows: int) -> None:
    groups = "pumped:12:8,dual:2:8,digits:6:4"
    parameters = {"rows": rows, "groups": groups if rows == 16 else "pumped:28:8"}
    check_unit(tmp_path / "unit", "DSP48E2", parameters, (2 * rows + 3, 5 * rows - 1, 31))


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["pumped:16:8", "pumped:112:8", "pumped:24:8,digits:8:4"])
def test_a_whole_frame_is_the_same_with_blocks(tmp_path: Path, groups: str) -> None:
    manifest = check_frame(tmp_path, "DSP48E2", groups)
    assert f"{manifest.name}.xdc" in manifest.files
    assert manifest.extra["dsp_clock_mhz"] == 600
