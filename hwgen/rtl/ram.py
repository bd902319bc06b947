# SPDX-License-Identifier: Apache-2.0
"""Memories: block RAM as a Verilog leaf, and the language's own memory with its names stated.

The language's own memory always carries an initial value for every bit; for the megabytes of
activation memory that dominates emission. On-chip memory is written before it is read, never reset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from amaranth import ClockSignal, Instance, Signal
from amaranth.hdl import MemoryData, ShapeLike
from amaranth.lib import memory
from amaranth.utils import bits_for, ceil_log2

from hwgen.config import bank_slices


def ram_name(
    words: int, width: int, granularity: int, *, bank: bool = False, output_register: bool = False
) -> str:
    """Verilog module name; one module serves all memories of one shape.

    ``bank``: the simulation watches its writes by name; memories with byte enables are always.
    """
    part = "" if granularity == width else f"g{granularity}"
    return f"hwgen_ram_{words}x{width}{part}" + "r" * output_register + "b" * bank


def _write_prefix(width: int, granularity: int, bank: bool) -> str:
    return "bank_write" if bank or granularity != width else "write"


def ram_verilog(
    words: int, width: int, granularity: int, *, bank: bool = False, output_register: bool = False
) -> str:
    """Verilog of a memory with one read and one write port, ``width // granularity`` write enables.

    Read data are valid one cycle after the address, with ``output_register`` two: the register is
    the block RAM's own, one behind every slice, and what chooses among slices lies behind it. A
    read of the word that is written in the same cycle returns the old content. With byte enables
    the memory consists of :func:`hwgen.config.bank_slices`, else it is one array.

    With the macro ``HWGEN_FILL_MEMORIES`` the content begins as zeros, for four-state simulators:
    padding that nobody writes would be X there, and X times a weight of zero is X.
    """
    name = ram_name(words, width, granularity, bank=bank, output_register=output_register)
    write = _write_prefix(width, granularity, bank)
    address = _address_bits(words)
    lanes = width // granularity
    depths = bank_slices(words) if granularity == 8 else (words,)
    first = [sum(depths[:number]) for number in range(len(depths))]
    body = "".join(
        _slice_verilog(number, start, depth, width, granularity, address, write, output_register)
        for number, (start, depth) in enumerate(zip(first, depths, strict=True))
    )
    stages = 2 if output_register else 1
    if len(depths) > 1:
        bits = (len(depths) - 1).bit_length()
        number = "".join(
            f"read_address >= {address}'d{first[number]} ? {bits}'d{number} : "
            for number in range(len(depths) - 1, 0, -1)
        )
        body += f"  reg [{bits - 1}:0] {', '.join(f'choice_{s + 1}' for s in range(stages))};\n"
        body += f"  always @(posedge clk) begin\n    choice_1 <= {number}{bits}'d0;\n"
        body += "    choice_2 <= choice_1;\n" * output_register + "  end\n"
    chosen = "".join(
        f"choice_{stages} == {(len(depths) - 1).bit_length()}'d{number} ? read_{number} : "
        for number in range(len(depths) - 1)
    )
    return f"""module {name}(clk, read_address, read_data, \
{write}_en, {write}_address, {write}_data);
  input clk;
  input [{address - 1}:0] read_address;
  output [{width - 1}:0] read_data;
  input [{lanes - 1}:0] {write}_en;
  input [{address - 1}:0] {write}_address;
  input [{width - 1}:0] {write}_data;
{body}  assign read_data = {chosen}read_{len(depths) - 1};
endmodule
"""


def _address_bits(words: int) -> int:
    return max(1, bits_for(words - 1))


def _slice_verilog(
    number: int,
    first: int,
    depth: int,
    width: int,
    granularity: int,
    address: int,
    write: str,
    output_register: bool,
) -> str:
    """Words ``first`` to ``first + depth - 1`` of a memory; read data in ``read_{number}``."""
    words, bits, lanes = f"words_{number}", _address_bits(depth), width // granularity
    stores = "".join(
        f"      if ({write}_en[{lane}])\n"
        f"        {words}[{write}_address[{bits - 1}:0]][{granularity * (lane + 1) - 1}:"
        f"{granularity * lane}] <= "
        f"{write}_data[{granularity * (lane + 1) - 1}:{granularity * lane}];\n"
        for lane in range(lanes)
    )
    if lanes == 1:
        stores = f"      if ({write}_en[0]) {words}[{write}_address[{bits - 1}:0]] <= "
        stores += f"{write}_data;\n"
    # A slice begins at a multiple of its size, the last one of what it would have in full.
    here = f"{write}_address[{address - 1}:{bits}] == {address - bits}'d{first >> bits}"
    here = f"    if ({here}) begin\n{stores}    end\n" if bits < address else stores
    read = f"read_{number}"
    reads = f"    {read} <= {words}[read_address[{bits - 1}:0]];\n"
    declared = read
    if output_register:
        reads = reads.replace(read, f"word_{number}", 1) + f"    {read} <= word_{number};\n"
        declared = f"{read}, word_{number}"
    return f"""  (* ram_style = "block" *)
  reg [{width - 1}:0] {words} [{depth - 1}:0];
  reg [{width - 1}:0] {declared};
`ifdef HWGEN_FILL_MEMORIES
  integer fill_{number};
  initial for (fill_{number} = 0; fill_{number} < {depth}; fill_{number} = fill_{number} + 1)
    {words}[fill_{number}] = 0;
`endif
  always @(posedge clk) begin
{here}{reads}  end
"""


class Ram:
    """Signals of one memory and the instance that drives them."""

    def __init__(
        self,
        words: int,
        width: int,
        granularity: int,
        *,
        name: str,
        bank: bool = False,
        output_register: bool = False,
    ) -> None:
        address = _address_bits(words)
        self.module = ram_name(
            words, width, granularity, bank=bank, output_register=output_register
        )
        self._write = _write_prefix(width, granularity, bank)
        self.read_address = Signal(address, name=f"{name}_read_address")
        self.read_data = Signal(width, name=f"{name}_read_data")
        self.write_enable = Signal(width // granularity, name=f"{name}_write_enable")
        self.write_address = Signal(address, name=f"{name}_write_address")
        self.write_data = Signal(width, name=f"{name}_write_data")

    def instance(self) -> Instance:
        """The instance, to be added to the module's submodules."""
        return Instance(
            self.module,
            i_clk=ClockSignal(),
            i_read_address=self.read_address,
            o_read_data=self.read_data,
            **{
                f"i_{self._write}_en": self.write_enable,
                f"i_{self._write}_address": self.write_address,
                f"i_{self._write}_data": self.write_data,
            },
        )


class SmallMemory(memory.Memory):
    """The language's memory; its name and those of its ports are stated, not read from bytecode.

    For tables and rings of some kilobits; the compiler of the chip's vendor chooses flip-flops,
    distributed or block RAM unless ``attrs`` says which.
    """

    def __init__(
        self,
        name: str,
        *,
        shape: ShapeLike,
        depth: int,
        init: Iterable[Any] = (),
        attrs: Mapping[str, str] | None = None,
    ) -> None:
        content = MemoryData(shape=shape, depth=depth, init=init)
        content.name = name
        super().__init__(content, attrs=attrs)

    def reader(self, name: str, *, domain: str = "sync") -> memory.ReadPort:
        """A read port: data come one cycle after the address, with ``"comb"`` in the same cycle."""
        signature = memory.ReadPort.Signature(shape=self.shape, addr_width=ceil_log2(self.depth))
        return memory.ReadPort(signature, memory=self, domain=domain, path=(name,))

    def writer(self, name: str, *, granularity: int | None = None) -> memory.WritePort:
        """A write port with an enable for every ``granularity`` elements (None: one)."""
        signature = memory.WritePort.Signature(
            shape=self.shape, addr_width=ceil_log2(self.depth), granularity=granularity
        )
        return memory.WritePort(signature, memory=self, domain="sync", path=(name,))
