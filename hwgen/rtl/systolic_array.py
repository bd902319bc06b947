# SPDX-License-Identifier: Apache-2.0
"""Weight-stationary systolic array with double weight registers and double accumulator banks.

Words used here. *Row*: one reduction index. *Chain row*: position in the cascade, from the top;
chain row p holds reduction index R-1-p, because weights arrive with the highest index first and the
cascade does not care. *Entry*: the cycle in which a row of activations enters the first column
group.
"""

from __future__ import annotations

from typing import Literal

from amaranth import (
    Cat,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    Mux,
    ResetSignal,
    Shape,
    Signal,
    Value,
    signed,
    unsigned,
)
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hwgen.rtl.dsp_column import LATENCY as DUAL_LATENCY
from hwgen.rtl.dsp_column import DspColumn, TwinColumn, dual_column_name
from hwgen.rtl.ram import Ram, ram_name, ram_verilog

#: Rows that share one register stage of the weight broadcast.
SEGMENT_ROWS = 8


def partial_sum_shape(rows: int, weight_bits: int) -> Shape:
    """Exact width of a column's sum: ``rows`` products, 9-bit activation x W-bit weight."""
    return signed(9 + max(weight_bits, 2) - 1 + ceil_log2(rows))


#: How a column multiplies. ``multiplier``: one multiplier a cell, which becomes a DSP block.
#: ``digits``: the weight's radix-4 digits select multiples of the activation inside the adders, no
#: DSP (:class:`DigitColumn`, :class:`SignColumn`).
#: ``dual``: two columns of 8-bit weights in one cascade of DSP blocks, or its twin in plain logic
#: (:mod:`hwgen.rtl.dsp_column`).
Cells = Literal["multiplier", "dual", "digits"]


def default_cells(weight_bits: int) -> Cells:
    """Digits are smaller than a DSP block is worth, except for 8-bit weights."""
    return "dual" if weight_bits == 8 else "digits"


def digit_count(weight_bits: int) -> int:
    """Radix-4 digits of a weight."""
    return -(-weight_bits // 2)


def rows_per_stage(weight_bits: int, cells: Cells) -> int:
    """Rows that share one register of the cascade: one-bit weights add and subtract in pairs."""
    return 2 if cells == "digits" and weight_bits == 1 else 1


def column_latency(weight_bits: int, cells: Cells) -> int:
    """Cycles from the activation of the last chain row to ``total``."""
    if cells == "dual":
        return DUAL_LATENCY
    return 3 if cells == "multiplier" else 2 + ceil_log2(digit_count(weight_bits))


def column_name(rows: int, weight_bits: int, cells: Cells) -> str:
    """Verilog module name of a column; one module serves all columns of an array."""
    if cells == "dual":
        return dual_column_name(rows)
    return f"hwgen_column_{cells}_r{rows}_w{weight_bits}"


def group_name(rows: int, columns: int, weight_bits: int, tile_rows: int, cells: Cells) -> str:
    """Verilog module name of a column group; one module serves all groups of an array."""
    return f"hwgen_group_{cells}_r{rows}_c{columns}_w{weight_bits}_m{tile_rows}"


def entry_layout(rows: int, tile_rows: int) -> data.StructLayout:
    """What travels with a row of activations: its accumulator address and its pass."""
    return data.StructLayout(
        {
            "valid": 1,
            "first": 1,  # first pass of the tile: overwrite the accumulator
            "last": 1,  # last row of the last pass: the bank is complete
            "bank": 1,
            "row": bits_for(tile_rows - 1),
        }
    )


class Column(wiring.Component):
    """One column: R multiply-accumulate cells in a cascade, weights double-buffered.

    ``weight_in[s]`` and ``weight_enable[p]`` load the shadow register of chain row p (segment ``s =
    p // 8``); ``swap[p]`` copies it to the active register in the cycle in which chain row p
    registers the first activation of a pass. ``activation[p]`` is the skewed activation. ``total``
    follows the activation of the last chain row after 3 cycles. One row of activations a cycle; no
    back-pressure.
    """

    def __init__(self, rows: int, weight_bits: int) -> None:
        self.rows = rows
        self.weight_bits = weight_bits
        self.segments = -(-rows // SEGMENT_ROWS)
        super().__init__(
            {
                "activation": In(9 * rows),
                "swap": In(rows),
                "weight_in": In(weight_bits * self.segments),
                "weight_enable": In(rows),
                "total": Out(partial_sum_shape(rows, weight_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.weight_bits
        shape = partial_sum_shape(self.rows, bits)
        previous: Signal | Const = Const(0, shape)
        for p in range(self.rows):
            segment = p // SEGMENT_ROWS
            shadow = Signal(bits, name=f"shadow_{p}", reset_less=True)
            active = Signal(bits, name=f"active_{p}", reset_less=True)
            held = Signal(signed(9), name=f"activation_{p}", reset_less=True)
            product = Signal(signed(9 + max(bits, 2) - 1), name=f"product_{p}", reset_less=True)
            total = Signal(shape, name=f"sum_{p}", reset_less=True)
            with m.If(self.weight_enable[p]):
                m.d.sync += shadow.eq(self.weight_in.word_select(segment, bits))
            with m.If(self.swap[p]):
                m.d.sync += active.eq(shadow)
            m.d.sync += held.eq(self.activation.word_select(p, 9))
            if bits == 1:  # a set bit is -1
                m.d.sync += product.eq(Mux(active, -held, held))
            else:
                m.d.sync += product.eq(held * active.as_signed())
            m.d.sync += total.eq(previous + product)
            previous = total
        m.d.comb += self.total.eq(previous)
        return m


def _accumulate(
    m: Module, previous: Value, term: Value, negate: Value, largest: int, name: str
) -> Signal:
    """Register of ``previous + term``, or ``- term`` if ``negate``; at most ``largest`` in size.

    Written as a difference, p + t = p - ~t - 1 and p - t = p - t - 0, with the 0 or 1 as a borrow
    below the lowest bit: one carry chain whose bare operand is the cascade, so that the choice of
    the term and the addition share a LUT per bit.
    """
    total = Signal(signed(largest.bit_length() + 1), name=name, reset_less=True)
    keep = ~negate
    term_or_not = (term.as_unsigned() ^ keep.replicate(len(term))).as_signed()
    wide = Cat(Const(0, 1), previous).as_signed() - Cat(keep, term_or_not).as_signed()
    m.d.sync += total.eq(wide >> 1)
    return total


class DigitColumn(wiring.Component):
    """One column without multipliers: a cascade per radix-4 digit of the weights, summed at last.

    A weight of two's complement bits is the sum of 4^k d_k with d_k = -2 b(2k+1) + b(2k) + b(2k-1),
    -2..2 (Booth; b(-1) = 0, the sign bit repeats); every value is taken, the lowest
    too. Digit k of a row and the addition to its cascade take one LUT per bit. Ports as
    :class:`Column`, but ``activation`` is already registered: the group shares that register among
    its columns. ``total`` follows the activation of the last chain row (before that register) after
    :func:`column_latency` cycles.
    """

    def __init__(self, rows: int, weight_bits: int) -> None:
        self.rows = rows
        self.weight_bits = weight_bits
        self.segments = -(-rows // SEGMENT_ROWS)
        super().__init__(
            {
                "activation": In(9 * rows),
                "swap": In(rows),
                "weight_in": In(weight_bits * self.segments),
                "weight_enable": In(rows),
                "total": Out(partial_sum_shape(rows, weight_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.weight_bits
        chains: list[Value] = [Const(0, 1)] * digit_count(bits)
        for p in range(self.rows):
            shadow = Signal(bits, name=f"shadow_{p}", reset_less=True)
            active = Signal(bits, name=f"active_{p}", reset_less=True)
            with m.If(self.weight_enable[p]):
                m.d.sync += shadow.eq(self.weight_in.word_select(p // SEGMENT_ROWS, bits))
            with m.If(self.swap[p]):
                m.d.sync += active.eq(shadow)
            held = self.activation.word_select(p, 9).as_signed()
            for k in range(len(chains)):
                below = active[2 * k - 1] if k else Const(0, 1)
                low = active[2 * k]
                name = f"digit_{k}_{p}"
                if 2 * k + 1 < bits:
                    high = active[2 * k + 1]
                    chosen = Mux(low ^ below, held, Mux(high ^ low, held << 1, 0))
                    chains[k] = _accumulate(m, chains[k], chosen, high, 2 * 255 * (p + 1), name)
                else:  # the sign bit repeats: -1, 0 or 1
                    chosen = Mux(low ^ below, held, Const(0, signed(9)))
                    chains[k] = _accumulate(m, chains[k], chosen, low, 255 * (p + 1), name)
        # Pairs of cascades, then pairs of pairs: each level doubles the distance.
        distance = 2
        while len(chains) > 1:
            merged = []
            for i in range(0, len(chains), 2):
                value = chains[i]
                if i + 1 < len(chains):
                    value = value + (chains[i + 1] << distance)
                stage = Signal(value.shape(), name=f"merged_{distance}_{i}", reset_less=True)
                m.d.sync += stage.eq(value)
                merged.append(stage)
            chains = merged
            distance *= 2
        m.d.comb += self.total.eq(chains[0])
        return m


class SignColumn(wiring.Component):
    """One column of weights -1 and +1: a cascade of pairs of rows, one LUT per bit and pair.

    ``activation`` holds, per pair of chain rows, the registered sum and difference of their
    activations (10 bits each, the sum lower), which the group shares among its columns: +-a0 +-a1
    is one of them or its negative. With an odd number of rows the last row is paired with 0. A set
    weight bit is -1. Other ports as :class:`DigitColumn`; the rows of a pair are in step.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.segments = -(-rows // SEGMENT_ROWS)
        super().__init__(
            {
                "activation": In(20 * -(-rows // 2)),
                "swap": In(rows),
                "weight_in": In(self.segments),
                "weight_enable": In(rows),
                "total": Out(partial_sum_shape(rows, 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total: Value = Const(0, 1)
        signs: list[Signal] = []
        for p in range(self.rows):
            shadow = Signal(name=f"shadow_{p}", reset_less=True)
            active = Signal(name=f"active_{p}", reset_less=True)
            with m.If(self.weight_enable[p]):
                m.d.sync += shadow.eq(self.weight_in[p // SEGMENT_ROWS])
            with m.If(self.swap[p]):
                m.d.sync += active.eq(shadow)
            signs.append(active)
        for q in range(-(-self.rows // 2)):
            pair = self.activation.word_select(q, 20)
            negative = signs[2 * q]
            other = signs[2 * q + 1] if 2 * q + 1 < self.rows else negative
            chosen = Mux(negative ^ other, pair[10:].as_signed(), pair[:10].as_signed())
            total = _accumulate(m, total, chosen, negative, 255 * (2 * q + 2), f"sum_{q}")
        m.d.comb += self.total.eq(total)
        return m


class ColumnGroup(wiring.Component):
    """``columns`` columns that share activations, and their two accumulator banks.

    ``skewed`` and ``swap`` are the skewed activations and swap flags, ``entry`` the unskewed
    bookkeeping; all are passed on one cycle later for the next group. ``drain_row`` of
    ``drain_bank`` appears on ``drain_data`` two cycles later. ``bank_complete[b]`` pulses when the
    last row of a tile has been written to bank b.
    """

    def __init__(
        self, rows: int, columns: int, weight_bits: int, tile_rows: int, cells: Cells
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.weight_bits = weight_bits
        self.tile_rows = tile_rows
        self.cells = cells
        self.layout = entry_layout(rows, tile_rows)
        row_bits = bits_for(tile_rows - 1)
        super().__init__(
            {
                "skewed": In(9 * rows),
                "swap": In(rows),
                "entry": In(self.layout),
                "skewed_next": Out(9 * rows),
                "swap_next": Out(rows),
                "entry_next": Out(self.layout),
                "weight_valid": In(1),
                "weight_row": In(bits_for(rows - 1)),
                "weights": In(columns * weight_bits),
                "drain_bank": In(1),
                "drain_row": In(row_bits),
                "drain_data": Out(32 * columns),
                "bank_complete": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, columns, bits = self.rows, self.columns, self.weight_bits

        # Hand on to the next group.
        m.d.sync += [
            self.skewed_next.eq(self.skewed),
            self.swap_next.eq(self.swap),
            self.entry_next.eq(self.entry),
        ]

        # Weight broadcast: one register stage per segment of rows; the row select travels with the
        # data.
        segments = -(-rows // SEGMENT_ROWS)
        stage_data: list[Signal] = []
        enables: list[Signal] = []
        valid, select, word = self.weight_valid, self.weight_row, self.weights
        for s in range(segments):
            next_valid = Signal(name=f"weight_valid_{s}")
            next_select = Signal(bits_for(rows - 1), name=f"weight_row_{s}", reset_less=True)
            next_word = Signal(columns * bits, name=f"weight_word_{s}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_select.eq(select), next_word.eq(word)]
            count = min(SEGMENT_ROWS, rows - s * SEGMENT_ROWS)
            enable = Signal(count, name=f"weight_enable_{s}")
            m.d.comb += enable.eq(
                Cat(next_valid & (next_select == s * SEGMENT_ROWS + k) for k in range(count))
            )
            enables.append(enable)
            stage_data.append(next_word)
            valid, select, word = next_valid, next_select, next_word

        # What the columns share: multiplier cells register activations themselves, as a DSP block
        # does.
        activation: Value = self.skewed
        if self.cells == "digits":
            given = [self.skewed.word_select(p, 9).as_signed() for p in range(rows)]
            if bits == 1:
                given.append(Const(0, signed(9)))
                pairs = [(given[p], given[p + 1]) for p in range(0, rows, 2)]
                values = [Cat((a + b)[:10], (a - b)[:10]) for a, b in pairs]
            else:
                values = list(given)
            shared = [
                Signal(len(value), name=f"shared_{i}", reset_less=True)
                for i, value in enumerate(values)
            ]
            m.d.sync += [stage.eq(value) for stage, value in zip(shared, values, strict=True)]
            activation = Cat(shared)

        totals: list[Value] = []
        shape = partial_sum_shape(rows, bits)
        wide = 2 if self.cells == "dual" else 1  # columns of a leaf; the last one may be half used
        for c in range(0, columns, wide):
            total = Signal(wide * shape.width, name=f"total_{c}")
            m.submodules[f"column_{c}"] = Instance(
                column_name(rows, bits, self.cells),
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_activation=activation,
                i_swap=self.swap,
                i_weight_enable=Cat(enables),
                i_weight_in=Cat(
                    word.word_select(d, bits) if d < columns else Const(0, bits)
                    for word in stage_data
                    for d in range(c, c + wide)
                ),
                o_total=total,
            )
            totals += [
                total.word_select(d, shape.width).as_signed() for d in range(min(wide, columns - c))
            ]

        # The bookkeeping meets the sums: the last row's skew and the column's registers.
        stages = -(-rows // rows_per_stage(bits, self.cells))
        delay = stages - 1 + column_latency(bits, self.cells)
        size = self.layout.size
        travelling = Signal(size * (delay - 1), name="entry_delay")
        m.d.sync += travelling.eq(Cat(self.entry.as_value(), travelling[:-size]))
        ahead = Signal(self.layout, name="entry_ahead")  # the accumulator's read address
        m.d.comb += ahead.eq(travelling[-size:])
        now = Signal(self.layout, name="entry_now")
        m.d.sync += now.eq(ahead)
        after = Signal(self.layout, name="entry_after")
        m.d.sync += after.eq(now)

        result = Signal(32 * columns, reset_less=True, name="result")
        drained: list[Signal] = []
        old: list[Signal] = []
        for b in range(2):
            bank = Ram(self.tile_rows, 32 * columns, 32 * columns, name=f"accumulators_{b}")
            m.submodules[f"accumulators_{b}"] = bank.instance()
            # A first pass only writes: DRAIN may still be reading the bank's last group then.
            accumulating = ahead.valid & ~ahead.first & (ahead.bank == b)
            m.d.comb += [
                bank.read_address.eq(Mux(accumulating, ahead.row, self.drain_row)),
                bank.write_address.eq(after.row),
                bank.write_data.eq(result),
                bank.write_enable.eq(after.valid & (after.bank == b)),
            ]
            old.append(bank.read_data)
            drained.append(bank.read_data)
            m.d.sync += self.bank_complete[b].eq(after.valid & after.last & (after.bank == b))
        previous = Mux(now.bank, old[1], old[0])
        for c, total in enumerate(totals):
            start = previous.word_select(c, 32)
            m.d.sync += result.word_select(c, 32).eq(
                Mux(now.first, Const(0, 32), start).as_signed() + total
            )
        drain_bank = Signal(name="drain_bank")
        m.d.sync += [
            drain_bank.eq(self.drain_bank),
            self.drain_data.eq(Mux(drain_bank, drained[1], drained[0])),
        ]
        return m


class SystolicArray(wiring.Component):
    """R x C array of groups of ``group_columns`` columns.

    ``activations`` (R bytes, byte r is reduction index r) with ``signed_codes`` and ``swap`` (first
    row of a pass: take the shadow weights) enter with ``entry``; one row a cycle. Weights:
    ``weight_valid`` with ``weights`` (column 0 lowest) for reduction indices R-1 ... 0 in turn, not
    before the swap of the pass before has entered. Group g is g cycles later in everything.
    ``bank_complete[b]``: the last group has written the tile's last row. ``drain_group``'s row
    appears on ``drain_data`` three cycles after ``drain_row``.
    """

    def __init__(
        self,
        *,
        rows: int,
        columns: int,
        group_columns: int,
        weight_bits: int,
        tile_rows: int,
        cells: Cells | None = None,
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.group_columns = group_columns
        self.groups = columns // group_columns
        self.weight_bits = weight_bits
        self.tile_rows = tile_rows
        self.layout = entry_layout(rows, tile_rows)
        self.cells: Cells = cells or default_cells(weight_bits)
        self.group_name = group_name(rows, group_columns, weight_bits, tile_rows, self.cells)
        super().__init__(
            {
                "activations": In(8 * rows),
                "signed_codes": In(1),
                "swap": In(1),
                "entry": In(self.layout),
                "weight_valid": In(1),
                "weights": In(columns * weight_bits),
                "weight_row": In(bits_for(rows - 1)),
                "drain_bank": In(1),
                "drain_row": In(bits_for(tile_rows - 1)),
                "drain_group": In(max(1, bits_for(self.groups - 1))),
                "drain_data": Out(32 * group_columns),
                "bank_complete": Out(2),
            }
        )

    def leaves(self) -> dict[str, wiring.Component | str]:
        """The modules that are emitted once each and instantiated by name."""
        column: wiring.Component
        accumulator_bits = 32 * self.group_columns
        if self.cells == "dual":
            column = TwinColumn(self.rows)
        elif self.cells == "multiplier":
            column = Column(self.rows, self.weight_bits)
        elif self.weight_bits == 1:
            column = SignColumn(self.rows)
        else:
            column = DigitColumn(self.rows, self.weight_bits)
        return {
            column_name(self.rows, self.weight_bits, self.cells): column,
            self.group_name: ColumnGroup(
                self.rows, self.group_columns, self.weight_bits, self.tile_rows, self.cells
            ),
            ram_name(self.tile_rows, accumulator_bits, accumulator_bits): ram_verilog(
                self.tile_rows, accumulator_bits, accumulator_bits
            ),
        }

    def synthesis_leaves(self) -> dict[str, wiring.Component]:
        """Those of :meth:`leaves` that synthesis for DSP48E2 replaces by these."""
        if self.cells != "dual":
            return {}
        return {column_name(self.rows, self.weight_bits, self.cells): DspColumn(self.rows)}

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        rows = self.rows

        # Skew: chain row p (reduction index R-1-p) is p cycles behind (pairs of rows: p // 2).
        # Sign-extend to 9 bits first.
        skewed = Signal(9 * rows, name="skewed")
        swaps = Signal(rows, name="swaps")
        swap = self.swap
        step = rows_per_stage(self.weight_bits, self.cells)
        for p in range(rows):
            byte = self.activations.word_select(rows - 1 - p, 8)
            value = Cat(byte, byte[7] & self.signed_codes)
            behind = p // step
            if behind:
                line = Signal(9 * behind, name=f"skew_{p}", reset_less=True)
                m.d.sync += line.eq(Cat(value, line)[: 9 * behind])
                value = line[-9:]
            if p % step == 0 and p:
                delayed = Signal(name=f"swap_{p}")
                m.d.sync += delayed.eq(swap)
                swap = delayed
            m.d.comb += [skewed.word_select(p, 9).eq(value), swaps[p].eq(swap)]

        drained = []
        flow = {"skewed": skewed, "swap": swaps, "entry": self.entry.as_value()}
        group_bits = self.group_columns * self.weight_bits
        for g in range(self.groups):
            # Weights of group g, g cycles later (its swap is, too).
            valid, row, word = (
                self.weight_valid,
                self.weight_row,
                self.weights.word_select(g, group_bits),
            )
            for d in range(g):
                next_valid = Signal(name=f"weight_valid_{g}_{d}")
                next_row = Signal(bits_for(rows - 1), name=f"weight_row_{g}_{d}", reset_less=True)
                next_word = Signal(group_bits, name=f"weights_{g}_{d}", reset_less=True)
                m.d.sync += [next_valid.eq(valid), next_row.eq(row), next_word.eq(word)]
                valid, row, word = next_valid, next_row, next_word
            flow_next = {
                "skewed": Signal(9 * rows, name=f"skewed_{g}"),
                "swap": Signal(rows, name=f"swap_{g}_next"),
                "entry": Signal(self.layout.size, name=f"entry_{g}"),
            }
            data_out = Signal(32 * self.group_columns, name=f"drain_data_{g}")
            complete = Signal(2, name=f"bank_complete_{g}")
            m.submodules[f"group_{g}"] = Instance(
                self.group_name,
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_skewed=flow["skewed"],
                i_swap=flow["swap"],
                i_entry=flow["entry"],
                i_weight_valid=valid,
                i_weight_row=row,
                i_weights=word,
                i_drain_bank=self.drain_bank,
                i_drain_row=self.drain_row,
                o_skewed_next=flow_next["skewed"],
                o_swap_next=flow_next["swap"],
                o_entry_next=flow_next["entry"],
                o_drain_data=data_out,
                o_bank_complete=complete,
            )
            flow = flow_next
            drained.append(data_out)
            if g == self.groups - 1:
                m.d.comb += self.bank_complete.eq(complete)

        selects = [self.drain_group]
        for d in range(2):
            step = Signal(unsigned(len(self.drain_group)), name=f"drain_group_{d}")
            m.d.sync += step.eq(selects[-1])
            selects.append(step)
        chosen = drained[0]
        for g in range(1, self.groups):
            chosen = Mux(selects[-1] == g, drained[g], chosen)
        m.d.sync += self.drain_data.eq(chosen)
        return m
