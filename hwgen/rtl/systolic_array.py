# SPDX-License-Identifier: Apache-2.0
"""Weight-stationary systolic array with double weight registers and double accumulator banks.

A strip has two memories of sums: of one tile, the *partial* sums, for passes that another one of
the tile adds to, and of two tiles, the *complete* ones, a bank each, which a tile's last pass
writes and DRAIN reads. So no memory has two readers.

Words used here. *Row*: one reduction index. *Chain row*: position in the cascade, from the top;
chain row p holds reduction index R-1-p, because weights arrive with the highest index first and the
cascade does not care. *Entry*: the cycle in which a row of activations enters the array. *Group*:
neighbouring columns of one kind and weight width. *Segment*: as many neighbouring columns as DRAIN
has lanes, whatever their groups. *Strip*: the columns of one group in one segment, a module.
*Slice*: the passes of a tile that take the same bits of weights wider than the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from amaranth import (
    Cat,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.columns import PAIRED_BITS
from hwgen.rtl.columns import Columns, columns_of
from hwgen.rtl.pipeline import register
from hwgen.rtl.ram import Ram, ram_name, ram_verilog


class Group(Protocol):
    """What the array reads of a group; :class:`hwgen.columns.ColumnGroup` has it."""

    @property
    def kind(self) -> str:
        """Name of the kind of columns."""

    @property
    def columns(self) -> int:
        """Number of columns."""

    @property
    def weight_bits(self) -> int:
        """Bits of a weight."""

    @property
    def takes_slices(self) -> bool:
        """Whether a cell has a carry bit."""

    @property
    def accumulator_bits(self) -> int:
        """Bits of a column's accumulator."""

    @property
    def paired(self) -> bool:
        """Whether the second half of the columns are the upper nibbles of the first one's."""


def entry_layout(tile_rows: int, slice_widths: Sequence[int] = ()) -> data.StructLayout:
    """What travels with a row of activations: its accumulator address and its pass.

    ``shift``, absent where there is no slice width: 0, or i in the first pass of every slice but a
    tile's first, so that the accumulator is shifted left by ``slice_widths[i - 1]`` before the
    addition.
    """
    shift = {"shift": bits_for(len(slice_widths))} if slice_widths else {}
    return data.StructLayout(
        {
            "valid": 1,  # there is a row; the lowest bit
            "first": 1,  # first pass of the tile: overwrite the accumulator
            "last": 1,  # last pass of the tile: its sums are complete
            "end": 1,  # last row of the last pass: the bank is complete
            "bank": 1,
            "row": bits_for(tile_rows - 1),
            **shift,
        }
    )


@dataclass(frozen=True)
class Strip:
    """What a strip consists of: ``count`` columns and their accumulators."""

    columns: Columns
    count: int
    tile_rows: int
    accumulator_bits: int  #: of a column
    slice_widths: tuple[int, ...] = ()  #: ascending
    last: bool = False  #: no strip behind it takes its activations

    @property
    def shifts(self) -> tuple[int, ...]:
        """Shifts that happen here: the slices of a layer are as narrow as its narrowest columns."""
        return tuple(w for w in self.slice_widths if w <= self.columns.weight_bits)

    @property
    def lead(self) -> int:
        """Cycles from an accumulator's read address to the addition.

        The memory's two, and one for a choice among shifts: the LUTs of the addition have inputs
        for two words, shifted and not, but no more.
        """
        return 2 + self.shifts_ahead

    @property
    def shifts_ahead(self) -> bool:
        """Whether accumulators are shifted a cycle before the addition."""
        return len(self.shifts) > 1

    @property
    def word_bits(self) -> int:
        """Bits of the accumulators of a row."""
        return self.accumulator_bits * self.count

    @property
    def memory_words(self) -> tuple[int, int]:
        """Depths of the memories of partial and of complete sums; the bank is an address bit."""
        return self.tile_rows, (1 << bits_for(self.tile_rows - 1)) + self.tile_rows

    @property
    def module(self) -> str:
        """Verilog module name; one module serves all equal strips of an array."""
        shifts = f"_s{''.join(map(str, self.slice_widths))}" if self.slice_widths else ""
        sums = f"c{self.count}x{self.accumulator_bits}_m{self.tile_rows}"
        return f"hwgen_strip_{self.columns.name}_{sums}{shifts}{'_last' * self.last}"


class ColumnStrip(wiring.Component):
    """Columns that share activations, and their accumulators.

    ``skewed`` and ``swap`` are the skewed activations and swap flags, ``entry`` the unskewed
    bookkeeping; all are passed on one cycle later, if there is a next strip. ``drain_row`` of
    ``drain_bank`` appears on ``drain_data`` three cycles later. ``bank_complete[b]`` pulses when
    the last row of a tile has been written to bank b. A row's accumulators are written
    :attr:`Columns.delay` + 1 cycles after its entry and read :attr:`Strip.lead` + 1 cycles before
    that.
    """

    def __init__(self, strip: Strip) -> None:
        self.strip = strip
        self.columns = strip.columns
        self.count = strip.count
        self.layout = entry_layout(strip.tile_rows, strip.slice_widths)
        rows = self.columns.rows
        super().__init__(
            {
                "skewed": In(self.columns.code_bits * rows),
                "swap": In(rows),
                "entry": In(self.layout),
                **(
                    {}
                    if strip.last
                    else {
                        "skewed_next": Out(self.columns.code_bits * rows),
                        "swap_next": Out(rows),
                        "entry_next": Out(self.layout),
                    }
                ),
                "weight_valid": In(1),
                "weight_row": In(bits_for(rows - 1)),
                "weights": In(self.count * self.columns.cell_bits),
                "drain_bank": In(1),
                "drain_row": In(bits_for(strip.tile_rows - 1)),
                "drain_data": Out(strip.word_bits),
                "bank_complete": Out(2),
                **({"clk2x": In(1)} if self.columns.clk2x else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.strip.last:
            m.d.sync += [
                self.swap_next.eq(self.swap),
                self.entry_next.eq(self.entry),
            ]
            m.d.comb += self.skewed_next.eq(register(m, self.skewed, "skewed_late"))
        self._accumulate(m, self._multiply(m))
        return m

    def _broadcast(self, m: Module) -> tuple[list[Signal], Value]:
        """Weights of a row for each stage of rows, and the load enables of all chain rows.

        The row select travels with the data, one register a stage; enables that must be registers
        are decoded in front of it.
        """
        columns = self.columns
        rows, width, bits = columns.rows, columns.width, columns.cell_bits
        words: list[Signal] = []
        enables: list[Signal] = []
        valid, select = self.weight_valid, self.weight_row
        cells = [self.weights.word_select(c, bits) for c in range(self.count)]
        cells += [Const(0, bits)] * (-self.count % width)  # the last leaf may be used in part
        leaves = range(0, len(cells), width)
        word = Cat(columns.packed(cells[c : c + width]) for c in leaves)
        for s in range(columns.broadcast_stages):
            first = s * columns.broadcast_rows
            count = min(columns.broadcast_rows, rows - first)
            enable = Signal(count, name=f"weight_enable_{s}", reset_less=True)
            before = Cat(valid & (select == first + k) for k in range(count))
            valid = register(m, valid, f"weight_valid_{s}", reset=True)
            select = register(m, select, f"weight_row_{s}")
            word = register(m, word, f"weight_word_{s}")
            if columns.registered_enables:
                m.d.sync += enable.eq(before)
            else:
                m.d.comb += enable.eq(Cat(valid & (select == first + k) for k in range(count)))
            words.append(word)
            enables.append(enable)
        return words, Cat(enables)

    def _multiply(self, m: Module) -> list[Value]:
        """The leaves; the sums of all columns, signed."""
        columns, code = self.columns, self.columns.code_bits
        words, enables = self._broadcast(m)
        activation: Value = self.skewed
        values = columns.shared(
            [self.skewed.word_select(p, code).as_signed() for p in range(columns.rows)]
        )
        if values is not None:
            shared = [
                Signal(len(value), name=f"shared_{i}", reset_less=True)
                for i, value in enumerate(values)
            ]
            m.d.sync += [stage.eq(value) for stage, value in zip(shared, values, strict=True)]
            activation = Cat(shared)
        control = {}
        if columns.control_bits:
            given = Signal(columns.control_bits, name="control")
            m.d.comb += given.eq(columns.control(m, enables, self.swap))
            control["i_control"] = given
        totals: list[Value] = []
        size = columns.sum_shape.width
        for c in range(0, self.count, columns.width):
            total = Signal(columns.width * size, name=f"total_{c}")
            m.submodules[f"column_{c}"] = Instance(
                columns.module,
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_activation=activation,
                i_swap=self.swap,
                i_weight_enable=enables,
                i_weight_in=Cat(
                    word.word_select(c // columns.width, columns.packed_bits) for word in words
                ),
                **control,
                **({"i_clk2x": self.clk2x} if columns.clk2x else {}),
                o_total=total,
            )
            used = range(min(columns.width, self.count - c))
            totals += [total.word_select(d, size).as_signed() for d in used]
        return totals

    def _accumulate(self, m: Module, totals: list[Value]) -> None:
        """Adds the sums to the accumulators, and reads these for DRAIN."""
        # The bookkeeping meets the sums: the last row's skew and the column's registers.
        strip, size = self.strip, self.layout.size
        valid, others = self.entry.valid, self.entry.as_value()[1:]
        if behind := self.columns.delay - strip.lead:
            # Only what says that there is a row is reset: the others are shift registers.
            is_valid = Signal(behind, name="valid_delay")
            line = Signal((size - 1) * behind, name="entry_delay", reset_less=True)
            m.d.sync += [
                is_valid.eq(Cat(valid, is_valid)[:behind]),
                line.eq(Cat(others, line)[: len(line)]),
            ]
            valid, others = is_valid[-1], line[1 - size :]
        ahead = Signal(self.layout, name="entry_ahead")  # the accumulator's read address
        m.d.comb += ahead.eq(Cat(valid, others))
        found = register(m, ahead, "entry_found", reset=True)  # in the block RAM
        read = register(m, found, "entry_read", reset=True)  # in its output register
        now = register(m, read, "entry_now", reset=True) if strip.shifts_ahead else read
        after = register(m, now, "entry_after", reset=True)

        result = Signal(strip.word_bits, reset_less=True, name="result")
        partial, complete = (
            Ram(words, strip.word_bits, strip.word_bits, name=name, output_register=True)
            for words, name in zip(strip.memory_words, ("partial", "complete"), strict=True)
        )
        m.submodules.partial = partial.instance()
        m.submodules.complete = complete.instance()
        m.d.comb += [
            partial.read_address.eq(ahead.row),
            partial.write_address.eq(after.row),
            partial.write_data.eq(result),
            partial.write_enable.eq(after.valid & ~after.last),
            # Here and not behind the data, which are many more bits.
            complete.read_address.eq(
                register(m, Cat(self.drain_row, self.drain_bank), "drain_address")
            ),
            complete.write_address.eq(Cat(after.row, after.bank)),
            complete.write_data.eq(result),
            complete.write_enable.eq(after.valid & after.last),
        ]
        for b in range(2):
            m.d.sync += self.bank_complete[b].eq(after.valid & after.end & (after.bank == b))
        previous: Value = partial.read_data
        if strip.shifts:
            previous = self._shifted(m, previous, read.shift)
        if strip.shifts_ahead:
            previous = register(m, previous, "previous")
        bits = strip.accumulator_bits
        for c, total in enumerate(totals):
            start = previous.word_select(c, bits)
            # The sum first: carry chains take that operand as it is, the LUTs make the other.
            m.d.sync += result.word_select(c, bits).eq(
                total + Mux(now.first, Const(0, bits), start).as_signed()
            )
        m.d.comb += self.drain_data.eq(complete.read_data)

    def _shifted(self, m: Module, previous: Value, shift: Value) -> Value:
        """All accumulators of a row, shifted left as ``shift`` says."""
        words = [previous.word_select(c, self.strip.accumulator_bits) for c in range(self.count)]
        shifted = Signal(len(previous), name="shifted")
        m.d.comb += shifted.eq(previous)
        with m.Switch(shift):
            for i, width in enumerate(self.strip.shifts, 1):
                with m.Case(i):
                    m.d.comb += shifted.eq(Cat(Cat(Const(0, width), w[:-width]) for w in words))
        return shifted


class _PlacedStrip(NamedTuple):
    """A strip and where it is."""

    strip: Strip
    group: int
    first: int  #: its first column, within the group
    place: int  #: cycles that it is later than the first strip with its skew


class SystolicArray(wiring.Component):
    """R rows x the columns of all groups, in order.

    ``activations`` (R bytes, byte r is reduction index r) with ``signed_codes`` and ``swap`` (first
    row of a pass: take the shadow weights) enter with ``entry``; one row a cycle, at least
    :attr:`minimum_pass_rows` cycles from a pass's first row to the next one's. ``slice_widths``
    (ascending): shifts of the accumulators between weight slices. While ``signed_codes`` is low,
    sums are right in the first ``unsigned_columns`` columns and the rest of their groups. Weights
    of group g: ``weight_valid{g}`` with ``weights{g}`` (column 0 lowest) for reduction indices R-1
    ... 0, which are the chain rows 0 ... R-1 of ``weight_row{g}``, not before the swap of the pass
    before has entered. ``bank_complete[b]``: all strips have written the tile's last row. Only a
    tile's last pass writes to its bank: a row of it must not enter before the bank's row is read.

    Accumulators have ``accumulator_bits`` bits (None: their group's) and wrap: only what is made of
    them behind the array has to fit. DRAIN gets them sign-extended to the bits of the widest.

    The columns ``drain_segment * lanes + l`` of a row appear on the lanes l of ``drain_data`` four
    cycles after ``drain_row``; lanes below ``drain_offset`` show the segment after that. A lane
    whose column does not exist shows anything. Where there is a paired group, ``drain_pairs`` adds
    16 times the sums of its second half of columns to those of the first.
    """

    def __init__(
        self,
        *,
        rows: int,
        groups: Sequence[Group],
        lanes: int,
        tile_rows: int,
        accumulator_bits: int | None = None,
        slice_widths: Sequence[int] = (),
        unsigned_columns: int | None = None,
    ) -> None:
        self.rows = rows
        self.lanes = lanes
        self.groups = tuple(groups)
        self.columns = sum(group.columns for group in groups)
        self.unsigned_columns = self.columns if unsigned_columns is None else unsigned_columns
        self.segments = -(-self.columns // lanes)
        self.tile_rows = tile_rows
        own = [accumulator_bits or group.accumulator_bits for group in groups]
        self.accumulator_bits = max(own)
        self.layout = entry_layout(tile_rows, slice_widths)
        self.strips = self._cut(own, tuple(slice_widths))
        #: A column of every pair, the lower one, and the other.
        self.pairs: dict[int, int] = {}
        start = 0
        for group in groups:
            if group.paired:
                half = group.columns // 2
                self.pairs |= {start + c: start + half + c for c in range(half)}
            start += group.columns
        strips = [placed.strip for placed in self.strips]
        #: Fewest cycles from a pass's first row to the next one's: read, add, write.
        self.minimum_pass_rows = 2 + max(strip.lead for strip in strips)
        #: Whether there is a second clock of twice the frequency, ``clk2x``.
        self.clk2x_used = any(strip.columns.clk2x for strip in strips)
        super().__init__(
            {
                "activations": In(8 * rows),
                "signed_codes": In(1),
                "swap": In(1),
                "entry": In(self.layout),
                **{
                    f"{name}{g}": In(bits)
                    for g, group in enumerate(groups)
                    for name, bits in (
                        ("weight_valid", 1),
                        ("weight_row", bits_for(rows - 1)),
                        ("weights", group.columns * self._columns_of(g).cell_bits),
                    )
                },
                "drain_bank": In(1),
                "drain_row": In(bits_for(tile_rows - 1)),
                "drain_segment": In(bits_for(self.segments - 1)),
                "drain_offset": In(bits_for(lanes - 1)),
                **({"drain_pairs": In(1)} if self.pairs else {}),
                "drain_data": Out(self.accumulator_bits * lanes),
                "bank_complete": Out(2),
                **({"clk2x": In(1)} if self.clk2x_used else {}),
            }
        )

    def _columns_of(self, g: int) -> Columns:
        group = self.groups[g]
        return columns_of(
            group.kind,
            rows=self.rows,
            weight_bits=group.weight_bits,
            carry=group.takes_slices,
            unsigned=sum(before.columns for before in self.groups[:g]) < self.unsigned_columns,
        )

    def _cut(self, bits: Sequence[int], slice_widths: tuple[int, ...]) -> list[_PlacedStrip]:
        """The strips, in the order of their columns; ``bits`` of accumulators, by group."""
        strips = []
        places: dict[tuple[int, ...], int] = {}  # strips so far, by their skew
        start = 0  # of the group
        for g, group in enumerate(self.groups):
            columns = self._columns_of(g)
            first = 0
            while first < group.columns:
                count = min(self.lanes - (start + first) % self.lanes, group.columns - first)
                place = places.get(columns.skew, 0)
                strip = Strip(columns, count, self.tile_rows, bits[g], slice_widths)
                strips.append(_PlacedStrip(strip, g, first, place))
                places[columns.skew] = place + 1
                first += count
            start += group.columns
        last = {placed.strip.columns.skew: s for s, placed in enumerate(strips)}
        for s in last.values():
            strips[s] = strips[s]._replace(strip=replace(strips[s].strip, last=True))
        return strips

    def leaves(self) -> dict[str, wiring.Component | str]:
        """The modules that are emitted once each and instantiated by name."""
        found: dict[str, wiring.Component | str] = {}
        for strip in (placed.strip for placed in self.strips):
            if strip.columns.module not in found:
                found[strip.columns.module] = strip.columns.leaf()
            if strip.module not in found:
                found[strip.module] = ColumnStrip(strip)
            for words in strip.memory_words:
                shape = (words, strip.word_bits, strip.word_bits)
                memory = ram_name(*shape, output_register=True)
                found.setdefault(memory, ram_verilog(*shape, output_register=True))
        return found

    def synthesis_leaves(self) -> dict[str, wiring.Component]:
        """Those of :meth:`leaves` that synthesis for DSP48E2 replaces by these."""
        kinds = dict.fromkeys(placed.strip.columns for placed in self.strips)
        leaves = {columns.module: columns.synthesis_leaf() for columns in kinds}
        return {name: leaf for name, leaf in leaves.items() if leaf is not None}

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        skews = sorted({placed.strip.columns.skew for placed in self.strips}, reverse=True)
        # Only the first groups take uint8: an activation loses its ninth bit on the way, if any.
        widths = {
            skew: max(
                placed.strip.columns.code_bits
                for placed in self.strips
                if placed.strip.columns.skew == skew
            )
            for skew in skews
        }
        flows = {skew: self._skew(m, skew, widths[skew], i) for i, skew in enumerate(skews)}
        columns: list[Value] = []  # accumulators, in order
        slowest = max(self.strips, key=lambda placed: placed.place + placed.strip.columns.delay)
        for s, placed in enumerate(self.strips):
            strip = placed.strip
            flow, code = flows[strip.columns.skew], strip.columns.code_bits
            given = len(flow["skewed"]) // self.rows
            skewed = Cat(flow["skewed"].word_select(p, given)[:code] for p in range(self.rows))
            flow_next = {}
            if not strip.last:
                flow_next = {
                    "skewed": Signal(code * self.rows, name=f"skewed_{s}"),
                    "swap": Signal(self.rows, name=f"swap_{s}_next"),
                    "entry": Signal(self.layout.size, name=f"entry_{s}"),
                }
            valid, row, word = self._weights(m, s)
            drained = Signal(strip.word_bits, name=f"drain_data_{s}")
            complete = Signal(2, name=f"bank_complete_{s}")
            m.submodules[f"strip_{s}"] = Instance(
                strip.module,
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_skewed=skewed,
                i_swap=flow["swap"],
                i_entry=flow["entry"],
                i_weight_valid=valid,
                i_weight_row=row,
                i_weights=word,
                i_drain_bank=self.drain_bank,
                i_drain_row=self.drain_row,
                **({"i_clk2x": self.clk2x} if strip.columns.clk2x else {}),
                **{f"o_{name}_next": signal for name, signal in flow_next.items()},
                o_drain_data=drained,
                o_bank_complete=complete,
            )
            flows[strip.columns.skew] = flow_next
            words = [drained.word_select(c, strip.accumulator_bits) for c in range(strip.count)]
            missing = self.accumulator_bits - strip.accumulator_bits
            columns += [Cat(word, word[-1].replicate(missing)) for word in words]
            if placed is slowest:
                m.d.comb += self.bank_complete.eq(complete)
        self._drain(m, columns)
        return m

    def _skew(self, m: Module, skew: Sequence[int], code: int, index: int) -> dict[str, Value]:
        """Activations (signed, 9 or 8 bits) and swaps of chain row p, ``skew[p]`` cycles behind.

        Chain row p holds reduction index R-1-p.
        """
        rows = self.rows
        skewed = Signal(code * rows, name=f"skewed_by_{index}")
        swaps = Signal(rows, name=f"swaps_by_{index}")
        swap: list[Value] = [self.swap]  # by cycles
        for d in range(max(skew)):
            swap.append(register(m, swap[-1], f"swap_by_{index}_{d + 1}", reset=True))
        for p, behind in enumerate(skew):
            byte = self.activations.word_select(rows - 1 - p, 8)
            value = Cat(byte, byte[7] & self.signed_codes)[:code]
            if behind:
                line = Signal(code * behind, name=f"skew_{p}_by_{index}", reset_less=True)
                m.d.sync += line.eq(Cat(value, line)[: code * behind])
                value = line[-code:]
            m.d.comb += [skewed.word_select(p, code).eq(value), swaps[p].eq(swap[behind])]
        return {"skewed": skewed, "swap": swaps, "entry": self.entry.as_value()}

    def _weights(self, m: Module, s: int) -> tuple[Value, Value, Value]:
        """Weights of a strip, as much later as its swap is."""
        placed = self.strips[s]
        bits = placed.strip.columns.cell_bits
        first = placed.first * bits
        valid = getattr(self, f"weight_valid{placed.group}")
        row = getattr(self, f"weight_row{placed.group}")
        word = getattr(self, f"weights{placed.group}")[first : first + placed.strip.count * bits]
        for d in range(placed.place):
            valid = register(m, valid, f"weight_valid_{s}_{d}", reset=True)
            row = register(m, row, f"weight_row_{s}_{d}")
            word = register(m, word, f"weights_{s}_{d}")
        return valid, row, word

    def _drain(self, m: Module, columns: list[Value]) -> None:
        """The choice among the segments, each lane for itself: registers but for the last steps.

        A pair is added up here and not in front of the accumulators: its columns may lie in strips
        that are a cycle apart.
        """
        given = register(m, self.drain_segment, "given_segment")
        offset = register(m, self.drain_offset, "given_offset")
        following = Signal.like(given, name="following_segment", reset_less=True)
        m.d.sync += following.eq(given + 1)
        segment = register(m, given, "segment")
        bits = self.accumulator_bits
        if self.pairs:
            columns = list(columns)
            early = register(m, self.drain_pairs, "pairs_given")
            used = register(m, register(m, early, "pairs_early"), "pairs")
            for lower, upper in self.pairs.items():
                both = Signal(bits, name=f"pair_{lower}")
                product = Mux(used, Cat(Const(0, PAIRED_BITS), columns[upper]), 0)
                m.d.comb += both.eq(columns[lower] + product)
                columns[lower] = both
        for lane in range(self.lanes):
            last = lane == self.lanes - 1  # no offset is larger
            wrapped = register(m, 0 if last else lane < offset, f"wrapped_{lane}")
            select = register(m, Mux(wrapped, following, segment), f"select_{lane}")
            chosen, *others = columns[lane :: self.lanes] or [Const(0, bits)]
            for s, column in enumerate(others, 1):
                chosen = Mux(select == s, column, chosen)
            m.d.comb += self.drain_data.word_select(lane, bits).eq(
                register(m, chosen, f"drained_{lane}")
            )
