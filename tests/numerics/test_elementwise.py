# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.numerics.elementwise import apply_table


def test_every_code_reads_its_own_entry() -> None:
    table = np.random.default_rng(0).permutation(256) - 128
    codes = np.arange(-128, 128).reshape(4, 64).astype(np.int8)
    out = apply_table(codes, table)
    assert out.dtype == np.int8
    assert out.shape == codes.shape
    assert out.ravel().tolist() == table.tolist()


def test_refuses() -> None:
    with pytest.raises(FormatError, match=r"^table must have shape \(256,\), not \(255,\)"):
        apply_table([0], np.zeros(255, dtype=np.int8))
    with pytest.raises(FormatError, match=r"^table\[3\] must be in -128\.\.127, not 128"):
        apply_table([0], np.where(np.arange(256) == 3, 128, 0))
    with pytest.raises(FormatError, match=r"^codes\[0\] must be in -128\.\.127, not -129"):
        apply_table([-129], np.zeros(256, dtype=np.int8))
