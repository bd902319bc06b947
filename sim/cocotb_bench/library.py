# SPDX-License-Identifier: Apache-2.0
"""The complete top between somebody else's AXI models (cocotbext-axi): an independent opinion.

:mod:`hwgen.sim.cocotb_bench.axi` checks more and gives errors on any beat, but it is ours, as the
masters are. The cocotb test is :mod:`hwgen.sim.cocotb_bench.library_frames`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hwgen.config import AcceleratorConfig
from hwgen.emit.verilog import convert
from hwgen.rtl.accelerator import Accelerator
from hwgen.sim.cocotb_bench.harness import TOP
from hwgen.sim.cocotb_bench.program import TestFrame
from hwgen.sim.cocotb_bench.runner import build_cocotb, run_cocotb
from hwgen.sim.verilator import Source


@cache
def _build(config: AcceleratorConfig) -> Path:
    top = Accelerator(config)
    text = convert(top, TOP, top.leaves())
    return build_cocotb(TOP, (Source("top.v", text.encode()),))


def run_library(
    frame: TestFrame,
    pauses: list[float],
    *,
    seed: int = 1,
    timeout: float = 1800,
    executable: Path | None = None,
    top: str = TOP,
) -> list[dict[str, Any]]:
    """Run a frame per entry of ``pauses``: the chance per cycle that a channel is held back.

    ``executable`` is a bench of the module ``top`` that was built otherwise than by Verilator.

    Returns per frame ``cycles``, ``status``, ``cause``, ``output`` (the region's bytes) and
    ``others`` (whether all other memory, guards around the output included, is what it was).

    Raises:
        SimulationError: the simulation did not run to its end.
    """
    report = run_cocotb(
        executable or _build(frame.config),
        top=top,
        module="hwgen.sim.cocotb_bench.library_frames",
        job=(frame, pauses, seed),
        seed=seed,
        timeout=timeout,
    )
    return [result | {"output": bytes.fromhex(result["output"])} for result in report["frames"]]
