# SPDX-License-Identifier: Apache-2.0
"""Mean pooling."""

from __future__ import annotations

from dataclasses import replace

from hwgen.frontend.calibration import symmetric_scale
from hwgen.frontend.quantiser.builder import Builder, Codes, quantise_operation
from hwgen.frontend.quantiser.weights import fixed_point
from hwgen.graph.ops import MeanPool


@quantise_operation.register
def mean_pool(op: MeanPool, builder: Builder) -> None:
    """1/N is part of the ratio of scales; no zero points."""
    seen = builder.see(op.output)
    scale = symmetric_scale(seen.rows, seen.peak)
    tokens = builder.tensors[op.input].shape[0] - op.first
    ratio = builder.codes(op.input).scale / (tokens * scale)
    multiplier, shift = fixed_point(ratio, op.name)
    builder.add(replace(op, multiplier=multiplier, shift=shift), Codes(scale=scale))
