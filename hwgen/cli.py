# SPDX-License-Identifier: Apache-2.0
"""The command ``hwgen``.

Exit status: 0 done; 1 the request cannot be met, data are bad or a check failed; 2 wrong usage;
130 interrupted. With ``--json`` standard output carries one JSON object and nothing else, a failure
being ``{"error": ...}``; progress and messages go to standard error.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click

from hwgen import __version__
from hwgen.errors import (
    ConfigError,
    DoesNotFitError,
    HwgenError,
    InfeasibleError,
    MismatchError,
    UnexpectedLogitsError,
    UsageError,
)
from hwgen.files import scratch_folder
from hwgen.stages.options import BY_NAME, DesignOption, DesignOptions

INTERRUPTED = 130
#: Longest message of a failure; a tool's first lines may be part of it.
_MESSAGE_CHARACTERS = 4000

#: Conditions of disk, memory and permissions that are no fault of the program.
_SYSTEM_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
    }
)
#: Paths that cannot be: the user's, where the error names one.
_PATH_ERRORS = frozenset({errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})


class Output:
    """Where results go: tables, or one JSON object on the real standard output."""

    def __init__(self, *, as_json: bool, stream: IO[str]) -> None:
        """``stream`` is standard output as it was before anything could write to it."""
        self.as_json = as_json
        self.stream = stream

    def result(self, values: dict[str, Any], table: Callable[[], None]) -> None:
        """Write the result of a command in the form that was asked for."""
        if self.as_json:
            self.write(values)
        else:
            table()

    def write(self, values: dict[str, Any]) -> None:
        """Write one JSON object."""
        print(json.dumps(values, allow_nan=False, default=str), file=self.stream, flush=True)


@contextlib.contextmanager
def _output(as_json: bool) -> Iterator[Output]:
    """Keep standard output for the JSON object: whatever else is printed goes to standard error.

    The file descriptor itself is redirected, because libraries in C++ print there too.
    """
    if not as_json:
        yield Output(as_json=False, stream=sys.stdout)
        return
    try:
        number = sys.stdout.fileno()
        sys.stdout.flush()
        kept = os.dup(number)
    except (OSError, ValueError, AttributeError):  # no real file: a test, or a closed stream
        stream = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            yield Output(as_json=True, stream=stream)
        return
    try:
        os.dup2(sys.stderr.fileno(), number)
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream:
            yield Output(as_json=True, stream=stream)
        sys.stdout.flush()
    finally:
        os.dup2(kept, number)
        os.close(kept)


def describe_error(error: BaseException) -> dict[str, Any]:
    """A failure as the JSON object that ``--json`` prints."""
    values: dict[str, Any] = {"error": _sentence(error), "kind": type(error).__name__}
    if isinstance(error, MismatchError):
        values["first_difference"] = error.first_difference
        values["matches_reference"] = False
    if isinstance(error, UnexpectedLogitsError):
        values |= {"expect": error.agreement, "assumed": error.assumed}
    if isinstance(error, HwgenError) and error.changed_files:
        values["changed_files"] = list(error.changed_files)
    if isinstance(error, InfeasibleError):
        values |= {
            "feasible": False,
            "binding_resource": error.binding_resource,
            "best_fps": error.best_fps,
        }
    if isinstance(error, DoesNotFitError):
        values |= {
            "resource": error.resource,
            "demand": error.demand,
            "bound": error.bound,
            "unit": error.unit,
            "levers": list(error.levers),
        }
    return values


def _sentence(error: BaseException) -> str:
    from hwgen.reading import printable

    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    # Messages bound what they quote; whatever slips through does not reach the terminal.
    if len(text) > _MESSAGE_CHARACTERS:
        text = f"{text[:_MESSAGE_CHARACTERS]}..."
    return printable(text, keep="\n") or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; nothing a user does gives a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Options of the program that follows `--` are not ours.
        ours = given[: given.index("--")] if "--" in given else given
        with _output("--json" in ours) as output, _interrupts_kept():
            return _run(given, output)
    except BrokenPipeError:  # the reader of our output went away
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise an interrupt again that came while a destructor ran.

    What a ``__del__`` raises is reported and forgotten. Amaranth's modules have one, and a signal
    that comes while many are freed is first seen there: the command would run on to its end.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not ours
        yield
        return

    def again(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    def unraisable(report: sys.UnraisableHookArgs) -> None:
        if issubclass(report.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            hook(report)

    handler, hook = signal.signal(signal.SIGALRM, again), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        signal.signal(signal.SIGALRM, handler)


def _run(given: list[str], output: Output) -> int:
    def fail(error: BaseException, status: int, text: str | None = None) -> int:
        print(text or f"error: {_sentence(error)}", file=sys.stderr)
        if output.as_json:
            output.write(describe_error(error))
        return status

    try:
        status = commands.main(args=given, prog_name="hwgen", standalone_mode=False, obj=output)
        return status if isinstance(status, int) else 0
    except HwgenError as error:
        return fail(error, error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        return fail(error, 2, error.format_message())
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help'." if context is not None else ""
        return fail(error, 2, f"error: {_sentence(error)}{hint}")
    except (KeyboardInterrupt, click.exceptions.Abort):
        return fail(KeyboardInterrupt("interrupted"), INTERRUPTED)
    except BrokenPipeError:
        raise
    except OSError as error:
        named = error.filename is not None
        if error.errno not in _SYSTEM_ERRORS and not (named and error.errno in _PATH_ERRORS):
            return _bug(error, fail)
        place = f"{error.filename}: " if named else ""
        return fail(HwgenError(f"{place}{error.strerror}"), 1)
    except MemoryError:
        return fail(HwgenError("Memory must suffice for the model, and does not"), 1)
    except Exception as error:
        return _bug(error, fail)


def _bug(error: Exception, fail: Callable[..., int]) -> int:
    traceback.print_exc()
    text = f"error: this is a fault of hwgen {__version__}, please report it with the lines above"
    return fail(HwgenError(f"{type(error).__name__}: {error}"), 1, text)


def _examples(*lines: str) -> str:
    """An epilogue with examples, one command a line (``\\b``: keep the line breaks)."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_examples(
        "hwgen run                                  the embedded default model, every stage",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors",
        "hwgen simulate rtl_out/digits_zcu102 --images 5",
        "hwgen doctor                               is everything here that is needed?",
    ),
)
@click.version_option(__version__, prog_name="hwgen")
def commands() -> None:
    """Generate an accelerator for a quantised Vision Transformer, and prove it by simulation."""


@commands.command(epilog=_examples("hwgen models", "hwgen models --json"))
@_json_option
@click.pass_obj
def models(output: Output, as_json: bool) -> None:
    """List the known models."""
    from hwgen.frontend.models import ALIASES, MODELS, default_checkpoint
    from hwgen.report.terminal import print_table

    rows = []
    values = []
    for name, spec in {**MODELS, **ALIASES}.items():
        embedded = default_checkpoint(spec) is not None
        values.append(
            {
                "name": name,
                "image_size": spec.image_size,
                "channels": spec.channels,
                "patch": spec.patch,
                "width": spec.width,
                "depth": spec.depth,
                "heads": spec.heads,
                "classes": spec.classes,
                "embedded_checkpoint": embedded,
            }
        )
        rows.append(
            [
                *map(str, (name, spec.image_size, spec.patch, spec.width, spec.depth, spec.heads)),
                str(spec.classes),
                "embedded" if embedded else "--checkpoint",
            ]
        )
    header = ("model", "image", "patch", "width", "blocks", "heads", "classes", "checkpoint")
    output.result({"models": values}, lambda: print_table("Models", rows, header=header))


@commands.command(epilog=_examples("hwgen doctor", "hwgen doctor --json"))
@_json_option
@click.pass_obj
def doctor(output: Output, as_json: bool) -> int:
    """Check that everything is installed that hwgen needs; status 1 if something is missing."""
    from hwgen.doctor import examine, healthy
    from hwgen.report.terminal import print_table

    checks = examine()
    good = healthy(checks)

    def table() -> None:
        rows = [
            [
                _state(check.ok, check.needed, check.found),
                check.name,
                check.found if check.ok else check.advice,
            ]
            for check in checks
        ]
        print_table("hwgen doctor", rows, header=("", "what", "found, or what to do"))

    output.result({"ok": good, "checks": [check.to_json() for check in checks]}, table)
    return 0 if good else 1


def _state(ok: bool, needed: bool, found: str) -> str:
    if ok:
        return "ok"
    return "WRONG" if found else ("MISSING" if needed else "absent")


_force_option = click.option(
    "--force",
    is_flag=True,
    help="Replace outputs that were edited since hwgen wrote them, or may have been; never an"
    " input, never a file or folder that hwgen did not write.",
)


def _existing(*paths: str | Path | None) -> tuple[Path, ...]:
    """What the command reads, as far as it is there: names of models and boards are no files."""
    return tuple(Path(path) for path in paths if path is not None and os.path.exists(path))


_MODEL_HELP = (
    "MODEL is a known name (see 'hwgen models'), a JSON model file, or a Hugging Face folder."
)

_checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Weights: .safetensors, .pt, .pth, .bin, .ckpt, an index of shards, or a folder with one"
    " of them. Default: MODEL, if it is a folder.",
)
_container_option = click.option(
    "--container",
    metavar="KEY",
    help="Which of several state dicts of the checkpoint: its key (model_ema), or what the names"
    " begin with (teacher.backbone).",
)
_expect_option = click.option(
    "--expect",
    type=click.Path(path_type=Path),
    metavar="NPZ",
    help="Compare the float model with your framework's 'logits' on 'images' of the same file, or"
    " on the images that are given.",
)
_calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DIR|NPZ",
    help="Calibration images. Default: the model's own, or seeded synthetic ones.",
)
_weight_bits_option = click.option(
    "--weight-bits",
    type=click.IntRange(1, 8),
    default=8,
    show_default=True,
    help="Width of the encoder's weights. Below 8 the accuracy changes and nothing else: columns of"
    " a complete accelerator take 8 bits, so bytes, cycles and LUTs are those of 8.",
)
_squares_option = click.option(
    "--squares",
    type=click.Choice(["compressed", "exact"]),
    default="compressed",
    show_default=True,
    help="Squares of AILayerNorm.",
)


class _Words(click.ParamType[Any]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} must be integers with commas between them.", param, ctx)


class _DesignParameter(click.Option):
    """An option that states a parameter of the design; ``--help`` shows it under its group."""

    def __init__(self, chosen: DesignOption) -> None:
        """All that is said of it stands in the table of options."""
        if chosen.name == "bank_words":
            values: dict[str, Any] = {"type": _Words(), "metavar": "N,N,..."}
        elif chosen.parameter.flag:
            values = {"type": bool, "metavar": "true|false"}
        else:
            values = {"type": int, "metavar": "N"}
        super().__init__(
            [chosen.option, chosen.name],
            **values,
            help=chosen.help,
            callback=self._check,
        )
        self.group = chosen.group

    @staticmethod
    def _check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        assert param.name is not None
        if value is not None:
            BY_NAME[param.name].check(value)
        return value


class _DesignCommand(click.Command):
    """A command with parameters of a design, all or those of ``stated``, among its options."""

    def __init__(
        self, *arguments: Any, stated: Sequence[str] = tuple(BY_NAME), **more: Any
    ) -> None:
        """The design's parameters follow the command's own."""
        super().__init__(*arguments, **more)
        self.params += [_DesignParameter(BY_NAME[name]) for name in stated]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the design's, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                title = "Options"
                if isinstance(param, _DesignParameter):
                    title = f"{param.group} of the design"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the design that the user states."""
    return {name: value for name, value in given.items() if value is not None}


@commands.command(
    cls=_DesignCommand,
    stated=("softmax_vec",),
    epilog=_MODEL_HELP
    + "\n\n"
    + _examples(
        "hwgen quantize digits -o digits.graph",
        "hwgen quantize deit_tiny --checkpoint deit_tiny.safetensors -o tiny.graph",
        "hwgen quantize vit_base --checkpoint b.pt --calibration images/ --weight-bits 4 -o b.g",
    ),
)
@click.argument("model")
@_checkpoint_option
@_container_option
@_calibration_option
@_expect_option
@_weight_bits_option
@_squares_option
@click.option("-o", "--output", "graph_path", type=click.Path(path_type=Path), required=True)
@_force_option
@_json_option
@click.pass_obj
def quantize(
    output: Output,
    model: str,
    checkpoint: Path | None,
    container: str | None,
    calibration: Path | None,
    expect: Path | None,
    weight_bits: int,
    squares: str,
    graph_path: Path,
    force: bool,
    as_json: bool,
    softmax_vec: int | None,
) -> None:
    """Quantise a checkpoint to an integer graph."""
    from hwgen import flow
    from hwgen.outputs import check_file
    from hwgen.report.design import assumed_rows, saturation_text
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.design import recognise_design
    from hwgen.stages.load import Request, calibration_images, compare_with_expected, load
    from hwgen.stages.quantise import quantise

    reporter = Reporter()
    request = Request.of(
        model,
        checkpoint=checkpoint,
        calibration=calibration,
        weight_bits=weight_bits,
        squares=squares,
        container=container,
        softmax_vec=softmax_vec,
    )
    inputs = _existing(model, request.checkpoint, calibration, expect)
    check_file(graph_path, recognise_design, inputs=inputs, force=force)
    loaded = load(request, reporter)
    agreement = None
    if expect is not None:
        agreement = compare_with_expected(
            loaded, expect, lambda: calibration_images(request), reporter
        )
    graph = quantise(loaded, reporter)
    graph.save(graph_path)
    facts = flow.describe_graph(graph) | {"graph": str(graph_path)}
    if agreement is not None:
        facts["expect"] = agreement.to_json()
    shown = facts | {"logit_saturation": saturation_text(graph.metadata.logit_saturation)}
    del shown["assumed"]
    for warning in graph.metadata.warnings:
        reporter.warn(warning)
    rows = [[k, _short(v)] for k, v in shown.items()] + assumed_rows(graph.metadata.assumed)
    output.result(facts, lambda: print_table(str(graph_path), rows))


#: Where the context keeps the board's name or file as the user gave it.
_BOARD_SOURCE = "hwgen.board_source"


def _open_board(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    from hwgen.boards import get_board, list_boards, open_board

    if value is None:
        return None
    ctx.meta[_BOARD_SOURCE] = value  # for the command that builds a design
    try:
        board = open_board(value)
    except ConfigError as error:  # an illegal option value
        raise UsageError(error.what, nearest=error.nearest) from error
    if board.name in list_boards() and board != get_board(board.name):
        text = f"{value} is named {board.name!r} as a board of hwgen, and says other things"
        print(f"warning: {text}; results will bear that name", file=sys.stderr)
    return board


#: The command gets the board itself, or None.
_board_option = click.option(
    "--board",
    metavar="NAME|FILE",
    callback=_open_board,
    help="A board of 'hwgen boards', or a .toml file of your own. Default: the design's, else"
    " zcu102.",
)


class _Finite(click.FloatRange):
    """A range that NaN is not in: no comparison finds it outside."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse NaN as any other number outside the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


_latency_option = click.option(
    "--memory-latency",
    type=click.IntRange(1, 1_000_000),
    metavar="CYCLES",
    help="From an accepted read address to its first data. Default: the board's.",
)
_bandwidth_option = click.option(
    "--memory-bandwidth",
    type=_Finite(0.01, 1e6),
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


_images_option = click.option(
    "--images",
    type=_Images(),
    metavar="N|DIR|NPZ",
    help="How many of the model's own or synthetic images to simulate, or which.",
)


@commands.command(
    cls=_DesignCommand,
    epilog=_MODEL_HELP
    + " Without MODEL: the design's, else the embedded 'digits' and its held-out images.\n\n"
    + _examples(
        "hwgen run",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors",
        "hwgen run --board ./my_board.toml",
        "hwgen run deit_small --checkpoint s.pt --calibration train/ --images val.npz --json",
        "hwgen run --rows 16 --columns 32 --ports 2 --softmax-lanes 16",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors --fps 400 --synth",
        "hwgen run deit_tiny --checkpoint deit_tiny.safetensors --design tiny.design",
    ),
)
@click.argument("model", required=False)
@click.option(
    "--fps",
    type=_Finite(0, 1e9, min_open=True),
    metavar="N",
    help="Build the cheapest design that reaches N frames per second; see 'hwgen explore'.",
)
@click.option(
    "--design",
    "design_path",
    type=click.Path(path_type=Path),
    metavar="DESIGN",
    help="Build this design ('hwgen generate --design-out' writes one).",
)
@_board_option
@_checkpoint_option
@_container_option
@_calibration_option
@_images_option
@_expect_option
@_weight_bits_option
@_squares_option
@_latency_option
@_bandwidth_option
@click.option("--synth", is_flag=True, help="Synthesise with Yosys, too (minutes).")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Design folder. Default: rtl_out/<model>_<board>.",
)
@_force_option
@_json_option
@click.pass_context
def run(
    context: click.Context,
    model: str | None,
    fps: float | None,
    design_path: Path | None,
    board: Any,
    checkpoint: Path | None,
    container: str | None,
    calibration: Path | None,
    images: int | Path | None,
    expect: Path | None,
    weight_bits: int,
    squares: str,
    memory_latency: int | None,
    memory_bandwidth: float | None,
    synth: bool,
    out: Path | None,
    force: bool,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Quantise, generate, simulate and check a model: every stage in order."""
    from hwgen import flow
    from hwgen.boards import DEFAULT_BOARD
    from hwgen.report.terminal import Reporter
    from hwgen.stages.design import known_model, open_design
    from hwgen.stages.load import Request

    output: Output = context.obj
    reporter = Reporter()
    settings = flow.Settings(
        options=DesignOptions(values=_stated(parameters)),
        out=out,
        images=images,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        synthesise=synth,
        expect=expect,
    )
    if board is not None:
        settings = replace(settings, board=board)
    softmax_vec = parameters["softmax_vec"]
    if design_path is not None:
        if fps is not None:
            raise UsageError("--fps and --design must not be given together")
        design = open_design(design_path, board, settings.options)
        if design is None:
            raise UsageError(f"--design must be a design, and {design_path} is a graph")
        if design.graph is not None:
            reporter.say(f"the model is quantised anew; the graph in {design_path} is not used")
        settings = replace(settings, board=design.board, design=design)
        softmax_vec = design.shapes.softmax_vec
        model = model or known_model(design)
    request = Request.of(
        model or "digits",
        checkpoint=checkpoint,
        calibration=calibration,
        weight_bits=weight_bits,
        squares=squares,
        container=container,
        softmax_vec=softmax_vec,
    )
    given = (model, request.checkpoint, calibration, expect, design_path)
    chosen = images if isinstance(images, Path) else None
    inputs = _existing(*given, chosen, context.meta.get(_BOARD_SOURCE))
    settings = replace(settings, inputs=inputs, force=force)
    explored: dict[str, Any] = {}
    if fps is not None:
        source = context.meta.get(_BOARD_SOURCE, DEFAULT_BOARD)
        request, settings, explored = flow.find_design(
            request, settings, reporter, fps=fps, source=model or "digits", board_source=source
        )
    evidence = flow.run_all(request, settings, reporter)
    values = flow.describe_evidence(evidence) | explored
    if evidence.agreement is not None:
        values["expect"] = evidence.agreement.to_json()
    missed = flow.missed_rate(evidence, fps)
    if missed is not None:
        values |= describe_error(missed)
        print(f"error: {missed}", file=sys.stderr)
    output.result(values, lambda: _print_evidence(evidence))
    return 0 if missed is None else missed.exit_status


@commands.command(
    cls=_DesignCommand,
    epilog="SOURCE is a graph of 'hwgen quantize', which gets the board's preset changed by the"
    " options, or a design; a design without a graph needs --graph.\n\n"
    + _examples(
        "hwgen generate digits.graph -o rtl_out/digits",
        "hwgen generate digits.graph --columns 32 --ports 2 --clock 250",
        "hwgen generate tiny.graph --board zcu102 -o rtl_out/tiny --json",
        "hwgen generate tiny.graph --board ./my_board.toml",
        "hwgen generate tiny.design --graph tiny.graph --design-out tiny_with_graph.design",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--graph",
    "graph_path",
    type=click.Path(path_type=Path),
    metavar="GRAPH",
    help="The graph that the design runs, in the place of its own.",
)
@_board_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Design folder. Default: rtl_out/<model>_<board>.",
)
@click.option(
    "--design-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the design with its graph: one file to generate from, or for 'run --design'.",
)
@_force_option
@_json_option
@click.pass_context
def generate(
    context: click.Context,
    source: Path,
    graph_path: Path | None,
    board: Any,
    out: Path | None,
    design_out: Path | None,
    force: bool,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Write Verilog, program, packed weights and manifest."""
    from hwgen import flow
    from hwgen.outputs import check_file
    from hwgen.report.terminal import Reporter
    from hwgen.stages.design import open_source, recognise_design

    output: Output = context.obj
    reporter = Reporter()
    options = DesignOptions(values=_stated(parameters))
    inputs = _existing(source, graph_path, context.meta.get(_BOARD_SOURCE))
    if design_out is not None:
        check_file(design_out, recognise_design, inputs=inputs, force=force)
    start = open_source(source, graph_path, board, options, reporter)
    settings = flow.Settings(options=options, out=out, inputs=inputs, force=force)
    if board is not None:
        settings = replace(settings, board=board)

    folder = flow.generate_all(start, settings, reporter, design_out=design_out)
    evidence = flow.Evidence(folder=folder)
    facts = flow.describe_evidence(evidence) | {"files": dict(folder.manifest.files)}
    if design_out is not None:
        facts["design"] = str(design_out)
    output.result(facts, lambda: _print_evidence(evidence))


class _Several(click.ParamType[Any]):
    """Values of one parameter to try: ``16`` or ``16,32``, each legal by itself."""

    name = "numbers"

    def __init__(self, parameter: str) -> None:
        self.option = BY_NAME[parameter]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The values as a tuple."""
        numbers = _Words().convert(value, param, ctx)
        for number in numbers:
            self.option.check(number)
        return numbers


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
        type=_Finite(0, 1e9, min_open=True),
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
    " them.\n\n"
    + _examples(
        "hwgen explore deit_tiny --fps 400 -o tiny400.design",
        "hwgen explore deit_base --board zcu102 --csv front.csv",
        "hwgen explore digits.graph --fps 20000 --dsp 0.1 --rows 16,32 --json",
        "hwgen explore deit_small --board ./my_board.toml --clock 250 --bram 600",
    )
)
@click.argument("source")
@_board_option
@click.option(
    "--fps",
    type=_Finite(0, 1e9, min_open=True),
    metavar="N",
    help="Frames per second that the design must reach. Default: none, the Pareto front.",
)
@click.option(
    "--clock",
    "clock_mhz",
    type=int,
    metavar="MHZ",
    help="Clock of the designs, an assumption: nothing is timed. Default: the board's.",
)
@_budget_option("lut", "lut", "LUTs")
@_budget_option("ff", "ff", "Flip-flops")
@_budget_option("dsp", "dsp", "DSPs")
@_budget_option("bram", "bram36", "Block RAMs of 36 Kbit")
@_choice_option("rows")
@_choice_option("columns")
@_choice_option("memory_ports")
@_choice_option("softmax_vec")
@_choice_option("row_blocks")
@_latency_option
@_bandwidth_option
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
@_force_option
@_json_option
@click.pass_context
def explore(
    context: click.Context,
    source: str,
    board: Any,
    fps: float | None,
    clock_mhz: int | None,
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
    from hwgen.stages.explore import (
        HEADER,
        ExploreRequest,
        explore,
        recognise_csv,
        rows,
        summary,
        write_csv,
    )

    output: Output = context.obj
    reporter = Reporter()
    if clock_mhz is not None:
        BY_NAME["clock_mhz"].check(clock_mhz)
    request = ExploreRequest.of(
        source,
        board=board or get_board(DEFAULT_BOARD),
        board_source=context.meta.get(_BOARD_SOURCE, DEFAULT_BOARD),
        fps=fps,
        clock_mhz=clock_mhz,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        budget={name: given[name] for name in ("lut", "ff", "dsp", "bram36") if given[name]},
        choices={name: sum(given[name], ()) for name in VARIED if given[name]},
        workers=workers,
    )
    inputs = _existing(source, context.meta.get(_BOARD_SOURCE))
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


@commands.command(
    epilog=_examples(
        "hwgen simulate rtl_out/digits_zcu102",
        "hwgen simulate rtl_out/digits_zcu102 --images 5 --memory-bandwidth 4 --json",
        "hwgen simulate rtl_out/tiny --images val.npz --trace",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@_images_option
@click.option("--trace", is_flag=True, help="Write trace.json (Perfetto) into the folder.")
@_latency_option
@_bandwidth_option
@_force_option
@_json_option
@click.pass_obj
def simulate(
    output: Output,
    folder: Path,
    images: int | Path | None,
    trace: bool,
    memory_latency: int | None,
    memory_bandwidth: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Simulate a design's files as they are and compare every layer with the reference."""
    from hwgen import flow
    from hwgen.report.terminal import Reporter
    from hwgen.stages.emit import DesignFolder

    reporter = Reporter()
    opened = DesignFolder.load(folder)
    settings = flow.Settings(
        images=images,
        memory_latency=memory_latency,
        memory_bandwidth=memory_bandwidth,
        force=force,
    )
    evidence = flow.simulate_design(opened, settings, reporter, trace=trace)
    assert evidence.simulation is not None
    values = {"name": opened.manifest.name, "out": str(folder)} | evidence.simulation.contract()
    if trace:
        values["trace"] = str(folder / "trace.json")
    output.result(values, lambda: _print_evidence(evidence))


@commands.command(
    epilog=_examples(
        "hwgen synth rtl_out/digits_zcu102",
        "hwgen synth rtl_out/digits_zcu102 --target ecp5 --json",
        "hwgen synth rtl_out/digits_zcu102 --liberty cells.lib",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(["xcup", "ecp5"]), help="Device family. Default: the board's."
)
@click.option("--liberty", type=click.Path(path_type=Path), help="Map to the cells of this file.")
@_force_option
@_json_option
@click.pass_obj
def synth(
    output: Output,
    folder: Path,
    target: str | None,
    liberty: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Synthesise a design's files as they are with Yosys and count."""
    from hwgen.report.design import synthesis_rows
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.stages.emit import DesignFolder
    from hwgen.stages.synthesise import (
        board_usage,
        check_synthesis_place,
        describe_synthesis,
        save_synthesis,
        synthesise,
    )

    if target is not None and liberty is not None:
        raise UsageError("--target and --liberty must not be given together")
    reporter = Reporter()
    opened = DesignFolder.load(folder)
    check_synthesis_place(opened, target, liberty, force=force)
    result = synthesise(opened, reporter, target=target, liberty=liberty)
    saved = save_synthesis(opened, result)
    board = opened.manifest.board
    values = {"name": opened.manifest.name, "out": str(folder)}
    values |= describe_synthesis(board, result) | {"result": str(saved)}

    def table() -> None:
        modules = dict(result.extra.get("modules", {}))
        largest = sorted(modules.items(), key=lambda item: -item[1]["instances"] * item[1]["lut"])
        kinds = ("instances", "lut", "ff", "dsp", "bram36")
        rows = [[name, *(f"{m[kind]:,g}" for kind in kinds)] for name, m in largest[:20]]
        if rows:
            print_table("Largest modules, one instance each", rows, header=("module", *kinds))
        rows = synthesis_rows(result, board_usage(board, result))
        rows += [[k, _short(v)] for k, v in result.extra.items() if k != "modules"]
        print_table(f"{values['name']}: {folder}", rows)

    output.result(values, table)


@commands.command(
    epilog=_examples(
        "hwgen report rtl_out/digits_zcu102", "hwgen report rtl_out/digits_zcu102 --json"
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@_json_option
@click.pass_obj
def report(output: Output, folder: Path, as_json: bool) -> None:
    """Show what is known of a design: configuration, simulation, synthesis."""
    from hwgen import flow

    evidence = flow.Evidence.load(folder)
    values = flow.describe_evidence(evidence)
    changed = evidence.folder.manifest.changed_files(folder)
    for name in changed:
        print(f"warning: {folder / name} was changed since it was generated", file=sys.stderr)
    values["changed_files"] = changed
    output.result(values, lambda: _print_evidence(evidence))


def _print_evidence(evidence: Any) -> None:
    from hwgen.report.design import rows
    from hwgen.report.terminal import print_table
    from hwgen.stages.synthesise import board_usage

    manifest = evidence.folder.manifest
    title = f"{manifest.name}: {evidence.folder.path}"
    synthesis = evidence.synthesis
    usage = board_usage(manifest.board, synthesis) if synthesis is not None else []
    print_table(title, rows(manifest, evidence.simulation, synthesis, usage, evidence.accuracy))


def _cascades(board: Any) -> dict[str, int] | None:
    """Cascades that fit, by their rows; None where the placement of the DSPs is not known."""
    from hwgen.boards import CASCADE_ROWS

    fit = {str(rows): board.cascades(rows) for rows in CASCADE_ROWS}
    return None if None in fit.values() else fit


@commands.command(epilog=_examples("hwgen boards", "hwgen boards --json"))
@_json_option
@click.pass_obj
def boards(output: Output, as_json: bool) -> None:
    """List the boards with their resources, clock and memory."""
    from hwgen.boards import CASCADE_ROWS, RESOURCES, Board, get_board, list_boards
    from hwgen.report.terminal import print_table

    found = [get_board(name) for name in list_boards()]
    values = [
        {
            "name": board.name,
            "title": board.title,
            "part": board.part,
            "clock_mhz": board.clock.mhz,
            "dsp_primitive": board.dsp_primitive,
            "cascades": _cascades(board),
            "resources": {resource: board.resources[resource] for resource in RESOURCES},
            "limits": {resource: board.limit(resource) for resource in RESOURCES},
            "memory_bytes_per_second": board.memory.bytes_per_second,
            "memory_bytes_per_cycle": board.memory_bytes_per_cycle,
            "memory_latency": board.memory.latency_cycles,
            "memory_ports": board.memory.ports,
        }
        for board in found
    ]
    heights = "/".join(map(str, CASCADE_ROWS))

    def columns(board: Board) -> str:
        fit = _cascades(board)
        if fit is None:
            return "none" if board.dsp_primitive == "none" else f"{board.dsp_primitive}, unknown"
        return f"{board.dsp_primitive}, {'/'.join(map(str, fit.values()))}"

    rows = [
        [
            board.name,
            board.part,
            f"{board.clock.mhz} MHz",
            *(f"{board.resources[resource]:,}" for resource in RESOURCES),
            columns(board),
            f"{board.memory_bytes_per_cycle:.1f} B/cycle, {board.memory.latency_cycles} cycles",
        ]
        for board in found
    ]
    kind = f"DSP columns, cascades of {heights}"
    header = ("board", "device", "clock", "LUT", "FF", "DSP", "BRAM36", kind, "memory")
    output.result({"boards": values}, lambda: print_table("Boards", rows, header=header))


@commands.command(epilog=_examples("hwgen units", "hwgen units --json"))
@_json_option
@click.pass_obj
def units(output: Output, as_json: bool) -> None:
    """List the units that can be built, simulated and synthesised alone."""
    from hwgen.report.terminal import print_table
    from hwgen.units import UNITS

    values = [
        {
            "name": unit.name,
            "doc": unit.doc,
            "parameters": [
                {"name": p.name, "option": p.option, "default": p.default, "legal": p.legal}
                for p in unit.parameters
            ],
            "inputs": {entry.name: entry.shape for entry in unit.inputs},
            "outputs": {entry.name: entry.shape for entry in unit.outputs},
        }
        for unit in UNITS.values()
    ]
    rows = [
        [
            unit.name,
            " ".join(f"{p.option} {p.default}" for p in unit.parameters),
            " ".join(f"{entry.name}{entry.shape}" for entry in unit.inputs),
            " ".join(f"{entry.name}{entry.shape}" for entry in unit.outputs),
        ]
        for unit in UNITS.values()
    ]
    header = ("unit", "parameters and defaults", "takes", "returns")
    output.result({"units": values}, lambda: print_table("Units", rows, header=header))


class _UnitGroup(click.Group):
    """One command per unit; its options are the unit's parameters."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the units."""
        from hwgen.units import UNITS

        return list(UNITS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one unit."""
        from hwgen.units import UNITS

        return _unit_command(cmd_name) if cmd_name in UNITS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the known units where click would only say that there is no such command."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            raise click.UsageError(f"Unit must be one of {', '.join(names)}, not {args[0]!r}", ctx)
        return super().resolve_command(ctx, args)


@commands.command(
    cls=_UnitGroup,
    epilog=_examples(
        "hwgen unit e2softmax --vec 32 -o softmax",
        "hwgen unit systolic-array --rows 16 --columns 16 --simulate in.npz --output out.npz",
        "hwgen unit ailayernorm --help             its parameters and vectors",
    ),
)
def unit() -> None:
    """Build, simulate or synthesise one unit alone."""


def _unit_command(name: str) -> click.Command:
    from hwgen.units import UNITS

    chosen = UNITS[name]
    file = click.Path(path_type=Path)
    options: list[click.Parameter] = [
        click.Option(
            [p.option, p.name],
            metavar="WORD" if p.choices else "N",
            help=f"{p.doc} ({p.legal}; default {p.default})",
        )
        for p in chosen.parameters
    ]
    arrays = ", ".join(
        f"{e.name} {'|'.join(e.dtypes) or 'integers'} {e.shape}{' (optional)' * e.optional}"
        for e in chosen.inputs
    )
    results = ", ".join(f"{e.name} {'|'.join(e.dtypes)} {e.shape}" for e in chosen.outputs)
    options += [
        click.Option(
            ["-o", "--out", "folder"],
            type=file,
            help="Folder of the Verilog; without --simulate and --synth rtl_out/UNIT.",
        ),
        click.Option(["--simulate", "vectors"], type=file, help=f"Push an .npz through: {arrays}."),
        click.Option(["--output", "returned"], type=file, help=f".npz for the results: {results}."),
        click.Option(["--synth"], is_flag=True, help="Synthesise with Yosys and count."),
        click.Option(["--force"], is_flag=True, help="Replace outputs that were edited."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
    ]

    @click.pass_obj
    def run_unit(
        output: Output,
        folder: Path | None,
        vectors: Path | None,
        returned: Path | None,
        synth: bool,
        force: bool,
        as_json: bool,
        **given: str | None,
    ) -> int:
        values = {key: value for key, value in given.items() if value is not None}
        return _unit(output, name, values, folder, vectors, returned, synth, force)

    return click.Command(name, params=options, callback=run_unit, help=chosen.doc)


def _unit(
    output: Output,
    name: str,
    given: dict[str, str],
    folder: Path | None,
    vectors: Path | None,
    returned: Path | None,
    synth: bool,
    force: bool,
) -> int:
    from hwgen.emit.folder import check_replaceable
    from hwgen.outputs import check_distinct, check_file
    from hwgen.report.terminal import Reporter, print_table
    from hwgen.units import (
        UNITS,
        changed_files,
        check_vector_file,
        emit_unit,
        is_current,
        listed_files,
        recognise_vectors,
        simulate_folder,
        synthesise_folder,
    )

    chosen = UNITS[name]
    values = chosen.resolve(given)
    if returned is not None and vectors is None:
        raise UsageError("--output must be given together with --simulate, not alone")
    if folder is None and vectors is None and not synth:
        folder = Path("rtl_out", name)
    inputs = _existing(vectors)
    check_distinct((folder, returned))
    if returned is not None:
        check_file(returned, recognise_vectors, inputs=inputs, force=force)
    if vectors is not None:
        check_vector_file(chosen, values, vectors)
    # A simulation or synthesis is of the files as they are, edits included.
    measured = vectors is not None or synth
    as_it_is = folder is not None and measured and is_current(chosen, values, folder, force=force)
    if folder is not None and not as_it_is:
        check_replaceable(folder, listed_files, inputs=inputs, force=force)
    reporter = Reporter()
    facts: dict[str, Any] = {"unit": name, "parameters": values}
    status = 0
    with scratch_folder() as scratch:
        place = folder if folder is not None else scratch / name
        with reporter.stage("emit"):
            reporter(f"writing the Verilog of {name}", 0.0)
            if not as_it_is:
                emit_unit(chosen, values, place, force=force)
        if folder is not None:
            facts["out"] = str(folder)
        if measured:
            facts["changed_files"] = list(changed_files(place))
            for file in facts["changed_files"]:
                reporter.warn(f"{place / file} was changed since it was generated; used as it is")
        if vectors is not None:
            with reporter.stage("simulate"):
                result = simulate_folder(place, vectors, returned, progress=reporter)
            facts |= {"matches_reference": result.matches_reference, "cycles": result.cycles}
            if returned is not None:
                facts["output"] = str(returned)
            if result.first_difference is not None:
                facts |= {
                    "error": f"{name} differs from the reference: {dict(result.first_difference)}",
                    "first_difference": dict(result.first_difference),
                }
                print(f"error: {facts['error']}", file=sys.stderr)
                status = 1
        if synth:
            with reporter.stage("synthesise"):
                reporter("Yosys", 0.0)
                facts |= synthesise_folder(place)
    output.result(facts, lambda: print_table(name, [[k, _short(v)] for k, v in facts.items()]))
    return status


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"
