# SPDX-License-Identifier: Apache-2.0
"""The flow: one ordered list of stages, each ``artefact -> artefact``.

    load -> quantise -> design -> lower -> emit -> simulate -> synthesise -> report

The stages themselves are the modules of :mod:`hwgen.stages`.
Every artefact is a frozen object; those that a user keeps (graph, design, design folder, results)
are files with a schema version, and a flow can start from any of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwgen.boards import DEFAULT_BOARD, Board, get_board
from hwgen.emit.folder import check_replaceable
from hwgen.emit.manifest import Manifest
from hwgen.errors import (
    ConfigError,
    FormatError,
    HwgenError,
    MismatchError,
    SimulationError,
    UsageError,
)
from hwgen.explore.evaluate import processors
from hwgen.explore.space import VARIED, Choices
from hwgen.frontend.expected import Agreement
from hwgen.frontend.images import ImageSet, digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.graph.assumption import assumptions_to_json
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.network import layer_names
from hwgen.graph.ops import Softmax
from hwgen.graph.spec import ModelSpec
from hwgen.graph.widths import WIDEST
from hwgen.outputs import check_distinct
from hwgen.reading import printable, show
from hwgen.report.results import (
    ASSUMED,
    AccuracyResult,
    SimulationResult,
    SynthesisResult,
    design_digest,
)
from hwgen.report.terminal import Reporter
from hwgen.sim.frame import Memory
from hwgen.stages.configure import check_fits, fabric_clock
from hwgen.stages.design import Design, Shapes, design, design_name
from hwgen.stages.emit import DesignFolder, emit, warn_of_changes
from hwgen.stages.explore import ExploreRequest, channel_shares, explore, layer_bits
from hwgen.stages.inspection import Inspection
from hwgen.stages.load import (
    Loaded,
    Request,
    compare_with_expected,
    held_out_images,
    load,
)
from hwgen.stages.lower import Lowered, board_memory, check_runs, lower, prediction
from hwgen.stages.options import DesignOptions
from hwgen.stages.quantise import Accuracy, measure_accuracy, quantise
from hwgen.stages.simulate import simulate
from hwgen.stages.synthesise import describe_synthesis, save_synthesis, synthesise

#: Images simulated where the user does not say how many.
DIGITS_IMAGES = 20
OTHER_IMAGES = 1


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A design folder with what has been measured on it; each result is a file of the folder."""

    folder: DesignFolder
    simulation: SimulationResult | None = None
    synthesis: SynthesisResult | None = None
    accuracy: AccuracyResult | None = None
    agreement: Agreement | None = None  #: of the float model with expected logits, of this run
    views: Mapping[str, Any] = field(default_factory=dict)  #: what this run left to look into

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Open a design folder with the results that hold for its files as they are now."""
        folder = DesignFolder.load(path)
        now = design_digest(path, folder.manifest)
        simulation, synthesis = SimulationResult.load(path), SynthesisResult.load(path)
        accuracy = AccuracyResult.load(path)
        return cls(
            folder=folder,
            accuracy=accuracy if accuracy and accuracy.design == now else None,
            simulation=simulation if simulation and simulation.design == now else None,
            synthesis=synthesis if synthesis and synthesis.design == now else None,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a flow needs beside its artefacts."""

    board: Board = field(default_factory=lambda: get_board(DEFAULT_BOARD))
    #: What the user states of the design.
    options: DesignOptions = field(default_factory=DesignOptions)
    #: The design that a quantised model gets, in the place of the board's preset.
    design: Design | None = None
    out: Path | None = None  #: design folder; by default ``rtl_out/<model>_<board>``
    images: int | Path | None = None  #: how many to simulate, or which
    memory_latency: int | None = None  #: cycles; by default the board's
    memory_bandwidth: float | None = None  #: bytes per cycle; by default the board's
    synthesise: bool = False
    expect: Path | None = None  #: another framework's logits
    inputs: tuple[Path, ...] = ()  #: what is read: no output takes the place of any of it
    force: bool = False  #: outputs may take the place of edited ones

    def folder(self, name: str) -> Path:
        """Where the design goes."""
        return self.out if self.out is not None else Path("rtl_out", name)

    def memory(self, default: Memory) -> Memory:
        """The memory model: the user's figures, the board's where there are none."""
        return Memory(
            latency=default.latency if self.memory_latency is None else self.memory_latency,
            bandwidth=default.bandwidth if self.memory_bandwidth is None else self.memory_bandwidth,
        )

    def image_set(self, spec: ModelSpec) -> ImageSet:
        """The images to simulate."""
        few = DIGITS_IMAGES if spec == MODELS["digits"] else OTHER_IMAGES
        return held_out_images(spec, few if self.images is None else self.images)


@dataclass(frozen=True)
class Stage:
    """One stage: what it takes and what it makes of it."""

    name: str
    takes: type
    makes: type
    run: Callable[[Any, Settings, Reporter], Any]


def _simulate_stage(folder: DesignFolder, settings: Settings, reporter: Reporter) -> Evidence:
    return simulate_design(folder, settings, reporter)


def _design_stage(graph: IntegerGraph, settings: Settings, reporter: Reporter) -> Design:
    if settings.design is not None:
        return settings.design.with_graph(graph)
    return design(graph, settings.board, settings.options, reporter)


def _emit_stage(lowered: Lowered, settings: Settings, reporter: Reporter) -> DesignFolder:
    return emit(lowered, settings.folder(lowered.design.name), reporter, force=settings.force)


def _synthesise_stage(evidence: Evidence, settings: Settings, reporter: Reporter) -> Evidence:
    if not settings.synthesise:
        return evidence
    result = synthesise(evidence.folder, reporter)
    save_synthesis(evidence.folder, result)
    return replace(evidence, synthesis=result)


#: The flow.
STAGES: tuple[Stage, ...] = (
    Stage("load", Request, Loaded, lambda a, s, r: load(a, r)),
    Stage("quantise", Loaded, IntegerGraph, lambda a, s, r: quantise(a, r)),
    Stage("design", IntegerGraph, Design, _design_stage),
    Stage("lower", Design, Lowered, lambda a, s, r: lower(a, r)),
    Stage("emit", Lowered, DesignFolder, _emit_stage),
    Stage("simulate", DesignFolder, Evidence, _simulate_stage),
    Stage("synthesise", Evidence, Evidence, _synthesise_stage),
    Stage("report", Evidence, dict, lambda a, s, r: describe_evidence(a)),
)


def run_flow(
    artefact: Any,
    settings: Settings,
    reporter: Reporter,
    *,
    until: str = "report",
    watch: Callable[[str, Any], Any] | None = None,
) -> Any:
    """Run the stages from the one that takes ``artefact`` through ``until``; return its artefact.

    ``watch(stage, artefact)`` sees every artefact as soon as it exists; what it returns, unless it
    is None, takes the artefact's place.
    """
    names = [stage.name for stage in STAGES]
    if until not in names:
        raise UsageError(f"Stage must be one of {', '.join(names)}, not {until!r}")
    first = next((i for i, stage in enumerate(STAGES) if isinstance(artefact, stage.takes)), None)
    if first is None or first > names.index(until):
        raise UsageError(
            f"The flow to {until!r} must start from an earlier artefact,"
            f" not {type(artefact).__name__}"
        )
    for stage in STAGES[first : names.index(until) + 1]:
        artefact = stage.run(artefact, settings, reporter)
        if watch is not None:
            changed = watch(stage.name, artefact)
            artefact = artefact if changed is None else changed
    return artefact


def run_all(request: Request, settings: Settings, reporter: Reporter) -> Evidence:
    """``hwgen run``: every stage, the prediction before the simulation, accuracy on all images.

    Top-1 is measured on every held-out image that has a label; simulated are ``settings.images``.
    """
    # Everything that the user can have got wrong, before minutes of work.
    _check_folder(request.spec.name, settings.board.name, settings)
    _check_hardware(request, settings)
    images = settings.image_set(request.spec)
    labelled = images
    if request.spec == MODELS["digits"] and not isinstance(settings.images, Path):
        _, _, everything, labels = digits_dataset()
        labelled = ImageSet(images=everything, labels=labels, source="digits")
    loaded: Loaded | None = None
    accuracy: Accuracy | None = None
    agreement: Agreement | None = None

    def watch(stage: str, artefact: Any) -> None:
        nonlocal loaded, accuracy, agreement
        if isinstance(artefact, Loaded):
            loaded = artefact
            if settings.expect is not None:
                agreement = compare_with_expected(loaded, settings.expect, lambda: images, reporter)
        elif isinstance(artefact, IntegerGraph):
            for warning in artefact.metadata.warnings:
                reporter.warn(warning)
            assert loaded is not None
            accuracy = measure_accuracy(loaded, artefact, labelled, reporter)
        elif isinstance(artefact, Lowered):
            predicted = prediction(artefact.program, settings.memory(artefact.memory))
            cycles = predicted.frame_cycles
            config = artefact.design.config
            reporter.say(
                f"predicted: {cycles:,} cycles per frame,"
                f" {1e6 * config.clock_mhz / cycles:,.1f} FPS at {config.clocks}"
                f" ({ASSUMED})"
            )
        elif isinstance(artefact, DesignFolder) and accuracy is not None:
            AccuracyResult(
                design=design_digest(artefact.path, artefact.manifest),
                top1=accuracy.top1,
                top1_images=accuracy.images,
                top1_float=accuracy.top1_float,
                image_source=labelled.source,
            ).save(artefact.path)

    evidence = run_flow(request, settings, reporter, until="synthesise", watch=watch)
    assert isinstance(evidence, Evidence)
    return replace(evidence, agreement=agreement)


def find_design(
    request: Request,
    settings: Settings,
    reporter: Reporter,
    *,
    fps: float,
    source: str,
    board_source: str,
) -> tuple[Request, Settings, dict[str, Any]]:
    """``hwgen run --fps``: the cheapest design that meets a frame rate takes the preset's place.

    Rows, columns or groups, ports, lanes and row blocks that the user states are kept to; what else
    he states is the same for every design.

    Returns:
        the request with the design's softmax, the settings with the design, and what was
        found, for the output.

    Raises:
        InfeasibleError: no design meets it.
        KeyboardInterrupt: the search was interrupted.
    """
    _check_folder(request.spec.name, settings.board.name, settings)
    stated = dict(settings.options.values)
    clock = fabric_clock(settings.board, stated)
    stated.pop("clock_mhz", None)
    dsp_clock: Any = stated.pop("dsp_clock_mhz", None)
    no_pump: Any = stated.pop("no_pump", False)
    frames: Any = stated.pop("frames_per_start", 1)
    in_flight: Any = stated.pop("frames_in_flight", 1)
    varied: dict[str, Any] = {name: (stated.pop(name),) for name in VARIED if name in stated}
    widths = {name: request.weight_bits.get(name, WIDEST) for name in layer_names(request.spec)}
    question = ExploreRequest(
        spec=request.spec,
        source=source,
        softmax=request.softmax,
        weight_bits=widths,
        frames_per_start=frames,
        frames_in_flight=in_flight,
        board=settings.board,
        board_source=board_source,
        fps=fps,
        clock_mhz=clock,
        dsp_clock_mhz=dsp_clock,
        no_pump=no_pump,
        memory=settings.memory(board_memory(settings.board, clock)),
        choices=Choices(**varied, fixed=stated),
        workers=processors(),
    )
    found = explore(question, reporter)
    if found.answer.interrupted:
        raise KeyboardInterrupt
    if (failure := found.failure()) is not None:
        raise failure
    best = found.answer.designs[0]
    reporter.say(
        f"design: {best.point.candidate.text()}; predicted {best.fps:,.1f} FPS at"
        f" {best.point.config.clocks} ({ASSUMED}); the cheapest of"
        f" {found.answer.designs_within_limits:,} within the limits of {settings.board.name}"
    )
    if why := found.why():
        reporter.say(why)
    described = found.describe(best)
    values = {
        "target_fps": fps,
        "estimated_resources": described["resources"],
        "designs_evaluated": found.answer.designs_evaluated,
        "command": described["command"],
    }
    return (
        replace(request, softmax=best.point.config.softmax),
        replace(settings, options=DesignOptions(), design=found.design(best)),
        values,
    )


def missed_rate(evidence: Evidence, fps: float | None) -> SimulationError | None:
    """The error of a design whose simulated rate is below the one that was asked for."""
    assert evidence.simulation is not None
    if fps is None or evidence.simulation.fps >= fps:
        return None
    return SimulationError(
        f"Simulated frame rate must be at least {fps:g} FPS, not {evidence.simulation.fps:,.6g} at"
        f" {evidence.simulation.clocks} ({ASSUMED})",
        why="the cycle model promised more; ask for a little more, or keep to other values",
    )


def _check_folder(model: str, board: str, settings: Settings) -> None:
    """Refuse a place where the design folder must not go.

    Names that differ in spaces, dots, dashes and underscores only share a default folder: a design
    of the one does not silently take the place of the other's.
    """
    folder = settings.folder(design_name(model, board))
    check_replaceable(folder, inputs=settings.inputs, force=settings.force)
    with contextlib.suppress(FormatError):  # no design, or one of another version
        found = Manifest.load(folder)
        if settings.out is None and (found.model, found.board.name) != (model, board):
            raise ConfigError(
                f"Design folder must be free or of model {show(model)} on {board}, and is of"
                f" {show(found.model)} on {found.board.name}; name another with -o",
                where=printable(str(folder)),
                why="both names make the same folder name",
            )


def _check_hardware(request: Request, settings: Settings) -> None:
    """Refuse what the model cannot run on: the hardware that will be built, from shapes alone."""
    spec, chosen = request.spec, settings.design
    if chosen is None:
        hardware = check_fits(spec, settings.board, settings.options, request.softmax)
        check_runs(spec, hardware)
    else:
        chosen.shapes.check(Shapes.of(spec, request.softmax), f"model {spec.name!r}")
        check_runs(spec, chosen)


def generate_all(
    start: IntegerGraph | Design,
    settings: Settings,
    reporter: Reporter,
    *,
    design_out: Path | None = None,
) -> DesignFolder:
    """``hwgen generate``: the design folder, and the design with its graph as a file.

    The file is written as soon as the program has been checked.
    """
    if isinstance(start, Design):
        model, board = start.model, start.board.name
    else:
        model, board = start.spec.name, settings.board.name
    check_distinct((settings.folder(design_name(model, board)), design_out))
    _check_folder(model, board, settings)

    def keep_design(stage: str, artefact: Any) -> None:
        if design_out is not None and isinstance(artefact, Lowered):
            artefact.design.save(design_out)

    made = run_flow(start, settings, reporter, until="emit", watch=keep_design)
    assert isinstance(made, DesignFolder)
    return made


def simulate_design(
    folder: DesignFolder,
    settings: Settings,
    reporter: Reporter,
    *,
    inspection: Inspection | None = None,
) -> Evidence:
    """``hwgen simulate``: the folder's files as they are; a changed one is named, and compared."""
    inputs = (*settings.inputs, *([settings.images] if isinstance(settings.images, Path) else []))
    SimulationResult.check_place(folder.path, inputs=inputs, force=settings.force)
    if inspection is not None:
        inspection.check_places(folder.path, inputs=inputs, force=settings.force)
    warn_of_changes(folder, reporter)
    memory = settings.memory(folder.default_memory())
    try:
        images = settings.image_set(folder.graph().spec)
        result, views = simulate(folder, images, reporter, memory=memory, inspection=inspection)
    except HwgenError as error:
        if isinstance(error, MismatchError | SimulationError):
            # What an earlier simulation found does not hold as it stands; nobody must show it.
            SimulationResult.path(folder.path).unlink(missing_ok=True)
        error.changed_files = tuple(folder.manifest.changed_files(folder.path))
        raise
    result.save(folder.path)
    return replace(Evidence.load(folder.path), simulation=result, views=views)


def describe_evidence(evidence: Evidence) -> dict[str, Any]:
    """Everything known of a design, as plain values."""
    manifest = evidence.folder.manifest
    values: dict[str, Any] = {
        **manifest.extra,
        "name": manifest.name,
        "out": str(evidence.folder.path),
        "model": manifest.model,
        "board": manifest.board.name,
        "config": manifest.config.to_json(),
        "row_blocks": manifest.row_blocks,
        "frames_per_start": manifest.frames_per_start,
        "frames_in_flight": manifest.frames_in_flight,
        "notes": list(manifest.notes),
        "predicted_cycles": manifest.program.predicted_cycles,
        "macs": manifest.program.macs,
        "weight_bytes": manifest.program.weight_bytes,
    }
    if evidence.simulation is not None:
        # The manifest's prediction is for the board's memory; the simulation has one for its own.
        del values["predicted_cycles"]
        values |= evidence.simulation.contract()
    if evidence.accuracy is not None:  # of all images, where the simulation has a few
        values |= evidence.accuracy.contract()
    if evidence.synthesis is not None:
        values |= describe_synthesis(manifest.board, evidence.synthesis)
    return values


def describe_graph(graph: IntegerGraph) -> dict[str, Any]:
    """What is worth knowing of a graph, as plain values."""
    widths = layer_bits(graph.ops)
    shares = channel_shares(graph.ops)
    used = sorted({*widths.values(), *(int(bits) for own in shares.values() for bits in own)})
    functions = {str(op.function) for op in graph.ops if isinstance(op, Softmax)}
    return {
        "model": graph.spec.name,
        "operations": len(graph.ops),
        "macs": graph.macs(),
        "weight_bits": used,
        "layer_weight_bits": widths,
        "layer_weight_shares": shares,
        "calibration_images": graph.metadata.calibration_images,
        "image_source": graph.metadata.image_source,
        "squares": graph.metadata.squares,
        "softmax": ", ".join(sorted(functions)),
        "checkpoint_digest": graph.metadata.checkpoint_digest,
        "logit_saturation": dict(graph.metadata.logit_saturation),
        **graph.metadata.quality(),
        "warnings": list(graph.metadata.warnings),
        "notes": list(graph.metadata.notes),
        "assumed": assumptions_to_json(graph.metadata.assumed),
    }
