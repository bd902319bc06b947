# SPDX-License-Identifier: Apache-2.0
"""Columns of the array: a module per kind, and :func:`columns_of`, which finds it by its name.

A new kind is a subclass of :class:`~hwgen.rtl.columns.base.Columns`, a line in ``_KINDS`` and, for
complete accelerators, one in :mod:`hwgen.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwgen.rtl.columns.base import Columns
from hwgen.rtl.columns.digits import DigitColumns, SignColumns
from hwgen.rtl.columns.dual import DualColumns
from hwgen.rtl.columns.multiplier import MultiplierColumns
from hwgen.rtl.columns.pumped import PumpedColumns
from hwgen.rtl.columns.tables import TableColumns


def _digits(rows: int, weight_bits: int, carry: bool) -> Columns:
    return SignColumns(rows) if weight_bits == 1 else DigitColumns(rows, weight_bits, carry)


_KINDS: Mapping[str, Callable[[int, int, bool], Columns]] = {
    "dual": lambda rows, weight_bits, carry: DualColumns(rows, weight_bits),
    "pumped": lambda rows, weight_bits, carry: PumpedColumns(rows, weight_bits),
    "digits": _digits,
    "tables": lambda rows, weight_bits, carry: TableColumns(rows, weight_bits),
    "multiplier": lambda rows, weight_bits, carry: MultiplierColumns(rows, weight_bits),
}


def columns_of(
    kind: str, *, rows: int, weight_bits: int, carry: bool = False, unsigned: bool = True
) -> Columns:
    """Columns of a kind.

    Args:
        kind: a name.
        rows: of the array.
        weight_bits: of a weight.
        carry: cells have a bit for the carry of a weight slice.
        unsigned: activations may be uint8.
    """
    columns = _KINDS[kind](rows, weight_bits, carry)
    return columns if unsigned else columns.int8_only()


__all__ = ["Columns", "columns_of"]
