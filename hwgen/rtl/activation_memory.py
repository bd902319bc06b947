# SPDX-License-Identifier: Apache-2.0
"""Banked on-chip activation memory behind a crossbar with fixed priorities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BANK_BITS, OFFSET_BITS, WORD_ADDRESS_BITS
from hwgen.rtl.pipeline import register
from hwgen.rtl.ports import ReadPort, WritePort
from hwgen.rtl.ram import Ram, ram_name, ram_verilog


class ActivationMemory(wiring.Component):
    """All banks and the crossbar.

    ``read{i}`` and ``write{j}`` are client ports; a lower index wins a bank, so port 0 never waits.
    ``ready`` does not depend on the port's own ``valid``. Reads return after
    :data:`hwgen.rtl.ports.READ_LATENCY` cycles, in order, one a cycle and bank. ``range_error`` is
    high for one cycle, three after a granted access outside its bank, whose address is then in
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

    @staticmethod
    def _winner(
        m: Module, ports: Sequence[Any], bank: int, requests: Sequence[Value]
    ) -> tuple[Value, Value]:
        """Whether any port wants the bank, and the request of the first that does."""
        wanted = [p.valid & (p.address[OFFSET_BITS:] == bank) for p in ports]
        winner = requests[-1]
        for want, request in zip(wanted[-2::-1], requests[-2::-1], strict=True):
            winner = Mux(want, request, winner)
        return Cat(wanted).any(), winner

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        reads = [getattr(self, f"read{i}") for i in range(self.readers)]
        writes = [getattr(self, f"write{j}") for j in range(self.writers)]
        bank_data = Array(
            Signal(config.word_bits, name=f"bank{b}_data") for b in range(len(config.bank_words))
        )
        range_errors: list[tuple[int | None, Value, Value]] = []

        # Cycle 0: arbitration; the winner's request is registered. Cycle 1: the bank reads. Cycle
        # 2: select by bank into the client's data register. Cycle 3: data.
        for b, words in enumerate(config.bank_words):
            bank = Ram(words, config.word_bits, 8, name=f"bank{b}")
            m.submodules[f"bank{b}"] = bank.instance()

            wanted, offset = self._winner(m, reads, b, [p.address[:OFFSET_BITS] for p in reads])
            read_any = Signal(name=f"bank{b}_read_any")
            read_offset = Signal(OFFSET_BITS, name=f"bank{b}_read_offset", reset_less=True)
            m.d.sync += [read_any.eq(wanted), read_offset.eq(offset)]
            m.d.comb += [
                bank.read_address.eq(read_offset),
                bank_data[b].eq(bank.read_data),
            ]

            asked = [Cat(p.address[:OFFSET_BITS], p.enable, p.data) for p in writes]
            wanted, request = self._winner(m, writes, b, asked)
            write_any = Signal(name=f"bank{b}_write_any")
            write = Signal(len(request), name=f"bank{b}_write", reset_less=True)
            m.d.sync += [write_any.eq(wanted), write.eq(request)]
            write_offset = write[:OFFSET_BITS]
            write_inside = Signal(name=f"bank{b}_write_inside")
            m.d.comb += [
                write_inside.eq(write_any & (write_offset < words)),
                bank.write_address.eq(write_offset),
                bank.write_enable.eq(
                    Mux(write_inside, write[OFFSET_BITS : OFFSET_BITS + config.rows], 0)
                ),
                bank.write_data.eq(write[OFFSET_BITS + config.rows :]),
            ]
            range_errors.append((b, read_any & (read_offset >= words), read_offset))
            range_errors.append((b, write_any & ~write_inside, write_offset))

        # A client is granted unless one before it wants the same bank. A bank number without a bank
        # (the last one or two) is granted like any other, so that the client does not hang, and
        # reported.
        for ports in (reads, writes):
            for index, port in enumerate(ports):
                bank_number = port.address[OFFSET_BITS:]
                blocked = [
                    other.valid & (other.address[OFFSET_BITS:] == bank_number)
                    for other in ports[:index]
                ]
                m.d.comb += port.ready.eq(~Cat(blocked).any() if blocked else 1)
                missing = Signal(name=f"missing_{'read' if ports is reads else 'write'}{index}")
                where = Signal(WORD_ADDRESS_BITS, name=f"{missing.name}_address", reset_less=True)
                m.d.sync += [
                    missing.eq(port.valid & port.ready & (bank_number >= len(config.bank_words))),
                    where.eq(port.address),
                ]
                range_errors.append((None, missing, where))

        bad_any = Signal(len(range_errors), name="bad_any")
        m.d.sync += bad_any.eq(Cat(bad for _, bad, _ in range_errors))
        m.d.sync += self.range_error.eq(bad_any.any())
        for index, (number, _, where_now) in enumerate(range_errors):
            where = register(m, where_now, f"range_address_{index}")
            with m.If(bad_any[index]):
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
