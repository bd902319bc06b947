# SPDX-License-Identifier: Apache-2.0
"""Row sum over tokens: mean pooling without its 1/N, which the following multiplier takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import INT8, INT32


def row_sum(codes: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Sum over the token axis (the last but one).

    Args:
        codes: int8 range [..., tokens, C], at most 2^24 - 1 tokens, so that int32 cannot overflow.

    Returns:
        int32 [..., C].
    """
    values = INT8.check(codes, "codes")
    if values.ndim < 2:
        raise FormatError(f"codes must have at least 2 axes, not shape {values.shape}")
    longest = INT32.maximum // -INT8.minimum
    if values.shape[-2] > longest:
        raise FormatError(
            f"Tokens must be at most {longest}, not {values.shape[-2]}",
            why="the sum could overflow int32",
            nearest=longest,
        )
    out: npt.NDArray[np.int32] = values.sum(axis=-2, dtype=np.int32)
    return out
