# SPDX-License-Identifier: Apache-2.0
"""Synthesis of small modules: counts known in advance, cache, errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwgen.errors import ConfigError, ToolError
from hwgen.synth import yosys
from hwgen.synth.yosys import synthesise

VERILOG = """
module lane(input clk, input clear, input [7:0] a, input [7:0] b, output reg [7:0] y);
  reg [7:0] delay [15:0];
  reg [7:0] x;
  integer i;
  always @(posedge clk) begin
    x <= a ^ b;
    delay[0] <= x;
    for (i = 1; i < 16; i = i + 1) delay[i] <= delay[i-1];
    y <= clear ? 8'd0 : delay[15];
  end
endmodule
module top(input clk, input clear, input [31:0] a, input [7:0] b, output [31:0] y,
           input [9:0] address, input [35:0] data, input write, output reg [35:0] word,
           input signed [7:0] p, input signed [7:0] q, output reg signed [15:0] product);
  reg [35:0] memory [1023:0];
  genvar g;
  generate for (g = 0; g < 4; g = g + 1) begin : lanes
    lane lane(.clk(clk), .clear(clear), .a(a[8*g +: 8]), .b(b), .y(y[8*g +: 8]));
  end endgenerate
  always @(posedge clk) begin
    if (write) memory[address] <= data;
    word <= memory[address];
    product <= p * q;
  end
endmodule
"""


def write(folder: Path, text: str = VERILOG) -> list[Path]:
    path = folder / "design.v"
    path.write_text(text)
    return [path]


@pytest.mark.slow
def test_counts_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    report = synthesise(write(tmp_path), "top", progress=lambda text, _: seen.append(text))
    lane = next(module for module in report.modules if module.name == "lane")
    # Eight XORs; each bit a shift register of 16 (one LUT) between flip-flops.
    assert lane.instances == 4
    assert (lane.own["lut"], lane.own["ff"]) == (16, 16)
    assert lane.logic_levels == 1  # from the shift register to the flip-flop
    assert report.modules[0].logic_levels == 0 and report.logic_levels == 1  # the lane's
    assert report.bram36 == 1
    assert report.dsp == 1
    assert report.lut == 64
    assert report.ff == 64 + 16
    assert report.tool.startswith("Yosys 0.")
    # The second time it comes from the cache, with the same figures.
    seen.clear()
    assert synthesise(write(tmp_path), "top", progress=lambda text, _: seen.append(text)) == report
    assert seen == ["synthesis done"]


@pytest.mark.slow
def test_ecp5(tmp_path: Path) -> None:
    report = synthesise(write(tmp_path), "top", "ecp5")
    assert report.dsp == 1
    assert report.bram36 == 1  # two blocks of 18 Kbit
    assert report.ff > 64


def test_errors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Target must be one of xcup, ecp5, not 'xc7'"):
        synthesise(write(tmp_path), "top", "xc7")
    with pytest.raises(ToolError, match="syntax error"):
        synthesise(write(tmp_path, VERILOG.replace("endgenerate", "")), "top")
    with pytest.raises(ToolError, match="absent"):
        synthesise(write(tmp_path), "absent")
    with pytest.raises(ToolError, match=r"other"):
        synthesise(write(tmp_path, VERILOG.replace("lane lane(", "other lane(")), "top")
    library = tmp_path / "cells.lib"
    banner = "/* c */\n" * 100  # without an end of its own to the search
    between = "/* a */ x /* b */ library (a) {"
    for text in ("", "cells", "/* library (a) { */", "library (a)", banner, between):
        library.write_text(text)
        with pytest.raises(ToolError, match="Liberty file must begin with"):
            synthesise(write(tmp_path), "top", liberty=library)
    with pytest.raises(ToolError, match="readable files"):
        synthesise([tmp_path / "missing.v"], "top")


def _gate(name: str, area: int, function: str) -> str:
    """A gate of a process that does not exist; ABC cannot do without tables of delays."""
    pins = sorted(set(function) & set("AB"))
    table = '(t) { values ("0.1, 0.2", "0.1, 0.2"); }'
    kinds = ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
    tables = " ".join(f"{kind} {table}" for kind in kinds)
    sense = "timing_sense : negative_unate;" if "^" not in function else "timing_sense : non_unate;"
    arcs = " ".join(f'timing () {{ related_pin : "{pin}"; {sense} {tables} }}' for pin in pins)
    inputs = " ".join(f"pin ({pin}) {{ direction : input; capacitance : 0.01; }}" for pin in pins)
    output = (
        f'pin (Y) {{ direction : output; max_capacitance : 1; function : "{function}"; {arcs} }}'
    )
    return f"cell ({name}) {{ area : {area}; {inputs} {output} }}"


#: Areas chosen so that a sum tells what was used.
LIBERTY = f"""
/* comment */ library (cells) {{
  time_unit : "1ns"; capacitive_load_unit (1, pf);
  lu_table_template (t) {{ variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance; index_1 ("0.1, 1.0"); index_2 ("0.1, 1.0"); }}
  {_gate("INV", 1, "!A")}
  {_gate("BUF", 3, "A")}
  {_gate("NAND2", 10, "!(A B)")}
  {_gate("NOR2", 20, "!(A + B)")}
  {_gate("XOR2", 40, "A ^ B")}
  cell (DFF) {{ area : 100; ff (IQ, IQN) {{ clocked_on : "C"; next_state : "D"; }}
    pin (C) {{ direction : input; clock : true; }} pin (D) {{ direction : input; }}
    pin (Q) {{ direction : output; function : "IQ"; }} }}
}}
"""


def test_liberty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    library = tmp_path / "cells.lib"
    library.write_text(LIBERTY)
    ports = "input clk, input a, input b, output reg y"
    text = f"module top({ports}); always @(posedge clk) y <= a & b; endmodule\n"
    report = synthesise(write(tmp_path, text), "top", liberty=library)
    assert report.area == 111  # a flip-flop behind a NAND and an inverter
    assert report.target == "cells.lib"
    # A damaged entry is made again, with the same figures.
    (entry,) = (tmp_path / "cache" / "synthesis").glob("*/report.json")
    seen: list[str] = []
    for damage in ("", "{}", entry.read_text().replace("111", "112")):
        library.write_text(LIBERTY)
        entry.write_text(damage)
        again = synthesise(
            write(tmp_path, text), "top", liberty=library, progress=lambda t, _: seen.append(t)
        )
        assert again.area == 111
    assert seen.count("synthesising top for liberty") == 3
    without = LIBERTY.replace("cell (DFF)", "cell (LATCH)").replace("ff (IQ", "latch (IQ")
    library.write_text(without.replace("clocked_on", "enable").replace("next_state", "data_in"))
    with pytest.raises(ToolError, match="D flip-flops are not supported"):
        synthesise(write(tmp_path, text), "top", liberty=library)
    library.write_text(re.sub(r"area : \d+;", "", LIBERTY))
    with pytest.raises(ToolError, match=r"areas that are numbers \(design\.area must be stated"):
        synthesise(write(tmp_path, text), "top", liberty=library)


def test_a_killed_yosys_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(yosys, "_WORKER", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ToolError, match=r"ended by signal SIGKILL \(out of memory"):
        synthesise(write(tmp_path), "top")
