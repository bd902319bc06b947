# SPDX-License-Identifier: Apache-2.0
"""The table of options covers the configuration and says what is legal."""

from __future__ import annotations

import pytest

from hwgen.config import PARAMETERS, AcceleratorConfig
from hwgen.errors import UsageError
from hwgen.stages.options import BY_NAME, OPTIONS, DesignOptions

#: What the graph decides.
FUNCTION = {"softmax_fractional", "exponent_fraction_bits", "divider_bits"}


def test_every_parameter_but_the_function_is_an_option() -> None:
    assert set(BY_NAME) == set(PARAMETERS) - FUNCTION | {
        "columns",
        "groups",
        "dsp_clock_mhz",
        "no_pump",
        "row_blocks",
        "frames_per_start",
        "frames_in_flight",
    }
    assert len({option.option for option in OPTIONS}) == len(OPTIONS)
    assert {o.name: o.option for o in OPTIONS if o.option != f"--{o.name.replace('_', '-')}"} == {
        "memory_ports": "--ports",
        "softmax_vec": "--softmax-lanes",
        "clock_mhz": "--clock",
        "dsp_clock_mhz": "--dsp-clock",
    }


def test_help_is_the_configurations_own() -> None:
    assert "dual: two columns" in BY_NAME["groups"].help
    for option in OPTIONS:
        if option.name == "groups":
            continue
        assert option.parameter.doc[1:] in option.help
        if option.name != "no_pump":  # a flag has no values
            assert option.parameter.legal in option.help
    assert BY_NAME["queue_depth"].help.endswith(f"Default: {AcceleratorConfig.queue_depth}.")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", 24, "--rows must be 16, 32, 64 or 128, not 24; nearest legal value: 16"),
        ("memory_ports", 7, "--ports must be in 1..6, not 7; nearest legal value: 6"),
        (
            "softmax_vec",
            100,
            "--softmax-lanes must be 8, 16, 32 or 64, not 100; nearest legal value: 64",
        ),
        (
            "dsp_clock_mhz",
            601,
            "--dsp-clock must be an even number in 2..2000, not 601; nearest legal value: 600",
        ),
        ("row_blocks", 0, "--row-blocks must be in 1..4095, not 0; nearest legal value: 1"),
        (
            "bank_words",
            (9, 0),
            (
                "--bank-words must be 7 sizes in 1..131072, not 9,0;"
                " nearest legal value: 9,1,1,1,1,1,1"
            ),
        ),
    ],
)
def test_an_illegal_value_is_refused_by_the_name_of_its_option(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        DesignOptions(values={name: value})  # type: ignore[dict-item]
    assert str(caught.value) == message


def test_a_design_is_not_contradicted() -> None:
    design = {"rows": 16, "bank_words": (1, 2)}
    DesignOptions(values={"rows": 16}).check_agreement(design)
    with pytest.raises(UsageError, match="--rows must be the design's 16 or absent, not 32"):
        DesignOptions(values={"rows": 32}).check_agreement(design)
