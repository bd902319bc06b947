# SPDX-License-Identifier: Apache-2.0
"""Board files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.boards import get_board, list_boards
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, FormatError


@pytest.mark.parametrize("name", list_boards())
def test_every_board_loads(name: str) -> None:
    board = get_board(name)
    assert board.name == name
    AcceleratorConfig().replace(**board.preset)


def test_zcu102() -> None:
    board = get_board("zcu102")
    assert {name: board.limit(name) for name in board.resources} == {
        "lut": 191856,
        "ff": 274080,
        "dsp": 2016,
        "bram36": 729,
    }
    assert board.memory_bytes_per_cycle == pytest.approx(46.67, abs=0.01)
    assert board.overruns({"dsp": 2016, "lut": 191857}).keys() == {"lut"}


def test_unknown_board_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"not 'ZCU104'.*nearest legal value: zcu102"):
        get_board("ZCU104")


def test_ranges() -> None:
    board = get_board("zcu102")
    with pytest.raises(FormatError, match=r"budget.dsp must be"):
        replace(board, budget={**board.budget, "dsp": 1.5})
    with pytest.raises(FormatError, match="clock_mhz must be positive"):
        replace(board, clock_mhz=0)
