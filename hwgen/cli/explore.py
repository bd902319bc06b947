# SPDX-License-Identifier: Apache-2.0
"""``hwgen explore``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hwgen.cli.design_options import ColumnGroups, Words
from hwgen.cli.group import commands
from hwgen.cli.options import (
    BOARD_SOURCE,
    Finite,
    bandwidth_option,
    board_option,
    examples,
    existing,
    force_option,
    json_option,
    latency_option,
    widths_option,
)
from hwgen.cli.output import INTERRUPTED, Output, describe_error
from hwgen.errors import UsageError
from hwgen.stages.options import BY_NAME


class _Several(click.ParamType[Any]):
    """Values of one parameter to try: ``16`` or ``16,32``, each legal by itself."""

    name = "numbers"

    def __init__(self, parameter: str) -> None:
        self.option = BY_NAME[parameter]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The values as a tuple."""
        numbers = Words().convert(value, param, ctx)
        for number in numbers:
            self.option.check(number)
        return numbers


class _Groups(ColumnGroups):
    """Groups of one array."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The groups as the only value of a tuple, as :class:`_Several` gives them."""
        return (super().convert(value, param, ctx),)


def _choice_option(parameter: str) -> Callable[..., Any]:
    option = BY_NAME[parameter]
    return click.option(
        option.option,
        parameter,
        type=_Several(parameter),
        multiple=True,
        metavar="N[,N...]",
        help=f"Try these only ({option.parameter.doc}). Default: all that are legal.",
    )


def _frames_option(parameter: str) -> Callable[..., Any]:
    option = BY_NAME[parameter]
    return click.option(
        option.option, parameter, type=int, default=1, metavar="N", help=option.help
    )


def _budget_option(name: str, parameter: str, what: str) -> Callable[..., Any]:
    def check(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            nearest = f"{value:.0f}"
            raise UsageError(
                f"--{name} must be a fraction up to 1 or a whole number, not {value:g}",
                nearest=nearest,
            )
        return value

    return click.option(
        f"--{name}",
        parameter,
        type=Finite(0, 1e9, min_open=True),
        callback=check,
        metavar="F",
        help=f"{what} that a design may use: up to 1 a fraction of the device, above a count."
        " Default: the board's budget.",
    )


@commands.command(
    epilog="SOURCE is a known model (see 'hwgen models'), a JSON model file or a graph of 'hwgen"
    " quantize'; no checkpoint is needed.\n\n"
    "With --fps: the cheapest design that meets it, by the mean share of the limits of LUT, FF, DSP"
    " and block RAM. Without: the Pareto front over frame rate, LUT, DSP and block RAM. Cycles are"
    " predicted by the event-driven model, LUT and FF estimated, DSP and block RAM as Yosys counts"
    " them. Fewer bits only where --weight-bits (or the graph) says so: the search finds the"
    " columns for them.\n\n"
    + examples(
        "hwgen explore deit_tiny --fps 400 -o tiny400.design",
        "hwgen explore deit_base --board zcu102 --csv front.csv",
        "hwgen explore deit_small --weight-bits 4 --rows 64 --fps 350",
        "hwgen explore digits.graph --fps 20000 --dsp 0.1 --rows 16,32 --json",
        "hwgen explore deit_small --board ./my_board.toml --clock 250 --bram 600",
        "hwgen explore deit_base --no-pump",
    )
)
@click.argument("source")
@board_option
@click.option(
    "--fps",
    type=Finite(0, 1e9, min_open=True),
    metavar="N",
    help="Frames per second that the design must reach. Default: none, the Pareto front.",
)
@widths_option
@click.option(
    "--clock",
    "clock_mhz",
    type=int,
    metavar="MHZ",
    help="Clock of the designs, an assumption: nothing is timed. Default: the board's.",
)
@click.option(
    "--dsp-clock",
    "dsp_clock_mhz",
    type=int,
    metavar="MHZ",
    help="Clock of DSP blocks of pumped columns, exactly twice --clock, an assumption too. Default:"
    " twice --clock, where the board's DSP blocks take it.",
)
@click.option(
    "--no-pump",
    is_flag=True,
    help="No pumped columns, whose DSP blocks run at twice the clock. Default: the better for the"
    " target.",
)
@_budget_option("lut", "lut", "LUTs")
@_budget_option("ff", "ff", "Flip-flops")
@_budget_option("dsp", "dsp", "DSPs")
@_budget_option("bram", "bram36", "Block RAMs of 36 Kbit")
@_choice_option("rows")
@_choice_option("columns")
@click.option(
    "--groups",
    type=_Groups(),
    multiple=True,
    metavar="KIND:COLUMNS:BITS,...",
    help="Try these column groups only; again for others. Default: 8-bit DSP columns, at one clock"
    " or pumped, as many as can be placed filled up by 8-bit columns in the fabric, and behind each"
    " columns as narrow as the model's weights.",
)
@_choice_option("memory_ports")
@_choice_option("requantise_lanes")
@_choice_option("layernorm_lanes")
@_choice_option("softmax_vec")
@_choice_option("row_blocks")
@_frames_option("frames_per_start")
@_frames_option("frames_in_flight")
@latency_option
@bandwidth_option
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes; the answer is the same for any number. Default: one for each processor.",
)
@click.option(
    "-o",
    "--output",
    "design_path",
    type=click.Path(path_type=Path),
    metavar="DESIGN",
    help="Write the design (of a front: the fastest), without weights.",
)
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path), help="Write the designs as a table, too."
)
@force_option
@json_option
@click.pass_context
def explore(
    context: click.Context,
    source: str,
    board: Any,
    fps: float | None,
    weight_bits: Any,
    clock_mhz: int | None,
    dsp_clock_mhz: int | None,
    no_pump: bool,
    frames_per_start: int,
    frames_in_flight: int,
    memory_latency: int | None,
    memory_bandwidth: float | None,
    workers: int | None,
    design_path: Path | None,
    csv_path: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Find the design for a frame rate, or what a board can do."""
    from hwgen.boards import DEFAULT_BOARD, get_board
    from hwgen.explore.space import VARIED
    from hwgen.outputs import check_distinct, check_file
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.design import recognise_design
    from hwgen.stages.explore import ExploreRequest, explore
    from hwgen.stages.explore_tables import HEADER, recognise_csv, rows, summary, write_csv

    output: Output = context.obj
    reporter = Reporter()
    for name, clock in (("clock_mhz", clock_mhz), ("dsp_clock_mhz", dsp_clock_mhz)):
        if clock is not None:
            BY_NAME[name].check(clock)
    BY_NAME["frames_per_start"].check(frames_per_start)
    BY_NAME["frames_in_flight"].check(frames_in_flight)
    request = ExploreRequest.of(
        source,
        board=board or get_board(DEFAULT_BOARD),
        board_source=context.meta.get(BOARD_SOURCE, DEFAULT_BOARD),
        fps=fps,
        clock_mhz=clock_mhz,
        dsp_clock_mhz=dsp_clock_mhz,
        no_pump=no_pump,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        budget={name: given[name] for name in ("lut", "ff", "dsp", "bram36") if given[name]},
        choices={name: sum(given[name], ()) for name in VARIED if given.get(name)},
        weight_bits=weight_bits,
        frames_per_start=frames_per_start,
        frames_in_flight=frames_in_flight,
        workers=workers,
    )
    inputs = existing(
        source, context.meta.get(BOARD_SOURCE), None if weight_bits is None else weight_bits.source
    )
    check_distinct((design_path, csv_path))
    if design_path is not None:
        check_file(design_path, recognise_design, inputs=inputs, force=force)
    if csv_path is not None:
        check_file(csv_path, recognise_csv, inputs=inputs, force=force)
    found = explore(request, reporter)
    values = found.to_json()
    if csv_path is not None and found.answer.designs:
        write_csv(found, csv_path)
        values["csv"] = str(csv_path)
    if design_path is not None and found.chosen is not None:
        found.design(found.chosen).save(design_path)
        values["design"] = str(design_path)
    failure = found.failure()
    if failure is not None:
        values = describe_error(failure) | values
        print(f"error: {failure}", file=sys.stderr)

    def table() -> None:
        title = "Designs that meet the target" if fps is not None else "Pareto front"
        if found.answer.designs:
            print_table(title, rows(found), header=HEADER)
        print_table("", summary(found))

    output.result(values, table)
    if found.answer.interrupted:
        print("error: interrupted; what was found until then is above", file=sys.stderr)
        return INTERRUPTED
    return 0 if failure is None else failure.exit_status
