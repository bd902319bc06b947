# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.numerics.image import image_codes, patchify


def test_every_pixel_value() -> None:
    out = image_codes(np.arange(256).reshape(1, 16, 16, 1))
    assert out.dtype == np.int8
    assert out.ravel().tolist() == list(range(-128, 128))


def test_patch_order_is_dy_dx_channel_and_tokens_are_row_major() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (2, 6, 9, 3)).astype(np.int8)
    out = patchify(codes, 3)
    assert out.shape == (2, 6, 27)
    for n in range(2):
        for token in range(6):
            y, x = divmod(token, 3)
            expected = [
                int(codes[n, 3 * y + dy, 3 * x + dx, c])
                for dy in range(3)
                for dx in range(3)
                for c in range(3)
            ]
            assert out[n, token].tolist() == expected


def test_refuses() -> None:
    with pytest.raises(FormatError, match=r"^pixels must have shape \[n, H, W, channels\]"):
        image_codes(np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(FormatError, match=r"^pixels\[0, 0, 0, 0\] must be in 0\.\.255, not -1"):
        image_codes(np.full((1, 1, 1, 1), -1))
    codes = np.zeros((1, 6, 7, 3), dtype=np.int8)
    expected = "^Image width must be a multiple of the patch size 3, not 7; nearest legal value: 6"
    with pytest.raises(FormatError, match=expected):
        patchify(codes, 3)
    with pytest.raises(FormatError, match=r"^patch must be at least 1, not 0"):
        patchify(codes, 0)
