# SPDX-License-Identifier: Apache-2.0
"""Query, key and value; attention logits, softmax and the sums over the values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.frontend.calibration import symmetric_scale
from hwgen.frontend.quantiser.builder import Builder, Codes, quantise_operation
from hwgen.frontend.quantiser.weights import fixed_point
from hwgen.graph.ops import AttentionLogits, AttentionValues, QueryKeyValue, Softmax
from hwgen.numerics.fractional_softmax import SHIFT_ROOM

#: Fraction of attention logits that may lie beyond the int8 range.
LOGIT_EXCESS = 1e-4
#: Fraction of the integer network's attention logits that saturate, above which there is a warning.
LOGIT_WARNING = 1e-3


@quantise_operation.register
def query_key_value(op: QueryKeyValue, builder: Builder) -> None:
    """A symmetric scale each for q, k and v."""
    seen = [builder.see(name) for name in op.outputs]
    scales = [symmetric_scale(s.rows, s.peak) for s in seen]
    made = builder.with_weights(op, np.repeat(scales, op.heads * op.head_dim))
    builder.add(made, *(Codes(scale=scale) for scale in scales))


@quantise_operation.register
def attention_logits(op: AttentionLogits, builder: Builder) -> None:
    """As many fraction bits as the largest logits leave."""
    excess = builder.statistics.logit_excess[op.output]
    holding = [f for f, part in enumerate(excess) if part <= LOGIT_EXCESS]
    fraction_bits = max(holding, default=0)
    query, key = (builder.codes(name).scale for name in op.inputs)
    ratio = query * key * builder.model.spec.head_dim**-0.5 * 2.0**fraction_bits
    multiplier, shift = fixed_point(ratio, op.name)
    made = replace(op, multiplier=multiplier, shift=shift, fraction_bits=fraction_bits)
    clipped, count = made.clipped(builder.values)
    builder.add(made, Codes(scale=2.0**-fraction_bits))
    builder.logit_saturation[op.output] = clipped / count
    if clipped / count > LOGIT_WARNING or excess[fraction_bits] > LOGIT_EXCESS:
        builder.warnings.append(
            f"{op.name}: {100 * clipped / count:.3g} % of the attention logits saturate"
            f" ({clipped:,} of {count:,}): they exceed"
            f" {127 * 2.0**-fraction_bits:.4g}, which int8 holds with {fraction_bits} fraction"
            " bits"
        )


@quantise_operation.register
def softmax(op: Softmax, builder: Builder) -> None:
    """The function says its outputs' scales; fraction bits are the logits'."""
    logits = next(made for made in builder.ops if made.output == op.input)
    assert isinstance(logits, AttentionLogits)
    shifts = () if op.shifts is None else (Codes(scale=1.0),)
    builder.add(replace(op, fraction_bits=logits.fraction_bits), Codes(scale=2.0**-8), *shifts)


@quantise_operation.register
def attention_values(op: AttentionValues, builder: Builder) -> None:
    """A symmetric scale for all heads."""
    seen = builder.see(op.output)
    codes = Codes(scale=symmetric_scale(seen.rows, seen.peak))
    multiplier, shift = fixed_point(
        builder.codes(op.value).scale * builder.codes(op.codes).scale / codes.scale,
        op.name,
        room=SHIFT_ROOM if op.shifts else 0,
    )
    builder.add(replace(op, multiplier=multiplier, shift=shift), codes)
