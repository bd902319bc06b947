# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.config import AcceleratorConfig
from hwgen.numerics.slices import DigitMode, decode_digits, slice_count
from hwgen.program.packing import (
    constant_records,
    decode_constants,
    decode_layernorm,
    layernorm_records,
    pack_passes,
    pack_tiles,
    port_stride,
    split_ports,
    unpack_passes,
    words_of_bytes,
    words_of_int16,
)


def config(**changes) -> AcceleratorConfig:
    return AcceleratorConfig(**{"constant_fifo_beats": 256, **changes})


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("rows", "columns"), [(16, 8), (16, 16), (16, 48), (32, 16)])
def test_passes_round_trip(bits: int, rows: int, columns: int) -> None:
    shape = config(rows=rows, columns=columns, weight_bits=bits)
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (5, rows, columns), dtype=np.uint8)
    packed = pack_passes(codes, shape)
    assert packed.shape == (5, shape.weight_beats_per_pass * 16)
    np.testing.assert_array_equal(unpack_passes(packed, shape), codes)


def test_bits_of_a_pass_lie_as_documented() -> None:
    """Rows R-1 .. 0, column 0 lowest, fields of weight_bits: read back bit by bit."""
    shape = config(rows=16, columns=8, weight_bits=3)
    codes = np.random.default_rng(0).integers(0, 8, (1, 16, 8), dtype=np.uint8)
    number = int.from_bytes(pack_passes(codes, shape)[0].tobytes(), "little")
    for place in range(16):
        for column in range(8):
            field = number >> (3 * (8 * place + column)) & 7
            assert field == codes[0, 15 - place, column]


@pytest.mark.parametrize("ports", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_tiles_hold_constants_then_passes(ports: int, bits: int) -> None:
    shape = config(rows=16, columns=16, memory_ports=ports)
    rng = np.random.default_rng(ports)
    limit = max(1, (1 << (bits - 1)) - 1)
    weights = rng.integers(-limit, limit + 1, (32, 48), dtype=np.int8)
    constants = rng.integers(0, 256, (48, 8), dtype=np.uint8)
    records = pack_tiles(weights, bits, constants, shape)
    beat = 16 * ports
    head = shape.constant_beats * beat
    size = shape.weight_beats_per_pass * beat
    assert records.shape == (3, head + 2 * size)
    for tile in range(3):
        columns = slice(16 * tile, 16 * tile + 16)
        assert records[tile, : 16 * 8].tobytes() == constants[columns].tobytes()
        passes = unpack_passes(records[tile, head:].reshape(2, size), shape)
        np.testing.assert_array_equal(passes.reshape(32, 16).view(np.int8), weights[:, columns])


@pytest.mark.parametrize(("bits", "column_bits"), [(8, 4), (8, 3), (5, 2), (8, 1), (1, 1), (1, 3)])
def test_slices_add_up_to_the_weights(bits: int, column_bits: int) -> None:
    shape = config(rows=16, columns=16, weight_bits=column_bits)
    rng = np.random.default_rng(bits)
    limit = max(1, (1 << (bits - 1)) - 1)
    weights = rng.integers(-limit, limit + 1, (16, 32), dtype=np.int8)
    if bits == 1:
        weights = rng.choice(np.array([-1, 1], np.int8), (16, 32))
    records = pack_tiles(weights, bits, np.zeros((32, 8), np.uint8), shape)
    slices = slice_count(bits, column_bits)
    head = shape.constant_beats * 16
    passes = unpack_passes(records[:, head:].reshape(2 * slices, -1), shape)
    total = np.zeros((2, 16, 16), np.int64)
    for index, codes in enumerate(passes.reshape(2, slices, 16, 16).swapaxes(0, 1)):
        mode = DigitMode.SIGNED if index == slices - 1 else DigitMode.UNSIGNED
        if bits == 1 and column_bits == 1:
            mode = DigitMode.SIGN
        digits = decode_digits(codes, column_bits=column_bits, mode=mode)
        total += digits.astype(np.int64) << (index * column_bits)
    np.testing.assert_array_equal(total.transpose(1, 0, 2).reshape(16, 32), weights)


def test_constant_records_round_trip_and_pad_with_dead_columns() -> None:
    rng = np.random.default_rng(1)
    bias = rng.integers(-(1 << 31), 1 << 31, 5).astype(np.int32)
    multiplier = rng.integers(1 << 15, 1 << 16, 5).astype(np.uint16)
    shift = rng.integers(1, 48, 5).astype(np.uint8)
    records = constant_records(bias, multiplier, shift, 8)
    assert records.shape == (8, 8)
    back = decode_constants(records)
    for values, expected in zip(back, (bias, multiplier, shift), strict=True):
        np.testing.assert_array_equal(values[:5], expected)
    assert list(back[1][5:]) == [0, 0, 0]
    assert list(back[2][5:]) == [1, 1, 1]
    assert records[0].tobytes() == (
        int(bias[0]).to_bytes(4, "little", signed=True)
        + int(multiplier[0]).to_bytes(2, "little")
        + bytes([int(shift[0]), 0])
    )


@pytest.mark.parametrize("channels", [1, 2, 7, 24])
def test_layernorm_records_round_trip(channels: int) -> None:
    rng = np.random.default_rng(channels)
    alpha = rng.integers(0, 4, channels).astype(np.uint8)
    gamma = rng.integers(-127, 128, channels).astype(np.int8)
    beta = rng.integers(-(1 << 23), 1 << 23, channels).astype(np.int32)
    records = layernorm_records(alpha, gamma, beta)
    assert records.nbytes % 16 == 0
    for values, expected in zip(decode_layernorm(records), (alpha, gamma, beta), strict=True):
        np.testing.assert_array_equal(values[:channels], expected)


@pytest.mark.parametrize("ports", [1, 2, 4, 6])
def test_ports_share_wide_beats(ports: int) -> None:
    shape = config(memory_ports=ports)
    records = np.random.default_rng(0).integers(0, 256, (3, 5 * 16 * ports), dtype=np.uint8)
    data, stride = split_ports(records, shape)
    assert stride == port_stride(15)
    assert stride * 16 % 4096 == 0
    for beat in range(15):
        for port in range(ports):
            start = port * stride * 16 + beat * 16
            wide = records.reshape(15, -1)[beat]
            assert data[start : start + 16] == wide[16 * port : 16 * port + 16].tobytes()


def test_words_follow_the_layout() -> None:
    shape = config(rows=16, columns=16)
    values = np.random.default_rng(0).integers(-500, 500, (3, 19)).astype(np.int16)
    words = words_of_int16(values, shape)
    assert words.shape == (3, 3, 16)
    for token in range(3):
        for channel in range(24):
            pair = words[channel // 8, token, 2 * (channel % 8) : 2 * (channel % 8) + 2]
            expected = values[token, channel] if channel < 19 else 0
            assert int.from_bytes(pair.tobytes(), "little", signed=True) == expected
    plain = np.random.default_rng(0).integers(0, 256, (2, 33), dtype=np.uint8)
    assert words_of_bytes(plain, shape)[2, 1, 0] == plain[1, 32]
