# SPDX-License-Identifier: Apache-2.0
"""The DSP48E2 column and its twin: equal to each other and to their contract, every cycle."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from amaranth.back import verilog

from hwgen.rtl.columns import dual
from hwgen.rtl.columns.base import Leaf
from hwgen.rtl.columns.dual import DualColumns
from hwgen.sim.verilator import Build, Source, build

pytestmark = pytest.mark.verilator

ROWS = (1, 5, 8, 16, 32)
#: Cycles from the activation of the last chain row to the sums.
LATENCY = 4
MOST = max(ROWS)
SEGMENTS = MOST // 8
#: Cycles after which every register holds a known value.
SETTLED = 3 * MOST
#: Bytes of a cycle: activations, swap, weight_in, weight_enable.
INPUT_BYTES = 9 * MOST // 8 + MOST // 8 + 2 * SEGMENTS + MOST // 8

HARNESS = """
#include "Vdut.h"
#include "verilated.h"
#include <cstdio>
#include <cstring>
#include <vector>
int main() {
  VerilatedContext context;
  Vdut dut{&context};
  std::vector<unsigned char> in(%(input)d);
  std::vector<unsigned char> out(8 * %(leaves)d);
  dut.clk = 0; dut.eval();
  while (fread(in.data(), 1, in.size(), stdin) == in.size()) {
    const unsigned char *at = in.data();
    memcpy(&dut.activation, at, %(activation)d); at += %(activation)d;
    memcpy(&dut.swap, at, 4); at += 4;
    memcpy(&dut.weight_in, at, 8); at += 8;
    memcpy(&dut.weight_enable, at, 4);
    dut.eval();
    unsigned char *to = out.data();
%(outputs)s
    fwrite(out.data(), 1, out.size(), stdout);
    dut.clk = 1; dut.eval();
    dut.clk = 0; dut.eval();
  }
  return 0;
}
"""


def leaf_text(leaf: Leaf, name: str) -> str:
    """Verilog of a leaf."""
    return verilog.convert(leaf, name=name, emit_src=False)


def total_bits(rows: int) -> int:
    """Width of a column's sum."""
    return DualColumns(rows).sum_shape.width


def bench_text(leaves: list[tuple[str, int]]) -> str:
    """All leaves side by side; those of fewer rows take the first ones."""
    ports = [f"  output [63:0] total_{i}," for i in range(len(leaves))]
    body = []
    for i, (name, rows) in enumerate(leaves):
        bits = 2 * total_bits(rows)
        segments = -(-rows // 8)
        body += [
            f"  wire [{bits - 1}:0] of_{i};",
            f"  {name} leaf_{i}(.clk(clk), .rst(1'b0), .activation(activation[{9 * rows - 1}:0]),",
            f"    .swap(swap[{rows - 1}:0]), .weight_in(weight_in[{16 * segments - 1}:0]),",
            f"    .weight_enable(weight_enable[{rows - 1}:0]), .total(of_{i}));",
            f"  assign total_{i} = {{{64 - bits}'d0, of_{i}}};",
        ]
    return "\n".join(
        [
            "module bench(",
            *ports,
            f"  input clk, input [{9 * MOST - 1}:0] activation, input [{MOST - 1}:0] swap,",
            f"  input [{16 * SEGMENTS - 1}:0] weight_in, input [{MOST - 1}:0] weight_enable);",
            *body,
            "endmodule\n",
        ]
    )


def stimulus(seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Skewed activations [T, R], swaps [T, R], weight pairs [T, segments, 2], enables [T, R].

    Every kind of weights meets every kind of activations; swaps 1 to 40 cycles apart, weights load
    all the time, by chain row in turn or anywhere.
    """
    rng = np.random.default_rng(seed)
    weights = ["-127", "-128", "127", "alternating", "extremes", "random"]
    activations = ["-128", "127", "255", "0/255", "-128/127", "signed", "unsigned"]
    entered, swapped, pairs, enables = [], [], [], []

    def values(kind: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
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

    for kind in weights:
        for other in activations:
            cycles = 3 * MOST
            entered.append(values(other, (cycles, MOST)))
            every = int(rng.choice([1, 2, 3, 8, 32, 40]))
            swapped.append(np.arange(cycles) % every == 0)
            pairs.append(values(kind, (cycles, SEGMENTS, 2)))
            enable = np.zeros((cycles, MOST), np.int64)
            if rng.integers(2):
                enable[np.arange(cycles), np.arange(cycles) % MOST] = 1
                enable[:MOST] |= np.tile(np.eye(8, dtype=np.int64), (MOST // 8, SEGMENTS))
            else:
                enable = rng.integers(0, 2, (cycles, MOST))
            enables.append(enable)
    a, s = np.concatenate(entered), np.concatenate(swapped)
    skewed, swaps = np.zeros_like(a), np.zeros(a.shape, np.int64)
    for p in range(MOST):
        skewed[p:, p] = a[: len(a) - p, p]
        swaps[p:, p] = s[: len(s) - p]
    return skewed, swaps, np.concatenate(pairs), np.concatenate(enables)


def expected(
    rows: int,
    a: npt.NDArray[np.int64],
    swap: npt.NDArray[np.int64],
    pairs: npt.NDArray[np.int64],
    enable: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Both sums [T, 2] from the contract: the weights that are active when a row is registered."""
    cycles = len(a)
    sums = np.zeros((cycles + rows + LATENCY, 2), np.int64)
    for p in range(rows):
        steps = np.arange(cycles)
        # The cycle of the last load, and of the last load before the last swap.
        load = np.maximum.accumulate(np.where(enable[:, p], steps, -1))
        before = np.concatenate([[-1], load[:-1]])
        at_swap = np.maximum.accumulate(np.where(swap[:, p], steps, -1))
        taken = np.where(at_swap >= 0, before[at_swap], -1)
        weight = np.where(taken[:, None] >= 0, pairs[taken, p // 8], 0)
        # Registered in cycle t, in the sum of the last row after its skew and the latency.
        start = rows - 1 - p + LATENCY
        sums[start : start + cycles] += a[:, p, None] * weight
    return sums[:cycles]


def pack(
    a: npt.NDArray[np.int64],
    swap: npt.NDArray[np.int64],
    pairs: npt.NDArray[np.int64],
    enable: npt.NDArray[np.int64],
) -> bytes:
    """Inputs of every cycle, little endian."""

    def bits(values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint8]:
        planes = ((values[..., None] >> np.arange(width)) & 1).astype(np.uint8)
        return np.packbits(planes.reshape(len(values), -1), axis=1, bitorder="little")

    parts = [bits(a, 9), bits(swap, 1), bits(pairs, 8), bits(enable, 1)]
    data = np.concatenate(parts, axis=1)
    assert data.shape[1] == INPUT_BYTES
    return data.tobytes()


@pytest.fixture(scope="module")
def simulated() -> tuple[dict[tuple[str, int], npt.NDArray[np.int64]], tuple[np.ndarray, ...]]:
    """Outputs [T, 2] of every leaf, and the stimulus."""
    texts = {}
    for rows in ROWS:
        texts["twin", rows] = leaf_text(DualColumns(rows).leaf(), f"twin_{rows}")
        texts["dsp", rows] = leaf_text(DualColumns(rows).synthesis_leaf(), f"dsp_{rows}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual, "TAP_ROWS", 4)
        texts["sparse", 32] = leaf_text(DualColumns(32).synthesis_leaf(), "sparse_32")
        patch.setattr(dual, "TAP_ROWS", 2)
        patch.setattr(dual, "FIRST_TAP_ROWS", 6)
        texts["late", 32] = leaf_text(DualColumns(32).synthesis_leaf(), "late_32")
    leaves = [(f"{kind}_{rows}", rows) for kind, rows in texts]
    assigns = "\n".join(f"    memcpy(to, &dut.total_{i}, 8); to += 8;" for i in range(len(leaves)))
    harness = HARNESS % {
        "input": INPUT_BYTES,
        "leaves": len(leaves),
        "activation": 9 * MOST // 8,
        "outputs": assigns,
    }
    waiver = b"`verilator_config\nlint_off -rule UNUSED\n"
    executable = build(
        Build(
            top="bench",
            verilog=(
                Source("bench.v", bench_text(leaves).encode()),
                Source("leaves.v", "\n".join(texts.values()).encode()),
                Source.of(Path(__file__).with_name("dsp48e2.v")),
                Source("unused.vlt", waiver),
            ),
            harness=(Source("harness.cpp", harness.encode()),),
        )
    )
    given = stimulus(7)
    done = subprocess.run([executable], input=pack(*given), capture_output=True, check=True)
    words = np.frombuffer(done.stdout, np.uint64).reshape(-1, len(leaves))
    assert len(words) == len(given[0])
    outputs = {}
    for i, key in enumerate(texts):
        bits = total_bits(key[1])
        lanes = []
        for lane in range(2):
            value = (words[:, i] >> np.uint64(lane * bits)).astype(np.int64) & ((1 << bits) - 1)
            lanes.append(value - ((value >> (bits - 1)) << bits))
        outputs[key] = np.stack(lanes, axis=1)
    return outputs, given


@pytest.mark.parametrize("rows", ROWS)
def test_both_leaves_keep_the_contract(simulated, rows: int) -> None:
    outputs, given = simulated
    wanted = expected(rows, *given)[SETTLED:]
    for kind in ("twin", "dsp"):
        np.testing.assert_array_equal(outputs[kind, rows][SETTLED:], wanted, err_msg=kind)
    if rows == MOST:  # the stimulus reaches the ends
        assert wanted.max() == rows * 128 * 128 or wanted.max() == rows * 127 * 255
        assert wanted.min() == -rows * 128 * 255


@pytest.mark.parametrize("kind", ["sparse", "late"])
def test_looking_too_seldom_is_seen(simulated, kind: str) -> None:
    outputs, given = simulated
    wanted = expected(32, *given)[SETTLED:]
    assert (outputs[kind, 32][SETTLED:] != wanted).any()
