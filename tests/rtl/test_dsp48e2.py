# SPDX-License-Identifier: Apache-2.0
"""The tests' model of DSP48E2 against the tables and figures of UG579, register by register."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hwgen.sim.verilator import Build, Source, build

pytestmark = pytest.mark.verilator

#: UG579, multiplier operand by INMODE[3:0], pre-adder in front of A: what AD takes ...
TABLE = {
    0b0000: "A2",
    0b0001: "A1",
    0b0010: "0",
    0b0011: "0",
    0b0100: "D+A2",
    0b0101: "D+A1",
    0b0110: "D",
    0b0111: "D",
    0b1000: "-A2",
    0b1001: "-A1",
    0b1010: "0",
    0b1011: "0",
    0b1100: "D-A2",
    0b1101: "D-A1",
    0b1110: "D",
    0b1111: "D",
}
#: Attributes of each block: AMULTSEL, AREG, BREG, INMODEREG, IS_INMODE_INVERTED; whether it is the
#: first of a cascade.
BLOCKS = (
    ("AD", 2, 2, 1, 0b00000, True),
    ("AD", 2, 1, 1, 0b00110, False),
    ("AD", 2, 2, 0, 0b10101, False),
    ("AD", 1, 1, 0, 0b00000, True),
    ("A", 2, 2, 1, 0b00000, False),
    ("A", 1, 1, 1, 0b00010, False),
)
ENABLES = ("A1", "A2", "D", "AD", "B1", "B2", "M", "P", "INMODE")
RESETS = ("A", "B", "C", "D", "M", "P", "CTRL", "INMODE", "ALUMODE", "ALLCARRYIN")
CYCLES = 4000


def legal_inmode(block: tuple[str, int, int, int, int, bool]) -> int:
    """Bits of INMODE behind the inversion that may be 1."""
    select, a_registers, b_registers, _, _, _ = block
    mask = 0b01110 if select == "AD" else 0b00010
    return mask | (a_registers == 2) | (b_registers == 2) << 4


class Block:
    """A block in Python: all registers as numbers, the operand by the table."""

    def __init__(self, block: tuple[str, int, int, int, int, bool]) -> None:
        self.select, self.a_registers, self.b_registers, self.registered, self.inverted, _ = block
        self.a1 = self.a2 = self.d = self.ad = self.b1 = self.b2 = self.m = self.p = 0
        self.inmode = 0

    def edge(self, pins: dict[str, int], ce: dict[str, int], above: int) -> None:
        """One edge; ``above``: PCIN, 0 for the first of a cascade."""
        pin = pins["INMODE"] ^ self.inverted
        mode = self.inmode if self.registered else pin
        values = {"A1": self.a1, "A2": self.a2, "D": self.d, "0": 0}
        text = TABLE[mode & 15]
        added = values.get(text)
        if added is None:
            sign = -1 if "-" in text else 1
            first, _, second = text.partition("-" if sign < 0 else "+")
            added = (values[first] if first else 0) + sign * values[second]
        added = (added + (1 << 26)) % (1 << 27) - (1 << 26)
        operand = self.ad if self.select == "AD" else added
        other = self.b1 if mode >> 4 else self.b2
        p = (above + self.m) % (1 << 48)
        new_a2 = self.a1 if self.a_registers == 2 else pins["A"]
        new_b2 = self.b1 if self.b_registers == 2 else pins["B"]
        if ce["P"]:
            self.p = p
        if ce["M"]:
            self.m = operand * other
        if ce["AD"]:
            self.ad = added
        if ce["A2"]:
            self.a2 = new_a2
        if ce["A1"]:
            self.a1 = pins["A"]
        if ce["B2"]:
            self.b2 = new_b2
        if ce["B1"]:
            self.b1 = pins["B"]
        if ce["D"]:
            self.d = pins["D"]
        if ce["INMODE"]:
            self.inmode = pin


def bench(blocks: tuple[tuple[str, int, int, int, int, bool], ...]) -> str:
    """Blocks side by side; those that are not the first of a cascade stand below the one before."""
    lines = ["module bench(input clk, input [29:0] a, input [17:0] b, input [26:0] d,"]
    lines.append(f"  input [{5 * len(blocks) - 1}:0] inmode, input [{len(ENABLES) - 1}:0] ce,")
    lines.append(f"  output [{64 * len(blocks) - 1}:0] p);")
    for i, (select, a_regs, b_regs, registered, inverted, first) in enumerate(blocks):
        attributes = {
            "AMULTSEL": f'"{select}"',
            "AREG": a_regs,
            "ACASCREG": a_regs,
            "BREG": b_regs,
            "BCASCREG": b_regs,
            "INMODEREG": registered,
            "IS_INMODE_INVERTED": f"5'd{inverted}",
            **{f"{name}REG": 0 for name in ("OPMODE", "ALUMODE", "CARRYIN", "CARRYINSEL")},
        }
        pins = {
            "CLK": "clk",
            "A": "a",
            "B": "b",
            "D": "d",
            "INMODE": f"inmode[{5 * i + 4}:{5 * i}]",
            "OPMODE": "9'b000000101" if first else "9'b000010101",
            "PCIN": "48'd0" if first else f"c_{i - 1}",
            "P": f"p_{i}",
            "PCOUT": f"c_{i}",
            **{f"CE{name}": f"ce[{k}]" for k, name in enumerate(ENABLES)},
            **{f"CE{name}": "1'b0" for name in ("C", "ALUMODE", "CARRYIN", "CTRL")},
            **{f"RST{name}": "1'b0" for name in RESETS},
            **dict.fromkeys(("CARRYCASCIN", "MULTSIGNIN", "CARRYIN"), "1'b0"),
            "CARRYINSEL": "3'd0",
            "ALUMODE": "4'd0",
            "C": "48'd0",
            "ACIN": "30'd0",
            "BCIN": "18'd0",
        }
        lines += [
            f"  wire [47:0] p_{i}, c_{i};",
            f"  DSP48E2 #({', '.join(f'.{k}({v})' for k, v in attributes.items())}) block_{i}(",
            f"    {', '.join(f'.{k}({v})' for k, v in pins.items())});",
            f"  assign p[{64 * i + 63}:{64 * i}] = {{16'd0, p_{i}}};",
        ]
    return "\n".join([*lines, "endmodule\n"])


HARNESS = """
#include "Vdut.h"
#include "verilated.h"
#include <cstdio>
#include <cstring>
int main() {
  VerilatedContext context;
  Vdut dut{&context};
  unsigned words[6];
  dut.clk = 0; dut.eval();
  while (fread(words, 4, 6, stdin) == 6) {
    dut.a = words[0]; dut.b = words[1]; dut.d = words[2];
    dut.inmode = words[3]; dut.ce = words[4];
    dut.eval();
    dut.clk = 1; dut.eval();
    dut.clk = 0; dut.eval();
    fwrite(&dut.p, 8, %d, stdout);
  }
  return 0;
}
"""


def executable(blocks: tuple[tuple[str, int, int, int, int, bool], ...]) -> Path:
    """The simulation of blocks side by side."""
    return build(
        Build(
            top="bench",
            verilog=(
                Source("bench.v", bench(blocks).encode()),
                Source.of(Path(__file__).with_name("dsp48e2.v")),
                Source("unused.vlt", b"`verilator_config\nlint_off -rule UNUSED\n"),
            ),
            harness=(Source("harness.cpp", (HARNESS % len(blocks)).encode()),),
        )
    )


def test_registers_operands_and_cascade() -> None:
    """Every mode of INMODE, registered and not, inverted and not; every clock enable at random."""
    rng = np.random.default_rng(3)
    # The first cycles fill all registers.
    ce = np.where(np.arange(CYCLES) < 6, 511, rng.integers(0, 512, CYCLES))
    a = rng.integers(-(1 << 26), 1 << 26, CYCLES)
    b = rng.integers(-(1 << 17), 1 << 17, CYCLES)
    d = rng.integers(-(1 << 26), 1 << 26, CYCLES)
    # Corners: the pre-adder wraps, the product is as long as can be.
    a[rng.integers(0, 2, CYCLES) == 0] = -(1 << 26)
    d[rng.integers(0, 4, CYCLES) == 0] = -(1 << 26)
    b[rng.integers(0, 4, CYCLES) == 0] = -(1 << 17)
    modes = []
    for block in BLOCKS:
        modes.append((rng.integers(0, 32, CYCLES) & legal_inmode(block)) ^ block[4])
    inmode = sum(mode << 5 * i for i, mode in enumerate(modes))
    words = np.stack([a & 0x3FFFFFFF, b & 0x3FFFF, d & 0x7FFFFFF, inmode, ce, ce * 0], axis=1)
    words = words.astype(np.uint32)
    done = subprocess.run(
        [executable(BLOCKS)], input=words.tobytes(), capture_output=True, check=True
    )
    found = np.frombuffer(done.stdout, np.uint64).reshape(CYCLES, len(BLOCKS))

    models = [Block(block) for block in BLOCKS]
    wanted = np.zeros((CYCLES, len(BLOCKS)), np.uint64)
    for t in range(CYCLES):
        enables = {name: int(ce[t]) >> k & 1 for k, name in enumerate(ENABLES)}
        above = [0, *(model.p for model in models)]
        for i, model in enumerate(models):
            pins = {"A": int(a[t]), "B": int(b[t]), "D": int(d[t]), "INMODE": int(modes[i][t])}
            model.edge(pins, enables, 0 if BLOCKS[i][5] else above[i])
        wanted[t] = [model.p for model in models]
    np.testing.assert_array_equal(found[6:], wanted[6:])
