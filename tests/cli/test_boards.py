# SPDX-License-Identifier: Apache-2.0
"""``hwgen boards`` and the help of ``--board``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwgen.boards import get_board, list_boards

Command = Callable[..., Any]


def test_boards(hwgen: Command) -> None:
    done = hwgen("boards", "--json")
    assert done.status == 0
    values = {board["name"]: board for board in done.json["boards"]}
    assert list(values) == list_boards()
    assert {"kv260", "u250", "ultra96v2", "zcu102", "zcu104"} <= set(values)
    assert values["zcu102"]["dsp_primitive"] == "DSP48E2"
    assert values["zcu102"]["cascades"] == {"16": 152, "32": 76, "64": 29, "128": 11}
    assert values["zcu104"]["cascades"] is None
    assert (values["zcu102"]["clock_mhz"], values["zcu102"]["dsp_clock_mhz"]) == (300, 600)
    board = get_board("zcu102")
    assert values["zcu102"]["limits"]["lut"] == board.limit("lut")
    assert values["zcu102"]["memory_bytes_per_cycle"] == board.memory_bytes_per_cycle
    table = hwgen("boards", environment={"COLUMNS": "200"}).out
    assert "DSP48E2, 152/76/29/11" in table
    assert "DSP48E2, unknown" in table
    assert "300/600 MHz" in table
    assert "cascades of 16/32/64/128" in table


@pytest.mark.parametrize("verb", ["run", "generate"])
def test_help_says_that_a_file_will_do(hwgen: Command, verb: str) -> None:
    text = hwgen(verb, "--help").out
    assert "--board NAME|FILE" in text
    assert "--board ./my_board.toml" in text
    assert "zcu102" in text
