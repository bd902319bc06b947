# SPDX-License-Identifier: Apache-2.0
"""From the embedded model to a folder of Verilog for a board, in Python.

python examples/generate_a_design.py                  # seconds
python examples/generate_a_design.py --simulate       # a frame, every boundary compared: a minute
python examples/generate_a_design.py --synth          # LUT, FF, DSP, block RAM: minutes
"""

from __future__ import annotations

import sys
from pathlib import Path

from hwgen import api

spec = api.MODELS["digits"]
model = api.FloatModel.from_state_dict(spec, api.load_checkpoint(api.DIGITS_CHECKPOINT))
graph = api.quantise(model, api.digits_dataset()[0][:64], weight_bits=8)
reporter = api.Reporter()

# Everything that is not stated follows from board and model; an illegal value is refused with the
# nearest legal one.
settings = api.Settings(
    board=api.get_board("zcu102"),
    options=api.DesignOptions(values={"rows": 16, "columns": 24, "memory_ports": 2}),
    out=Path("rtl_out", "example"),
    images=1,
)
folder = api.generate(graph, settings, reporter)
manifest = folder.manifest
print(f"{folder.path}: {', '.join(manifest.simulation)}")
print(f"array {manifest.config.rows} x {manifest.config.columns}, {manifest.program.macs:,} MACs")
print(f"predicted {manifest.program.predicted_cycles:,} cycles a frame")

if "--simulate" in sys.argv:
    evidence = api.simulate(folder, settings, reporter)
    assert evidence.simulation is not None
    print(f"simulated {evidence.simulation.fps:,.0f} frames a second, every boundary equal")
if "--synth" in sys.argv:
    counted = api.synthesise(folder, reporter)
    print(f"{counted.lut:,} LUT, {counted.ff:,} FF, {counted.dsp} DSP, {counted.bram36} BRAM36")
