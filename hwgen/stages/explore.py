# SPDX-License-Identifier: Apache-2.0
"""Stage explore: a frame rate in, a design out; without one, the Pareto front."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from hwgen.boards import RESOURCES, Board
from hwgen.columns import dense
from hwgen.config import softmax_fields
from hwgen.errors import ConfigError, InfeasibleError, UsageError
from hwgen.explore.evaluate import Problem, processors
from hwgen.explore.resources import is_measured, model_error
from hwgen.explore.search import (
    MARGIN,
    PLACEMENT,
    TOLERANCE,
    Answer,
    Found,
    Limits,
    Point,
    Search,
)
from hwgen.explore.space import ROWS, Choices
from hwgen.frontend.models import ALIASES, MODELS, get_model
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import Op, Weighted
from hwgen.graph.spec import ModelSpec
from hwgen.graph.weight_bits import (
    DEFAULT_WEIGHT_BITS,
    WeightBits,
    weight_bits_text,
    width_text,
)
from hwgen.graph.widths import WIDEST, Width
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction
from hwgen.program.cycle_model import MemoryModel
from hwgen.report.results import ASSUMED
from hwgen.report.terminal import Reporter
from hwgen.sim.frame import Memory
from hwgen.stages.configure import check_second_clock, fabric_clock, no_second_clock
from hwgen.stages.design import Design, Shapes, shapes_of
from hwgen.stages.lower import board_memory


@dataclass(frozen=True, kw_only=True)
class ExploreRequest:
    """The question: a model's shapes, a board, a target, and what to keep to."""

    spec: ModelSpec
    source: str  #: model or graph as the user named it, for the command that rebuilds a design
    is_graph: bool = False
    softmax: SoftmaxFunction = DEFAULT_FUNCTION  #: without a graph its slices are free
    weight_bits: Mapping[str, Width]  #: by layer
    board: Board
    board_source: str  #: name or file, as the user named it
    fps: float | None = None
    clock_mhz: int  #: of the fabric
    dsp_clock_mhz: int | None = None  #: twice of it, where the user states it
    no_pump: bool = False  #: no columns at twice the clock
    frames_per_start: int = 1
    frames_in_flight: int = 1
    memory: Memory
    budget: Mapping[str, float] = field(default_factory=dict)  #: fraction up to 1, or a count
    choices: Choices = field(default_factory=Choices)
    workers: int

    def __post_init__(self) -> None:
        """Check what does not depend on the search.

        Raises:
            ConfigError: the resource model does not know the board's family.
            UsageError: a budget beyond the device, softmax lanes other than the graph's, columns
                at twice the clock that cannot be.
        """
        if self.board.synthesis_target != "xcup":
            raise ConfigError(
                "Board's synthesis_target must be xcup to be explored, not"
                f" {self.board.synthesis_target}",
                where=self.board.name,
                why="resources are modelled on Yosys runs for that family only",
            )
        for name, value in self.budget.items():
            device = self.board.resources[name]
            if value > device:
                raise UsageError(
                    f"--{_OPTION[name]} must be at most the device's {device:,}, not {value:,g}",
                    nearest=device,
                )
        if self.choices.columns and self.choices.groups:
            raise UsageError("--columns must be absent with --groups, which says the columns")
        if self.frames_per_start % self.frames_in_flight:
            nearest = self.frames_per_start + self.frames_per_start % self.frames_in_flight
            raise UsageError(
                f"--frames-per-start must be a multiple of --frames-in-flight"
                f" {self.frames_in_flight}, not {self.frames_per_start}",
                nearest=nearest,
            )
        self._check_clocks()
        rows = self.choices.rows or ROWS
        for groups in self.choices.groups:
            if not any(is_measured(groups, count) for count in rows):
                raise ConfigError(
                    f"--groups must be of columns that the resource model knows, not {groups}",
                    why="scripts/measure_resources has not counted some of them with"
                    f" {', '.join(map(str, rows))} rows",
                )
        vec = self.graph_vec
        if vec is not None and self.choices.softmax_vec not in ((), (vec,)):
            raise UsageError(
                f"--softmax-lanes must be the graph's {vec} or absent,"
                f" not {', '.join(map(str, self.choices.softmax_vec))}",
                why="E2Softmax's slices are part of the function",
                nearest=vec,
            )

    def _check_clocks(self) -> None:
        most = self.board.clock.dsp_mhz
        for groups in self.choices.groups:
            check_second_clock(self.board, groups, no_pump=self.no_pump)
            if groups.clk2x and most is not None and 2 * self.clock_mhz > most:
                raise UsageError(
                    f"--clock must be at most {most // 2} with columns at twice the clock,"
                    f" not {self.clock_mhz}",
                    why=f"{self.board.name} clocks DSP blocks at {most} MHz at most",
                    nearest=most // 2,
                )
        named = self.choices.groups or tuple(map(dense, self.choices.columns))
        if self.dsp_clock_mhz is not None and named and not any(g.clk2x for g in named):
            raise UsageError(
                f"--dsp-clock must be absent with one clock, not {self.dsp_clock_mhz}",
                why="no columns that were named run at twice the clock",
            )

    @property
    def without_clk2x(self) -> str | None:
        """Why no design has columns at twice the clock; None where some do."""
        if self.no_pump:
            return "--no-pump"
        if (why := no_second_clock(self.board)) is not None:
            return why
        most = self.board.clock.dsp_mhz
        assert most is not None
        if 2 * self.clock_mhz > most:
            return f"DSP blocks take {most} MHz at most"
        return None

    @property
    def clocks(self) -> str:
        """The clocks that all rates assume."""
        why = self.without_clk2x
        dsp = f"{2 * self.clock_mhz} MHz for DSP blocks of pumped columns" if why is None else ""
        none = f"no pumped columns: {why}"
        return f"{self.clock_mhz} MHz, {dsp or none}; {ASSUMED}"

    @property
    def graph_vec(self) -> int | None:
        """Slice length that a graph fixes: it is part of SOLE's function."""
        return self.softmax.vec if self.is_graph else None

    @classmethod
    def of(
        cls,
        source: str,
        *,
        board: Board,
        board_source: str,
        fps: float | None = None,
        clock_mhz: int | None = None,
        dsp_clock_mhz: int | None = None,
        no_pump: bool = False,
        memory_latency: int | None = None,
        memory_bandwidth: float | None = None,
        budget: Mapping[str, float] | None = None,
        choices: Mapping[str, Any] | None = None,
        weight_bits: WeightBits | None = None,
        frames_per_start: int = 1,
        frames_in_flight: int = 1,
        workers: int | None = None,
    ) -> ExploreRequest:
        """Resolve names and defaults.

        Args:
            source: a known model, a JSON model file, or a graph's file.
            board: the board.
            board_source: its name or file as the user gave it.
            fps: target, frames per second.
            clock_mhz: of the designs; by default the board's, or half of the next.
            dsp_clock_mhz: of DSP blocks at twice the clock.
            no_pump: no columns with such blocks.
            memory_latency: cycles; by default the board's.
            memory_bandwidth: bytes per cycle; by default the board's at that clock.
            budget: by resource, a fraction of the device up to 1 or a count above.
            choices: by parameter, the values to keep to.
            weight_bits: of a model; a graph has its own.
            frames_per_start: images that a START works on.
            frames_in_flight: as many of them at a time.
            workers: processes; by default one for each processor.

        Raises:
            ModelError, FormatError: the model is unknown, or its file or the graph is bad.
            UsageError: see :meth:`__post_init__` and :func:`hwgen.stages.configure.fabric_clock`.
        """
        path = Path(source)
        graph: IntegerGraph | None = None
        if source in MODELS or source in ALIASES or path.suffix == ".json" or not path.is_file():
            spec = get_model(source)
            widths = (weight_bits or DEFAULT_WEIGHT_BITS).of(spec)
        else:
            graph = IntegerGraph.load(path)
            if weight_bits is not None:
                raise UsageError("--weight-bits must be absent: a graph has its own widths")
            spec, widths = graph.spec, layer_widths(graph.ops)
        said = {"clock_mhz": clock_mhz, "dsp_clock_mhz": dsp_clock_mhz, "no_pump": no_pump}
        clock = fabric_clock(board, said)
        memory = board_memory(board, clock)
        return cls(
            spec=spec,
            source=source,
            is_graph=graph is not None,
            softmax=DEFAULT_FUNCTION if graph is None else shapes_of(graph).softmax,
            weight_bits=widths,
            frames_per_start=frames_per_start,
            frames_in_flight=frames_in_flight,
            board=board,
            board_source=board_source,
            fps=fps,
            clock_mhz=clock,
            dsp_clock_mhz=dsp_clock_mhz,
            no_pump=no_pump,
            memory=Memory(
                latency=memory.latency if memory_latency is None else memory_latency,
                bandwidth=memory.bandwidth if memory_bandwidth is None else memory_bandwidth,
            ),
            budget=budget or {},
            choices=Choices(**(choices or {})),
            workers=workers or processors(),
        )

    def limits(self) -> Limits:
        """What a design may use: the budget's figures, the board's where it has none."""
        resources = {name: self.board.limit(name) for name in RESOURCES}
        for name, value in self.budget.items():
            resources[name] = int(self.board.resources[name] * value if value <= 1 else value)
        return Limits(
            resources=resources,
            cascades={rows: self.board.cascades(rows) for rows in ROWS},
            memory_ports=self.board.memory.ports,
            clk2x=self.without_clk2x is None,
        )


#: Option of each resource.
_OPTION = {"lut": "lut", "ff": "ff", "dsp": "dsp", "bram36": "bram"}


def layer_bits(layers: Sequence[Op]) -> dict[str, int]:
    """Width of every layer's weights, of the widest ones where channels have their own."""
    return {op.name: op.weight_bits for op in layers if isinstance(op, Weighted)}


def layer_widths(layers: Sequence[Op]) -> dict[str, Width]:
    """Width of every layer's weights, channel by channel where they have several."""
    return {op.name: _width(op) for op in layers if isinstance(op, Weighted)}


def _width(op: Weighted) -> Width:
    if op.channel_bits is None:
        return op.weight_bits
    # Each of q, k and v begins anew.
    bits = op.channel_bits[: len(op.channel_bits) // len(op.outputs)].tolist()
    return tuple((value, len(list(run))) for value, run in groupby(bits))


def channel_shares(layers: Sequence[Op]) -> dict[str, dict[str, float]]:
    """Shares of the output channels by their widths, of layers whose channels have several."""
    return {
        op.name: {
            str(bits): float((op.channel_bits == bits).mean())
            for bits in sorted(set(op.channel_bits.tolist()))
        }
        for op in layers
        if isinstance(op, Weighted) and op.channel_bits is not None
    }


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """The answer, with the question."""

    request: ExploreRequest
    answer: Answer

    @property
    def chosen(self) -> Found | None:
        """What ``-o`` writes: the cheapest design of a target, the fastest of a front."""
        designs = self.answer.designs
        if not designs:
            return None
        return designs[0] if self.request.fps is not None else designs[-1]

    def command(self, found: Found) -> str:
        """The command that builds a design."""
        request, candidate = self.request, found.point.candidate
        words = ["hwgen", "generate" if request.is_graph else "run", request.source]
        if not request.is_graph and request.source != "digits":
            words += ["--checkpoint", "FILE"]
        words += ["--board", request.board_source]
        uniform = candidate.groups == dense(candidate.columns)
        for option, value in (
            ("rows", candidate.rows),
            ("columns", candidate.columns) if uniform else ("groups", candidate.groups),
            ("ports", candidate.memory_ports),
            ("softmax-lanes", candidate.softmax_vec),
            ("requantise-lanes", candidate.requantise_lanes),
            ("layernorm-lanes", candidate.layernorm_lanes),
            ("row-blocks", candidate.row_blocks),
        ):
            words += [f"--{option}", str(value)]
        if not candidate.rotation:
            words += ["--rotation", "false"]
        if not request.is_graph and request.softmax.mode != DEFAULT_FUNCTION.mode:
            words += ["--softmax", request.softmax.mode]
        if not request.is_graph and any(bits != WIDEST for bits in request.weight_bits.values()):
            words += ["--weight-bits", weight_bits_text(request.weight_bits)]
        if request.frames_per_start > 1:
            words += ["--frames-per-start", str(request.frames_per_start)]
        if request.frames_in_flight > 1:
            words += ["--frames-in-flight", str(request.frames_in_flight)]
        if request.clock_mhz != request.board.clock.mhz:
            words += ["--clock", str(request.clock_mhz)]
        return shlex.join(words)

    def design(self, found: Found) -> Design:
        """A design of the answer, without weights."""
        request, candidate = self.request, found.point.candidate
        return Design(
            model=request.spec.name,
            shapes=Shapes.of(request.spec, found.point.config.softmax),
            config=found.point.config,
            row_blocks=candidate.row_blocks,
            frames_per_start=request.frames_per_start,
            frames_in_flight=request.frames_in_flight,
            board=request.board,
        )

    def describe(self, found: Found) -> dict[str, Any]:
        """A design as plain values."""
        point = found.point
        fits = point.limits.cascades[point.candidate.rows]
        return {
            "config": point.config.to_json(),
            "row_blocks": point.candidate.row_blocks,
            "frames_per_start": self.request.frames_per_start,
            "frames_in_flight": self.request.frames_in_flight,
            "weight_bits": {
                name: width if isinstance(width, int) else width_text(width)
                for name, width in self.request.weight_bits.items()
            },
            "fps": found.fps,
            "cycles": found.cycles,
            "resources": {name: getattr(point.resources, name) for name in RESOURCES},
            "shares": {name: point.shares[name] for name in sorted(point.shares)},
            "cost": point.cost,
            "cascades": {"used": point.cascades, "placeable": fits},
            "fabric_mhz": point.config.clock_mhz,
            "dsp_mhz": point.config.dsp_clock_mhz if point.config.clk2x else None,
            "command": self.command(found),
        }

    def to_json(self) -> dict[str, Any]:
        """The contract of ``hwgen explore --json``."""
        answer, request = self.answer, self.request
        values: dict[str, Any] = {
            "model": request.spec.name,
            "board": request.board.name,
            "target_fps": request.fps,
            "clocks": request.clocks,
            "feasible": answer.feasible,
            "binding_resource": answer.binding,
            "best_fps": answer.best.met_fps if answer.best is not None else None,
            "designs": [self.describe(found) for found in answer.designs],
            "cost": "mean share of the limits of LUT, FF, DSP and block RAM",
            "limits": dict(request.limits().resources),
            "resource_error": dict(model_error()),
            "front_tolerance": TOLERANCE,
            "target_margin": MARGIN,
            "designs_legal": answer.designs_legal,
            "designs_within_limits": answer.designs_within_limits,
            "designs_evaluated": answer.designs_evaluated,
            "proven_optimal": not answer.interrupted,
            "interrupted": answer.interrupted,
            "memory_latency": request.memory.latency,
            "memory_bandwidth": request.memory.bandwidth,
            "seconds": answer.seconds,
        }
        if answer.best is not None:
            values["best"] = self.describe(answer.best)
        if answer.beyond is not None:
            values["nearest_beyond"] = self.describe(answer.beyond)
        if reason := self.why():
            values["why"] = reason
        return values

    def why(self) -> str | None:
        """Why the runner-up lost; None where there is no contest."""
        designs = self.answer.designs
        if self.request.fps is None or len(designs) < 2:
            return None
        first, second = designs[0].point, designs[1].point
        more = [
            f"{LABELS[name]} {number(second, name)} against {number(first, name)}"
            for name in RESOURCES
            if second.shares[name] > first.shares[name]
        ]
        text = (
            f"the runner-up ({second.candidate.text()}) costs {100 * second.cost:.2f} % of the"
            f" limits on average, {100 * first.cost:.2f} % the first"
        )
        if not more:  # equal cost
            return f"{text}; it is slower"
        return f"{text}: {', '.join(more)}"

    def failure(self) -> InfeasibleError | None:
        """The sentence for a target that is not met."""
        answer, request = self.answer, self.request
        if answer.feasible or answer.interrupted:
            return None
        where = f"model {request.spec.name!r} on {request.board.name}"
        if answer.best is None:
            return InfeasibleError(
                f"Design must fit the limits, and none of {answer.designs_legal:,} does",
                where=where,
                binding_resource=answer.binding,
                best_fps=None,
            )
        assert request.fps is not None
        best, beyond = answer.best, answer.beyond
        why = (
            f"the fastest design within the limits is {best.point.candidate.text()}, predicted"
            f" {best.fps:,.6g} FPS at {best.point.config.clocks} ({ASSUMED}),"
            f" less {100 * MARGIN:g} % for the prediction's error"
        )
        if beyond is not None:
            assert answer.binding is not None
            needed = beyond.point.demand[answer.binding]
            kind = "fast enough" if beyond.met_fps >= request.fps else "faster"
            why += (
                f"; the nearest that is {kind},"
                f" {beyond.point.candidate.text()} with {beyond.fps:,.6g} FPS at"
                f" {beyond.point.config.clocks}, needs"
                f" {needed:,g} {LABELS[answer.binding]} of {beyond.point.limit(answer.binding):,}"
            )
        else:
            why += "; no legal design beyond the limits is faster"
        return InfeasibleError(
            f"Frame rate must be at most {best.met_fps:,.6g} FPS, not {request.fps:,g}",
            where=where,
            why=why,
            binding_resource=answer.binding,
            best_fps=best.met_fps,
        )


#: Resources in words.
LABELS = {
    "lut": "LUT",
    "ff": "FF",
    "dsp": "DSP",
    "bram36": "BRAM36",
    PLACEMENT: "placeable cascades",
}


def number(point: Point, name: str) -> str:
    """A resource of a design as text."""
    return f"{getattr(point.resources, name):,g}"


def explore(request: ExploreRequest, reporter: Reporter) -> Exploration:
    """Search the space; an interrupt gives what was found until then.

    Raises:
        ConfigError: no legal design has the values that were asked for.
    """
    choices = request.choices
    if request.graph_vec is not None:
        choices = replace(choices, softmax_vec=(request.graph_vec,))
    softmax = softmax_fields(request.softmax)
    softmax.pop("softmax_vec", None)  # a candidate's own
    memory = request.memory
    with reporter.stage("explore"):
        search = Search(
            problem=Problem(
                spec=request.spec,
                memory=MemoryModel(bytes_per_cycle=memory.bandwidth, latency=memory.latency),
                fixed={**choices.fixed, **softmax, "clock_mhz": request.clock_mhz},
                weight_bits=request.weight_bits,
                frames_per_start=request.frames_per_start,
                frames_in_flight=request.frames_in_flight,
            ),
            limits=request.limits(),
            choices=choices,
            # Two products a cycle and DSP, at twice the clock four: beyond twice the device, or the
            # device, nothing is near.
            most_macs=4 * request.board.resources["dsp"],
            clock_mhz=request.clock_mhz,
            target=request.fps,
            workers=request.workers,
            progress=reporter,
        )
        return Exploration(request=request, answer=search.run())
