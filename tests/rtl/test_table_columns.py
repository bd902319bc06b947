# SPDX-License-Identifier: Apache-2.0
"""Columns of tables: primitives and their twin, both equal to the sums in every cycle."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from amaranth import Cat, ClockSignal, Instance, Module, ResetSignal, Signal
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.rtl.columns.tables import TableColumns
from hwgen.sim.verilator import Build, Source, build

pytestmark = pytest.mark.verilator

CASES = [
    TableColumns(rows, bits, unsigned=unsigned)
    for rows, bits, unsigned in (
        *((16, 4, False), (32, 4, True), (64, 4, False), (48, 2, True)),
        *((16, 3, True), (32, 5, False), (16, 6, False), (32, 7, True), (16, 8, True)),
    )
]

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
  unsigned char out[16] = {};
  dut.clk = 0; dut.rst = 1; dut.eval(); dut.clk = 1; dut.eval(); dut.rst = 0;
  dut.clk = 0; dut.eval();
  while (fread(in.data(), 1, in.size(), stdin) == in.size()) {
    const unsigned char *at = in.data();
    memcpy(&dut.activation, at, %(activation)d); at += %(activation)d;
    dut.signed_codes = at[0]; dut.swap = at[1]; dut.weight_valid = at[2]; dut.weight_row = at[3];
    dut.weight = at[4];
    dut.eval();
    memcpy(out, &dut.of_tables, 8); memcpy(out + 8, &dut.of_twin, 8);
    fwrite(out, 1, 16, stdout);
    dut.clk = 1; dut.eval();
    dut.clk = 0; dut.eval();
  }
  return 0;
}
"""


WAIVER = b"""`verilator_config
lint_off -rule UNUSED
lint_off -rule UNOPTFLAT
lint_off -rule DECLFILENAME
lint_off -rule PINCONNECTEMPTY
"""


class Bench(wiring.Component):
    """Both leaves as a strip of an array has them; activations and swap are skewed here."""

    def __init__(self, columns: TableColumns) -> None:
        self.columns = columns
        super().__init__(
            {
                "activation": In(8 * columns.rows),
                "signed_codes": In(1),
                "swap": In(1),
                "weight_valid": In(1),
                "weight_row": In(range(columns.rows)),
                "weight": In(columns.weight_bits),
                "of_tables": Out(64),
                "of_twin": Out(64),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns, code = self.columns, self.columns.code_bits
        lines = {0: (Cat(self.swap, self.signed_codes), self.activation)}
        for d in range(1, max(columns.skew) + 1):
            both = [Signal(len(v), name=f"line_{i}_{d}") for i, v in enumerate(lines[d - 1])]
            m.d.sync += [stage.eq(v) for stage, v in zip(both, lines[d - 1], strict=True)]
            lines[d] = both[0], both[1]
        codes, swaps = [], []
        for p, behind in enumerate(columns.skew):
            flags, given = lines[behind]
            byte = given.word_select(p, 8)
            codes.append(Cat(byte, byte[7] & flags[1])[:code].as_signed())
            swaps.append(flags[0])
        values = columns.shared(codes)
        shared = Signal(columns.activation_bits)
        m.d.sync += shared.eq(Cat(values))
        valid, row, word = (
            Signal.like(given, name=f"{name}_stage")
            for name, given in (
                ("valid", self.weight_valid),
                ("row", self.weight_row),
                ("word", self.weight),
            )
        )
        m.d.sync += [valid.eq(self.weight_valid), row.eq(self.weight_row), word.eq(self.weight)]
        enables = Cat(valid & (row == p) for p in range(columns.rows))
        control = Signal(columns.control_bits)
        m.d.comb += control.eq(columns.control(m, enables, Cat(swaps)))
        for name in ("tables", "twin"):
            total = Signal(columns.sum_shape)
            m.submodules[name] = Instance(
                f"leaf_{name}",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_activation=shared,
                i_swap=Cat(swaps),
                i_weight_enable=enables,
                i_weight_in=word,
                i_control=control,
                o_total=total,
            )
            extended = Cat(total, total[-1].replicate(64 - len(total)))
            m.d.comb += getattr(self, f"of_{name}").eq(extended)
        return m


def stimulus(
    columns: TableColumns, passes: int, seed: int
) -> tuple[bytes, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Inputs of every cycle; per cycle the sum of the row that enters in it, and whether one does.

    Passes are as short as the next weights allow or longer; weights come as early as they may, a
    row a cycle, or with gaps.
    """
    rng = np.random.default_rng(seed)
    rows, bits = columns.rows, columns.weight_bits
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    enter, swap = 0, []  # cycle in which the current pass begins
    weights, activations, given = [], [], []
    for _ in range(passes):
        kind = rng.integers(4)
        weights.append(
            np.full(rows, (low, high)[kind])
            if kind < 2
            else rng.choice([low, high], rows)
            if kind == 2
            else rng.integers(low, high + 1, rows)
        )
        # A row of weights: not before the cycle behind the swap of the pass before.
        start = (swap[-1] if swap else -1) + 1 + int(rng.choice([0, 0, 3, 40]))
        gaps = rng.choice([0, 0, 0, 1, 5], rows) if rng.integers(2) else np.zeros(rows, int)
        times = start + np.arange(rows) + np.cumsum(gaps)
        given.append(times)
        enter = int(times[-1]) + 1 + int(rng.choice([0, 0, 0, 2, 70]))
        swap.append(enter)
    cycles = swap[-1] + 100 + 2 * max(columns.skew)
    current = np.searchsorted(swap, np.arange(cycles), side="right") - 1
    row_enters = current >= 0
    signed = np.zeros(cycles, np.int64)
    rows_of = np.zeros((cycles, rows), np.int64)
    for number in range(passes):
        inside = current == number
        # Activations of int8 and uint8 never meet in a pass.
        is_signed = not columns.unsigned or bool(rng.integers(2))
        signed[inside] = is_signed
        ends = (-128, 127) if is_signed else (0, 255)
        shape = (int(inside.sum()), rows)
        kind = rng.integers(3)
        activations = (
            rng.choice(ends, shape)
            if kind == 0
            else np.full(shape, rng.choice(ends))
            if kind == 1
            else rng.integers(ends[0], ends[1] + 1, shape)
        )
        rows_of[inside] = activations
    expected = np.array(
        [rows_of[t] @ weights[current[t]] if row_enters[t] else 0 for t in range(cycles)]
    )
    words = np.zeros((cycles, rows + 5), np.uint8)
    words[:, :rows] = rows_of.astype(np.uint8)
    words[:, rows] = signed
    words[swap, rows + 1] = 1
    for times, values in zip(given, weights, strict=True):
        words[times, rows + 2] = 1
        words[times, rows + 3] = np.arange(rows)
        words[times, rows + 4] = values & ((1 << bits) - 1)
    return words.tobytes(), expected, row_enters


def run_bench(columns: TableColumns, data: bytes) -> npt.NDArray[np.int64]:
    """Sums of both leaves in every cycle, those of the tables first."""
    texts = {
        "bench": verilog.convert(Bench(columns), name="bench", emit_src=False),
        "leaf_tables": verilog.convert(
            columns.synthesis_leaf(), name="leaf_tables", emit_src=False
        ),
        "leaf_twin": verilog.convert(columns.leaf(), name="leaf_twin", emit_src=False),
    }
    harness = HARNESS % {"input": columns.rows + 5, "activation": columns.rows}
    executable = build(
        Build(
            top="bench",
            verilog=(
                *(Source(f"{name}.v", text.encode()) for name, text in texts.items()),
                Source.of(Path(__file__).with_name("xilinx_fabric.v")),
                Source("waiver.vlt", WAIVER),
            ),
            harness=(Source("harness.cpp", harness.encode()),),
        )
    )
    result = subprocess.run([executable], input=data, capture_output=True, check=True)
    return np.frombuffer(result.stdout, np.int64).reshape(-1, 2)


def wrong_rows(columns: TableColumns, seed: int) -> dict[str, int]:
    """How many rows' sums are wrong, per leaf, over 60 passes."""
    data, expected, enters = stimulus(columns, 60, seed)
    found = run_bench(columns, data)
    delay = columns.skew[-1] + columns.latency
    there = np.flatnonzero(enters[: len(found) - delay])
    assert len(there) > 60 * columns.rows
    return {
        name: int((found[there + delay, place] != expected[there]).sum())
        for place, name in enumerate(("tables", "twin"))
    }


@pytest.mark.parametrize("columns", CASES, ids=lambda c: c.name)
def test_both_leaves_make_the_sums(columns: TableColumns) -> None:
    assert wrong_rows(columns, 1) == {"tables": 0, "twin": 0}


@dataclasses.dataclass(frozen=True)
class Early(TableColumns):
    """The last group reads its table a cycle before it is filled."""

    @property
    def group_skew(self) -> tuple[int, ...]:
        *others, last = super().group_skew
        return (*others, last - 1)


def test_a_table_read_too_early_is_found() -> None:
    found = wrong_rows(Early(16, 4), 1)
    assert found["tables"] > 0
    assert found["twin"] == 0


@dataclasses.dataclass(frozen=True)
class Late(TableColumns):
    """The first group still reads the table that the pass after the next one's weights replace."""

    @property
    def group_skew(self) -> tuple[int, ...]:
        return tuple(cycles + 4 for cycles in super().group_skew)


def test_a_table_replaced_too_early_is_found() -> None:
    assert wrong_rows(Late(16, 4), 1)["tables"] > 0


def test_skew_between_both_bounds() -> None:
    """Filled before it is read, read before the next but one is written."""
    for rows in range(16, 257, 16):
        columns = TableColumns(rows, 4)
        for g, cycles in enumerate(columns.group_skew):
            assert 20 - rows + 4 * g <= cycles <= 4 * g + 5


def test_extremes_need_all_bits() -> None:
    """Every group's sum reaches both ends of its width: one bit less would not do."""
    for columns in CASES:
        for g in range(columns.groups):
            most = 4 * (g + 1) * columns.largest_code << columns.weight_bits - 1
            assert most >= 1 << columns.sum_bits(g) - 2
