# SPDX-License-Identifier: Apache-2.0
"""Logic of an UltraScale+ fabric as primitives: what synthesis does not find by itself.

An adder of three operands takes one LUT a bit (a 3:2 compressor and the addition behind it share a
LUT of two outputs), and a memory of 32 words two bits a LUT, each LUT with an address of its own.
UG574 describes LUT, CARRY8 and distributed RAM.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal, Value
from amaranth.hdl import ValueLike

#: LUTs of a CARRY8.
_CHAIN = 8
#: Ports of the two memories of 32 words that are read, beside the one whose address is written.
_LARGE, _SMALL = "ABCDEFG", "ABC"


def _init() -> int:
    """Of an adder's LUT: inputs a, b, c, c inverted, the majority of the bit below, 1.

    O5, the lower half: the majority of a, b and c. O6: the parity of all four.
    """
    init = 0
    for inputs in range(32):
        a, b, c, invert, below = (inputs >> bit & 1 for bit in range(5))
        c ^= invert
        init |= (a + b + c >= 2) << inputs
        init |= (a ^ b ^ c ^ below) << 32 + inputs
    return init


_ADD_INIT = _init()


def add_three(
    m: Module,
    name: str,
    operands: tuple[Value, Value, Value],
    width: int,
    *,
    subtract: ValueLike | None = None,
) -> Value:
    """The sum of three operands modulo 2^width; with ``subtract`` the third one is subtracted.

    One LUT a bit. Operands are extended by their signs.
    """
    invert = Const(0, 1) if subtract is None else Value.cast(subtract)
    a, b, c = (_extended(operand, width) for operand in operands)
    majority = Signal(width, name=f"{name}_majority")
    parity = Signal(width, name=f"{name}_parity")
    # The majority belongs to the bit above; below the lowest one there is room for the one that a
    # subtraction adds. (The carry chain's own input would share a pin with DI of its first bit.)
    below = Cat(invert, majority)[:width]
    total = Signal(width, name=name)
    for bit in range(width):
        m.submodules[f"{name}_lut_{bit}"] = Instance(
            "LUT6_2",
            p_INIT=Const(_ADD_INIT, 64),
            i_I0=a[bit],
            i_I1=b[bit],
            i_I2=c[bit],
            i_I3=invert,
            i_I4=below[bit],
            i_I5=Const(1, 1),
            o_O5=majority[bit],
            o_O6=parity[bit],
        )
    carry: Value = Const(0, 1)
    for first in range(0, width, _CHAIN):
        count = min(_CHAIN, width - first)
        unused = Const(0, _CHAIN - count)
        out = Signal(_CHAIN, name=f"{name}_sum_{first}")
        chain = Signal(_CHAIN, name=f"{name}_carry_{first}")
        m.submodules[f"{name}_chain_{first}"] = Instance(
            "CARRY8",
            p_CARRY_TYPE="SINGLE_CY8",
            i_CI=carry,
            i_CI_TOP=Const(0, 1),
            i_DI=Cat(below[first : first + count], unused),
            i_S=Cat(parity[first : first + count], unused),
            o_O=out,
            o_CO=chain,
        )
        m.d.comb += total[first : first + count].eq(out[:count])
        carry = chain[-1]
    return total


def _extended(value: Value, width: int) -> Value:
    missing = width - len(value)
    return Cat(value, value[-1].replicate(missing)) if missing > 0 else value[:width]


def memories(
    m: Module,
    name: str,
    *,
    write_enable: Value,
    write_address: Value,
    write_data: Sequence[Value],
    read_addresses: Sequence[Value],
) -> list[Value]:
    """Memories of 32 words with a read address each; data come in the same cycle.

    All are written at one address. Seven share eight LUTs, three share four.

    Args:
        m: where they are put.
        name: of the instances.
        write_enable: a bit.
        write_address: 5 bits.
        write_data: two bits for each memory.
        read_addresses: 5 bits for each memory.

    Returns:
        two bits from each.
    """
    found: list[Value] = []
    first = 0
    while first < len(read_addresses):
        small = len(read_addresses) - first <= len(_SMALL)
        ports = _SMALL if small else _LARGE
        last = "D" if small else "H"
        connections: dict[str, ValueLike] = {}
        for slot, port in enumerate(ports):
            used = first + slot < len(read_addresses)
            read = Signal(2, name=f"{name}_{first + slot}")
            address = read_addresses[first + slot] if used else Const(0, 5)
            data = write_data[first + slot] if used else Const(0, 2)
            connections |= {f"i_ADDR{port}": address, f"i_DI{port}": data, f"o_DO{port}": read}
            if used:
                found.append(read)
        m.submodules[f"{name}_from_{first}"] = Instance(
            "RAM32M" if small else "RAM32M16",
            i_WCLK=ClockSignal(),
            i_WE=write_enable,
            **{f"i_ADDR{last}": write_address, f"i_DI{last}": Const(0, 2)},
            **connections,
            **{f"o_DO{last}": Signal(2, name=f"{name}_unused_{first}")},
        )
        first += len(ports)
    return found


__all__ = ["add_three", "memories"]
