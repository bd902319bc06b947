# SPDX-License-Identifier: Apache-2.0
"""The systolic array alone: any matrix product, tiled by the producer of its stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.errors import FormatError
from hwgen.numerics.matmul import matmul
from hwgen.rtl.pipeline import Credits, Fifo, delay, register
from hwgen.rtl.systolic_array import Cells, SystolicArray
from hwgen.units.base import Entry, Parameter, Unit, Values, Vectors, Words, integer, pack_bits

#: Words between the entry of the same row in two passes of a tile: read, add, write of its
#: accumulators.
MINIMUM_PASS_WORDS = 3
#: Cycles from ``drain_row`` to ``drain_data`` of the array.
_DRAIN_LATENCY = 3
#: Refused above: what one simulation is given.
MAXIMUM_BYTES = 1 << 31

# Flags of an input word.
WEIGHT, VALID, SIGNED, FIRST, SWAP, LAST = (1 << bit for bit in range(6))


def group_columns(rows: int, columns: int) -> int:
    """Columns of a group: the smallest divisor of ``columns`` from R/2 on; or all columns."""
    for divisor in range(1, columns + 1):
        if columns % divisor == 0 and 2 * divisor >= rows:
            return divisor
    return columns


class SystolicArrayTop(wiring.Component):
    """The array between two streams; the producer of the input stream decides the tiling.

    ``i_stream``, one word a cycle: R bytes of activations, eight flags, a row of packed weights
    (column 0 lowest).

    - ``valid``: the activations are a row of a pass. ``swap`` is set on a pass's first row: the
      weights that came before it hold from here. ``first``: the pass is its tile's first and
      overwrites the accumulators. ``last``: last row of a tile's last pass. ``activations_signed``:
      int8, otherwise uint8.
    - ``weight_valid``: the weights are the next row of the next pass, reduction index R-1 first, R
      rows a pass.

    The weights of the next pass travel beside the rows of this one. Rules of the producer: weights
    of a pass come after or with the first row of the pass before, and before the pass's first row;
    a pass takes at least three words from its first row to the next pass's first row
    (:data:`MINIMUM_PASS_WORDS`; also from the weights, if R = 1).

    ``o_stream``: accumulators int32 of ``group_columns`` columns; of each tile all rows in turn, of
    each row all groups. Two accumulator banks: one tile drains while the next streams.
    Back-pressure: ``o_stream`` may stall at will; then ``i_stream`` stops at the end of the tile
    after. ``i_stream.ready`` does not depend on ``i_stream``.
    """

    def __init__(
        self, rows: int, columns: int, weight_bits: int, tile_rows: int, cells: Cells
    ) -> None:
        """Choose the groups."""
        self.rows = rows
        self.columns = columns
        self.weight_bits = weight_bits
        self.tile_rows = tile_rows
        self.array = SystolicArray(
            rows=rows,
            columns=columns,
            group_columns=group_columns(rows, columns),
            weight_bits=weight_bits,
            tile_rows=tile_rows,
            cells=cells,
        )
        word = data.StructLayout(
            {
                "activations": 8 * rows,
                "weight_valid": 1,
                "valid": 1,
                "activations_signed": 1,
                "first": 1,
                "swap": 1,
                "last": 1,
                "reserved": 2,
                "weights": columns * weight_bits,
            }
        )
        super().__init__(
            {
                "i_stream": In(stream.Signature(word)),
                "o_stream": Out(stream.Signature(32 * self.array.group_columns)),
            }
        )

    def leaves(self) -> dict[str, wiring.Component]:
        """Modules that are emitted once each and instantiated by name."""
        return self.array.leaves()

    def elaborate(self, platform: object) -> Elaboratable:
        """Bookkeeping of rows and banks in front, the drain behind."""
        m = Module()
        m.submodules.array = array = self.array
        groups = array.groups
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
            tile_end.eq(entering & payload.last),
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
            array.entry.bank.eq(register(m, bank, "entry_bank")),
            array.entry.row.eq(register(m, row_now, "entry_row")),
            array.weights.eq(register(m, payload.weights, "weights")),
            array.weight_row.eq(register(m, weight_row, "weight_chain_row")),
            array.weight_valid.eq(
                register(m, taken & payload.weight_valid, "weight_valid", reset=True)
            ),
        ]

        # Out: complete banks alternate; a queue with credits takes what the memory's latency has
        # under way.
        m.submodules.room = room = Credits(8)
        m.submodules.outputs = outputs = Fifo(32 * array.group_columns, 8)
        complete = Signal(2, name="complete")
        drain_bank = Signal(name="drain_bank")
        drain_row = Signal(row_bits, name="drain_row")
        drain_group = Signal(len(array.drain_group), name="drain_group")
        read = Signal(name="read")
        group_end = Signal(name="group_end")
        row_end = Signal(name="row_end")
        m.d.comb += [
            read.eq(complete.bit_select(drain_bank, 1) & room.available),
            room.take.eq(read),
            group_end.eq(drain_group == groups - 1),
            row_end.eq(drain_row == Mux(drain_bank, last_row[1], last_row[0])),
            drained.eq(read & group_end & row_end),
            array.drain_bank.eq(drain_bank),
            array.drain_row.eq(drain_row),
            array.drain_group.eq(drain_group),
            outputs.i_valid.eq(delay(m, read, _DRAIN_LATENCY, "read", reset=True)),
            outputs.i_payload.eq(array.drain_data),
            room.give.eq(self.o_stream.valid & self.o_stream.ready),
        ]
        with m.If(read):
            m.d.sync += drain_group.eq(Mux(group_end, 0, drain_group + 1))
            with m.If(group_end):
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
        "`weight_bits` bits: -1 and +1 for 1, symmetric two's complement otherwise. Products of "
        "any size are cut into tiles of at most `tile_rows` rows x `columns` columns and passes "
        "of `rows` reduction steps; weights of the next pass load while one streams. int8 or "
        "uint8 activations."
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
            choices=("digits", "multiplier"),
            build=True,
            doc="digits: adders that select multiples, no DSP; multiplier: a DSP block a cell",
        ),
    )
    inputs = (
        Entry(name="activations", axes=("M", "K"), dtypes=("int8", "uint8")),
        Entry(name="weights", axes=("K", "N"), doc="values of weight_bits bits"),
    )
    outputs = (Entry(name="accumulators", axes=("M", "N"), dtypes=("int32",)),)

    def component(self, values: Values) -> wiring.Component:
        """The array between its streams."""
        return SystolicArrayTop(
            integer(values, "rows"),
            integer(values, "columns"),
            integer(values, "weight_bits"),
            integer(values, "tile_rows"),
            "multiplier" if values["cells"] == "multiplier" else "digits",
        )

    def parts(self, component: wiring.Component) -> dict[str, wiring.Component]:
        """Column and column group."""
        leaves: dict[str, wiring.Component] = component.leaves()
        return leaves

    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """By :func:`hwgen.numerics.matmul.matmul`."""
        return {
            "accumulators": matmul(
                vectors["activations"],
                vectors["weights"],
                weight_bits=integer(values, "weight_bits"),
            )
        }

    def pack_weights(self, weights: npt.NDArray[Any], values: Values) -> npt.NDArray[np.uint8]:
        """[K, N] -> [column tiles, passes, R, bytes]: rows as they enter, padded with zero bits.

        Padding rows meet activations of 0, padding columns are dropped, so their weights have no
        effect.
        """
        rows, columns, bits = (integer(values, n) for n in ("rows", "columns", "weight_bits"))
        k, n = weights.shape
        # At one bit a set bit is -1.
        codes = (weights < 0).astype(np.int8) if bits == 1 else weights.astype(np.int8)
        codes = np.pad(codes, ((0, -k % rows), (0, -n % columns)))
        blocks = codes.reshape(-1, rows, codes.shape[1] // columns, columns)
        blocks = blocks.transpose(2, 0, 1, 3)[:, :, ::-1, :]
        packed = pack_bits(blocks.reshape(-1, columns), bits)
        return packed.reshape(*blocks.shape[:3], -1)

    def packed_weight_bytes(self, values: Values, shape: tuple[int, int] | None = None) -> int:
        """Bytes of packed weights: of one pass, or of a matrix [K, N] with its padding."""
        rows, columns, bits = (integer(values, n) for n in ("rows", "columns", "weight_bits"))
        passes = 1 if shape is None else -(-shape[0] // rows) * -(-shape[1] // columns)
        return passes * -(-rows * columns * bits // 8)

    def figures(
        self,
        values: Values,
        resources: Mapping[str, Any],
        modules: Mapping[str, Mapping[str, float]],
    ) -> dict[str, Any]:
        """Per cell: the whole unit and its columns alone; bytes of a pass's packed weights."""
        cells = integer(values, "rows") * integer(values, "columns")
        facts: dict[str, Any] = {"macs_per_cycle": cells}
        for name in ("lut", "ff", "dsp"):
            facts[f"{name}_per_mac"] = resources[name] / cells
        for module, total in modules.items():
            if "_column_" in module:
                for name in ("lut", "ff"):
                    facts[f"column_{name}_per_mac"] = total[name] / integer(values, "rows")
        return facts | {"packed_weight_bytes": self.packed_weight_bytes(values)}

    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Rows of each pass with the weights of the next one beside them."""
        rows, columns, tile_rows = (integer(values, n) for n in ("rows", "columns", "tile_rows"))
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
                    flags[stop - 1] |= LAST
            if index < len(heights):
                tile = tiles[index // passes]
                block = weights[tile.columns.start // columns, index % passes]
                words[start : start + rows, rows + 1 :] = block
                flags[start : start + rows] |= WEIGHT
            start += length
        groups = columns // group_columns(rows, columns)
        outputs = sum(t.rows.stop - t.rows.start for t in tiles) * groups
        return Words(words, outputs)

    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """Tiles back into their places, without padding columns."""
        columns, tile_rows = (integer(values, n) for n in ("columns", "tile_rows"))
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
