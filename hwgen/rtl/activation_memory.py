# SPDX-License-Identifier: Apache-2.0
"""Banked on-chip activation memory behind a crossbar with fixed priorities."""

from __future__ import annotations

from amaranth import Array, Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BANK_BITS, OFFSET_BITS
from hwgen.rtl.ports import ReadPort, WritePort


class ActivationBank(wiring.Component):
    """One bank: ``words`` words of ``word_bits`` bits, one read and one byte-enabled write port.

    Read data are valid one cycle after the address; write before read, never reset. The write
    port's signal names are part of the simulation contract: the harness watches them.
    """

    read_address: In
    read_data: Out
    bank_write_en: In
    bank_write_address: In
    bank_write_data: In

    def __init__(self, words: int, word_bits: int) -> None:
        self.words = words
        self.word_bits = word_bits
        address_bits = max(1, bits_for(words - 1))
        super().__init__(
            {
                "read_address": In(address_bits),
                "read_data": Out(word_bits),
                "bank_write_en": In(word_bits // 8),
                "bank_write_address": In(address_bits),
                "bank_write_data": In(word_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = memory.Memory(
            shape=self.word_bits, depth=self.words, init=[], attrs={"ram_style": "block"}
        )
        write = words.write_port(granularity=8)
        read = words.read_port()
        m.d.comb += [
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
            write.addr.eq(self.bank_write_address),
            write.data.eq(self.bank_write_data),
            write.en.eq(self.bank_write_en),
        ]
        return m


class ActivationMemory(wiring.Component):
    """All banks and the crossbar.

    ``read{i}`` and ``write{j}`` are client ports; a lower index wins a bank. Reads return after
    :data:`hwgen.rtl.ports.READ_LATENCY` cycles, in order, one a cycle and bank. ``range_error`` is
    high for one cycle after a granted access outside its bank, whose address is then in
    ``range_address``.
    """

    range_error: Out(1)

    def __init__(self, config: AcceleratorConfig, *, readers: int, writers: int) -> None:
        self.config = config
        self.readers = readers
        self.writers = writers
        ports = {f"read{i}": In(ReadPort(config.word_bits)) for i in range(readers)}
        ports |= {f"write{j}": In(WritePort(config.word_bits)) for j in range(writers)}
        super().__init__({**ports, "range_error": Out(1), "range_address": Out(32)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        reads = [getattr(self, f"read{i}") for i in range(self.readers)]
        writes = [getattr(self, f"write{j}") for j in range(self.writers)]
        bank_data = Array(
            Signal(config.word_bits, name=f"bank{b}_data") for b in range(len(config.bank_words))
        )
        range_errors = []

        # Cycle 0: arbitration; the winner's address is registered. Cycle 1: the bank reads. Cycle
        # 2: select by bank into the client's data register. Cycle 3: data.
        for b, words in enumerate(config.bank_words):
            bank = ActivationBank(words, config.word_bits)
            m.submodules[f"bank{b}"] = bank

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
                bank.bank_write_address.eq(write_offset),
                bank.bank_write_data.eq(write_data),
                bank.bank_write_en.eq(Mux(write_any & ~write_bad, write_enable, 0)),
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
        for b, bad, where in range_errors:
            with m.If(bad):
                m.d.sync += self.range_address.eq(
                    where if b is None else Cat(where, Const(b, BANK_BITS))
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
