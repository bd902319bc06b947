# SPDX-License-Identifier: Apache-2.0
"""One unit alone: vectors of your own through the simulated hardware, and what it costs.

    python examples/one_unit.py                # a GELU table on eight lanes
    hwgen unit elementwise --help              # the same unit on the command line

``api.UNITS`` has the others: the array, both softmaxes, LayerNorm, requantise.
"""

from __future__ import annotations

import tempfile
from math import erf, sqrt

import numpy as np

from hwgen import api

unit = api.UNITS["elementwise"]
print("parameters:", ", ".join(f"{p.name} ({p.legal})" for p in unit.parameters))

# GELU from codes of scale 1/16 to codes of scale 1/16, entry i for code i - 128.
reals = np.arange(-128, 128) / 16
gelu = np.array([0.5 * x * (1 + erf(x / sqrt(2))) for x in reals])
table = np.clip(np.rint(16 * gelu), -128, 127).astype(np.int8)
codes = np.random.default_rng(1).integers(-128, 128, 1000).astype(np.int8)

result = api.simulate_unit(unit, {"lanes": 8}, {"codes": codes.reshape(-1, 8), "table": table})
assert result.matches_reference, result.first_difference
print(f"{len(codes)} codes in {result.cycles} cycles, equal to the reference")

with tempfile.TemporaryDirectory() as folder:
    api.emit_unit(unit, {"lanes": 8}, folder, force=True)
    counted = api.synthesise_unit(folder)
print(f"{counted['lut']:.0f} LUT, {counted['ff']:.0f} FF, {counted['bram36']:g} BRAM36")
