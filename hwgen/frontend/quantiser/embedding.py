# SPDX-License-Identifier: Apache-2.0
"""Pixels to codes, patch embedding, class token and positions."""

from __future__ import annotations

import numpy as np

from hwgen.frontend.quantiser.builder import Builder, Codes
from hwgen.graph.ops import Embedding, ImageCodes


def embedding(builder: Builder) -> None:
    """Image codes and embedding; the residual stream begins."""
    spec = builder.model.spec
    builder.append(ImageCodes(name="image_codes", output="image_codes", patch=spec.patch))
    pixels = Codes(scale=1.0)
    builder.tensor("image_codes", (spec.patches, spec.patch_values), "int8", pixels)
    # d = pixel - 128; x = (pixel / 255 - mean) / std
    #                    = d / (255 std) + (128 / 255 - mean) / std
    kernel = builder.model.tensors["patch_embed.proj.weight"].astype(np.float64)
    kernel = kernel.transpose(2, 3, 1, 0)  # [dy, dx, channel, width]
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    bias = builder.bias("patch_embed.proj", spec.width)
    bias = bias + np.einsum("yxcw,c->w", kernel, (128 / 255 - mean) / std)
    weights = (kernel / (255 * std)[:, None]).reshape(spec.patch_values, spec.width)
    codes, requantise = builder.columns(
        "embedding", weights, bias, pixels, builder.residual_scale, boundary=None
    )
    position = np.rint(builder.position() / builder.residual_scale).astype(np.int16)
    builder.append(
        Embedding(
            name="embedding",
            output="embedding",
            input="image_codes",
            weights=codes,
            **builder.width_fields("embedding", codes.shape[1]),
            requantise=requantise,
            position=position,
            class_token=spec.class_token,
        )
    )
    builder.stream("embedding")
