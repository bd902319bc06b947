# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from amaranth import Module, Signal
from amaranth.back import verilog
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.numerics.fractional_softmax import fractional_softmax
from hwgen.rtl.e2softmax import logits_layout
from hwgen.rtl.fractional_softmax import (
    OUTPUT_DEPTH,
    FractionalSoftmax,
    weights_layout,
)
from hwgen.sim.unit_bench import HANDSHAKES, Handshake, UnitRun, run_unit
from hwgen.timings import CODES_LATENCY, maximum_latency, sum_latency

from .test_e2softmax import OPTIONS, Row, extremes, random_rows

pytestmark = pytest.mark.verilator

#: Lengths around whole slices, whole words, the row ends of real networks and the longest row.
LENGTHS = (1, 49, 197, 400, 511, 512, 577, 785, 1024, 4095)
#: vec, g, Q: every value of each at least once but 64 lanes, which are slow to build.
QUICK = ((8, 0, 1), (8, 3, 5), (16, 1, 2), (16, 2, 3), (32, 2, 4))
COVERING = [
    *QUICK,
    *(pytest.param(form, marks=pytest.mark.slow) for form in ((32, 3, 1), (64, 0, 5), (64, 1, 4))),
]
#: Of every test: equal units are built once.
MAX_LENGTH = 4095


class Bench(wiring.Component):
    """The unit with the fraction bits in the stream: a change waits until the unit is empty."""

    def __init__(self, vec: int, max_length: int, g: int, bits: int) -> None:
        self.unit = FractionalSoftmax(vec, max_length, g, bits)
        given = data.StructLayout({"slice": logits_layout(vec), "fraction_bits": 4})
        super().__init__(
            {
                "i_stream": In(stream.Signature(given)),
                "o_stream": Out(stream.Signature(weights_layout(vec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        inside, fraction_bits = Signal(16, name="inside"), Signal(4, name="fraction_bits")
        open_ = unit.fraction_bits == self.i_stream.payload.fraction_bits
        given = self.i_stream.valid & self.i_stream.ready
        returned = self.o_stream.valid & self.o_stream.ready
        m.d.comb += [
            unit.i_stream.payload.eq(self.i_stream.payload.slice),
            unit.i_stream.valid.eq(self.i_stream.valid & open_),
            self.i_stream.ready.eq(unit.i_stream.ready & open_),
            unit.fraction_bits.eq(fraction_bits),
        ]
        wiring.connect(m, wiring.flipped(self.o_stream), unit.o_stream)
        m.d.sync += inside.eq(inside + given - returned)
        with m.If(self.i_stream.valid & (inside == 0)):
            m.d.sync += fraction_bits.eq(self.i_stream.payload.fraction_bits)
        return m


@cache
def _verilog(vec: int, g: int, bits: int) -> str:
    return verilog.convert(Bench(vec, MAX_LENGTH, g, bits), name="bench", emit_src=False)


def check(rows: list[Row], *, form: tuple[int, int, int], handshake: Handshake) -> UnitRun:
    """Push rows through a unit of ``vec``, g and Q; codes, shifts and row ends must be equal."""
    vec, g, bits = form
    words = []
    for logits, fraction_bits in rows:
        slices = -(-len(logits) // vec)
        lanes = np.full(slices * vec, 127, np.int8)  # a masked lane may hold anything
        lanes[: len(logits)] = logits
        valid = (np.arange(slices * vec) < len(logits)).reshape(slices, vec)
        end = (np.arange(slices) == slices - 1) | fraction_bits << 1
        words.append(
            np.concatenate(
                [
                    lanes.reshape(slices, vec).view(np.uint8),
                    np.packbits(valid, axis=1, bitorder="little"),
                    end.astype(np.uint8)[:, None],
                ],
                axis=1,
            )
        )
    given = np.concatenate(words)
    run = run_unit(
        *(_verilog(vec, g, bits), "bench", given, len(given)),
        input_stream="i_stream",
        output_stream="o_stream",
        handshake=handshake,
        options=OPTIONS,
    )
    position = 0
    for index, ((logits, fraction_bits), row_words) in enumerate(zip(rows, words, strict=True)):
        out = run.outputs[position : position + len(row_words)]
        position += len(row_words)
        codes, shift = fractional_softmax(
            logits,
            fraction_bits=fraction_bits,
            exponent_fraction_bits=g,
            divider_bits=bits,
            max_length=MAX_LENGTH,
        )
        expected = np.zeros(len(row_words) * vec, np.uint8)  # masked lanes return 0
        expected[: len(logits)] = codes
        where = (index, len(logits), fraction_bits)
        assert np.array_equal(out[:, :vec].reshape(-1), expected), where
        assert (out[:, vec] & 15 == shift).all(), where
        last = out[:, vec] >> 4
        assert last[-1] == 1 and not last[:-1].any(), where
    return run


@pytest.mark.parametrize("mode", HANDSHAKES)
def test_random_rows_in_every_handshake(mode: str) -> None:
    lengths = [1, 49, 197, 785, 32, 33, 64, 1, 2, 31, 1024]
    rows = [row for f in (2, 3, 4, 5) for row in random_rows(f, lengths, f)]
    check(rows, form=(32, 2, 4), handshake=HANDSHAKES[mode])


def _rows(seed: int) -> list[Row]:
    rows: list[Row] = []
    for f in range(16):
        rows += random_rows(100 * seed + f, [1, 7, 49, 197], f, 2)
        for length in (1, 33, 197):
            rows += extremes(length, f)
    for length in LENGTHS:
        f = length % 7
        rows += [*random_rows(seed, [length], f), *extremes(length, f)[3:]]
    return rows


@pytest.mark.parametrize("form", COVERING, ids=str)
def test_every_fraction_and_length(form: tuple[int, int, int]) -> None:
    check(_rows(sum(form)), form=form, handshake=HANDSHAKES["always"])


@pytest.mark.slow
@pytest.mark.parametrize("vec", [8, 16, 32, 64])
@pytest.mark.parametrize("g", range(4))
@pytest.mark.parametrize("bits", range(1, 6))
def test_every_form(vec: int, g: int, bits: int) -> None:
    for mode in ("always", "random"):
        rows = _rows(vec + 10 * g + bits)
        check(rows, form=(vec, g, bits), handshake=HANDSHAKES[mode])


def test_every_distance_and_every_length() -> None:
    rows: list[Row] = []
    for f in range(16):
        for d in range(0, 256, 1 if f in (0, 3, 4) else 17):
            rows.append((np.array([127, 127 - d], np.int8), f))
    for length in range(1, 1025, 13):
        rows.append((np.zeros(length, np.int8), 4))
    check(rows, form=(32, 2, 4), handshake=HANDSHAKES["always"])


@pytest.mark.parametrize("length", [1, 32, 33, 197, 1024])
def test_one_slice_per_cycle(length: int) -> None:
    rows = random_rows(length, [length], 3, 60)
    run = check(rows, form=(32, 2, 4), handshake=HANDSHAKES["always"])
    slices = -(-length // 32)
    # Two cycles of the bench's fraction bits; a row is in the unit for three times its slices.
    latency = maximum_latency(32) + sum_latency(32) + CODES_LATENCY
    first = 2 + 2 * (slices - 1) + latency
    assert run.first_output_cycle == first
    assert run.cycles == first + 60 * slices - 1


def test_output_queue_covers_its_round_trip() -> None:
    assert OUTPUT_DEPTH >= CODES_LATENCY
