# SPDX-License-Identifier: Apache-2.0
"""STATIONARY engine: packed weights, V rows and K columns into the array's shadow registers."""

from __future__ import annotations

from functools import reduce
from operator import and_

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import StationarySource
from hwgen.rtl.operand_fetch import OperandFetch
from hwgen.rtl.pipeline import register
from hwgen.rtl.ports import ReadPort, command_signature
from hwgen.rtl.weight_planes import WeightPlanes


def nibbles(values: Value) -> Value:
    """Cells of a paired group from bytes: their lower halves, then their upper halves.

    A cell is four bits and a carry above them. The lower four, read as signed, are 16 too few where
    their highest is set; the upper cell's carry makes up for it.
    """
    codes = [values.word_select(c, 8) for c in range(len(values) // 8)]
    lower = [Cat(code[:4], Const(0, 1)) for code in codes]
    return Cat(*lower, *(Cat(code[4:], code[3]) for code in codes))


class StationaryEngine(wiring.Component):
    """Loads the array's shadow weights for every pass, in program order.

    ``weights``: wide beats of packed weights. ``weight_valid{g}``/``weight_row{g}``/
    ``weight_data{g}`` go to column group g of the array: chain row 0 (reduction index R-1) first,
    at most one row a cycle. Groups get the rows of weights independently of each other, those of V
    and K all at once (8-bit groups and pairs only). ``full`` is high while all groups that the pass
    uses hold it and it has not begun; ``swapped`` (from the array's entry) frees the shadow
    registers. ``from_memory``: the pass that is being loaded is of V or K. ``done`` pulses when the
    last row of a command has been handed out.

    A command of source WEIGHTS is accepted as soon as all beats of the one before have been taken,
    at most one ahead: its first two blocks of every group are assembled while the pass before waits
    for its swap.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        ports: dict[str, object] = {}
        for g, group in enumerate(config.groups):
            ports |= {
                f"weight_valid{g}": Out(1),
                f"weight_row{g}": Out(bits_for(config.rows - 1)),
                f"weight_data{g}": Out(group.columns * group.cell_bits),
            }
        super().__init__(
            {
                "i_command": In(command_signature("STATIONARY")),
                "done": Out(1),
                "weights": In(stream.Signature(config.wide_beat_bits)),
                "read": Out(ReadPort(config.word_bits)),
                **ports,
                "full": Out(1),
                "from_memory": Out(1),
                "swapped": In(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        count = len(config.groups)
        m.submodules.planes = planes = WeightPlanes(
            rows=config.rows, groups=config.groups, beat_bits=config.wide_beat_bits
        )
        m.submodules.operand = operand = OperandFetch(config)
        wiring.connect(m, wiring.flipped(self.weights), planes.i_stream)
        wiring.connect(m, operand.read, wiring.flipped(self.read))

        # Commands. The planes' half of a command of weights may begin before the rows of the one
        # before have gone: the groups that it uses wait in `ahead`.
        given = self.i_command.payload
        given_uses = Cat(given[f"planes{g}"] != 0 for g in range(count))
        is_weights = given.source == StationarySource.WEIGHTS
        uses = Signal(count, name="uses")  # groups; none unless weights are being loaded
        ahead = Signal(count, name="ahead")
        any_ahead = Signal(name="any_ahead")
        idle = Signal(name="idle")
        m.d.comb += [
            self.i_command.ready.eq(~any_ahead & Mux(is_weights, planes.i_command.ready, idle)),
            planes.i_command.valid.eq(self.i_command.valid & is_weights & ~any_ahead),
            planes.i_command.payload.carry.eq(given.carry),
            planes.i_command.payload.tiles.eq(given.tiles),
            planes.i_command.payload.slices.eq(given.slices),
            planes.i_command.payload.passes.eq(given.passes),
            *(planes.i_command.payload.planes[g].eq(given[f"planes{g}"]) for g in range(count)),
            operand.i_command.payload.eq(given),
            operand.i_command.valid.eq(self.i_command.valid & ~is_weights & ~any_ahead & idle),
        ]
        accepted = self.i_command.valid & self.i_command.ready
        with m.If(accepted & is_weights & ~idle):
            m.d.sync += [ahead.eq(given_uses), any_ahead.eq(1)]

        # Shadow registers. A group is open from the swap of the pass before until its last row.
        full = Signal(name="full")
        open_groups = Signal(count, name="open_groups")
        m.d.comb += [self.full.eq(full), operand.room.eq(~full)]
        free = ~full | self.swapped
        with m.If(self.swapped):
            m.d.sync += [full.eq(0), open_groups.eq(uses)]

        pass_loaded = Signal(name="pass_loaded")
        final = Signal(name="final")  # the pass of weights that is being loaded is the last one
        with m.FSM(name="stationary"):
            with m.State("Idle"):
                m.d.comb += idle.eq(1)
                with m.If(any_ahead):
                    m.d.sync += [uses.eq(ahead), any_ahead.eq(0)]
                    m.d.sync += open_groups.eq(Mux(free, ahead, 0))
                    m.next = "Weights"
                with m.Elif(accepted & is_weights):
                    m.d.sync += [uses.eq(given_uses), open_groups.eq(Mux(free, given_uses, 0))]
                    m.next = "Weights"
                with m.Elif(accepted):
                    m.next = "Operand"
            with m.State("Weights"), m.If(pass_loaded & final):
                m.d.comb += self.done.eq(1)
                m.d.sync += uses.eq(0)
                m.next = "Idle"
            with m.State("Operand"):
                m.d.comb += self.from_memory.eq(1)
                with m.If(operand.done):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

        # Rows.
        last_seen = Signal(name="last_seen")
        ending: list[Value] = []
        start = 0
        for g, group in enumerate(config.groups):
            rows = getattr(planes, f"o_stream{g}")
            valid, row, cells = rows.valid & open_groups[g], rows.payload.row, rows.payload.cells
            ends = valid & rows.payload.last
            ending.append(ends)
            with m.If(ends):
                m.d.sync += open_groups[g].eq(0)
            m.d.comb += rows.ready.eq(open_groups[g])
            if own := group.attention_columns:
                piece: Value = operand.cells[8 * start : 8 * (start + own)]
                start += own
                if group.paired:
                    piece = nibbles(piece)
                valid = valid | operand.valid
                row, cells = Mux(uses[g], row, operand.row), Mux(uses[g], cells, piece)
            m.d.sync += [
                getattr(self, f"weight_valid{g}").eq(valid),
                getattr(self, f"weight_row{g}").eq(row),
            ]
            data = register(m, cells, f"cells_{g}")
            m.d.comb += getattr(self, f"weight_data{g}").eq(data)
        # Group 0 has a block in every pass of weights, and says whether it is the last pass.
        first = planes.o_stream0.payload
        m.d.comb += final.eq(Mux(open_groups[0], first.final, last_seen))
        with m.If(ending[0]):
            m.d.sync += last_seen.eq(first.final)
        through = [~open_groups[g] | ends for g, ends in enumerate(ending)]
        m.d.comb += pass_loaded.eq(Cat(ending).any() & reduce(and_, through))
        with m.If(pass_loaded | (operand.valid & operand.last)):
            m.d.sync += full.eq(1)
        return m
