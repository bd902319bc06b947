# SPDX-License-Identifier: Apache-2.0
"""The emitted files in a four-state simulator, as Verilog and as SystemVerilog."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hwgen.cli import main
from hwgen.emit.verilog import convert
from hwgen.graph.interpreter import run
from hwgen.isa.registers import STATUS_DONE, STATUS_ERROR
from hwgen.rtl.accelerator import Accelerator
from hwgen.sim.cocotb_bench.harness import TOP
from hwgen.sim.cocotb_bench.library import run_library
from hwgen.sim.cocotb_bench.program import TestFrame, make_frame
from hwgen.sim.cocotb_bench.runner import build_icarus
from hwgen.stages.emit import DesignFolder

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="Icarus Verilog (iverilog) is not installed"
)

FILL = "-DHWGEN_FILL_MEMORIES"


@pytest.mark.parametrize("language", [pytest.param("-g2005", marks=pytest.mark.slow), "-g2012"])
def test_a_frame(language: str, tmp_path: Path) -> None:
    frame = make_frame(1)
    top = Accelerator(frame.config)
    (tmp_path / "top.v").write_text(convert(top, TOP, top.leaves()))
    bench = build_icarus(TOP, [tmp_path / "top.v"], tmp_path, options=[language, FILL])
    (result,) = run_library(frame, [0.0], executable=bench)
    assert result["status"] & (STATUS_DONE | STATUS_ERROR) == STATUS_DONE
    assert result["cause"] == 0
    assert result["output"] == frame.output


@pytest.mark.slow
@pytest.mark.parametrize("language", ["-g2005", "-g2012"])
def test_digits(language: str, tmp_path: Path) -> None:
    """The design folder itself; its padding is never written, so the fill decides."""
    graph, path = tmp_path / "digits.graph", tmp_path / "digits"
    assert main(["quantize", "digits", "-o", str(graph)]) == 0
    assert main(["generate", str(graph), "-o", str(path)]) == 0
    folder = DesignFolder.load(path)
    manifest, program = folder.manifest, folder.manifest.program
    image = np.random.default_rng(1).integers(0, 256, program.input_shape, np.uint8)
    logits = run(folder.graph(), image[None])[0].astype("<i2").tobytes()
    frame = TestFrame(
        config=manifest.config,
        image=(path / program.image).read_bytes(),
        input_bytes=image.tobytes().ljust(program.input_bytes, b"\0"),
        output=logits.ljust(program.output_bytes, b"\xa5"),
        instructions=program.instructions,
        image_load=1,
        weights=(),
        loads={},
        last_store=(0, program.output_bytes),
    )
    files = [path / name for name in manifest.simulation]
    bench = build_icarus(manifest.top, files, tmp_path, options=[language, FILL])
    (result,) = run_library(frame, [0.0], executable=bench, top=manifest.top)
    assert result["status"] & (STATUS_DONE | STATUS_ERROR) == STATUS_DONE
    assert result["output"][: len(logits)] == logits
    assert result["others"]
