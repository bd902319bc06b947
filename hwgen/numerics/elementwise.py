# SPDX-License-Identifier: Apache-2.0
"""Element-wise functions of int8 codes (GELU and any other): one table of 256 entries, exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.errors import FormatError
from hwgen.numerics.formats import INT8

TABLE_ENTRIES = 256


def apply_table(codes: npt.ArrayLike, table: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """``y = table[code + 128]``.

    Args:
        codes: int8 range, any shape.
        table: int8 [256]; entry 0 belongs to code -128.

    Returns:
        int8 of the shape of ``codes``.
    """
    values = INT8.check(codes, "codes")
    out: npt.NDArray[np.int8] = np.take(byte_entries(table), values.view(np.uint8))
    return out


def byte_entries(table: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """The table, turned by half: its index is the byte of a code, read as unsigned."""
    entries = INT8.check(table, "table")
    if entries.shape != (TABLE_ENTRIES,):
        raise FormatError(f"table must have shape ({TABLE_ENTRIES},), not {entries.shape}")
    turned: npt.NDArray[np.int8] = np.roll(entries, TABLE_ENTRIES // 2)
    return turned
