# SPDX-License-Identifier: Apache-2.0
"""Leaves of four columns side by side at their two clocks, and what they must return."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from amaranth.back import verilog

from hwgen.rtl.columns.base import Leaf
from hwgen.rtl.columns.pumped import PumpedColumns
from hwgen.sim.verilator import Build, Source, build

#: Cycles from the activation of the last chain row to the sums.
LATENCY = 4
#: Rows that share the weights of a stage of the broadcast.
STAGE_ROWS = 16

Array = npt.NDArray[np.int64]

HARNESS = """
#include "Vdut.h"
#include "verilated.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
int main(int argc, char **) {
  VerilatedContext context;
  context.randReset(2);
  Vdut dut{&context};
  std::vector<unsigned char> in(%(bytes)d), before(%(bytes)d), out(16 * %(leaves)d);
  const auto give = [&](bool late) {
    // Between two edges a late signal has some old bits and some new ones.
    const auto copy = [&](void *to, int at, int bytes, bool unsettled) {
      for (int i = 0; i < bytes; ++i) {
        const unsigned char mask = unsettled ? rand() : 255;
        static_cast<unsigned char *>(to)[i] = (in[at + i] & mask) | (before[at + i] & ~mask);
      }
    };
%(give)s
  };
  dut.clk = 0; dut.clk2x = 0; dut.eval();
  while (fread(in.data(), 1, in.size(), stdin) == in.size()) {
    give(argc > 1);
    dut.eval();
    unsigned char *to = out.data();
%(outputs)s
    fwrite(out.data(), 1, out.size(), stdout);
    dut.clk2x = 1; dut.eval();
    dut.clk2x = 0; dut.clk = 0; dut.eval();
    give(false);
    dut.eval();
    before = in;
    dut.clk2x = 1; dut.clk = 1; dut.eval();
    dut.clk2x = 0; dut.eval();
  }
  return 0;
}
"""


@dataclass(frozen=True)
class Stimulus:
    """Inputs of every cycle."""

    activations: Array  #: [T, R], skewed
    swaps: Array  #: [T, R]
    weights: Array  #: [T, stages, 4]
    enables: Array  #: [T, R]

    @property
    def settled(self) -> int:
        """Cycles after which every register holds a known value."""
        return 3 * self.activations.shape[1]

    def packed(self) -> list[tuple[str, npt.NDArray[np.uint8]]]:
        """Port and bytes [T, n] of every input; weights as the strip packs them."""
        low, high = self.weights[..., ::2], self.weights[..., 1::2]
        pairs = ((high - (low < 0)) & 511) << 8 | (low & 255)
        return [
            ("activation", _bits(self.activations, 9)),
            ("swap", _bits(self.swaps, 1)),
            ("weight_in", _bits(pairs, 17)),
            ("weight_enable", _bits(self.enables, 1)),
        ]


def _bits(values: Array, width: int) -> npt.NDArray[np.uint8]:
    planes = ((values[..., None] >> np.arange(width)) & 1).astype(np.uint8)
    return np.packbits(planes.reshape(len(values), -1), axis=1, bitorder="little")


def stimulus(seed: int, rows: int, swap_distances: tuple[int, ...], repeat: int = 1) -> Stimulus:
    """Every kind of weights meets every kind of activations.

    Weights load all the time, by chain row in turn or anywhere, but no row in its swap's cycle.
    """
    rng = np.random.default_rng(seed)
    stages = -(-rows // STAGE_ROWS)
    entered, swapped, weights, enables = [], [], [], []

    def values(kind: str, shape: tuple[int, ...]) -> Array:
        if kind in ("0/255", "-128/127"):
            low, high = map(int, kind.split("/"))
            return np.where(rng.integers(0, 2, shape), low, high)
        if kind == "alternating":
            return np.where(np.arange(np.prod(shape)).reshape(shape) % 2, 127, -127)
        if kind == "extremes":
            return rng.choice([-128, -127, 127], shape)
        if kind in ("signed", "random"):
            return rng.integers(-128, 128, shape)
        if kind == "unsigned":
            return rng.integers(0, 256, shape)
        return np.full(shape, int(kind))

    for _ in range(repeat):
        for kind in ("-127", "-128", "127", "alternating", "extremes", "random"):
            for other in ("-128", "127", "255", "0/255", "-128/127", "signed", "unsigned"):
                cycles = 2 * rows + 8
                entered.append(values(other, (cycles, rows)))
                swapped.append(np.arange(cycles) % int(rng.choice(swap_distances)) == 0)
                weights.append(values(kind, (cycles, stages, 4)))
                if rng.integers(2):
                    enable = np.zeros((cycles, rows), np.int64)
                    enable[np.arange(cycles), np.arange(cycles) % rows] = 1
                    enable[:rows] |= np.tile(np.eye(8, dtype=np.int64), (rows, rows))[:rows, :rows]
                else:
                    enable = rng.integers(0, 2, (cycles, rows))
                enables.append(enable)
    a, s = np.concatenate(entered), np.concatenate(swapped)
    skewed, swaps = np.zeros_like(a), np.zeros(a.shape, np.int64)
    for p, behind in enumerate(PumpedColumns(rows).skew):
        skewed[behind:, p] = a[: len(a) - behind, p]
        swaps[behind:, p] = s[: len(s) - behind]
    return Stimulus(skewed, swaps, np.concatenate(weights), np.concatenate(enables) & ~swaps)


def expected(rows: int, given: Stimulus) -> Array:
    """Sums [T, 4] from the contract: the weights that are active when a row is registered."""
    cycles = len(given.activations)
    skew = PumpedColumns(rows).skew
    sums = np.zeros((cycles + rows + LATENCY, 4), np.int64)
    steps = np.arange(cycles)
    for p in range(rows):
        # The cycle of the last load, and of the last load before the last swap.
        load = np.maximum.accumulate(np.where(given.enables[:, p], steps, -1))
        before = np.concatenate([[-1], load[:-1]])
        at_swap = np.maximum.accumulate(np.where(given.swaps[:, p], steps, -1))
        taken = np.where(at_swap >= 0, before[at_swap], -1)
        weight = np.where(taken[:, None] >= 0, given.weights[taken, p // STAGE_ROWS], 0)
        start = skew[rows - 1] - skew[p] + LATENCY
        sums[start : start + cycles] += given.activations[:, p, None] * weight
    return sums[:cycles]


def simulate(
    leaves: Mapping[str, Leaf], given: Stimulus, *, late: bool = False
) -> dict[str, Array]:
    """Sums [T, 4] of every leaf; those of fewer rows take the first ones.

    ``late``: activations and weights settle in the second half of their cycle only.
    """
    most = given.activations.shape[1]
    columns = ["activation", "swap", "weight_in", "weight_enable"]
    texts, body, ports = [], [], []
    for i, (name, leaf) in enumerate(leaves.items()):
        text = verilog.convert(leaf, name=name, emit_src=False)
        texts.append(text)
        rows, bits = leaf.rows, leaf.columns.sum_shape.width
        ports.append(f"  output [127:0] total_{i},")
        wiring = [f".{port}({port}[{len(getattr(leaf, port)) - 1}:0])" for port in columns]
        # What a leaf has no register for is no port of its module.
        if "clk" in text.split(");")[0].replace("clk2x", ""):
            wiring.append(".clk(clk)")
        if " rst" in text.split(");")[0]:
            wiring.append(".rst(1'b0)")
        body += [
            f"  wire [{4 * bits - 1}:0] of_{i};",
            f"  {name} leaf_{i}(.clk2x(clk2x), {', '.join(wiring)}, .total(of_{i}));  // {rows}",
        ]
        for c in range(4):
            sign, low = (c + 1) * bits - 1, c * bits
            value = f"{{{{{32 - bits}{{of_{i}[{sign}]}}}}, of_{i}[{sign}:{low}]}}"
            body.append(f"  assign total_{i}[{32 * c + 31}:{32 * c}] = {value};")
    widths = {"activation": 9 * most, "swap": most, "weight_in": 34 * -(-most // STAGE_ROWS)}
    widths["weight_enable"] = most
    inputs = ", ".join(f"input [{widths[port] - 1}:0] {port}" for port in columns)
    bench = ["module bench(", *ports, f"  input clk, input clk2x, {inputs});", *body, "endmodule\n"]
    give, at, data = [], 0, []
    for port, packed in given.packed():
        unsettled = "late" if port in ("activation", "weight_in") else "false"
        give.append(f"    copy(&dut.{port}, {at}, {packed.shape[1]}, {unsettled});")
        at += packed.shape[1]
        data.append(packed)
    outputs = [f"    memcpy(to, &dut.total_{i}, 16); to += 16;" for i in range(len(leaves))]
    harness = HARNESS % {
        "bytes": at,
        "leaves": len(leaves),
        "give": "\n".join(give),
        "outputs": "\n".join(outputs),
    }
    executable = build(
        Build(
            top="bench",
            verilog=(
                Source("bench.v", "\n".join(bench).encode()),
                Source("leaves.v", "\n".join(texts).encode()),
                Source.of(Path(__file__).with_name("dsp48e2.v")),
                Source("unused.vlt", b"`verilator_config\nlint_off -rule UNUSED\n"),
            ),
            harness=(Source("harness.cpp", harness.encode()),),
        )
    )
    words = np.concatenate(data, axis=1).tobytes()
    command = [str(executable), *(["late"] if late else [])]
    done = subprocess.run(command, input=words, capture_output=True, check=True)
    found = np.frombuffer(done.stdout, np.int32).reshape(-1, len(leaves), 4).astype(np.int64)
    assert len(found) == len(given.activations)
    return {name: found[:, i] for i, name in enumerate(leaves)}
