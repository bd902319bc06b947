# SPDX-License-Identifier: Apache-2.0
"""Query, key and value; attention logits, softmax and the sums over the values."""

from __future__ import annotations

import numpy as np

from hwgen.frontend.calibration import symmetric_scale
from hwgen.frontend.quantiser.builder import Builder, Codes
from hwgen.frontend.quantiser.weights import fixed_point
from hwgen.graph.ops import AttentionLogits, AttentionValues, QueryKeyValue, Softmax
from hwgen.numerics.fractional_softmax import SHIFT_ROOM

#: Fraction of attention logits that may lie beyond the int8 range.
LOGIT_EXCESS = 1e-4
#: Fraction of the integer network's attention logits that saturate, above which there is a warning.
LOGIT_WARNING = 1e-3


def attention(builder: Builder, name: str, source: Codes) -> Codes:
    """From a block's first LayerNorm to the heads' outputs; their codes."""
    spec = builder.model.spec
    tokens, inner = spec.tokens, spec.attention_width
    scales = _query_key_value(builder, name, source)
    fraction_bits = _attention_logits(builder, name, scales)
    softmax = Softmax(
        name=f"{name}.softmax",
        output=f"{name}.softmax",
        input=f"{name}.logits",
        fraction_bits=fraction_bits,
        function=builder.softmax,
    )
    builder.append(softmax)
    builder.tensor(f"{name}.softmax", (spec.heads, tokens, tokens), "uint8", Codes(scale=2.0**-8))
    if softmax.shifts is not None:
        builder.tensor(softmax.shifts, (spec.heads, tokens), "uint8", Codes(scale=1.0))
    seen = builder.see(f"{name}.attention")
    attention = Codes(scale=symmetric_scale(seen.rows, seen.peak))
    multiplier, shift = fixed_point(
        scales[2] * 2.0**-8 / attention.scale,
        f"{name}.attention",
        room=SHIFT_ROOM if softmax.shifts else 0,
    )
    builder.append(
        AttentionValues(
            name=f"{name}.attention",
            output=f"{name}.attention",
            codes=f"{name}.softmax",
            value=f"{name}.v",
            heads=spec.heads,
            multiplier=multiplier,
            shift=shift,
            shifts=softmax.shifts,
        )
    )
    builder.tensor(f"{name}.attention", (tokens, inner), "int8", attention)
    return attention


def _query_key_value(builder: Builder, name: str, source: Codes) -> tuple[float, float, float]:
    spec = builder.model.spec
    inner = spec.attention_width
    seen = [builder.see(f"{name}.{letter}") for letter in "qkv"]
    scales = [symmetric_scale(s.rows, s.peak) for s in seen]
    layer = f"{name}.attn.qkv"
    codes, requantise = builder.columns(
        f"{name}.qkv",
        builder.weights(layer),
        builder.bias(layer, 3 * inner),
        source,
        np.repeat(scales, inner),
        boundary=f"{name}.norm1",
        low=-127,
    )
    builder.append(
        QueryKeyValue(
            name=f"{name}.qkv",
            output=name,
            input=f"{name}.norm1",
            weights=codes,
            **builder.width_fields(f"{name}.qkv", codes.shape[1]),
            requantise=requantise,
            heads=spec.heads,
            head_dim=spec.head_dim,
        )
    )
    for letter, scale in zip("qkv", scales, strict=True):
        builder.tensor(f"{name}.{letter}", (spec.tokens, inner), "int8", Codes(scale=scale))
    return scales[0], scales[1], scales[2]


def _attention_logits(builder: Builder, name: str, scales: tuple[float, float, float]) -> int:
    spec = builder.model.spec
    excess = builder.statistics.logit_excess[f"{name}.logits"]
    holding = [f for f, part in enumerate(excess) if part <= LOGIT_EXCESS]
    fraction_bits = max(holding, default=0)
    ratio = scales[0] * scales[1] * spec.head_dim**-0.5 * 2.0**fraction_bits
    multiplier, shift = fixed_point(ratio, f"{name}.logits")
    op = AttentionLogits(
        name=f"{name}.logits",
        output=f"{name}.logits",
        query=f"{name}.q",
        key=f"{name}.k",
        heads=spec.heads,
        multiplier=multiplier,
        shift=shift,
        fraction_bits=fraction_bits,
    )
    clipped, count = op.clipped(builder.values)
    builder.append(op)
    builder.tensor(
        f"{name}.logits",
        (spec.heads, spec.tokens, spec.tokens),
        "int8",
        Codes(scale=2.0**-fraction_bits),
    )
    builder.logit_saturation[f"{name}.logits"] = clipped / count
    if clipped / count > LOGIT_WARNING or excess[fraction_bits] > LOGIT_EXCESS:
        builder.warnings.append(
            f"{name}.logits: {100 * clipped / count:.3g} % of the attention logits saturate"
            f" ({clipped:,} of {count:,}): they exceed"
            f" {127 * 2.0**-fraction_bits:.4g}, which int8 holds with {fraction_bits} fraction"
            " bits"
        )
    return fraction_bits
