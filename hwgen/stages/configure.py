# SPDX-License-Identifier: Apache-2.0
"""From a board's preset, a model and what the user states to a configuration that is legal.

What the user states is taken as it is or refused. What he leaves unsaid comes from the preset or
follows from the model, and gives way where it does not fit: never in silence, but with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hwgen.boards import Board
from hwgen.columns import KINDS, Groups, dense
from hwgen.config import PARAMETERS, AcceleratorConfig, softmax_fields, value_text
from hwgen.errors import ConfigError, DoesNotFitError, UsageError
from hwgen.graph.network import network_of
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.stages.options import BY_NAME, DesignOptions

#: A layer that fills an array's rows fewer times than this leaves it idle most of the time.
_FILLS = 3
#: Fields of a preset that depend on its rows.
_LANES = ("requantise_lanes", "layernorm_lanes", "softmax_vec")
#: What may be stated and is no field of the configuration.
_APART = (
    *("row_blocks", "frames_per_start", "frames_in_flight"),
    *("columns", "dsp_clock_mhz", "no_pump"),
)
#: The unsaid parameter that gives way to a said one; every other one depends on said ones only.
_GIVES_WAY = {"groups": "rows", "read_fifo_beats": "burst_beats"}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A configuration, how the program runs on it, and what is to be said.

    ``row_blocks``: how many the program cuts the tokens into; ``frames_per_start``: its images;
    ``frames_in_flight``: as many of them at a time.

    ``notes``: one sentence for every value that is not the preset's although nobody asked for it.
    """

    config: AcceleratorConfig
    row_blocks: int
    frames_per_start: int = 1
    frames_in_flight: int = 1
    notes: tuple[str, ...] = ()


def configure(
    spec: ModelSpec, board: Board, options: DesignOptions, softmax: SoftmaxFunction
) -> Hardware:
    """The board's preset, changed by the options, with memories that fit the model exactly.

    Args:
        spec: geometry of the model.
        board: its preset and memory ports.
        options: what the user states.
        softmax: the graph's.

    Raises:
        UsageError: an option that the model, the board or another option does not permit; names
            the nearest legal value.
        DoesNotFitError: more tokens, channels or words than any design may have.
    """
    from hwgen.program.buffer_plan import (
        default_tile_rows,
        plan_buffers,
        row_blocks,
        sized_config,
    )

    said: dict[str, Any] = dict(options.values)
    if "columns" in said:
        if "groups" in said:
            option, other = BY_NAME["columns"].option, BY_NAME["groups"].option
            raise UsageError(f"{option} must be absent with {other}, which says the columns")
        said["groups"] = dense(said["columns"])
    _check_said(spec, board, said, softmax)
    preset, notes = _preset(board, spec, said)
    blocks: Any = said.get("row_blocks")
    values: dict[str, Any] = preset | said | softmax_fields(softmax)
    frames: Any = said.get("frames_per_start", 1)
    in_flight: Any = said.get("frames_in_flight", 1)
    if frames % in_flight:
        nearest = frames + frames % in_flight
        legal = f"a multiple of --frames-in-flight {in_flight}"
        _refuse("frames_per_start", legal, frames, nearest, "frames are worked on in pairs")
    for name in _APART:
        values.pop(name, None)
    notes += _clocks(board, values, said)
    while True:
        try:
            config = sized_config(spec, blocks=blocks, frames=frames, in_flight=in_flight, **values)
            ranges = row_blocks(spec.tokens, config.rows, config.tile_rows, blocks)
            break
        except ConfigError as error:
            notes.append(_give_way(error, values, said))
    if "bank_words" in said:
        plan = plan_buffers(
            network_of(spec),
            rows=config.rows,
            value_columns=config.value_columns,
            tile_rows=config.tile_rows,
            word_keys=config.word_keys,
            blocks=len(ranges),
            frames=frames,
            in_flight=in_flight,
        )
        _check_banks(config.bank_words, plan.words)
    if "tile_rows" not in said and blocks is not None:
        usual = default_tile_rows(spec.tokens)
        if config.tile_rows != usual:
            notes.append(
                f"tile_rows = {config.tile_rows} is taken instead of {usual}: row_blocks = {blocks}"
                f" with {spec.tokens} tokens needs it"
            )
    return Hardware(
        config=config,
        row_blocks=len(ranges),
        frames_per_start=frames,
        frames_in_flight=in_flight,
        notes=tuple(notes),
    )


def _refuse(name: str, legal: str, value: object, nearest: object, why: str | None = None) -> None:
    text = f"{BY_NAME[name].option} must be {legal}, not {value}"
    raise UsageError(text, why=why, nearest=nearest)


def _check_said(
    spec: ModelSpec, board: Board, said: Mapping[str, Any], softmax: SoftmaxFunction
) -> None:
    """Refuse what model, graph and board do not permit, whatever the other options are."""
    if (ports := said.get("memory_ports", 1)) > board.memory.ports:
        limit = board.memory.ports
        _refuse("memory_ports", f"at most the {limit} of {board.name}", ports, limit)
    if softmax.vec is not None and (vec := said.get("softmax_vec", softmax.vec)) != softmax.vec:
        why = "the slice length is part of the softmax's function"
        _refuse("softmax_vec", f"the graph's {softmax.vec}", vec, softmax.vec, why)
    for name, demand, what in (
        ("max_row_length", spec.tokens, "tokens"),
        ("max_channels", spec.width, "channels"),
    ):
        if said.get(name, demand) < demand:
            _refuse(name, f"at least the model's {demand} {what}", said[name], demand)


def fabric_clock(board: Board, said: Mapping[str, Any]) -> int:
    """The clock of the fabric: what is stated, half of the DSP blocks' if that is, or the board's.

    Args:
        board: its clocks.
        said: what the user states, by the names of :data:`hwgen.stages.options.OPTIONS`.

    Raises:
        UsageError: a clock of DSP blocks that the board does not have, that is not twice the
            fabric's, or with ``no_pump``.
    """
    clock: int | None = said.get("clock_mhz")
    dsp: int | None = said.get("dsp_clock_mhz")
    if dsp is None:
        return board.clock.mhz if clock is None else clock
    option, most = BY_NAME["dsp_clock_mhz"].option, board.clock.dsp_mhz
    if said.get("no_pump"):
        raise UsageError(f"{option} must be absent with {BY_NAME['no_pump'].option}, not {dsp}")
    if (why := no_second_clock(board)) or most is None:
        raise UsageError(f"{option} must be absent on {board.name}, not {dsp}", why=why)
    if dsp > most:
        why = f"{board.name} clocks DSP blocks at {most} MHz at most"
        _refuse("dsp_clock_mhz", f"at most {most}", dsp, most - most % 2, why)
    if clock is not None and dsp != 2 * clock:
        other = BY_NAME["clock_mhz"].option
        legal = f"twice {other} {clock}"
        nearest = f"{2 * clock}, or {other} {dsp // 2}" if 2 * clock <= most else most - most % 2
        _refuse("dsp_clock_mhz", legal, dsp, nearest)
    return dsp // 2


def no_second_clock(board: Board) -> str | None:
    """Why a board has no DSP blocks at twice the clock; None where it has."""
    if board.dsp_primitive == "none":
        return f"{board.name} has no DSP48E2"
    return "its board file has no clock.dsp_mhz" if board.clock.dsp_mhz is None else None


def check_second_clock(board: Board, groups: Groups, *, no_pump: bool) -> None:
    """Refuse columns at twice the clock where there are none to be.

    Raises:
        UsageError: names the groups without them.
    """
    if not groups.clk2x:
        return
    where = f"with {BY_NAME['no_pump'].option}" if no_pump else f"on {board.name}"
    why = None if no_pump else no_second_clock(board)
    if no_pump or why is not None:
        others = Groups(replace(g, kind="dual") if KINDS[g.kind].clk2x else g for g in groups)
        _refuse("groups", f"without columns at twice the clock {where}", groups, others, why)


def _clocks(board: Board, values: dict[str, Any], said: Mapping[str, Any]) -> list[str]:
    """Set the clock of a design; what is to be said of it.

    Raises:
        UsageError: columns at twice the clock that the board does not have or that are excluded,
            or a clock that DSP blocks or fabric do not take.
    """
    groups, dsp = values["groups"], said.get("dsp_clock_mhz")
    check_second_clock(board, groups, no_pump=bool(said.get("no_pump")))
    if not groups.clk2x:
        if dsp is not None:
            option = BY_NAME["dsp_clock_mhz"].option
            raise UsageError(
                f"{option} must be absent with one clock, not {dsp}",
                why=f"no columns of {groups} run at twice the clock",
            )
        return []
    most, usual = board.clock.dsp_mhz, values["clock_mhz"]
    assert most is not None
    if 2 * usual > most and "clock_mhz" in said:
        legal = f"at most {most // 2} with columns at twice the clock"
        why = f"{board.name} clocks DSP blocks at {most} MHz at most"
        _refuse("clock_mhz", legal, usual, most // 2, why)
    clock = fabric_clock(board, said)
    values["clock_mhz"] = min(clock, most // 2)
    if values["clock_mhz"] == usual:
        return []
    why = f"at {dsp} MHz" if dsp is not None else f"on {board.name} at {most} MHz at most"
    note = (
        f"clock_mhz = {values['clock_mhz']} is taken instead of {usual}: DSP blocks of {groups}"
        f" run at twice of it, {why}"
    )
    return [note]


def _check_banks(given: tuple[int, ...], needed: tuple[int, ...]) -> None:
    nearest = tuple(map(max, given, needed))
    if nearest != given:
        legal = f"at least the model's {value_text(needed)}"
        _refuse("bank_words", legal, value_text(given), value_text(nearest))


def _preset(
    board: Board, spec: ModelSpec, said: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The board's preset as fields of the configuration, and what is to be said of it.

    A narrow model gets the board's small one, where the user does not choose the rows.
    """
    usual = board.preset.fields()
    clock = {"clock_mhz": board.clock.mhz}
    if "rows" in said or spec.width >= _FILLS * board.preset.rows:
        if said.get("rows", board.preset.rows) != board.preset.rows:
            # Its lanes are parts of its rows.
            usual = {name: value for name, value in usual.items() if name not in _LANES}
        return usual | clock, []
    small = board.preset.small.fields()
    changes = [
        f"{name} = {_shown(small[name])} instead of {_shown(usual[name])}"
        for name in ("rows", "groups", "memory_ports")
        if name not in said and small[name] != usual[name]
    ]
    if not changes:
        return small | clock, []
    note = (
        f"The preset of {board.name} is changed for this model: {', '.join(changes)}, because its"
        f" width {spec.width} fills an array of {usual['rows']} rows fewer than {_FILLS} times"
    )
    return small | clock, [note]


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Groups) else value_text(value)


def _give_way(error: ConfigError, values: dict[str, Any], said: Mapping[str, Any]) -> str:
    """Move the unsaid one of two parameters that do not fit together; returns what is to be said.

    Raises:
        UsageError: both are said.
    """
    name = error.field
    assert name is not None
    option = BY_NAME["columns" if name == "groups" and said.get("columns") else name]
    moved = name if name not in said else _GIVES_WAY.get(name, name)
    if moved in said:
        raise option.refusal(error) from error
    before = values.get(moved, getattr(AcceleratorConfig, moved))
    nearest: Any = error.nearest
    if moved != name:
        fitting = [v for v in PARAMETERS[moved].powers() if _permits(values | {moved: v}, name)]
        if not fitting:
            raise option.refusal(error) from error
        nearest = min(fitting, key=lambda value: (abs(value - before), value))
    values[moved] = nearest
    return f"{moved} = {value_text(nearest)} is taken instead of {value_text(before)}: {error.what}"


def _permits(values: Mapping[str, Any], name: str) -> bool:
    """Whether the other parameters permit the value of one."""
    try:
        AcceleratorConfig(**values)
    except ConfigError as error:
        return error.field != name
    return True


def memory_blocks(config: AcceleratorConfig) -> int:
    """36 Kbit block RAMs of the activation memory and the accumulators: a lower bound.

    A block is 512 x 64, 1024 x 32, 2048 x 16 or 4096 x 8 bits with byte enables, without them 512 x
    72 to 4096 x 9.
    """
    memories = [(words, config.word_bits, 64) for words in config.bank_words]
    # Of a tile the partial sums, of two the complete ones.
    bits = sum(group.columns * group.accumulator_bits for group in config.groups)
    memories += [(n * config.tile_rows, bits, 72) for n in (1, 2)]
    return sum(
        min(-(-depth // (512 << k)) * -(-width // (unit >> k)) for k in range(4))
        for depth, width, unit in memories
    )


def _check_placement(config: AcceleratorConfig, board: Board) -> None:
    """A cascade of DSPs cannot leave its column of the device: refuse more than there is room for.

    Raises:
        DoesNotFitError: names the cascades, the bound and the nearest groups that can be placed.
    """
    bound = board.cascades(config.rows)
    needed = int(sum(group.dsps for group in config.groups))
    if bound is None or needed <= bound or board.dsp_primitive == "none":
        return
    left, fitting = bound, []
    for group in config.groups:
        if group.dsps:
            wide = group.columns_step  # columns of a cascade
            columns = min(group.columns, wide * left)
            left -= columns // wide
            group = replace(group, columns=max(wide, columns))
        fitting.append(group)
    levers = [f"fewer {BY_NAME['rows'].option}", "columns in the fabric"]
    with suppress(ConfigError):  # too few for attention with these rows
        config.replace(groups=Groups(fitting))
        levers.insert(0, f"{BY_NAME['groups'].option} {Groups(fitting)}")
    raise DoesNotFitError(
        "DSP cascades",
        needed,
        bound,
        f"cascades of {config.rows} DSPs",
        levers,
        where=f"{config.groups} on {board.name}",
    )


def check_fits(
    spec: ModelSpec, board: Board, options: DesignOptions, softmax: SoftmaxFunction
) -> Hardware:
    """The hardware, refused where its activations do not fit the board.

    Needs shapes only: it is asked before the checkpoint is read.

    Raises:
        DoesNotFitError: names the demand, the bound, and the nearest image size that fits.
        UsageError: as :func:`configure` does.
    """
    bound = board.limit("bram36")
    levers = ["a larger patch", "a narrower model"]
    if "bank_words" in options.values:
        levers.append(f"smaller {BY_NAME['bank_words'].option}")

    def demand(size: int) -> int:
        """Block RAMs with images of another size; beyond the bound where no design is legal."""
        try:
            smaller = configure(replace(spec, image_size=size), board, options, softmax)
        except (DoesNotFitError, UsageError):
            return bound + 1
        return memory_blocks(smaller.config)

    def with_nearest() -> list[str]:
        sizes = range(spec.image_size - spec.patch, 0, -spec.patch)
        nearest = next((size for size in sizes if demand(size) <= bound), None)
        if nearest is None:
            return levers
        tokens = replace(spec, image_size=nearest).tokens
        fits = f"images of {nearest} x {nearest} pixels ({tokens} tokens), which fit"
        return [fits, *levers]

    where = f"model {spec.name!r} on {board.name}"
    try:
        hardware = configure(spec, board, options, softmax)
    except DoesNotFitError as error:  # beyond what an address or a counter can name
        raise DoesNotFitError(
            error.resource, error.demand, error.bound, error.unit, with_nearest(), where=where
        ) from error
    needed = memory_blocks(hardware.config)
    if needed <= bound:
        _check_placement(hardware.config, board)
        return hardware
    raise DoesNotFitError(
        "Block RAM for activations",
        needed,
        bound,
        "blocks of 36 Kbit",
        with_nearest(),
        where=f"{where} ({board.budget['bram36']:.0%} of its block RAM)",
    )
