# SPDX-License-Identifier: Apache-2.0
"""The fragment of constraints: its clocks, its names, and what a constraints file may have."""

from __future__ import annotations

import re

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.emit.constraints import constraints
from hwgen.emit.verilog import convert_leaf
from hwgen.rtl.columns.pumped import PumpedColumns

CONFIG = AcceleratorConfig(groups=parse_groups("pumped:16:8"), clock_mhz=250)


def test_it_names_clocks_and_variables_that_are_set() -> None:
    text = constraints(CONFIG, "mine")
    assert "clk at 250 MHz, clk2x at 500 MHz (assumed)" in text
    lines = text.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    known: set[str] = set()
    for command in commands:
        assert set(re.findall(r"\$(\w+)", command)) <= known, command
        if found := re.match(r"set (\w+) ", command):
            known.add(found[1])
    # No Tcl beyond `set`: a constraints file is no script.
    words = {command.split()[0] for command in commands}
    assert words == {"set", "set_property", "set_multicycle_path"}
    assert "CLOCK_DELAY_GROUP mine_clocks" in text
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")


def test_the_blocks_have_the_name_that_is_looked_for() -> None:
    text = convert_leaf(PumpedColumns(2).synthesis_leaf(), "x", "leaf")
    assert re.findall(r"\) (\w+) \(", text) == ["cell_0", "cell_1"]
