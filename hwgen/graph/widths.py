# SPDX-License-Identifier: Apache-2.0
"""Width of a layer's weights: one, or one for every output channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Widths that there are.
NARROWEST, WIDEST = 1, 8

#: Widths of a layer's output channels, over and over: (bits, channels), at least two.
Period = tuple[tuple[int, int], ...]
Width = int | Period


def widest(width: Width) -> int:
    """Bits of a layer's widest weights."""
    return width if isinstance(width, int) else max(bits for bits, _ in width)


def narrowest(width: Width) -> int:
    """Bits of a layer's narrowest weights."""
    return width if isinstance(width, int) else min(bits for bits, _ in width)


def channel_bits(own: Period, channels: int, *, parts: int = 1) -> npt.NDArray[np.uint8]:
    """Widths of a layer's output channels, uint8 [channels]; every one of ``parts`` begins anew."""
    period = np.concatenate([np.full(count, bits, np.uint8) for bits, count in own])
    return np.tile(np.resize(period, channels // parts), parts)
