# SPDX-License-Identifier: Apache-2.0
"""The integer contract: formats, the one rounding rule, and a bit-exact reference of every unit.

NumPy integers only. Floating point occurs in one place, :mod:`hwgen.numerics.matmul`, where a
float64 matrix product is proven exact. A value outside its declared range raises
:class:`~hwgen.errors.FormatError`; nothing wraps. One module per unit, imported by its own name.
"""

from __future__ import annotations
