# SPDX-License-Identifier: Apache-2.0
"""A matmul with weights: on which columns it runs, its tiles, the order of its pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError
from hwgen.graph.ops import Requantise, Weighted
from hwgen.isa.instructions import DrainMode
from hwgen.program.buffer_plan import INJECTION_CYCLES, Placement, ceil_div
from hwgen.program.lower.context import Lowering, Parts, padded_index
from hwgen.program.lower.product import Operand, Records, Result, product, weight_records
from hwgen.program.packing import constant_records
from hwgen.program.schedule import Item, Kind
from hwgen.program.weight_planes import TileFormat, pass_beats, tile_formats


@dataclass(kw_only=True)
class Layer:
    """A matmul of the graph, tiled: where its operands, results and tile records lie."""

    name: str
    source: Placement
    destination: Placement
    form: TileFormat
    passes: int
    tiles: int
    records: Records
    requantise: Requantise
    mode: DrainMode = DrainMode.INT8
    slot: int = 0
    token_offset: int = 0  #: destination token of source token 0
    #: boundary tensors that it makes, side by side in the destination, and where each lies
    results: tuple[tuple[str, Placement], ...] = ()

    def tile_cycles(self, low: Lowering, rows: tuple[int, int]) -> int:
        """Estimate of the array's cycles for a tile over some tokens."""
        pass_cycles = max(rows[1] - rows[0], low.config.rows + INJECTION_CYCLES)
        return self.passes * self.form.slices * pass_cycles


def choose_format(
    config: AcceleratorConfig,
    name: str,
    weight_bits: int | np.ndarray,
    source: Placement,
    columns: int,
) -> TileFormat:
    """The columns that a layer runs on: the fewest passes, then the fewest weight bits.

    Args:
        config: the design.
        name: of the layer.
        weight_bits: its width, or those of its padded output channels.
        source: moving operand.
        columns: padded output channels.

    Raises:
        ConfigError: no columns for its width.
    """
    # Signs hold no 0, so that padding of the moving operand would count.
    padding = source.channels % config.rows != 0
    forms = tile_formats(config, weight_bits, padding=padding)
    if not forms:
        raise ConfigError(
            f"groups must have columns of 2 bits or more for weights of {np.max(weight_bits)} bits",
            where=name,
            why="one-bit columns take one-bit weights only, and no padding",
        )

    def cost(form: TileFormat) -> tuple[int, int]:
        tiles = ceil_div(columns, form.columns)
        return tiles * form.slices, tiles * form.slices * pass_beats(config, form)

    return min(forms, key=cost)


def weight_layer(
    low: Lowering,
    op: Weighted,
    weights: np.ndarray,
    requantise: Requantise,
    source: Placement,
    destination: Placement,
    channels: slice = slice(None),
) -> Layer:
    """Tile a layer and put its records into the image.

    Args:
        low: the compilation.
        op: whose layer it is.
        weights: int8 [K, N], all of the operation's or some of its columns.
        requantise: of these columns.
        source: moving operand.
        destination: result.
        channels: which of the operation's output channels these are.
    """
    config = low.config
    widths: int | np.ndarray = op.weight_bits
    if op.channel_bits is not None:
        widths = np.zeros(destination.used, np.uint8)
        widths[padded_index(destination)] = op.channel_bits[channels]
    form = choose_format(config, op.name, widths, source, destination.used)
    passes, tiles = source.slices, ceil_div(destination.used, form.columns)
    matrix = constants = None
    if not low.skeleton:
        matrix = np.zeros((passes * config.rows, tiles * form.columns), np.int8)
        columns = padded_index(destination)
        matrix[np.ix_(padded_index(source), columns)] = weights
        live = constant_records(requantise.bias, requantise.multiplier, requantise.shift)
        constants = np.zeros((destination.used, live.shape[1]), np.uint8)
        constants[:, 6] = 1
        constants[columns] = live
        # Of int8 activations.
        positive = np.maximum(weights, 0).sum(axis=0, dtype=np.int64)
        negative = positive - weights.sum(axis=0, dtype=np.int64)
        lowest, highest = -128 * positive - 127 * negative, 127 * positive + 128 * negative
        bias = requantise.bias.astype(np.int64)
        low.check_accumulators(op.name, bias + lowest, bias + highest)
        low.check_narrow_accumulators(op.name, columns % form.columns, lowest, highest)
    return Layer(
        name=op.name,
        source=source,
        destination=destination,
        form=form,
        passes=passes,
        tiles=tiles,
        records=weight_records(low, form, tiles, passes, matrix, constants, wide=destination.wide),
        requantise=requantise,
        results=((op.output, destination),),
    )


def layer_item(
    low: Lowering,
    layer: Layer,
    rows: tuple[int, int],
    tiles: tuple[int, int],
    *,
    kind: Kind = Kind.OTHER,
) -> Item:
    """The instructions of some tiles of a layer over some source tokens."""
    start, stop = rows
    source, destination = layer.source, layer.destination
    first = tiles[0] * layer.form.columns
    columns = min(destination.used, tiles[1] * layer.form.columns) - first
    tokens = (start + layer.token_offset, stop + layer.token_offset)
    return product(
        low,
        layer.name,
        records=layer.records,
        form=layer.form,
        tiles=tiles,
        passes=layer.passes,
        stationary=Operand(),
        moving=Operand(
            base=low.word(source, 0, start),
            stride=source.stride,
        ),
        rows=stop - start,
        result=Result(
            placement=destination,
            first=first,
            columns=columns,
            tokens=tokens,
            mode=layer.mode,
            zero_point=layer.requantise.zero_point,
            low=layer.requantise.low,
            high=layer.requantise.high,
            slot=layer.slot,
            parts=_parts(low, layer, tokens, (first, first + columns)),
        ),
        cycles=(tiles[1] - tiles[0]) * layer.tile_cycles(low, rows),
        kind=kind,
    )


def _parts(low: Lowering, layer: Layer, tokens: tuple[int, int], columns: tuple[int, int]) -> Parts:
    """Boundary pieces of some columns of the destination."""
    found: Parts = []
    before = 0
    for tensor, placement in layer.results:
        here = (columns[0] - before, columns[1] - before)
        found += low.parts(tensor, placement, tokens, here)
        before += placement.used
    return found


def layer_pieces(
    low: Lowering,
    layer: Layer,
    blocks: tuple[tuple[int, int], ...] | list[tuple[int, int]],
    *,
    span: tuple[int, int] | None = None,
    head: int,
    tail: int,
    pieces: int | None = None,
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(token range, tile range) of a layer's matmuls in canonical order.

    Args:
        low: the compilation.
        layer: the layer.
        blocks: token ranges.
        span: range of its tiles; all by default.
        head: tiles that are issued block by block at the start.
        tail: tiles that are issued block by block at the end.
        pieces: of the tiles between, or of the whole layer when there is one block only; None: as
            the preference says.
    """
    whole = (blocks[0][0], blocks[-1][1])
    start, stop = span or (0, layer.tiles)
    pieces = pieces or low.preference.pieces or (1 if len(blocks) == 1 else 3)
    if len(blocks) == 1:
        return [(whole, tiles) for tiles in _cut((start, stop), pieces)]
    if whole[1] - whole[0] > low.config.tile_rows:
        return [(rows, tiles) for rows in blocks for tiles in _cut((start, stop), pieces)]
    head = min(stop, start + head)
    middle = max(head, stop - tail)
    out = []
    for rows in blocks:
        out += [(rows, tiles) for tiles in _cut((start, head), 6)]
    out += [(whole, tiles) for tiles in _cut((head, middle), pieces)]
    for rows in blocks:
        out += [(rows, tiles) for tiles in _cut((middle, stop), 6)]
    return out


def _cut(span: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Cut a range of tiles into at most ``count`` pieces."""
    start, stop = span
    if stop <= start:
        return []
    step = ceil_div(stop - start, min(count, stop - start))
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]
