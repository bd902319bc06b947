# SPDX-License-Identifier: Apache-2.0
"""What follows the last block: LayerNorm, mean pooling where the model has it, head."""

from __future__ import annotations

from hwgen.frontend.calibration import snap, symmetric_scale
from hwgen.frontend.quantiser.builder import Builder, Codes
from hwgen.frontend.quantiser.layer_norm import layer_norm
from hwgen.frontend.quantiser.weights import fixed_point
from hwgen.graph.ops import Linear, MeanPool

#: The head's logits may grow by this factor beyond what calibration saw before they saturate.
HEAD_HEADROOM = 2.0


def classifier(builder: Builder, stream: str) -> None:
    """Norm, pool and head."""
    spec = builder.model.spec
    pooled = spec.pooling == "mean"
    codes = layer_norm(builder, "norm", stream, rows=None if pooled else 1)
    source = "norm"
    if pooled:
        seen = builder.see("pool")
        scale = symmetric_scale(seen.rows, seen.peak)
        multiplier, shift = fixed_point(codes.scale / (spec.patches * scale), "pool")
        builder.append(
            MeanPool(
                name="pool",
                output="pool",
                input="norm",
                first=int(spec.class_token),
                multiplier=multiplier,
                shift=shift,
            )
        )
        codes, source = Codes(scale=scale), "pool"
        builder.tensor("pool", (1, spec.width), "int8", codes)
    seen = builder.see(source)
    peak = builder.see("head").peak
    target = snap(HEAD_HEADROOM * peak / 32767) if peak > 0 else 1.0
    weights, requantise = builder.columns(
        "head",
        builder.weights("head"),
        builder.bias("head", spec.classes),
        codes,
        target,
        boundary=source,
    )
    builder.append(
        Linear(
            name="head",
            output="head",
            input=source,
            weights=weights,
            **builder.width_fields("head", weights.shape[1]),
            requantise=requantise,
            wide=True,
        )
    )
    builder.tensor("head", (1, spec.classes), "int16", Codes(scale=target))
