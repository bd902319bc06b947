# SPDX-License-Identifier: Apache-2.0
"""Designs with their leaves as primitives of the chip: the same as with their twins.

The same files but for the leaves; the same words, boundaries and cycles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hwgen.cli import main
from hwgen.emit.manifest import Manifest
from hwgen.frontend.images import digits_dataset
from hwgen.graph.interpreter import run_boundaries
from hwgen.sim.frame import load_setup, run_frames
from hwgen.sim.unit_bench import HANDSHAKES
from hwgen.sim.verilator import Source
from hwgen.stages.emit import DesignFolder
from hwgen.units import UNITS
from hwgen.units.folder import UnitManifest, emit_unit, simulate

MODELS = tuple(
    Path(__file__).parents[1] / "rtl" / name for name in ("dsp48e2.v", "xilinx_fabric.v")
)


def check_unit(
    folder: Path, primitive: str, parameters: dict[str, object], shape: tuple[int, int, int]
) -> None:
    """A product [M, K] @ [K, N] on both leaves, random and at its ends, under back-pressure."""
    unit = UNITS["systolic-array"]
    emit_unit(unit, parameters, folder)
    manifest = UnitManifest.load(folder)
    blocks = "\n".join((folder / name).read_text() for name in manifest.synthesis)
    assert primitive in blocks
    m, k, n = shape
    rng = np.random.default_rng(shape)
    extremes = np.where(rng.integers(0, 2, (k, n)), -127, 127)
    for handshake, weights in (
        ("always", rng.integers(-127, 128, (k, n))),
        ("random", np.where(np.arange(n) % 3 == 0, -127, extremes)),
    ):
        vectors = {
            "activations": rng.choice(np.array([0, 254, 255], np.uint8), (m, k)),
            "weights": weights.astype(np.int8),
        }
        results = [
            simulate(unit, parameters, vectors, handshake=HANDSHAKES[handshake], verilog=text)
            for text in (None, blocks + "".join(model.read_text() for model in MODELS))
        ]
        assert [result.first_difference for result in results] == [None, None]
        assert results[0].cycles == results[1].cycles


def check_frame(folder: Path, primitive: str, groups: str) -> Manifest:
    """A frame of ``digits``: every boundary, its cycle, and the cycles of the frame.

    The cycle model is right within 2 %. Returns the design's manifest.
    """
    graph, design = folder / "graph", folder / "design"
    assert main(["quantize", "digits", "-o", str(graph), "--json"]) == 0
    options = ["-o", str(design), "--rows", "16", "--groups", groups, "--json"]
    assert main(["generate", str(graph), *options]) == 0
    setup, manifest, _ = load_setup(design)
    blocks = [Source.of(design / name) for name in manifest.synthesis]
    assert any(primitive.encode() in source.data for source in blocks)
    image = digits_dataset()[2][0]
    reference = run_boundaries(DesignFolder.load(design).graph(), image)
    memory = DesignFolder.load(design).default_memory()
    frames = []
    for verilog in (setup.verilog, (*blocks, *map(Source.of, MODELS))):
        run = run_frames(replace(setup, verilog=verilog), [image], memory=memory)
        (frame,) = run.frames
        assert frame.boundaries
        for tensor, got in frame.boundaries.items():
            np.testing.assert_array_equal(got, reference[tensor], err_msg=tensor)
        frames.append(frame)
    twin, leaf = frames
    assert leaf.cycles == twin.cycles
    for times in ("completions", "accepted"):
        of_twin, of_leaf = getattr(twin, times), getattr(leaf, times)
        assert list(of_leaf) == list(of_twin)
        for engine, cycles in of_twin.items():
            np.testing.assert_array_equal(of_leaf[engine], cycles, err_msg=f"{times} {engine}")
    np.testing.assert_array_equal(leaf.output, twin.output)
    predicted = manifest.program.predicted_cycles
    assert abs(predicted - twin.cycles) <= 0.02 * twin.cycles, (predicted, twin.cycles)
    return manifest
