# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from amaranth import Module, Signal
from amaranth.back import verilog
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.numerics.e2softmax import e2softmax
from hwgen.rtl.e2softmax import (
    OUTPUT_DEPTH,
    E2Softmax,
    codes_layout,
    logits_layout,
)
from hwgen.sim.unit_bench import HANDSHAKES, Handshake, UnitRun, run_unit
from hwgen.timings import E2SOFTMAX_STAGE_2, e2softmax_stage_1

pytestmark = pytest.mark.verilator

#: The back end writes operands at their own widths; Verilog extends them as meant.
OPTIONS = ("-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC")

Row = tuple[npt.NDArray[np.int8], int]


class Bench(wiring.Component):
    """The unit with the fraction bits in the stream: a change waits until the unit is empty."""

    def __init__(self, vec: int, max_length: int) -> None:
        self.unit = E2Softmax(vec, max_length)
        given = data.StructLayout({"slice": logits_layout(vec), "fraction_bits": 4})
        super().__init__(
            {
                "i_stream": In(stream.Signature(given)),
                "o_stream": Out(stream.Signature(codes_layout(vec))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        inside = Signal(16)
        open_ = Signal()
        given, returned = Signal(), Signal()
        wanted = self.i_stream.payload.fraction_bits
        m.d.comb += [
            open_.eq(unit.fraction_bits == wanted),
            unit.i_stream.payload.eq(self.i_stream.payload.slice),
            unit.i_stream.valid.eq(self.i_stream.valid & open_),
            self.i_stream.ready.eq(unit.i_stream.ready & open_),
            given.eq(self.i_stream.valid & self.i_stream.ready),
            returned.eq(self.o_stream.valid & self.o_stream.ready),
        ]
        wiring.connect(m, wiring.flipped(self.o_stream), unit.o_stream)
        fraction_bits = Signal(4)
        m.d.comb += unit.fraction_bits.eq(fraction_bits)
        m.d.sync += inside.eq(inside + given - returned)
        with m.If(self.i_stream.valid & (inside == 0)):
            m.d.sync += fraction_bits.eq(wanted)
        return m


@cache
def _verilog(vec: int, max_length: int) -> str:
    return verilog.convert(Bench(vec, max_length), name="bench", emit_src=False)


def drive(
    rows: list[Row], *, vec: int, max_length: int, handshake: Handshake
) -> tuple[list[npt.NDArray[np.uint8]], UnitRun]:
    words = []
    for logits, fraction_bits in rows:
        slices = -(-len(logits) // vec)
        lanes = np.full(slices * vec, 77, np.int8)  # a masked lane may hold anything
        lanes[: len(logits)] = logits
        valid = np.arange(slices * vec) < len(logits)
        last = np.arange(slices) == slices - 1
        words.append(
            np.concatenate(
                [
                    lanes.reshape(slices, vec).view(np.uint8),
                    np.packbits(valid.reshape(slices, vec), axis=1, bitorder="little"),
                    (last | fraction_bits << 1).astype(np.uint8)[:, None],
                ],
                axis=1,
            )
        )
    given = np.concatenate(words)
    run = run_unit(
        _verilog(vec, max_length),
        "bench",
        given,
        len(given),
        input_stream="i_stream",
        output_stream="o_stream",
        handshake=handshake,
        options=OPTIONS,
    )
    codes, position = [], 0
    for (logits, _), row_words in zip(rows, words, strict=True):
        out = run.outputs[position : position + len(row_words)]
        position += len(row_words)
        last = out[:, vec] & 1
        assert last[-1] == 1 and not last[:-1].any()
        flat = out[:, :vec].reshape(-1)
        assert not flat[len(logits) :].any(), "masked lanes must return 0"
        codes.append(flat[: len(logits)])
    return codes, run


def check(rows: list[Row], *, vec: int, max_length: int, handshake: Handshake) -> UnitRun:
    codes, run = drive(rows, vec=vec, max_length=max_length, handshake=handshake)
    for index, ((logits, fraction_bits), got) in enumerate(zip(rows, codes, strict=True)):
        expected = e2softmax(logits, fraction_bits=fraction_bits, vec=vec, max_length=max_length)
        assert np.array_equal(got, expected), (index, len(logits), fraction_bits)
    return run


def extremes(length: int, f: int) -> list[Row]:
    ramp = np.linspace(-128, 127, length).astype(np.int8)
    alternating = np.where(np.arange(length) % 2, 127, -128).astype(np.int8)
    one = np.full(length, -128, np.int8)
    one[-1] = 127
    rows = [ramp, ramp[::-1], alternating, one, one[::-1]]
    rows += [np.full(length, v, np.int8) for v in (-128, 0, 127)]
    return [(row, f) for row in rows]


def random_rows(seed: int, lengths: list[int], f: int, count: int = 1) -> list[Row]:
    # Spread of 1..4 in units of the logits, so that most codes are neither 0 nor saturated.
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths * count:
        spread = rng.uniform(0.5, 4) * min(2**f, 40)
        rows.append((np.clip(rng.normal(0, spread, length), -128, 127).astype(np.int8), f))
    return rows


@pytest.mark.parametrize("mode", HANDSHAKES)
def test_random_rows_in_every_handshake(mode: str) -> None:
    rows = [
        row
        for f in (2, 3, 4, 5)
        for row in random_rows(f, [1, 49, 197, 785, 32, 33, 64, 1, 2, 31, 1024], f)
    ]
    check(rows, vec=32, max_length=1024, handshake=HANDSHAKES[mode])


def test_all_fraction_bits_and_extremes() -> None:
    rows: list[Row] = []
    for f in range(16):
        rows += random_rows(100 + f, [1, 7, 49, 197], f, 3)
        for length in (1, 33, 197):
            rows += extremes(length, f)
    rows += extremes(1024, 3) + extremes(785, 0)
    check(rows, vec=32, max_length=1024, handshake=HANDSHAKES["always"])


def test_every_distance_and_every_sum_exponent() -> None:
    rows: list[Row] = []
    for f in range(16):
        for d in range(0, 256, 1 if f in (0, 3, 4) else 17):
            rows.append((np.array([127, 127 - d], np.int8), f))
    for length in range(1, 1025, 13):
        rows.append((np.zeros(length, np.int8), 4))
    check(rows, vec=32, max_length=1024, handshake=HANDSHAKES["always"])


@pytest.mark.parametrize("vec", [8])
def test_other_vector_length(vec: int) -> None:
    rows = random_rows(7, [1, 8, 9, 49, 64, 63, 5, 16], 3, 20)
    for mode in ("always", "random", "ready after valid"):
        check(rows, vec=vec, max_length=64, handshake=HANDSHAKES[mode])


@pytest.mark.parametrize("length", [1, 32, 33, 197, 1024])
def test_one_slice_per_cycle(length: int) -> None:
    rows = random_rows(length, [length], 3, 60)
    run = check(rows, vec=32, max_length=1024, handshake=HANDSHAKES["always"])
    slices = -(-length // 32)
    # Two cycles of the bench's fraction bits; the first slice out follows its row's last slice in.
    first = 2 + (slices - 1) + e2softmax_stage_1(32) + E2SOFTMAX_STAGE_2
    assert run.first_output_cycle == first
    assert run.cycles == first + 60 * slices - 1


def test_output_queue_covers_its_round_trip() -> None:
    assert OUTPUT_DEPTH >= E2SOFTMAX_STAGE_2
