# SPDX-License-Identifier: Apache-2.0
"""V rows and K columns of attention, from the activation memory to the 8-bit columns."""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import OFFSET_BITS, WORD_ADDRESS_BITS, StationarySource
from hwgen.rtl.corner_turn import CornerTurn
from hwgen.rtl.pipeline import StreamBuffer, register
from hwgen.rtl.ports import ReadPort, command_signature
from hwgen.timings import READ_LATENCY


class OperandFetch(wiring.Component):
    """Reads the passes of a V or K operand and hands out their rows, chain row 0 first.

    A tile of V has ``value_columns`` columns (zeros beyond them), a tile of K
    ``attention_columns``; the operand has one slice. With ``room`` a pass may be handed out: a row
    of it in every cycle with ``valid``, the last one with ``last``; then ``room`` must be low until
    the next may follow. V: a pass is read once there is room, one row per ``value_columns / R``
    words. K: the fetch runs one pass ahead (a ping-pong corner turn).
    ``done`` pulses with the command's last row.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(command_signature("STATIONARY")),
                "done": Out(1),
                "read": Out(ReadPort(config.word_bits)),
                "room": In(1),
                "valid": Out(1),
                "last": Out(1),
                "row": Out(bits_for(config.rows - 1)),
                "cells": Out(8 * config.attention_columns),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        rows = config.rows
        value_columns, key_columns = config.value_columns, config.attention_columns
        command = Signal.like(self.i_command.payload, name="command")
        words = max(1, value_columns // rows)  # of a row of V
        # Columns of the R x R squares of a tile of K; the last one may be narrower.
        square_columns = [min(rows, key_columns - first) for first in range(0, key_columns, rows)]
        squares = len(square_columns)
        row_bits = bits_for(rows - 1)

        # The next row to hand out, as chain row (0 first).
        chain_row = Signal(range(rows), name="chain_row")
        inject = Signal(name="inject")
        last_row = Signal(name="last_row")
        pass_injected = Signal(name="pass_injected")
        m.d.comb += [
            pass_injected.eq(inject & last_row),
            self.valid.eq(inject),
            self.last.eq(last_row),
            self.row.eq(chain_row),
        ]
        with m.If(inject):
            m.d.sync += [chain_row.eq(chain_row + 1), last_row.eq(chain_row == rows - 2)]

        # Passes left to hand out (tiles x passes, in loops). A pass takes many cycles, so that its
        # place may be compared well before its end.
        tile = Signal(16, name="tile")
        pass_index = Signal(12, name="pass_index")
        ends_tile = register(m, pass_index == command.passes - 1, "ends_tile")
        in_last_tile = register(m, tile == command.tiles - 1, "in_last_tile")
        last_pass = register(m, ends_tile & in_last_tile, "last_pass")
        with m.If(pass_injected):
            with m.If(ends_tile):
                m.d.sync += [pass_index.eq(0), tile.eq(tile + 1)]
            with m.Else():
                m.d.sync += pass_index.eq(pass_index + 1)

        # Fetch side: words of the activation memory, unstallable READ_LATENCY cycles after the
        # grant.
        f_tile = Signal(16, name="f_tile")
        f_pass = Signal(12, name="f_pass")
        f_active = Signal(name="f_active")
        f_tile_base = Signal(WORD_ADDRESS_BITS, name="f_tile_base")
        f_half = Signal(name="f_half")

        turn_read_row = Signal(row_bits, name="turn_read_row")
        turn_half = Signal(name="turn_half")
        turn_write = Signal(squares, name="turn_write")
        turn_column = Signal(range(square_columns[0]), name="turn_column")
        turn_write_half = Signal(name="turn_write_half")
        m.submodules.corner_turn = turn = CornerTurn(rows, key_columns)
        m.d.comb += [
            turn.write_valid.eq(turn_write),
            turn.write_half.eq(turn_write_half),
            turn.write_column.eq(turn_column),
            turn.write_word.eq(self.read.data),
            turn.read_half.eq(turn_half),
            turn.read_row.eq(turn_read_row),
        ]

        # Tags of words in flight: whether there is one, whether it is the last of its row (V) or
        # pass (K), column in the square (V: whether the row counts), square.
        column_bits = len(turn_column)
        tag_bits = 1 + 1 + column_bits + squares
        tags = Signal(tag_bits * READ_LATENCY, name="tags")
        arrived = tags[-tag_bits:]

        # The request, base and token apart, passes through a buffer, so that the choice of the
        # token and the arbitration of the banks lie in different cycles. A tensor lies in one bank.
        wanted = Signal(name="wanted")
        tag = Signal(tag_bits, name="tag")
        m.submodules.requests = requests = StreamBuffer(
            data.StructLayout({"base": WORD_ADDRESS_BITS, "token": 13, "tag": tag_bits})
        )
        request, requested = requests.i_stream.payload, requests.o_stream.payload
        advance = requests.i_stream.ready
        m.d.comb += [
            requests.i_stream.valid.eq(wanted),
            request.tag.eq(tag),
            self.read.valid.eq(requests.o_stream.valid),
            self.read.address.eq(
                Cat(
                    (requested.base[:OFFSET_BITS] + requested.token)[:OFFSET_BITS],
                    requested.base[OFFSET_BITS:],
                )
            ),
            requests.o_stream.ready.eq(self.read.ready),
        ]
        granted = self.read.valid & self.read.ready
        m.d.sync += tags.eq(Cat(Mux(granted, requested.tag, 0), tags[:-tag_bits]))

        filled = Signal(2, name="filled")  # halves that hold a whole pass
        emit_half = Signal(name="emit_half")
        emitting = Signal(name="emitting")

        with m.FSM(name="stationary"):
            with m.State("Idle"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [
                        command.eq(self.i_command.payload),
                        tile.eq(0),
                        pass_index.eq(0),
                        f_tile.eq(0),
                        f_pass.eq(0),
                        f_tile_base.eq(self.i_command.payload.base),
                    ]
                    with m.Switch(self.i_command.payload.source):
                        with m.Case(StationarySource.ROWS):
                            m.next = "Rows wait"
                        with m.Default():
                            m.d.sync += [
                                f_active.eq(1),
                                f_half.eq(0),
                                emit_half.eq(0),
                                filled.eq(0),
                            ]
                            m.next = "Columns"

            # V: the words of chain row 0 .. R-1 (tokens R-1 .. 0 of the pass); a row may need
            # several words.
            with m.State("Rows wait"), m.If(self.room):
                m.d.sync += f_active.eq(1)
                m.next = "Rows"
            with m.State("Rows"), m.If(pass_injected):
                m.next = "Rows wait"
                with m.If(last_pass):
                    m.next = "Idle"

            with m.State("Columns"), m.If(pass_injected & last_pass):
                m.next = "Idle"

        m.d.comb += self.done.eq(pass_injected & last_pass)
        is_rows = command.source == StationarySource.ROWS

        # V rows -----------------------------------------------------------------------------------
        # Word w of chain row p: token f_pass * T + (R-1-p), slice of channel (tile * C) // R + w
        # with C = value_columns, T = pass_tokens; from row R-1-T downwards no token.
        r_row = Signal(range(rows), name="r_row")  # chain row being requested
        r_word = Signal(range(max(2, words)), name="r_word")
        r_last_word = r_word == words - 1
        r_token = Signal(13, name="r_token")
        r_slice_base = Signal(WORD_ADDRESS_BITS, name="r_slice_base")
        r_half = Signal(name="r_half")  # which half of a word, for C < R
        r_first = register(m, (rows - command.pass_tokens)[:row_bits], "r_first")  # with a token
        r_next_pass = register(m, rows + command.pass_tokens, "r_next_pass")
        r_counts = Signal(name="r_counts")
        arrived_row_valid = Signal(name="arrived_row_valid")
        with m.If(is_rows & f_active):
            m.d.comb += [
                wanted.eq(1),
                # Rows beyond the limit become zero below; their address stays inside the tensor.
                request.base.eq(r_slice_base),
                request.token.eq(Mux(r_token < command.limit, r_token, 0)),
                r_counts.eq((r_token < command.limit) & (r_row >= r_first)),
            ]
            with m.If(advance):
                m.d.comb += tag.eq(Cat(1, r_last_word, r_counts))
                with m.If(r_last_word):
                    m.d.sync += [r_word.eq(0), r_row.eq(r_row + 1), r_token.eq(r_token - 1)]
                    m.d.sync += r_slice_base.eq(f_tile_base)
                    with m.If(r_row == rows - 1):
                        m.d.sync += f_active.eq(0)
                with m.Else():
                    m.d.sync += [
                        r_word.eq(r_word + 1),
                        r_slice_base.eq(r_slice_base + command.stride),
                    ]
        # Tokens of the pass run downwards from f_pass * T + R - 1.
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                r_row.eq(0),
                r_word.eq(0),
                r_token.eq(rows - 1),
                r_slice_base.eq(self.i_command.payload.base),
                r_half.eq(0),
            ]
        with m.If(pass_injected & is_rows):
            m.d.sync += r_row.eq(0)
            with m.If(ends_tile):
                m.d.sync += r_token.eq(rows - 1)
                next_base = f_tile_base + command.stride * words
                if value_columns < rows:
                    m.d.sync += r_half.eq(~r_half)
                with m.If(r_half if value_columns < rows else 1):
                    m.d.sync += [f_tile_base.eq(next_base), r_slice_base.eq(next_base)]
            with m.Else():
                m.d.sync += r_token.eq(r_token + r_next_pass)  # it stands below the pass's lowest

        # Assemble the row and inject it when its last word arrives; rows beyond the limit are zero.
        gathered = Signal(8 * value_columns, name="gathered")
        if value_columns > rows:
            kept = Signal(8 * (value_columns - rows), reset_less=True, name="kept")
            with m.If(arrived[0] & is_rows):
                m.d.sync += kept.eq(Cat(kept, self.read.data)[8 * rows :])
            m.d.comb += gathered.eq(Cat(kept, self.read.data))
        elif value_columns == rows:
            m.d.comb += gathered.eq(self.read.data)
        else:
            m.d.comb += gathered.eq(self.read.data.word_select(r_half, 8 * value_columns))
        m.d.comb += arrived_row_valid.eq(arrived[0] & arrived[1] & is_rows)
        with m.If(arrived_row_valid):
            m.d.comb += [inject.eq(1), self.cells.eq(Mux(arrived[2], gathered, 0))]

        # K columns --------------------------------------------------------------------------------
        # Fetch: word of token tile * C + c, slice pass (C = attention_columns). One pass ahead of
        # what is handed out.
        is_columns = command.source == StationarySource.COLUMNS
        c_column = Signal(range(square_columns[0]), name="c_column")
        c_square = Signal(range(max(2, squares)), name="c_square")
        c_token = Signal(13, name="c_token")
        c_pass_base = Signal(WORD_ADDRESS_BITS, name="c_pass_base")
        half_free = ~filled.bit_select(f_half, 1)
        with m.If(is_columns & f_active & half_free):
            m.d.comb += [
                wanted.eq(1),
                request.base.eq(c_pass_base),
                request.token.eq(Mux(c_token < command.limit, c_token, 0)),
            ]
            last_word = (c_column == square_columns[-1] - 1) & (c_square == squares - 1)
            with m.If(advance):
                m.d.comb += tag.eq(Cat(1, last_word, c_column, 1 << c_square))
                m.d.sync += [c_column.eq(c_column + 1), c_token.eq(c_token + 1)]
                with m.If(c_column == rows - 1):
                    m.d.sync += [c_column.eq(0), c_square.eq(c_square + 1)]
                with m.If(last_word):
                    m.d.sync += [
                        c_column.eq(0),
                        c_square.eq(0),
                        f_half.eq(~f_half),
                        filled.bit_select(f_half, 1).eq(1),
                    ]
                    with m.If(f_pass == command.passes - 1):
                        m.d.sync += [
                            f_pass.eq(0),
                            f_tile.eq(f_tile + 1),
                            c_pass_base.eq(command.base),
                        ]
                        with m.If(f_tile == command.tiles - 1):
                            m.d.sync += f_active.eq(0)
                    with m.Else():
                        m.d.sync += [
                            f_pass.eq(f_pass + 1),
                            c_token.eq(c_token - (key_columns - 1)),
                            c_pass_base.eq(c_pass_base + command.stride),
                        ]
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                c_column.eq(0),
                c_square.eq(0),
                c_token.eq(0),
                c_pass_base.eq(self.i_command.payload.base),
            ]
        m.d.comb += turn_column.eq(arrived[2 : 2 + column_bits])
        with m.If(is_columns & arrived[0]):
            m.d.comb += turn_write.eq(arrived[2 + column_bits :])
        # The half that a word belongs to follows the order of arrival.
        with m.If(is_columns & arrived[0] & arrived[1]):
            m.d.sync += turn_write_half.eq(~turn_write_half)
        complete = Signal(2, name="complete")  # halves whose words have all been written
        settle = Signal(3, name="settle")
        m.d.sync += settle.eq(Cat(is_columns & arrived[0] & arrived[1], settle))
        settled_half = Signal(name="settled_half")
        with m.If(settle[1]):
            m.d.sync += [complete.bit_select(settled_half, 1).eq(1), settled_half.eq(~settled_half)]

        # Emission: rows R-1 .. 0 of the half, three cycles of corner-turn latency.
        e_row = Signal(range(rows + 1), name="e_row")
        e_flow = Signal(3, name="e_flow")
        m.d.comb += [turn_half.eq(emit_half), turn_read_row.eq(rows - 1 - e_row)]
        start = Signal(name="start")
        m.d.comb += start.eq(is_columns & ~emitting & complete.bit_select(emit_half, 1) & self.room)
        e_issue = Signal(name="e_issue")
        m.d.comb += e_issue.eq(emitting & (e_row != rows))
        m.d.sync += e_flow.eq(Cat(e_issue, e_flow))
        with m.If(start):
            m.d.sync += [emitting.eq(1), e_row.eq(0)]
        with m.If(e_issue):
            m.d.sync += e_row.eq(e_row + 1)
        with m.If(e_flow[2]):
            m.d.comb += inject.eq(1)
        with m.If(is_columns & pass_injected):
            m.d.sync += [
                emitting.eq(0),
                emit_half.eq(~emit_half),
                filled.bit_select(emit_half, 1).eq(0),
                complete.bit_select(emit_half, 1).eq(0),
            ]
        # Columns beyond the limit are zero. What is left of it from the tile's first column on is
        # cut to as many bits as a column's number has, and compared with the numbers after that.
        left = Signal(signed(18), name="left")
        size = bits_for(key_columns)
        within = Mux(left[size:-1].any(), ~Const(0, size), left[:size])
        within = register(m, Mux(left[-1], 0, within), "left_in_tile")
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                left.eq(self.i_command.payload.limit),
                turn_write_half.eq(0),
                settled_half.eq(0),
                complete.eq(0),
                emitting.eq(0),
            ]
        with m.If(is_columns & pass_injected & ends_tile):
            m.d.sync += left.eq(left - key_columns)
        keep = Signal(key_columns, name="keep")
        m.d.sync += keep.eq(Cat(within > c for c in range(key_columns)))
        with m.If(e_flow[2]):
            m.d.comb += self.cells.eq(
                Cat(Mux(keep[c], turn.read_data.word_select(c, 8), 0) for c in range(key_columns))
            )
        return m
