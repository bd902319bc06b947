# SPDX-License-Identifier: Apache-2.0
"""What the two products of attention share: heads, and one multiplier and shift for all columns."""

from __future__ import annotations

import numpy as np

from hwgen.errors import FormatError
from hwgen.numerics.formats import check_int
from hwgen.numerics.matmul import max_reduction
from hwgen.numerics.requantise import check_constants


def split_heads(array: np.ndarray, heads: int) -> np.ndarray:
    """[n, tokens, heads * head_dim] -> [n, heads, tokens, head_dim]."""
    n, tokens, columns = array.shape
    return array.reshape(n, tokens, heads, columns // heads).transpose(0, 2, 1, 3)


def join_heads(array: np.ndarray) -> np.ndarray:
    """[n, heads, tokens, head_dim] -> [n, tokens, heads * head_dim]."""
    n, heads, tokens, head_dim = array.shape
    return array.transpose(0, 2, 1, 3).reshape(n, tokens, heads * head_dim)


def check_heads(heads: int, columns: int) -> None:
    """The heads must share the columns."""
    check_int(heads, 1, None, "heads")
    if columns % heads:
        raise FormatError(f"heads must divide {columns} columns, not {heads}")


def check_scalar_requantise(multiplier: int, shift: int, reduction: int, *, signed: bool) -> None:
    """One multiplier and shift behind sums of so many products."""
    check_constants(bias=0, multiplier=multiplier, shift=shift, columns=1)
    check_int(reduction, 1, max_reduction(signed=signed), "reduction length")
