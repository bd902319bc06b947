# SPDX-License-Identifier: Apache-2.0
"""The array of several column groups, cycle by cycle: layers one behind the other, exactly.

Every layer runs on some of the groups, in slices where its weights are wider than the columns; what
the array does not look at is random.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.columns import ColumnGroup, parse_groups
from hwgen.emit.verilog import convert, convert_leaf, external_modules
from hwgen.numerics.formats import weight_format
from hwgen.numerics.matmul import matmul, matmul_int64
from hwgen.rtl.columns import columns_of
from hwgen.rtl.systolic_array import SystolicArray
from hwgen.sim.verilator import Build, Source, build
from hwgen.sim.verilog_ports import Port, module_ports
from hwgen.units.folder import VERILATOR_OPTIONS

pytestmark = pytest.mark.verilator

Array = npt.NDArray[np.int64]

HARNESS = """
#include "Vdut.h"
#include "verilated.h"
#include <cstdio>
#include <cstring>
#include <vector>
int main() {
  VerilatedContext context;
  Vdut dut{&context};
  std::vector<unsigned char> in(%(given)d), out(%(taken)d);
  dut.clk = 0; dut.rst = 1; dut.eval();
  for (int edge = 0; edge < 4; ++edge) { dut.clk = !dut.clk; dut.eval(); }
  dut.rst = 0;
  while (fread(in.data(), 1, in.size(), stdin) == in.size()) {
    const unsigned char *at = in.data();
%(inputs)s
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


@dataclass(frozen=True)
class Shape:
    """What an array is built of."""

    rows: int
    groups: str
    lanes: int
    tile_rows: int = 16
    unsigned: int = 1 << 20  #: columns that may get uint8; the rest of their groups may, too

    @property
    def parts(self) -> tuple[ColumnGroup, ...]:
        return parse_groups(self.groups)

    @property
    def slice_widths(self) -> tuple[int, ...]:
        return tuple(sorted({group.weight_bits for group in self.parts if group.takes_slices}))

    def takes_unsigned(self, used: int) -> bool:
        """Whether a layer on so many groups may have uint8 activations."""
        before = sum(group.columns for group in self.parts[: used - 1])
        return before < self.unsigned or all(group.kind == "dual" for group in self.parts[:used])

    def last_row(self, bits: int) -> int:
        """Cycles that the last chain row of fabric columns is behind the row's entry.

        Fabric columns: cascades of 16 rows or less with two rows (one bit: four) a stage, each
        ready a cycle after the one before it. The last row's weights come over a register for
        every 8 rows, and must be there.
        """
        step = 4 if bits == 1 else 2
        cascades = -(-self.rows // 16)
        longest = -(-self.rows // (cascades * step))
        behind = longest - 1 + -(-self.rows // (longest * step)) - 1
        return max(behind, (self.rows - 1) // 8 + 1)

    def last_row_of(self, group: ColumnGroup) -> int:
        """The same of any columns: cascades of DSP blocks have a row a cycle, pumped ones two."""
        if group.kind == "pumped":
            return self.rows // 2
        return self.rows - 1 if group.kind == "dual" else self.last_row(group.weight_bits)

    def delays(self) -> list[int]:
        """Cycles from a row's entry to its sums, of every column in order, from the definition.

        A strip is a cycle later than the one before it whose rows are as far apart.
        """
        delays: list[int] = []
        strips = {"dual": 0, "pumped": 0, 2: 0, 1: 0}
        before: tuple[int, int] | None = None
        joined = self.rows > 16
        for g, group in enumerate(self.parts):
            fabric = group.kind == "digits"
            apart = min(group.weight_bits, 2) if fabric else group.kind
            latency = {1: 2, 2: 2, 3: 3, 4: 3, 5: 4, 6: 4, 7: 4, 8: 4}[group.weight_bits]
            latency += joined and fabric
            for _ in range(group.columns):
                strip = (g, len(delays) // self.lanes)
                strips[apart] += strip != before
                before = strip
                last = self.last_row_of(group)
                delays.append(strips[apart] - 1 + last + latency)
        return delays


def memcpy(ports: Sequence[Port], pattern: str) -> str:
    return "\n".join(pattern.format(name=port.cpp_name, size=port.bytes) for port in ports)


class Compiled(NamedTuple):
    """The simulation of an array."""

    array: SystolicArray
    executable: Path
    given: list[Port]
    taken: list[Port]


@functools.cache
def compiled(shape: Shape) -> Compiled:
    array = SystolicArray(
        rows=shape.rows,
        groups=shape.parts,
        lanes=shape.lanes,
        tile_rows=shape.tile_rows,
        slice_widths=shape.slice_widths,
        unsigned_columns=shape.unsigned,
    )
    text = convert(array, "array", array.leaves())
    ports = module_ports(text, "array").values()
    given = [p for p in ports if p.direction == "input" and p.name not in ("clk", "clk2x", "rst")]
    taken = [p for p in ports if p.direction == "output"]
    harness = HARNESS % {
        "given": sum(port.bytes for port in given),
        "taken": sum(port.bytes for port in taken),
        "inputs": memcpy(given, "    memcpy(&dut.{name}, at, {size}); at += {size};"),
        "outputs": memcpy(taken, "    memcpy(to, &dut.{name}, {size}); to += {size};"),
    }
    executable = build(
        Build(
            top="array",
            verilog=(Source("array.v", text.encode()),),
            harness=(Source("harness.cpp", harness.encode()),),
            options=VERILATOR_OPTIONS,
        )
    )
    return Compiled(array, executable, given, taken)


def packed(values: Array, bits: int) -> npt.NDArray[np.uint8]:
    """[T, n] fields of some bits -> [T, bytes], the first one lowest."""
    planes = ((values[..., None] >> np.arange(bits)) & 1).astype(np.uint8)
    return np.packbits(planes.reshape(len(values), -1), axis=1, bitorder="little")


@dataclass
class Layer:
    """A product [M, K] @ [K, N] of one tile on the first ``used`` groups."""

    activations: npt.NDArray[Any]  #: int8 or uint8
    weights: Array
    bits: int  #: of a weight
    used: int

    @property
    def expected(self) -> Array:
        if self.weights.min() == -128:  # no weight of a layer, but exact all the same
            return matmul_int64(self.activations, self.weights)
        return matmul(self.activations, self.weights, weight_bits=self.bits).astype(np.int64)


@dataclass
class Pass:
    """Cells [R, n] of every group, in the order of the reduction; the activations [M, R]."""

    cells: list[Array]
    activations: npt.NDArray[Any]
    shift: int  #: index of a slice width from 1, 0 for none


def cells_of(group: ColumnGroup, weights: Array, s: int, slices: int, ws: int) -> Array:
    """What the cells of a group store of slice s (from below) of weights."""
    low = (weights >> (s * ws)) & ((1 << ws) - 1)
    low -= (low >> (ws - 1)) << ws
    carry = (weights >> (s * ws - 1)) & 1 if s else np.zeros_like(weights)
    if group.weight_bits == 1:
        return (weights < 0).astype(np.int64)
    if slices == 1:
        low, carry = weights, np.zeros_like(weights)
    if group.takes_slices:
        return (low & ((1 << group.weight_bits) - 1)) | carry << group.weight_bits
    return (low + carry) & 255


def passes_of(shape: Shape, layer: Layer, rng: np.random.Generator) -> list[Pass]:
    """The passes of a layer: slices from the top one down, in each all of the reduction."""
    groups = shape.parts
    ws = min(group.weight_bits for group in groups[: layer.used])
    slices = -(-layer.bits // ws) if layer.bits > ws else 1
    rows = shape.rows
    k, n = layer.weights.shape
    a = np.pad(layer.activations, ((0, 0), (0, -k % rows)))
    total = sum(group.columns for group in groups[: layer.used])
    assert n <= total
    w = np.pad(layer.weights, ((0, -k % rows), (0, total - n)), constant_values=1)
    passes = []
    for s in reversed(range(slices)):
        for step in range(len(w) // rows):
            block = w[step * rows : (step + 1) * rows]
            cells, start = [], 0
            for g, group in enumerate(groups):
                if g < layer.used:
                    part = block[:, start : start + group.columns]
                    cells.append(cells_of(group, part, s, slices, ws))
                else:
                    anything = rng.integers(0, 1 << group.cell_bits, (rows, group.columns))
                    cells.append(anything)
                start += group.columns
            shifted = step == 0 and s < slices - 1
            shift = shape.slice_widths.index(ws) + 1 if shifted else 0
            passes.append(Pass(cells, a[:, step * rows : (step + 1) * rows], shift))
    return passes


@dataclass
class Timeline:
    """Inputs by cycle, and what must come out."""

    events: list[tuple[int, str, Any]] = field(default_factory=list)
    complete: dict[int, int] = field(default_factory=dict)  #: bank by cycle
    #: cycle of the data, layer, row, segment, offset, whether pairs are added up
    reads: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    end: int = 0


def schedule(shape: Shape, layers: Sequence[Layer], rng: np.random.Generator) -> Timeline:
    """All layers, as tightly as the array allows; sometimes looser."""
    line = Timeline()
    array = compiled(shape).array
    rows, delays = shape.rows, shape.delays()
    weights_from = 2  # the last pass's swap
    entry_from = 2
    drain_from = 2
    bank_from = [2, 2]  # last pass
    minimum = array.minimum_pass_rows
    for index, layer in enumerate(layers):
        bank = index % 2
        m = len(layer.activations)
        passes = passes_of(shape, layer, rng)
        bubbles = rng.choice([0.0, 0.0, 0.3])
        last_rows = np.zeros(m, np.int64) - minimum
        for number, one in enumerate(passes):
            # Weights, a row a cycle; sometimes with pauses.
            pauses = rng.random(rows) < rng.choice([0.0, 0.0, 0.2])
            times = weights_from + np.cumsum(pauses) + np.arange(rows)
            for p, t in enumerate(times):
                line.events.append(
                    (t, "weights", (p, [cells[rows - 1 - p] for cells in one.cells]))
                )
            first = max(entry_from, int(times[-1]) + 1)
            last = number == len(passes) - 1
            first = max(first, bank_from[bank] if last else 0)
            entries = first + np.arange(m) + np.cumsum(rng.random(m) < bubbles)
            entries += max(0, int((last_rows + minimum - entries).max()))
            last_rows = entries
            for r, t in enumerate(entries):
                entry = {
                    "valid": 1,
                    "first": number == 0,
                    "last": last,
                    "end": last and r == m - 1,
                    "bank": bank,
                    "row": r,
                    "shift": one.shift,
                }
                signed = layer.activations.dtype == np.int8
                line.events.append((t, "row", (one.activations[r], signed, r == 0, entry)))
            weights_from = max(int(entries[0]), int(times[-1]) + 1)
            entry_from = int(entries[-1]) + 1
        # Every strip has written: the slowest one says so.
        done = int(entries[-1]) + max(delays) + 2
        line.complete[done] = bank
        scans = [(s, int(rng.integers(shape.lanes))) for s in range(array.segments)]
        scans += [(s, 0) for s in range(array.segments)]
        start = max(done, drain_from)
        paired = max(array.pairs.values(), default=1 << 20) < layer.expected.shape[1]
        for s, offset in scans:
            for r in range(m):
                both = int(rng.integers(2)) if paired else 0
                line.events.append((start + r, "drain", (bank, r, s, offset, both)))
                line.reads.append((start + r + 4, index, r, s, offset, both))
            start += m
        drain_from = start
        # The last pass of the bank's next tile follows the rows that are read.
        bank_from[bank] = start - m
    line.end = drain_from + 5
    return line


def stimulus(shape: Shape, line: Timeline, rng: np.random.Generator) -> dict[str, Array]:
    """Fields [T, n] of every input; random where nothing is said."""
    end = line.end
    array = compiled(shape).array
    widths = {name: member.width for name, member in array.layout}
    ports: dict[str, Array] = {
        "activations": rng.integers(0, 256, (end, shape.rows)),
        "signed_codes": rng.integers(0, 2, (end, 1)),
        "swap": np.zeros((end, 1), np.int64),
        "drain_bank": rng.integers(0, 2, (end, 1)),
        "drain_row": rng.integers(0, shape.tile_rows, (end, 1)),
        "drain_segment": rng.integers(0, array.segments, (end, 1)),
        "drain_offset": rng.integers(0, shape.lanes, (end, 1)),
        "drain_pairs": rng.integers(0, 2, (end, 1)),
    }
    for g, group in enumerate(shape.parts):
        ports[f"weight_valid{g}"] = np.zeros((end, 1), np.int64)
        ports[f"weight_row{g}"] = rng.integers(0, shape.rows, (end, 1))
        ports[f"weights{g}"] = rng.integers(0, 1 << group.cell_bits, (end, group.columns))
    entry = rng.integers(0, 1 << sum(widths.values()), end) & ~1
    for t, kind, what in line.events:
        if kind == "weights":
            p, cells = what
            for g, row in enumerate(cells):
                ports[f"weight_valid{g}"][t] = 1
                ports[f"weight_row{g}"][t] = p
                ports[f"weights{g}"][t] = row
        elif kind == "row":
            codes, signed, swap, fields = what
            ports["activations"][t] = codes.astype(np.int64) & 255
            ports["signed_codes"][t] = signed
            ports["swap"][t] = swap
            word, place = 0, 0
            for name, width in widths.items():
                word |= int(fields[name]) << place
                place += width
            entry[t] = word
        else:
            names = ("bank", "row", "segment", "offset", "pairs")
            for name, value in zip(names, what, strict=True):
                ports[f"drain_{name}"][t] = value
    return ports | {"entry": entry[:, None]}


def run(shape: Shape, layers: Sequence[Layer], seed: int = 0) -> None:
    """Layers through the simulated array; every word that it drains, every pulse."""
    rng = np.random.default_rng([seed, shape.rows])
    line = schedule(shape, layers, rng)
    ports = stimulus(shape, line, rng)
    _, executable, given, taken = compiled(shape)
    columns = []
    for port in given:
        values = ports.pop(port.name)
        assert port.width % values.shape[1] == 0, port
        columns.append(packed(values, port.width // values.shape[1]))
        assert columns[-1].shape[1] == port.bytes
    assert set(ports) == (set() if compiled(shape).array.pairs else {"drain_pairs"})
    done = subprocess.run(
        [executable],
        input=np.concatenate(columns, axis=1).tobytes(),
        capture_output=True,
        check=True,
    )
    words = np.frombuffer(done.stdout, np.uint8).reshape(line.end, -1)
    outputs, at = {}, 0
    for port in taken:
        outputs[port.name] = words[:, at : at + port.bytes]
        at += port.bytes
    complete = np.zeros(line.end, np.int64)
    for t, bank in line.complete.items():
        complete[t] |= 1 << bank
    np.testing.assert_array_equal(outputs["bank_complete"][:, 0], complete)
    bits = compiled(shape).array.accumulator_bits
    fields = np.unpackbits(outputs["drain_data"], axis=1, bitorder="little")
    fields = fields[:, : bits * shape.lanes].reshape(line.end, shape.lanes, bits)
    data = fields.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))
    data -= fields[..., -1].astype(np.int64) << bits
    expected = [layer.expected for layer in layers]
    together = [pairs_added(shape, values) for values in expected]
    checked = 0
    for t, index, r, segment, offset, both in line.reads:
        lanes = np.arange(shape.lanes)
        places = (segment + (lanes < offset)) * shape.lanes + lanes
        valid = places < expected[index].shape[1]
        wanted = (together if both else expected)[index][r, places[valid]]
        got = data[t, valid]
        assert np.array_equal(got, wanted), (index, r, segment, offset, got, wanted)
        checked += valid.sum()
    assert checked >= sum(values.size for values in expected)


def pairs_added(shape: Shape, sums: Array) -> Array:
    """Sums of a layer on all columns of the pairs: 16 times the second half of them added."""
    added, start = sums.copy(), 0
    for group in shape.parts:
        half = group.columns // 2
        if group.paired and start + group.columns <= sums.shape[1]:
            upper = sums[:, start + half : start + group.columns]
            added[:, start : start + half] += upper << 4
        start += group.columns
    return added


def random_layer(shape: Shape, rng: np.random.Generator) -> Layer:
    """A layer that the array can run."""
    groups = shape.parts
    used = int(rng.integers(1, len(groups) + 1))
    narrowest = groups[used - 1].weight_bits
    bits = int(rng.integers(1, 9)) if narrowest > 1 else 1
    m = int(rng.choice([1, 2, shape.tile_rows - 1, shape.tile_rows]))
    k = int(rng.choice([1, shape.rows, 2 * shape.rows + 1, 3 * shape.rows - 1]))
    n = sum(group.columns for group in groups[:used]) - int(rng.choice([0, 0, 1]))
    dtype = (np.int8, np.uint8)[rng.integers(2)] if shape.takes_unsigned(used) else np.int8
    limits = np.iinfo(dtype)
    largest = weight_format(bits).maximum
    weights = rng.integers(-largest, largest + 1, (k, n))
    activations = rng.integers(limits.min, limits.max + 1, (m, k)).astype(dtype)
    if bits == 1:
        weights = rng.choice([-1, 1], (k, n))
        if rng.random() < 0.3:
            weights = np.tile(weights[0], (k, 1))
            activations[:] = rng.choice([limits.min, limits.max])
    elif rng.random() < 0.3:  # whole columns at the ends of all slices
        ends = [-largest, largest, largest // 2 + 1, -(largest // 2) - 1, 0x55 & largest]
        weights = np.tile(rng.choice(ends, n), (k, 1))
        activations[:] = rng.choice([limits.min, limits.max])
    return Layer(activations, weights, bits, used)


SHAPES = [
    Shape(4, "dual:6:8,digits:4:4,digits:6:1", 2),
    Shape(16, "dual:2:8,digits:12:4+4,digits:2:4", 8, unsigned=14),
    Shape(5, "digits:4:3,digits:6:2", 3),
    Shape(8, "dual:2:8,digits:2:8,digits:8:2", 4, unsigned=3),
    Shape(33, "dual:4:8,digits:2:3,digits:4:1", 8, unsigned=4),
    Shape(9, "digits:2:7,digits:4:5,digits:2:1", 4, 3, unsigned=0),
    Shape(7, "dual:10:8", 4),
    Shape(10, "pumped:8:8,dual:2:8,digits:4:4", 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.rows}-{shape.groups}")
def test_layers_follow_each_other(shape: Shape) -> None:
    rng = np.random.default_rng(shape.rows)
    run(shape, [random_layer(shape, rng) for _ in range(40)])


@pytest.mark.parametrize(("groups", "slices"), [("4", 2), ("3", 3), ("2", 4)])
def test_every_weight_of_eight_bits_in_slices(groups: str, slices: int) -> None:
    """All 256 weights, -128 too, on cells of their own; then whole columns of each.

    The second group of fabric columns takes int8 only.
    """
    shape = Shape(16, f"dual:2:8,digits:14:{groups},digits:14:{groups}", 8, unsigned=3)
    columns = [*range(16), *range(2, 16)]
    weights = np.arange(-128, 128).reshape(16, 16)[:, columns]
    layers = [Layer(np.eye(16, dtype=np.int8), weights, 8, 3)]
    for first in range(-128, 128, 16):
        weights = np.tile(first + np.array(columns), (32, 1))
        ends = np.repeat(np.array([[-128], [127]], np.int8), 32, axis=1)
        layers.append(Layer(ends, weights, 8, 3))
        layers.append(Layer(np.full((3, 32), 255, np.uint8), weights[:, :16], 8, 2))
    rng = np.random.default_rng(1)
    passes = passes_of(shape, layers[0], rng)
    assert len(passes) == slices
    assert [one.shift for one in passes] == [0] + [1] * (slices - 1)
    run(shape, layers)


def test_the_accumulators_of_narrow_columns_at_their_ends() -> None:
    """One bit: 20 bits, which 4,095 activations fill whatever they are, and 4,096 downwards."""
    shape = Shape(16, "dual:2:8,digits:4:1", 4)
    signs = np.array([1, -1, 1, -1, 1, -1])
    layers = []
    for k, weights in ((4096, abs(signs)), (4095, signs), (4095, -signs)):
        activations = np.full((3, k), -128, np.int8)
        layers.append(Layer(activations, np.tile(weights, (k, 1)), 1, 2))
    reached = [layer.expected[0, 2:] for layer in layers]
    assert [values.min() for values in reached] == [-(1 << 19), -524_160, -524_160]
    assert [values.max() for values in reached[1:]] == [524_160] * 2
    assert compiled(shape).array.strips[-1].strip.accumulator_bits == 20
    run(shape, layers)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_every_row_has_its_weights_when_it_swaps_them(bits: int) -> None:
    """Weights given a row a cycle, the swap in the cycle after the last; the next begin with it."""
    for rows in range(1, 129):
        skew = columns_of("digits", rows=rows, weight_bits=bits).skew
        for p in range(rows):
            arrives = p + p // 8 + 1  # in the shadow register, after the first row was given
            assert arrives <= rows + skew[p], (rows, p)
            assert skew[p] <= arrives, (rows, p)  # of the pass behind, given from the swap on


def random_shape(rng: np.random.Generator) -> Shape:
    """Rows 4..32, one to four groups of mixed kinds and widths."""
    rows = int(rng.integers(4, 33))
    pumped = rows % 2 == 0 and rng.integers(2)
    count = int(rng.integers(1, 5 - pumped))
    widths = sorted(rng.integers(1, 9, count).tolist(), reverse=True)
    parts = [
        f"{rng.choice(['dual', 'digits']) if bits == 8 else 'digits'}"
        f":{2 * rng.integers(1, 8)}:{bits}"
        for bits in widths
    ]
    wide = sum(bits == 8 for bits in widths)
    if widths[wide:] and rng.integers(2):
        parts[wide:] = [f"digits:{4 * rng.integers(1, 5)}:4+4"]
    if pumped:
        parts.insert(0, f"pumped:{4 * rng.integers(1, 5)}:8")
    lanes = int(rng.integers(1, 13))
    return Shape(rows, ",".join(parts), lanes, int(rng.integers(3, 40)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_arrays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = random_shape(rng)
    run(shape, [random_layer(shape, rng) for _ in range(60)], seed)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.rows}-{shape.groups}")
def test_what_the_array_says_of_itself(shape: Shape) -> None:
    array = compiled(shape).array
    groups = shape.parts
    # A choice among several shifts takes a cycle of its own.
    shifts = [sum(w <= group.weight_bits for w in shape.slice_widths) for group in groups]
    assert array.minimum_pass_rows == (5 if max(shifts) > 1 else 4)
    strips = [placed.strip for placed in array.strips]
    assert sum(strip.count for strip in strips) == sum(group.columns for group in groups)
    texts = {name: convert_leaf(leaf, "x", name) for name, leaf in array.synthesis_leaves().items()}
    cascades = dict.fromkeys(group.kind for group in groups if group.kind != "digits")
    assert list(texts) == [
        columns_of(kind, rows=shape.rows, weight_bits=8).module for kind in cascades
    ]
    assert all(external_modules(text) == {"DSP48E2"} for text in texts.values())
