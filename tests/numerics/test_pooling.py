# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.numerics.pooling import row_sum


def test_sum_over_tokens() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (3, 196, 5)).astype(np.int8)
    out = row_sum(codes)
    assert out.dtype == np.int32
    assert out.tolist() == [[sum(int(t[c]) for t in image) for c in range(5)] for image in codes]


def test_longest_sum_fits_and_one_more_token_is_refused() -> None:
    longest = 2**24 - 1
    codes = np.broadcast_to(np.int8(-128), (longest, 1))
    assert row_sum(codes).tolist() == [-128 * longest]
    with pytest.raises(FormatError, match=rf"^Tokens must be at most {longest}, not {longest + 1}"):
        row_sum(np.broadcast_to(np.int8(0), (longest + 1, 1)))


def test_refuses() -> None:
    with pytest.raises(FormatError, match=r"^codes must have at least 2 axes"):
        row_sum(np.zeros(3, dtype=np.int8))
    with pytest.raises(FormatError, match=r"^codes\[0, 0\] must be in"):
        row_sum([[200]])
