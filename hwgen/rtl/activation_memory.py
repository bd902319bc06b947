# SPDX-License-Identifier: Apache-2.0
"""Banked on-chip activation memory behind a crossbar with fixed priorities."""

from __future__ import annotations

from amaranth import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BANK_BITS, OFFSET_BITS
from hwgen.rtl.ports import ReadPort, WritePort
from hwgen.rtl.ram import Ram, ram_name, ram_verilog


class ActivationMemory(wiring.Component):
    """All banks and the crossbar.

    ``read{i}`` and ``write{j}`` are client ports; a lower index wins a bank. Reads return after
    :data:`hwgen.rtl.ports.READ_LATENCY` cycles, in order, one a cycle and bank. ``range_error`` is
    high for one cycle after a granted access outside its bank, whose address is then in
    ``range_address``.
    """

    range_error: Out
    range_address: Out

    def __init__(self, config: AcceleratorConfig, *, readers: int, writers: int) -> None:
        self.config = config
        self.readers = readers
        self.writers = writers
        ports = {f"read{i}": In(ReadPort(config.word_bits)) for i in range(readers)}
        ports |= {f"write{j}": In(WritePort(config.word_bits)) for j in range(writers)}
        super().__init__({**ports, "range_error": Out(1), "range_address": Out(32)})

    def leaves(self) -> dict[str, str]:
        """Verilog of the banks by module name."""
        return {
            ram_name(words, self.config.word_bits, 8): ram_verilog(words, self.config.word_bits, 8)
            for words in self.config.bank_words
        }

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        reads = [getattr(self, f"read{i}") for i in range(self.readers)]
        writes = [getattr(self, f"write{j}") for j in range(self.writers)]
        bank_data = Array(
            Signal(config.word_bits, name=f"bank{b}_data") for b in range(len(config.bank_words))
        )
        range_errors: list[tuple[int | None, Value, Value]] = []

        # Cycle 0: arbitration; the winner's address is registered. Cycle 1: the bank reads. Cycle
        # 2: select by bank into the client's data register. Cycle 3: data.
        for b, words in enumerate(config.bank_words):
            bank = Ram(words, config.word_bits, 8, name=f"bank{b}")
            m.submodules[f"bank{b}"] = bank.instance()

            taken = 0
            offset = Signal(OFFSET_BITS, name=f"bank{b}_read_offset")
            for port in reads:
                wanted = port.valid & (port.address[OFFSET_BITS:] == b)
                granted = Signal(name=f"bank{b}_read_grant")
                m.d.comb += granted.eq(wanted & ~taken)
                with m.If(granted):
                    m.d.comb += [port.ready.eq(1), offset.eq(port.address[:OFFSET_BITS])]
                taken = taken | wanted
            read_any = Signal(name=f"bank{b}_read_any")
            m.d.comb += read_any.eq(taken)
            m.d.sync += bank.read_address.eq(offset)
            m.d.comb += bank_data[b].eq(bank.read_data)

            taken = 0
            write_offset = Signal(OFFSET_BITS, name=f"bank{b}_write_offset")
            write_data = Signal(config.word_bits, name=f"bank{b}_write_word")
            write_enable = Signal(config.rows, name=f"bank{b}_write_bytes")
            for wport in writes:
                wanted = wport.valid & (wport.address[OFFSET_BITS:] == b)
                granted = Signal(name=f"bank{b}_write_grant")
                m.d.comb += granted.eq(wanted & ~taken)
                with m.If(granted):
                    m.d.comb += [
                        wport.ready.eq(1),
                        write_offset.eq(wport.address[:OFFSET_BITS]),
                        write_data.eq(wport.data),
                        write_enable.eq(wport.enable),
                    ]
                taken = taken | wanted
            write_any = Signal(name=f"bank{b}_write_any")
            write_bad = Signal(name=f"bank{b}_write_bad")
            read_bad = Signal(name=f"bank{b}_read_bad")
            m.d.comb += [
                write_any.eq(taken),
                write_bad.eq(write_any & (write_offset >= words)),
                read_bad.eq(read_any & (offset >= words)),
            ]
            m.d.sync += [
                bank.write_address.eq(write_offset),
                bank.write_data.eq(write_data),
                bank.write_enable.eq(Mux(write_any & ~write_bad, write_enable, 0)),
            ]
            range_errors.append((b, read_bad, offset))
            range_errors.append((b, write_bad, write_offset))

        # A bank number without a bank: granted at once, so that the client does not hang, and
        # reported.
        for port in (*reads, *writes):
            missing = port.valid & (port.address[OFFSET_BITS:] >= len(config.bank_words))
            with m.If(missing):
                m.d.comb += port.ready.eq(1)
            range_errors.append((None, missing, port.address))

        m.d.sync += self.range_error.eq(Cat(bad for _, bad, _ in range_errors).any())
        for number, bad, where in range_errors:
            with m.If(bad):
                m.d.sync += self.range_address.eq(
                    where if number is None else Cat(where, Const(number, BANK_BITS))
                )

        for index, port in enumerate(reads):
            granted = Signal(2, name=f"read{index}_granted")
            bank_1 = Signal(3, name=f"read{index}_bank_1")
            bank_2 = Signal(3, name=f"read{index}_bank_2")
            m.d.sync += [
                granted.eq(Cat(port.valid & port.ready, granted[0])),
                bank_1.eq(port.address[OFFSET_BITS:]),
                bank_2.eq(bank_1),
                port.data_valid.eq(granted[1]),
                port.data.eq(bank_data[bank_2]),
            ]
        return m
