# SPDX-License-Identifier: Apache-2.0
"""Counting and logic levels on hand-made netlists."""

from __future__ import annotations

from typing import Any

import pytest

from hwgen.errors import ToolError
from hwgen.synth.netlist import analyse


def cell(kind: str, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> dict[str, Any]:
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {"type": kind, "connections": inputs | outputs, "port_directions": directions}


def module(ports: dict[str, tuple[str, list[Any]]], **cells: dict[str, Any]) -> dict[str, Any]:
    return {
        "attributes": {},
        "ports": {name: {"direction": d, "bits": bits} for name, (d, bits) in ports.items()},
        "cells": cells,
        "netnames": {f"n{i}": {"hide_name": 0, "bits": [i]} for i in range(60)},
    }


def lut(inputs: list[Any], output: int) -> dict[str, Any]:
    return cell("LUT2", {f"I{i}": [net] for i, net in enumerate(inputs)}, {"O": [output]})


def register(d: Any, q: int) -> dict[str, Any]:
    return cell("FDRE", {"C": [2], "D": [d], "R": ["0"], "CE": ["1"]}, {"Q": [q]})


# in -> 2 LUTs -> register; register -> LUT -> out; in -> LUT -> through
LEAF = module(
    {"clk": ("input", [2]), "a": ("input", [3, 4]), "y": ("output", [10]), "z": ("output", [11])},
    l1=lut([3, 4], 5),
    l2=lut([5, "1"], 6),
    r=register(6, 7),
    l3=lut([7, "0"], 10),
    l4=lut([4, "0"], 11),
)


def test_depth_within_a_module() -> None:
    top = module(
        {"clk": ("input", [2])},
        r1=register(7, 3),
        l1=lut([3, 3], 4),
        l2=lut([4, 3], 5),
        c=cell("CARRY8", {"S": [5], "DI": ["0"], "CI": ["0"]}, {"CO": [20], "O": [21]}),
        c2=cell("CARRY8", {"S": ["0"], "DI": ["0"], "CI": [20]}, {"CO": [22], "O": [23]}),
        x=cell("MUXF7", {"I0": [23], "I1": [3], "S": ["0"]}, {"O": [24]}),
        l3=lut([24], 7),
    )
    report = analyse({"modules": {"top": top}}, "top", "xcup")[0]
    assert report.logic_levels == 4  # two LUTs, the chain, one LUT
    assert report.critical_path == ("n3", "n4", "n5", "n20", "n23", "n24", "n7", "n3")
    assert report.own == {"lut": 3, "ff": 1, "dsp": 0, "bram36": 0}


def test_depth_through_modules_and_counts_of_instances() -> None:
    middle = module(
        {"clk": ("input", [2]), "a": ("input", [3]), "z": ("output", [12])},
        u=cell("leaf", {"clk": [2], "a": [3, 3]}, {"y": [10], "z": [11]}),
        v=cell("leaf", {"clk": [2], "a": [10, 11]}, {"y": [13], "z": [12]}),
    )
    top = module(
        {"clk": ("input", [2])},
        w=cell("middle", {"clk": [2], "a": [30]}, {"z": [31]}),
        r=register(31, 30),
    )
    modules = {"top": top, "middle": middle, "leaf": LEAF}
    reports = {report.name: report for report in analyse({"modules": modules}, "top", "xcup")}
    assert reports["leaf"].logic_levels == 0
    # u's register -> l3 -> v: l1, l2 -> v's register
    assert reports["middle"].logic_levels == 3
    # r -> u: l4 -> v: l1, l2; r -> u: l4 -> v: l4 -> r is shorter
    assert reports["top"].logic_levels == 3
    assert reports["leaf"].instances == 2
    assert reports["top"].total == {"lut": 8, "ff": 3, "dsp": 0, "bram36": 0}


def test_memories_and_blocks() -> None:
    top = module(
        {"clk": ("input", [2])},
        s=cell("SRL16E", {"D": [5], "A0": ["1"], "CLK": [2]}, {"Q": [3]}),
        m=cell("RAM32M16", {"ADDRA": [3], "DIA": [3], "WCLK": [2]}, {"DOA": [4]}),
        n=cell("RAM64M8", {"ADDRA": ["0"], "DIA": [3], "WCLK": [2]}, {"DOA": [40]}),
        l=lut([4], 5),
        d=cell("DSP48E2", {"A": [5], "CLK": [2]}, {"P": [6]}),
        l1=lut([6], 7),
        l2=lut([7], 8),
        l3=lut([8], 9),
        l4=lut([9], 41),
        b=cell("RAMB18E2", {"ADDR": [41]}, {"DOUT": [42]}),
        b2=cell("RAMB36E2", {"ADDR": [41]}, {"DOUT": [43]}),
    )
    report = analyse({"modules": {"top": top}}, "top", "xcup")[0]
    assert report.own == {"lut": 5 + 1 + 8 + 8, "ff": 0, "dsp": 1, "bram36": 1.5}
    assert report.logic_levels == 3  # shift register, memory by its address, LUT; none from the DSP


def test_unknown_cells_and_loops_are_errors() -> None:
    with pytest.raises(ToolError, match=r"top has 'LDCE'"):
        analyse({"modules": {"top": module({}, x=cell("LDCE", {}, {"Q": [1]}))}}, "top", "xcup")
    loop = module({}, a=lut([3], 4), b=lut([4], 3))
    with pytest.raises(ToolError, match="no combinational loop"):
        analyse({"modules": {"top": loop}}, "top", "xcup")
