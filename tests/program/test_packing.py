# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.columns import dense
from hwgen.config import AcceleratorConfig
from hwgen.program.packing import (
    constant_records,
    decode_constants,
    decode_layernorm,
    layernorm_records,
    pack_tiles,
    place_constants,
    port_stride,
    split_ports,
    words_of_bytes,
    words_of_int16,
)
from hwgen.program.weight_planes import pass_beats, tile_formats, unpack_weights


def config(**changes) -> AcceleratorConfig:
    return AcceleratorConfig(**{"constant_fifo_beats": 256, **changes})


@pytest.mark.parametrize("ports", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_tiles_hold_constants_then_weights(ports: int, bits: int) -> None:
    shape = config(rows=16, groups=dense(16), memory_ports=ports)
    rng = np.random.default_rng(ports)
    limit = max(1, (1 << (bits - 1)) - 1)
    weights = rng.integers(-limit, limit + 1, (32, 48), dtype=np.int8)
    if bits == 1:
        weights = rng.choice(np.array([-1, 1], np.int8), (32, 48))
    constants = rng.integers(0, 256, (3, 16, 8), dtype=np.uint8)
    (form,) = tile_formats(shape, bits)
    records = pack_tiles(weights, constants, form, shape)
    head = shape.constant_beats * 16 * ports
    size = pass_beats(shape, form) * 16 * ports
    assert records.shape == (3, head + 2 * size)
    for tile in range(3):
        columns = slice(16 * tile, 16 * tile + 16)
        assert records[tile, : 16 * 8].tobytes() == constants[tile].tobytes()
        cells = unpack_weights(shape, form, records[tile, head:], passes=2)
        np.testing.assert_array_equal(cells[0], weights[:, columns])


@pytest.mark.parametrize("first", [0, 4, 10])
@pytest.mark.parametrize("tile_columns", [8, 12, 16, 30])
@pytest.mark.parametrize("count", [5, 24, 61])
@pytest.mark.parametrize("chunk", [4, 8])
def test_places_say_where_every_pair_of_columns_goes(
    first: int, tile_columns: int, count: int, chunk: int
) -> None:
    records = np.zeros((count, 8), np.uint8)
    placed = place_constants(records, tile_columns=tile_columns, lanes=8, chunk=chunk, first=first)
    assert placed.shape == (-(-count // tile_columns), tile_columns, 8)
    for column in range(placed.shape[0] * tile_columns):
        tile, within = divmod(column, tile_columns)
        place = int(placed[tile, within, 7])
        if column >= count or column % 2:
            assert place == 0
            continue
        last = within + 2 >= tile_columns or column + 2 >= count
        assert place & 63 == (first + column) % 8 // 2
        assert bool(place & 64) == (last or (first + column + 2) % chunk == 0)
        assert bool(place & 128) == last
        assert list(placed[tile, within, :7]) == [0] * 6 + [0]
    for column in range(count, placed.shape[0] * tile_columns):
        assert list(placed[divmod(column, tile_columns)]) == [0, 0, 0, 0, 0, 0, 1, 0]


def test_constant_records_round_trip() -> None:
    rng = np.random.default_rng(1)
    bias = rng.integers(-(1 << 31), 1 << 31, 5).astype(np.int32)
    multiplier = rng.integers(1 << 15, 1 << 16, 5).astype(np.uint16)
    shift = rng.integers(1, 48, 5).astype(np.uint8)
    records = constant_records(bias, multiplier, shift)
    assert records.shape == (5, 8)
    back = decode_constants(records)
    for values, expected in zip(back, (bias, multiplier, shift), strict=True):
        np.testing.assert_array_equal(values, expected)
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
    shape = config(rows=16, groups=dense(16))
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
