# SPDX-License-Identifier: Apache-2.0
"""One engine with a memory, driven by a script that travels through one stream.

The memory behaves as the activation memory at its worst: fixed read latency, unstallable data that
are noise when not valid, and ready in one of three patterns. It checks that no request is withdrawn
or changed before it is granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.emit.verilog import convert
from hwgen.errors import SimulationError
from hwgen.isa.instructions import (
    OFFSET_BITS,
    ROW_SHIFT_BANK,
    ROW_SHIFT_SLOTS,
    WORD_ADDRESS_BITS,
)
from hwgen.numerics.fractional_softmax import SHIFT_BITS
from hwgen.rtl.pipeline import delay
from hwgen.rtl.ports import command_layout
from hwgen.sim.unit_bench import Handshake, run_unit
from hwgen.timings import READ_LATENCY

#: The back end writes operands at their own widths, which Verilog extends as meant, and cases that
#: keep a default assigned before them.
OPTIONS = ("-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC", "-Wno-CASEINCOMPLETE")


class Grant(IntEnum):
    """When the memory is ready."""

    ALWAYS = 0
    RANDOM = 1  #: a pseudo-random half of the cycles, reads and writes independently
    AFTER_VALID = 2  #: only in a cycle after one in which the request was seen, and then by chance
    SLOW_WRITE = 3  #: reads always, writes in a quarter of the cycles: the engine fills up
    RANDOM_READ = 4  #: writes always, reads in a pseudo-random half of the cycles


class _Kind(IntEnum):
    WRITE = 0
    PARAMETER = 1
    COMMAND = 2
    READ = 3
    WAIT = 4
    GRANT = 5
    RESET = 6


#: Cycles of a reset: longer than what is read takes to arrive.
_RESET_CYCLES = 16


class EngineBench(wiring.Component):
    """The engine, a memory of two banks of ``bank_words``, and the script's interpreter.

    Row shifts that the engine writes are read as words of their bank's number. ``fault`` of an
    engine, if it has one, counts as a breach of the ports' contract.

    Items wait for the ones before them, except that commands and parameters wait for no other
    command to end.
    """

    def __init__(self, engine: wiring.Component, opcode: str, bank_words: int) -> None:
        """Bench of an engine of one opcode; ``bank_words`` is a power of two."""
        self.engine = engine
        self.opcode = opcode
        self.bank_words = bank_words
        self.word_bits = len(engine.read.data)
        self.has_parameters = hasattr(engine, "parameter_data")
        self.has_row_shifts = hasattr(engine, "row_shifts")
        self.body_bits = max(256, self.word_bits + WORD_ADDRESS_BITS)
        given = data.StructLayout({"kind": 8, "body": self.body_bits})
        super().__init__(
            {
                "i_stream": In(stream.Signature(given)),
                "o_stream": Out(stream.Signature(max(64, self.word_bits))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Memory, port checks, script."""
        m = Module()
        engine = self.engine
        reset = Signal()
        m.submodules.engine = ResetInserter(reset)(engine)
        index_bits = exact_log2(self.bank_words)
        words = memory.Memory(shape=self.word_bits, depth=2 * self.bank_words, init=[])
        m.submodules.words = words
        write_port = words.write_port(granularity=8)
        read_port = words.read_port()

        def index(address: Signal) -> Cat:
            return Cat(address[:index_bits], address[OFFSET_BITS])

        item = self.i_stream.payload
        offered = self.i_stream.valid
        accepted, completed, cycles = Signal(16), Signal(16), Signal(32)
        idle, fault = Signal(), Signal()
        m.d.comb += idle.eq(accepted == completed)

        # Pseudo-random grants
        noise = Signal(32, init=0xACE1_1234)
        m.d.sync += noise.eq(Cat(noise[1:], 0) ^ (noise[0].replicate(32) & 0xA300_0000))
        grant = Signal(3)
        ports = (
            (engine.read, noise[3], 1, noise[3]),
            (engine.write, noise[9], noise[9] & noise[17], 1),
        )
        for port, bit, slow_write, random_read in ports:
            seen = Signal()
            m.d.sync += seen.eq(port.valid & ~port.ready & ~reset)
            with m.Switch(grant):
                with m.Case(Grant.ALWAYS):
                    m.d.comb += port.ready.eq(1)
                with m.Case(Grant.RANDOM):
                    m.d.comb += port.ready.eq(bit)
                with m.Case(Grant.AFTER_VALID):
                    m.d.comb += port.ready.eq(seen & bit)
                with m.Case(Grant.SLOW_WRITE):
                    m.d.comb += port.ready.eq(slow_write)
                with m.Default():
                    m.d.comb += port.ready.eq(random_read)
            # The contract of the ports: a request holds until granted, inside the memory.
            request = [port.address]
            if hasattr(port, "enable"):
                request += [port.data, port.enable]
            now, before = Cat(*request), Signal(len(Cat(*request)))
            m.d.sync += before.eq(now)
            outside = (
                port.address[index_bits:OFFSET_BITS].any() | port.address[OFFSET_BITS + 1 :].any()
            )
            with m.If((seen & (~port.valid | (now != before))) | (port.valid & outside)):
                m.d.sync += fault.eq(1)

        # Reads: the bank reads one cycle after the grant; then come registers.
        granted = Signal(READ_LATENCY)
        read_address = Signal(index_bits + 1)
        look = Signal(WORD_ADDRESS_BITS)
        m.d.sync += [
            granted.eq(
                Cat(engine.read.valid & engine.read.ready, granted[:-1])
                & ~reset.replicate(READ_LATENCY)
            ),
            read_address.eq(index(engine.read.address)),
        ]
        read_data = delay(m, read_port.data, READ_LATENCY - 2, "read_data")
        m.d.comb += [
            read_port.addr.eq(read_address),
            engine.read.data_valid.eq(granted[-1]),
            engine.read.data.eq(read_data),
        ]
        with m.If(~granted[-1]):
            m.d.comb += engine.read.data.eq(~read_data ^ noise)

        # Writes: in the bank one cycle after the grant.
        write = Signal(data.StructLayout({"address": index_bits + 1, "data": self.word_bits}))
        enable = Signal(self.word_bits // 8)
        m.d.sync += [
            write.address.eq(index(engine.write.address)),
            write.data.eq(engine.write.data),
            enable.eq(0),
        ]
        with m.If(engine.write.valid & engine.write.ready):
            m.d.sync += enable.eq(engine.write.enable)
        m.d.comb += [
            write_port.addr.eq(write.address),
            write_port.data.eq(write.data),
            write_port.en.eq(enable),
        ]

        # The script
        m.d.comb += engine.i_command.payload.eq(item.body)
        output = self.o_stream
        command_taken = engine.i_command.valid & engine.i_command.ready
        m.d.sync += [accepted.eq(accepted + command_taken), completed.eq(completed + engine.done)]
        with m.If((engine.done & idle) | getattr(engine, "fault", 0)):
            m.d.sync += fault.eq(1)
        with m.If(~idle):
            m.d.sync += cycles.eq(cycles + 1)
        if self.has_parameters:
            m.d.comb += [
                engine.parameter_data.eq(item.body[:128]),
                engine.parameter_index.eq(item.body[128:140]),
                engine.parameter_slot.eq(item.body[140]),
            ]
        shift = Signal(SHIFT_BITS)
        if self.has_row_shifts:
            given = engine.row_shifts
            depth = ROW_SHIFT_SLOTS << len(given.row)
            m.submodules.shifts = shifts = memory.Memory(shape=SHIFT_BITS, depth=depth, init=[])
            shift_write, shift_read = shifts.write_port(), shifts.read_port(domain="comb")
            m.d.comb += [
                shift_write.en.eq(given.valid),
                shift_write.addr.eq(Cat(given.row, given.slot)),
                shift_write.data.eq(given.shift),
                shift_read.addr.eq(look),
                shift.eq(shift_read.data),
            ]
        phase, timer = Signal(3), Signal(17)
        quiet = idle & ~enable.any()
        with m.If(offered), m.Switch(item.kind):
            with m.Case(_Kind.WRITE), m.If(quiet):
                m.d.comb += self.i_stream.ready.eq(1)
                m.d.sync += [
                    write.address.eq(index(look)),
                    write.data.eq(item.body[WORD_ADDRESS_BITS:]),
                    enable.eq(~0),
                ]
                m.d.comb += look.eq(item.body[:WORD_ADDRESS_BITS])
            with m.Case(_Kind.PARAMETER):
                m.d.comb += self.i_stream.ready.eq(1)
                if self.has_parameters:
                    m.d.comb += engine.parameter_valid.eq(1)
            with m.Case(_Kind.COMMAND):
                m.d.comb += [
                    engine.i_command.valid.eq(1),
                    self.i_stream.ready.eq(engine.i_command.ready),
                ]
            with m.Case(_Kind.READ), m.If(quiet):
                m.d.comb += look.eq(item.body[:WORD_ADDRESS_BITS])
                m.d.sync += [read_address.eq(index(look)), phase.eq(phase + 1)]
                with m.If(phase == READ_LATENCY):
                    m.d.comb += [
                        output.valid.eq(1),
                        output.payload.eq(
                            Mux(look[OFFSET_BITS:] == ROW_SHIFT_BANK, shift, read_data)
                        ),
                        self.i_stream.ready.eq(output.ready),
                    ]
                    m.d.sync += phase.eq(Mux(output.ready, 0, READ_LATENCY))
            with m.Case(_Kind.WAIT):
                m.d.sync += phase.eq(0)
                with m.If(idle & (phase == 7)):
                    m.d.comb += [
                        output.valid.eq(1),
                        output.payload.eq(Cat(cycles, fault)),
                        self.i_stream.ready.eq(output.ready),
                    ]
                    m.d.sync += phase.eq(Cat(~output.ready, ~output.ready, ~output.ready))
                    with m.If(output.ready):
                        m.d.sync += cycles.eq(0)
                with m.Elif(idle):
                    # A surplus write would still come in this time.
                    m.d.sync += phase.eq(phase + 1)
            with m.Case(_Kind.GRANT):
                m.d.comb += self.i_stream.ready.eq(1)
                m.d.sync += grant.eq(item.body)
            with m.Case(_Kind.RESET):
                m.d.sync += timer.eq(timer + 1)
                with m.If(timer >= item.body[:16]):
                    m.d.comb += reset.eq(1)
                    m.d.sync += [accepted.eq(0), completed.eq(0), cycles.eq(0)]
                with m.If(timer == item.body[:16] + _RESET_CYCLES):
                    m.d.comb += self.i_stream.ready.eq(1)
                    m.d.sync += timer.eq(0)
        return m


@dataclass
class EngineScript:
    """Items for an :class:`EngineBench`, in order."""

    opcode: str
    word_bytes: int
    items: list[int] = field(default_factory=list)
    outputs: int = 0

    def _add(self, kind: _Kind, body: int = 0) -> None:
        self.items.append(kind | body << 8)

    def write(self, address: int, words: npt.NDArray[np.uint8]) -> None:
        """Store consecutive words, uint8 [n, word bytes]."""
        for offset, word in enumerate(words):
            value = int.from_bytes(word.tobytes(), "little")
            self._add(_Kind.WRITE, address + offset | value << WORD_ADDRESS_BITS)

    def parameters(self, slot: int, beats: Iterable[tuple[int, int]]) -> None:
        """Load beats (number, 128 bits) into a parameter slot."""
        for number, beat in beats:
            self._add(_Kind.PARAMETER, beat | number << 128 | slot << 140)

    def command(self, fields: Mapping[str, int]) -> None:
        """Give a command; the script goes on when it has been accepted."""
        self._add(_Kind.COMMAND, command_layout(self.opcode).const(fields).as_value().value)

    def read(self, address: int, count: int) -> None:
        """Return consecutive words."""
        for offset in range(count):
            self._add(_Kind.READ, address + offset)
        self.outputs += count

    def wait(self) -> None:
        """Wait until all commands are done; returns the cycles in which any ran."""
        self._add(_Kind.WAIT)
        self.outputs += 1

    def reset(self, cycles: int) -> None:
        """Let the commands run for so many cycles, then reset the engine, whatever it does."""
        self._add(_Kind.RESET, cycles)

    def grant(self, pattern: Grant) -> None:
        """Change when the memory is ready."""
        self._add(_Kind.GRANT, pattern)


def emit_bench(engine: wiring.Component, opcode: str, bank_words: int) -> str:
    """Verilog of the bench around an engine."""
    bench = EngineBench(engine, opcode, bank_words)
    return convert(bench, "bench")


def run_script(text: str, script: EngineScript) -> npt.NDArray[np.uint8]:
    """Run a script on a bench; returns its outputs, [n, bytes]."""
    run = run_unit(
        text,
        "bench",
        script.items,
        script.outputs,
        input_stream="i_stream",
        output_stream="o_stream",
        handshake=Handshake(),
        options=OPTIONS,
    )
    return run.outputs


def waited_cycles(output: npt.NDArray[np.uint8]) -> int:
    """Cycles that a :meth:`EngineScript.wait` returned.

    Raises:
        SimulationError: a port's contract was broken, or ``done`` came without a command.
    """
    value = int.from_bytes(output[:8].tobytes(), "little")
    if value >> 32 & 1:
        raise SimulationError("The engine must keep the contract of its ports; a request changed")
    return value & 0xFFFF_FFFF
