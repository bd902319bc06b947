# SPDX-License-Identifier: Apache-2.0
"""Folders of units: the same bytes every time, replaced only if ours; the files on disk count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.emit.verilog import external_modules
from hwgen.errors import ConfigError, FormatError, SimulationError, UsageError
from hwgen.units import (
    UNITS,
    UnitManifest,
    emit_unit,
    save_vectors,
    simulate_folder,
    synthesise_folder,
)

VECTORS: dict[str, Any] = {
    "codes": np.arange(-100, 100).reshape(8, 25).astype(np.int8),
    "table": np.arange(127, -129, -1).astype(np.int8),
}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", UNITS)
def test_a_folder_holds_verilog_and_manifest(name: str, tmp_path: Path) -> None:
    folder = emit_unit(UNITS[name], {}, tmp_path / "unit")
    module = UNITS[name].module
    assert set(files(folder)) == {"manifest.json", f"{module}.v"}
    manifest = UnitManifest.load(folder)
    assert (manifest.unit, manifest.top) == (name, module)
    assert manifest.parameters == UNITS[name].resolve()
    assert str(tmp_path) not in (folder / f"{module}.v").read_text()


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = "from hwgen.units import *; emit_unit(UNITS['systolic-array'], {'rows': 5}, {!r})"
    folders = []
    for seed in ("1", "2"):
        folders.append(tmp_path / seed / "unit")
        subprocess.run(
            [sys.executable, "-c", code.replace("{!r}", repr(str(folders[-1])))],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    assert files(folders[0]) == files(folders[1])


def test_run_time_parameters_do_not_change_the_verilog(tmp_path: Path) -> None:
    first = emit_unit(UNITS["e2softmax"], {}, tmp_path / "a")
    second = emit_unit(UNITS["e2softmax"], {"fraction_bits": 7}, tmp_path / "b")
    name = "hwgen_e2softmax.v"
    assert files(first)[name] == files(second)[name]
    assert UnitManifest.load(second).parameters["fraction_bits"] == 7


def test_only_our_folder_is_replaced(tmp_path: Path) -> None:
    folder = emit_unit(UNITS["elementwise"], {}, tmp_path / "unit")
    emit_unit(UNITS["requantise"], {}, folder)
    assert UnitManifest.load(folder).unit == "requantise"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        emit_unit(UNITS["requantise"], {}, folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"schema": "hwgen.design"}')
    with pytest.raises(ConfigError, match="holds other files"):
        emit_unit(UNITS["requantise"], {}, other)
    with pytest.raises(UsageError):
        emit_unit(UNITS["requantise"], {"lanes": 0}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "fft"}, "Unit must be one of"),
        ({"schema_version": 2}, "generate the unit again"),
        ({"parameters": {"lanes": 0}}, "--lanes must be in"),
        ({"simulation": ["../x.v"]}, "File name must be"),
        ({"simulation": []}, "simulation must be a list of at least 1 entries"),
        ({"files": {}}, "must have a digest"),
    ],
)
def test_bad_manifests(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = emit_unit(UNITS["elementwise"], {}, tmp_path / "unit")
    values = json.loads((folder / "manifest.json").read_text()) | change
    (folder / "manifest.json").write_text(json.dumps(values))
    save_vectors(VECTORS, tmp_path / "in.npz")
    with pytest.raises(FormatError, match=message):
        simulate_folder(folder, tmp_path / "in.npz")


@pytest.mark.verilator
def test_the_files_on_disk_are_simulated(tmp_path: Path) -> None:
    """An edit changes what comes out; output is what the unit returned, and the edit is named."""
    folder = emit_unit(UNITS["elementwise"], {}, tmp_path / "unit")
    save_vectors(VECTORS, tmp_path / "in.npz")
    result = simulate_folder(folder, tmp_path / "in.npz", tmp_path / "out.npz")
    assert result.matches_reference and result.changed_files == ()
    expected = VECTORS["table"][VECTORS["codes"].astype(int) + 128]
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["y"]
        assert archive["y"].dtype == np.int8 and np.array_equal(archive["y"], expected)

    path = folder / "hwgen_elementwise.v"
    text = path.read_text()
    edited = text.replace("entry_2 * 4'h8", "(entry_2 ^ 2'h1) * 4'h8")
    assert edited != text
    path.write_text(edited)
    result = simulate_folder(folder, tmp_path / "in.npz", tmp_path / "out.npz")
    assert not result.matches_reference
    assert result.changed_files == ("hwgen_elementwise.v",)
    swapped = VECTORS["table"][(VECTORS["codes"].astype(int) + 128) ^ 1]
    assert np.array_equal(result.outputs["y"], swapped)
    with np.load(tmp_path / "out.npz") as archive:
        assert np.array_equal(archive["y"], swapped)
    first = result.first_difference
    assert first is not None
    assert (first["index"], first["expected"], first["got"]) == (
        [0, 0],
        int(expected[0, 0]),
        int(swapped[0, 0]),
    )

    path.write_text(text.replace("module hwgen_elementwise(", "module something_else("))
    with pytest.raises(SimulationError, match="must define the module 'hwgen_elementwise'"):
        simulate_folder(folder, tmp_path / "in.npz")
    path.unlink()
    with pytest.raises(FormatError, match=r"must hold hwgen_elementwise\.v"):
        simulate_folder(folder, tmp_path / "in.npz")


@pytest.mark.slow
def test_array_costs_fall_with_the_width(tmp_path: Path) -> None:
    """16 x 16 cells without DSP blocks: LUT and FF per cell, and packed bytes."""
    reports = []
    for bits in range(1, 9):
        folder = emit_unit(UNITS["systolic-array"], {"weight_bits": bits}, tmp_path / str(bits))
        reports.append(synthesise_folder(folder))
        print(bits, reports[-1])
    for key in ("lut_per_mac", "ff_per_mac", "column_lut_per_mac", "packed_weight_bytes"):
        column = [report[key] for report in reports]
        assert column == sorted(set(column)), key
    assert all(report["dsp"] == 0 for report in reports)
    # Budgets a little above what was measured: 6.2, 13.8, 27.3, 28.4, 41.9, 43.0, 56.6, 57.8.
    budget = (7, 15, 29, 30, 44, 45, 59, 60)
    assert all(r["column_lut_per_mac"] <= b for r, b in zip(reports, budget, strict=True))


@pytest.mark.slow
def test_multiplier_cells_are_dsp_blocks(tmp_path: Path) -> None:
    parameters = {"rows": 4, "columns": 4, "cells": "multiplier"}
    folder = emit_unit(UNITS["systolic-array"], parameters, tmp_path / "unit")
    assert synthesise_folder(folder)["dsp"] == 16


def test_dual_cells_are_in_files_of_their_own(tmp_path: Path) -> None:
    """Simulation takes the twin, synthesis the DSP blocks; nothing else differs."""
    parameters = {"rows": 4, "columns": 4, "cells": "dual", "weight_bits": 8}
    folder = emit_unit(UNITS["systolic-array"], parameters, tmp_path / "unit")
    manifest = UnitManifest.load(folder)
    shared, twin, primitive = manifest.verilog
    assert manifest.simulation == (shared, twin) and manifest.synthesis == (shared, primitive)
    texts = {name: (folder / name).read_text() for name in manifest.verilog}
    assert {name for name, text in texts.items() if "DSP48E2" in text} == {primitive}
    assert external_modules(texts[shared] + texts[primitive]) == {"DSP48E2"}
    assert external_modules(texts[shared] + texts[twin]) == set()


@pytest.mark.slow
def test_groups_cost_what_they_cost_in_an_accelerator(tmp_path: Path) -> None:
    """Half a DSP block for a cell of dual columns; figures of every group."""
    parameters = {"rows": 4, "groups": "dual:4:8,digits:2:4"}
    folder = emit_unit(UNITS["systolic-array"], parameters, tmp_path / "unit")
    facts = synthesise_folder(folder)
    assert facts["dsp"] == 4 * 4 // 2
    assert facts["macs_per_cycle"] == 4 * 6
    assert 0 < facts["dual_w8_column_lut_per_mac"] < facts["digits_w4_column_lut_per_mac"] < 40
