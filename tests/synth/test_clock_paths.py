# SPDX-License-Identifier: Apache-2.0
"""Paths by the clocks of their ends, on hand-made netlists."""

from __future__ import annotations

from typing import Any

from hwgen.synth.clock_paths import ClockPaths, clock_paths, crossings

from .test_netlist import LEAF, cell, lut, module

PORTS: dict[str, tuple[str, list[Any]]] = {"clk": ("input", [2]), "clk2x": ("input", [3])}


def flop(clock: int, d: Any, q: int) -> dict[str, Any]:
    return cell("FDRE", {"C": [clock], "D": [d], "R": ["0"], "CE": ["1"]}, {"Q": [q]})


def of(top: dict[str, Any], **modules: dict[str, Any]) -> tuple[ClockPaths, ...]:
    return clock_paths({"modules": {"top": top, **modules}}, "top", "xcup")


def test_one_clock_has_no_list() -> None:
    top = module(PORTS, r=flop(2, 5, 4), l=lut([4, 4], 5))
    assert of(top) == ()
    nested = module(PORTS, u=cell("leaf", {"clk": [2], "a": [9, 10]}, {"y": [9], "z": [10]}))
    assert of(nested, leaf=LEAF) == ()


def test_registers_and_blocks() -> None:
    """From clk -> LUT -> clk2x -> block -> clk; the block's clock enable comes from both clocks."""
    top = module(
        PORTS,
        slow=flop(2, 20, 4),
        l1=lut([4, 4], 5),
        fast=flop(3, 5, 6),
        l2=lut([6, 4], 7),
        block=cell(
            "DSP48E2",
            {"CLK": [3], "A": [4, 4], "C": [6], "CEA1": [7]},
            {"P": [20, 21], "PCOUT": [22]},
        ),
        back=flop(2, 21, 23),
    )
    slow, fast = ("clk", "register"), ("clk2x", "register")
    assert set(of(top)) == {
        ClockPaths(*slow, *fast, pins=1, logic_levels=1),
        ClockPaths(*slow, "clk2x", "DSP A", pins=2, logic_levels=0),
        ClockPaths(*slow, "clk2x", "DSP CEA1", pins=1, logic_levels=1),
        ClockPaths(*fast, "clk2x", "DSP CEA1", pins=1, logic_levels=1),
        ClockPaths(*fast, "clk2x", "DSP C", pins=1, logic_levels=0),
        ClockPaths("clk2x", "DSP", *slow, pins=2, logic_levels=0),
    }
    assert {(path.source, path.target_kind) for path in crossings(of(top))} == {
        ("clk", "register"),
        ("clk", "DSP A"),
        ("clk", "DSP CEA1"),
        ("clk2x", "register"),
    }


def test_through_modules_by_their_ports() -> None:
    """Two instances of one module whose clock is another each time; counts add up."""
    top = module(
        PORTS,
        u=cell("leaf", {"clk": [2], "a": [12, 12]}, {"y": [10], "z": [11]}),
        v=cell("leaf", {"clk": [3], "a": [10, 10]}, {"y": [12], "z": [13]}),
        r=flop(3, 13, 14),
    )
    found = {(path.source, path.target): path for path in of(top, leaf=LEAF)}
    # Of each instance: register -> LUT -> the other's two LUTs and register; v's z is a LUT of y.
    assert found["clk", "clk2x"].pins == 2 and found["clk", "clk2x"].logic_levels == 3
    assert found["clk2x", "clk"].pins == 1 and found["clk2x", "clk"].logic_levels == 3
    assert ("clk", "clk") not in found


def test_shift_registers_and_memories() -> None:
    top = module(
        PORTS,
        s=cell("SRL16E", {"D": [5], "A0": ["1"], "CLK": [3]}, {"Q": [4]}),
        r=flop(2, 4, 5),
        b=cell("RAMB18E2", {"CLKARDCLK": [2], "ADDRARDADDR": [5, 4]}, {"DOUTADOUT": [8]}),
        t=flop(3, 8, 9),
    )
    assert set(of(top)) == {
        ClockPaths("clk", "register", "clk2x", "memory", pins=1, logic_levels=0),
        ClockPaths("clk2x", "memory", "clk", "register", pins=1, logic_levels=1),
        ClockPaths("clk", "register", "clk", "RAM ADDRARDADDR", pins=1, logic_levels=0),
        ClockPaths("clk2x", "memory", "clk", "RAM ADDRARDADDR", pins=1, logic_levels=1),
        ClockPaths("clk", "RAM", "clk2x", "register", pins=1, logic_levels=0),
    }
