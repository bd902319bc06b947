# SPDX-License-Identifier: Apache-2.0
"""The format of packed weights, read back bit by bit, and on every kind of column."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.columns import parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.program.weight_planes import (
    TileFormat,
    pack_weights,
    pass_beats,
    pass_blocks,
    tile_formats,
    unpack_weights,
)

GROUPS = [
    "dual:16:8",
    "dual:10:8,digits:6:4",
    "dual:8:8,digits:6:3,digits:4:2,digits:10:1",
    "digits:300:8,digits:2:4",
    "dual:8:8,digits:8:1",
]


def _config(groups: str, ports: int = 1) -> AcceleratorConfig:
    return AcceleratorConfig(
        groups=parse_groups(groups), memory_ports=ports, constant_fifo_beats=1024
    )


def _weights(rng: np.random.Generator, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    if bits == 1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    limit = (1 << (bits - 1)) - 1
    return rng.integers(-limit, limit + 1, shape, dtype=np.int8)


@pytest.mark.parametrize("ports", [1, 4])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("groups", GROUPS)
def test_cells_hold_the_weights(groups: str, bits: int, ports: int) -> None:
    """On every prefix of the groups; slices add up, the top one first."""
    config = _config(groups, ports)
    rng = np.random.default_rng(bits)
    forms = tile_formats(config, bits)
    assert forms
    for form in forms:
        last = pass_blocks(config, form)[-1]
        assert pass_beats(config, form) == last.beat + last.planes * last.plane_beats
        weights = _weights(rng, bits, (32, 2 * form.columns))
        packed = pack_weights(config, form, weights)
        assert packed.shape == (2, form.slices * 2 * pass_beats(config, form) * 16 * ports)
        for tile, data in enumerate(packed):
            cells = unpack_weights(config, form, data, passes=2)
            assert cells.shape == (form.slices, 32, form.columns)
            total = np.zeros(cells.shape[1:], np.int64)
            for cell in cells:
                total = (total << form.slice_bits) + cell
            expected = weights[:, tile * form.columns : (tile + 1) * form.columns]
            np.testing.assert_array_equal(total, expected)
            start = 0
            for number, group in enumerate(config.groups):
                if not form.planes[number]:
                    continue
                values = cells[:, :, start : start + group.columns]
                start += group.columns
                reach = 1 if group.weight_bits == 1 else 1 << (group.weight_bits - 1)
                assert -reach <= values.min() <= values.max() <= reach


def test_bits_of_a_pass_lie_as_documented() -> None:
    """Blocks by first row and group, planes from the carry up, rows from R-1 down."""
    config = _config("dual:10:8,digits:6:4")
    form = tile_formats(config, 7)[1]
    assert form == TileFormat(columns=16, planes=(4, 4, 0, 0), slices=2, slice_bits=4)
    weights = _weights(np.random.default_rng(0), 7, (16, 16))
    data = pack_weights(config, form, weights)[0].reshape(2, -1, 16)
    blocks = pass_blocks(config, form)
    assert [(b.first, b.group, b.rows, b.planes) for b in blocks] == [
        (0, 0, 12, 4),
        (0, 1, 16, 5),
        (12, 0, 4, 4),
    ]
    assert data.shape[1] == 4 + 5 + 4
    for index, lowest in enumerate((4, 0)):
        for block in blocks:
            first, count = (0, 10) if block.group == 0 else (10, 6)
            for place in range(block.planes):
                number = int.from_bytes(data[index, block.beat + place].tobytes(), "little")
                bit = lowest + place - block.group  # group 1 has a plane of carries
                for row in range(block.rows):
                    for column in range(count):
                        weight = int(weights[15 - block.first - row, first + column])
                        expected = weight >> bit & 1 if bit >= 0 else 0
                        assert number >> (row * count + column) & 1 == expected
                assert number >> (block.rows * count) == 0


def test_weights_cost_their_own_width() -> None:
    config = _config("dual:16:8")
    sizes = [pass_beats(config, tile_formats(config, bits)[0]) for bits in range(2, 9)]
    assert sizes == [2 * bits for bits in range(2, 9)]


def test_one_bit_columns_take_one_bit_weights_only() -> None:
    config = _config("dual:8:8,digits:8:1")
    assert [form.columns for form in tile_formats(config, 1)] == [8, 16]
    assert [form.columns for form in tile_formats(config, 2)] == [8]


def test_another_number_of_bytes_is_refused() -> None:
    config = _config("dual:16:8")
    form = tile_formats(config, 8)[0]
    with pytest.raises(ProgramError, match="must be 256 bytes, not 240"):
        unpack_weights(config, form, np.zeros(240, np.uint8), passes=1)
