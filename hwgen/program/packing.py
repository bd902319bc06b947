# SPDX-License-Identifier: Apache-2.0
"""Bytes of the memory image: packed weights, constant records, words; and their inverses.

Formats: docs/design.md, section 2. A *tile* is ``columns`` output channels; a *pass* is ``rows``
reduction indices of one tile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BEAT_BYTES, CONSTANT_BYTES
from hwgen.numerics.slices import digit_mode, encode_digits, slice_count, weight_slices

Bytes = npt.NDArray[np.uint8]


def pack_passes(codes: npt.NDArray[np.uint8], config: AcceleratorConfig) -> Bytes:
    """Pack the stored codes of passes.

    Args:
        codes: uint8 [passes, rows, columns], each ``weight_bits`` bits.
        config: rows, columns, weight bits and memory ports.

    Returns:
        uint8 [passes, weight_beats_per_pass * bytes of a wide beat]: rows R-1 ... 0,
        column 0 lowest.
    """
    passes, rows, columns = codes.shape
    bits = config.weight_bits
    ordered = codes[:, ::-1, :]
    if bits == 8:
        packed = np.ascontiguousarray(ordered).reshape(passes, -1)
    else:
        planes = (ordered[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
        flat = planes.reshape(passes, rows * columns * bits)
        packed = np.packbits(flat, axis=1, bitorder="little")
    size = config.weight_beats_per_pass * config.wide_beat_bits // 8
    out = np.zeros((passes, size), np.uint8)
    out[:, : packed.shape[1]] = packed
    return out


def unpack_passes(data: Bytes, config: AcceleratorConfig) -> npt.NDArray[np.uint8]:
    """Inverse of :func:`pack_passes`: uint8 [passes, rows, columns] of stored codes."""
    bits, rows, columns = config.weight_bits, config.rows, config.columns
    used = -(-rows * columns * bits // 8)
    if bits == 8:
        return data[:, :used].reshape(-1, rows, columns)[:, ::-1, :]
    flat = np.unpackbits(data[:, :used], axis=1, bitorder="little")[:, : rows * columns * bits]
    planes = flat.reshape(-1, rows, columns, bits)
    codes = (planes << np.arange(bits, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
    return codes[:, ::-1, :]


def constant_records(
    bias: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, columns: int
) -> Bytes:
    """Per-column constants: bias int32, multiplier uint16, shift uint8, zero.

    Columns beyond the given ones are dead: multiplier 0, shift 1.

    Returns:
        uint8 [columns, 8].
    """
    records = np.zeros((columns, CONSTANT_BYTES), np.uint8)
    biases = np.asarray(bias, "<i4").reshape(-1)
    count = len(biases)
    records[:, 6] = 1
    records[:count, 0:4] = biases.view(np.uint8).reshape(count, 4)
    records[:count, 4:6] = (
        np.asarray(multiplier, "<u2").reshape(-1).view(np.uint8).reshape(count, 2)
    )
    records[:count, 6] = np.asarray(shift, np.uint8).reshape(-1)
    return records


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
    weights: npt.NDArray[np.int8],
    weight_bits: int,
    constants: Bytes,
    config: AcceleratorConfig,
) -> Bytes:
    """Tile records of a layer: per tile the constants, then slices x passes of packed weights.

    Args:
        weights: int8 [passes * rows, tiles * columns], padded with zeros; at 1 bit {-1, +1}, where
            padding rows are zero too and are stored as +1 (their activations must not count).
        weight_bits: width of the layer.
        constants: uint8 [tiles * columns, 8].
        config: the design.

    Returns:
        uint8 [tiles, bytes of a record].
    """
    rows, columns, column_bits = config.rows, config.columns, config.weight_bits
    passes, tiles = weights.shape[0] // rows, weights.shape[1] // columns
    beat = config.wide_beat_bits // 8
    constant_bytes = config.constant_beats * beat
    pass_bytes = config.weight_beats_per_pass * beat
    slices = slice_count(weight_bits, column_bits)
    out = np.zeros((tiles, constant_bytes + slices * passes * pass_bytes), np.uint8)
    out[:, : columns * CONSTANT_BYTES] = constants.reshape(tiles, columns * CONSTANT_BYTES)
    # One slice spans the whole layer: widening is a matter of sign extension, zeros stay zeros.
    width = weight_bits if slices > 1 else 8
    if weight_bits == 1 and column_bits == 1:
        digits = [(np.where(weights == 0, 1, weights).astype(np.int8), True)]
        width = 1
    elif slices == 1:
        digits = [(weights, True)]
    else:
        digits = [(cut.digits, cut.signed) for cut in weight_slices(weights, width, column_bits)]
    for index, (values, signed) in enumerate(digits):
        mode = digit_mode(
            weight_bits=1 if width == 1 else max(2, weight_bits),
            column_bits=column_bits,
            signed=signed,
        )
        codes = encode_digits(values, column_bits=column_bits, mode=mode)
        blocks = codes.reshape(passes, rows, tiles, columns).transpose(2, 0, 1, 3)
        packed = pack_passes(
            np.ascontiguousarray(blocks).reshape(tiles * passes, rows, columns), config
        )
        start = constant_bytes + index * passes * pass_bytes
        out[:, start : start + passes * pass_bytes] = packed.reshape(tiles, passes * pass_bytes)
    return out


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
