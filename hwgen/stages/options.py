# SPDX-License-Identifier: Apache-2.0
"""The parameters of a design that a user may state: one table for options, help and checks.

Meaning and range of a parameter are the configuration's own (:data:`hwgen.config.PARAMETERS`). The
softmax's function is no option: it is the graph's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwgen.columns import KINDS, Groups, check_groups
from hwgen.config import (
    COLUMNS,
    GROUPS_DOC,
    PARAMETERS,
    AcceleratorConfig,
    Parameter,
    check_parameter,
    value_text,
)
from hwgen.errors import ConfigError, UsageError

Value = int | tuple[int, ...] | Groups

#: Not of the hardware: how the program runs on it.
ROW_BLOCKS = Parameter(
    doc="ranges of tokens that are processed one behind the other, so that vector units hide behind"
    " the array",
    low=1,
    high=PARAMETERS["max_row_length"].high,
)
FRAMES_PER_START = Parameter(
    doc="images that one START works on, one behind the other; the next one's pixels are loaded"
    " beside the attention of the one before",
    low=1,
    high=64,
)
FRAMES_IN_FLIGHT = Parameter(
    doc="images of a START that are worked on at a time: vector units of one hide behind the array"
    " working on the other, which has buffers of its own",
    low=1,
    high=2,
)
#: Of the configuration, but not stated there: twice the clock, where columns take it.
DSP_CLOCK = Parameter(
    doc="clock of the DSP blocks of columns at twice the clock (pumped), MHz, exactly twice that of"
    " the fabric",
    low=2,
    high=2 * PARAMETERS["clock_mhz"].high,
    even=True,
)
NO_PUMP = Parameter(doc="no columns at twice the clock (pumped)", low=0, high=1, flag=True)


@dataclass(frozen=True)
class DesignOption:
    """One option: the parameter's name, a field of the configuration or one of the program."""

    name: str
    group: str
    option: str = ""  #: by default the name's
    default: str = "the board's"

    def __post_init__(self) -> None:
        """Name the option after its parameter where nothing else is said."""
        if not self.option:
            object.__setattr__(self, "option", f"--{self.name.replace('_', '-')}")

    @property
    def parameter(self) -> Parameter:
        """Meaning and range; ``groups`` has none, being no number."""
        apart = {
            "row_blocks": ROW_BLOCKS,
            "frames_per_start": FRAMES_PER_START,
            "frames_in_flight": FRAMES_IN_FLIGHT,
            "columns": COLUMNS,
            "dsp_clock_mhz": DSP_CLOCK,
            "no_pump": NO_PUMP,
        }
        return apart.get(self.name) or PARAMETERS[self.name]

    @property
    def help(self) -> str:
        """What ``--help`` says."""
        if self.name == "no_pump":
            return f"{self.parameter.doc[0].upper()}{self.parameter.doc[1:]}. {self.default}."
        if self.name == "groups":
            doc, legal = GROUPS_DOC, "; ".join(f"{k.name}: {k.doc}" for k in KINDS.values())
        else:
            doc, legal = self.parameter.doc, self.parameter.legal
        return f"{doc[0].upper()}{doc[1:]}: {legal}. Default: {self.default}."

    def check(self, value: Value) -> None:
        """Refuse what is not legal whatever the other parameters are.

        Raises:
            UsageError: names the nearest legal value.
        """
        try:
            if self.name == "groups":
                check_groups(value)
            else:
                check_parameter(self.name, self.parameter, value)
        except ConfigError as error:
            raise self.refusal(error) from error

    def refusal(self, error: ConfigError) -> UsageError:
        """The configuration's refusal as one of the option."""
        own = error.field or self.name
        what = f"{self.option}: {error.what}"
        if error.what.startswith(f"{own} "):
            what = f"{self.option}{error.what.removeprefix(own)}"
        nearest = None if error.nearest is None else value_text(error.nearest)
        return UsageError(what, why=error.why, nearest=nearest)


_ARRAY, _VECTOR, _CONTROL = "Array", "Vector units", "Control"
_ON_CHIP, _EXTERNAL = "On-chip memories and queues", "External memory"
_MODEL = "by the model"


def _usual(name: str) -> str:
    return value_text(getattr(AcceleratorConfig, name))


#: Every option, in the order of the help text.
OPTIONS: tuple[DesignOption, ...] = (
    DesignOption("rows", _ARRAY),
    DesignOption("columns", _ARRAY),
    DesignOption("groups", _ARRAY, default="those of --columns"),
    DesignOption("row_blocks", _ARRAY, default="1 or 2, what takes fewer cycles"),
    DesignOption("clock_mhz", _ARRAY, "--clock", "the board's; an assumption, nothing is timed"),
    DesignOption("dsp_clock_mhz", _ARRAY, "--dsp-clock", "twice --clock; an assumption, too"),
    DesignOption("no_pump", _ARRAY, default="Where a design is chosen, the better for the target"),
    DesignOption("requantise_lanes", _VECTOR, default="rows / 2"),
    DesignOption("layernorm_lanes", _VECTOR, default="rows / 2"),
    DesignOption("rotation", _VECTOR, default=_usual("rotation")),
    DesignOption("softmax_vec", _VECTOR, "--softmax-lanes", _usual("softmax_vec")),
    DesignOption("max_row_length", _VECTOR, default=_MODEL),
    DesignOption("max_channels", _VECTOR, default=_MODEL),
    DesignOption("tile_rows", _ON_CHIP, default=_MODEL),
    DesignOption("bank_words", _ON_CHIP, default=_MODEL),
    DesignOption("constant_fifo_beats", _ON_CHIP, default="by columns and ports"),
    DesignOption("queue_depth", _ON_CHIP, default=_usual("queue_depth")),
    DesignOption("frames_per_start", _CONTROL, default="1"),
    DesignOption("frames_in_flight", _CONTROL, default="1"),
    DesignOption("instruction_check", _CONTROL, default=_usual("instruction_check")),
    DesignOption("memory_ports", _EXTERNAL, "--ports"),
    DesignOption("read_fifo_beats", _EXTERNAL, default=_usual("read_fifo_beats")),
    DesignOption("burst_beats", _EXTERNAL, default=_usual("burst_beats")),
    DesignOption("outstanding", _EXTERNAL, default=_usual("outstanding")),
)

#: The options by the names of their parameters.
BY_NAME: Mapping[str, DesignOption] = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """What the user states of a design; everything else follows from board and model.

    ``values`` has names of :data:`OPTIONS`; each is legal by itself.
    """

    values: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value by itself.

        Raises:
            UsageError: names the nearest legal value.
        """
        for name, value in self.values.items():
            BY_NAME[name].check(value)

    def check_agreement(self, design: Mapping[str, Value]) -> None:
        """Refuse what contradicts a design that exists.

        Args:
            design: its values, by the names of :data:`OPTIONS`.

        Raises:
            UsageError: names the option and the design's value.
        """
        for name, value in self.values.items():
            if value != design[name]:
                option = BY_NAME[name].option
                if name == "no_pump":
                    raise UsageError(f"{option} must be absent: the design has {design['groups']}")
                own, other = value_text(design[name]), value_text(value)
                raise UsageError(f"{option} must be the design's {own} or absent, not {other}")
