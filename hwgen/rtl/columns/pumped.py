# SPDX-License-Identifier: Apache-2.0
"""Four 8-bit columns of the array in one DSP48E2 cascade at twice the clock, and their twin.

Both have the same ports, latency and results, as the two leaves of :mod:`hwgen.rtl.columns.dual`.

A block multiplies two weights at once as there: ``(w1 << 18) + w0``. At twice the clock it does so
for columns 0 and 1 and for columns 2 and 3 in turn, and so the cascade carries the sums of both
pairs, one behind the other.

*Time.* Cycle n of ``clk`` is the intervals 2n and 2n + 1 of ``clk2x``. A row of activations that
reaches chain row 0 in cycle t reaches chain row p in cycle t + (p + 1) // 2, and the multiplier of
p takes it with the weights of pair s in interval 2t + p + 3 + s: the sums go down one block per
interval. Each block has a whole cycle of ``clk`` for its activation, since it is taken at the end
of the cycle's second interval.

*Weights.* Pair 0 waits in flip-flops and is active in D; pair 1 waits in A1 and is active in A2.
The pre-adder takes D or A2 as INMODE says, which is the phase of the two clocks and nothing else,
inverted at the pin in every second row. Both are packed in 27 bits before they are broadcast:
``w1 - (w0 < 0)`` above ``w0``, whose sign is repeated up to there.

*The low lane* has 18 bits of a sum that needs up to 24; how often it went round is counted from
bits 17:15 of P every third row. A row moves it by 32,640 at most, three rows by less than three
eighths of 2^18, so that old and new bits say which way it went. At the end the count completes the
low sum and is subtracted from the upper one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from amaranth import Cat, ClockDomain, ClockSignal, Const, Module, Signal, Value, signed

from hwgen.columns import KINDS
from hwgen.rtl.columns.base import Columns, Leaf
from hwgen.rtl.columns.dsp48e2 import dsp48e2
from hwgen.rtl.columns.dual import LANE, PRODUCT

#: Rows between two looks at the low lane: it moves by less than half of its range.
TAP_ROWS = 3
#: Most rows before the first look, after which the low lane still fits its bits.
FIRST_TAP_ROWS = 4
#: Bits of the low lane that are looked at.
_TAP_BITS = 3
#: Bits of a packed pair of weights: 9 of the upper, 8 of the lower.
PAIR_BITS = 17
#: Rows that share a register of the phase: 24 loads.
PHASE_ROWS = 8
#: Of registers at twice the clock: flip-flops, since a LUT as shift register is slow at its output.
_FLIP_FLOPS = {"keep": "true", "shreg_extract": "no"}
#: Of registers that are several of the same for the sake of their loads.
_COPIES = {"keep": "true", "dont_touch": "true"}


@dataclass(frozen=True)
class PumpedColumns(Columns):
    """Four 8-bit columns a leaf; an even number of rows."""

    weight_bits: int = 8

    width: ClassVar[int] = 4
    clk2x: ClassVar[bool] = True
    registered_enables: ClassVar[bool] = True
    broadcast_rows: ClassVar[int] = KINDS["pumped"].broadcast_rows

    @property
    def skew(self) -> tuple[int, ...]:
        """Two rows a cycle; the first one alone."""
        return tuple((p + 1) // 2 for p in range(self.rows))

    @property
    def latency(self) -> int:
        """Activation, product, sum, and the register behind the split of the sums."""
        return 4

    @property
    def packed_bits(self) -> int:
        """Two pairs."""
        return 2 * PAIR_BITS

    def packed(self, cells: Sequence[Value]) -> Value:
        """Both pairs as operands of the multiplier, the repeated sign left out."""
        pairs = []
        for low, high in zip(cells[::2], cells[1::2], strict=True):
            upper = high.as_signed() - low[7]
            pairs += [low, upper[: PAIR_BITS - 8]]
        return Cat(pairs)

    @property
    def name(self) -> str:
        """Whichever of the two leaves it is."""
        return f"pumped_r{self.rows}_w8"

    def leaf(self) -> Leaf:
        """In plain logic, at one clock."""
        return PumpedTwin(self)

    def synthesis_leaf(self) -> Leaf:
        """In DSP blocks."""
        return PumpedDspColumn(self)


class PumpedTwin(Leaf):
    """The leaf in plain logic: one multiplier a cell, two rows a register. ``clk2x`` is not used.

    No row is loaded in the cycle of its swap; here that would be harmless, in DSP blocks not.
    """

    def elaborate(self, platform: object) -> Module:
        """Shadow, active and product of every cell, a sum for every two rows."""
        m = Module()
        codes = self._codes()
        shape = self.columns.sum_shape
        sums: list[Value] = [Const(0, shape)] * 4
        for stage in range(self.rows // 2 + 1):
            products: list[list[Value]] = [[], [], [], []]
            for p in range(max(2 * stage - 1, 0), min(2 * stage + 1, self.rows)):
                held = Signal(signed(9), name=f"activation_{p}", reset_less=True)
                m.d.sync += held.eq(self.activation.word_select(p, 9))
                for c in range(4):
                    shadow = Signal(8, name=f"shadow_{c}_{p}", reset_less=True)
                    active = Signal(signed(8), name=f"active_{c}_{p}", reset_less=True)
                    product = Signal(signed(16), name=f"product_{c}_{p}", reset_less=True)
                    with m.If(self.weight_enable[p]):
                        m.d.sync += shadow.eq(codes[p // self.columns.broadcast_rows][c])
                    with m.If(self.swap[p]):
                        m.d.sync += active.eq(shadow)
                    m.d.sync += product.eq(held * active)
                    products[c].append(product)
            for c in range(4):
                total = Signal(shape, name=f"sum_{c}_{stage}", reset_less=True)
                m.d.sync += total.eq(sum(products[c], sums[c]))
                sums[c] = total
        total = Signal(4 * shape.width, name="total_register", reset_less=True)
        m.d.sync += total.eq(Cat(sums))
        m.d.comb += self.total.eq(total)
        return m

    def _codes(self) -> list[list[Value]]:
        """The four weights of every stage of the broadcast, unpacked."""
        stages = []
        for start in range(0, len(self.weight_in), 2 * PAIR_BITS):
            pairs = [self.weight_in[start + s * PAIR_BITS :][:PAIR_BITS] for s in range(2)]
            stages.append([code for x in pairs for code in (x[:8], (x[8:] + x[7])[:8])])
        return stages


class PumpedDspColumn(Leaf):
    """The leaf as a cascade of R DSP48E2 blocks at ``clk2x``, whose edges are also ``clk``'s.

    Between registers of ``clk2x`` there is one LUT at most, in front of pins of a block none.
    Activations and weights may arrive late in their cycle, up to its end; ``swap`` and
    ``weight_enable`` hold from the middle of theirs.
    """

    def elaborate(self, platform: object) -> Module:
        """The cascade, the count of the low lane's rounds, and the split."""
        m = Module()
        fast = ClockDomain("fast", local=True, reset_less=True)
        m.domains += fast
        m.d.comb += fast.clk.eq(self.clk2x)
        second = self._phase(m)
        late_swap = Signal(self.rows, name="late_swap", reset_less=True)
        m.d.fast += late_swap.eq(self.swap)

        sums: list[Value] = []  # P of every row
        above: Value | None = None
        for p in range(self.rows):
            now, below = Signal(48, name=f"p_{p}"), Signal(48, name=f"cascade_{p}")
            b, enables = self._activation(p, second[p // PHASE_ROWS])
            a, d, weight_enables = self._weights(m, p, late_swap)
            inverted = 0b00110 if p % 2 else 0
            phase = second[p // PHASE_ROWS]
            m.submodules[f"cell_{p}"] = dsp48e2(
                clock=ClockSignal("fast"),
                a=a,
                b=b,
                d=d,
                # D alone, or A2 alone.
                inmode=Cat(Const(0, 1), phase, phase, Const(0, 2)),
                above=above,
                enables=enables | weight_enables | {"AD": Const(1, 1), "INMODE": Const(1, 1)},
                attributes={
                    "AMULTSEL": "AD",
                    **dict.fromkeys(("AREG", "ACASCREG"), 2),
                    **dict.fromkeys(("BREG", "BCASCREG"), 1 if p % 2 else 2),
                    **dict.fromkeys(("DREG", "ADREG", "INMODEREG"), 1),
                    "IS_INMODE_INVERTED": Const(inverted, 5),
                },
                p=now,
                pcout=below,
            )
            above = below
            sums.append(now)
        self._split(m, sums)
        return m

    def _phase(self, m: Module) -> list[Signal]:
        """1 in the second half of a cycle of ``clk``: a register for every eight rows.

        A register of ``clk`` that toggles, seen by ``clk2x``: in the first half it has just
        changed. Nothing is reset, so the phase is right two cycles after the clocks have begun.
        """
        toggle = Signal(name="toggle", reset_less=True)
        seen = Signal(name="toggle_seen", reset_less=True)
        first = Signal(name="first_half", reset_less=True)
        m.d.sync += toggle.eq(~toggle)
        m.d.fast += [seen.eq(toggle), first.eq(toggle == seen)]
        second = []
        for k in range(-(-self.rows // PHASE_ROWS)):
            half = Signal(name=f"second_half_{k}", reset_less=True, attrs=_COPIES)
            m.d.fast += half.eq(first)
            second.append(half)
        return second

    def _activation(self, p: int, second: Value) -> tuple[Value, dict[str, Value]]:
        """B, which a block takes at the end of a cycle; in even rows an interval later."""
        value = self.activation.word_select(p, 9)
        b = Cat(value, value[-1].replicate(9))
        if p % 2:
            return b, {"B2": second}
        return b, {"B1": second, "B2": Const(1, 1)}

    def _weights(
        self, m: Module, p: int, late_swap: Value
    ) -> tuple[Value, Value, dict[str, Value]]:
        """A and D: the weights of both pairs, each changed between two uses of its own.

        Row p swaps in cycle n. In an even row the multiplier takes the new weights in intervals
        2n + 3 and 2n + 4, an odd one is an interval ahead; AD takes them one before.
        """
        stage = p // self.columns.broadcast_rows
        pairs = [self.weight_in.word_select(2 * stage + s, PAIR_BITS) for s in range(2)]
        shadow = Signal(PAIR_BITS, name=f"shadow_{p}", reset_less=True)
        load = self.weight_enable[p]
        with m.If(load):
            m.d.sync += shadow.eq(pairs[0])
        if p % 2:
            # swap[p - 1] is a cycle ahead of swap[p].
            swaps = {"D": late_swap[p - 1], "A2": self.swap[p]}
        else:
            swaps = {"D": self.swap[p], "A2": late_swap[p]}
        return _operand(pairs[1], 30), _operand(shadow, 27), swaps | {"A1": load}

    def _split(self, m: Module, sums: Sequence[Value]) -> None:
        """``total`` from the last row: both pairs meet at an edge of ``clk``, completed there."""
        bits = self.columns.sum_shape.width
        counted = self._count(m, sums)
        bottom = Cat(sums[-1][: LANE + bits], *counted)
        held = Signal(len(bottom), name="held", reset_less=True)
        m.d.fast += held.eq(bottom)
        total = Signal(4 * bits, name="total_register", reset_less=True)
        for s, value in enumerate((held, bottom)):  # pair 0 is an interval ahead of pair 1
            taken = Signal(len(bottom), name=f"taken_{s}", reset_less=True)
            m.d.sync += taken.eq(value)
            rounds: Value = taken[LANE - 1]
            if counted:
                old, before = taken[LANE + bits :][:_TAP_BITS], taken[LANE + bits + _TAP_BITS :]
                up, down = _moved(old, taken[LANE - _TAP_BITS : LANE])
                rounds = _counted(before, up, down, _round_bits(self.rows))
            low = Cat(taken[:LANE], rounds)[:bits]
            high = taken[LANE : LANE + bits].as_signed() - rounds.as_signed()
            m.d.sync += total.word_select(s, 2 * bits).eq(Cat(low, high[:bits]))
        m.d.comb += self.total.eq(total)

    def _count(self, m: Module, sums: Sequence[Value]) -> tuple[Value, ...]:
        """Bits of the last look but one and rounds until there, beside P of the last row.

        Nothing where the first look is the last. Steps of one look: bits of P, an interval later
        whether they went round, another one later the sum; both pairs go through, in turn.
        """
        last = self.rows - 1
        first = max(p for p in range(FIRST_TAP_ROWS) if (last - p) % TAP_ROWS == 0)
        taps = range(first, last, TAP_ROWS)
        if not taps:
            return ()
        seen = rounds = Value.cast(0)
        ready = 0  # intervals from P of the tap to ``rounds``
        for tap in taps:
            now = sums[tap][LANE - _TAP_BITS : LANE]
            old = _line(m, seen, TAP_ROWS, f"old_{tap}") if tap != first else seen
            seen = _line(m, now, 1, f"seen_{tap}")
            if tap == first:
                rounds, ready = seen[-1], 1
                continue
            went = Signal(2, name=f"went_{tap}", reset_less=True, attrs=_FLIP_FLOPS)
            m.d.fast += went.eq(Cat(_moved(old, seen)))
            before = _line(m, rounds, TAP_ROWS + 2 - ready, f"before_{tap}")
            rounds = Signal(
                _round_bits(tap + 1), name=f"rounds_{tap}", reset_less=True, attrs=_FLIP_FLOPS
            )
            m.d.fast += rounds.eq(_counted(before, went[0], went[1], len(rounds)))
            ready = 3
        return (
            _line(m, seen, TAP_ROWS - 1, "old_last"),
            _line(m, rounds, TAP_ROWS - ready, "before_last"),
        )


def _operand(pair: Value, width: int) -> Value:
    """27 bits of a packed pair, sign-extended to the port."""
    return Cat(pair[:8], pair[7].replicate(LANE - 8), pair[8:], pair[-1].replicate(width - 27))


def _round_bits(rows: int) -> int:
    """Bits of how often the low lane went round, signed, after some rows."""
    return max(1, (rows * PRODUCT).bit_length() + 1 - LANE)


def _line(m: Module, value: Value, intervals: int, name: str) -> Value:
    """``value`` some intervals of ``clk2x`` later."""
    for d in range(intervals):
        stage = Signal(len(value), name=f"{name}_{d}", reset_less=True, attrs=_FLIP_FLOPS)
        m.d.fast += stage.eq(value)
        value = stage
    return value


def _moved(old: Value, now: Value) -> tuple[Value, Value]:
    """Whether the low lane went round upwards, downwards, from its upper bits before and after.

    A position on a circle of eight that moves by three at most.
    """
    size = 1 << _TAP_BITS
    both = Cat(old, now)
    up, down = [], []
    for before in range(size):
        for step in range(1, size // 2):
            if before + step >= size:
                up.append(before | (before + step - size) << _TAP_BITS)
            if before - step < 0:
                down.append(before | (before - step + size) << _TAP_BITS)
    return both.matches(*up), both.matches(*down)


def _counted(before: Value, up: Value, down: Value, width: int) -> Value:
    """``before`` + ``up`` - ``down``, signed, without a carry chain: a LUT a bit."""
    bits = [before[min(i, len(before) - 1)] for i in range(width)]
    counted = []
    for i, bit in enumerate(bits):
        below = Cat(bits[:i]) if i else Const(0, 1)
        ones = below.all() if i else Const(1, 1)
        counted.append(bit ^ ((up & ones) | (down & ~below.any())))
    return Cat(counted)
