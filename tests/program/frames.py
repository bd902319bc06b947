# SPDX-License-Identifier: Apache-2.0
"""An accelerator to run a program's frames on."""

from __future__ import annotations

from hwgen.config import AcceleratorConfig
from hwgen.emit.verilog import convert
from hwgen.program.program import Program
from hwgen.rtl.accelerator import Accelerator
from hwgen.sim.boundaries import parse
from hwgen.sim.frame import FrameSetup
from hwgen.sim.verilator import Source


def frame_setup(program: Program, config: AcceleratorConfig) -> FrameSetup:
    """The accelerator of a configuration, emitted now, with a program to run on it."""
    top = Accelerator(config)
    return FrameSetup(
        verilog=(Source("top.v", convert(top, "dut", top.leaves()).encode()),),
        top="dut",
        config=config,
        image=program.image,
        input_bytes=program.input_bytes,
        output_bytes=program.output_bytes,
        boundaries=parse(program.boundaries_json()),
    )
