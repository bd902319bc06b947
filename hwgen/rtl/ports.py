# SPDX-License-Identifier: Apache-2.0
"""What the engines share: ports of the activation memory, a buffer for writes, commands."""

from __future__ import annotations

from amaranth import Module, Shape, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BY_NAME, WORD_ADDRESS_BITS
from hwgen.numerics.fractional_softmax import SHIFT_BITS
from hwgen.rtl.pipeline import StreamBuffer


class ReadPort(wiring.Signature):
    """Read port of the activation memory, seen by the reader.

    A request is granted in the cycle in which ``valid`` and ``ready`` are high; ``valid`` never
    waits for ``ready`` and holds with its address until granted. The word arrives exactly
    :data:`hwgen.timings.READ_LATENCY` cycles after the grant with ``data_valid``; it cannot be
    stalled, so the reader requests only what it can take.
    """

    def __init__(self, word_bits: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(WORD_ADDRESS_BITS),
                "data_valid": In(1),
                "data": In(word_bits),
            }
        )


class WritePort(wiring.Signature):
    """Write port of the activation memory, seen by the writer.

    A word is written in the cycle in which ``valid`` and ``ready`` are high, bytes with ``enable``
    set only. A read granted in a later cycle returns it, one in the same cycle what was there.
    """

    def __init__(self, word_bits: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(WORD_ADDRESS_BITS),
                "data": Out(word_bits),
                "enable": Out(word_bits // 8),
            }
        )


class WriteBuffer(wiring.Component):
    """Two registers in front of a write port: its grant ends here.

    ``granted_last`` is high in the cycle in which the word given with ``last`` is granted. Latency
    1 cycle; one word a cycle.
    """

    i_stream: In
    write: Out
    granted_last: Out

    def __init__(self, word_bits: int) -> None:
        self.shape = data.StructLayout(
            {
                "address": WORD_ADDRESS_BITS,
                "enable": word_bits // 8,
                "data": word_bits,
                "last": 1,
            }
        )
        super().__init__(
            {
                "i_stream": In(stream.Signature(self.shape)),
                "write": Out(WritePort(word_bits)),
                "granted_last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(self.shape)
        wiring.connect(m, wiring.flipped(self.i_stream), buffer.i_stream)
        word = buffer.o_stream
        m.d.comb += [
            self.write.valid.eq(word.valid),
            self.write.address.eq(word.payload.address),
            self.write.enable.eq(word.payload.enable),
            self.write.data.eq(word.payload.data),
            word.ready.eq(self.write.ready),
            self.granted_last.eq(word.valid & self.write.ready & word.payload.last),
        ]
        return m


def row_shift_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A write to the row shifts: entry ``row`` of a slot."""
    row = exact_log2(config.shift_words)
    return data.StructLayout({"valid": 1, "slot": 1, "row": row, "shift": SHIFT_BITS})


def constant_beat_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A wide beat of per-column constants; ``last``: of its tile."""
    return data.StructLayout({"data": config.wide_beat_bits, "last": 1})


def command_layout(opcode: str) -> data.StructLayout:
    """Fields of one opcode's body as a structure, from the ISA table."""
    members: dict[str, Shape] = {
        field.name: signed(field.bits) if field.signed else unsigned(field.bits)
        for field in BY_NAME[opcode].fields
    }
    return data.StructLayout(members)


def command_signature(opcode: str) -> stream.Signature:
    """Stream of commands of one opcode as its queue offers them (waits already met)."""
    return stream.Signature(command_layout(opcode))


__all__ = [
    "ReadPort",
    "WriteBuffer",
    "WritePort",
    "command_layout",
    "command_signature",
    "constant_beat_layout",
    "row_shift_layout",
]
