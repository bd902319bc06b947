# SPDX-License-Identifier: Apache-2.0
"""LayerNorm: output codes, gamma and beta, power-of-two factors of its input (PTF)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hwgen.errors import CheckpointError
from hwgen.frontend.calibration import affine_scale, symmetric_scale
from hwgen.frontend.quantiser.builder import Builder, Codes, quantise_operation
from hwgen.graph.ops import LayerNorm, MeanPool
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.requantise import ptf_codes

#: |mean| / sigma of a LayerNorm input beyond which compressed squares lose accuracy.
MEAN_TO_SIGMA_LIMIT = 2.0
_BETA_FRACTION_BITS = 8


@quantise_operation.register
def layer_norm(op: LayerNorm, builder: Builder) -> None:
    """Output codes by calibration, gamma and beta in them, PTF by search."""
    spec, name = builder.model.spec, op.name
    gamma, beta = builder.parameter(op, "weight"), builder.parameter(op, "bias")
    assert gamma is not None and beta is not None
    seen = builder.see(op.output)
    least = float(np.abs(gamma).max()) / 127
    if any(isinstance(user, MeanPool) for user in builder.users(op.output)):
        # Symmetric, so that the pooled row is too: mean pooling has no zero point of its own.
        scale = max(symmetric_scale(seen.rows, seen.peak), least)
        codes = Codes(scale=scale)
    else:
        scale, zero_point = affine_scale(seen.rows, seen.minimum, seen.maximum, least=least)
        codes = Codes(scale=scale, zero_point=zero_point)
    # Snapping may have moved the scale below the bound by one part in 4096.
    if np.rint(np.abs(gamma).max() / codes.scale) > 127:
        codes = Codes(scale=codes.scale * (1 + 2.0**-8), zero_point=codes.zero_point)
    gamma_shift, gamma_q = _gamma(gamma / codes.scale)
    beta_q = np.rint(beta / codes.scale * 2**_BETA_FRACTION_BITS)
    if not (np.abs(beta_q) < 2**23).all():
        column = int(np.argmax(np.abs(beta_q)))
        raise CheckpointError(
            f"Bias of LayerNorm {name!r} must fit 24 bits at scale"
            f" {codes.scale * 2.0**-_BETA_FRACTION_BITS:.3g}; that of channel {column}"
            f" ({beta[column]:.3g}) does not"
        )
    residual = _residual_rows(builder, op)
    ptf_shift, zero_point, alpha = _search_ptf(
        residual,
        gamma,
        beta,
        builder.residual_scale,
        {
            "gamma": gamma_q,
            "beta": beta_q.astype(np.int32),
            "gamma_shift": gamma_shift,
            "beta_fraction_bits": _BETA_FRACTION_BITS,
            "output_zero_point": codes.zero_point,
            "squares": builder.squares,
        },
        codes,
        spec.layer_norm_epsilon,
    )
    made = replace(
        op,
        alpha=alpha,
        gamma=gamma_q,
        beta=beta_q.astype(np.int32),
        ptf_shift=ptf_shift,
        zero_point=zero_point,
        gamma_shift=gamma_shift,
        beta_fraction_bits=_BETA_FRACTION_BITS,
        output_zero_point=codes.zero_point,
        squares=builder.squares,
    )
    builder.add(made, codes)


def _residual_rows(builder: Builder, op: LayerNorm) -> np.ndarray:
    """Sample of a LayerNorm's input as residual codes, int16 [n, C]; warns of large means."""
    key = op.input if op.rows is None else f"{op.name}.input"
    sample = builder.see(key).rows.astype(np.float64)
    sigma = sample.std(axis=1)
    ratio = np.abs(sample.mean(axis=1)) / np.maximum(sigma, 1e-30)
    worst = float(ratio.max())
    if worst > MEAN_TO_SIGMA_LIMIT:
        builder.warnings.append(
            f"{op.name}: |mean|/sigma of the input reaches {worst:.3g}, beyond"
            f" {MEAN_TO_SIGMA_LIMIT:g} compressed squares lose accuracy; try squares='exact'"
        )
    codes = np.rint(sample / builder.residual_scale)
    return np.clip(codes, -32768, 32767).astype(np.int16)


def _gamma(gamma: np.ndarray) -> tuple[int, np.ndarray]:
    """Return kg, as large as the 8 bits allow, and gamma_q = rne(gamma 2^kg)."""
    for shift in range(15, -1, -1):
        codes = np.rint(gamma * 2.0**shift)
        if np.abs(codes).max() <= 127:
            return shift, codes.astype(np.int8)
    raise AssertionError("the output scale keeps gamma within 8 bits")


#: Zero points that the PTF search tries.
_PTF_ZERO_POINTS = tuple(range(64, 193, 16))


def _search_ptf(
    residual: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    residual_scale: float,
    constants: dict[str, Any],
    codes: Codes,
    epsilon: float,
) -> tuple[int, int, np.ndarray]:
    """Return PTF shift t, zero point and alpha [C] of a LayerNorm.

    Per t and zero point every channel takes the alpha of its least squared error (FQ-ViT's rule),
    errors weighed as the normalised output sees them (gamma^2 / sigma^2). Among the best of every
    t the unit's own output decides, so the compressed squares and the statistics count too.
    """
    r = residual.astype(np.int32)
    x = r * residual_scale
    sigma = np.sqrt(x.var(axis=1, keepdims=True) + epsilon)
    wanted = (x - x.mean(axis=1, keepdims=True)) / sigma * gamma + beta
    row_weight = (1 / sigma**2).astype(np.float32)
    shifts = range(15)
    error = np.empty((len(shifts), len(_PTF_ZERO_POINTS), r.shape[1]))
    for u in shifts:
        rounded = (r + ((1 << u) >> 1)) >> u
        for j, zero in enumerate(_PTF_ZERO_POINTS):
            difference = (np.clip(rounded, -zero, 255 - zero) << u) - r
            squares = difference.astype(np.float32) ** 2 * row_weight
            error[u, j] = squares.sum(axis=0, dtype=np.float64)
    error *= gamma**2 + 1e-12 * float(np.max(gamma**2) or 1.0)
    best: tuple[float, int, int, np.ndarray] | None = None
    for t in range(12):
        window = error[t : t + 4]  # alpha, zero point, channel
        j = int(window.min(axis=0).sum(axis=1).argmin())
        alpha = window[:, j].argmin(axis=0).astype(np.uint8)
        zero = _PTF_ZERO_POINTS[j]
        x_codes = ptf_codes(residual, shift=t, alpha=alpha, zero_point=zero)
        y = ailayernorm(
            x_codes,
            alpha=alpha,
            zero_point=zero,
            max_channels=residual.shape[1],
            **constants,
        )
        got = (y.astype(np.float64) - codes.zero_point) * codes.scale
        loss = float(np.mean((got - wanted) ** 2))
        if best is None or loss < best[0]:
            best = (loss, t, zero, alpha)
    assert best is not None
    return best[1], best[2], best[3]
