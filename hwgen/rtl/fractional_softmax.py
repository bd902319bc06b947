# SPDX-License-Identifier: Apache-2.0
"""Fractional softmax in hardware: one slice per cycle (hwgen.numerics.fractional_softmax).

A row passes three stages, each with a row of its own: its logits wait in a ring until their maximum
is known; they become exponents, which wait in a second ring until their Sum is; then the divider
makes codes of them. Words used here: *slice*, ks, q, E and R as in the reference; *exponent*:
4 + g bits, of which the g lowest are the fraction.
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.numerics.e2softmax import ONE_SUM_BITS, E2SoftmaxShape
from hwgen.numerics.fractional_softmax import (
    CODE_BITS,
    SHIFT_BITS,
    check_parameters,
    exponent_maximum,
    exponentials,
    reciprocals,
)
from hwgen.rtl.e2softmax import logits_layout
from hwgen.rtl.pipeline import (
    Credits,
    Fifo,
    RowRelease,
    delay,
    leading_one,
    lookup,
    register,
    tree,
)
from hwgen.rtl.ram import SmallMemory
from hwgen.timings import (
    EXPONENT_LATENCY,
    maximum_latency,
    ring_depth,
    slice_latency,
    sum_latency,
    tree_latency,
)

#: Slices that may be between the launch of the last stage and the output.
OUTPUT_DEPTH = 16


def weights_layout(vec: int) -> data.StructLayout:
    """A slice of codes (masked lanes 0) and its row's shift; ``last`` marks a row's end."""
    return data.StructLayout(
        {"codes": data.ArrayLayout(CODE_BITS, vec), "shift": SHIFT_BITS, "last": 1}
    )


class FractionalExponent(wiring.Component):
    """``min(2^(4+g) - 1, rshr(23 * distance, fraction_bits + 4 - g))`` in every lane.

    A lane without ``mask``, given ``EXPONENT_LATENCY - 1`` cycles after its distance, has the
    largest exponent, whose code is 0. One result a cycle, :data:`EXPONENT_LATENCY` cycles later. No
    back-pressure. ``fraction_bits`` is constant while values are inside.
    """

    distances: In
    mask: In
    fraction_bits: In
    exponents: Out

    def __init__(self, lanes: int, exponent_fraction_bits: int) -> None:
        self.lanes = lanes
        self.g = exponent_fraction_bits
        super().__init__(
            {
                "distances": In(data.ArrayLayout(8, lanes)),
                "mask": In(lanes),
                "fraction_bits": In(4),
                "exponents": Out(data.ArrayLayout(4 + self.g, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        g, bits = self.g, 4 + self.g
        dropped = 3 - g
        fraction = register(m, self.fraction_bits, "fraction")
        for lane in range(self.lanes):
            d = self.distances[lane]
            # The rounding needs bits f + 3 - g and up of 23 d = 24 d - d: the 3 - g lowest only
            # matter as a borrow.
            three = register(m, d + (d << 1), f"three_{lane}")
            borrow = d[:dropped].any() if dropped else 0
            subtract = register(m, d[dropped:] + borrow, f"subtract_{lane}")
            product = register(m, ((three << g) - subtract)[: 10 + g], f"product_{lane}")
            coarse = register(m, product >> Cat(Const(0, 2), fraction[2:]), f"coarse_{lane}")
            half = register(m, coarse >> fraction[:2], f"half_{lane}")
            largest = half[bits + 1 :].any() | half[: bits + 1].all() | ~self.mask[lane]
            exponent = Signal(bits, name=f"exponent_{lane}", reset_less=True)
            m.d.sync += exponent.eq(
                Mux(largest, exponent_maximum(g), (half[: bits + 1] + 1)[1 : bits + 1])
            )
            m.d.comb += self.exponents[lane].eq(exponent)
        return m


class _Ring:
    """Slices of a stage that wait for their row's result; what ends a row is known at the launch.

    Args:
        m: module that it becomes part of.
        shape: of an entry.
        depth: entries, a power of two.
        name: of its submodules.
    """

    def __init__(self, m: Module, shape: data.Layout, depth: int, name: str) -> None:
        self._m = m
        ring = SmallMemory(f"{name}_ring", shape=shape, depth=depth)
        lasts = SmallMemory(
            f"{name}_lasts", shape=1, depth=depth, attrs={"ram_style": "distributed"}
        )
        self.room = Credits(depth)
        self.release = RowRelease(depth)
        m.submodules[f"{name}_ring"] = ring
        m.submodules[f"{name}_lasts"] = lasts
        m.submodules[f"{name}_room"] = self.room
        m.submodules[f"{name}_release"] = self.release
        self._fill = Signal(exact_log2(depth), name=f"{name}_fill")
        self._write, self._last_write = ring.writer(f"{name}_write"), lasts.writer(f"{name}_end")
        self._read = ring.reader(f"{name}_read")
        self._last_read = lasts.reader(f"{name}_last", domain="comb")
        self.entry = self._read.data  #: one cycle after the launch
        self.last = self._last_read.data  #: at the launch

    def connect(self, valid: Signal, last: Signal, launch: Signal) -> data.View:
        """Write with ``valid``, read with ``launch``; returns the entry to be written."""
        self._m.d.comb += [
            self._write.en.eq(valid),
            self._write.addr.eq(self._fill),
            self._last_write.en.eq(valid),
            self._last_write.addr.eq(self._fill),
            self._last_write.data.eq(last),
            self._read.en.eq(launch),
            self._read.addr.eq(self.release.index),
            self._last_read.addr.eq(self.release.index),
            self.release.launch.eq(launch),
            self.room.give.eq(launch),
        ]
        with self._m.If(valid):
            self._m.d.sync += self._fill.eq(self._fill + 1)
        return self._write.data


class FractionalSoftmax(wiring.Component):
    """Fractional softmax of rows of int8 logits (hwgen.numerics.fractional_softmax).

    Takes and returns one slice per cycle, for rows of one slice too; three rows are worked on at a
    time. Latency: the first codes of a row of S slices are offered ``maximum_latency(vec) +
    sum_latency(vec) + CODES_LATENCY + S - 1`` cycles after its last slice was taken, if the stages
    are free.

    Back-pressure: ``o_stream`` may stall at will; then the rings fill and ``i_stream`` stops.
    Nothing inside stalls. ``i_stream.ready`` does not depend on ``i_stream.valid``.
    ``fraction_bits`` is constant while rows are inside.
    """

    fraction_bits: In
    i_stream: In
    o_stream: Out

    def __init__(
        self, vec: int, max_length: int, exponent_fraction_bits: int, divider_bits: int
    ) -> None:
        self.vec = vec
        self.max_length = max_length
        self.g, self.q = check_parameters(exponent_fraction_bits, divider_bits)
        self.shape = E2SoftmaxShape(vec=vec, max_length=max_length)
        super().__init__(
            {
                "fraction_bits": In(4),
                "i_stream": In(stream.Signature(logits_layout(vec))),
                "o_stream": Out(stream.Signature(weights_layout(vec))),
            }
        )

    @property
    def ring_slices(self) -> tuple[int, int]:
        """Slices in the two rings: a row each and what is on its way to and from it."""
        slices = self.shape.max_slices
        return (
            ring_depth(slices, maximum_latency(self.vec)),
            ring_depth(slices, sum_latency(self.vec)),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        vec, g, bits = self.vec, self.g, 4 + self.g
        levels = slice_latency(vec)
        single = levels - tree_latency(vec)
        depths = self.ring_slices
        waiting = _Ring(
            m,
            data.StructLayout({"logits": data.ArrayLayout(signed(8), vec), "mask": vec}),
            depths[0],
            "logits",
        )
        summing = _Ring(
            m,
            data.StructLayout({"exponents": data.ArrayLayout(bits, vec)}),
            depths[1],
            "exponents",
        )
        m.submodules.maxima = maxima = Fifo(8, depths[0])
        result_layout = data.StructLayout({"ks": self.shape.exponent_bits, "q": self.q})
        m.submodules.results = results = Fifo(result_layout, depths[1])

        # Input: masked lanes become -128, which no maximum of a slice notices.
        payload = self.i_stream.payload
        taken = Signal(name="taken")
        m.d.comb += [
            self.i_stream.ready.eq(waiting.room.available),
            taken.eq(self.i_stream.valid & waiting.room.available),
            waiting.room.take.eq(taken),
        ]
        in_valid = register(m, taken, "in_valid", reset=True)
        in_last = register(m, payload.last, "in_last")
        in_mask = register(m, payload.mask, "in_mask")
        in_logits = [
            register(m, Mux(payload.mask[i], payload.logits[i], -128), f"in_logit_{i}")
            for i in range(vec)
        ]

        # Maximum of the slice, then of the row.
        slice_maximum = tree(m, in_logits, lambda a, b: Mux(a > b, a, b), "maximum")
        slice_maximum = delay(m, slice_maximum, single, "single_maximum")
        max_valid = delay(m, in_valid, levels, "max_valid", reset=True)
        max_last = delay(m, in_last, levels, "max_last")
        first = Signal(init=1, name="first")
        maximum = Signal(signed(8), reset_less=True, name="maximum")
        with m.If(max_valid):
            m.d.sync += first.eq(max_last)
            with m.If(first | (slice_maximum > maximum)):
                m.d.sync += maximum.eq(slice_maximum)
        row_known = register(m, max_valid & max_last, "row_known", reset=True)
        m.d.comb += [
            maxima.i_valid.eq(row_known),
            maxima.i_payload.eq(maximum.as_unsigned()),
            waiting.release.entered.eq(register(m, max_valid, "max_entered", reset=True)),
            waiting.release.last.eq(register(m, max_last, "max_entered_last")),
        ]

        # Launch of logits whose row's maximum is known, if there is room for their exponents.
        start = Signal(name="start")
        entry = waiting.connect(in_valid, in_last, start)
        m.d.comb += [
            entry.mask.eq(in_mask),
            *(entry.logits[i].eq(in_logits[i]) for i in range(vec)),
            start.eq(waiting.release.waiting & summing.room.available),
            summing.room.take.eq(start),
            maxima.o_stream.ready.eq(start & waiting.last),
        ]
        row_maximum = register(m, maxima.o_stream.payload, "row_maximum")
        m.submodules.exponent = exponent = FractionalExponent(vec, g)
        m.d.comb += [
            exponent.fraction_bits.eq(self.fraction_bits),
            exponent.mask.eq(delay(m, waiting.entry.mask, EXPONENT_LATENCY, "mask")),
        ]
        for i in range(vec):
            difference = (row_maximum - waiting.entry.logits[i])[:8]
            m.d.comb += exponent.distances[i].eq(register(m, difference, f"distance_{i}"))
        wait = 2 + EXPONENT_LATENCY
        exp_valid = delay(m, start, wait, "exp_valid", reset=True)
        exp_last = delay(m, waiting.last, wait, "exp_last")

        # Sum of the slice's terms E[j] >> a, then of the row's.
        table = [e >> a for a in range(16) for e in exponentials(g)]
        terms = [lookup(table, ONE_SUM_BITS + 1, exponent.exponents[i]) for i in range(vec)]
        if g == 0:
            # Only here the largest exponent stands for 2^-15, not for 0.
            exp_mask = register(m, exponent.mask, "exp_mask")
            terms = [Mux(exp_mask[i], term, 0) for i, term in enumerate(terms)]
        slice_sum = delay(m, tree(m, terms, lambda a, b: a + b, "terms"), single, "single_terms")
        sum_valid = delay(m, exp_valid, levels, "sum_valid", reset=True)
        sum_last = delay(m, exp_last, levels, "sum_last")
        sum_first = Signal(init=1, name="sum_first")
        total = Signal(self.shape.sum_bits, reset_less=True, name="total")
        with m.If(sum_valid):
            m.d.sync += [sum_first.eq(sum_last), total.eq(Mux(sum_first, 0, total) + slice_sum)]

        # Leading one of Sum and the bits right of it; the row's result releases its exponents.
        row_valid = delay(m, sum_valid, 2, "row_valid", reset=True)
        row_last = delay(m, sum_last, 2, "row_last")
        ks = register(m, leading_one(list(total[ONE_SUM_BITS:]))[1], "ks")
        ks_total = register(m, total, "ks_total")
        m.d.comb += [
            results.i_valid.eq(row_valid & row_last),
            results.i_payload.ks.eq(ks),
            results.i_payload.q.eq(ks_total[ONE_SUM_BITS - self.q :].bit_select(ks, self.q)),
            summing.release.entered.eq(row_valid),
            summing.release.last.eq(row_last),
        ]

        # Launch of exponents whose row's Sum is known, if the output has room for their codes.
        m.submodules.output_room = output_room = Credits(OUTPUT_DEPTH)
        launch = Signal(name="launch")
        written = summing.connect(exp_valid, exp_last, launch)
        m.d.comb += [
            *(written.exponents[i].eq(exponent.exponents[i]) for i in range(vec)),
            launch.eq(summing.release.waiting & output_room.available),
            output_room.take.eq(launch),
            results.o_stream.ready.eq(launch & summing.last),
        ]
        result = register(m, results.o_stream.payload, "result")

        # Divider: the row's 2^g constants R[.][q]; a lane takes one and shifts it with rounding.
        constants = [
            register(m, lookup(row, CODE_BITS, result.q), f"reciprocal_{j}")
            for j, row in enumerate(reciprocals(g, self.q))
        ]
        m.submodules.outputs = outputs = Fifo(weights_layout(vec), OUTPUT_DEPTH)
        m.d.comb += [
            outputs.i_valid.eq(delay(m, launch, 5, "codes_valid", reset=True)),
            outputs.i_payload.last.eq(delay(m, summing.last, 5, "codes_last")),
            outputs.i_payload.shift.eq(delay(m, result.ks, 4, "codes_shift")),
        ]
        for i in range(vec):
            y = register(m, summing.entry.exponents[i], f"exponent_{i}")
            chosen = constants[0]
            if g:
                chosen = data.View(data.ArrayLayout(CODE_BITS, 1 << g), Cat(constants))[y[:g]]
            chosen = register(m, chosen, f"constant_{i}")
            whole = register(m, y[g:], f"whole_{i}")
            # The lowest bit is the one that rounds.
            fine = register(m, Cat(Const(0, 1), chosen) >> whole[:2], f"fine_{i}")
            coarse = register(m, whole[2:], f"coarse_{i}")
            shifted = Signal(CODE_BITS + 1, name=f"shifted_{i}")
            m.d.comb += shifted.eq(fine >> Cat(Const(0, 2), coarse))
            code = register(m, (shifted[1:] + shifted[0])[:CODE_BITS], f"code_{i}")
            m.d.comb += outputs.i_payload.codes[i].eq(code)

        o_valid = Signal(name="o_valid")
        o_payload = Signal(weights_layout(vec), reset_less=True, name="o_payload")
        head = outputs.o_stream
        m.d.comb += [
            head.ready.eq(~o_valid | self.o_stream.ready),
            output_room.give.eq(head.valid & head.ready),
            self.o_stream.valid.eq(o_valid),
            self.o_stream.payload.eq(o_payload),
        ]
        with m.If(head.ready):
            m.d.sync += [o_valid.eq(head.valid), o_payload.eq(head.payload)]
        return m
