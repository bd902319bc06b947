# SPDX-License-Identifier: Apache-2.0
"""The configuration refuses what cannot be built, and its nearest value can."""

from __future__ import annotations

import re

import pytest

from hwgen.columns import dense, parse_groups
from hwgen.config import (
    BANK_ROLES,
    PARAMETERS,
    AcceleratorConfig,
    aligned_columns,
    softmax_fields,
)
from hwgen.errors import ConfigError
from hwgen.numerics.softmax import SoftmaxFunction

LEGAL = AcceleratorConfig()
#: What a wide array brings with it.
WIDE = {"constant_fifo_beats": 1 << 14}

#: A change that is not legal: the field that is to blame, and its nearest value.
REFUSED = [
    ({"rows": 24}, "rows", 16),
    ({"rows": 25}, "rows", 32),
    ({"rows": 0}, "rows", 16),
    ({"rows": 10**30, "groups": dense(64)}, "rows", 128),
    ({"groups": dense(2)}, "groups", dense(8)),
    ({"rows": 64, "groups": dense(16)}, "groups", dense(32)),
    (
        {"rows": 64, "groups": parse_groups("dual:6:8,digits:40:4")},
        "groups",
        parse_groups("dual:32:8,digits:40:4"),
    ),
    (
        {"groups": parse_groups("pumped:4:8,digits:2:8")},
        "groups",
        parse_groups("pumped:8:8,digits:2:8"),
    ),
    ({"groups": parse_groups("digits:40:4")}, "groups", parse_groups("dual:8:8,digits:40:4")),
    ({"rows": 128}, "groups", dense(64)),
    ({"requantise_lanes": 4}, "requantise_lanes", 8),
    ({"requantise_lanes": 12}, "requantise_lanes", 8),
    ({"requantise_lanes": 32}, "requantise_lanes", 16),
    ({"requantise_lanes": 16, "rows": 64, "groups": dense(64)}, "requantise_lanes", 32),
    ({"layernorm_lanes": 2}, "layernorm_lanes", 4),
    ({"groups": dense(10), "rotation": False}, "rotation", True),
    ({"layernorm_lanes": 16}, "layernorm_lanes", 8),
    ({"softmax_vec": 4}, "softmax_vec", 8),
    ({"softmax_vec": 24}, "softmax_vec", 16),
    ({"softmax_vec": 128}, "softmax_vec", 64),
    ({"exponent_fraction_bits": 4}, "exponent_fraction_bits", 3),
    ({"divider_bits": 0}, "divider_bits", 1),
    ({"divider_bits": 6}, "divider_bits", 5),
    ({"max_row_length": 1}, "max_row_length", 2),
    ({"max_row_length": 4096}, "max_row_length", 4095),
    ({"max_channels": 7}, "max_channels", 8),
    ({"max_channels": 5000}, "max_channels", 4095),
    ({"tile_rows": 1}, "tile_rows", 2),
    ({"tile_rows": 4096}, "tile_rows", 4095),
    ({"bank_words": (64,) * 6 + (0,)}, "bank_words", (64,) * 6 + (1,)),
    ({"bank_words": (1 << 20,) * 7}, "bank_words", (1 << 17,) * 7),
    ({"bank_words": (64,) * 5}, "bank_words", (64,) * 5 + (1, 1)),
    ({"bank_words": (64,) * 9}, "bank_words", (64,) * 7),
    ({"memory_ports": 0}, "memory_ports", 1),
    ({"memory_ports": 7}, "memory_ports", 6),
    ({"read_fifo_beats": 0}, "read_fifo_beats", 32),
    ({"read_fifo_beats": 1, "burst_beats": 1}, "read_fifo_beats", 2),
    ({"read_fifo_beats": 16}, "read_fifo_beats", 32),
    ({"read_fifo_beats": 500}, "read_fifo_beats", 512),
    ({"read_fifo_beats": 1 << 40}, "read_fifo_beats", 1 << 14),
    ({"burst_beats": 256, "read_fifo_beats": 256}, "read_fifo_beats", 512),
    ({"constant_fifo_beats": 2}, "constant_fifo_beats", 16),
    (
        {"constant_fifo_beats": 2, "groups": dense(8), "memory_ports": 6},
        "constant_fifo_beats",
        3,
    ),
    ({"constant_fifo_beats": 15}, "constant_fifo_beats", 16),
    ({"constant_fifo_beats": 1 << 20}, "constant_fifo_beats", 1 << 14),
    ({"groups": dense(1024)}, "constant_fifo_beats", 1024),
    ({"burst_beats": 0}, "burst_beats", 1),
    ({"burst_beats": 12}, "burst_beats", 8),
    ({"burst_beats": 512}, "burst_beats", 256),
    ({"outstanding": 0}, "outstanding", 1),
    ({"outstanding": 65}, "outstanding", 64),
    ({"queue_depth": 1}, "queue_depth", 2),
    ({"queue_depth": 65}, "queue_depth", 64),
    ({"clock_mhz": 0}, "clock_mhz", 1),
    ({"clock_mhz": 1001}, "clock_mhz", 1000),
]


@pytest.mark.parametrize(("changes", "field", "nearest"), REFUSED, ids=str)
def test_the_nearest_legal_value_is_named(
    changes: dict[str, object], field: str, nearest: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be .*, not ") as caught:
        LEGAL.replace(**changes)
    assert (caught.value.field, caught.value.nearest) == (field, nearest)
    assert getattr(LEGAL.replace(**changes | {field: nearest}), field) == nearest


def test_every_field_has_a_refused_value() -> None:
    flags = {name for name, parameter in PARAMETERS.items() if parameter.flag}
    assert flags == {"instruction_check", "rotation", "softmax_fractional"}
    assert {field for _, field, _ in REFUSED} == set(PARAMETERS) - flags | {"groups", "rotation"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_ends_of_every_range_are_legal(name: str) -> None:
    parameter = PARAMETERS[name]
    for value in (parameter.low, parameter.high):
        changes: dict[str, object] = {name: bool(value) if parameter.flag else value}
        if name == "bank_words":
            changes = {name: (value,) * len(BANK_ROLES)}
        # What else has to change with it.
        if name in ("rows", "requantise_lanes", "layernorm_lanes"):
            rows = min(128, max(16, value if name != "layernorm_lanes" else 2 * value))
            changes |= {"rows": rows, "groups": dense(rows)}
        if name == "constant_fifo_beats":
            changes |= {"memory_ports": 6, "groups": dense(8)}
        if name in ("burst_beats", "read_fifo_beats"):
            changes = {"burst_beats": 1, "read_fifo_beats": 1 << 14} | changes
        assert LEGAL.replace(**changes).to_json()[name] is not None


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [None, "16", 16.0, True, (16,), [16]])
def test_other_types_are_refused(name: str, value: object) -> None:
    if name == "bank_words" and value == (16,):
        value = (16.0,) * 7
    kind = "a tuple of integers" if name == "bank_words" else "an integer"
    if PARAMETERS[name].flag:
        value = 1 if value is True else value
        kind = "true or false"
    with pytest.raises(ConfigError, match=f"{name} must be {kind}, not"):
        LEGAL.replace(**{name: value})


def test_aligned_columns() -> None:
    assert aligned_columns(16)[:4] == (8, 16, 32, 48)
    assert aligned_columns(128)[:3] == (64, 128, 256)
    for rows in (16, 32, 64, 128):
        for columns in aligned_columns(rows):
            config = LEGAL.replace(rows=rows, groups=dense(columns), constant_fifo_beats=1 << 14)
            assert config.value_columns == columns


def test_what_follows_from_groups() -> None:
    config = LEGAL.replace(groups=parse_groups("dual:10:8,digits:6:8,digits:8:4,digits:30:1"))
    assert config.columns == 54
    assert config.prefixes == (10, 16, 24, 54)
    assert (config.attention_columns, config.value_columns) == (16, 16)
    assert config.slice_widths == (4,)
    assert config.segments == 7  # of 8 columns
    assert config.strips == 8  # at 8, 10, 16, 24, 32, 40, 48, 54
    assert [group.cell_bits for group in config.groups] == [8, 8, 5, 1]
    assert AcceleratorConfig.from_json(config.to_json()) == config
    assert (config.requantise_lanes, config.rotation_step) == (8, 2)
    words = config.replace(requantise_lanes=16)
    assert (words.segments, words.strips) == (4, 6)  # at 10, 16, 24, 32, 48, 54
    assert [words.chunk_channels(wide=wide) for wide in (False, True)] == [16, 8]
    assert [config.chunk_channels(wide=wide) for wide in (False, True)] == [8, 8]


def test_columns_at_twice_the_clock() -> None:
    config = LEGAL.replace(groups=parse_groups("pumped:12:8,digits:6:4"), clock_mhz=250)
    assert (config.clk2x, config.dsp_clock_mhz) == (True, 500)
    assert config.clocks == "250 MHz, DSP blocks 500 MHz"
    assert config.groups[0].dsps == 3
    assert config.array_depth == 9  # two of 16 rows a cycle, the first one alone
    assert config.replace(groups=parse_groups("pumped:8:8,dual:2:8")).array_depth == 16
    assert (LEGAL.clk2x, LEGAL.dsp_clock_mhz, LEGAL.clocks) == (False, 300, "300 MHz")
    assert LEGAL.array_depth == 16


def test_lanes_that_are_not_said_are_half_the_rows() -> None:
    assert (LEGAL.requantise_lanes, LEGAL.layernorm_lanes) == (8, 8)
    wide = LEGAL.replace(rows=32, groups=dense(32), requantise_lanes=32, layernorm_lanes=8)
    assert wide.replace(rows=64, groups=dense(64)).layernorm_lanes == 32
    assert wide.replace(rows=64, groups=dense(64)).requantise_lanes == 32
    assert wide.replace(clock_mhz=200).requantise_lanes == 32


def test_legal_values_in_words() -> None:
    assert PARAMETERS["rows"].legal == "16, 32, 64 or 128"
    assert PARAMETERS["memory_ports"].legal == "in 1..6"
    assert PARAMETERS["burst_beats"].legal == "a power of two in 1..256"
    assert PARAMETERS["instruction_check"].legal == "true or false"


def test_the_function_of_the_softmax() -> None:
    for function in (SoftmaxFunction.sole(16), SoftmaxFunction.fractional(3, 1)):
        config = LEGAL.replace(**softmax_fields(function))
        assert config.softmax == function
        assert config.replace(softmax_vec=16).softmax == function


def test_pairs_of_columns_are_columns_of_attention() -> None:
    text = "dual:58:8,digits:12:4+4,digits:58:4"
    groups = parse_groups(text)
    assert str(groups) == text
    assert (groups.columns, groups.attention_columns) == (128, 64)
    assert groups.paired_columns == range(58, 64)
    config = LEGAL.replace(rows=64, groups=groups, requantise_lanes=64, rotation=False)
    # V reaches all pairs, and takes uint8 on both halves of them.
    assert (config.value_columns, config.unsigned_columns) == (64, 70)
    assert (config.rotation_step, config.rotation_stages) == (64, 0)
    assert config.replace(rotation=True).rotation_step == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dual:16:8,digits:10:4+4", "columns of a paired group must be a multiple of 4"),
        ("dual:16:8,digits:12:3+3", "weight_bits of a paired group must be 4, not 3"),
        ("dual:16:8+8", "weight_bits of a paired group must be 4, not 8"),
        ("dual:16:8,tables:12:4+4", "kind of a paired group must be digits, not tables"),
        ("dual:16:8,digits:12:4+3", "a column group must be KIND:COLUMNS:BITS"),
        ("dual:16:8,digits:8:5,digits:8:4+4", "with one paired group at most, next to those of 8"),
        ("dual:16:8,digits:8:4+4,digits:8:4+4", "with one paired group at most"),
    ],
)
def test_pairs_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_groups(text)
