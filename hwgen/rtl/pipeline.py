# SPDX-License-Identifier: Apache-2.0
"""Building blocks of units that run freely inside and stall only at their input.

Such a unit counts what it has inside (credits) and takes an input only when every buffer on its way
has room; then no register needs a clock enable and no handshake crosses more than one register.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from hwgen.isa.instructions import BY_NAME, WORD_ADDRESS_BITS
from hwgen.rtl.ram import SmallMemory


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


@dataclass(frozen=True)
class LoopCounter:
    """Registers of :func:`loop_counter`."""

    index: Signal  #: 0 ... length - 1
    first: Signal  #: the index is 0
    last: Signal  #: the index is length - 1


def loop_counter(
    m: Module, bits: int, name: str, *, start: ValueLike, length: ValueLike, step: ValueLike
) -> LoopCounter:
    """A counter over ``length`` (at least 1, given with ``start``), one further with ``step``.

    After the last index comes the first. Both ends are known ahead, in registers, so that no
    comparison lies behind the step. ``start`` wins over ``step``.
    """
    index = Signal(bits, name=f"{name}_index")
    before_last = Signal(bits, name=f"{name}_ahead")
    first = Signal(name=f"{name}_first")
    last = Signal(name=f"{name}_last")
    single = Signal(name=f"{name}_single")
    length = Value.cast(length)
    with m.If(start):
        m.d.sync += [
            index.eq(0),
            first.eq(1),
            last.eq(length == 1),
            single.eq(length == 1),
            before_last.eq(length - 2),
        ]
    with m.Elif(step):
        m.d.sync += [
            index.eq(Mux(last, 0, index + 1)),
            first.eq(last),
            last.eq(Mux(last, single, index == before_last)),
        ]
    return LoopCounter(index, first, last)


def tree(
    m: Module, values: Sequence[Value], combine: Callable[[Value, Value], Value], name: str
) -> Value:
    """Combine values pairwise, a register a level (tree_latency cycles): one result a cycle."""
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

    An entry is offered one cycle after it was given; ``o_stream.valid`` is a register. ``depth`` is
    a power of two; more entries than that are lost, so the producer holds a credit for each.
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
        m.submodules.entries = entries = SmallMemory(
            "entries", shape=self.shape, depth=self.depth, attrs={"ram_style": "distributed"}
        )
        write = entries.writer("write")
        read = entries.reader("read", domain="comb")
        head = Signal(exact_log2(self.depth), name="head")
        tail = Signal.like(head, name="tail")
        level = Signal(exact_log2(self.depth) + 1, name="level")
        filled = Signal(name="filled")
        taken = filled & self.o_stream.ready
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.i_payload),
            write.en.eq(self.i_valid),
            read.addr.eq(head),
            self.o_stream.payload.eq(read.data),
            self.o_stream.valid.eq(filled),
        ]
        with m.If(self.i_valid):
            m.d.sync += tail.eq(tail + 1)
        with m.If(taken):
            m.d.sync += head.eq(head + 1)
        with m.If(self.i_valid & ~taken):
            m.d.sync += [level.eq(level + 1), filled.eq(1)]
        with m.Elif(taken & ~self.i_valid):
            m.d.sync += [level.eq(level - 1), filled.eq(level != 1)]
        return m


class StreamBuffer(wiring.Component):
    """Two registers of a stream: no path of the handshake crosses it in either direction.

    Latency 1 cycle; one entry a cycle.
    """

    i_stream: In
    o_stream: Out

    def __init__(self, shape: ShapeLike) -> None:
        self.shape = shape
        super().__init__(
            {"i_stream": In(stream.Signature(shape)), "o_stream": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = Signal(name="valid")
        spare_valid = Signal(name="spare_valid")
        payload = Signal.like(self.o_stream.payload, reset_less=True, name="payload")
        spare = Signal.like(self.o_stream.payload, reset_less=True, name="spare")
        m.d.comb += [
            self.i_stream.ready.eq(~spare_valid),
            self.o_stream.valid.eq(valid),
            self.o_stream.payload.eq(payload),
        ]
        with m.If(~spare_valid):
            m.d.sync += spare.eq(self.i_stream.payload)
        with m.If(~valid | self.o_stream.ready):
            m.d.sync += [
                payload.eq(Mux(spare_valid, spare, self.i_stream.payload)),
                valid.eq(spare_valid | self.i_stream.valid),
                spare_valid.eq(0),
            ]
        with m.Elif(self.i_stream.valid):
            m.d.sync += spare_valid.eq(1)
        return m


class SkidBuffer(wiring.Component):
    """A spare register of a stream: ``i_stream.ready`` is a register, and an entry waits for none.

    Latency 0; one entry a cycle. An entry that the output does not take in its first cycle is kept
    in the spare register.
    """

    i_stream: In
    o_stream: Out

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__(
            {"i_stream": In(stream.Signature(shape)), "o_stream": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kept = Signal(name="kept")
        spare = Signal.like(self.o_stream.payload, reset_less=True, name="spare")
        m.d.comb += [
            self.i_stream.ready.eq(~kept),
            self.o_stream.valid.eq(kept | self.i_stream.valid),
            self.o_stream.payload.eq(Mux(kept, spare, self.i_stream.payload)),
        ]
        m.d.sync += kept.eq(self.o_stream.valid & ~self.o_stream.ready)
        with m.If(~kept):
            m.d.sync += spare.eq(self.i_stream.payload)
        return m


class RowRelease(wiring.Component):
    """Launches the entries of a ring, in order, once the row that they belong to is complete.

    ``entered`` counts an entry, ``last`` marks the one that completes its row; those of a row wait
    from two cycles later on (``waiting``), at ring position ``index``, until ``launch``, which must
    only be high while ``waiting`` is.
    """

    entered: In
    last: In
    waiting: Out
    launch: In
    index: Out

    def __init__(self, depth: int) -> None:
        self.index_bits = exact_log2(depth)
        super().__init__(
            {
                "entered": In(1),
                "last": In(1),
                "waiting": Out(1),
                "launch": In(1),
                "index": Out(self.index_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entered = Signal(self.index_bits + 1, name="entered")
        released = Signal(self.index_bits + 1, name="released")
        launched = Signal.like(entered, name="launched")
        following = Signal.like(entered, init=1, name="following")
        with m.If(self.entered):
            m.d.sync += entered.eq(entered + 1)
            with m.If(self.last):
                m.d.sync += released.eq(entered + 1)
        with m.If(self.launch):
            m.d.sync += [launched.eq(following), following.eq(following + 1)]
        # Whether entries are left is compared ahead of the launch, for both its outcomes.
        waiting = Signal(name="waiting")
        m.d.sync += waiting.eq(Mux(self.launch, following != released, launched != released))
        m.d.comb += [self.waiting.eq(waiting), self.index.eq(launched)]
        return m


class Credits(wiring.Component):
    """Counts what was taken and not yet given back; ``available`` is a register.

    ``take`` must only be high while ``available`` is; ``limit`` is a power of two. What is given
    back is available two cycles later.
    """

    take: In
    give: In
    available: Out

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__({"take": In(1), "give": In(1), "available": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken = Signal(exact_log2(self.limit) + 1, name="taken")
        given = register(m, self.give, "given", reset=True)
        m.d.comb += self.available.eq(~taken[-1])
        with m.If(self.take & ~given):
            m.d.sync += taken.eq(taken + 1)
        with m.Elif(given & ~self.take):
            m.d.sync += taken.eq(taken - 1)
        return m


class RowAddresses(wiring.Component):
    """Word addresses of a tensor, row by row: ``base + word * stride + row``, one per ``step``.

    ``start`` loads the first row in the next cycle; the other inputs are constant until ``end`` has
    been stepped over. ``row_end`` marks a row's last word (index ``last_word``), ``end`` that of
    the last row; both are registers or nearly.
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
                "last_word": In(fields["words"]),
                "step": In(1),
                "address": Out(WORD_ADDRESS_BITS),
                "row_end": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address = Signal(WORD_ADDRESS_BITS, name="address")
        next_row = Signal(WORD_ADDRESS_BITS, name="next_row")
        words_left = Signal.like(self.last_word, name="words_left")  # in the row, beyond this one
        rows_left = Signal.like(self.rows, name="rows_left")
        row_end = Signal(name="row_end")
        last_row = Signal(name="last_row")
        single = register(m, self.last_word == 0, "single")
        m.d.comb += [
            self.address.eq(address),
            self.row_end.eq(row_end),
            self.end.eq(row_end & last_row),
        ]
        with m.If(self.start):
            m.d.sync += [
                address.eq(self.base),
                next_row.eq(self.base + 1),
                words_left.eq(self.last_word),
                row_end.eq(self.last_word == 0),
                rows_left.eq(self.rows),
                last_row.eq(self.rows == 1),
            ]
        with m.Elif(self.step):
            m.d.sync += [
                words_left.eq(words_left - 1),
                row_end.eq(words_left == 1),
                address.eq(address + self.stride),
            ]
            with m.If(row_end):
                m.d.sync += [
                    words_left.eq(self.last_word),
                    row_end.eq(single),
                    address.eq(next_row),
                    next_row.eq(next_row + 1),
                    rows_left.eq(rows_left - 1),
                    last_row.eq(rows_left == 2),
                ]
        return m
