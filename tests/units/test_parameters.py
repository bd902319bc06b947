# SPDX-License-Identifier: Apache-2.0
"""The contract of the command line: names, defaults, ranges; which vector files are refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.errors import FormatError, UsageError
from hwgen.units import UNITS, load_vectors, save_vectors
from hwgen.units.systolic_array import drained_columns

DEFAULTS = {
    "systolic-array": {"rows": 16, "columns": 16, "weight_bits": 8},
    "e2softmax": {
        "vec": 32,
        "mode": "sole",
        "exponent_fraction_bits": 2,
        "divider_bits": 4,
        "fraction_bits": 4,
        "max_length": 1024,
    },
    "ailayernorm": {
        "zero_point": 128,
        "gamma_shift": 6,
        "beta_fraction_bits": 8,
        "output_zero_point": 0,
        "squares": "compressed",
    },
    "requantise": {"zero_point": 0, "low": -128, "high": 127},
    "elementwise": {},
}


def test_names_and_defaults() -> None:
    assert list(UNITS) == list(DEFAULTS)
    for name, expected in DEFAULTS.items():
        resolved = UNITS[name].resolve()
        assert {key: resolved[key] for key in expected} == expected
        assert UNITS[name].name == name


def test_options_are_spelt_with_hyphens() -> None:
    options = [p.option for p in UNITS["ailayernorm"].parameters]
    assert "--beta-fraction-bits" in options and "--output-zero-point" in options


@pytest.mark.parametrize(
    ("unit", "values", "message"),
    [
        ("systolic-array", {"weight_bits": "9"}, "--weight-bits must be in 1..8, not 9.*: 8"),
        ("systolic-array", {"rows": 0}, "--rows must be in 1..256, not 0.*: 1"),
        ("systolic-array", {"cells": "lut"}, "--cells must be 'multiplier' or 'dual' or 'pumped'"),
        (
            "systolic-array",
            {"cells": "tables", "weight_bits": 1, "rows": 16},
            "--weight-bits must be in 2..8 with --cells tables, not 1.*: 2",
        ),
        (
            "systolic-array",
            {"cells": "tables", "rows": 24},
            "--rows must be a multiple of 16 with tables columns, not 24.*: 32",
        ),
        (
            "systolic-array",
            {"cells": "dual", "weight_bits": 4},
            "--weight-bits must be 8 with --cells dual, not 4.*: 8",
        ),
        (
            "systolic-array",
            {"cells": "pumped", "weight_bits": 6},
            "--weight-bits must be 8 with --cells pumped, not 6.*: 8",
        ),
        (
            "systolic-array",
            {"cells": "pumped", "rows": 7},
            "--rows must be even with pumped columns, not 7.*: 8",
        ),
        (
            "systolic-array",
            {"groups": "pumped:4:8,digits:2:4", "rows": 1},
            "--rows must be even with pumped columns, not 1.*: 2",
        ),
        (
            "systolic-array",
            {"groups": "pumped:6:8"},
            "--groups: columns of a pumped group must be a multiple of 4 in 4..1024, not 6.*: 8",
        ),
        (
            "systolic-array",
            {"groups": "dual:2:8,pumped:4:8,digits:2:4"},
            "those at twice the clock in front .*nearest .*: pumped:4:8,dual:2:8,digits:2:4",
        ),
        (
            "systolic-array",
            {"groups": "dual"},
            "--groups: a column group must be KIND:COLUMNS:BITS",
        ),
        (
            "systolic-array",
            {"groups": "digits:4:4,dual:4:8"},
            "--groups: .* the widest first, not .*nearest legal value: dual:4:8,digits:4:4",
        ),
        (
            "systolic-array",
            {"groups": "digits:4:4", "columns": 8},
            "--columns must be left out with --groups, which says it, not 8",
        ),
        (
            "systolic-array",
            {"groups": 4},
            "--groups must be KIND:COLUMNS:BITS,... or 'none', not 4",
        ),
        ("e2softmax", {"fraction_bits": 16}, "--fraction-bits must be in 0..15, not 16.*: 15"),
        ("e2softmax", {"fraction_bits": "four"}, "--fraction-bits must be an integer in 0..15"),
        ("e2softmax", {"fraction_bits": 1.0}, "--fraction-bits must be an integer"),
        ("e2softmax", {"vec": True}, "--vec must be an integer"),
        ("e2softmax", {"max_length": 1}, "--max-length must be in 2..65536, not 1.*: 2"),
        ("e2softmax", {"width": 3}, "among --vec, --mode, .*, --max-length, not 'width'"),
        ("e2softmax", {"mode": "exact"}, "--mode must be 'sole' or 'fractional', not 'exact'"),
        ("e2softmax", {"divider_bits": 6}, "--divider-bits must be in 1..5, not 6.*: 5"),
        (
            "e2softmax",
            {"exponent_fraction_bits": 4},
            "--exponent-fraction-bits must be in 0..3, not 4.*: 3",
        ),
        (
            "e2softmax",
            {"mode": "fractional", "max_length": 4096},
            "--max-length must be at most 4095 with --mode fractional, not 4096.*: 4095",
        ),
        ("ailayernorm", {"lanes": 24}, "--lanes must be a power of two in 8..64, not 24.*: 16"),
        ("ailayernorm", {"squares": "none"}, "--squares must be 'compressed' or 'exact'"),
        ("requantise", {"low": 5, "high": 4}, "--high must be at least --low"),
        ("elementwise", {"zero_point": 0}, "must be among --lanes, not 'zero_point'"),
    ],
)
def test_illegal_parameters(unit: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UNITS[unit].resolve(values)


def test_text_is_read() -> None:
    assert UNITS["requantise"].resolve({"low": "-127", "high": " 5"})["low"] == -127


def test_columns_that_are_drained_together() -> None:
    assert [drained_columns(r, c) for r, c in ((16, 16), (5, 7), (64, 24), (4, 12), (16, 24))] == [
        8,
        7,
        24,
        2,
        8,
    ]


def good(unit: str) -> dict[str, Any]:
    n = 8
    return {
        "systolic-array": {
            "activations": np.zeros((3, 5), np.int8),
            "weights": np.ones((5, 2), np.int64),
        },
        "e2softmax": {"logits": np.zeros((2, 3), np.int8)},
        "ailayernorm": {
            "x": np.zeros((2, n), np.uint8),
            "alpha": np.zeros(n, np.int64),
            "gamma": np.zeros(n, np.int8),
            "beta": np.zeros(n, np.int32),
        },
        "requantise": {
            "accumulators": np.zeros((2, n), np.int32),
            "bias": np.zeros(n, np.int32),
            "multiplier": np.full(n, 1 << 15, np.uint16),
            "shift": np.full(n, 3, np.uint8),
        },
        "elementwise": {"codes": np.zeros((2, n), np.int8), "table": np.zeros(256, np.int8)},
    }[unit]


@pytest.mark.parametrize("name", UNITS)
def test_a_file_is_read_back(name: str, tmp_path: Path) -> None:
    save_vectors(good(name), tmp_path / "new" / "in.npz")
    first = (tmp_path / "new" / "in.npz").read_bytes()
    read = load_vectors(UNITS[name], tmp_path / "new" / "in.npz")
    assert set(read) == set(good(name))
    assert all(np.array_equal(read[key], value) for key, value in good(name).items())
    save_vectors(good(name), tmp_path / "new" / "in.npz")
    assert (tmp_path / "new" / "in.npz").read_bytes() == first
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["in.npz"]


@pytest.mark.parametrize(
    ("unit", "change", "message"),
    [
        ("e2softmax", {"logits": np.zeros((2, 3), np.int16)}, "logits must be int8, not int16"),
        ("e2softmax", {"logits": np.zeros(3, np.int8)}, r"shape \[rows, length\], not \[3\]"),
        ("e2softmax", {"logits": np.zeros((0, 3), np.int8)}, "at least 1 along axis 0"),
        ("e2softmax", {"mask": np.zeros(3)}, "logits and nothing else, not 'mask'"),
        ("e2softmax", {"logits": None}, "'logits' is missing"),
        ("ailayernorm", {"beta": np.zeros(8)}, "beta must be an integer array, not float64"),
        ("ailayernorm", {"beta": np.zeros(9, int)}, r"beta must have shape \[C\] with C = 8"),
        ("elementwise", {"table": np.zeros(255, np.int8)}, "with 256 = 256, not"),
        ("requantise", {"residual": np.zeros((2, 7), np.int16)}, "residual must have shape"),
        ("systolic-array", {"activations": np.zeros((3, 5), bool)}, "must be int8 or uint8"),
        ("systolic-array", {"weights": np.zeros((4, 2), int)}, "with K = 5, not"),
    ],
)
def test_bad_vectors(unit: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {k: v for k, v in (good(unit) | change).items() if v is not None}
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(FormatError, match=message) as caught:
        load_vectors(UNITS[unit], tmp_path / "in.npz")
    assert str(tmp_path / "in.npz") in str(caught.value)


@pytest.mark.parametrize(
    ("unit", "change", "message"),
    [
        ("systolic-array", {"weights": np.full((5, 2), -128)}, r"weights\[0, 0\] must be in -127"),
        ("ailayernorm", {"alpha": np.full(8, 4)}, "alpha.*must be in 0..3, not 4"),
        ("ailayernorm", {"gamma": np.full(8, -128)}, "gamma.*must be in -127..127"),
        ("ailayernorm", {"beta": np.full(8, 1 << 23)}, "beta"),
        ("requantise", {"shift": np.full(8, 48, np.uint8)}, "shift.*must be in 1..47"),
        ("requantise", {"multiplier": np.full(8, 5, np.uint16)}, "multiplier.*must be 0 or in"),
        (
            "requantise",
            {"bias": np.full(8, 1 << 26, np.int32)},
            r"accumulators \+ bias\[0, 0\] must be in -67108864..67108863, not 67108864",
        ),
    ],
)
def test_values_out_of_range(unit: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        UNITS[unit].reference(good(unit) | change, UNITS[unit].resolve())


def test_a_weight_beyond_its_group() -> None:
    unit = UNITS["systolic-array"]
    values = unit.resolve({"groups": "dual:2:8,digits:2:4"})
    weights = np.full((5, 8), 7)
    weights[3, [0, 5]] = 8
    unit.reference(good(unit.name) | {"weights": weights}, values)
    weights[3, 6] = 8
    with pytest.raises(
        FormatError, match=r"weights\[3, 6\] must be in -7..7, not 8 \(.* digits:2:4\).*: 7"
    ):
        unit.reference(good(unit.name) | {"weights": weights}, values)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", logits=np.array([[{}]], object))
    with pytest.raises(FormatError, match="plain arrays"):
        load_vectors(UNITS["e2softmax"], tmp_path / "in.npz")


def test_what_is_no_archive(tmp_path: Path) -> None:
    unit = UNITS["e2softmax"]
    np.save(tmp_path / "in.npy", np.zeros((2, 3), np.int8))
    archive = io.BytesIO()
    np.savez(archive, logits=np.zeros((200, 300), np.int8))
    (tmp_path / "short.npz").write_bytes(archive.getvalue()[:5000])
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("logits.npy", "text")
    for name in ("in.npy", "short.npz", "text.npz", "absent.npz", "."):
        with pytest.raises(FormatError):
            load_vectors(unit, tmp_path / name)


def test_an_archive_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("logits.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(1025):
            member.write(bytes(1 << 20))
    with pytest.raises(FormatError, match="must unpack to at most"):
        load_vectors(UNITS["e2softmax"], tmp_path / "bomb.npz")


def test_packed_weights() -> None:
    """Rows from the highest reduction index down, column 0 lowest, a set bit is -1 at one bit."""
    unit = UNITS["systolic-array"]
    values = unit.resolve({"rows": 2, "columns": 3, "weight_bits": 1})
    weights = np.array([[1, -1, 1], [-1, -1, 1]])
    assert unit.pack_weights(weights, values).tolist() == [[[[0b011], [0b010]]]]
    values = unit.resolve({"rows": 2, "columns": 3, "weight_bits": 3})
    weights = np.array([[1, -1, 3], [-3, 0, 1]])
    expected = [0o105, 0o371]
    packed = unit.pack_weights(weights, values)
    assert [int.from_bytes(row.tobytes(), "little") for row in packed[0, 0]] == expected


def test_packed_weights_of_groups() -> None:
    """Fields of the cells' widths: above a weight of 4 bits its carry, which is 0."""
    unit = UNITS["systolic-array"]
    values = unit.resolve({"rows": 1, "groups": "dual:2:8,digits:2:4,digits:2:1"})
    packed = unit.pack_weights(np.array([[-2, 3, -1, 5, -1, 1]], np.int8), values)
    fields = 0xFE | 3 << 8 | 0b01111 << 16 | 0b00101 << 21 | 0b01 << 26
    assert int.from_bytes(packed[0, 0, 0].tobytes(), "little") == fields
    assert unit.packed_weight_bytes(values) == -(-(16 + 8 + 2) // 8)


def test_packed_bytes_fall_with_the_width() -> None:
    unit = UNITS["systolic-array"]
    sizes = [unit.packed_weight_bytes(unit.resolve({"weight_bits": w})) for w in range(1, 9)]
    assert sizes == [32 * w for w in range(1, 9)]
