# SPDX-License-Identifier: Apache-2.0
"""Columns of tables as primitives of the fabric, in units and whole frames: as with their twins."""

from __future__ import annotations

from pathlib import Path

import pytest

from .primitives import check_frame, check_unit

pytestmark = pytest.mark.verilator

PRIMITIVE = "RAM32M16"


def test_a_unit_matrix_is_the_same_with_primitives(tmp_path: Path) -> None:
    """Back-to-back passes, several tiles; weights of 8 bits meet int8 and uint8."""
    parameters = {"rows": 16, "columns": 3, "cells": "tables", "tile_rows": 24}
    check_unit(tmp_path / "unit", PRIMITIVE, parameters, (30, 67, 7))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [16, 32, 64])
def test_units_of_other_sizes(tmp_path: Path, rows: int) -> None:
    parameters = {"rows": rows, "groups": "dual:4:8,tables:6:8"}
    check_unit(tmp_path / "unit", PRIMITIVE, parameters, (2 * rows + 3, 5 * rows - 1, 31))


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["dual:16:8,tables:8:4", "tables:16:8,tables:8:3"])
def test_a_whole_frame_is_the_same_with_primitives(tmp_path: Path, groups: str) -> None:
    check_frame(tmp_path, PRIMITIVE, groups)
