# SPDX-License-Identifier: Apache-2.0
"""Stage simulate: whole frames on the folder's files, every boundary compared."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import (
    FormatError,
    HwgenError,
    MismatchError,
    ProgramError,
    SimulationError,
)
from hwgen.frontend.images import ImageSet
from hwgen.graph.interpreter import run_boundaries
from hwgen.reading import MAX_DESIGN_FILE_BYTES, read_bytes
from hwgen.report.results import SimulationResult, design_digest
from hwgen.report.terminal import Reporter
from hwgen.report.trace import Schedule, write_trace
from hwgen.sim.compare import compare
from hwgen.sim.frame import Memory, Window, simulate_frames
from hwgen.sim.frame_results import Frame
from hwgen.stages.emit import DesignFolder, read_labels
from hwgen.stages.inspection import Dump, Inspection, open_dump, write_wave
from hwgen.stages.lower import frame_boundaries, predicted_schedule, prediction
from hwgen.stages.quantise import top1

if TYPE_CHECKING:
    from hwgen.program.program import Program

#: Images that one run of the simulation takes: their boundaries are kept in memory.
_BATCH_IMAGES = 64
_BATCH_BYTES = 1 << 29
#: Most cycles that the bus takes before the accelerator counts and after it has counted.
_BUS_CYCLES = 16


def simulate(
    folder: DesignFolder,
    images: ImageSet,
    reporter: Reporter,
    *,
    memory: Memory | None = None,
    inspection: Inspection | None = None,
) -> tuple[SimulationResult, dict[str, Any]]:
    """Simulate images on the folder's files and compare every boundary with the graph's.

    What is to be inspected is written whether the comparison succeeds or not: of the image that
    differs or fails, else of the slowest (trace) or the first (waveform).

    Returns:
        the figures, and what was written for inspection, as plain values.

    Raises:
        MismatchError: the first difference, in network order of the first image that differs.
        SimulationError: the accelerator reported a fault, or its counters do not add up. Either has
            what was written as ``views``.
    """
    wanted = inspection or Inspection()
    # Before the files are read: an edit meanwhile must not get this result.
    measured = design_digest(folder.path, folder.manifest)
    manifest = folder.manifest
    model = memory or folder.default_memory()
    labels_of_trace = read_labels(folder) if wanted.trace is not None else ()
    with reporter.stage("simulate"):
        reporter("predicting the cycles", 0.0)
        predicted, watchdog = expected_of(folder, model)
    if images.note:
        reporter.warn(images.note)
    bench = _Bench(folder, model, watchdog, predicted, reporter)
    views: dict[str, Any] = {}
    failure: MismatchError | SimulationError | None = None
    with contextlib.ExitStack() as stack:
        dump = None
        if wanted.dump is not None:
            dump = stack.enter_context(open_dump(wanted.dump))
        try:
            with reporter.stage("simulate"):
                bench.compare(images.images, dump)
        except (MismatchError, SimulationError) as error:
            failure = error
        if dump is not None:
            with _second_to(failure, "dump", reporter):
                dump.finish()
                views["dump"] = str(wanted.dump)
    shown = bench.last if failure is not None else bench.worst
    if wanted.trace is not None and shown is not None:
        simulated = {
            # A changed design may complete what it has not taken.
            engine: list(zip(shown.accepted[engine], shown.completions[engine], strict=False))
            for engine in shown.completions
        }
        clock = manifest.config.clock_mhz
        with _second_to(failure, "trace", reporter):
            predicted_bars = schedule_of(folder, model)
            if not predicted_bars:
                reporter.warn("the trace has no prediction: the program is damaged or another's")
            write_trace(wanted.trace, simulated, predicted_bars, labels_of_trace, clock)
            views["trace"] = str(wanted.trace)
    if wanted.wave is not None:
        with _second_to(failure, "waveform", reporter):
            views |= bench.show(wanted, images.images, failure)
    for name in ("dump", "trace"):
        if name in views:
            reporter.say(f"{name}: {views[name]}")
    if failure is not None:
        failure.views = views
        raise failure
    worst = bench.worst
    assert worst is not None
    frames = manifest.frames_per_start
    cycles, busy, stalls = per_frame(worst.cycles, *account(worst), frames)
    labels = images.labels
    result = SimulationResult(
        design=measured,
        matches_reference=True,
        layers_checked=bench.checked,
        images=len(images.images),
        cycles=cycles,
        frames_per_start=frames,
        latency_cycles=worst.cycles,
        clock_mhz=manifest.config.clock_mhz,
        dsp_clock_mhz=manifest.config.dsp_clock_mhz if manifest.config.clk2x else None,
        macs=manifest.program.macs,
        weight_bytes=manifest.program.weight_bytes,
        macs_per_cycle=manifest.config.macs_per_cycle,
        busy_cycles=busy,
        stall_cycles=stalls,
        wall_seconds=bench.seconds,
        memory_latency=model.latency,
        memory_bandwidth=model.bandwidth,
        predicted_cycles=predicted,
        image_source=images.source,
        changed_files=bench.changed,
        top1=None if labels is None else top1(np.stack(bench.logits), labels),
        top1_images=None if labels is None else len(labels),
    )
    return result, views


class _Bench:
    """Simulates and compares image after image, and knows how far it got."""

    def __init__(
        self,
        folder: DesignFolder,
        memory: Memory,
        watchdog: int,
        predicted: int | None,
        reporter: Reporter,
    ) -> None:
        self.folder = folder
        self.memory = memory
        self.watchdog = watchdog
        self.predicted = predicted
        self.reporter = reporter
        self.graph = folder.graph()
        self.checked = 0
        self.seconds = 0.0
        self.logits: list[npt.NDArray[np.int16]] = []
        self.changed: tuple[str, ...] = ()
        self.worst: Frame | None = None  #: the slowest
        self.last: Frame | None = None  #: compared last, or differing
        self.first_cycles: int | None = None  #: of image 0
        elements = [(math.prod(t.shape), np.dtype(t.dtype)) for t in self.graph.tensors.values()]
        size = sum(count * dtype.itemsize for count, dtype in elements)
        self.frames = folder.manifest.frames_per_start
        #: Images of one run, from reset to end: whole STARTs.
        self.batch = max(1, min(_BATCH_IMAGES, _BATCH_BYTES // size) // self.frames) * self.frames

    def compare(self, images: npt.NDArray[np.uint8], dump: Dump | None) -> None:
        """Simulate and compare all images; the first that differs or fails ends it."""
        frames = self.frames
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            done, whole = start / len(images), len(part) / len(images)
            # The last START is filled up with its last image.
            part = np.concatenate([part, part[-1:].repeat(-len(part) % frames, axis=0)])
            self.last = None
            try:
                results = simulate_frames(
                    self.folder.path,
                    part,
                    latency=self.memory.latency,
                    bandwidth=self.memory.bandwidth,
                    watchdog=self.watchdog,
                    expected_cycles=self.predicted and frames * self.predicted,
                    progress=_scaled(self.reporter, done, whole),
                )
            except SimulationError as error:
                if error.image is not None:
                    error.image = start + frames * error.image
                    error.where = f"image {error.image}"
                raise
            self.changed = results.changed_files
            self.seconds += results.wall_seconds
            for number, frame in enumerate(results.frames):
                self.last = frame
                if self.first_cycles is None:
                    self.first_cycles = frame.cycles
                first = start + number * frames
                for place, image in enumerate(images[first : first + frames]):
                    self._compare(first + place, image, frame, place, dump)
                if self.worst is None or frame.cycles > self.worst.cycles:
                    self.worst = frame

    def _compare(
        self,
        index: int,
        image: npt.NDArray[np.uint8],
        frame: Frame,
        place: int,
        dump: Dump | None,
    ) -> None:
        """One image, ``place`` in its START."""
        manifest = self.folder.manifest
        where = f"image {index}, Verilator against graph interpreter"
        expected = run_boundaries(self.graph, image)
        simulated = frame_boundaries(frame.boundaries, place, self.frames)
        leading = () if self.frames == 1 else (place,)
        if dump is not None:
            dump.add(index, expected, simulated)
        output = expected[self.graph.output.name][0]
        # Every tensor of the graph: one that the table of boundaries lacks is a difference.
        self.checked = compare(
            expected,
            simulated,
            where=where,
            lanes=manifest.config.requantise_lanes,
            tile_columns=manifest.config.columns,
            image=index,
            written=lambda name, place: frame.written_in(name, (*leading, *place)),
        )
        part = frame.output.reshape(self.frames, -1)[place]
        stored = part[: 2 * manifest.program.classes].copy().view("<i2").astype(np.int16)
        name = "stored logits"
        compare({name: output}, {name: stored}, where=where, image=index)
        self.logits.append(stored)

    def show(
        self,
        wanted: Inspection,
        images: npt.NDArray[np.uint8],
        failure: MismatchError | SimulationError | None,
    ) -> dict[str, Any]:
        """Write the waveform, and say what it shows; without a frame there is none."""
        assert wanted.wave is not None
        image, cycle = (0, None) if failure is None else (failure.image, failure.cycle)
        end = self.first_cycles
        if isinstance(failure, SimulationError):
            end = cycle
        elif failure is not None and self.last is not None:
            end = self.last.cycles
        if image is None or end is None:
            self.reporter.warn("no waveform: the simulation failed before a frame had begun")
            return {}
        first, end_of_window = wanted.window(cycle, end)
        start = image - image % self.batch
        last = image - image % self.frames  # of its START
        shown = images[start : last + self.frames]
        shown = np.concatenate([shown, shown[-1:].repeat(-len(shown) % self.frames, axis=0)])
        with self.reporter.stage("waveform"):
            write_wave(
                *(wanted.wave, self.folder.path, shown),
                Window((image - start) // self.frames, first, end_of_window),
                number=image,
                memory=self.memory,
                watchdog=self.watchdog,
                expected_cycles=self.predicted and self.frames * self.predicted,
                progress=self.reporter,
            )
        self.reporter.say(
            f"waveform: image {image}, cycles {first:,} to {end_of_window:,}: {wanted.wave}"
        )
        return {
            "wave": str(wanted.wave),
            "wave_image": image,
            "wave_cycles": [first, end_of_window],
        }


@contextlib.contextmanager
def _second_to(
    failure: MismatchError | SimulationError | None, what: str, reporter: Reporter
) -> Iterator[None]:
    """An error in leaving something to look into does not take the place of the failure itself."""
    try:
        yield
    except HwgenError as error:
        if failure is None:
            raise
        reporter.warn(f"no {what}: {error}")


def expected_of(folder: DesignFolder, memory: Memory) -> tuple[int | None, int]:
    """Predicted cycles of a frame, and the value for WATCHDOG.

    The manifest's, or for another memory than the board's what the cycle model says of the folder's
    program. Of a program that is damaged or for other hardware nothing can be said; such a frame
    ends at once.
    """
    manifest = folder.manifest
    facts = manifest.program
    settings = {"memory_latency": memory.latency, "memory_bandwidth": memory.bandwidth}
    if all(manifest.extra.get(name) == value for name, value in settings.items()):
        return facts.predicted_cycles, facts.watchdog_cycles
    try:
        found = prediction(_program(folder), memory)
    except (FormatError, ProgramError):
        return None, facts.watchdog_cycles
    return found.frame_cycles, found.watchdog


def schedule_of(folder: DesignFolder, memory: Memory) -> Schedule:
    """When the cycle model has each engine work on what; empty for a program it cannot take."""
    try:
        return predicted_schedule(_program(folder), memory)
    except (FormatError, ProgramError):
        return {}


def _program(folder: DesignFolder) -> Program:
    """The folder's program as the cycle model takes it.

    Raises:
        FormatError: its file cannot be read.
        ProgramError: it is damaged, or for other hardware.
    """
    from hwgen.program.decoding import decode_instructions
    from hwgen.program.program import Program

    manifest = folder.manifest
    facts = manifest.program
    image = read_bytes(folder.path / facts.image, limit=MAX_DESIGN_FILE_BYTES)
    return Program(
        config=manifest.config,
        instructions=decode_instructions(image, manifest.config),
        image=image,
        input_shape=facts.input_shape,
        input_bytes=facts.input_bytes,
        output_bytes=facts.output_bytes,
        classes=facts.classes,
        boundaries=(),
        macs=facts.macs,
        frames=manifest.frames_per_start,
    )


def per_frame(
    cycles: int, busy: int, stalls: Mapping[str, int], frames: int
) -> tuple[int, int, dict[str, int]]:
    """Cycles per frame, rounded up, and what the array did in them: whole cycles, the same sum.

    What rounding takes from one figure the largest remainders get.
    """
    whole = -(-cycles // frames)
    parts = {"": busy, **stalls, " rounding": whole * frames - cycles}
    shares = {name: value // frames for name, value in parts.items()}
    order = sorted(parts, key=lambda name: -(parts[name] % frames))
    for name in order[: whole - sum(shares.values())]:
        shares[name] += 1
    shares["idle"] += shares.pop(" rounding")
    return whole, shares.pop(""), shares


def account(frame: Frame) -> tuple[int, dict[str, int]]:
    """Busy cycles and stalls by cause; together they are the frame's cycles, exactly.

    The few cycles of the bus between the START write and the sequencer, and between the interrupt
    and the host, are idle ones.

    Raises:
        SimulationError: the accelerator's counters do not add up.
    """
    counters = dict(frame.counters)
    counted, busy = counters.pop("CYCLES"), counters.pop("ARRAY_BUSY")
    stalls = {name.removeprefix("STALL_").lower(): value for name, value in counters.items()}
    bus = frame.cycles - counted
    if busy + sum(stalls.values()) != counted or not 0 <= bus <= _BUS_CYCLES:
        raise SimulationError(
            f"Busy ({busy}) and stalled ({sum(stalls.values())}) cycles must add up to the frame's"
            f" {counted} (seen at the pins: {frame.cycles}), and do not"
        )
    stalls["idle"] += bus
    return busy, stalls


def _scaled(reporter: Reporter, start: float, share: float) -> Callable[[str, float], None]:
    return lambda text, fraction: reporter(text, start + share * fraction)
