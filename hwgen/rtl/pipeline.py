# SPDX-License-Identifier: Apache-2.0
"""Building blocks of units that run freely inside and stall only at their input.

Such a unit counts what it has inside (credits) and takes an input only when every buffer on its way
has room; then no register needs a clock enable and no handshake crosses more than one register.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike, ValueLike
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from hwgen.isa.instructions import BY_NAME, WORD_ADDRESS_BITS


def register(m: Module, value: ValueLike, name: str, *, reset: bool = False) -> Signal:
    """One register of the value's shape; data need no reset, valid bits do."""
    stage = Signal.like(value, name=name, reset_less=not reset)
    m.d.sync += stage.eq(value)
    return stage


def delay(m: Module, value: ValueLike, cycles: int, name: str, *, reset: bool = False) -> Value:
    """The value ``cycles`` later; without reset it becomes a shift-register LUT."""
    for stage in range(cycles):
        value = register(m, value, f"{name}_{stage + 1}", reset=reset)
    return Value.cast(value)


def tree_latency(count: int) -> int:
    """Cycles of :func:`tree` over ``count`` values."""
    return ceil_log2(count)


def tree(
    m: Module, values: Sequence[Value], combine: Callable[[Value, Value], Value], name: str
) -> Value:
    """Combine values pairwise, one register per level: one result a cycle."""
    level = 0
    while len(values) > 1:
        combined = [
            combine(values[i], values[i + 1]) if i + 1 < len(values) else values[i]
            for i in range(0, len(values), 2)
        ]
        values = [register(m, v, f"{name}_{level}_{i}") for i, v in enumerate(combined)]
        level += 1
    return values[0]


def leading_one(bits: Sequence[Value]) -> tuple[Value, Value]:
    """Whether any bit is set, and the index of the highest one that is; logarithmic depth."""
    if len(bits) == 1:
        return bits[0], Const(0, 0)
    half = 1 << (ceil_log2(len(bits)) - 1)
    low_found, low = leading_one(bits[:half])
    high_found, high = leading_one(bits[half:])
    index = Cat(Mux(high_found, high, low), high_found) if half > 1 else high_found
    return low_found | high_found, index


def lookup(table: Sequence[int], bits: int, index: Value) -> Value:
    """``table[index]`` as a function of the index bits: one LUT per bit up to six index bits."""
    return Cat(
        Const(sum((entry >> b & 1) << i for i, entry in enumerate(table)), len(table)).bit_select(
            index, 1
        )
        for b in range(bits)
    )


def saturate(value: Value, bits: int) -> Value:
    """Clip a signed value to ``bits`` signed bits."""
    top = value[bits - 1 :]
    sign = value[-1]
    clipped = Cat((~sign).replicate(bits - 1), sign)
    return Mux(top.all() | ~top.any(), value[:bits], clipped).as_signed()


class Fifo(wiring.Component):
    """Queue in distributed memory; its producer has counted the room: an input is always taken.

    An entry is offered one cycle after it was given. ``depth`` is a power of two; more entries than
    that are lost, so the producer holds a credit for each.
    """

    i_valid: In
    i_payload: In
    o_stream: Out

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self.shape = shape
        self.depth = depth
        super().__init__(
            {"i_valid": In(1), "i_payload": In(shape), "o_stream": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = entries = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs={"ram_style": "distributed"}
        )
        write = entries.write_port()
        read = entries.read_port(domain="comb")
        head = Signal(exact_log2(self.depth) + 1)
        tail = Signal.like(head)
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.i_payload),
            write.en.eq(self.i_valid),
            read.addr.eq(head),
            self.o_stream.payload.eq(read.data),
            self.o_stream.valid.eq(head != tail),
        ]
        with m.If(self.i_valid):
            m.d.sync += tail.eq(tail + 1)
        with m.If(self.o_stream.valid & self.o_stream.ready):
            m.d.sync += head.eq(head + 1)
        return m


class Credits(wiring.Component):
    """Counts what was taken and not yet given back; ``available`` is a register.

    ``take`` must only be high while ``available`` is; ``limit`` is a power of two.
    """

    take: In
    give: In
    available: Out
    idle: Out

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__({"take": In(1), "give": In(1), "available": Out(1), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken = Signal(exact_log2(self.limit) + 1)
        m.d.comb += [self.available.eq(~taken[-1]), self.idle.eq(taken == 0)]
        with m.If(self.take & ~self.give):
            m.d.sync += taken.eq(taken + 1)
        with m.Elif(self.give & ~self.take):
            m.d.sync += taken.eq(taken - 1)
        return m


class RowAddresses(wiring.Component):
    """Word addresses of a tensor, row by row: ``base + word * stride + row``, one per ``step``.

    ``start`` loads the first row in the next cycle; the other inputs are constant until ``end`` has
    been stepped over. ``row_end`` marks a row's last word (index ``last_word``), ``end`` that of
    the last row.
    """

    start: In
    base: In
    stride: In
    rows: In
    last_word: In
    step: In
    address: Out
    row_end: Out
    end: Out

    def __init__(self) -> None:
        fields = {field.name: field.bits for field in BY_NAME["SOFTMAX"].fields}
        super().__init__(
            {
                "start": In(1),
                "base": In(WORD_ADDRESS_BITS),
                "stride": In(fields["source_stride"]),
                "rows": In(fields["rows"]),
                "last_word": In(fields["length"]),
                "step": In(1),
                "address": Out(WORD_ADDRESS_BITS),
                "row_end": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address = Signal(WORD_ADDRESS_BITS)
        next_row = Signal(WORD_ADDRESS_BITS)
        word = Signal.like(self.last_word)
        rows_left = Signal.like(self.rows)
        m.d.comb += [
            self.address.eq(address),
            self.row_end.eq(word == self.last_word),
            self.end.eq(self.row_end & (rows_left == 1)),
        ]
        with m.If(self.start):
            m.d.sync += [
                address.eq(self.base),
                next_row.eq(self.base + 1),
                word.eq(0),
                rows_left.eq(self.rows),
            ]
        with m.Elif(self.step):
            m.d.sync += [word.eq(word + 1), address.eq(address + self.stride)]
            with m.If(self.row_end):
                m.d.sync += [
                    word.eq(0),
                    address.eq(next_row),
                    next_row.eq(next_row + 1),
                    rows_left.eq(rows_left - 1),
                ]
        return m
