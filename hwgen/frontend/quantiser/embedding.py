# SPDX-License-Identifier: Apache-2.0
"""Pixels to codes, patch embedding, class token and positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.frontend.quantiser.builder import Builder, Codes, quantise_operation
from hwgen.graph.ops import Embedding, ImageCodes


@quantise_operation.register
def image_codes(op: ImageCodes, builder: Builder) -> None:
    """Exact: a step of the pixels is a code."""
    builder.add(op, Codes(scale=1.0))


@quantise_operation.register
def embedding(op: Embedding, builder: Builder) -> None:
    """The residual stream begins; mean and std of the pixels become part of weights and bias."""
    spec = builder.model.spec
    # d = pixel - 128; x = (pixel / 255 - mean) / std
    #                    = d / (255 std) + (128 / 255 - mean) / std
    kernel = builder.parameter(op, "weight")
    assert kernel is not None
    kernel = kernel.transpose(2, 3, 1, 0)  # [dy, dx, channel, width]
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    bias = builder.bias(op)
    bias = bias + np.einsum("yxcw,c->w", kernel, (128 / 255 - mean) / std)
    weights = (kernel / (255 * std)[:, None]).reshape(op.weights.shape)
    made = builder.with_weights(op, builder.residual_scale, weights=weights, bias=bias)
    position = np.rint(builder.position() / builder.residual_scale).astype(np.int16)
    builder.add(replace(made, position=position), builder.stream_codes())
