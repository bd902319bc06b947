# SPDX-License-Identifier: Apache-2.0
"""Linear layers, q, k and v among them."""

from __future__ import annotations

from dataclasses import replace

from hwgen.graph.ops import AttentionValues, LayerNorm, Linear, QueryKeyValue, Requantise
from hwgen.isa.instructions import DrainMode
from hwgen.program.buffer_plan import ceil_div
from hwgen.program.lower.context import Lowering, clip_ranges, lower_operation
from hwgen.program.lower.layer import layer_item, layer_pieces, weight_layer
from hwgen.program.schedule import Kind


@lower_operation.register
def lower_query_key_value(op: QueryKeyValue, low: Lowering) -> None:
    """Two layers of one input, q and k with v; v is issued behind the first attention logits.

    A tile that is not full costs as much as one that is: k and v share one where k ends.
    """
    plan = low.plan
    source = plan.places[op.input]
    width = op.heads * op.head_dim
    results = {name: plan.places[name] for name in op.outputs}
    query_place, key_place, value_place = results.values()
    both = replace(key_place, groups=key_place.groups + value_place.groups)
    layers = []
    for columns, place in (
        (slice(0, width), query_place),
        (slice(width, 3 * width), both),
    ):
        r = op.requantise
        part = Requantise(
            bias=r.bias[columns],
            multiplier=r.multiplier[columns],
            shift=r.shift[columns],
            zero_point=r.zero_point,
            low=r.low,
            high=r.high,
        )
        layers.append(weight_layer(low, op, op.weights[:, columns], part, source, place, columns))
    query, key_value = layers
    query.name, query.results = op.outputs[0], ((op.outputs[0], query_place),)
    key_value.results = tuple((name, results[name]) for name in op.outputs[1:])
    blocks = plan.blocks
    keys = ceil_div(key_place.used, key_value.form.columns)
    # The head hides the LayerNorm of the second block: as many tiles of k, then q, as it takes.
    wanted = low.layernorm_cycles(blocks[-1]) + low.drain_tail(blocks[-1])
    for name, layer, span in (
        (op.outputs[1], key_value, (0, keys)),
        (op.outputs[0], query, (0, query.tiles)),
        (op.outputs[2], key_value, (keys, key_value.tiles)),
    ):
        layer.name = name
        tile_cycles = layer.tile_cycles(low, blocks[0])
        head = min(span[1] - span[0], max(0, ceil_div(wanted, tile_cycles)))
        wanted -= head * tile_cycles
        items = [
            layer_item(low, layer, rows, tiles)
            for rows, tiles in layer_pieces(low, layer, blocks, span=span, head=head, tail=0)
        ]
        if name == op.outputs[2]:
            low.pending_value = items
        else:
            low.items += items


@lower_operation.register
def lower_linear(op: Linear, low: Lowering) -> None:
    """Head and tail by what comes before and after."""
    before, after = low.neighbours(op)
    source, destination = low.plan.places[op.input], low.plan.places[op.output]
    rows = low.graph.tensors[op.input].shape[0]
    layer = weight_layer(low, op, op.weights, op.requantise, source, destination)
    if op.residual is not None:
        layer.mode = DrainMode.RESIDUAL
    elif op.wide:
        layer.mode = DrainMode.WIDE
    elif op.table is not None:
        layer.mode, layer.slot = DrainMode.TABLE, low.tables.index(op) % 2
    blocks = low.plan.blocks if rows == low.tokens else clip_ranges(low.plan.blocks, rows)
    head = tail = 0
    last, first = layer.tile_cycles(low, blocks[-1]), layer.tile_cycles(low, blocks[0])
    if isinstance(before, AttentionValues):
        tail = layer.tiles
    elif isinstance(before, LayerNorm):
        # LayerNorm and drain of the second block, and something to do beside the last softmax.
        wanted = low.layernorm_cycles(blocks[-1]) + low.drain_tail(blocks[-1])
        head = ceil_div(wanted, first)
    elif isinstance(before, Linear):
        head = ceil_div(low.drain_tail(blocks[-1]), first)
    if isinstance(after, LayerNorm):
        wanted = low.layernorm_cycles(blocks[0]) + low.drain_tail(blocks[0], wide=True)
        tail = max(tail, ceil_div(5 * wanted // 4, last))
    elif isinstance(after, Linear):
        tail = max(tail, ceil_div(low.drain_tail(blocks[0]), last))
    for piece_rows, tiles in layer_pieces(low, layer, blocks, head=head, tail=tail):
        low.items.append(layer_item(low, layer, piece_rows, tiles, kind=Kind.LINEAR))
