# SPDX-License-Identifier: Apache-2.0
r"""Weight slices: how a layer of weight width W runs on columns of a smaller width Ws.

A weight is cut into ``ceil(W / Ws)`` pieces of Ws bits, and the array makes one pass per slice, the
top one first; in front of every other slice the accumulator is shifted left by Ws (Horner's rule).

Cells of 2 to 7 bits take a piece as two's complement and add the bit below it, the *carry*::

    digit_s = signed(piece_s) + bit(s * Ws - 1),    -2^(Ws-1) .. 2^(Ws-1)
    weight  = sum over s of digit_s * 2^(s * Ws)

A piece that is negative as a number of its own is 2^Ws too small; the carry of the next piece gives
that back. In radix-4 digits (Booth, "A signed binary multiplication technique", 1951) the carry is
the bit below the lowest digit, which a cell of digits takes without another adder. Cells of 8 bits
need no carry: they hold all pieces but the top one as they are, 0 .. 2^Ws - 1.

One-bit cells hold -1 and +1 and take no slices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.numerics.formats import check_int, check_weights


def slice_count(weight_bits: int, slice_bits: int) -> int:
    """Passes of a layer of ``weight_bits`` in slices of ``slice_bits``: ``ceil(W / Ws)``."""
    w = check_int(weight_bits, 1, 8, "Weight width")
    c = check_int(slice_bits, 1, 8, "Slice width")
    return -(-w // c)


def weight_slices(
    weights: npt.ArrayLike, *, weight_bits: int, slice_bits: int, carry: bool = True
) -> npt.NDArray[np.int16]:
    """Digits of all slices, the top one first.

    Args:
        weights: any shape, values of ``weight_bits`` bits.
        weight_bits: W, 1..8.
        slice_bits: Ws, 1..8.
        carry: signed digits with carry; otherwise unsigned ones below a signed top.

    Returns:
        int16 [slices, *shape]: ``sum(digits[i] << (slices - 1 - i) * Ws)`` are the weights.
    """
    values = check_weights(weights, weight_bits).astype(np.int16)
    count = slice_count(weight_bits, slice_bits)
    if count == 1:
        return values[None]
    half, whole = 1 << (slice_bits - 1), 1 << slice_bits
    digits = np.empty((count, *values.shape), np.int16)
    for index in range(count):
        lowest = (count - 1 - index) * slice_bits
        piece = (values >> lowest) & (whole - 1)
        if carry or index == 0:
            piece = piece - whole * (piece >= half)
        if carry and lowest:
            piece = piece + ((values >> (lowest - 1)) & 1)
        digits[index] = piece
    return digits
