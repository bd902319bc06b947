# SPDX-License-Identifier: Apache-2.0
"""STATIONARY engine: packed weights, V rows and K columns into the array's shadow registers."""

from __future__ import annotations

from math import gcd

from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import OFFSET_BITS, WORD_ADDRESS_BITS, StationarySource
from hwgen.rtl.pipeline import StreamBuffer, register
from hwgen.rtl.ports import READ_LATENCY, ReadPort, command_signature
from hwgen.rtl.ram import SmallMemory


class WeightGearbox(wiring.Component):
    """Wide beats of a packed bit string -> rows of ``row_bits`` bits, ``pass_rows`` rows a pass.

    The bit string of a pass starts at a beat; what is left of its last beat is dropped. Rows leave
    at one per cycle as long as beats arrive fast enough; ``o_stream`` may stall.
    """

    def __init__(self, *, beat_bits: int, row_bits: int, pass_rows: int) -> None:
        self.beat_bits = beat_bits
        self.row_bits = row_bits
        self.pass_rows = pass_rows
        super().__init__(
            {
                "i_stream": In(stream.Signature(beat_bits)),
                "o_stream": Out(stream.Signature(row_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        unit = gcd(self.beat_bits, self.row_bits)
        beat_units, row_units = self.beat_bits // unit, self.row_bits // unit
        # Units that pad a pass to whole beats; they lie in the beat that holds the end of its last
        # row.
        padding = -self.pass_rows * row_units % beat_units
        # A beat is taken while it fits even if no row leaves: a beat comes in every cycle as long
        # as rows leave, for less than a row and a beat are left then.
        capacity = row_units + 2 * beat_units - 1
        held = Signal(capacity * unit, reset_less=True, name="held")
        count = Signal(range(capacity + 1), name="count")
        row = Signal(range(self.pass_rows), name="row")

        row_ready = count >= row_units
        take = self.o_stream.valid & self.o_stream.ready
        last = Signal(init=self.pass_rows == 1, name="last")
        left = Signal.like(count, name="left")
        m.d.comb += [
            self.o_stream.valid.eq(row_ready),
            self.o_stream.payload.eq(held[: self.row_bits]),
            left.eq(count - Mux(take, Mux(last, row_units + padding, row_units), 0)),
            self.i_stream.ready.eq(count + beat_units <= capacity),
        ]
        with m.If(take):
            m.d.sync += [row.eq(Mux(last, 0, row + 1)), last.eq(row == self.pass_rows - 2)]
            if self.pass_rows == 1:
                m.d.sync += last.eq(1)
        remaining = Signal.like(held, name="remaining")
        with m.If(take & last):
            m.d.comb += remaining.eq(held >> (self.row_bits + padding * unit))
        with m.Elif(take):
            m.d.comb += remaining.eq(held >> self.row_bits)
        with m.Else():
            m.d.comb += remaining.eq(held)
        m.d.sync += [held.eq(remaining), count.eq(left)]
        with m.If(self.i_stream.valid & self.i_stream.ready):
            m.d.sync += count.eq(left + beat_units)
            with m.Switch(left):
                for units in range(capacity - beat_units + 1):
                    with m.Case(units):
                        keep = units * unit
                        m.d.sync += held.eq(Cat(remaining[:keep], self.i_stream.payload))
        return m


class CornerTurn(wiring.Component):
    """R x R bytes written word by word (one column each), read row by row; ping-pong.

    Byte (row r, column c) lies in memory ``(r + c) mod R`` at address c, so that a column write and
    a row read touch each memory once: two rotators instead of R x R registers. A write takes effect
    2 cycles after ``write_valid``; ``read_data`` follows ``read_row`` after 3 cycles.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        super().__init__(
            {
                "write_valid": In(1),
                "write_half": In(1),
                "write_column": In(bits_for(columns - 1)),
                "write_word": In(8 * rows),
                "read_half": In(1),
                "read_row": In(bits_for(rows - 1)),
                "read_data": Out(8 * columns),
            }
        )

    @staticmethod
    def _rotate(m: Module, value: Signal, amount: Signal, rows: int, left: bool) -> Signal:
        """Rotate bytes combinationally by a power-of-two ladder."""
        for bit in range(ceil_log2(rows)):
            distance = 8 << bit
            turned = value.rotate_left(distance) if left else value.rotate_right(distance)
            step = Signal(8 * rows, name=f"rotate_{'left' if left else 'right'}_{bit}")
            m.d.comb += step.eq(Mux(amount[bit], turned, value))
            value = step
        return value

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, columns = self.rows, self.columns
        column_bits = bits_for(columns - 1)

        # Write: byte r of column c goes to memory (r + c) mod R: rotate left by c.
        column = Signal(ceil_log2(rows), name="column")
        m.d.comb += column.eq(self.write_column)
        word_1 = Signal(8 * rows, reset_less=True, name="word_1")
        valid_1 = Signal(name="valid_1")
        half_1 = Signal(name="half_1")
        column_1 = Signal(column_bits, name="column_1")
        m.d.sync += [
            word_1.eq(self._rotate(m, self.write_word, column, rows, True)),
            valid_1.eq(self.write_valid),
            half_1.eq(self.write_half),
            column_1.eq(self.write_column),
        ]

        # Read: memory b holds column (b - r) mod R of row r; rotate right by r puts column c at
        # byte c.
        row_1 = Signal.like(self.read_row, name="row_1")
        row_2 = Signal.like(self.read_row, name="row_2")
        half_read = Signal(name="half_read")
        m.d.sync += [row_1.eq(self.read_row), row_2.eq(row_1), half_read.eq(self.read_half)]
        gathered = Signal(8 * rows, reset_less=True, name="gathered")
        for b in range(rows):
            store = SmallMemory(
                "store", shape=8, depth=2 << column_bits, attrs={"ram_style": "distributed"}
            )
            m.submodules[f"store_{b}"] = store
            write = store.writer("write")
            read = store.reader("read", domain="comb")
            wanted = Signal(ceil_log2(rows), name=f"column_{b}")
            m.d.comb += [
                write.en.eq(valid_1),
                write.addr.eq(Cat(column_1, half_1)),
                write.data.eq(word_1.word_select(b, 8)),
                wanted.eq(b - row_1),
                read.addr.eq(Cat(wanted[:column_bits], half_read)),
            ]
            m.d.sync += gathered.word_select(b, 8).eq(read.data)
        turned = self._rotate(m, gathered, row_2, rows, False)
        m.d.sync += self.read_data.eq(turned[: 8 * columns])
        return m


class StationaryEngine(wiring.Component):
    """Loads the array's shadow weights for every pass, in program order.

    ``weights``: rows of packed weights from the gearbox.
    ``weight_valid``/``weight_row``/``weight_data`` go to the array: chain row 0 (reduction index
    R-1) first. ``full`` is high while the shadow registers hold an unused pass; ``swapped`` (from
    the array's entry) frees them. Throughput: one pass per max(R + 4, cycles to fetch it); the
    fetch of a K or V operand runs one pass ahead for K (ping-pong corner turn). ``done`` pulses
    when the command's last word has been read.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        row_bits = config.columns * 8
        super().__init__(
            {
                "i_command": In(command_signature("STATIONARY")),
                "done": Out(1),
                "weights": In(stream.Signature(row_bits)),
                "read": Out(ReadPort(config.word_bits)),
                "weight_valid": Out(1),
                "weight_row": Out(bits_for(config.rows - 1)),
                "weight_data": Out(row_bits),
                "full": Out(1),
                "from_memory": Out(1),
                "swapped": In(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config
        rows, columns = config.rows, config.columns
        command = Signal.like(self.i_command.payload, name="command")
        squares = max(1, columns // rows)  # R x R blocks of a tile
        square_columns = min(rows, columns)
        row_bits = bits_for(rows - 1)

        # The next row to inject, as chain row (0 first), and the pass bookkeeping.
        chain_row = Signal(range(rows), name="chain_row")
        full = Signal(name="full")
        m.d.comb += self.full.eq(full)
        with m.If(self.swapped):
            m.d.sync += full.eq(0)
        inject = Signal(name="inject")
        row_data = Signal(columns * 8, name="row_data")
        m.d.sync += [
            self.weight_valid.eq(inject),
            self.weight_row.eq(chain_row),
            self.weight_data.eq(row_data),
        ]
        pass_injected = Signal(name="pass_injected")
        last_row = Signal(name="last_row")
        m.d.comb += pass_injected.eq(inject & last_row)
        with m.If(inject):
            m.d.sync += [chain_row.eq(chain_row + 1), last_row.eq(chain_row == rows - 2)]
        with m.If(pass_injected):
            m.d.sync += full.eq(1)

        # Passes left to inject (tiles x passes, in loops). A pass takes many cycles, so that its
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

        # Corner turn buffers, one per R x R block.
        turn_read_row = Signal(row_bits, name="turn_read_row")
        turn_half = Signal(name="turn_half")
        turn_data = []
        turn_write = Signal(squares, name="turn_write")
        turn_column = Signal(bits_for(square_columns - 1), name="turn_column")
        turn_write_half = Signal(name="turn_write_half")
        for s in range(squares):
            turn = CornerTurn(rows, square_columns)
            m.submodules[f"corner_turn_{s}"] = turn
            m.d.comb += [
                turn.write_valid.eq(turn_write[s]),
                turn.write_half.eq(turn_write_half),
                turn.write_column.eq(turn_column),
                turn.write_word.eq(self.read.data),
                turn.read_half.eq(turn_half),
                turn.read_row.eq(turn_read_row),
            ]
            turn_data.append(turn.read_data)
        turned = Cat(turn_data)

        # Tags of words in flight: block, column in block, half, last word of the pass.
        tag_bits = 1 + 1 + bits_for(square_columns - 1) + squares
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
                        with m.Case(StationarySource.WEIGHTS):
                            m.next = "Weights"
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

            with m.State("Weights"):
                m.d.comb += [
                    self.weights.ready.eq(~full),
                    inject.eq(self.weights.valid & ~full),
                    row_data.eq(self.weights.payload),
                ]
                with m.If(pass_injected & last_pass):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

            # V: the words of chain row 0 .. R-1 (tokens R-1 .. 0 of the pass); a row may need
            # several words.
            with m.State("Rows wait"):
                m.d.comb += self.from_memory.eq(1)
                with m.If(~full):
                    m.d.sync += f_active.eq(1)
                    m.next = "Rows"
            with m.State("Rows"):
                m.d.comb += self.from_memory.eq(1)
                with m.If(pass_injected):
                    with m.If(last_pass):
                        m.d.comb += self.done.eq(1)
                        m.next = "Idle"
                    with m.Else():
                        m.next = "Rows wait"

            with m.State("Columns"):
                m.d.comb += self.from_memory.eq(1)
                with m.If(pass_injected & last_pass):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"

        is_rows = command.source == StationarySource.ROWS

        # V rows -----------------------------------------------------------------------------------
        # Word w of chain row p: token f_pass * R + (R-1-p), slice of channel (tile * C) // R + w.
        r_row = Signal(range(rows), name="r_row")  # chain row being requested
        r_block = Signal(max(1, bits_for(squares - 1)), name="r_block")
        r_token = Signal(13, name="r_token")
        r_slice_base = Signal(WORD_ADDRESS_BITS, name="r_slice_base")
        r_offset = Signal(
            max(1, bits_for(rows // columns)), name="r_offset"
        )  # which part of a word, for C < R
        arrived_row_valid = Signal(name="arrived_row_valid")
        with m.If((command.source == StationarySource.ROWS) & f_active):
            m.d.comb += [
                wanted.eq(1),
                # Rows beyond the limit become zero below; their address stays inside the tensor.
                request.base.eq(r_slice_base),
                request.token.eq(Mux(r_token < command.limit, r_token, 0)),
            ]
            with m.If(advance):
                m.d.comb += tag.eq(Cat(1, r_block == squares - 1))
                with m.If(r_block == squares - 1):
                    m.d.sync += [r_block.eq(0), r_row.eq(r_row + 1), r_token.eq(r_token - 1)]
                    m.d.sync += r_slice_base.eq(f_tile_base)
                    with m.If(r_row == rows - 1):
                        m.d.sync += f_active.eq(0)
                with m.Else():
                    m.d.sync += [
                        r_block.eq(r_block + 1),
                        r_slice_base.eq(r_slice_base + command.stride),
                    ]
        # Tokens of the pass run downwards from f_pass * R + R - 1.
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                r_row.eq(0),
                r_block.eq(0),
                r_token.eq(rows - 1),
                r_slice_base.eq(self.i_command.payload.base),
                r_offset.eq(0),
            ]
        with m.If(pass_injected & is_rows):
            m.d.sync += r_row.eq(0)
            with m.If(ends_tile):
                m.d.sync += r_token.eq(rows - 1)
                if columns >= rows:
                    following = f_tile_base + (command.stride * squares)
                    m.d.sync += [f_tile_base.eq(following), r_slice_base.eq(following)]
                else:
                    with m.If(r_offset == rows // columns - 1):
                        following = f_tile_base + command.stride
                        m.d.sync += [
                            r_offset.eq(0),
                            f_tile_base.eq(following),
                            r_slice_base.eq(following),
                        ]
                    with m.Else():
                        m.d.sync += r_offset.eq(r_offset + 1)
            with m.Else():
                m.d.sync += r_token.eq(r_token + 2 * rows)  # it stands R below the pass's lowest

        # Assemble the row and inject it when its last word arrives; rows beyond the limit are zero.
        gathered = Signal(8 * columns, name="gathered")
        if columns > rows:
            kept = Signal(8 * (columns - rows), reset_less=True, name="kept")
            with m.If(arrived[0] & is_rows):
                m.d.sync += kept.eq(Cat(kept, self.read.data)[8 * rows :])
            m.d.comb += gathered.eq(Cat(kept, self.read.data))
        elif columns == rows:
            m.d.comb += gathered.eq(self.read.data)
        else:
            m.d.comb += gathered.eq(self.read.data.word_select(r_offset, 8 * columns))
        row_index = Signal(13, name="row_index")  # reduction index of the row that arrives
        m.d.comb += row_index.eq(Cat((rows - 1 - chain_row)[:row_bits], pass_index))
        m.d.comb += arrived_row_valid.eq(arrived[0] & arrived[1] & is_rows)
        with m.If(arrived_row_valid):
            m.d.comb += [inject.eq(1), row_data.eq(Mux(row_index < command.limit, gathered, 0))]

        # K columns --------------------------------------------------------------------------------
        # Fetch: word of token tile * C + c, slice pass. One pass ahead of the emission.
        is_columns = command.source == StationarySource.COLUMNS
        c_column = Signal(range(square_columns), name="c_column")
        c_block = Signal(max(1, bits_for(squares - 1)), name="c_block")
        c_token = Signal(13, name="c_token")
        c_pass_base = Signal(WORD_ADDRESS_BITS, name="c_pass_base")
        half_free = ~filled.bit_select(f_half, 1)
        with m.If(is_columns & f_active & half_free):
            m.d.comb += [
                wanted.eq(1),
                request.base.eq(c_pass_base),
                request.token.eq(Mux(c_token < command.limit, c_token, 0)),
            ]
            last_word = (c_column == square_columns - 1) & (c_block == squares - 1)
            with m.If(advance):
                m.d.comb += tag.eq(Cat(1, last_word, c_column, 1 << c_block))
                m.d.sync += [c_column.eq(c_column + 1), c_token.eq(c_token + 1)]
                with m.If(c_column == square_columns - 1):
                    m.d.sync += [c_column.eq(0), c_block.eq(c_block + 1)]
                with m.If(last_word):
                    m.d.sync += [
                        c_block.eq(0),
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
                            c_token.eq(c_token - (columns - 1)),
                            c_pass_base.eq(c_pass_base + command.stride),
                        ]
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                c_column.eq(0),
                c_block.eq(0),
                c_token.eq(0),
                c_pass_base.eq(self.i_command.payload.base),
            ]
        column_bits = bits_for(square_columns - 1)
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
        m.d.comb += start.eq(is_columns & ~emitting & complete.bit_select(emit_half, 1) & ~full)
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
        # Columns beyond the limit are zero: the first column of the tile against the limit.
        column_base = Signal(17, name="column_base")
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                column_base.eq(0),
                turn_write_half.eq(0),
                settled_half.eq(0),
                complete.eq(0),
                emitting.eq(0),
            ]
        with m.If(is_columns & pass_injected & ends_tile):
            m.d.sync += column_base.eq(column_base + columns)
        keep = Signal(columns, name="keep")
        m.d.sync += keep.eq(Cat(column_base + c < command.limit for c in range(columns)))
        with m.If(e_flow[2]):
            m.d.comb += row_data.eq(
                Cat(Mux(keep[c], turned.word_select(c, 8), 0) for c in range(columns))
            )
        return m
