# SPDX-License-Identifier: Apache-2.0
"""Stage simulate: whole frames on the folder's files, every boundary compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwgen.errors import FormatError, ProgramError, SimulationError
from hwgen.frontend.images import ImageSet
from hwgen.graph.interpreter import run_boundaries
from hwgen.isa.instructions import Engine
from hwgen.reading import MAX_DESIGN_FILE_BYTES, read_bytes
from hwgen.report.results import SimulationResult, design_digest
from hwgen.report.terminal import Reporter
from hwgen.report.trace import write_trace
from hwgen.sim.compare import compare
from hwgen.sim.frame import Frame, Memory, simulate_frames
from hwgen.stages.emit import DesignFolder, read_labels
from hwgen.stages.lower import prediction
from hwgen.stages.quantise import top1

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
    trace: Path | None = None,
) -> SimulationResult:
    """Simulate images on the folder's files and compare every boundary with the graph's.

    Raises:
        MismatchError: the first difference, in network order of the first image that differs.
        SimulationError: the accelerator reported a fault, or its counters do not add up.
    """
    seconds = 0.0
    # Before the files are read: an edit meanwhile must not get this result.
    measured = design_digest(folder.path, folder.manifest)
    manifest, graph = folder.manifest, folder.graph()
    model = memory or folder.default_memory()
    labels_of_trace = read_labels(folder) if trace is not None else ()
    with reporter.stage("simulate"):
        reporter("predicting the cycles", 0.0)
        predicted, watchdog = expected_of(folder, model)
    classes = manifest.program.classes
    worst: Frame | None = None
    checked = 0
    logits = []
    changed: tuple[str, ...] = ()
    if images.note:
        reporter.warn(images.note)
    with reporter.stage("simulate"):
        size = sum(
            int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in graph.tensors.values()
        )
        batch = max(1, min(_BATCH_IMAGES, _BATCH_BYTES // size))
        for start in range(0, len(images.images), batch):
            part = images.images[start : start + batch]
            done, whole = start / len(images.images), len(part) / len(images.images)
            results = simulate_frames(
                folder.path,
                part,
                latency=model.latency,
                bandwidth=model.bandwidth,
                watchdog=watchdog,
                expected_cycles=predicted,
                progress=_scaled(reporter, done, whole),
            )
            changed = results.changed_files
            seconds += results.wall_seconds
            for offset, frame in enumerate(results.frames):
                where = f"image {start + offset}, Verilator against graph interpreter"
                expected = run_boundaries(graph, part[offset])
                output = expected[graph.output.name][0]
                # Every tensor of the graph: one that the table of boundaries lacks is a difference.
                checked = compare(
                    expected,
                    frame.boundaries,
                    where=where,
                    lanes=manifest.config.lanes,
                    tile_columns=manifest.config.columns,
                )
                stored = frame.output[: 2 * classes].view("<i2").astype(np.int16)
                compare({"stored logits": output}, {"stored logits": stored}, where=where)
                logits.append(stored)
                if worst is None or frame.cycles > worst.cycles:
                    worst = frame
    assert worst is not None
    busy, stalls = account(worst)
    if trace is not None:
        completions = {engine: worst.completions.get(engine, ()) for engine in Engine}
        write_trace(trace, completions, labels_of_trace, manifest.config.clock_mhz)
    labels = images.labels
    return SimulationResult(
        design=measured,
        matches_reference=True,
        layers_checked=checked,
        images=len(images.images),
        cycles=worst.cycles,
        clock_mhz=manifest.config.clock_mhz,
        macs=manifest.program.macs,
        macs_per_cycle=manifest.config.macs_per_cycle,
        busy_cycles=busy,
        stall_cycles=stalls,
        wall_seconds=seconds,
        memory_latency=model.latency,
        memory_bandwidth=model.bandwidth,
        predicted_cycles=predicted,
        image_source=images.source,
        changed_files=changed,
        top1=None if labels is None else top1(np.stack(logits), labels),
        top1_images=None if labels is None else len(labels),
    )


def expected_of(folder: DesignFolder, memory: Memory) -> tuple[int | None, int]:
    """Predicted cycles of a frame, and the value for WATCHDOG.

    The manifest's, or for another memory than the board's what the cycle model says of the folder's
    program. Of a program that is damaged or for other hardware nothing can be said; such a frame
    ends at once.
    """
    from hwgen.program.program import Program, decode_instructions

    manifest = folder.manifest
    facts = manifest.program
    settings = {"memory_latency": memory.latency, "memory_bandwidth": memory.bandwidth}
    if all(manifest.extra.get(name) == value for name, value in settings.items()):
        return facts.predicted_cycles, facts.watchdog_cycles
    try:
        image = read_bytes(folder.path / facts.image, limit=MAX_DESIGN_FILE_BYTES)
        program = Program(
            config=manifest.config,
            instructions=decode_instructions(image, manifest.config),
            image=image,
            input_shape=facts.input_shape[:3],  # type: ignore[arg-type]
            input_bytes=facts.input_bytes,
            output_bytes=facts.output_bytes,
            classes=facts.classes,
            boundaries=(),
            macs=facts.macs,
        )
        found = prediction(program, memory)
    except (FormatError, ProgramError):
        return None, facts.watchdog_cycles
    return found.cycles, found.watchdog


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
