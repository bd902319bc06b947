# SPDX-License-Identifier: Apache-2.0
"""One stream unit under cocotb: changing handshakes, resets at random cycles, words afterwards.

As at the top, a wrapper makes Python cheap: it is entered once per clock cycle, and the wrapper
checks in every cycle that an offer is neither withdrawn nor changed before it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwgen.errors import SimulationError
from hwgen.sim.cocotb_bench.runner import build_cocotb, run_cocotb
from hwgen.sim.unit_bench import pack_words
from hwgen.sim.verilator import Source
from hwgen.sim.verilog_ports import Port, module_ports

#: Bits of the control vector.
RST, I_VALID, O_READY, READY_AFTER_VALID = (1 << bit for bit in range(4))
#: Bits of what happened at the last clock edge.
I_TAKEN, O_TAKEN, BROKEN = (1 << bit for bit in range(3))
_STREAMS = ("i_stream__", "o_stream__")


@dataclass(frozen=True, kw_only=True)
class UnitScenario:
    """One passage of all words through the unit, after some that a reset cuts off."""

    seed: int
    #: Chances per cycle that the next word is offered; another one is drawn every few cycles.
    valid: tuple[float, ...] = (1.0,)
    #: The same for taking an output.
    ready: tuple[float, ...] = (1.0,)
    ready_after_valid: bool = False  #: READY only in cycles in which VALID is seen first
    resets: int = 0  #: passages that end in a reset at a random cycle


@dataclass(frozen=True, kw_only=True)
class UnitJob:
    """What the simulation is to do."""

    configuration: Mapping[str, int]
    inputs: Sequence[int]
    outputs: int  #: words that a passage returns
    scenarios: Sequence[UnitScenario]


@dataclass(frozen=True)
class Passage:
    """What a scenario came to."""

    seed: int
    cycles: int  #: resets included
    cut: tuple[tuple[int, int], ...]  #: words taken and returned before each reset
    outputs: npt.NDArray[np.uint8]  #: [words, bytes] of the whole passage, little endian
    error: str | None  #: which rule was broken, and when


def _statics(text: str, top: str) -> list[Port]:
    return [
        port
        for port in module_ports(text, top).values()
        if port.direction == "input"
        and port.name not in ("clk", "rst")
        and not port.name.startswith(_STREAMS)
    ]


def wrapper(text: str, top: str) -> str:
    """Verilog of the module ``bench`` around a unit."""
    ports = module_ports(text, top)

    def range_of(width: int) -> str:
        return f"[{width - 1}:0] " if width > 1 else ""

    statics = _statics(text, top)
    i_payload, o_payload = ports["i_stream__payload"], ports["o_stream__payload"]
    given = ",\n".join(
        f"  input {range_of(port.width)}{port.name}" for port in (*statics, i_payload)
    )
    same = ", ".join(f".{port.name}({port.name})" for port in (*statics, i_payload))
    return f"""module bench(
  input clk,
  input [3:0] control,
{given},
  output reg [2:0] seen = 0,
  output reg {range_of(o_payload.width)}word
);
  wire rst = control[0];
  wire i_ready, o_valid;
  wire {range_of(o_payload.width)}offer;
  wire o_ready = control[2] & (o_valid | ~control[3]);
  reg waits = 0;
  {top} dut (.clk(clk), .rst(rst), {same},
    .i_stream__valid(control[1]), .i_stream__ready(i_ready),
    .o_stream__valid(o_valid), .o_stream__ready(o_ready), .o_stream__payload(offer));
  always @(posedge clk) begin
    word <= offer;
    waits <= o_valid & ~o_ready & ~rst;
    seen <= {{waits & ~rst & (~o_valid | (offer != word)),
      o_valid & o_ready & ~rst, control[1] & i_ready & ~rst}};
  end
endmodule
"""


@cache
def _build(text: str, top: str, options: tuple[str, ...]) -> Path:
    sources = (Source("unit.v", text.encode()), Source("bench.v", wrapper(text, top).encode()))
    return build_cocotb("bench", sources, options=options)


def run_unit_bench(
    text: str,
    top: str,
    inputs: npt.NDArray[np.uint8],
    outputs: int,
    configuration: Mapping[str, int],
    scenarios: Sequence[UnitScenario],
    *,
    options: Sequence[str] = (),
    timeout: float = 1800,
) -> list[Passage]:
    """Push words through a unit, once per scenario, in one simulation.

    Args:
        text: the unit's Verilog: clock, reset, streams ``i_stream`` and ``o_stream``, statics.
        top: its module.
        inputs: uint8 [n, bytes], little endian.
        outputs: words that it returns for them.
        configuration: values of the static inputs; the others are 0.
        scenarios: how, one after the other.
        options: further Verilator options.
        timeout: seconds.

    Raises:
        SimulationError: the simulation itself did not run to its end.
    """
    statics = {port.name: port.width for port in _statics(text, top)}
    if unknown := sorted(set(configuration) - set(statics)):
        raise SimulationError(
            f"Configuration must name inputs of {top} ({sorted(statics)}), not {unknown}"
        )
    ports = module_ports(text, top)
    words = pack_words(inputs, ports["i_stream__payload"])
    job = UnitJob(
        configuration={
            name: configuration.get(name, 0) & ((1 << bits) - 1) for name, bits in statics.items()
        },
        inputs=[int.from_bytes(word.tobytes(), "little") for word in words],
        outputs=outputs,
        scenarios=list(scenarios),
    )
    report = run_cocotb(
        _build(text, top, tuple(options)),
        top="bench",
        module="hwgen.sim.cocotb_bench.unit_passages",
        job=job,
        seed=1,
        timeout=timeout,
    )
    bytes_each = ports["o_stream__payload"].bytes
    return [
        Passage(
            seed=result["seed"],
            cycles=result["cycles"],
            cut=tuple(map(tuple, result["cut"])),
            outputs=np.frombuffer(bytes.fromhex(result["outputs"]), np.uint8).reshape(
                -1, bytes_each
            ),
            error=result["error"],
        )
        for result in report["results"]
    ]


__all__ = ["Passage", "UnitJob", "UnitScenario", "run_unit_bench", "wrapper"]
