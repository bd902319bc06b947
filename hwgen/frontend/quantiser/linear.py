# SPDX-License-Identifier: Apache-2.0
"""Linear layers: into the residual stream, the hidden layer, the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.frontend.calibration import Boundary, snap
from hwgen.frontend.float_model import activation, exact_activation
from hwgen.frontend.quantiser.builder import Builder, Codes, quantise_operation
from hwgen.graph.ops import Linear

#: The head's logits may grow by this factor beyond what calibration saw before they saturate.
HEAD_HEADROOM = 2.0


@quantise_operation.register
def linear(op: Linear, builder: Builder) -> None:
    """By what its output is."""
    if op.residual is not None:
        made = builder.with_weights(op, builder.residual_scale)
        builder.add(made, builder.stream_codes())
    elif op.wide:
        peak = builder.see(op.output).peak
        scale = snap(HEAD_HEADROOM * peak / 32767) if peak > 0 else 1.0
        builder.add(builder.with_weights(op, scale), Codes(scale=scale))
    else:
        _hidden(op, builder)


def _hidden(op: Linear, builder: Builder) -> None:
    """A layer with the activation function's table."""
    before, after = builder.see(op.name), builder.see(op.output)
    target, out, table = _activation_table(builder.model.spec.activation, before, after)
    made = builder.with_weights(op, target.scale, output_zero_point=target.zero_point)
    builder.add(replace(made, table=table), out)


def _activation_table(
    kind: str, before: Boundary, after: Boundary
) -> tuple[Codes, Codes, np.ndarray]:
    """Return the codes before and after the activation function, and the table between them.

    The input's clip is chosen by the error after the function: what lies far below 0 needs no
    codes.
    """
    x = before.rows.reshape(-1).astype(np.float64)
    x = x[:: max(1, x.size >> 15)]
    y = activation(kind, x)
    low, high = min(before.minimum, -1e-6), max(before.maximum, 1e-6)
    tops = [high * 2 ** (-k / 4) for k in range(11)]
    bottoms = [b for b in (-0.25, -0.5, -0.75, -1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0) if b > low]

    def codes_of(interval: tuple[float, float]) -> Codes:
        scale = snap((interval[1] - interval[0]) / 255)
        zero = int(np.clip(round(-128 - interval[0] / scale), -128, 127))
        return Codes(scale=scale, zero_point=zero)

    def error(interval: tuple[float, float]) -> float:
        c = codes_of(interval)
        q = np.clip(np.rint(x / c.scale) + c.zero_point, -128, 127) - c.zero_point
        return float(np.mean((activation(kind, q * c.scale) - y) ** 2))

    best = min(((bottom, top) for bottom in [low, *bottoms[::3]] for top in tops), key=error)
    best = min(((bottom, best[1]) for bottom in [low, *bottoms]), key=error)
    target = codes_of(best)
    # Code -127 for the function's minimum: nothing that is not clipped lies on the range's edge.
    out_low = min(after.minimum, 0.0)
    top = min(after.maximum, float(activation(kind, np.array(best[1]))))
    sample = after.rows.reshape(-1)

    def out_codes(high_end: float) -> Codes:
        scale = snap((high_end - out_low) / 254)
        return Codes(scale=scale, zero_point=int(np.clip(round(-127 - out_low / scale), -128, 127)))

    def out_error(high_end: float) -> float:
        c = out_codes(high_end)
        q = np.clip(np.rint(sample / c.scale) + c.zero_point, -128, 127) - c.zero_point
        return float(np.mean((q * c.scale - sample) ** 2, dtype=np.float64))

    top = max(top, out_low + 1e-6)
    out = out_codes(min((top * 2 ** (-k / 8) for k in range(17)), key=out_error))
    reals = exact_activation(kind, target.scale * (np.arange(-128, 128) - target.zero_point))
    table = np.clip(np.rint(reals / out.scale) + out.zero_point, -128, 127)
    return target, out, table.astype(np.int8)
