# SPDX-License-Identifier: Apache-2.0
"""Bytes of the memory image: packed weights, constant records, words; and their inverses.

Formats: docs/design.md, section 2. A *tile* is the output channels of the columns that a layer
uses; a *pass* is ``rows`` reduction indices of one tile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BEAT_BYTES, CONSTANT_BYTES
from hwgen.program.weight_planes import TileFormat, pack_weights

Bytes = npt.NDArray[np.uint8]


#: Byte 7 of a record, on even columns: lane pair, and what ends with this pair of columns.
PLACE_PAIR = 63
PLACE_CHUNK_END = 64
PLACE_TILE_END = 128


def constant_records(bias: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> Bytes:
    """Per-column constants: bias int32, multiplier uint16, shift uint8, zero.

    Returns:
        uint8 [columns, 8].
    """
    biases = np.asarray(bias, "<i4").reshape(-1)
    count = len(biases)
    records = np.zeros((count, CONSTANT_BYTES), np.uint8)
    records[:, 0:4] = biases.view(np.uint8).reshape(count, 4)
    records[:, 4:6] = np.asarray(multiplier, "<u2").reshape(-1).view(np.uint8).reshape(count, 2)
    records[:, 6] = np.asarray(shift, np.uint8).reshape(-1)
    return records


def place_constants(
    records: Bytes,
    *,
    tile_columns: int,
    lanes: int,
    chunk: int,
    first: int = 0,
    apart: bool = False,
) -> Bytes:
    """Constants tile by tile, each pair of columns with its place among the lanes.

    Args:
        records: uint8 [columns, 8] of the layer's columns.
        tile_columns: columns of a tile.
        lanes: requantise lanes.
        chunk: channels that they make at a time (``chunk_channels`` of the configuration).
        first: channel of the destination that column 0 goes to.
        apart: every tile begins a word of its own.

    Returns:
        uint8 [tiles, tile_columns, 8]. Columns that are not there are dead: multiplier 0, shift 1.
    """
    count = len(records)
    tiles = -(-count // tile_columns)
    out = np.zeros((tiles * tile_columns, CONSTANT_BYTES), np.uint8)
    out[:, 6] = 1
    out[:count] = records
    out[:, 7] = 0
    even = np.arange(0, count, 2)
    channel = first + (even % tile_columns if apart else even)
    pairs = channel // 2 % (lanes // 2)
    tile_end = (even + 2 >= count) | ((even + 2) % tile_columns == 0)
    chunk_end = tile_end | ((channel + 2) % chunk == 0)
    out[even, 7] = pairs + PLACE_CHUNK_END * chunk_end + PLACE_TILE_END * tile_end
    return out.reshape(tiles, tile_columns, CONSTANT_BYTES)


def decode_constants(
    records: Bytes,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Inverse of :func:`constant_records`: bias, multiplier, shift of uint8 [columns, 8]."""
    data = np.ascontiguousarray(records)
    return (
        data[:, 0:4].copy().view("<i4").reshape(-1).astype(np.int32),
        data[:, 4:6].copy().view("<u2").reshape(-1).astype(np.uint16),
        data[:, 6].copy(),
    )


def pack_tiles(
    weights: npt.NDArray[np.int8], constants: Bytes, form: TileFormat, config: AcceleratorConfig
) -> Bytes:
    """Tile records of a layer: per tile the constants, then the packed weights.

    Args:
        weights: int8 [passes * rows, tiles * columns], padded with zeros.
        constants: uint8 [tiles, columns, 8].
        form: how the layer lies on the columns.
        config: the design.

    Returns:
        uint8 [tiles, bytes of a record].
    """
    tiles = len(constants)
    beats = config.constant_beats_of(form.columns)
    head = np.zeros((tiles, beats * config.wide_beat_bits // 8), np.uint8)
    head[:, : form.columns * CONSTANT_BYTES] = constants.reshape(tiles, -1)
    return np.concatenate([head, pack_weights(config, form, weights)], axis=1)


def split_ports(records: Bytes, config: AcceleratorConfig) -> tuple[bytes, int]:
    """Lay out tile records for the memory ports.

    Args:
        records: uint8 [tiles, bytes], whole wide beats.
        config: memory ports.

    Returns:
        The bytes of all ports' regions one behind the other, and the distance between regions in
        units of 16 bytes (a multiple of 4096 bytes, so that all ports' bursts end alike).
    """
    ports = config.memory_ports
    beats = records.reshape(-1, ports, BEAT_BYTES)
    stride = port_stride(len(beats))
    if ports == 1:
        return records.tobytes(), stride
    out = np.zeros((ports, stride * BEAT_BYTES), np.uint8)
    out[:, : len(beats) * BEAT_BYTES] = beats.transpose(1, 0, 2).reshape(ports, -1)
    return out.tobytes(), stride


def split_words(words: Bytes, config: AcceleratorConfig) -> bytes:
    """Words of the activation memory for LOAD_WORDS: as :func:`split_ports`, or as they are."""
    return words.tobytes() if config.word_ports == 1 else split_ports(words, config)[0]


def words_size(words: int, config: AcceleratorConfig) -> int:
    """Bytes of :func:`split_words`."""
    if config.word_ports == 1:
        return words * config.rows
    return config.word_ports * words_stride(words, config) * BEAT_BYTES


def words_stride(words: int, config: AcceleratorConfig) -> int:
    """Distance between the ports' regions of so many words, units of 16 bytes; 0 with one port."""
    ports = config.word_ports
    return 0 if ports == 1 else port_stride(words * config.rows // (ports * BEAT_BYTES))


def port_stride(beats: int) -> int:
    """Distance between the ports' regions of ``beats`` wide beats, units of 16 bytes."""
    page = 4096 // BEAT_BYTES
    return -(-beats // page) * page


def layernorm_records(alpha: npt.ArrayLike, gamma: npt.ArrayLike, beta: npt.ArrayLike) -> Bytes:
    """LayerNorm records of all channels: beta int24, gamma int8, alpha, zeros; whole beats.

    Returns:
        uint8 [channels rounded up to a pair, 8].
    """
    betas = np.asarray(beta, "<i4").reshape(-1)
    count = len(betas)
    records = np.zeros((count + count % 2, CONSTANT_BYTES), np.uint8)
    records[:count, 0:3] = betas.view(np.uint8).reshape(count, 4)[:, :3]
    records[:count, 3] = np.asarray(gamma, np.int8).view(np.uint8)
    records[:count, 4] = np.asarray(alpha, np.uint8)
    return records


def decode_layernorm(
    records: Bytes,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Inverse of :func:`layernorm_records`: alpha, gamma, beta."""
    data = np.ascontiguousarray(records)
    wide = np.zeros((len(data), 4), np.uint8)
    wide[:, 1:] = data[:, 0:3]
    beta = (wide.view("<i4").reshape(-1) >> 8).astype(np.int32)
    return data[:, 4].copy(), data[:, 3].copy().view(np.int8), beta


def words_of_int16(values: npt.NDArray[np.int16], config: AcceleratorConfig) -> Bytes:
    """Words of an int16 tensor [tokens, channels]: uint8 [slices, tokens, rows]."""
    return words_of_bytes(
        np.ascontiguousarray(values, "<i2").view(np.uint8).reshape(len(values), -1), config
    )


def words_of_bytes(values: Bytes, config: AcceleratorConfig) -> Bytes:
    """Words of a tensor of bytes [tokens, bytes]: uint8 [slices, tokens, rows], zero padded."""
    tokens, size = values.shape
    slices = -(-size // config.rows)
    padded = np.zeros((tokens, slices * config.rows), np.uint8)
    padded[:, :size] = values
    return np.ascontiguousarray(padded.reshape(tokens, slices, config.rows).transpose(1, 0, 2))
