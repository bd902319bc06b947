# SPDX-License-Identifier: Apache-2.0
"""Stage emit: the design folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from hwgen.emit.constraints import constraints
from hwgen.emit.folder import check_replaceable, write_folder
from hwgen.emit.manifest import Manifest, ProgramFacts, digest
from hwgen.errors import FormatError
from hwgen.files import scratch_folder
from hwgen.graph.assumption import assumptions_to_json
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import Weighted
from hwgen.isa.instructions import BY_NAME
from hwgen.program.program import Program
from hwgen.reading import read_json
from hwgen.report.results import SynthesisResult, design_digest
from hwgen.report.terminal import Reporter
from hwgen.sim.frame import Memory
from hwgen.stages.lower import Lowered, board_memory

#: File that names what every instruction belongs to.
LABELS = "labels.json"
_MAX_LABELS_BYTES = 1 << 27


def _known_opcode(name: str) -> str:
    if name not in BY_NAME:
        raise ValueError(f"one of {', '.join(BY_NAME)}")
    return name


_Opcode = Annotated[str, AfterValidator(_known_opcode)]


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
        return board_memory(self.manifest.board, self.manifest.config.clock_mhz)


def emit(lowered: Lowered, path: Path, reporter: Reporter, *, force: bool = False) -> DesignFolder:
    """Write the design folder: Verilog, memory image, boundary table, graph, manifest.

    Raises:
        ConfigError: the folder is not ours, was edited (unless ``force``), or cannot be written.
    """
    from hwgen.emit.verilog import convert
    from hwgen.rtl.accelerator import Accelerator

    check_replaceable(path, force=force)
    chosen, program = lowered.design, lowered.program
    with reporter.stage("emit"):
        reporter("writing the Verilog", 0.0)
        component = Accelerator(chosen.config)
        shared = f"{chosen.name}.v"
        leaves = component.leaves()
        # Simulation and synthesis differ in these modules only: same name, ports and behaviour.
        primitives = component.synthesis_leaves()
        twins = {part: leaves.pop(part) for part in primitives}
        simulation = synthesis = f"{chosen.name}_twin.v"
        files = {
            shared: convert(component, chosen.name, leaves, primitives).encode(),
            simulation: _leaf_texts(twins, chosen.name).encode(),
        }
        # Amaranth warns of a component that is built and not converted.
        text = _leaf_texts(primitives, chosen.name)
        if chosen.board.dsp_primitive == "DSP48E2":
            synthesis = f"{chosen.name}_dsp48e2.v"
            files[synthesis] = text.encode()
        if chosen.config.clk2x:
            files[f"{chosen.name}.xdc"] = constraints(chosen.config, chosen.name).encode()
        files |= {
            "program.bin": program.image,
            "boundaries.json": program.boundaries_bytes(),
            LABELS: labels_bytes(program),
            "graph.safetensors": graph_bytes(lowered.graph),
        }
        widths = sorted({op.weight_bits for op in lowered.graph.ops if isinstance(op, Weighted)})
        manifest = Manifest(
            name=chosen.name,
            top=chosen.name,
            model=chosen.model,
            board=chosen.board,
            config=chosen.config,
            row_blocks=chosen.row_blocks,
            frames_per_start=chosen.frames_per_start,
            frames_in_flight=chosen.frames_in_flight,
            notes=chosen.notes,
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
                weight_bytes=program.weight_bytes,
                predicted_cycles=lowered.prediction.frame_cycles,
                watchdog_cycles=lowered.prediction.watchdog,
            ),
            simulation=(shared, simulation),
            synthesis=(shared, synthesis),
            files={name: digest(data) for name, data in files.items()},
            extra={
                "weight_bits": widths,
                "memory_latency": lowered.memory.latency,
                "memory_bandwidth": lowered.memory.bandwidth,
                "calibration_source": lowered.graph.metadata.image_source,
                "calibration_images": lowered.graph.metadata.calibration_images,
                "logit_saturation": dict(lowered.graph.metadata.logit_saturation),
                **lowered.graph.metadata.quality(),
                "assumed": assumptions_to_json(lowered.graph.metadata.assumed),
                **({"dsp_clock_mhz": chosen.config.dsp_clock_mhz} if chosen.config.clk2x else {}),
            },
        )
        known = _known_synthesis(path)
        written = write_folder(path, files, manifest, force=force)
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
    with scratch_folder() as folder:
        path = folder / "graph"
        graph.save(path)
        return path.read_bytes()


def labels_bytes(program: Program) -> bytes:
    """The file that names opcode and operation of every instruction, for traces."""
    labels = program.labels or ("",) * len(program.instructions)
    pairs = [
        [instruction.opcode, label]
        for instruction, label in zip(program.instructions, labels, strict=True)
    ]
    return (json.dumps(pairs, separators=(",", ":")) + "\n").encode()


def read_labels(folder: DesignFolder) -> tuple[tuple[str, str], ...]:
    """The inverse of :func:`labels_bytes`.

    Raises:
        FormatError: the file cannot be read, or holds something else.
    """
    pairs = tuple[tuple[_Opcode, str], ...]
    return read_json(folder.path / LABELS, pairs, limit=_MAX_LABELS_BYTES)


def warn_of_changes(folder: DesignFolder, reporter: Reporter) -> None:
    """Say which files are not the generated ones any more."""
    for name in folder.manifest.changed_files(folder.path):
        reporter.warn(f"{folder.path / name} was changed since it was generated; used as it is")
