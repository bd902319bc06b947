# SPDX-License-Identifier: Apache-2.0
"""Columns at twice the clock with DSP blocks, in units and whole frames: as with their twins.

The same files but for the leaves, at two clocks; the same words, boundaries and cycles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.cli import main
from hwgen.frontend.images import digits_dataset
from hwgen.graph.interpreter import run_boundaries
from hwgen.sim.frame import load_setup, run_frames
from hwgen.sim.unit_bench import HANDSHAKES
from hwgen.sim.verilator import Source
from hwgen.stages.emit import DesignFolder
from hwgen.units import UNITS
from hwgen.units.folder import UnitManifest, emit_unit, simulate

pytestmark = pytest.mark.verilator

MODEL = Path(__file__).parents[1] / "rtl/dsp48e2.v"


def check_unit(folder: Path, parameters: dict[str, object], shape: tuple[int, int, int]) -> None:
    """A product [M, K] @ [K, N] on both leaves, random and at its ends, under back-pressure."""
    unit = UNITS["systolic-array"]
    emit_unit(unit, parameters, folder)
    manifest = UnitManifest.load(folder)
    blocks = "\n".join((folder / name).read_text() for name in manifest.synthesis)
    assert "DSP48E2" in blocks
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
            for text in (None, blocks + MODEL.read_text())
        ]
        assert [result.first_difference for result in results] == [None, None]
        assert results[0].cycles == results[1].cycles


def test_a_unit_matrix_is_the_same_with_blocks(tmp_path: Path) -> None:
    """The last cascade is used in part; back-to-back passes, several tiles."""
    parameters = {"rows": 10, "columns": 6, "cells": "pumped", "tile_rows": 16}
    check_unit(tmp_path / "unit", parameters, (18, 43, 11))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 16, 32, 64])
def test_units_of_other_sizes(tmp_path: Path, rows: int) -> None:
    groups = "pumped:12:8,dual:2:8,digits:6:4"
    parameters = {"rows": rows, "groups": groups if rows == 16 else "pumped:28:8"}
    check_unit(tmp_path / "unit", parameters, (2 * rows + 3, 5 * rows - 1, 31))


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["pumped:16:8", "pumped:112:8", "pumped:24:8,digits:8:4"])
def test_a_whole_frame_is_the_same_with_blocks(tmp_path: Path, groups: str) -> None:
    """Every boundary, its cycle, and the cycles of the frame; the cycle model within 2 %."""
    graph, design = tmp_path / "graph", tmp_path / "design"
    assert main(["quantize", "digits", "-o", str(graph), "--json"]) == 0
    options = ["-o", str(design), "--rows", "16", "--groups", groups, "--json"]
    assert main(["generate", str(graph), *options]) == 0
    setup, manifest, _ = load_setup(design)
    assert f"{manifest.name}.xdc" in manifest.files
    assert manifest.extra["dsp_clock_mhz"] == 600
    blocks = [Source.of(design / name) for name in manifest.synthesis]
    assert any(b"DSP48E2" in source.data for source in blocks)
    image = digits_dataset()[2][0]
    reference = run_boundaries(DesignFolder.load(design).graph(), image)
    memory = DesignFolder.load(design).default_memory()
    frames = []
    for verilog in (setup.verilog, (*blocks, Source.of(MODEL))):
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
