# SPDX-License-Identifier: Apache-2.0
"""The systolic array alone: any matrix product, tiled by the producer of its stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.columns import KINDS, parse_groups
from hwgen.emit.verilog import leaf_name
from hwgen.errors import ConfigError, FormatError, UsageError
from hwgen.numerics.formats import weight_format
from hwgen.numerics.matmul import matmul
from hwgen.rtl.columns import Columns, columns_of
from hwgen.rtl.pipeline import Credits, Fifo, delay, register
from hwgen.rtl.systolic_array import Group, SystolicArray
from hwgen.timings import ACCUMULATOR_LATENCY
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, bit_planes, integer

#: Fewest words from a pass's first row to the next one's: read, shift, add, write of the
#: accumulators of a row. Without slices the array could do with one less.
MINIMUM_PASS_WORDS = 5
#: Value of the parameter ``groups`` that leaves it to the others.
NO_GROUPS = "none"
#: Bits of an accumulator: an accelerator's are narrower, as far as its products are.
_ACCUMULATOR_BITS = 32
#: Refused above: what one simulation is given.
MAXIMUM_BYTES = 1 << 31

# Flags of an input word.
WEIGHT, VALID, SIGNED, FIRST, SWAP, LAST, END = (1 << bit for bit in range(7))


def drained_columns(rows: int, columns: int) -> int:
    """Columns drained together: the smallest divisor of ``columns`` from R/2 on; or all columns."""
    for divisor in range(1, columns + 1):
        if columns % divisor == 0 and 2 * divisor >= rows:
            return divisor
    return columns


#: Kinds of columns; the multiplier is a yardstick that no accelerator has.
_CELLS = {
    "multiplier": "a product a cell, left to the synthesis",
    **{kind.name: kind.doc for kind in KINDS.values()},
}


class _Uniform(NamedTuple):
    """The only group of an array: any number of columns, no slices."""

    kind: str
    columns: int
    weight_bits: int
    takes_slices: bool = False
    accumulator_bits: int = _ACCUMULATOR_BITS
    paired: bool = False


class SystolicArrayTop(wiring.Component):
    """The array between two streams; the producer of the input stream decides the tiling.

    ``i_stream``, one word a cycle: R bytes of activations, eight flags, a row of packed cells
    (column 0 lowest; of groups that take slices the carry, which is 0 here, above the weight).

    - ``valid``: the activations are a row of a pass. ``swap`` is set on a pass's first row: the
      weights that came before it hold from here. ``first``: the pass is its tile's first and
      overwrites the accumulators. ``last``: the pass is its tile's last, ``end``: its last row.
      ``activations_signed``: int8, otherwise uint8.
    - ``weight_valid``: the weights are the next row of the next pass, reduction index R-1 first, R
      rows a pass.

    The weights of the next pass travel beside the rows of this one. Rules of the producer: weights
    of a pass come after or with the first row of the pass before, and before the pass's first row;
    a pass takes at least :data:`MINIMUM_PASS_WORDS` words from its first row to the next pass's
    first row (also from the weights, if R = 1).

    ``o_stream``: accumulators int32 of as many columns as :func:`drained_columns` says; of each
    tile all rows in turn, of each row all columns. Two accumulator banks: one tile drains while the
    next streams. Back-pressure: ``o_stream`` may stall at will; then ``i_stream`` stops at the end
    of the tile after. ``i_stream.ready`` does not depend on ``i_stream``. ``clk2x`` with columns
    that need it.
    """

    def __init__(
        self, rows: int, groups: Sequence[Group], tile_rows: int, *, unsigned: bool = True
    ) -> None:
        """Choose the columns that are drained together; ``unsigned``: uint8 activations, too."""
        self.rows = rows
        self.tile_rows = tile_rows
        columns = sum(group.columns for group in groups)
        # Slices of wider weights are a matter of the producer's, and this one has none; but a group
        # that could take them costs what it costs in an accelerator.
        widths = {group.weight_bits for group in groups if group.takes_slices}
        self.array = SystolicArray(
            rows=rows,
            groups=groups,
            lanes=drained_columns(rows, columns),
            tile_rows=tile_rows,
            accumulator_bits=_ACCUMULATOR_BITS,
            slice_widths=sorted(widths),
            unsigned_columns=None if unsigned else 0,
        )
        weight_bits = sum(len(getattr(self.array, f"weights{g}")) for g in range(len(groups)))
        word = data.StructLayout(
            {
                "activations": 8 * rows,
                "weight_valid": 1,
                "valid": 1,
                "activations_signed": 1,
                "first": 1,
                "swap": 1,
                "last": 1,
                "end": 1,
                "reserved": 1,
                "weights": weight_bits,
            }
        )
        super().__init__(
            {
                "i_stream": In(stream.Signature(word)),
                "o_stream": Out(stream.Signature(_ACCUMULATOR_BITS * self.array.lanes)),
                **({"clk2x": In(1)} if self.array.clk2x_used else {}),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        """Bookkeeping of rows and banks in front, the drain behind."""
        m = Module()
        m.submodules.array = array = self.array
        if array.clk2x_used:
            m.d.comb += array.clk2x.eq(self.clk2x)
        row_bits = bits_for(self.tile_rows - 1)

        # In: at most two tiles are complete and not drained, so the bank of the current one is
        # free.
        waiting = Signal(2, name="waiting")
        taken = Signal(name="taken")
        drained = Signal(name="drained")
        payload = self.i_stream.payload
        row = Signal(row_bits, name="row")
        bank = Signal(name="bank")
        weight_row = Signal(bits_for(self.rows - 1), name="weight_row")
        row_now = Mux(payload.swap, 0, row)
        entering = Signal(name="entering")
        tile_end = Signal(name="tile_end")
        m.d.comb += [
            self.i_stream.ready.eq(~waiting[1]),
            taken.eq(self.i_stream.valid & self.i_stream.ready),
            entering.eq(taken & payload.valid),
            tile_end.eq(entering & payload.end),
        ]
        last_row = [Signal(row_bits, name=f"last_row_{b}") for b in range(2)]
        with m.If(entering):
            m.d.sync += row.eq(row_now + 1)
        with m.If(tile_end):
            m.d.sync += bank.eq(~bank)
            for b in range(2):
                with m.If(bank == b):
                    m.d.sync += last_row[b].eq(row_now)
        with m.If(taken & payload.weight_valid):
            m.d.sync += weight_row.eq(Mux(weight_row == self.rows - 1, 0, weight_row + 1))
        with m.If(tile_end & ~drained):
            m.d.sync += waiting.eq(waiting + 1)
        with m.Elif(drained & ~tile_end):
            m.d.sync += waiting.eq(waiting - 1)

        m.d.comb += [
            array.activations.eq(register(m, payload.activations, "activations")),
            array.signed_codes.eq(register(m, payload.activations_signed, "activations_signed")),
            array.swap.eq(register(m, entering & payload.swap, "swap", reset=True)),
            array.entry.valid.eq(register(m, entering, "entry_valid", reset=True)),
            array.entry.first.eq(register(m, payload.first, "entry_first")),
            array.entry.last.eq(register(m, payload.last, "entry_last")),
            array.entry.end.eq(register(m, payload.end, "entry_end")),
            array.entry.bank.eq(register(m, bank, "entry_bank")),
            array.entry.row.eq(register(m, row_now, "entry_row")),
        ]
        weights = register(m, payload.weights, "weights")
        weight_chain_row = register(m, weight_row, "weight_chain_row")
        weight_valid = register(m, taken & payload.weight_valid, "weight_valid", reset=True)
        start = 0
        for g in range(len(array.groups)):
            word = getattr(array, f"weights{g}")
            m.d.comb += [
                word.eq(weights[start : start + len(word)]),
                getattr(array, f"weight_row{g}").eq(weight_chain_row),
                getattr(array, f"weight_valid{g}").eq(weight_valid),
            ]
            start += len(word)

        # Out: complete banks alternate; a queue with credits takes what the memory's latency has
        # under way.
        m.submodules.room = room = Credits(8)
        m.submodules.outputs = outputs = Fifo(_ACCUMULATOR_BITS * array.lanes, 8)
        complete = Signal(2, name="complete")
        drain_bank = Signal(name="drain_bank")
        drain_row = Signal(row_bits, name="drain_row")
        segment = Signal(len(array.drain_segment), name="segment")
        read = Signal(name="read")
        row_last = Signal(name="row_last")
        row_end = Signal(name="row_end")
        m.d.comb += [
            read.eq(complete.bit_select(drain_bank, 1) & room.available),
            room.take.eq(read),
            row_last.eq(segment == array.segments - 1),
            row_end.eq(drain_row == Mux(drain_bank, last_row[1], last_row[0])),
            drained.eq(read & row_last & row_end),
            array.drain_bank.eq(drain_bank),
            array.drain_row.eq(drain_row),
            array.drain_segment.eq(segment),
            outputs.i_valid.eq(delay(m, read, ACCUMULATOR_LATENCY, "read", reset=True)),
            outputs.i_payload.eq(array.drain_data),
            room.give.eq(self.o_stream.valid & self.o_stream.ready),
        ]
        with m.If(read):
            m.d.sync += segment.eq(Mux(row_last, 0, segment + 1))
            with m.If(row_last):
                m.d.sync += drain_row.eq(Mux(row_end, 0, drain_row + 1))
        finished = Cat(drained & ~drain_bank, drained & drain_bank)
        m.d.sync += [
            complete.eq((complete & ~finished) | array.bank_complete),
            drain_bank.eq(drain_bank ^ drained),
        ]
        wiring.connect(m, wiring.flipped(self.o_stream), outputs.o_stream)
        return m


class _Tile(NamedTuple):
    """Rows and columns of an output tile, as slices of the padded operands."""

    rows: slice
    columns: slice


def _tiles(rows: int, columns: int, tile_rows: int, array_columns: int) -> Iterator[_Tile]:
    """Output tiles in the order in which they are computed."""
    for n in range(0, columns, array_columns):
        for r in range(0, rows, tile_rows):
            yield _Tile(slice(r, min(r + tile_rows, rows)), slice(n, n + array_columns))


class _SystolicArrayUnit(Unit):
    """Tiles over rows and columns, passes over the reduction."""

    name = "systolic-array"
    doc = (
        "Matrix product, accumulators = activations @ weights, exact int32, on a "
        "weight-stationary array of `rows` (reduction) x `columns` cells with weights of "
        "`weight_bits` bits: -1 and +1 for 1, symmetric two's complement otherwise; with `groups` "
        "column j of the product has the width of column j modulo the columns of all groups. "
        "Products of any size are cut into tiles of at most `tile_rows` rows x `columns` columns "
        "and passes of `rows` reduction steps; weights of the next pass load while one streams. "
        "int8 or uint8 activations."
    )
    parameters = (
        Parameter(
            name="rows",
            default=16,
            minimum=1,
            maximum=256,
            build=True,
            doc="R, reduction steps of a pass",
        ),
        Parameter(
            name="columns",
            default=16,
            minimum=1,
            maximum=256,
            build=True,
            doc="C, columns of a tile",
        ),
        Parameter(
            name="weight_bits",
            default=8,
            minimum=1,
            maximum=8,
            build=True,
            doc="W, bits of a weight",
        ),
        Parameter(
            name="tile_rows",
            default=256,
            minimum=2,
            maximum=4096,
            build=True,
            doc="rows of an accumulator bank; more rows are several tiles",
        ),
        Parameter(
            name="cells",
            default="digits",
            choices=tuple(_CELLS),
            build=True,
            doc="; ".join(f"{name}: {doc}" for name, doc in _CELLS.items()),
        ),
        Parameter(
            name="groups",
            default=NO_GROUPS,
            form=f"KIND:COLUMNS:BITS,... or {NO_GROUPS!r}",
            build=True,
            doc="several groups of columns as an accelerator has them, the widest first, in the "
            "place of columns, weight_bits and cells: dual:4:8,digits:4:4",
        ),
        Parameter(
            name="activations",
            default="any",
            choices=("any", "int8"),
            build=True,
            doc="any: int8 or uint8; int8: fabric columns are a bit narrower, as those of an "
            "accelerator that attention does not run on, and uint8 is refused",
        ),
    )
    inputs = (
        Entry(name="activations", axes=("M", "K"), dtypes=("int8", "uint8")),
        Entry(name="weights", axes=("K", "N"), doc="values of weight_bits bits"),
    )
    outputs = (Entry(name="accumulators", axes=("M", "N"), dtypes=("int32",)),)

    def check_together(self, values: Values) -> None:
        """Columns of DSP cascades have 8 bits; groups say what three other parameters say."""
        if values["groups"] == NO_GROUPS:
            kind = KINDS.get(str(values["cells"]))
            bits = integer(values, "weight_bits")
            if kind is not None and bits not in kind.weight_bits:
                least, most = kind.weight_bits[0], kind.weight_bits[-1]
                legal = f"{most}" if least == most else f"in {least}..{most}"
                raise UsageError(
                    f"--weight-bits must be {legal} with --cells {kind.name}, not {bits}",
                    nearest=min(max(bits, least), most),
                )
            self._check_rows(values)
            return
        for parameter in self.parameters:
            given = values[parameter.name]
            if parameter.name in ("columns", "weight_bits", "cells") and given != parameter.default:
                raise UsageError(
                    f"{parameter.option} must be left out with --groups, which says it, not {given}"
                )
        try:
            parse_groups(str(values["groups"]))
        except ConfigError as error:
            raise UsageError(f"--groups: {error.what}", nearest=error.nearest) from error
        self._check_rows(values)

    def _check_rows(self, values: Values) -> None:
        rows = integer(values, "rows")
        for kind in (KINDS[g.kind] for g in self.groups(values) if g.kind in KINDS):
            if over := rows % kind.rows_multiple:
                legal = "even" if kind.rows_multiple == 2 else f"a multiple of {kind.rows_multiple}"
                raise UsageError(
                    f"--rows must be {legal} with {kind.name} columns, not {rows}",
                    nearest=rows + kind.rows_multiple - over,
                )

    def groups(self, values: Values) -> tuple[Group, ...]:
        """The groups of the array."""
        if values["groups"] != NO_GROUPS:
            return parse_groups(str(values["groups"]))
        columns, weight_bits = integer(values, "columns"), integer(values, "weight_bits")
        return (_Uniform(str(values["cells"]), columns, weight_bits),)

    def columns(self, values: Values) -> int:
        """Columns of all groups."""
        return sum(group.columns for group in self.groups(values))

    def _kinds(self, values: Values) -> list[Columns]:
        """The columns of each group."""
        rows = integer(values, "rows")
        return [
            columns_of(
                g.kind,
                rows=rows,
                weight_bits=g.weight_bits,
                carry=g.takes_slices,
                unsigned=values["activations"] == "any",
            )
            for g in self.groups(values)
        ]

    def _members(self, values: Values, count: int) -> list[tuple[Group, npt.NDArray[np.bool_]]]:
        """Which of ``count`` columns of a matrix belong to each group."""
        place = np.arange(count) % self.columns(values)
        found, start = [], 0
        for group in self.groups(values):
            found.append((group, (place >= start) & (place < start + group.columns)))
            start += group.columns
        return found

    def component(self, values: Values) -> wiring.Component:
        """The array between its streams."""
        rows, tile_rows = integer(values, "rows"), integer(values, "tile_rows")
        unsigned = values["activations"] == "any"
        return SystolicArrayTop(rows, self.groups(values), tile_rows, unsigned=unsigned)

    def parts(self, component: wiring.Component) -> dict[str, wiring.Component]:
        """Columns, strips and their memories."""
        leaves: dict[str, wiring.Component] = component.array.leaves()
        return leaves

    def synthesis_parts(self, component: wiring.Component) -> dict[str, wiring.Component]:
        """Dual columns in DSP blocks."""
        leaves: dict[str, wiring.Component] = component.array.synthesis_leaves()
        return leaves

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :func:`hwgen.numerics.matmul.matmul`, every column at its own width."""
        activations, weights = vectors["activations"], vectors["weights"]
        if values["activations"] == "int8" and activations.dtype != np.int8:
            raise FormatError(
                f"activations must be int8 with --activations int8, not {activations.dtype}"
            )
        out = np.zeros((len(activations), weights.shape[1]), np.int32)
        members = self._members(values, weights.shape[1])
        for group, inside in members:
            try:  # 1 is a weight of every width
                weight_format(group.weight_bits).check(np.where(inside, weights, 1), "weights")
            except FormatError as error:
                if len(members) > 1:
                    error.why = f"its column belongs to {group}"
                raise
            if inside.any():
                product = matmul(activations, weights[:, inside], weight_bits=group.weight_bits)
                out[:, inside] = product
        return {"accumulators": out}

    def pack_weights(self, weights: npt.NDArray[Any], values: Values) -> npt.NDArray[np.uint8]:
        """[K, N] -> [column tiles, passes, R, bytes]: rows as they enter, padded with zero bits.

        Padding rows meet activations of 0, padding columns are dropped, so their weights have no
        effect.
        """
        rows, columns = integer(values, "rows"), self.columns(values)
        k, n = weights.shape
        padded = np.pad(weights.astype(np.int64), ((0, -k % rows), (0, -n % columns)))
        blocks = padded.reshape(-1, rows, padded.shape[1] // columns, columns)
        blocks = blocks.transpose(2, 0, 1, 3)[:, :, ::-1, :]
        fields = blocks.reshape(-1, columns)
        planes, start = [], 0
        for group, kind in zip(self.groups(values), self._kinds(values), strict=True):
            part = fields[:, start : start + group.columns]
            # At one bit a set bit is -1; a carry is 0.
            codes = part < 0 if group.weight_bits == 1 else part & ((1 << group.weight_bits) - 1)
            planes.append(bit_planes(codes, kind.cell_bits))
            start += group.columns
        packed = np.packbits(np.concatenate(planes, axis=1), axis=1, bitorder="little")
        return packed.reshape(*blocks.shape[:3], -1)

    def packed_weight_bytes(self, values: Values, shape: tuple[int, int] | None = None) -> int:
        """Bytes of packed weights: of one pass, or of a matrix [K, N] with its padding."""
        rows, columns = integer(values, "rows"), self.columns(values)
        bits = sum(group.columns * group.weight_bits for group in self.groups(values))
        passes = 1 if shape is None else -(-shape[0] // rows) * -(-shape[1] // columns)
        return passes * -(-rows * bits // 8)

    def figures(
        self,
        values: Values,
        resources: Mapping[str, Any],
        modules: Mapping[str, Mapping[str, float]],
    ) -> dict[str, Any]:
        """Per cell: the whole unit and its columns alone; bytes of a pass's packed weights."""
        rows = integer(values, "rows")
        cells = rows * self.columns(values)
        facts: dict[str, Any] = {"macs_per_cycle": cells}
        for name in ("lut", "ff", "dsp"):
            facts[f"{name}_per_mac"] = resources[name] / cells
        groups = self.groups(values)
        for group, kind in zip(groups, self._kinds(values), strict=True):
            total = modules[leaf_name(self.module, kind.module)]
            which = f"{group.kind}_w{group.weight_bits}_" if len(groups) > 1 else ""
            for name in ("lut", "ff"):
                facts[f"{which}column_{name}_per_mac"] = total[name] / (rows * kind.width)
        return facts | {"packed_weight_bytes": self.packed_weight_bytes(values)}

    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Rows of each pass with the weights of the next one beside them."""
        rows, tile_rows = integer(values, "rows"), integer(values, "tile_rows")
        columns = self.columns(values)
        activations = vectors["activations"]
        weights = self.pack_weights(vectors["weights"], values)
        given = np.pad(activations, ((0, 0), (0, -activations.shape[1] % rows))).view(np.uint8)
        passes = weights.shape[1]
        tiles = list(_tiles(len(activations), vectors["weights"].shape[1], tile_rows, columns))
        # Words of a pass; the first entry has weights only.
        heights = [t.rows.stop - t.rows.start for t in tiles for _ in range(passes)]
        lengths = [max(rows, MINIMUM_PASS_WORDS)]
        lengths += [max(height, rows, MINIMUM_PASS_WORDS) for height in heights[:-1]]
        lengths.append(heights[-1])
        width = rows + 1 + weights.shape[-1]
        total = sum(lengths)
        if total * width > MAXIMUM_BYTES:
            raise FormatError(
                f"Vectors must need at most {MAXIMUM_BYTES} bytes of stream, not {total * width}",
                why=f"{len(heights)} passes over a {rows} x {columns} array",
            )
        words = np.zeros((total, width), np.uint8)
        flags = words[:, rows]
        flags |= SIGNED if activations.dtype == np.int8 else 0
        start = 0
        for index, length in enumerate(lengths):
            if index:
                tile = tiles[(index - 1) // passes]
                step = (index - 1) % passes
                height = heights[index - 1]
                stop = start + height
                words[start:stop, :rows] = given[tile.rows, step * rows : (step + 1) * rows]
                flags[start:stop] |= VALID | (FIRST if step == 0 else 0)
                flags[start] |= SWAP
                if step == passes - 1:
                    flags[start:stop] |= LAST
                    flags[stop - 1] |= END
            if index < len(heights):
                tile = tiles[index // passes]
                block = weights[tile.columns.start // columns, index % passes]
                words[start : start + rows, rows + 1 :] = block
                flags[start : start + rows] |= WEIGHT
            start += length
        segments = columns // drained_columns(rows, columns)
        outputs = sum(t.rows.stop - t.rows.start for t in tiles) * segments
        return Words(words, outputs)

    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """Tiles back into their places, without padding columns."""
        columns, tile_rows = self.columns(values), integer(values, "tile_rows")
        shape = (len(vectors["activations"]), vectors["weights"].shape[1])
        lines = np.ascontiguousarray(words).view("<i4").reshape(-1, columns)
        out = np.zeros((shape[0], shape[1] + -shape[1] % columns), np.int32)
        start = 0
        for tile in _tiles(*shape, tile_rows, columns):
            height = tile.rows.stop - tile.rows.start
            out[tile.rows, tile.columns] = lines[start : start + height]
            start += height
        return {"accumulators": np.ascontiguousarray(out[:, : shape[1]])}


SYSTOLIC_ARRAY = _SystolicArrayUnit()
