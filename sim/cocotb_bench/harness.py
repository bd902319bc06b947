# SPDX-License-Identifier: Apache-2.0
"""Builds the bench around the top and runs it.

The wrapper makes Python cheap: one vector of controls in, one vector of what happened at the last
clock edge out, and it checks the rules of the masters' channels in every cycle. Only the wrapper's
own signals are public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hwgen.config import AcceleratorConfig
from hwgen.emit.verilog import convert
from hwgen.errors import SimulationError
from hwgen.isa.instructions import BY_NAME, OPCODE_BITS, Engine
from hwgen.rtl.accelerator import Accelerator
from hwgen.sim.cocotb_bench.program import TestFrame
from hwgen.sim.cocotb_bench.runner import build_cocotb, run_cocotb
from hwgen.sim.verilator import Source
from hwgen.sim.verilog_ports import Port, module_ports

TOP = "hwgen_top"
LOAD_COUNT_BITS = 8


@dataclass(frozen=True)
class Field:
    """A field of a packed vector."""

    name: str
    low: int
    width: int

    @property
    def mask(self) -> int:
        """Mask of the value, not shifted."""
        return (1 << self.width) - 1


def _layout(fields: Sequence[tuple[str, int]]) -> dict[str, Field]:
    layout, low = {}, 0
    for name, width in fields:
        layout[name] = Field(name, low, width)
        low += width
    return layout


def control_layout(ports: int) -> dict[str, Field]:
    """Inputs of the top that change often, and the reset; at most 32 bits."""
    fields = [("rst", 1)]
    for p in range(ports):
        fields += [
            (f"m_axi{p}_{name}", width)
            for name, width in (
                ("arready", 1),
                ("rvalid", 1),
                ("rlast", 1),
                ("rid", 2),
                ("rresp", 2),
            )
        ]
    fields += [("m_axi0_awready", 1), ("m_axi0_wready", 1), ("m_axi0_bvalid", 1)]
    fields += [("m_axi0_bresp", 2)]
    fields += [(f"s_axil_{name}", 1) for name in ("awvalid", "wvalid", "bready")]
    fields += [("s_axil_arvalid", 1), ("s_axil_rready", 1)]
    return _layout(fields)


def seen_layout(ports: int) -> dict[str, Field]:
    """The last edge: transfers (``_taken``), refused offers (``_refused``), state."""
    fields: list[tuple[str, int]] = []
    for p in range(ports):
        fields += [(f"ar{p}_taken", 1), (f"ar{p}_refused", 1), (f"ar{p}_id", 2), (f"r{p}_taken", 1)]
    fields += [("aw_taken", 1), ("aw_refused", 1), ("w_taken", 1), ("w_refused", 1), ("w_last", 1)]
    fields += [("b_taken", 1)]
    fields += [(f"axil_{name}_taken", 1) for name in ("aw", "w", "b", "ar", "r")]
    fields += [(f"axil_{name}_refused", 1) for name in ("aw", "w", "b", "ar", "r")]
    fields += [("interrupt", 1), ("resetting", 1), ("soft_reset", 1), ("running", 1)]
    fields += [("end_held", 1), ("active", len(Engine)), ("loads_done", LOAD_COUNT_BITS)]
    fields += [("broken", 1)]
    return _layout(fields)


def _packed(layout: dict[str, Field]) -> int:
    return sum(field.width for field in layout.values())


_AR = ("arid", "araddr", "arlen", "arsize", "arburst")
_AW = ("awid", "awaddr", "awlen", "awsize", "awburst")


def _digest(name: str, bank: str, lanes: int) -> list[str]:
    """Verilog that adds up what is written into a bank, in whatever order it comes.

    Equal sets of writes give equal sums; two sets that differ do so but for one chance in 2^64.
    """
    steps = [f"    h = {{32'd0, 32'({bank}.bank_write_address)}};"]
    for first in range(0, lanes, 8):
        used = reversed(range(first, min(first + 8, lanes)))
        masked = [
            f"{bank}.bank_write_data[{8 * i + 7}:{8 * i}] & {{8{{{bank}.bank_write_en[{i}]}}}}"
            for i in used
        ]
        enables = f"64'({bank}.bank_write_en[{min(first + 8, lanes) - 1}:{first}])"
        steps += [
            f"    h = (h ^ 64'({{{', '.join(masked)}}})) * 64'h9e3779b97f4a7c15;",
            f"    h = h ^ (h >> 29) ^ ({enables} << 40);",
        ]
    return [
        f"  always @(posedge clk) begin : add_{name}",
        "    reg [63:0] h;",
        *steps,
        f"    if (|{bank}.bank_write_en) {name} <= {name} + h * 64'hbf58476d1ce4e5b9;",
        "  end",
    ]


def wrapper(text: str, config: AcceleratorConfig) -> str:
    """Verilog of the module ``bench`` around the top."""
    ports = config.memory_ports
    top = module_ports(text, TOP)
    controls, seen = control_layout(ports), seen_layout(ports)
    if _packed(controls) > 32:
        raise SimulationError(f"At most 3 memory ports fit the controls, not {ports}")
    lines = ["module bench("]
    others = [
        *(top[f"m_axi{p}_rdata"] for p in range(ports)),
        *(top[f"s_axil_{name}"] for name in ("awaddr", "wdata", "wstrb", "araddr")),
    ]
    read_payloads = {f"ar{p}": [f"m_axi{p}_{name}" for name in _AR] for p in range(ports)}
    payloads = read_payloads | {
        "aw": [f"m_axi0_{name}" for name in _AW],
        "w": ["m_axi0_wdata", "m_axi0_wstrb", "m_axi0_wlast"],
        "axil_b": ["s_axil_bresp"],
        "axil_r": ["s_axil_rdata", "s_axil_rresp"],
    }

    def range_of(width: int) -> str:
        return f"[{width - 1}:0] " if width > 1 else ""

    def total(names: Sequence[str]) -> int:
        return sum(top[name].width for name in names)

    declared = ["  input clk", f"  input {range_of(_packed(controls))}control"]
    declared += [f"  input {range_of(port.width)}{port.name}" for port in others]
    declared += [f"  output reg {range_of(_packed(seen))}seen", "  output reg [31:0] broken = 0"]
    banks = range(len(config.bank_words))
    declared += [f"  output reg [63:0] bank{b}_digest = 0" for b in banks]
    declared += [
        f"  output reg {range_of(total(names))}{name}_payload" for name, names in payloads.items()
    ]
    lines += [",\n".join(declared), ");"]
    given = {port.name for port in others}
    constant = {"m_axi0_bid": "0", "s_axil_awprot": "0", "s_axil_arprot": "0", "clk": "clk"}
    connections = []
    for port in top.values():
        name = port.name
        if name in given:
            connections.append(f".{name}({name})")
        elif name in constant:
            connections.append(f".{name}({constant[name]})")
        elif port.direction == "input":
            field = controls[name]
            bits = f"{field.low + field.width - 1}:{field.low}"
            connections.append(f".{name}(control[{bits}])")
        else:
            lines.append(f"  wire {range_of(port.width)}{name};")
            connections.append(f".{name}({name})")
    lines.append(f"  {TOP} dut ({', '.join(connections)});")

    def control(name: str) -> str:
        return f"control[{controls[name].low}]"

    channels = {
        f"ar{p}": (f"m_axi{p}_arvalid", control(f"m_axi{p}_arready")) for p in range(ports)
    } | {
        "aw": ("m_axi0_awvalid", control("m_axi0_awready")),
        "w": ("m_axi0_wvalid", control("m_axi0_wready")),
        "axil_b": ("s_axil_bvalid", control("s_axil_bready")),
        "axil_r": ("s_axil_rvalid", control("s_axil_rready")),
    }
    lines += [f"  wire rst = {control('rst')};", "  reg resetting_before = 0;"]
    values = {
        "b_taken": f"{control('m_axi0_bvalid')} & m_axi0_bready",
        "w_last": "m_axi0_wlast",
        "interrupt": "interrupt",
        "resetting": "dut.resetting",
        "soft_reset": "dut.registers.soft_reset",
        "running": "dut.sequencer.running",
        "end_held": "dut.sequencer.held_valid & (dut.sequencer.held"
        f"[{OPCODE_BITS - 1}:0] == {BY_NAME['END'].code})",
        "loads_done": f"dut.sequencer.completed_load[{LOAD_COUNT_BITS - 1}:0]",
        "broken": "broken != 0",
    }
    for name in ("aw", "w", "ar"):
        valid, ready = control(f"s_axil_{name}valid"), f"s_axil_{name}ready"
        values[f"axil_{name}_taken"] = f"{valid} & {ready}"
        values[f"axil_{name}_refused"] = f"{valid} & ~{ready}"
    for p in range(ports):
        values[f"ar{p}_id"] = f"m_axi{p}_arid"
        values[f"r{p}_taken"] = f"{control(f'm_axi{p}_rvalid')} & m_axi{p}_rready"
    steps = []
    for index, (name, (valid, ready)) in enumerate(channels.items()):
        values[f"{name}_taken"] = f"{valid} & {ready}"
        values[f"{name}_refused"] = f"{valid} & ~{ready}"
        payload = f"{{{', '.join(reversed(payloads[name]))}}}"
        lines.append(f"  reg {name}_waits = 0;")
        steps += [
            f"    {name}_payload <= {payload};",
            f"    {name}_waits <= {valid} & ~{ready} & ~rst;",
            f"    if ({name}_waits & ~rst & (~{valid} | {payload} != {name}_payload))",
            f"      broken[{index}] <= 1;",
        ]
        if name.startswith("a") and not name.startswith("axil"):
            # While the masters drain, only what was offered before may still be on the bus.
            steps.append(
                f"    if ({valid} & ~{name}_waits & ~rst & resetting_before & dut.resetting)"
                f" broken[{16 + index}] <= 1;"
            )
    for engine in Engine:
        name = engine.name.lower()
        lines.append(f"  reg [7:0] {name}_started = 0;")
        steps.append(
            f"    {name}_started <= rst | dut.resetting ? 8'd0 : {name}_started"
            f" + {{7'd0, dut.sequencer.o_{name}__valid & dut.sequencer.o_{name}__ready}}"
            f" - {{7'd0, dut.sequencer.done[{engine.value}]}};"
        )
    active = ", ".join(f"{engine.name.lower()}_started != 0" for engine in reversed(Engine))
    values["active"] = f"{{{active}}}"
    for name, field in seen.items():
        bits = f"{field.low + field.width - 1}:{field.low}"
        value = values[name]
        if name.endswith(("_taken", "_refused")):
            value = f"({value}) & ~rst"
        steps.append(f"    seen[{bits}] <= {value};")
    for b in banks:
        lines += _digest(f"bank{b}_digest", f"dut.memory.bank{b}", config.rows)
    lines += ["  always @(posedge clk) begin", *steps, "    resetting_before <= dut.resetting;"]
    lines += ["  end", "endmodule", ""]
    return "\n".join(lines)


@cache
def build_bench(config: AcceleratorConfig) -> Path:
    """The executable of the bench for a configuration, from the cache or built now."""
    top = Accelerator(config)
    text = convert(top, TOP, top.leaves())
    sources = (Source("top.v", text.encode()), Source("bench.v", wrapper(text, config).encode()))
    return build_cocotb("bench", sources)


def run_bench(
    frame: TestFrame,
    scenarios: Sequence[dict[str, Any]],
    *,
    seed: int = 1,
    timeout: float = 3600,
    stop: bool = False,
) -> dict[str, Any]:
    """Run scenarios (:mod:`hwgen.sim.cocotb_bench.scenarios`) in one simulation.

    ``stop`` ends it with the first scenario that fails.

    Returns ``results`` (one per scenario: name, seed, cycles, error or null) and ``bins`` (counts).

    Raises:
        SimulationError: the simulation itself did not run to its end.
    """
    return run_cocotb(
        build_bench(frame.config),
        top="bench",
        module="hwgen.sim.cocotb_bench.bench",
        job=(frame, list(scenarios), stop),
        seed=seed,
        timeout=timeout,
    )


__all__ = [
    "Field",
    "Port",
    "build_bench",
    "control_layout",
    "run_bench",
    "seen_layout",
    "wrapper",
]
