# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hwgen.errors import ConfigError, UsageError
from hwgen.numerics.softmax import DEFAULT_FUNCTION, MODES, SoftmaxFunction, SoftmaxMode


def examples(*lines: str) -> str:
    """An epilogue with examples, one command a line (``\\b``: keep the line breaks)."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option ``--json``, which :mod:`hwgen.cli.process` has seen before."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


force_option = click.option(
    "--force",
    is_flag=True,
    help="Replace outputs that were edited since hwgen wrote them, or may have been; never an"
    " input, never a file or folder that hwgen did not write.",
)


def existing(*paths: str | Path | None) -> tuple[Path, ...]:
    """What the command reads, as far as it is there: names of models and boards are no files."""
    return tuple(Path(path) for path in paths if path is not None and os.path.exists(path))


MODEL_HELP = (
    "MODEL is a known name (see 'hwgen models'), a JSON model file, or a Hugging Face folder."
)
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Weights: .safetensors, .pt, .pth, .bin, .ckpt, an index of shards, or a folder with one"
    " of them. Default: MODEL, if it is a folder.",
)
container_option = click.option(
    "--container",
    metavar="KEY",
    help="Which of several state dicts of the checkpoint: its key (model_ema), or what the names"
    " begin with (teacher.backbone).",
)
expect_option = click.option(
    "--expect",
    type=click.Path(path_type=Path),
    metavar="NPZ",
    help="Compare the float model with your framework's 'logits' on 'images' of the same file, or"
    " on the images that are given.",
)
calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DIR|NPZ",
    help="Calibration images. Default: the model's own, or seeded synthetic ones.",
)


class _WeightBits(click.ParamType[Any]):
    """Widths of weights: a text, or a file by its ending."""

    name = "weight bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What :mod:`hwgen.graph.weight_bits` describes; its errors are the command's."""
        from hwgen.graph.weight_bits import parse_weight_bits, read_weight_bits

        if not isinstance(value, str):
            return value
        path = Path(value)
        return (
            read_weight_bits(path)
            if path.suffix in (".toml", ".json")
            else parse_weight_bits(value)
        )


weight_bits_option = click.option(
    "--weight-bits",
    type=_WeightBits(),
    default="8",
    show_default=True,
    metavar="N|NAME=N,...|FILE",
    help="Widths of weights, 1 to 8: of the encoder (4), by patterns over the layers' names"
    " ('4,blocks.*.fc1=6,head=4'; the last that matches counts; embedding and head have 8 unless"
    " named), or a .toml or .json table of such patterns. 8:58+4:70 stands for output channels of"
    " both widths in turn, as columns of --groups dual:58:8,digits:70:4 take them. Weights are"
    " streamed at their width; cycles follow where the design has columns for it.",
)
#: The same for shapes without weights: what is not said is 8 bits.
widths_option = click.option(
    "--weight-bits",
    type=_WeightBits(),
    metavar="N|NAME=N,...|FILE",
    help="Widths of a model's weights, as 'hwgen run' takes them. Default: 8, or the graph's.",
)
squares_option = click.option(
    "--squares",
    type=click.Choice(["compressed", "exact"]),
    default="compressed",
    show_default=True,
    help="Squares of AILayerNorm.",
)
softmax_option = click.option(
    "--softmax",
    type=click.Choice(MODES),
    help="Mode of the softmax, fixed with the graph: fractional exponents with a shift per row, or"
    f" SOLE's whole powers of two. Default: {DEFAULT_FUNCTION.mode}.",
)


def softmax_function(
    mode: SoftmaxMode | None, vec: int | None, *, graph_only: bool = False
) -> SoftmaxFunction:
    """The softmax that options ask for.

    Args:
        mode: what ``--softmax`` says.
        vec: what ``--softmax-lanes`` says.
        graph_only: the command makes a graph and no hardware: lanes must be slices.

    Raises:
        UsageError: lanes that say nothing.
    """
    function = SoftmaxFunction.of_mode(mode or DEFAULT_FUNCTION.mode, vec)
    if graph_only and vec is not None and function.vec is None:
        raise UsageError(
            f"--softmax-lanes must be absent with the softmax {function.mode}, not {vec}",
            why="slices are part of the function in mode sole only; 'hwgen generate' and 'hwgen"
            " run' take the lanes of the hardware",
        )
    return function


#: Where the context keeps the board's name or file as the user gave it.
BOARD_SOURCE = "hwgen.board_source"


def _open_board(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    from hwgen.boards import get_board, list_boards, open_board

    if value is None:
        return None
    ctx.meta[BOARD_SOURCE] = value  # for the command that builds a design
    try:
        board = open_board(value)
    except ConfigError as error:  # an illegal option value
        raise UsageError(error.what, nearest=error.nearest) from error
    if board.name in list_boards() and board != get_board(board.name):
        text = f"{value} is named {board.name!r} as a board of hwgen, and says other things"
        print(f"warning: {text}; results will bear that name", file=sys.stderr)
    return board


#: The command gets the board itself, or None.
board_option = click.option(
    "--board",
    metavar="NAME|FILE",
    callback=_open_board,
    help="A board of 'hwgen boards', or a .toml file of your own. Default: the design's, else"
    " zcu102.",
)


class Finite(click.FloatRange):
    """A range that NaN is not in: no comparison finds it outside."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse NaN as any other number outside the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


latency_option = click.option(
    "--memory-latency",
    type=click.IntRange(1, 1_000_000),
    metavar="CYCLES",
    help="From an accepted read address to its first data. Default: the board's.",
)
bandwidth_option = click.option(
    "--memory-bandwidth",
    type=Finite(0.01, 1e6),
    metavar="BYTES",
    help="Bytes per cycle, summed over ports and directions. Default: the board's.",
)


class _Images(click.ParamType[Any]):
    """A number of images, or where they are."""

    name = "images"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Digits are a number; everything else is a path."""
        if isinstance(value, int | Path):
            return value
        try:
            number = int(value)
        except ValueError:
            return Path(value)
        if number < 1:
            self.fail(f"{value!r} must be at least 1 image.", param, ctx)
        return number


images_option = click.option(
    "--images",
    type=_Images(),
    metavar="N|DIR|NPZ",
    help="How many of the model's own or synthetic images to simulate, or which.",
)
