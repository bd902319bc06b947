# SPDX-License-Identifier: Apache-2.0
"""Banked on-chip activation memory behind a crossbar of the paths that its roles need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.banks import READERS, WRITERS, banks_of
from hwgen.isa.instructions import BANK_BITS, OFFSET_BITS, WORD_ADDRESS_BITS, Engine
from hwgen.rtl.pipeline import delay, register
from hwgen.rtl.ports import ReadPort, WritePort
from hwgen.rtl.ram import Ram, ram_name, ram_verilog
from hwgen.timings import READ_LATENCY


class ActivationMemory(wiring.Component):
    """All banks and the crossbar.

    ``read_{engine}`` and ``write_{engine}`` are the ports of :data:`hwgen.isa.banks.READERS` and
    ``WRITERS``; the first of them wins a bank, so MATMUL never waits for a read and DRAIN never for
    a write. A port reaches the banks of :func:`hwgen.isa.banks.banks_of` and no others.
    ``ready`` does not depend on the port's own ``valid``. Reads return after
    :data:`hwgen.timings.READ_LATENCY` cycles, in order, one a cycle and bank. ``range_error`` is
    high for one cycle, three after a granted access outside its bank or the port's banks, whose
    address is then in ``range_address``.
    """

    range_error: Out
    range_address: Out

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        ports = {f"read_{e.name.lower()}": In(ReadPort(config.word_bits)) for e in READERS}
        ports |= {f"write_{e.name.lower()}": In(WritePort(config.word_bits)) for e in WRITERS}
        super().__init__({**ports, "range_error": Out(1), "range_address": Out(32)})

    def port(self, engine: Engine, *, write: bool) -> Any:
        """The port of an engine."""
        return getattr(self, f"{'write' if write else 'read'}_{engine.name.lower()}")

    def leaves(self) -> dict[str, str]:
        """Verilog of the banks by module name."""
        return {
            ram_name(words, self.config.word_bits, 8, output_register=True): ram_verilog(
                words, self.config.word_bits, 8, output_register=True
            )
            for words in self.config.bank_words
        }

    @staticmethod
    def _winner(
        bank: int, ports: Mapping[Engine, Any], requests: Mapping[Engine, Value], *, write: bool
    ) -> tuple[Value, Value]:
        """Whether a port that reaches the bank wants it, and the request of the first that does."""
        clients = [e for e in ports if bank in banks_of(e, write=write)]
        wanted = [ports[e].valid & (ports[e].address[OFFSET_BITS:] == bank) for e in clients]
        winner = requests[clients[-1]]
        for want, engine in zip(wanted[-2::-1], clients[-2::-1], strict=True):
            winner = Mux(want, requests[engine], winner)
        return Cat(wanted).any(), winner

    @staticmethod
    def _outside(m: Module, offset: Value, words: int, name: str) -> Value:
        """Whether an offset is beyond a bank, a cycle later: either half alone is a short path."""
        half = OFFSET_BITS // 2
        last_high, last_low = divmod(words - 1, 1 << half)

        def above(part: Value, limit: int) -> Value:
            # Tools warn of a comparison that is always false.
            return Const(0) if limit == (1 << len(part)) - 1 else part > limit

        low, high = offset[:half], offset[half:]
        beyond = register(m, above(high, last_high), f"{name}_high_beyond")
        equal = register(m, high == last_high, f"{name}_high_equal")
        low_beyond = register(m, above(low, last_low), f"{name}_low_beyond")
        return beyond | (equal & low_beyond)

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        reads = {engine: self.port(engine, write=False) for engine in READERS}
        writes = {engine: self.port(engine, write=True) for engine in WRITERS}
        bank_data = [
            Signal(config.word_bits, name=f"bank{b}_data") for b in range(len(config.bank_words))
        ]
        range_errors: list[tuple[int | None, Value, Value]] = []

        # Cycle 0: arbitration; the winner's request is registered. Cycle 1: the bank reads. Cycle
        # 2: its block RAMs' output registers. Cycle 3: select by slice and bank into the client's
        # data register. Cycle 4: data.
        for b, words in enumerate(config.bank_words):
            bank = Ram(words, config.word_bits, 8, name=f"bank{b}", output_register=True)
            m.submodules[f"bank{b}"] = bank.instance()

            offsets = {engine: port.address[:OFFSET_BITS] for engine, port in reads.items()}
            wanted, offset = self._winner(b, reads, offsets, write=False)
            read_any = Signal(name=f"bank{b}_read_any")
            read_offset = Signal(OFFSET_BITS, name=f"bank{b}_read_offset", reset_less=True)
            m.d.sync += [read_any.eq(wanted), read_offset.eq(offset)]
            m.d.comb += [
                bank.read_address.eq(read_offset),
                bank_data[b].eq(bank.read_data),
            ]

            asked = {
                engine: Cat(port.address[:OFFSET_BITS], port.enable, port.data)
                for engine, port in writes.items()
            }
            wanted, request = self._winner(b, writes, asked, write=True)
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
            for name, accessed, at in (
                (f"bank{b}_read", read_any, read_offset),
                (f"bank{b}_write", write_any, write_offset),
            ):
                outside = register(m, accessed, f"{name}_was", reset=True)
                outside &= self._outside(m, at, words, name)
                range_errors.append((b, outside, register(m, at, f"{name}_was_at")))

        # A client is granted unless one before it, of those that share a bank with it, wants the
        # same. A bank that it does not reach, or that there is not, is granted like any other, so
        # that the client does not hang, and reported.
        for ports, write in ((reads, False), (writes, True)):
            for index, (engine, port) in enumerate(ports.items()):
                bank_number, reached = port.address[OFFSET_BITS:], banks_of(engine, write=write)
                blocked = [
                    other.valid & (other.address[OFFSET_BITS:] == bank_number)
                    for before, other in list(ports.items())[:index]
                    if set(reached) & set(banks_of(before, write=write))
                ]
                m.d.comb += port.ready.eq(~Cat(blocked).any() if blocked else 1)
                name = f"missing_{'write' if write else 'read'}_{engine.name.lower()}"
                missing = Signal(name=name)
                where = Signal(WORD_ADDRESS_BITS, name=f"{name}_address", reset_less=True)
                there = Cat(bank_number == place for place in reached).any()
                m.d.sync += [
                    missing.eq(port.valid & port.ready & ~there),
                    where.eq(port.address),
                ]
                # As late as those of offsets.
                missing = register(m, missing, f"{name}_was", reset=True)
                range_errors.append((None, missing, register(m, where, f"{name}_was_at")))

        bad_any = Signal(len(range_errors), name="bad_any")
        m.d.sync += bad_any.eq(Cat(bad for _, bad, _ in range_errors))
        m.d.sync += self.range_error.eq(bad_any.any())
        for index, (number, _, where_now) in enumerate(range_errors):
            where = register(m, where_now, f"range_address_{index}")
            with m.If(bad_any[index]):
                m.d.sync += self.range_address.eq(
                    where if number is None else Cat(where, Const(number, BANK_BITS))
                )

        for engine, port in reads.items():
            name = f"read_{engine.name.lower()}"
            granted = Signal(READ_LATENCY - 1, name=f"{name}_granted")
            # Which of the port's banks, by number among them: the choice is as wide as they are.
            reached = banks_of(engine, write=False)
            choice: Value = Const(0)
            for number, place in enumerate(reached):
                choice = choice | Mux(port.address[OFFSET_BITS:] == place, number, 0)
            chosen = delay(m, choice, READ_LATENCY - 1, f"{name}_choice")
            word = Array(bank_data[place] for place in reached)[chosen]
            m.d.sync += [
                granted.eq(Cat(port.valid & port.ready, granted[:-1])),
                port.data_valid.eq(granted[-1]),
            ]
            m.d.comb += port.data.eq(register(m, word, f"{name}_data"))
        return m
