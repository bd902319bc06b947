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


def ram_name(words: int, width: int, granularity: int, *, bank: bool = False) -> str:
    """Verilog module name; one module serves all memories of one shape.

    ``bank``: the simulation watches its writes by name; memories with byte enables are always.
    """
    part = "" if granularity == width else f"g{granularity}"
    return f"hwgen_ram_{words}x{width}{part}" + ("b" if bank else "")


def _write_prefix(width: int, granularity: int, bank: bool) -> str:
    return "bank_write" if bank or granularity != width else "write"


def ram_verilog(words: int, width: int, granularity: int, *, bank: bool = False) -> str:
    """Verilog of a memory with one read and one write port, ``width // granularity`` write enables.

    Read data are valid one cycle after the address. A read of the word that is written in the same
    cycle returns the old content.

    With the macro ``HWGEN_FILL_MEMORIES`` the content begins as zeros, for four-state simulators:
    padding that nobody writes would be X there, and X times a weight of zero is X.
    """
    name = ram_name(words, width, granularity, bank=bank)
    address = max(1, bits_for(words - 1))
    lanes = width // granularity
    write = _write_prefix(width, granularity, bank)
    body = "".join(
        f"    if ({write}_en[{lane}])\n"
        f"      words[{write}_address][{granularity * (lane + 1) - 1}:{granularity * lane}] <= "
        f"{write}_data[{granularity * (lane + 1) - 1}:{granularity * lane}];\n"
        for lane in range(lanes)
    )
    if lanes == 1:
        body = f"    if ({write}_en[0])\n      words[{write}_address] <= {write}_data;\n"
    return f"""module {name}(clk, read_address, read_data, \
{write}_en, {write}_address, {write}_data);
  input clk;
  input [{address - 1}:0] read_address;
  output [{width - 1}:0] read_data;
  input [{lanes - 1}:0] {write}_en;
  input [{address - 1}:0] {write}_address;
  input [{width - 1}:0] {write}_data;
  (* ram_style = "block" *)
  reg [{width - 1}:0] words [{words - 1}:0];
  reg [{width - 1}:0] read_data;
`ifdef HWGEN_FILL_MEMORIES
  integer filled;
  initial for (filled = 0; filled < {words}; filled = filled + 1) words[filled] = 0;
`endif
  always @(posedge clk) begin
{body}    read_data <= words[read_address];
  end
endmodule
"""


class Ram:
    """Signals of one memory and the instance that drives them."""

    def __init__(
        self, words: int, width: int, granularity: int, *, name: str, bank: bool = False
    ) -> None:
        address = max(1, bits_for(words - 1))
        self.module = ram_name(words, width, granularity, bank=bank)
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
