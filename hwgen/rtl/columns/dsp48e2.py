# SPDX-License-Identifier: Apache-2.0
"""The DSP48E2 block as columns use it: P = (A, D or their sum) * B + (0 or the block above)."""

from __future__ import annotations

from typing import Any

from amaranth import Const, Instance, Value
from amaranth.hdl import ValueLike

#: OPMODE of the first block of a cascade, and of those below one: product alone, product + PCIN.
_FIRST, _BELOW = 0b00_000_01_01, 0b00_001_01_01
_RESETS = ("A", "B", "C", "D", "M", "P", "CTRL", "INMODE", "ALUMODE", "ALLCARRYIN")


def dsp48e2(
    *,
    clock: Value,
    a: ValueLike,
    b: ValueLike,
    d: ValueLike,
    inmode: ValueLike,
    above: Value | None,
    enables: dict[str, ValueLike],
    attributes: dict[str, Any],
    p: Value,
    pcout: Value,
) -> Instance:
    """A block with the registers M and P, nothing reset, everything else as the column says.

    Args:
        clock: of all registers.
        a: 30 bits.
        b: 18 bits.
        d: 27 bits.
        inmode: 5 bits.
        above: PCOUT of the block above; None: the first of its cascade.
        enables: clock enables by their names without ``CE``; those of M and P are 1, others 0.
        attributes: those of the registers in front of the multiplier, AMULTSEL.
        p: 48 bits.
        pcout: 48 bits.
    """
    names = ("A1", "A2", "D", "AD", "B1", "B2", "C", "M", "P", "ALUMODE", "CARRYIN", "CTRL")
    given = dict.fromkeys((*names, "INMODE"), Const(0, 1)) | {"M": Const(1, 1), "P": Const(1, 1)}
    return Instance(
        "DSP48E2",
        p_BMULTSEL="B",
        p_PREADDINSEL="A",
        p_A_INPUT="DIRECT",
        p_B_INPUT="DIRECT",
        p_USE_MULT="MULTIPLY",
        p_USE_SIMD="ONE48",
        p_CREG=1,
        p_MREG=1,
        p_PREG=1,
        **{f"p_{name}REG": 0 for name in ("OPMODE", "ALUMODE", "CARRYIN", "CARRYINSEL")},
        **{f"p_{name}": value for name, value in attributes.items()},
        i_CLK=clock,
        i_A=a,
        i_B=b,
        i_C=Const(-1, 48),
        i_D=d,
        i_PCIN=Const(0, 48) if above is None else above,
        i_ACIN=Const(0, 30),
        i_BCIN=Const(0, 18),
        i_CARRYCASCIN=Const(0, 1),
        i_MULTSIGNIN=Const(0, 1),
        i_CARRYIN=Const(0, 1),
        i_CARRYINSEL=Const(0, 3),
        i_ALUMODE=Const(0, 4),
        i_INMODE=inmode,
        i_OPMODE=Const(_FIRST if above is None else _BELOW, 9),
        **{f"i_CE{name}": value for name, value in (given | enables).items()},
        **{f"i_RST{name}": Const(0, 1) for name in _RESETS},
        o_P=p,
        o_PCOUT=pcout,
    )
