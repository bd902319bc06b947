# SPDX-License-Identifier: Apache-2.0
"""Pixels to codes to patches: the input of the patch embedding's matrix multiply."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import INT8, UINT8, check_int


def image_codes(pixels: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """``d = pixel - 128``; mean and standard deviation are folded into the embedding's weights.

    Args:
        pixels: uint8 range [n, H, W, channels].

    Returns:
        int8 [n, H, W, channels].
    """
    values = UINT8.check(pixels, "pixels")
    _check_axes(values.shape, "pixels")
    return (values.astype(np.int16) - 128).astype(np.int8)


def patchify(codes: npt.ArrayLike, patch: int) -> npt.NDArray[np.int8]:
    """Cut images into square patches, one row of the matrix multiply each.

    Args:
        codes: int8 range [n, H, W, channels]; H and W are multiples of ``patch``.
        patch: side of a patch in pixels.

    Returns:
        int8 [n, tokens, patch * patch * channels]: tokens row-major over the image, and within a
        token the order (dy, dx, channel).
    """
    values = INT8.check(codes, "codes")
    _check_axes(values.shape, "codes")
    side = check_int(patch, 1, None, "patch")
    images, height, width, channels = values.shape
    for name, size in (("Image height", height), ("Image width", width)):
        if size == 0 or size % side:
            raise FormatError(
                f"{name} must be a multiple of the patch size {side}, not {size}",
                nearest=max(1, (size + side // 2) // side) * side,
            )
    down, across = height // side, width // side
    blocks = values.reshape(images, down, side, across, side, channels)
    out = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(images, down * across, side * side * channels)
    return np.ascontiguousarray(out, dtype=np.int8)


def _check_axes(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 4:
        raise FormatError(f"{name} must have shape [n, H, W, channels], not {shape}")
