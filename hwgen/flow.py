# SPDX-License-Identifier: Apache-2.0
"""The flow: one ordered list of stages, each ``artefact -> artefact``.

    load -> quantise -> design -> lower -> emit -> simulate -> synthesise -> report

Every artefact is a frozen object; those that a user keeps (graph, design, design folder, results)
are files with a schema version, and a flow can start from any of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from hwgen.boards import RESOURCES, Board, get_board
from hwgen.config import AcceleratorConfig
from hwgen.emit.folder import check_replaceable, write_folder
from hwgen.emit.manifest import Manifest, ProgramFacts, digest
from hwgen.errors import (
    ConfigError,
    DoesNotFitError,
    FormatError,
    HwgenError,
    MismatchError,
    SimulationError,
    UsageError,
)
from hwgen.files import reason, resolve_target
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import ImageSet, digits_dataset, load_images, synthetic_images
from hwgen.frontend.models import MODELS, default_checkpoint, get_model
from hwgen.frontend.quantiser import quantise as quantise_model
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run as run_graph
from hwgen.graph.interpreter import run_boundaries
from hwgen.graph.ops import Embedding, Linear, QueryKeyValue
from hwgen.graph.safetensors_file import read_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.isa.instructions import BY_NAME, Engine
from hwgen.program.program import Program
from hwgen.report.results import (
    OTHER_TARGET,
    SimulationResult,
    SynthesisResult,
    Usage,
    design_digest,
)
from hwgen.report.terminal import Reporter
from hwgen.report.trace import write_trace
from hwgen.sim.compare import compare
from hwgen.sim.frame import Frame, Memory, simulate_frames

#: Images simulated where the user does not say how many.
DIGITS_IMAGES = 20
OTHER_IMAGES = 1
#: Images that one run of the simulation takes: their boundaries are kept in memory.
_BATCH_IMAGES = 64
_BATCH_BYTES = 1 << 29
#: Most cycles that the bus takes before the accelerator counts and after it has counted.
_BUS_CYCLES = 16
_WEIGHTED = (Embedding, Linear, QueryKeyValue)
#: Longest name of a design.
_NAME_CHARACTERS = 64

DESIGN_SCHEMA_VERSION = 1
_DESIGN_KEY = "hwgen.design"

Squares = Literal["compressed", "exact"]

#: Calibration images where the user gives none: of the digits' training part, or synthetic.
DIGITS_CALIBRATION_IMAGES = 256
SYNTHETIC_CALIBRATION_IMAGES = 16
#: Seeds of synthetic images: calibration never sees the images that are simulated.
_CALIBRATION_SEED = 1
_IMAGES_SEED = 2


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where a flow starts: a model, its checkpoint, and how to quantise it."""

    spec: ModelSpec
    checkpoint: Path
    calibration: Path | None = None
    weight_bits: int = 8
    squares: Squares = "compressed"

    @classmethod
    def of(
        cls,
        model: str,
        *,
        checkpoint: Path | None = None,
        calibration: Path | None = None,
        weight_bits: int = 8,
        squares: str = "compressed",
    ) -> Request:
        """Resolve names; a known model without a checkpoint is wrong usage.

        Raises:
            ModelError: the model is unknown, or its file is bad.
            UsageError: a checkpoint must be given.
        """
        spec = get_model(model)
        path = checkpoint if checkpoint is not None else default_checkpoint(spec)
        if path is None:
            raise UsageError(
                f"Model {spec.name!r} must be given with --checkpoint FILE (.safetensors or .pt of"
                " timm, Hugging Face or the model's own names): its weights do not travel with"
                " hwgen; 'hwgen run' without a model runs the embedded 'digits'"
            )
        return cls(
            spec=spec,
            checkpoint=path,
            calibration=calibration,
            weight_bits=weight_bits,
            squares=cast("Squares", squares),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A float model together with the request it answers."""

    request: Request
    model: FloatModel


def load(request: Request, reporter: Reporter) -> Loaded:
    """Read and check the checkpoint."""
    with reporter.stage("load"):
        reporter(f"reading {request.checkpoint.name}", 0.0)
        model = FloatModel.from_state_dict(request.spec, load_checkpoint(request.checkpoint))
    return Loaded(request=request, model=model)


def quantise(loaded: Loaded, reporter: Reporter) -> IntegerGraph:
    """Calibrate and quantise."""
    request = loaded.request
    with reporter.stage("quantise"):
        images = calibration_images(request)
        reporter(f"calibrating on {len(images.images)} images ({images.source})", 0.0)
        return quantise_model(
            loaded.model,
            images.images,
            weight_bits=request.weight_bits,
            squares=request.squares,
            image_source=images.identity,
        )


def calibration_images(request: Request) -> ImageSet:
    """The user's, else the training part of the digits, else seeded synthetic images."""
    spec = request.spec
    if request.calibration is not None:
        return load_images(request.calibration, spec)
    if spec == MODELS["digits"]:
        images, labels, _, _ = digits_dataset()
        chosen = ImageSet(images=images, labels=labels, source="digits")
        return chosen.head(DIGITS_CALIBRATION_IMAGES)
    images = synthetic_images(spec, SYNTHETIC_CALIBRATION_IMAGES, _CALIBRATION_SEED)
    return ImageSet(images=images, labels=None, source="synthetic")


def held_out_images(spec: ModelSpec, source: int | Path) -> ImageSet:
    """Images to run: ``source`` of them from the model's own held-out set, or a file or folder.

    Raises:
        UsageError: more images than the set has, or none.
    """
    if isinstance(source, Path):
        return load_images(source, spec)
    if source < 1:
        raise UsageError(f"Number of images must be at least 1, not {source}")
    if spec == MODELS["digits"]:
        _, _, images, labels = digits_dataset()
        if source > len(images):
            raise UsageError(
                f"Number of images must be at most the {len(images)} held-out digits, not {source}"
            )
        return ImageSet(images=images, labels=labels, source="digits").head(source)
    images = synthetic_images(spec, source, _IMAGES_SEED)
    return ImageSet(images=images, labels=None, source="synthetic")


def design_name(spec: ModelSpec, board: str) -> str:
    """``<model>_<board>``, a Verilog identifier: it does not depend on the folder.

    Spaces, dots and dashes become underscores; a name with other characters, or a long one, gets a
    digest as well, so that it does not fall together with its like.
    """
    plain = f"{spec.name}_{board}"
    name = re.sub(r"[^A-Za-z0-9_]", "_", plain)
    name = name if re.match(r"[A-Za-z_]", name) else f"design_{name}"
    if re.fullmatch(r"[-A-Za-z0-9_. ]*", plain) and len(name) <= _NAME_CHARACTERS:
        return name
    return f"{name[: _NAME_CHARACTERS - 9]}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A graph with the hardware that runs it; its file is the graph's with one more entry."""

    graph: IntegerGraph
    config: AcceleratorConfig
    board: str

    @property
    def name(self) -> str:
        """Name of the Verilog top and default name of the folder: ``<model>_<board>``."""
        return design_name(self.graph.spec, self.board)

    def save(self, path: Path) -> None:
        """Write the design; the file is also a graph."""
        document = {
            "schema_version": DESIGN_SCHEMA_VERSION,
            "board": self.board,
            "config": self.config.to_json(),
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        self.graph.save(path, more={_DESIGN_KEY: text})

    @classmethod
    def load(cls, path: Path) -> Design | None:
        """Read a design; None if the file is a graph without one.

        Raises:
            FormatError: the file is neither, or is of another version.
        """
        _, metadata = read_safetensors(path)
        if _DESIGN_KEY not in metadata:
            return None
        try:
            document = json.loads(metadata[_DESIGN_KEY])
            if document["schema_version"] != DESIGN_SCHEMA_VERSION:
                raise FormatError(
                    f"schema_version must be {DESIGN_SCHEMA_VERSION},"
                    f" not {document['schema_version']!r}"
                )
            config = AcceleratorConfig.from_json(document["config"])
            board = get_board(document["board"]).name
        except (KeyError, TypeError, ValueError, HwgenError) as error:
            raise FormatError(f"Design must be well formed: {error}", where=str(path)) from error
        return cls(graph=IntegerGraph.load(path), config=config, board=board)


def preset(board: str, spec: ModelSpec) -> dict[str, int]:
    """The board's preset array for a model, as fields of the configuration.

    A layer that fills an array's rows fewer than four times spends most of its cycles on loading
    and skew, so a narrow model gets half the rows, columns and ports of the preset, down to 16
    rows.
    """
    chosen = get_board(board)
    values = {**chosen.preset, "clock_mhz": chosen.clock_mhz}
    while values["rows"] > 16 and spec.width < 4 * values["rows"]:
        for name in ("rows", "columns", "memory_ports"):
            values[name] = max(1, values[name] // 2)
    return values


def memory_blocks(spec: ModelSpec, rows: int, columns: int) -> int:
    """36 Kbit block RAMs of the activation memory and the accumulators: a lower bound.

    A block is 512 x 64, 1024 x 32, 2048 x 16 or 4096 x 8 bits with byte enables.
    """
    from hwgen.program.buffer_plan import default_tile_rows, plan_buffers

    tile_rows = default_tile_rows(spec.tokens)
    plan = plan_buffers(spec, rows=rows, columns=columns, tile_rows=tile_rows)
    memories = [(words, 8 * rows) for words in plan.words] + [(tile_rows, 32 * columns)] * 2
    return sum(
        min(-(-depth // (512 << k)) * -(-width // (64 >> k)) for k in range(4))
        for depth, width in memories
    )


def check_fits(spec: ModelSpec, board: str) -> None:
    """Refuse a model whose activations do not fit the board, before anything is computed.

    Raises:
        DoesNotFitError: names the demand, the bound, and the nearest image size that fits.
    """
    chosen, values = get_board(board), preset(board, spec)
    rows, columns = values["rows"], values["columns"]
    bound = chosen.limit("bram36")

    def demand(size: int) -> int | None:
        try:
            return memory_blocks(replace(spec, image_size=size), rows, columns)
        except DoesNotFitError:
            return None

    needed = demand(spec.image_size)
    if needed is not None and needed <= bound:
        return
    smaller = range(spec.image_size - spec.patch, 0, -spec.patch)
    nearest = next((n for n in smaller if (demand(n) or bound + 1) <= bound), None)
    levers = ["a larger patch", "a narrower model"]
    if nearest is not None:
        tokens = replace(spec, image_size=nearest).tokens
        levers.insert(0, f"images of {nearest} x {nearest} pixels ({tokens} tokens), which fit")
    if needed is None:  # beyond what an address can name: the plan says what
        try:
            memory_blocks(spec, rows, columns)
        except DoesNotFitError as error:
            where = f"model {spec.name!r} on {board}"
            raise DoesNotFitError(
                error.resource, error.demand, error.bound, error.unit, levers, where=where
            ) from error
    assert needed is not None
    raise DoesNotFitError(
        "Block RAM for activations",
        needed,
        bound,
        "blocks of 36 Kbit",
        levers,
        where=f"model {spec.name!r} on {board} ({chosen.budget['bram36']:.0%} of its block RAM)",
    )


def design(graph: IntegerGraph, board: str, reporter: Reporter) -> Design:
    """The board's preset array, with memories that fit the graph exactly."""
    from hwgen.program.buffer_plan import preset_config

    with reporter.stage("design"):
        check_fits(graph.spec, board)
        config = preset_config(graph, **preset(board, graph.spec))
        return Design(graph=graph, config=config, board=board)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """A design with its program, and what the cycle model says of it."""

    design: Design
    program: Program
    memory: Memory
    predicted_cycles: int


def lower(chosen: Design, reporter: Reporter, *, check: bool = True) -> Lowered:
    """Compile the graph and run the program's interpreter on one image against the graph's.

    Raises:
        DoesNotFitError: the configuration is too small for the graph.
        MismatchError: the program does not compute what the graph does.
    """
    from hwgen.program.interpreter import run_program
    from hwgen.program.lowering import lower as lower_graph

    graph = chosen.graph
    with reporter.stage("lower"):
        reporter("compiling the graph", 0.0)
        program = lower_graph(graph, chosen.config)
        memory = board_memory(chosen.board, chosen.config)
        predicted = predicted_cycles(program, memory)
        if check:
            reporter("checking the program against the graph", 0.5)
            image = held_out_images(graph.spec, 1).images[0]
            compare(
                run_boundaries(graph, image),
                run_program(program, image).boundaries,
                where="program interpreter against graph interpreter",
                lanes=chosen.config.lanes,
                tile_columns=chosen.config.columns,
            )
    return Lowered(design=chosen, program=program, memory=memory, predicted_cycles=predicted)


def predicted_cycles(program: Program, memory: Memory) -> int:
    """Cycles of a frame by the cycle model."""
    from hwgen.program.cycle_model import MemoryModel, predict

    model = MemoryModel(bytes_per_cycle=memory.bandwidth, latency=memory.latency)
    return round(predict(program, model).cycles)


def board_memory(board: str, config: AcceleratorConfig) -> Memory:
    """The board's memory, in cycles of the design's clock."""
    chosen = get_board(board)
    return Memory(
        latency=chosen.memory_latency_cycles,
        bandwidth=chosen.memory_bytes_per_second / (config.clock_mhz * 1_000_000),
    )


@dataclass(frozen=True, kw_only=True)
class DesignFolder:
    """A design folder and its manifest: from here on only the files count."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> DesignFolder:
        """Open a design folder.

        Raises:
            FormatError: it is none.
        """
        return cls(path=path, manifest=Manifest.load(path))

    def graph(self) -> IntegerGraph:
        """The graph of the folder."""
        return IntegerGraph.load(self.path / self.manifest.program.graph)

    def default_memory(self) -> Memory:
        """The memory of the board that the design is for."""
        return board_memory(self.manifest.board, self.manifest.config)


def emit(lowered: Lowered, path: Path, reporter: Reporter) -> DesignFolder:
    """Write the design folder: Verilog, memory image, boundary table, graph, manifest.

    Raises:
        ConfigError: the folder is not ours, or cannot be written.
    """
    from hwgen.emit.verilog import convert
    from hwgen.rtl.accelerator import Accelerator

    check_replaceable(path)
    chosen, program = lowered.design, lowered.program
    with reporter.stage("emit"):
        reporter("writing the Verilog", 0.0)
        component = Accelerator(chosen.config)
        shared = f"{chosen.name}.v"
        leaves = component.leaves()
        # Simulation and synthesis differ in these modules only: same name, ports and behaviour.
        primitives = component.synthesis_leaves()
        twins = {part: leaves.pop(part) for part in primitives}
        simulation, synthesis = f"{chosen.name}_twin.v", f"{chosen.name}_dsp48e2.v"
        files = {
            shared: convert(component, chosen.name, leaves, primitives).encode(),
            simulation: _leaf_texts(twins, chosen.name).encode(),
            synthesis: _leaf_texts(primitives, chosen.name).encode(),
            "program.bin": program.image,
            "boundaries.json": program.boundaries_bytes(),
            "labels.json": labels_bytes(program),
            "graph.safetensors": graph_bytes(chosen.graph),
        }
        widths = sorted({op.weight_bits for op in chosen.graph.ops if isinstance(op, _WEIGHTED)})
        manifest = Manifest(
            name=chosen.name,
            top=chosen.name,
            model=chosen.graph.spec.name,
            board=chosen.board,
            config=chosen.config,
            program=ProgramFacts(
                image="program.bin",
                boundaries="boundaries.json",
                graph="graph.safetensors",
                instructions=len(program.instructions),
                input_shape=program.input_shape,
                input_bytes=program.input_bytes,
                output_bytes=program.output_bytes,
                classes=program.classes,
                macs=program.macs,
                predicted_cycles=lowered.predicted_cycles,
            ),
            simulation=(shared, simulation),
            synthesis=(shared, synthesis),
            files={name: digest(data) for name, data in files.items()},
            extra={
                "weight_bits": widths,
                "memory_latency": lowered.memory.latency,
                "memory_bandwidth": lowered.memory.bandwidth,
                "calibration_source": chosen.graph.metadata.image_source,
                "calibration_images": chosen.graph.metadata.calibration_images,
                "logit_saturation": dict(chosen.graph.metadata.logit_saturation),
            },
        )
        known = _known_synthesis(path)
        written = write_folder(path, files, manifest)
        if known is not None and known.design == design_digest(written, manifest):
            known.save(written)  # the same files as before: what is known of them stays
        return DesignFolder(path=path, manifest=manifest)


def _leaf_texts(leaves: Mapping[str, Any], name: str) -> str:
    """Verilog of the modules that are not in the shared file."""
    from hwgen.emit.verilog import convert_leaf

    return "\n".join(convert_leaf(component, name, part) for part, component in leaves.items())


def _known_synthesis(path: Path) -> SynthesisResult | None:
    try:
        return SynthesisResult.load(path)
    except FormatError:
        return None


def graph_bytes(graph: IntegerGraph) -> bytes:
    """The bytes of a graph's file."""
    with tempfile.TemporaryDirectory(prefix="hwgen-graph-") as folder:
        path = Path(folder) / "graph"
        graph.save(path)
        return path.read_bytes()


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
    predicted = predicted_for(folder, graph, model)
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
        write_trace(trace, completions, read_labels(folder), manifest.config.clock_mhz)
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


def predicted_for(folder: DesignFolder, graph: IntegerGraph, memory: Memory) -> int | None:
    """The manifest's prediction, or one for another memory than the board's.

    The cycle model works on the compiled program: there is no other prediction where the folder's
    program is not the one that its graph compiles to.
    """
    from hwgen.program.lowering import lower as lower_graph

    manifest = folder.manifest
    settings = {"memory_latency": memory.latency, "memory_bandwidth": memory.bandwidth}
    if all(manifest.extra.get(name) == value for name, value in settings.items()):
        return manifest.program.predicted_cycles
    try:
        program = lower_graph(graph, manifest.config)
    except HwgenError:
        return None
    if digest(program.image) != manifest.files[manifest.program.image]:
        return None
    return predicted_cycles(program, memory)


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


def labels_bytes(program: Program) -> bytes:
    """The file that names opcode and operation of every instruction, for traces."""
    labels = program.labels or ("",) * len(program.instructions)
    pairs = [
        [instruction.opcode, label]
        for instruction, label in zip(program.instructions, labels, strict=True)
    ]
    return (json.dumps(pairs, separators=(",", ":")) + "\n").encode()


def read_labels(folder: DesignFolder) -> list[tuple[str, str]]:
    """The inverse of :func:`labels_bytes`; nothing where the file is not what it was."""
    try:
        values = json.loads((folder.path / "labels.json").read_text(encoding="utf-8"))
        return [(BY_NAME[opcode].name, str(label)) for opcode, label in values]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A design folder with what has been measured on it; each result is a file of the folder."""

    folder: DesignFolder
    simulation: SimulationResult | None = None
    synthesis: SynthesisResult | None = None

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Open a design folder with the results that hold for its files as they are now."""
        folder = DesignFolder.load(path)
        now = design_digest(path, folder.manifest)
        simulation, synthesis = SimulationResult.load(path), SynthesisResult.load(path)
        return cls(
            folder=folder,
            simulation=simulation if simulation and simulation.design == now else None,
            synthesis=synthesis if synthesis and synthesis.design == now else None,
        )


def synthesise(
    folder: DesignFolder,
    reporter: Reporter,
    *,
    target: str | None = None,
    liberty: Path | None = None,
) -> SynthesisResult:
    """Count what Yosys makes of the folder's files; a changed one is named, and used.

    Raises:
        ToolError: Yosys is missing or fails.
    """
    from hwgen.synth.yosys import synthesise as run_yosys

    manifest = folder.manifest
    warn_of_changes(folder, reporter)
    design = design_digest(folder.path, manifest)  # before the files are read
    target = target or get_board(manifest.board).synthesis_target
    # Only one family has the primitives of the synthesis list; the others take their twins.
    has_primitives = target == "xcup" and liberty is None
    names = manifest.synthesis if has_primitives else manifest.simulation
    with reporter.stage("synthesise"):
        measured = run_yosys(
            [folder.path / name for name in names],
            manifest.top,
            target,
            liberty=liberty,
            progress=reporter,
        )
    extra: dict[str, Any] = {"synthesis_seconds": measured.wall_seconds}
    if measured.area is not None:
        extra["area"] = measured.area
    if measured.modules:
        extra["modules"] = {
            module.name: {"instances": module.instances, **module.own}
            for module in measured.modules
        }
    return SynthesisResult(
        design=design,
        lut=round(measured.lut),
        ff=round(measured.ff),
        dsp=round(measured.dsp),
        bram36=measured.bram36,
        logic_levels=measured.logic_levels,
        tool=measured.tool,
        target=measured.target,
        extra=extra,
    )


def warn_of_changes(folder: DesignFolder, reporter: Reporter) -> None:
    """Say which files are not the generated ones any more."""
    for name in folder.manifest.changed_files(folder.path):
        reporter.warn(f"{folder.path / name} was changed since it was generated; used as it is")


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Fractions of images whose largest logit is the label's."""

    top1: float  #: of the integer graph
    top1_float: float  #: of the float model
    images: int


def measure_accuracy(
    loaded: Loaded, graph: IntegerGraph, images: ImageSet, reporter: Reporter
) -> Accuracy | None:
    """Top-1 of the float model and of the integer graph; None without labels."""
    if images.labels is None:
        return None
    with reporter.stage("accuracy"):
        reporter(f"float model on {len(images.images)} images", 0.0)
        exact = top1(loaded.model.classify(images.images), images.labels)
        reporter(f"integer graph on {len(images.images)} images", 0.5)
        integer = top1(run_graph(graph, images.images), images.labels)
    return Accuracy(top1=integer, top1_float=exact, images=len(images.images))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a flow needs beside its artefacts."""

    board: str = "zcu102"
    out: Path | None = None  #: design folder; by default ``rtl_out/<model>_<board>``
    images: int | Path | None = None  #: how many to simulate, or which
    memory_latency: int | None = None  #: cycles; by default the board's
    memory_bandwidth: float | None = None  #: bytes per cycle; by default the board's
    synthesise: bool = False

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
    Stage("design", IntegerGraph, Design, lambda a, s, r: design(a, s.board, r)),
    Stage("lower", Design, Lowered, lambda a, s, r: lower(a, r)),
    Stage("emit", Lowered, DesignFolder, lambda a, s, r: emit(a, s.folder(a.design.name), r)),
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
    get_board(settings.board)
    check_replaceable(settings.folder(design_name(request.spec, settings.board)))
    check_fits(request.spec, settings.board)
    images = settings.image_set(request.spec)
    labelled = images
    if request.spec == MODELS["digits"] and not isinstance(settings.images, Path):
        _, _, everything, labels = digits_dataset()
        labelled = ImageSet(images=everything, labels=labels, source="digits")
    loaded: Loaded | None = None
    accuracy: Accuracy | None = None
    predicted = 0

    def watch(stage: str, artefact: Any) -> Any:
        nonlocal loaded, accuracy, predicted
        if isinstance(artefact, Loaded):
            loaded = artefact
        elif isinstance(artefact, IntegerGraph):
            for warning in artefact.metadata.warnings:
                reporter.warn(warning)
            assert loaded is not None
            accuracy = measure_accuracy(loaded, artefact, labelled, reporter)
        elif isinstance(artefact, Lowered):
            predicted = predicted_cycles(artefact.program, settings.memory(artefact.memory))
            config = artefact.design.config
            reporter.say(
                f"predicted: {predicted:,} cycles per frame,"
                f" {1e6 * config.clock_mhz / predicted:,.1f} FPS at {config.clock_mhz} MHz"
            )
        elif isinstance(artefact, Evidence) and stage == "simulate":
            assert artefact.simulation is not None
            result = replace(artefact.simulation, predicted_cycles=predicted)
            if accuracy is not None:
                result = replace(
                    result,
                    top1=accuracy.top1,
                    top1_images=accuracy.images,
                    top1_float=accuracy.top1_float,
                )
            result.save(artefact.folder.path)
            return replace(artefact, simulation=result)
        return None

    evidence = run_flow(request, settings, reporter, until="synthesise", watch=watch)
    assert isinstance(evidence, Evidence)
    return evidence


def simulate_design(
    folder: DesignFolder, settings: Settings, reporter: Reporter, *, trace: bool = False
) -> Evidence:
    """``hwgen simulate``: the folder's files as they are; a changed one is named, and compared."""
    warn_of_changes(folder, reporter)
    images = settings.image_set(folder.graph().spec)
    memory = settings.memory(folder.default_memory())
    place = folder.path / "trace.json" if trace else None
    try:
        result = simulate(folder, images, reporter, memory=memory, trace=place)
    except (MismatchError, SimulationError) as error:
        error.changed_files = tuple(folder.manifest.changed_files(folder.path))
        # What an earlier simulation found does not hold as it stands; nobody must show it.
        SimulationResult.path(folder.path).unlink(missing_ok=True)
        raise
    result.save(folder.path)
    return replace(Evidence.load(folder.path), simulation=result)


def open_source(path: Path, board: str | None) -> IntegerGraph | Design:
    """A design, or a graph that the board's preset will run.

    Raises:
        FormatError: the file is neither.
        UsageError: the design is for another board.
    """
    found = Design.load(path)
    if found is None:
        get_board(board or "zcu102")
        return IntegerGraph.load(path)
    if board is not None and board != found.board:
        raise UsageError(f"--board must be the design's {found.board!r} or absent, not {board!r}")
    return found


def describe_evidence(evidence: Evidence) -> dict[str, Any]:
    """Everything known of a design, as plain values."""
    manifest = evidence.folder.manifest
    values: dict[str, Any] = {
        "name": manifest.name,
        "out": str(evidence.folder.path),
        "model": manifest.model,
        "board": manifest.board,
        "config": manifest.config.to_json(),
        "predicted_cycles": manifest.program.predicted_cycles,
        "macs": manifest.program.macs,
        **manifest.extra,
    }
    if evidence.simulation is not None:
        # The manifest's prediction is for the board's memory; the simulation has one for its own.
        del values["predicted_cycles"]
        values |= evidence.simulation.contract()
    if evidence.synthesis is not None:
        values |= describe_synthesis(manifest.board, evidence.synthesis)
    return values


def _is_for(board: Board, result: SynthesisResult) -> bool:
    # Cells of a Liberty file have an area.
    return result.target == board.synthesis_target and "area" not in result.extra


def board_usage(board: str, result: SynthesisResult) -> list[Usage]:
    """What a design takes of its board; nothing where it was synthesised for other devices."""
    chosen = get_board(board)
    if not _is_for(chosen, result):
        return []
    used = {resource: float(getattr(result, resource)) for resource in RESOURCES}
    over = chosen.overruns(used)
    return [
        Usage(
            resource=resource,
            used=used[resource],
            available=chosen.resources[resource],
            limit=chosen.limit(resource),
            overrun=over.get(resource),
        )
        for resource in RESOURCES
    ]


def describe_synthesis(board: str, result: SynthesisResult) -> dict[str, Any]:
    """A synthesis, with what it takes of the board if it is for the board's device."""
    values = result.contract()
    if usage := board_usage(board, result):
        values["board_usage"] = {item.resource: item.to_json() for item in usage}
        values["overruns"] = [item.resource for item in usage if item.overrun is not None]
    return values


def save_synthesis(folder: DesignFolder, result: SynthesisResult) -> Path:
    """Save a synthesis; only one for the board's device is what the design's report shows."""
    own = _is_for(get_board(folder.manifest.board), result)
    return result.save(folder.path, kind="" if own else OTHER_TARGET)


def describe_graph(graph: IntegerGraph) -> dict[str, Any]:
    """What is worth knowing of a graph, as plain values."""
    widths = {op.name: op.weight_bits for op in graph.ops if hasattr(op, "weight_bits")}
    used = sorted({int(bits) for bits in widths.values()})
    return {
        "model": graph.spec.name,
        "operations": len(graph.ops),
        "macs": graph.macs(),
        "weight_bits": used,
        "calibration_images": graph.metadata.calibration_images,
        "image_source": graph.metadata.image_source,
        "squares": graph.metadata.squares,
        "checkpoint_digest": graph.metadata.checkpoint_digest,
        "logit_saturation": dict(graph.metadata.logit_saturation),
        "warnings": list(graph.metadata.warnings),
        "notes": list(graph.metadata.notes),
    }


def check_output_file(path: Path) -> None:
    """Refuse an output file early, before minutes of work.

    Raises:
        ConfigError: its folder does not exist, or it is a folder itself, a pipe or a device.
    """
    if path.is_dir():
        raise ConfigError("Output must be a file, not a folder", where=str(path))
    if not path.absolute().parent.is_dir():
        raise ConfigError("Output file's folder must exist", where=str(path))
    try:
        resolve_target(path)
    except OSError as error:
        raise ConfigError(f"Output must be a file: {reason(error)}", where=str(path)) from error


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows whose largest logit is the label's; the first of equal ones counts."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))
