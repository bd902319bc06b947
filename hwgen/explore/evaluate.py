# SPDX-License-Identifier: Apache-2.0
"""Cycles of many designs, on several processes; an interrupt loses nothing that was found."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from types import TracebackType
from typing import Any

from hwgen.config import AcceleratorConfig
from hwgen.explore.space import Candidate
from hwgen.graph.network import Network, network_of
from hwgen.graph.spec import ModelSpec
from hwgen.graph.widths import WIDEST, Width
from hwgen.program.choice import lower_fastest
from hwgen.program.cycle_model import MemoryModel, predict

#: Bytes per cycle that no configuration can use.
_IDEAL = 1e9


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What all designs of an exploration have in common."""

    spec: ModelSpec
    memory: MemoryModel
    fixed: Mapping[str, Any]  #: further fields of every configuration
    #: of the weights, by layer; 8 where it says nothing
    weight_bits: Mapping[str, Width] = field(default_factory=dict)
    frames_per_start: int = 1
    frames_in_flight: int = 1

    def with_ideal_memory(self) -> Problem:
        """The same with a memory whose bandwidth never counts."""
        return replace(self, memory=replace(self.memory, bytes_per_cycle=_IDEAL))

    @property
    def narrow_bits(self) -> tuple[int, ...]:
        """Widths of the weights below 8 bits, ascending."""
        widths: set[int] = set()
        for width in self.weight_bits.values():
            widths |= {width} if isinstance(width, int) else {bits for bits, _ in width}
        return tuple(sorted(bits for bits in widths if bits < WIDEST))

    def network(self, config: AcceleratorConfig) -> Network:
        """The model's operations with the softmax of a candidate's configuration."""
        return network_of(self.spec, softmax=config.softmax, weight_bits=self.weight_bits)


def frame_cycles(problem: Problem, candidate: Candidate) -> int:
    """Cycles of a frame by the event-driven model (:mod:`hwgen.program.cycle_model`)."""
    frames, in_flight = problem.frames_per_start, problem.frames_in_flight
    config = candidate.config(problem.spec, problem.fixed, frames, in_flight)
    program = lower_fastest(
        problem.network(config),
        config,
        problem.memory,
        skeleton=True,
        blocks=candidate.row_blocks,
        frames=frames,
        in_flight=in_flight,
    )
    return predict(program, problem.memory).frame_cycles


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


class Workers:
    """Processes that run the cycle model; none is started before there is work for two."""

    def __init__(self, count: int) -> None:
        """``count`` processes; one runs in the caller's."""
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes: at once where something was raised."""
        if self._pool is None:
            return
        if kind is not None:
            for process in list(self._pool._processes.values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def map(self, problem: Problem, batch: Sequence[Candidate]) -> Iterator[int]:
        """Cycles of each candidate, in order."""
        if self.count == 1 or len(batch) < 2:
            return map(frame_cycles, repeat(problem), batch)
        if self._pool is None:
            # Fresh interpreters: a fork would inherit whatever threads the caller has.
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                # An interrupt of the terminal goes to the whole group; the parent answers it.
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_IGN),
            )
        return self._pool.map(frame_cycles, repeat(problem), batch)


class Evaluator:
    """Cycles of candidates of one problem; each is computed once."""

    def __init__(self, problem: Problem, workers: Workers) -> None:
        """Nothing is known yet."""
        self.problem = problem
        self.workers = workers
        self.cycles: dict[Candidate, int] = {}

    def run(self, batch: Sequence[Candidate]) -> Iterator[Candidate]:
        """Evaluate what is not known yet; yields each candidate when its cycles are."""
        new = [candidate for candidate in batch if candidate not in self.cycles]
        for candidate, cycles in zip(new, self.workers.map(self.problem, new), strict=True):
            self.cycles[candidate] = cycles
            yield candidate
