# SPDX-License-Identifier: Apache-2.0
"""The search: the cheapest design that meets a frame rate, or the Pareto front.

Cycles come from the event-driven model, resources from :mod:`hwgen.explore.resources`. Designs are
taken in an order that depends on the question only, in batches of fixed size, and one is left out
unevaluated only where its bound (:mod:`hwgen.explore.bounds`) shows that it could not be part of
the answer: the answer is that of evaluating everything, for any number of workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, DoesNotFitError
from hwgen.explore.bounds import cycle_bound
from hwgen.explore.evaluate import Evaluator, Problem, Workers
from hwgen.explore.resources import ResourceEstimate, cascades, estimate_resources, model_error
from hwgen.explore.space import Candidate, Choices, candidates, narrow_widths

#: Frame rates closer than this (a fraction) are not told apart on the front: to as much the cycle
#: model is held against simulation.
TOLERANCE = 0.02
#: How far a design may be below its group's cycles with ideal memory and the widest softmax (a
#: fraction): the scheduler's estimates differ, so less work can come out slower. Tested.
ANOMALY = 0.015
#: What a predicted frame rate must be above the target (a fraction): the cycle model has been that
#: much too fast where the memory is not starved.
MARGIN = 0.01
#: Designs that meet a target and are shown, the cheapest first.
SHOWN = 5
#: Designs evaluated together; a constant, so that the answer cannot depend on the workers.
_BATCH = 8
#: Name of the limit on cascades among those of :data:`RESOURCES`.
PLACEMENT = "placement"
#: What binds where no design beyond the limits is faster: external memory, or the space itself.
MEMORY = "memory_bandwidth"
DESIGN_SPACE = "design_space"
RESOURCES = ("lut", "ff", "dsp", "bram36")

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a design may use."""

    resources: Mapping[str, int]  #: by :data:`RESOURCES`
    cascades: Mapping[int, int | None]  #: by rows: DSP cascades that can be placed; None: unknown
    memory_ports: int  #: AXI masters
    clk2x: bool  #: whether there are columns at twice the clock


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """A design with all that is known without running the cycle model."""

    candidate: Candidate
    config: AcceleratorConfig
    resources: ResourceEstimate
    limits: Limits
    bound: int  #: cycles of a frame, at least

    @cached_property
    def demand(self) -> dict[str, float]:
        """What it may turn out to need, the resource model's error added, by limit."""
        error = model_error()
        needs = {
            name: math.ceil(getattr(self.resources, name) * (1 + error[name]))
            if error[name]
            else getattr(self.resources, name)
            for name in RESOURCES
        }
        if self.limits.cascades[self.candidate.rows] is not None:
            needs[PLACEMENT] = self.cascades
        return needs

    @property
    def cascades(self) -> int:
        """DSP cascades of the array, ``rows`` DSPs each."""
        return cascades(self.config)

    def limit(self, name: str) -> int:
        """The limit of one of :attr:`demand`."""
        if name == PLACEMENT:
            fits = self.limits.cascades[self.candidate.rows]
            assert fits is not None
            return fits
        return self.limits.resources[name]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Demand over limit; above 1 it does not fit."""
        return {
            name: needed / limit if (limit := self.limit(name)) else math.inf
            for name, needed in self.demand.items()
        }

    @property
    def fits(self) -> bool:
        """Within every limit."""
        return self.overrun <= 1

    @property
    def overrun(self) -> float:
        """The largest share."""
        return max(self.shares.values())

    @cached_property
    def cost(self) -> float:
        """The mean share of LUT, FF, DSP and block RAM limits: what 'cheapest' means."""
        return sum(self.shares[name] for name in RESOURCES) / len(RESOURCES)

    @cached_property
    def axes(self) -> tuple[float, ...]:
        """The front's costs: LUT, DSP, block RAM."""
        return (self.resources.lut, self.resources.dsp, self.resources.bram36)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A design of the answer."""

    point: Point
    cycles: int  #: of a frame, by the event-driven model

    @property
    def fps(self) -> float:
        """Predicted frames per second at the design's clock."""
        return 1e6 * self.point.config.clock_mhz / self.cycles

    @property
    def met_fps(self) -> float:
        """The highest target that the design meets: predicted, less :data:`MARGIN`."""
        return self.fps / (1 + MARGIN)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search found."""

    target: float | None  #: frames per second that were asked for
    #: Target: the designs that meet it, the cheapest first. None: the front, slowest first.
    designs: tuple[Found, ...]
    best: Found | None  #: the fastest design within the limits that was evaluated
    #: The limit that the target breaks: a resource, :data:`PLACEMENT`, :data:`MEMORY` or
    #: :data:`DESIGN_SPACE`.
    binding: str | None = None
    #: Where the target is not met: the design nearest to the limits among those that would be
    #: faster (that meet it, if one does).
    beyond: Found | None = None
    designs_legal: int = 0  #: combinations that the generator builds, within the space
    designs_within_limits: int = 0
    designs_evaluated: int = 0  #: by the cycle model, those with ideal memory included
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def feasible(self) -> bool:
        """There is a design within the limits, and it meets the target if there is one."""
        return bool(self.designs)


@dataclass(kw_only=True)
class Search:
    """One question to the space; :meth:`run` answers it."""

    problem: Problem
    limits: Limits
    choices: Choices
    most_macs: int  #: products a cycle of the largest array looked at
    clock_mhz: int
    target: float | None = None
    workers: int = 1
    progress: Progress = lambda *_: None
    _legal: int = 0
    _inside: list[Point] = field(default_factory=list)

    def run(self) -> Answer:
        """Search.

        Raises:
            ConfigError: no legal design has the values that were asked for.
        """
        started = time.monotonic()
        designs: list[Found] = []
        beyond: Found | None = None
        binding: str | None = None
        interrupted = False
        try:
            with Workers(self.workers) as pool:
                self._evaluator = Evaluator(self.problem, pool)
                self._ideal = Evaluator(self.problem.with_ideal_memory(), pool)
                points = list(self._points())
                self._legal = len(points)
                if not points:
                    raise ConfigError(
                        "Design must be legal with the values that were given, and none is",
                        why="see 'hwgen explore --help' for what goes together",
                    )
                self._inside = [point for point in points if point.fits]
                if self.target is None:
                    self._front(designs)
                elif not self._meet(designs):
                    self._fastest()
                if not designs:
                    beyond, binding = self._what_binds(points)
        except KeyboardInterrupt:
            interrupted = True
            designs = self._so_far()
        return Answer(
            target=self.target,
            designs=tuple(designs),
            best=self._best(),
            binding=binding,
            beyond=beyond,
            designs_legal=self._legal,
            designs_within_limits=len(self._inside),
            designs_evaluated=self._count,
            seconds=time.monotonic() - started,
            interrupted=interrupted,
        )

    # Points ---------------------------------------------------------------------------------------

    def _points(self) -> Iterator[Point]:
        spec, frames = self.problem.spec, self.problem.frames_per_start
        in_flight = self.problem.frames_in_flight
        found = candidates(
            spec,
            self.choices,
            most_ports=self.limits.memory_ports,
            most_macs=self.most_macs,
            cascades=self.limits.cascades,
            narrow=narrow_widths(self.problem.narrow_bits),
            clk2x=self.limits.clk2x,
        )
        for candidate in found:
            try:
                config = candidate.config(spec, self.problem.fixed, frames, in_flight)
            except (ConfigError, DoesNotFitError):  # not built, or beyond what an address can name
                continue
            yield Point(
                candidate=candidate,
                config=config,
                resources=estimate_resources(config),
                limits=self.limits,
                bound=cycle_bound(
                    spec,
                    config,
                    candidate.row_blocks,
                    self.problem.memory,
                    self.problem.weight_bits,
                    frames,
                ),
            )

    def _evaluate(self, points: Sequence[Point], text: str, fraction: float) -> None:
        """Run the cycle model on some points, with progress."""
        for _ in self._evaluator.run([point.candidate for point in points]):
            self.progress(f"{text}, {self._count:,} designs evaluated", fraction)

    def _sharpen(self, points: Sequence[Point], text: str, fraction: float) -> None:
        """Get the cycles with ideal memory and the widest softmax of these points' arrays."""
        relaxed = {point.candidate.relaxed for point in points}
        for _ in self._ideal.run(sorted(relaxed)):
            self.progress(f"{text}, {self._count:,} designs evaluated", fraction)

    def _bound(self, point: Point) -> int:
        """A lower bound of a point's cycles, by what is known of its array so far."""
        ideal = self._ideal.cycles.get(point.candidate.relaxed)
        return point.bound if ideal is None else max(point.bound, int(ideal * (1 - ANOMALY)))

    @property
    def _count(self) -> int:
        return len(self._evaluator.cycles) + len(self._ideal.cycles)

    def _found(self, point: Point) -> Found:
        return Found(point=point, cycles=self._evaluator.cycles[point.candidate])

    @property
    def _target_cycles(self) -> int:
        """Cycles that a frame may be predicted to take."""
        assert self.target is not None
        return math.floor(1e6 * self.clock_mhz / (self.target * (1 + MARGIN)))

    # Searches -------------------------------------------------------------------------------------

    def _front(self, kept: list[Found]) -> None:
        """Designs that no other beats: costs no more LUT, DSP and block RAM and is as fast.

        In the order of their cost, each is kept unless one that is kept costs no more of anything
        and is slower by no more than :data:`TOLERANCE`. A bound that shows as much saves the
        evaluation.
        """
        order = sorted(self._inside, key=_front_order)
        rest = iter(enumerate(order))
        while batch := list(
            islice(((i, p) for i, p in rest if not _beaten(p, self._bound(p), kept)), _BATCH)
        ):
            text, done = "Pareto front", batch[0][0] / len(order)
            self._sharpen([p for _, p in batch], text, done)
            points = [p for _, p in batch if not _beaten(p, self._bound(p), kept)]
            self._evaluate(points, text, done)
            _keep((self._found(point) for point in points), kept)
        _finish_front(kept)

    def _so_far(self) -> list[Found]:
        """The answer over what was evaluated before an interrupt."""
        known = self._evaluator.cycles
        points = sorted((p for p in self._inside if p.candidate in known), key=_front_order)
        found = [self._found(point) for point in points if point.fits]
        if self.target is not None:
            met = [one for one in found if one.cycles <= self._target_cycles]
            return sorted(met, key=_target_order)[:SHOWN]
        kept: list[Found] = []
        _keep(found, kept)
        _finish_front(kept)
        return kept

    def _meet(self, designs: list[Found]) -> bool:
        """The cheapest designs that meet the target, in the order of their cost."""
        most = self._target_cycles
        order = sorted(
            (p for p in self._inside if p.bound <= most), key=lambda p: (p.cost, p.candidate)
        )
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            if len(designs) >= SHOWN and batch[0].cost > designs[SHOWN - 1].point.cost:
                break
            self._evaluate(batch, f"designs of {self.target:g} FPS", start / len(order))
            designs += [one for p in batch if (one := self._found(p)).cycles <= most]
            designs.sort(key=_target_order)
        del designs[SHOWN:]
        return bool(designs)

    def _fastest(self) -> None:
        """Evaluate until no design within the limits can be faster than the fastest known."""
        order = sorted(self._inside, key=lambda p: (p.bound, p.cost, p.candidate))
        best = self._best()

        def hopeful(point: Point) -> bool:
            return best is None or self._bound(point) <= best.cycles

        text = "fastest design"
        for start in range(0, len(order), _BATCH):
            batch, done = (
                [p for p in order[start : start + _BATCH] if hopeful(p)],
                start / len(order),
            )
            self._sharpen(batch, text, done)
            self._evaluate([p for p in batch if hopeful(p)], text, done)
            best = self._best()

    def _best(self) -> Found | None:
        known = self._evaluator.cycles
        inside = (self._found(p) for p in self._inside if p.candidate in known)
        return min(
            inside, key=lambda one: (one.cycles, one.point.cost, one.point.candidate), default=None
        )

    def _what_binds(self, points: Sequence[Point]) -> tuple[Found | None, str | None]:
        """The nearest design beyond the limits that would be faster, and its largest excess."""
        best = self._best()
        outside = sorted(
            (point for point in points if not point.fits),
            key=lambda p: (p.overrun, p.bound, p.candidate),
        )
        slowest = None if best is None else int(best.cycles / (1 + TOLERANCE))
        wanted = [slowest] if self.target is None else [self._target_cycles, slowest]
        for cycles in wanted:
            found = self._first_within(outside, cycles)
            if found is not None:
                shares = found.point.shares
                return found, max(shares, key=lambda name: (shares[name], name))
        if best is None:
            return None, DESIGN_SPACE
        (ideal,) = self._ideal.run([best.point.candidate])
        faster = self._ideal.cycles[ideal] * (1 + TOLERANCE) < best.cycles
        return None, MEMORY if faster else DESIGN_SPACE

    def _first_within(self, points: Iterable[Point], cycles: int | None) -> Found | None:
        """The first of some points that takes no more cycles; None: whatever it takes."""

        def hopeful(point: Point) -> bool:
            return cycles is None or self._bound(point) <= cycles

        text, rest = "designs beyond the limits", iter(points)
        while batch := list(islice((point for point in rest if hopeful(point)), _BATCH)):
            self._sharpen(batch, text, 0.9)
            batch = [point for point in batch if hopeful(point)]
            self._evaluate(batch, text, 0.9)
            for point in batch:
                found = self._found(point)
                if cycles is None or found.cycles <= cycles:
                    return found
        return None


def _no_more(one: Point, other: Point) -> bool:
    """Whether ``one`` costs no more of anything."""
    return all(a <= b for a, b in zip(one.axes, other.axes, strict=True))


def _front_order(point: Point) -> tuple[float, int, Candidate]:
    """A design comes after those that cost no more of anything."""
    shares = point.shares
    return shares["lut"] + shares["dsp"] + shares["bram36"], point.bound, point.candidate


def _target_order(one: Found) -> tuple[float, int, Candidate]:
    return one.point.cost, one.cycles, one.point.candidate


def _beaten(point: Point, cycles: int, kept: Sequence[Found]) -> bool:
    """Whether a design that is kept costs no more and is at most :data:`TOLERANCE` slower."""
    return any(
        one.cycles <= cycles * (1 + TOLERANCE) and _no_more(one.point, point) for one in kept
    )


def _keep(found: Iterable[Found], kept: list[Found]) -> None:
    """Add the designs that are not beaten."""
    for one in found:
        if not _beaten(one.point, one.cycles, kept):
            kept.append(one)


def _finish_front(kept: list[Found]) -> None:
    """Sort, slowest first; drop what one of equal cost beats after all.

    Designs of equal cost come in the order of their bounds, not of their cycles.
    """
    kept[:] = [
        one
        for one in kept
        if not any(
            other.cycles <= one.cycles
            and _no_more(other.point, one.point)
            and (other.cycles, other.point.axes) != (one.cycles, one.point.axes)
            for other in kept
        )
    ]
    kept.sort(key=lambda one: (-one.cycles, one.point.cost, one.point.candidate))
