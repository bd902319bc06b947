# SPDX-License-Identifier: Apache-2.0
"""Every unit, Verilated, against the integer contract: odd sizes, extremes, all handshakes.

The full matrix of sizes and widths takes most of an hour: ``pytest tests/units -m slow``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwgen.columns import parse_groups
from hwgen.errors import FormatError
from hwgen.numerics.formats import weight_format
from hwgen.sim.unit_bench import HANDSHAKES, run_unit
from hwgen.units import UNITS, UnitResult, simulate, unit_verilog
from hwgen.units.folder import VERILATOR_OPTIONS

pytestmark = pytest.mark.verilator

MODES = list(HANDSHAKES)


def check(
    name: str, parameters: dict[str, object], vectors: dict[str, Any], mode: str = "always"
) -> UnitResult:
    result = simulate(UNITS[name], parameters, vectors, handshake=HANDSHAKES[mode])
    assert result.matches_reference, (name, parameters, mode, result.first_difference)
    assert result.first_difference is None
    return result


# Matrix product


def product(
    rng: np.random.Generator, m: int, k: int, n: int, bits: int, dtype: type[np.integer[Any]]
) -> dict[str, Any]:
    limits = np.iinfo(dtype)
    largest = weight_format(bits).maximum
    weights = rng.integers(-largest, largest + 1, (k, n))
    if bits == 1:
        weights = rng.choice([-1, 1], (k, n))
    return {
        "activations": rng.integers(limits.min, limits.max + 1, (m, k)).astype(dtype),
        "weights": weights.astype(np.int8),
    }


def extreme_products(k: int, n: int, bits: int) -> list[dict[str, Any]]:
    """All activations at one end, every weight in a whole column: the largest partial sums."""
    largest = weight_format(bits).maximum
    # A column per weight value: every digit reaches its ends in all rows of a cascade at once.
    each = np.tile(np.array([w for w in range(-largest, largest + 1) if w or bits > 1]), (k, 1))
    alternating = np.where(np.add.outer(np.arange(k), np.arange(n)) % 2, largest, -largest)
    given = []
    for dtype in (np.int8, np.uint8):
        for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
            a = np.full((3, k), value, dtype)
            a[2, ::2] = np.iinfo(dtype).max
            given += [{"activations": a, "weights": w.astype(np.int8)} for w in (alternating, each)]
    return given


def check_array(rows: int, columns: int, bits: int, cells: str, *, tile_rows: int = 16) -> None:
    parameters: dict[str, object] = {
        "rows": rows,
        "columns": columns,
        "weight_bits": bits,
        "cells": cells,
        "tile_rows": tile_rows,
    }
    rng = np.random.default_rng([rows, columns, bits])
    sizes = [
        (1, 1, 1),
        (1, 2 * rows + 1, columns),
        (tile_rows, rows, columns + 1),
        (2 * tile_rows + 1, rows + 1, 2 * columns - 1),
        (rows - 1 or 1, 3 * rows, 3 * columns + 2),
    ]
    for index, (m, k, n) in enumerate(sizes):
        dtype = (np.int8, np.uint8)[index % 2]
        check("systolic-array", parameters, product(rng, m, k, n, bits, dtype))
    for mode in MODES[1:]:
        vectors = product(rng, 2 * tile_rows - 1, 2 * rows - 1, 2 * columns + 1, bits, np.int8)
        check("systolic-array", parameters, vectors, mode)
    for vectors in extreme_products(rows, columns, bits):
        check("systolic-array", parameters, vectors)


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "cells"),
    [
        (5, 7, 1, "digits"),
        (2, 9, 2, "digits"),
        (3, 5, 5, "digits"),
        (8, 8, 8, "digits"),
        (9, 4, 8, "multiplier"),
        (1, 3, 4, "digits"),
        (6, 5, 8, "dual"),
        (10, 6, 8, "pumped"),
    ],
)
def test_array(rows: int, columns: int, bits: int, cells: str) -> None:
    check_array(rows, columns, bits, cells)


def check_groups(rows: int, groups: str, *, tile_rows: int = 16) -> None:
    """Columns of several widths: every column of a product has the width of its place in a tile."""
    parameters: dict[str, object] = {"rows": rows, "groups": groups, "tile_rows": tile_rows}
    parts = parse_groups(groups)
    widths = [group.weight_bits for group in parts for _ in range(group.columns)]
    rng = np.random.default_rng([rows, len(widths)])
    sizes = [
        (1, 2 * rows + 1, len(widths)),
        (2 * tile_rows + 1, rows + 1, 2 * len(widths) - 1),
        (rows - 1, 3 * rows, 1),
    ]
    for index, (m, k, n) in enumerate(sizes):
        dtype = (np.int8, np.uint8)[index % 2]
        vectors = product(rng, m, k, n, 8, dtype)
        bits = np.resize(widths, n)
        columns = [product(rng, m, k, 1, int(b), dtype)["weights"] for b in bits]
        vectors["weights"] = np.concatenate(columns, axis=1)
        check("systolic-array", parameters, vectors, MODES[index])


@pytest.mark.parametrize(
    ("rows", "groups"),
    [(9, "dual:4:8,digits:6:4,digits:2:1"), (4, "digits:2:8,digits:2:3,digits:2:2")],
)
def test_array_of_groups(rows: int, groups: str) -> None:
    check_groups(rows, groups)


@pytest.mark.parametrize(("rows", "bits"), [(5, 1), (3, 4)])
def test_array_of_int8_only(rows: int, bits: int) -> None:
    """Columns a bit narrower; all -128 times the ends of the weights."""
    parameters: dict[str, object] = {
        "rows": rows, "columns": 4, "weight_bits": bits, "tile_rows": 8, "activations": "int8",
    }  # fmt: skip
    largest = (1 << (bits - 1)) - 1 or 1
    vectors = product(np.random.default_rng(bits), 9, 2 * rows, 7, bits, np.int8)
    vectors["activations"][0] = -128
    vectors["weights"][:, 0], vectors["weights"][:, 1] = -largest, largest
    check("systolic-array", parameters, vectors)
    vectors["activations"] = vectors["activations"].view(np.uint8)
    with pytest.raises(FormatError, match="must be int8 with --activations int8, not uint8"):
        check("systolic-array", parameters, vectors)


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (64, 24), (1, 1), (2, 3), (3, 97)])
def test_array_matrix(size: tuple[int, int], bits: int) -> None:
    check_array(*size, bits, "digits", tile_rows=32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (64, 24)])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_array_with_multipliers(size: tuple[int, int], bits: int) -> None:
    check_array(*size, bits, "multiplier", tile_rows=32)


def test_tiles_follow_each_other_without_a_gap() -> None:
    """A tile's weights load while the tile before streams: M cycles a pass once the first is in."""
    rng = np.random.default_rng(3)
    parameters: dict[str, object] = {"rows": 8, "columns": 8, "tile_rows": 16}
    result = check("systolic-array", parameters, product(rng, 16, 48, 24, 8, np.int8))
    # 18 passes, the first weights, skew and drain of the last tile (2 groups a row)
    assert result.cycles <= 16 * 18 + 8 + 2 * 16 + 30


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 49, 197, 785])
def test_array_on_tokens(rows: int) -> None:
    """Default unit, DeiT's sizes."""
    rng = np.random.default_rng(rows)
    check("systolic-array", {}, product(rng, rows, 192, 65, 8, np.int8))


# E2Softmax


def logits(rng: np.random.Generator, rows: int, length: int, spread: float) -> dict[str, Any]:
    values = np.clip(rng.normal(0, spread, (rows, length)), -128, 127)
    return {"logits": values.astype(np.int8)}


@pytest.mark.parametrize("mode", MODES)
def test_e2softmax(mode: str) -> None:
    rng = np.random.default_rng(1)
    for length in (1, 31, 32, 33, 49, 197, 785, 1024):
        for f in (3, 4):
            check("e2softmax", {"fraction_bits": f}, logits(rng, 3, length, 2 * 2**f), mode)


def test_e2softmax_extremes() -> None:
    rng = np.random.default_rng(2)
    ramp = np.linspace(-128, 127, 197).astype(np.int8)
    rows = [ramp, ramp[::-1], np.roll(ramp, 50)]
    rows += [np.full(197, value, np.int8) for value in (-128, 0, 127)]
    rows += [np.where(np.arange(197) == i, 127, -128).astype(np.int8) for i in (0, 40, 196)]
    for f in range(16):
        check("e2softmax", {"fraction_bits": f}, {"logits": np.stack(rows)})
        check("e2softmax", {"fraction_bits": f}, logits(rng, 9, 49, 40))


@pytest.mark.parametrize("mode", MODES)
def test_e2softmax_fractional(mode: str) -> None:
    rng = np.random.default_rng(4)
    for length in (1, 33, 197, 1024):
        check("e2softmax", {"mode": "fractional"}, logits(rng, 3, length, 30), mode)


@pytest.mark.parametrize("vec", [1, 5])
def test_e2softmax_fractional_odd_slices(vec: int) -> None:
    rng = np.random.default_rng(5)
    parameters: dict[str, object] = {
        "mode": "fractional",
        "vec": vec,
        "exponent_fraction_bits": vec % 4,
        "divider_bits": 3,
        "max_length": 60,
    }
    for length in (1, 4, 5, 6, 59, 60):
        result = check("e2softmax", parameters, logits(rng, 7, length, 30), "random")
        assert set(result.outputs) == {"codes", "shifts"}
        assert result.outputs["shifts"].shape == (7,)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 49, 197, 785])
def test_e2softmax_many_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    check("e2softmax", {}, logits(rng, rows, 197, 30), "random")
    check("e2softmax", {}, logits(rng, 10000, 64, 30))


@pytest.mark.parametrize("vec", [1, 5])
def test_e2softmax_odd_slices(vec: int) -> None:
    rng = np.random.default_rng(3)
    parameters: dict[str, object] = {"vec": vec, "max_length": 60}
    for length in (1, 4, 5, 6, 59, 60):
        check("e2softmax", parameters, logits(rng, 7, length, 30), "random")


@pytest.mark.slow
@pytest.mark.parametrize("vec", [2, 64])
def test_e2softmax_other_slices(vec: int) -> None:
    test_e2softmax_odd_slices(vec)


# AILayerNorm


def codes(rng: np.random.Generator, rows: int, channels: int, spread: float) -> dict[str, Any]:
    x = np.clip(rng.normal(128, spread, (rows, channels)), 0, 255)
    return {
        "x": x.astype(np.uint8),
        "alpha": rng.integers(0, 4, channels),
        "gamma": rng.integers(-127, 128, channels).astype(np.int16),
        "beta": rng.integers(-(1 << 14), 1 << 14, channels).astype(np.int32),
    }


@pytest.mark.parametrize("mode", MODES)
def test_ailayernorm(mode: str) -> None:
    rng = np.random.default_rng(4)
    for channels in (8, 9, 15, 16, 17, 64, 96, 192, 384, 768, 1024):
        spread = 3 + channels % 40
        check("ailayernorm", {}, codes(rng, 3, channels, spread), mode)


def test_ailayernorm_extremes() -> None:
    rng = np.random.default_rng(5)
    x = np.stack(
        [np.full(192, v, np.uint8) for v in (0, 127, 128, 255)]
        + [np.where(np.arange(192) % 2, 255, 0).astype(np.uint8)]
        + [np.where(np.arange(192) == i, 255, 128).astype(np.uint8) for i in (0, 191)]
        + [np.resize(np.arange(256), 192).astype(np.uint8)]
        + [np.resize(np.arange(255, -1, -1), 192).astype(np.uint8)]
    )
    largest = (1 << 23) - 1
    for sign in (1, -1):
        for alpha in (0, 3):
            for squares in ("compressed", "exact"):
                vectors = {
                    "x": x,
                    "alpha": np.full(192, alpha),
                    "gamma": np.full(192, sign * 127),
                    "beta": np.resize([sign * largest, 0, -sign * largest - (sign > 0)], 192),
                }
                for shift, fraction, zp, zo in ((0, 10, 0, 127), (15, 0, 255, -128), (6, 8, 7, 3)):
                    parameters: dict[str, object] = {
                        "zero_point": zp,
                        "gamma_shift": shift,
                        "beta_fraction_bits": fraction,
                        "output_zero_point": zo,
                        "squares": squares,
                    }
                    check("ailayernorm", parameters, vectors)
                    check("ailayernorm", parameters, codes(rng, 5, 97, 20))


@pytest.mark.parametrize("squares", ["compressed", "exact"])
def test_ailayernorm_quiet_and_loud_rows(squares: str) -> None:
    """Rows below one code of spread, where the floor of the variance holds, and rows that clip."""
    rng = np.random.default_rng(9)
    for spread in (0.3, 0.6, 1, 2, 60):
        for shift in (0, 1, 3):
            parameters: dict[str, object] = {"gamma_shift": shift, "squares": squares}
            vectors = codes(rng, 20, 97, spread)
            check("ailayernorm", parameters, vectors)
            check("ailayernorm", parameters, vectors | {"alpha": np.zeros(97, np.uint8)})


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 49, 197, 785])
def test_ailayernorm_many_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    check("ailayernorm", {}, codes(rng, rows, 384, 25), "random")


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32, 64])
def test_ailayernorm_other_lanes(lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    for channels in (8, 63, 64, 65, 192):
        parameters: dict[str, object] = {"lanes": lanes, "max_channels": 192}
        check("ailayernorm", parameters, codes(rng, 5, channels, 25), "random")


# Requantise


def accumulators(rng: np.random.Generator, m: int, n: int, residual: bool) -> dict[str, Any]:
    """Scaled so that most results are neither 0 nor clipped; some columns are dead."""
    shift = rng.integers(20, 40, n)
    multiplier = rng.integers(1 << 15, 1 << 16, n)
    spread = 2.0 ** (shift - 16) * (2000 if residual else 60)
    values = np.clip(rng.normal(0, spread, (m, n)), -(2**25), 2**25).astype(np.int32)
    multiplier[rng.random(n) < 0.1] = 0
    vectors = {
        "accumulators": values,
        "bias": rng.integers(-(1 << 12), 1 << 12, n).astype(np.int32),
        "multiplier": multiplier.astype(np.uint16),
        "shift": shift.astype(np.uint8),
    }
    if residual:
        vectors["residual"] = rng.integers(-32768, 32768, (m, n)).astype(np.int16)
    return vectors


@pytest.mark.parametrize("mode", MODES)
def test_requantise(mode: str) -> None:
    rng = np.random.default_rng(6)
    for m, n in ((1, 1), (1, 50), (2, 17), (49, 24), (197, 9)):
        check("requantise", {}, accumulators(rng, m, n, False), mode)
        check("requantise", {}, accumulators(rng, m, n, True), mode)
        parameters: dict[str, object] = {"zero_point": -7, "low": -100, "high": 90}
        check("requantise", parameters, accumulators(rng, m, n, False), mode)


def test_requantise_extremes() -> None:
    """Every shift, ties on both sides, the ends of 27 bits, each clip."""
    shifts = np.repeat(np.arange(1, 48), 4)
    n = len(shifts)
    multiplier = np.resize([1 << 15, (1 << 16) - 1, 0, 40961], n).astype(np.uint16)
    ends = [-(1 << 26), (1 << 26) - 1, 0, 1, -1, 2, -2, 3, -3, 1 << 15, -(1 << 15), 12345, -54321]
    values = np.tile(np.array(ends, np.int64)[:, None], (1, n))
    # Half of the weight of the last bit: ties of the rounding.
    ties = [((2 * i + 1) << s >> 16) for i in (0, 1, -1, -2, 60, -60) for s in [0]]
    ties_rows = np.stack([(2 * i + 1) * (1 << np.maximum(shifts - 16, 0)) for i in range(-4, 4)])
    values = np.concatenate([values, ties_rows, np.tile(np.array(ties)[:, None], (1, n))])
    values = np.clip(values, -(1 << 26), (1 << 26) - 1)
    vectors = {
        "accumulators": values.astype(np.int32),
        "bias": np.zeros(n, np.int32),
        "multiplier": multiplier,
        "shift": shifts.astype(np.uint8),
    }
    for zp, low, high in ((0, -128, 127), (127, -128, 127), (-128, -127, 127), (5, 5, 5)):
        check("requantise", {"zero_point": zp, "low": low, "high": high}, vectors)
    for residual in (-32768, 32767, 0, -1):
        check(
            "requantise",
            {},
            vectors | {"residual": np.full(values.shape, residual, np.int16)},
        )


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 3, 32])
def test_requantise_other_lanes(lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    for mode in MODES:
        check("requantise", {"lanes": lanes}, accumulators(rng, 785, 5, True), mode)
        check("requantise", {"lanes": lanes}, accumulators(rng, 1, 77, False), mode)


# Element-wise


@pytest.mark.parametrize("mode", MODES)
def test_elementwise(mode: str) -> None:
    rng = np.random.default_rng(7)
    for m, n in ((1, 1), (1, 256), (16, 17), (49, 31), (197, 64)):
        vectors = {
            "codes": rng.integers(-128, 128, (m, n)).astype(np.int8),
            "table": rng.integers(-128, 128, 256).astype(np.int8),
        }
        check("elementwise", {}, vectors, mode)


def test_elementwise_every_entry() -> None:
    every = np.arange(-128, 128).astype(np.int8)
    for table in (every, every[::-1], np.roll(every, 77)):
        vectors = {"codes": np.tile(every, (3, 1)), "table": np.ascontiguousarray(table)}
        check("elementwise", {}, vectors)


def test_elementwise_slots() -> None:
    """Two tables, written beat by beat between the codes, each used by the words that name it."""
    rng = np.random.default_rng(8)
    tables = rng.integers(0, 256, (2, 256), dtype=np.uint8)
    words, expected = [], []
    for beat in range(32):
        slot = beat % 2
        words.append(
            [*tables[slot, 16 * (beat // 2) : 16 * (beat // 2) + 16], 32 + 16 * slot + beat // 2]
        )
    for step in range(64):
        slot = step % 2
        given = rng.integers(0, 256, 16, dtype=np.uint8)
        if step % 8 == 3:  # a new beat right before the word that uses it
            beat = int(rng.integers(16))
            tables[slot, 16 * beat : 16 * beat + 16] = rng.integers(0, 256, 16, dtype=np.uint8)
            words.append([*tables[slot, 16 * beat : 16 * beat + 16], 32 + 16 * slot + beat])
            given[:8] = (16 * beat + rng.integers(0, 16, 8)) ^ 0x80
        words.append([*given, 16 * slot])
        expected.append(tables[slot, given ^ 0x80].copy())
    run = run_unit(
        unit_verilog(UNITS["elementwise"]),
        "hwgen_elementwise",
        np.array(words, np.uint8),
        len(expected),
        input_stream="i_stream",
        output_stream="o_stream",
        handshake=HANDSHAKES["random"],
        options=VERILATOR_OPTIONS,
    )
    assert np.array_equal(run.outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 5, 64])
def test_elementwise_other_lanes(lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    for mode in MODES:
        vectors = {
            "codes": rng.integers(-128, 128, (785, 3)).astype(np.int8),
            "table": rng.integers(-128, 128, 256).astype(np.int8),
        }
        check("elementwise", {"lanes": lanes}, vectors, mode)
