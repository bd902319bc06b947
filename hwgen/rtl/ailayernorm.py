# SPDX-License-Identifier: Apache-2.0
"""AILayerNorm in hardware: one group of channels per cycle (hwgen.numerics.ailayernorm).

After SOLE (ICCAD 2023, arXiv 2510.17189), Fig. 5. Words used here: *group*: ``lanes`` channels, one
cycle; d, Ex, Ex2, V, e, r as in the reference; *stage 1* statistics of a row, *preprocess* from
sums to r, *stage 2* affine.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.hdl import ShapeLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from hwgen.errors import ConfigError
from hwgen.numerics.ailayernorm import (
    RSQRT_BITS,
    RSQRT_FIRST,
    RSQRT_INDEX_BITS,
    RSQRT_TABLE,
    AILayerNormShape,
)
from hwgen.rtl.pipeline import (
    Credits,
    Fifo,
    RowRelease,
    delay,
    leading_one,
    lookup,
    register,
    saturate,
    tree,
)
from hwgen.rtl.ram import SmallMemory
from hwgen.timings import (
    PREPROCESS_LATENCY,
    ailayernorm_stage_1,
    ring_depth,
    tree_latency,
)

#: Parameters of one channel.
PARAMETER = data.StructLayout({"beta": signed(24), "gamma": signed(8), "alpha": 2})
#: Groups that may be between the launch of stage 2 and the output.
OUTPUT_DEPTH = 32
#: Bits of one partial product's unsigned factor: the 18-bit port of a DSP.
_CHUNK_BITS = 17
#: Of a row's shift.
SHIFT_BITS = 6


def parameters_layout(lanes: int, max_channels: int) -> data.StructLayout:
    """One write of parameters: lanes with ``enable`` set of one group of one slot."""
    if lanes < 2 or lanes & (lanes - 1):
        raise ConfigError(f"Lanes of AILayerNorm must be a power of two from 2 up, not {lanes!r}")
    return data.StructLayout(
        {
            "slot": 1,
            "group": bits_for(-(-max_channels // lanes) - 1),
            "enable": lanes,
            "data": data.ArrayLayout(PARAMETER, lanes),
        }
    )


def _product(m: Module, a: Value, b: Value, name: str) -> Value:
    """Product of unsigned values in partial products of one DSP each; 3 cycles, one a cycle."""
    parts = []
    for low in range(0, len(b), _CHUNK_BITS):
        partial = register(m, a * b[low : low + _CHUNK_BITS], f"{name}_{low}_m")
        parts.append(register(m, partial, f"{name}_{low}_p") << low)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return register(m, total, name)


def _lane_statistics(
    m: Module,
    i: int,
    given: Value,
    enabled: Value,
    alpha_given: Value,
    *,
    zero_point: Value,
    exact: Value,
) -> tuple[Value, Value]:
    """Stage 1 of lane i: ``d * 2^alpha`` and ``(d * 2^alpha)^2``, six cycles later.

    d, |d|, the compressed or exact square, the shifts by alpha. A masked lane has d = 0.
    """
    y_squared = [y * y for y in range(16)]
    x = register(m, given, f"in_x_{i}")
    d = register(m, Mux(enabled, x - zero_point, 0), f"in_d_{i}")
    alpha = register(m, alpha_given, f"in_alpha_{i}")
    magnitude = register(m, Mux(d[8], -d, d)[:8], f"magnitude_{i}")
    d_scaled = register(m, d << alpha, f"in_d_scaled_{i}")
    # Dynamic compress: half to even; 16 of the fine range is (4, coarse); 16 of the coarse
    # one clips to 15.
    fine = magnitude[2:6] + (magnitude[1] & (magnitude[0] | magnitude[2]))
    coarse = magnitude[4:8] + (magnitude[3] & (magnitude[:3].any() | magnitude[4]))
    is_coarse = magnitude[6:].any()
    y = register(
        m,
        Mux(is_coarse, Mux(coarse[4], 15, coarse[:4]), Mux(fine[4], 4, fine[:4]))[:4],
        f"y_{i}",
    )
    select = register(m, is_coarse | fine[4], f"select_{i}")
    y_square = lookup(y_squared, 8, y)
    compressed = register(m, Mux(select, y_square << 8, y_square << 4)[:16], f"compressed_{i}")
    square_m = register(m, magnitude * magnitude, f"square_m_{i}")
    square_p = register(m, square_m, f"square_p_{i}")
    square = register(m, Mux(exact, square_p, compressed), f"square_{i}")
    alpha_square = delay(m, alpha, 4, f"square_alpha_{i}")
    scaled_square = register(m, square << Cat(Const(0, 1), alpha_square), f"scaled_square_{i}")
    return delay(m, d_scaled, 4, f"sum_d_{i}"), scaled_square


def _preprocess(
    m: Module,
    shape: AILayerNormShape,
    *,
    channels: Value,
    ex: Value,
    ex2: Value,
    variance_floor: Value,
    shift_base: Value,
) -> tuple[Value, Value]:
    """``V = max(C Ex2 - Ex^2, C^2)``, its root's reciprocal and the row's shift.

    :data:`PREPROCESS_LATENCY` cycles. The shift is one less than that of the contract: the last
    bit is left for rounding. It is at least 2.
    """
    magnitude = register(m, Mux(ex[-1], -ex, ex)[: shape.sum_bits - 1], "ex_magnitude")
    ex2_1 = register(m, ex2, "ex2_1")
    c_ex2 = _product(m, channels, ex2_1, "c_ex2")
    ex_square = _product(m, magnitude, magnitude, "ex_square")
    difference = register(m, (c_ex2 - ex_square)[: shape.variance_bits].as_signed(), "difference")
    excess = register(m, difference - variance_floor, "excess")
    difference_1 = register(m, difference, "difference_1")
    variance = register(
        m, Mux(excess[-1], variance_floor, difference_1)[: shape.variance_bits - 1], "variance"
    )
    # e: half the position of the leading one, so it is found among pairs of bits.
    pairs = register(
        m,
        Cat(variance[i : i + 2].any() for i in range(0, len(variance), 2)),
        "pairs",
    )
    variance_1 = register(m, variance, "variance_1")
    e = register(m, leading_one(list(pairs))[1], "e")
    variance_2 = register(m, variance_1, "variance_2")
    # The index: eight bits from the leading pair down.
    e_bits = len(e)
    coarse = register(
        m,
        ((variance_2 << RSQRT_INDEX_BITS) >> Cat(Const(0, 4), e[3:]))[: 8 + 14]
        if e_bits > 3
        else (variance_2 << RSQRT_INDEX_BITS)[: 8 + 14],
        "window",
    )
    e_1 = register(m, e, "e_1")
    index = register(m, (coarse >> Cat(Const(0, 1), e_1[:3]))[:8], "index")
    e_2 = register(m, e_1, "e_2")
    m.submodules.rsqrt = rsqrt = SmallMemory(
        "rsqrt",
        shape=RSQRT_BITS,
        depth=4 * RSQRT_FIRST,
        init=[0] * RSQRT_FIRST + [int(entry) for entry in RSQRT_TABLE],
    )
    root = rsqrt.reader("root")
    m.d.comb += root.addr.eq(index)
    shift = register(m, (e_2 + shift_base)[:SHIFT_BITS], "row_shift")
    return root.data, shift


class AILayerNorm(wiring.Component):
    """AILayerNorm of rows of uint8 codes, ``lanes`` channels per cycle.

    The bits are those of :func:`hwgen.numerics.ailayernorm.ailayernorm`.

    The row waits in a ring of groups while its statistics, its reciprocal root and the affine of
    earlier rows run; the ring holds any number of short rows. Takes and returns one group per cycle
    for any length of rows. Latency: the first codes of a row are offered
    ``ailayernorm_stage_1(lanes) + AILAYERNORM_STAGE_2`` cycles after its last group was taken, if
    stage 2 is free.

    Back-pressure: ``o_stream`` may stall at will; then the ring fills and ``i_stream`` stops.
    Nothing inside stalls. ``i_stream.ready`` does not depend on ``i_stream.valid``.

    The settings (``channels`` ... ``slot``) are stable from four cycles before a row's first group
    is taken until its last codes were. ``lanes`` is a power of two. ``last`` is high with group
    ``ceil(channels / lanes) - 1`` of every row. Lanes beyond ``channels`` take no part in the
    statistics and return 0.

    The unit owns the parameters (two slots of ``alpha``, ``gamma``, ``beta``); ``parameters`` is
    always taken, and the slot in use is left alone. ``ptf_group`` reads the alphas of a group of
    the slot in use, one cycle later in ``ptf_alphas``, for the stage that makes the codes.
    """

    channels: In
    zero_point: In
    gamma_shift: In
    beta_fraction_bits: In
    output_zero_point: In
    exact: In
    slot: In
    parameters_valid: In
    parameters: In
    ptf_group: In
    ptf_alphas: Out
    i_stream: In
    o_stream: Out

    def __init__(self, lanes: int, max_channels: int) -> None:
        self.lanes = lanes
        self.max_channels = max_channels
        self.shape = AILayerNormShape(lanes=lanes, max_channels=max_channels)
        self.group_bits = bits_for(self.shape.max_slices - 1)
        super().__init__(
            {
                "channels": In(bits_for(max_channels)),
                "zero_point": In(8),
                "gamma_shift": In(4),
                "beta_fraction_bits": In(4),
                "output_zero_point": In(signed(8)),
                "exact": In(1),
                "slot": In(1),
                "parameters_valid": In(1),
                "parameters": In(parameters_layout(lanes, max_channels)),
                "ptf_group": In(self.group_bits),
                "ptf_alphas": Out(data.ArrayLayout(2, lanes)),
                "i_stream": In(
                    stream.Signature(
                        data.StructLayout({"x": data.ArrayLayout(8, lanes), "last": 1})
                    )
                ),
                "o_stream": Out(
                    stream.Signature(
                        data.StructLayout({"y": data.ArrayLayout(signed(8), lanes), "last": 1})
                    )
                ),
            }
        )

    @property
    def ring_groups(self) -> int:
        """Groups inside up to stage 2: a row and what stage 1 and the preprocess hold."""
        return ring_depth(self.shape.max_slices, ailayernorm_stage_1(self.lanes))

    def _parameter_memory(self, m: Module, field: str, bits: ShapeLike, readers: int) -> list[Any]:
        """Memory of one kind of parameter; its read ports."""
        store = SmallMemory(
            "store",
            shape=data.ArrayLayout(bits, self.lanes),
            depth=2 << self.group_bits,
        )
        m.submodules[f"{field}_memory"] = store
        write = store.writer("write", granularity=1)
        m.d.comb += [
            write.addr.eq(Cat(self.parameters.group, self.parameters.slot)),
            write.en.eq(Mux(self.parameters_valid, self.parameters.enable, 0)),
        ]
        for i in range(self.lanes):
            m.d.comb += write.data[i].eq(self.parameters.data[i][field])
        return [store.reader(f"read_{n}") for n in range(readers)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape, lanes, depth = self.shape, self.lanes, self.ring_groups
        levels = tree_latency(lanes)

        # Settings, with what follows from them.
        channels = register(m, self.channels, "channels_set")
        zero_point = register(m, self.zero_point, "zero_point_set")
        exact = register(m, self.exact, "exact_set")
        beta_fraction = register(m, self.beta_fraction_bits, "beta_fraction_set")
        output_zero_point = register(m, self.output_zero_point, "output_zero_point_set")
        last_group = register(
            m, (channels - 1)[exact_log2(lanes) :][: self.group_bits], "last_group"
        )
        tail = channels[: exact_log2(lanes)]
        beyond = [tail > i for i in range(lanes - 1)] + [Const(0, 1)]
        tail_mask = register(m, Cat((tail == 0) | bit for bit in beyond), "tail_mask")
        variance_floor = register(m, register(m, channels * channels, "floor_m"), "variance_floor")
        shift_base = register(
            m, self.gamma_shift - self.beta_fraction_bits + (RSQRT_BITS - 1), "shift_base"
        )

        # Parameters: each kind is read where it is needed.
        alpha_ptf, alpha_in, alpha_out = self._parameter_memory(m, "alpha", 2, 3)
        (gamma_out,) = self._parameter_memory(m, "gamma", signed(8), 1)
        (beta_out,) = self._parameter_memory(m, "beta", signed(24), 1)
        slot = register(m, self.slot, "slot_set")
        m.d.comb += [
            alpha_ptf.addr.eq(Cat(self.ptf_group, slot)),
            self.ptf_alphas.eq(alpha_ptf.data),
        ]

        # Input: into the ring and into the statistics.
        m.submodules.room = room = Credits(depth)
        m.submodules.ring = ring = SmallMemory(
            "ring", shape=data.ArrayLayout(8, lanes), depth=depth
        )
        taken = Signal(name="taken")
        group_in = Signal(self.group_bits, name="group_in")
        fill = Signal(exact_log2(depth), name="fill")
        payload = self.i_stream.payload
        ring_write = ring.writer("ring_write")
        m.d.comb += [
            self.i_stream.ready.eq(room.available),
            taken.eq(self.i_stream.valid & room.available),
            room.take.eq(taken),
            alpha_in.addr.eq(Cat(group_in, slot)),
            ring_write.addr.eq(fill),
            ring_write.data.eq(payload.x),
            ring_write.en.eq(taken),
        ]
        with m.If(taken):
            m.d.sync += [
                fill.eq(fill + 1),
                group_in.eq(Mux(payload.last, 0, group_in + 1)),
            ]
        in_valid = register(m, taken, "in_valid", reset=True)
        in_last = register(m, payload.last, "in_last")

        sums, squares = [], []
        for i in range(lanes):
            d_sum, square = _lane_statistics(
                *(m, i, payload.x[i], ~in_last | tail_mask[i], alpha_in.data[i]),
                zero_point=zero_point,
                exact=exact,
            )
            sums.append(d_sum)
            squares.append(square)
        sum_wait = 6 + levels
        ex_group = tree(m, sums, lambda a, b: a + b, "ex")
        ex2_group = tree(m, squares, lambda a, b: a + b, "ex2")
        sum_valid = delay(m, in_valid, sum_wait, "sum_valid", reset=True)
        sum_last = delay(m, in_last, sum_wait, "sum_last")
        first = Signal(init=1, name="first")
        ex = Signal(signed(shape.sum_bits), reset_less=True, name="ex")
        ex2 = Signal(shape.square_sum_bits, reset_less=True, name="ex2")
        with m.If(sum_valid):
            m.d.sync += [
                first.eq(sum_last),
                ex.eq(Mux(first, 0, ex) + ex_group),
                ex2.eq(Mux(first, 0, ex2) + ex2_group),
            ]

        root, shift = _preprocess(
            m,
            shape,
            channels=channels,
            ex=ex,
            ex2=ex2,
            variance_floor=variance_floor,
            shift_base=shift_base,
        )
        m.submodules.results = results = Fifo(
            data.StructLayout({"r": RSQRT_BITS, "shift": SHIFT_BITS, "ex": signed(shape.sum_bits)}),
            depth,
        )
        row_valid = delay(m, sum_valid, 1 + PREPROCESS_LATENCY, "row_valid", reset=True)
        row_last = delay(m, sum_last, 1 + PREPROCESS_LATENCY, "row_last")
        m.d.comb += [
            results.i_valid.eq(row_valid & row_last),
            results.i_payload.r.eq(root),
            results.i_payload.shift.eq(shift),
            results.i_payload.ex.eq(delay(m, ex, PREPROCESS_LATENCY, "row_ex")),
        ]
        m.submodules.release = release = RowRelease(depth)
        m.d.comb += [release.entered.eq(row_valid), release.last.eq(row_last)]

        # Stage 2, launch: a group of a row whose result is known, if the output has room for it.
        m.submodules.output_room = output_room = Credits(OUTPUT_DEPTH)
        group = Signal(self.group_bits, name="group")
        launch = Signal(name="launch")
        launch_last = Signal(name="launch_last")
        ring_read = ring.reader("ring_read")
        m.d.comb += [
            launch.eq(release.waiting & output_room.available),
            release.launch.eq(launch),
            launch_last.eq(group == last_group),
            output_room.take.eq(launch),
            room.give.eq(launch),
            ring_read.addr.eq(release.index),
            gamma_out.addr.eq(Cat(group, slot)),
            alpha_out.addr.eq(Cat(group, slot)),
        ]
        with m.If(launch):
            m.d.sync += group.eq(Mux(launch_last, 0, group + 1))
        # 1: memories
        valid_1 = register(m, launch, "valid_1", reset=True)
        last_1 = register(m, launch_last, "last_1")
        result = results.o_stream.payload
        m.d.comb += results.o_stream.ready.eq(valid_1 & last_1)
        # 2: operands
        r_2 = register(m, result.r, "r_2")
        ex_5 = delay(m, result.ex, 3, "affine_ex")
        # 8: the row's shift meets the product
        shift_8 = delay(m, result.shift, 7, "affine_shift")
        shift_9 = register(m, shift_8, "shift_9")
        shift_10 = register(m, shift_9, "shift_10")
        m.d.comb += beta_out.addr.eq(delay(m, Cat(group, slot), 11, "beta_address"))
        valid_18 = delay(m, valid_1, 17, "affine_valid", reset=True)
        last_18 = delay(m, last_1, 17, "affine_last")
        last_17 = delay(m, last_1, 16, "clip_last")
        m.submodules.outputs = outputs = Fifo(
            data.StructLayout({"y": data.ArrayLayout(signed(8), lanes), "last": 1}), OUTPUT_DEPTH
        )
        m.d.comb += [outputs.i_valid.eq(valid_18), outputs.i_payload.last.eq(last_18)]
        for i in range(lanes):
            # 2-5: C * d * 2^alpha - Ex beside gamma * r
            d_2 = register(m, ring_read.data[i] - zero_point, f"d_2_{i}")
            alpha_2 = register(m, alpha_out.data[i], f"alpha_2_{i}")
            gamma_2 = register(m, gamma_out.data[i], f"gamma_2_{i}")
            d_3 = register(m, d_2 << alpha_2, f"d_3_{i}")
            gain_3 = register(m, gamma_2 * r_2, f"gain_3_{i}")
            scaled_4 = register(m, d_3 * channels, f"scaled_4_{i}")
            centred_5 = register(
                m, (scaled_4 - ex_5)[: shape.centred_bits].as_signed(), f"centred_5_{i}"
            )
            # 6-8: their product, with all the registers of a DSP
            centred_6 = register(m, centred_5, f"centred_6_{i}")
            gain_6 = delay(m, gain_3, 3, f"gain_{i}").as_signed()
            product_7 = register(
                m, (centred_6 * gain_6)[: shape.product_bits].as_signed(), f"product_7_{i}"
            )
            product_8 = register(m, product_7, f"product_8_{i}")
            # 9-11: shift by one less than the rounding shift
            shifted_9 = register(m, product_8 >> Cat(Const(0, 4), shift_8[4:]), f"shifted_9_{i}")
            shifted_10 = register(m, shifted_9 >> Cat(Const(0, 2), shift_9[2:4]), f"shifted_10_{i}")
            shifted_11 = register(m, shifted_10 >> shift_10[:2], f"shifted_11_{i}")
            # 12: beyond 2^24 the result clips whatever beta and the zero point are
            narrow_12 = register(m, saturate(shifted_11, 26), f"narrow_12_{i}")
            # 13: round and add beta
            t_13 = register(
                m, narrow_12[1:].as_signed() + beta_out.data[i] + narrow_12[0], f"t_13_{i}"
            )
            # 14-15: shift by the fraction bits, one bit kept for rounding
            wide_13 = Cat(Const(0, 1), t_13).as_signed()
            t_14 = register(m, wide_13 >> Cat(Const(0, 2), beta_fraction[2:]), f"t_14_{i}")
            t_15 = register(m, t_14 >> beta_fraction[:2], f"t_15_{i}")
            # 16-18: round, zero point, clip
            t_16 = register(m, saturate(t_15, 11), f"t_16_{i}")
            y_17 = register(m, t_16[1:].as_signed() + output_zero_point + t_16[0], f"y_17_{i}")
            y_18 = register(
                m, Mux(~last_17 | tail_mask[i], saturate(y_17, 8), 0).as_signed(), f"y_18_{i}"
            )
            m.d.comb += outputs.i_payload.y[i].eq(y_18)

        o_valid = Signal(name="o_valid")
        o_payload = Signal.like(outputs.o_stream.payload, reset_less=True, name="o_payload")
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
