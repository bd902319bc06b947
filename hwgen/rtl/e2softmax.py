# SPDX-License-Identifier: Apache-2.0
"""E2Softmax in hardware: one slice of logits per cycle (hwgen.numerics.e2softmax).

After SOLE (ICCAD 2023, arXiv 2510.17189), Fig. 4. Words used here: *slice* k of a row, its running
maximum M_k, the exponents Y of its elements, *Sum* with 15 fraction bits, ks and q of Sum (see the
reference).
"""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.numerics.e2softmax import (
    EXPONENT_MAXIMUM,
    ONE_SUM_BITS,
    QUOTIENT_HIGH,
    QUOTIENT_LOW,
    E2SoftmaxShape,
)
from hwgen.numerics.rounding import rshr
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
    LOG2EXP_LATENCY,
    e2softmax_stage_1,
    ring_depth,
    slice_latency,
    tree_latency,
)

#: Slices that may be between the launch of stage 2 and the output.
OUTPUT_DEPTH = 16


def logits_layout(vec: int) -> data.StructLayout:
    """A slice of logits: ``mask`` marks the valid lanes (at least one), ``last`` a row's end."""
    return data.StructLayout({"logits": data.ArrayLayout(signed(8), vec), "mask": vec, "last": 1})


def codes_layout(vec: int) -> data.StructLayout:
    """A slice of codes (masked lanes 0); ``last`` marks the slice that ends the row."""
    return data.StructLayout({"codes": data.ArrayLayout(8, vec), "last": 1})


class Log2Exp(wiring.Component):
    """``min(15, rshr(23 * distance, fraction_bits + 4))`` in every lane.

    One result a cycle, :data:`LOG2EXP_LATENCY` cycles later. No back-pressure.
    ``fraction_bits`` is constant while values are inside.
    """

    distances: In
    fraction_bits: In
    exponents: Out

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "distances": In(data.ArrayLayout(8, lanes)),
                "fraction_bits": In(4),
                "exponents": Out(data.ArrayLayout(4, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The rounding needs bits f+3 and up of 23 d = 24 d - d, so its three lowest bits only
        # matter as a borrow.
        fraction = register(m, self.fraction_bits, "fraction")
        for lane in range(self.lanes):
            d = self.distances[lane]
            three = register(m, d + (d << 1), f"three_{lane}")
            subtract = register(m, d[3:] + d[:3].any(), f"subtract_{lane}")
            product = register(m, (three - subtract)[:10], f"product_{lane}")
            coarse = register(m, product >> Cat(Const(0, 2), fraction[2:]), f"coarse_{lane}")
            half = Signal(10, name=f"half_{lane}")
            m.d.comb += half.eq(coarse >> fraction[:2])
            saturated = half[5:].any() | half[:5].all()
            exponent = Signal(4, name=f"exponent_{lane}", reset_less=True)
            m.d.sync += exponent.eq(Mux(saturated, EXPONENT_MAXIMUM, (half[:5] + 1)[1:5]))
            m.d.comb += self.exponents[lane].eq(exponent)
        return m


class E2Softmax(wiring.Component):
    """E2Softmax of rows of int8 logits (:func:`hwgen.numerics.e2softmax.e2softmax`).

    Stage 1 (maximum, exponents, Sum) of later rows runs beside stage 2 (correction, divider) of
    earlier ones: the exponents wait in a ring of slices until their row's Sum is known. Takes and
    returns one slice per cycle, for rows of one slice too. Latency: the first codes of a row are
    offered ``e2softmax_stage_1(vec) + E2SOFTMAX_STAGE_2`` cycles after its last slice was taken, if
    stage 2 is free.

    Back-pressure: ``o_stream`` may stall at will; then the ring fills and ``i_stream`` stops.
    Nothing inside stalls. ``i_stream.ready`` does not depend on ``i_stream.valid``.
    ``fraction_bits`` is constant while rows are inside.
    """

    fraction_bits: In
    i_stream: In
    o_stream: Out

    def __init__(self, vec: int, max_length: int) -> None:
        self.vec = vec
        self.max_length = max_length
        self.shape = E2SoftmaxShape(vec=vec, max_length=max_length)
        super().__init__(
            {
                "fraction_bits": In(4),
                "i_stream": In(stream.Signature(logits_layout(vec))),
                "o_stream": Out(stream.Signature(codes_layout(vec))),
            }
        )

    @property
    def ring_slices(self) -> int:
        """Slices that may be inside up to stage 2: a row and what the pipeline of stage 1 holds."""
        return ring_depth(self.shape.max_slices, e2softmax_stage_1(self.vec))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        vec, depth = self.vec, self.ring_slices
        levels = slice_latency(vec)
        single = levels - tree_latency(vec)
        m.submodules.room = room = Credits(depth)
        m.submodules.ring = ring = SmallMemory(
            "ring",
            shape=data.StructLayout(
                {"exponents": data.ArrayLayout(4, vec), "maximum": 8, "last": 1}
            ),
            depth=depth,
        )
        ks_bits = self.shape.exponent_bits
        m.submodules.results = results = Fifo(
            data.StructLayout({"maximum": 8, "ks": ks_bits, "q": 1}), depth
        )

        # Stage 1, input: masked lanes become -128, which no maximum of a slice notices.
        payload = self.i_stream.payload
        taken = Signal(name="taken")
        m.d.comb += [
            self.i_stream.ready.eq(room.available),
            taken.eq(self.i_stream.valid & room.available),
            room.take.eq(taken),
        ]
        in_valid = register(m, taken, "in_valid", reset=True)
        in_last = register(m, payload.last, "in_last")
        in_mask = register(m, payload.mask, "in_mask")
        in_logits = [
            register(m, Mux(payload.mask[i], payload.logits[i], -128), f"in_logit_{i}")
            for i in range(vec)
        ]

        # Maximum of the slice, then of the row so far.
        slice_maximum = tree(m, in_logits, lambda a, b: Mux(a > b, a, b), "maximum")
        slice_maximum = delay(m, slice_maximum, single, "single_maximum")
        max_valid = delay(m, in_valid, levels, "max_valid", reset=True)
        max_last = delay(m, in_last, levels, "max_last")
        first = Signal(init=1, name="first")
        maximum = Signal(signed(8), reset_less=True, name="maximum")
        previous = Signal(signed(8), reset_less=True, name="previous")
        with m.If(max_valid):
            m.d.sync += [first.eq(max_last), previous.eq(maximum)]
            with m.If(first | (slice_maximum > maximum)):
                m.d.sync += maximum.eq(slice_maximum)

        # Distances to the running maximum; the last lane is the step of the maximum itself.
        m.submodules.log2exp = log2exp = Log2Exp(vec + 1)
        m.d.comb += log2exp.fraction_bits.eq(self.fraction_bits)
        for i in range(vec):
            logit = delay(m, in_logits[i], levels + 1, f"logit_{i}")
            m.d.comb += log2exp.distances[i].eq(register(m, (maximum - logit)[:8], f"distance_{i}"))
        m.d.comb += log2exp.distances[vec].eq(register(m, (maximum - previous)[:8], "step"))
        exp_valid = delay(m, max_valid, 2 + LOG2EXP_LATENCY, "exp_valid", reset=True)
        exp_last = delay(m, max_last, 2 + LOG2EXP_LATENCY, "exp_last")
        exp_first = delay(m, first, 2 + LOG2EXP_LATENCY, "exp_first")
        exp_mask = delay(m, in_mask, levels + 2 + LOG2EXP_LATENCY, "exp_mask")
        exp_maximum = delay(m, maximum.as_unsigned(), 1 + LOG2EXP_LATENCY, "exp_maximum")

        # Into the ring. The exponent 15 ends as code 0, so masked lanes need no mask there.
        fill = Signal(exact_log2(depth), name="fill")
        ring_write = ring.writer("ring_write")
        m.d.comb += [
            ring_write.en.eq(exp_valid),
            ring_write.addr.eq(fill),
            ring_write.data.maximum.eq(exp_maximum),
            ring_write.data.last.eq(exp_last),
        ]
        for i in range(vec):
            masked = log2exp.exponents[i] | (~exp_mask[i]).replicate(4)
            m.d.comb += ring_write.data.exponents[i].eq(masked)
        with m.If(exp_valid):
            m.d.sync += fill.eq(fill + 1)

        # Sum of the slice's terms 2^(15 - Y), then Sum.
        terms = [
            Cat(exp_mask[i] & (log2exp.exponents[i] == ONE_SUM_BITS - b) for b in range(16))
            for i in range(vec)
        ]
        slice_sum = delay(m, tree(m, terms, lambda a, b: a + b, "terms"), single, "single_terms")
        sum_valid = delay(m, exp_valid, levels, "sum_valid", reset=True)
        sum_last = delay(m, exp_last, levels, "sum_last")
        # Sum's loop is the longest path: these two end in flip-flops (reset), not in slow shift-
        # register LUTs.
        sum_first = register(
            m, delay(m, exp_first, levels - 1, "sum_first"), "sum_first", reset=True
        )
        sum_step = register(
            m, delay(m, log2exp.exponents[vec], levels - 1, "sum_step"), "sum_step", reset=True
        )
        sum_maximum = delay(m, exp_maximum, levels, "sum_maximum")
        total = Signal(self.shape.sum_bits, reset_less=True, name="total")
        with m.If(sum_valid):
            m.d.sync += total.eq(Mux(sum_first, 0, total >> sum_step) + slice_sum)

        # Leading one of Sum and the bit right of it; the row's result releases its slices.
        row_valid = delay(m, sum_valid, 2, "row_valid", reset=True)
        row_last = delay(m, sum_last, 2, "row_last")
        ks = register(m, leading_one(list(total[ONE_SUM_BITS:]))[1], "ks")
        ks_total = register(m, total, "ks_total")
        m.submodules.release = release = RowRelease(depth)
        m.d.comb += [
            release.entered.eq(row_valid),
            release.last.eq(row_last),
            results.i_valid.eq(row_valid & row_last),
            results.i_payload.maximum.eq(delay(m, sum_maximum, 2, "row_maximum")),
            results.i_payload.ks.eq(ks),
            results.i_payload.q.eq(ks_total[ONE_SUM_BITS - 1 :].bit_select(ks, 1)),
        ]

        # Stage 2, launch: a slice of a row whose result is known, if the output has room for it.
        m.submodules.output_room = output_room = Credits(OUTPUT_DEPTH)
        launch = Signal(name="launch")
        ring_read = ring.reader("ring_read")
        m.d.comb += [
            launch.eq(release.waiting & output_room.available),
            release.launch.eq(launch),
            output_room.take.eq(launch),
            room.give.eq(launch),
            ring_read.addr.eq(release.index),
            ring_read.en.eq(launch),
        ]
        slice_valid = register(m, launch, "slice_valid", reset=True)
        entry, result = ring_read.data, results.o_stream.payload
        m.d.comb += results.o_stream.ready.eq(slice_valid & entry.last)

        # Correction Log2Exp(M_last - M_k), with ks: one number per slice. Shifts of 9 and more give
        # code 0, so every sum may saturate at 15.
        m.submodules.correction = correction = Log2Exp(1)
        difference = (result.maximum - entry.maximum)[:8]
        m.d.comb += [
            correction.fraction_bits.eq(self.fraction_bits),
            correction.distances[0].eq(register(m, difference, "difference")),
        ]
        wait = 1 + LOG2EXP_LATENCY
        shift = correction.exponents[0] + delay(m, result.ks, wait, "slice_ks")
        slice_shift = register(
            m, Mux(shift > EXPONENT_MAXIMUM, EXPONENT_MAXIMUM, shift)[:4], "slice_shift"
        )
        codes_valid = delay(m, slice_valid, wait + 2, "codes_valid", reset=True)
        codes_last = delay(m, entry.last, wait + 2, "codes_last")
        codes_q = delay(m, result.q, wait + 2, "codes_q")
        m.submodules.outputs = outputs = Fifo(
            data.StructLayout({"shifts": data.ArrayLayout(4, vec), "q": 1, "last": 1}), OUTPUT_DEPTH
        )
        m.d.comb += [
            outputs.i_valid.eq(codes_valid),
            outputs.i_payload.last.eq(codes_last),
            outputs.i_payload.q.eq(codes_q),
        ]
        for i in range(vec):
            total_shift = delay(m, entry.exponents[i], wait + 1, f"exponent_{i}") + slice_shift
            clipped = Mux(total_shift[4], EXPONENT_MAXIMUM, total_shift[:4])
            m.d.comb += outputs.i_payload.shifts[i].eq(register(m, clipped, f"shift_{i}"))

        # Divider: one of two constants, shifted with rounding, is a function of five bits.
        divider = [int(rshr(c, e)) for c in (QUOTIENT_HIGH, QUOTIENT_LOW) for e in range(16)]
        o_valid = Signal(name="o_valid")
        o_payload = Signal(codes_layout(vec), reset_less=True, name="o_payload")
        head = outputs.o_stream
        m.d.comb += [
            head.ready.eq(~o_valid | self.o_stream.ready),
            output_room.give.eq(head.valid & head.ready),
            self.o_stream.valid.eq(o_valid),
            self.o_stream.payload.eq(o_payload),
        ]
        with m.If(head.ready):
            m.d.sync += [o_valid.eq(head.valid), o_payload.last.eq(head.payload.last)]
            for i in range(vec):
                index = Cat(head.payload.shifts[i], head.payload.q)
                m.d.sync += o_payload.codes[i].eq(lookup(divider, 8, index))
        return m
