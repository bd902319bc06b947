# SPDX-License-Identifier: Apache-2.0
"""From preset, model and options to a configuration: what is taken, moved, refused, and said."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from hwgen.boards import Board, get_board
from hwgen.columns import dense, parse_groups
from hwgen.errors import DoesNotFitError, UsageError
from hwgen.frontend.models import MODELS
from hwgen.graph.network import network_of
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction
from hwgen.program.buffer_plan import bank_words_for, preset_config, row_blocks
from hwgen.stages.configure import Hardware, check_fits, configure, fabric_clock, memory_blocks
from hwgen.stages.options import DesignOptions

#: Its preset is a plain array: what is tested is how presets are used, not this board's.
ZCU102 = Board.from_json(
    get_board("zcu102").to_json() | {"preset": {"rows": 32, "columns": 32, "memory_ports": 2}}
)
DIGITS, TINY = MODELS["digits"], MODELS["deit_tiny"]
#: 1025 tokens: beyond the usual depth of an accumulator bank.
LONG = replace(TINY, image_size=512)


def board(**changes: dict[str, int]) -> Board:
    """The ZCU102 with other values in some tables."""
    tables = ZCU102.to_json()
    return Board.from_json(
        tables | {name: tables[name] | change for name, change in changes.items()}
    )


def given(
    spec: ModelSpec,
    on: Board = ZCU102,
    softmax: SoftmaxFunction = DEFAULT_FUNCTION,
    **values: Any,
) -> Hardware:
    return configure(spec, on, DesignOptions(values=values), softmax)


def test_without_options_it_is_the_preset_fitted_to_the_model() -> None:
    hardware = given(TINY)
    expected = preset_config(network_of(TINY), **ZCU102.preset.fields(), clock_mhz=300)
    assert hardware.config == expected
    assert hardware.row_blocks == len(row_blocks(197, 32, 197)) == 2
    assert hardware.notes == ()


def test_a_narrow_model_changes_the_preset_and_it_is_said() -> None:
    hardware = given(DIGITS)
    config = hardware.config
    assert (config.rows, config.columns, config.memory_ports) == (16, 16, 1)
    assert hardware.notes == (
        (
            "The preset of zcu102 is changed for this model: rows = 16 instead of 32, groups ="
            " dual:16:8 instead of dual:32:8, memory_ports = 1 instead of 2, because its width 64"
            " fills an array of 32 rows fewer than 3 times"
        ),
    )


def test_stated_rows_are_taken_and_the_rule_of_narrow_models_is_left() -> None:
    hardware = given(DIGITS, rows=32)
    config = hardware.config
    assert (config.rows, config.columns, config.memory_ports) == (32, 32, 2)
    assert hardware.notes == ()
    hardware = given(DIGITS, columns=64)
    config = hardware.config
    assert (config.rows, config.columns, config.memory_ports) == (16, 64, 1)
    (note,) = hardware.notes
    assert ": rows = 16 instead of 32, memory_ports = 1 instead of 2, because" in note


def test_a_preset_of_groups_and_lanes() -> None:
    large = board(
        preset={
            **{"rows": 64, "columns": None, "groups": "dual:56:8,digits:8:8", "memory_ports": 4},
            **{"requantise_lanes": 64, "layernorm_lanes": 16},
            "small": {"rows": 16, "columns": 32, "memory_ports": 1},
        }
    )
    config = given(TINY, large).config
    assert str(config.groups) == "dual:56:8,digits:8:8"
    assert (config.rows, config.requantise_lanes, config.layernorm_lanes) == (64, 64, 16)
    assert given(TINY, large, requantise_lanes=32).config.requantise_lanes == 32
    # Other rows have lanes of their own.
    hardware = given(TINY, large, rows=32)
    assert hardware.notes == ()
    assert (hardware.config.requantise_lanes, hardware.config.layernorm_lanes) == (16, 16)
    hardware = given(DIGITS, large)
    assert (hardware.config.rows, hardware.config.columns) == (16, 32)
    assert hardware.config.requantise_lanes == 8
    (note,) = hardware.notes
    assert "groups = dual:32:8 instead of dual:56:8,digits:8:8, memory_ports" in note
    # A model between the two arrays takes the small one, too.
    assert given(replace(TINY, width=184, heads=2), large).config.rows == 16


def test_memories_follow_the_stated_array() -> None:
    config = given(DIGITS, rows=64, columns=64, row_blocks=2).config
    assert config.bank_words == bank_words_for(
        network_of(DIGITS), 64, value_columns=64, tile_rows=17, blocks=2
    )
    assert config.bank_words != given(DIGITS, rows=64, columns=64).config.bank_words
    wide = given(TINY, columns=1024, memory_ports=1).config
    assert wide.constant_fifo_beats >= 2 * wide.constant_beats > 128


@pytest.mark.parametrize(
    ("values", "moved", "note"),
    [
        (
            {"rows": 128},
            {"columns": 64},
            (
                "groups = dual:64:8 is taken instead of dual:32:8: groups must be at least 64"
                " columns of 8 bits with 128 rows, not dual:32:8"
            ),
        ),
        (
            {"columns": 16},
            {"rows": 32},
            (
                "rows = 32 is taken instead of 64: groups must be at least 32 columns of 8 bits"
                " with 64 rows, not dual:16:8"
            ),
        ),
        (
            {"read_fifo_beats": 8, "rows": 32},
            {"burst_beats": 4},
            (
                "burst_beats = 4 is taken instead of 16: read_fifo_beats must be at least 32 (two"
                " bursts), not 8"
            ),
        ),
    ],
)
def test_what_is_unsaid_gives_way_and_it_is_said(
    values: dict[str, int], moved: dict[str, int], note: str
) -> None:
    rows = 64 if "columns" in values else 32
    hardware = given(MODELS["deit_base"], board(preset={"rows": rows}), **values)
    for name, value in (values | moved).items():
        assert getattr(hardware.config, name) == value
    assert hardware.notes == (note,)


def test_row_blocks() -> None:
    assert given(TINY, row_blocks=1).row_blocks == 1
    assert given(TINY, tile_rows=66).row_blocks == 3
    assert given(LONG).config.tile_rows == 513
    hardware = given(LONG, row_blocks=1)
    assert (hardware.row_blocks, hardware.config.tile_rows) == (1, 1025)
    assert hardware.notes == (
        "tile_rows = 1025 is taken instead of 513: row_blocks = 1 with 1025 tokens needs it",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rows": 64, "columns": 16},
            r"--columns must be at least 32 .* 64 rows, not dual:16:8; .*: dual:32:8$",
        ),
        ({"columns": 23}, r"--columns must be an even number .*, not 23; .* value: 22$"),
        ({"columns": 32, "groups": dense(32)}, r"--columns must be absent with --groups"),
        (
            {"burst_beats": 32, "read_fifo_beats": 32},
            r"--read-fifo-beats must be at least 64 \(two bursts\), not 32; .*: 64$",
        ),
        ({"constant_fifo_beats": 8}, r"--constant-fifo-beats must be at least 16 .*: 16$"),
        ({"max_row_length": 16}, r"--max-row-length must be .* 17 tokens, not 16; .*: 17$"),
        ({"max_channels": 63}, r"--max-channels must be .* 64 channels, not 63; .*: 64$"),
        ({"row_blocks": 18}, r"--row-blocks must be in 1\.\.17 .*, not 18 .*: 17$"),
        (
            {"tile_rows": 8, "row_blocks": 2},
            r"--row-blocks must be in 3\.\.17 .*, not 2 \(an .* holds 8 rows\); .*: 3$",
        ),
        (
            {"bank_words": (200, 9, 68, 136, 34, 34, 136)},
            (
                r"--bank-words must be at least the model's 136,68,68,136,34,34,136, not 200,9,.*;"
                r" nearest legal value: 200,68,68,136,34,34,136$"
            ),
        ),
        (
            {"softmax_vec": 16, "softmax": SoftmaxFunction.sole()},
            r"--softmax-lanes must be the graph's 32, not 16 .*: 32$",
        ),
    ],
)
def test_what_the_model_does_not_permit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given(DIGITS, **values)


def test_more_ports_than_the_board_has() -> None:
    two = board(memory={"ports": 2})
    assert given(DIGITS, two, memory_ports=2).config.memory_ports == 2
    with pytest.raises(UsageError, match=r"--ports must be at most the 2 of zcu102, not 3; .*: 2$"):
        given(DIGITS, two, memory_ports=3)


def test_nearest_values_are_accepted() -> None:
    """The figures of the messages above, put in place."""
    given(DIGITS, rows=64, columns=32)
    given(DIGITS, constant_fifo_beats=16)
    given(DIGITS, max_row_length=17, max_channels=64)
    given(DIGITS, tile_rows=8, row_blocks=3)
    given(DIGITS, bank_words=(200, 68, 68, 136, 34, 34, 136))


def fits(spec: ModelSpec, **values: Any) -> Hardware:
    return check_fits(spec, ZCU102, DesignOptions(values=values), DEFAULT_FUNCTION)


def test_what_fits_is_what_is_built() -> None:
    assert fits(DIGITS, columns=32) == given(DIGITS, columns=32)


@pytest.mark.parametrize("values", [{}, {"rows": 64, "columns": 58}, {"row_blocks": 4}])
def test_the_image_that_fits_is_found_for_the_options_given(values: dict[str, int]) -> None:
    spec = MODELS["vit_base"]
    large = replace(spec, image_size=480)
    with pytest.raises(DoesNotFitError) as caught:
        fits(large, **values)
    error = caught.value
    assert error.resource == "Block RAM for activations"
    assert error.demand == memory_blocks(given(large, **values).config) > error.bound == 729
    nearest = int(error.levers[0].split()[2])
    smaller = replace(spec, image_size=nearest)
    fits(smaller, **values)
    with pytest.raises(DoesNotFitError):
        fits(replace(spec, image_size=nearest + spec.patch), **values)


def test_cascades_that_cannot_be_placed_are_refused() -> None:
    """29 cascades of 64 DSPs in the device's columns; a board that does not know takes all."""
    assert fits(TINY, rows=64, columns=58).config.columns == 58
    with pytest.raises(DoesNotFitError) as caught:
        fits(TINY, rows=64, groups=parse_groups("dual:60:8,digits:20:4"))
    error = caught.value
    assert (error.resource, error.demand, error.bound) == ("DSP cascades", 30, 29)
    assert error.levers[0] == "--groups dual:58:8,digits:20:4"
    fits(TINY, rows=64, groups=parse_groups("dual:58:8,digits:60:8"))
    fits(TINY, rows=32, columns=152)
    with pytest.raises(DoesNotFitError, match="at most 76"):
        fits(TINY, rows=32, columns=154)
    unknown = ZCU102.model_copy(update={"dsp_column_heights": None})
    check_fits(TINY, unknown, DesignOptions(values={"rows": 64, "columns": 60}), DEFAULT_FUNCTION)


def test_columns_at_twice_the_clock_are_half_as_many_cascades() -> None:
    pumped = parse_groups("pumped:116:8,digits:20:4")
    assert fits(TINY, rows=64, groups=pumped).config.clocks == "300 MHz, DSP blocks 600 MHz"
    with pytest.raises(DoesNotFitError) as caught:
        fits(TINY, rows=64, groups=parse_groups("pumped:120:8,digits:20:4"))
    error = caught.value
    assert (error.resource, error.demand, error.bound) == ("DSP cascades", 30, 29)
    assert error.levers[0] == "--groups pumped:116:8,digits:20:4"
    both = parse_groups("pumped:40:8,dual:40:8")
    with pytest.raises(DoesNotFitError, match="dual:38:8"):
        fits(TINY, rows=64, groups=both)


def test_the_clock_of_dsp_blocks_is_bounded() -> None:
    """What is said is refused beyond it; the board's own clock gives way, with a note."""
    groups = parse_groups("pumped:32:8")
    slow = ZCU102.model_copy(update={"clock": ZCU102.clock.model_copy(update={"dsp_mhz": 500})})

    def of(board: Board, **values: object) -> Hardware:
        options = DesignOptions(values={"rows": 64, "groups": groups, **values})
        return check_fits(TINY, board, options, DEFAULT_FUNCTION)

    chosen = of(slow)
    assert chosen.config.clock_mhz == 250
    assert any("clock_mhz = 250 is taken instead of 300" in note for note in chosen.notes)
    assert of(slow, clock_mhz=200).config.dsp_clock_mhz == 400
    with pytest.raises(UsageError, match=r"--clock must be at most 250 .* not 251") as caught:
        of(slow, clock_mhz=251)
    assert caught.value.nearest == 250
    unsaid = ZCU102.model_copy(update={"clock": ZCU102.clock.model_copy(update={"dsp_mhz": None})})
    without = ZCU102.model_copy(update={"dsp_primitive": "none", "dsp_column_heights": None})
    for board, why in ((unsaid, "no clock.dsp_mhz"), (without, "no DSP48E2")):
        with pytest.raises(UsageError, match="without columns at twice the clock") as caught:
            of(board)
        assert why in str(caught.value)
        assert caught.value.nearest == parse_groups("dual:32:8")


def test_the_clock_of_dsp_blocks_can_be_stated() -> None:
    """Exactly twice the fabric's, which follows where it is not stated."""
    odd = ZCU102.model_copy(update={"clock": ZCU102.clock.model_copy(update={"dsp_mhz": 501})})
    unsaid = ZCU102.model_copy(update={"clock": ZCU102.clock.model_copy(update={"dsp_mhz": None})})
    groups = parse_groups("pumped:32:8")

    def of(board: Board, **values: object) -> Hardware:
        options = DesignOptions(values={"rows": 64, "groups": groups, **values})
        return check_fits(TINY, board, options, DEFAULT_FUNCTION)

    assert of(ZCU102, dsp_clock_mhz=600).notes == of(ZCU102).notes
    slower = of(ZCU102, dsp_clock_mhz=440)
    assert (slower.config.clock_mhz, slower.config.dsp_clock_mhz) == (220, 440)
    assert slower.notes[-1].endswith("run at twice of it, at 440 MHz")
    assert of(ZCU102, clock_mhz=220, dsp_clock_mhz=440).config == slower.config
    for board, values, said, nearest in (
        (ZCU102, {"clock_mhz": 200, "dsp_clock_mhz": 440}, "twice --clock 200, not 440", "400, or"),
        (ZCU102, {"dsp_clock_mhz": 602}, "at most 600, not 602", "600"),
        (odd, {"dsp_clock_mhz": 502}, "at most 501, not 502", "500"),
        (ZCU102, {"no_pump": True, "groups": groups}, "with --no-pump, not pumped", "dual:32:8"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)) as caught:
            of(board, **values)
        assert str(caught.value.nearest).startswith(nearest)
    assert fabric_clock(unsaid, {}) == 300
    for board, said in ((unsaid, {}), (ZCU102, {"no_pump": True})):
        with pytest.raises(UsageError, match="--dsp-clock must be absent"):
            fabric_clock(board, {"dsp_clock_mhz": 600, **said})
    assert fabric_clock(ZCU102, {"clock_mhz": 250, "no_pump": True}) == 250


def test_too_large_banks_are_no_fault_of_the_image() -> None:
    with pytest.raises(DoesNotFitError, match=r"try: a larger patch; .*; smaller --bank-words"):
        fits(DIGITS, bank_words=(1 << 17,) * 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 1024}, "tokens must be at most 4,095 tokens, not 4,097"),
        ({"width": 4800, "heads": 75}, "channels must be at most 4,095 channels, not 4,800"),
    ],
)
def test_beyond_every_design(changes: dict[str, int], message: str) -> None:
    with pytest.raises(DoesNotFitError, match=message):
        fits(replace(TINY, **changes))


def test_the_smallest_model() -> None:
    """One token: units that are no smaller than they can be."""
    one = replace(
        DIGITS, image_size=2, class_token=False, pooling="mean", width=8, heads=1, head_dim=8
    )
    assert one.tokens == 1
    config = given(one).config
    assert (config.max_row_length, config.max_channels, config.tile_rows) == (2, 8, 2)
    assert given(one, max_row_length=2).row_blocks == 1


def test_lanes_and_the_function_of_the_softmax() -> None:
    config = given(TINY, softmax_vec=16).config
    assert (config.softmax_vec, config.softmax) == (16, DEFAULT_FUNCTION)
    for function in (SoftmaxFunction.sole(8), SoftmaxFunction.fractional(3, 5)):
        assert given(TINY, softmax=function).config.softmax == function
