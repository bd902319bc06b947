# SPDX-License-Identifier: Apache-2.0
"""Cycles that no program of a design can go below, from the model's shapes alone.

Each engine works in order, so the work of any of them is a bound; the array's is the sharpest. The
bounds hold for :mod:`hwgen.program.cycle_model`, whose named timings they use: the explorer leaves
a design out without running the model when its bound already loses. The tests compare them with
the model over the whole space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from hwgen.config import AcceleratorConfig
from hwgen.graph.spec import ModelSpec
from hwgen.isa.instructions import BEAT_BYTES
from hwgen.program.buffer_plan import ceil_div, row_blocks
from hwgen.program.machine import drain as drain_engine
from hwgen.program.machine import matmul, stationary, store, timeline
from hwgen.program.machine.layernorm import layernorm_latency
from hwgen.program.machine.softmax import softmax_latency
from hwgen.program.weight_planes import pass_beats, tile_formats


@dataclass(frozen=True)
class _Layer:
    """A matmul with packed weights: every tile and pass streams all rows."""

    rows: int
    passes: int
    tiles: int
    columns: int  #: written, padding of heads included
    count: int = 1  #: layers of this shape
    wide: bool = False  #: int16 results


def _layers(spec: ModelSpec, config: AcceleratorConfig) -> Iterator[_Layer]:
    rows, columns = config.rows, config.columns
    tokens, width = spec.tokens, spec.width
    heads = spec.heads * ceil_div(spec.head_dim, rows) * rows

    def layer(
        streamed: int, reduction: int, outputs: int, count: int = 1, *, wide: bool = False
    ) -> _Layer:
        tiles = ceil_div(outputs, columns)
        return _Layer(streamed, ceil_div(reduction, rows), tiles, outputs, count, wide)

    yield layer(spec.patches, spec.patch_values, width, wide=True)
    yield layer(tokens, width, heads, spec.depth)
    yield layer(tokens, width, 2 * heads, spec.depth)
    yield layer(tokens, heads, width, spec.depth, wide=True)
    yield layer(tokens, width, spec.mlp_hidden, spec.depth)
    yield layer(tokens, spec.mlp_hidden, width, spec.depth, wide=True)
    yield layer(1, width, spec.classes, wide=True)


def cycle_bound(
    spec: ModelSpec,
    config: AcceleratorConfig,
    blocks: int,
    memory: timeline.MemoryModel,
    weight_bits: int = 8,
) -> int:
    """A lower bound of the cycles of a frame; costs microseconds.

    Args:
        spec: shapes of the model.
        config: the design.
        blocks: its row blocks.
        memory: external memory.
        weight_bits: width of the narrowest layer.
    """
    rows, columns = config.rows, config.columns
    pass_size = min(pass_beats(config, form) for form in tile_formats(config, weight_bits))
    tokens, depth = spec.tokens, spec.depth
    ranges = [stop - start for start, stop in row_blocks(tokens, rows, config.tile_rows, blocks)]
    slot = BEAT_BYTES / memory.bytes_per_cycle
    head_slices = ceil_div(spec.head_dim, rows)

    # Array. From the start of a pass to the next start: its rows, or swap and shifting in.
    swap = matmul.READ + 1
    least = rows + stationary.INJECT + swap
    array = 0
    drain = 0

    def chunks(valid: int, height: int, *, wide: bool = False) -> int:
        """DRAIN's cycles for some columns: whole chunks, and the rows of what is left."""
        chunk = config.chunk_channels(wide=wide)
        whole, left = divmod(valid, chunk)
        fill = chunk // 2 + drain_engine.CONSTANTS_SETTLE
        return whole * max(height, fill) + (left > 0) * height

    beats = 0
    for layer in _layers(spec, config):
        array += layer.count * layer.passes * layer.tiles * max(layer.rows, least)
        drain += layer.count * chunks(layer.columns, layer.rows, wide=layer.wide)
        record = config.constant_beats + layer.passes * pass_size
        beats += layer.count * layer.tiles * record
    key_tiles, value_tiles = ceil_div(tokens, columns), ceil_div(head_slices * rows, columns)
    key_passes, value_passes = key_tiles * head_slices, value_tiles * ceil_div(tokens, rows)
    key_interval = max(rows + stationary.COLUMNS_EMIT + swap, columns)
    value_interval = rows * max(1, columns // rows) + stationary.ROWS_INJECT + swap
    softmax = layernorm = 0
    for block in ranges:
        attention = (key_passes - 1) * max(block, key_interval) + max(block, least)
        attention += (value_passes - 1) * max(block, value_interval) + max(block, least)
        array += depth * spec.heads * attention
        written = chunks(tokens, block) + chunks(head_slices * rows, block)
        drain += depth * spec.heads * written
        per_row = ceil_div(tokens, min(rows, config.softmax_vec))
        latency = softmax_latency(config, ceil_div(tokens, config.softmax_vec))
        softmax += depth * spec.heads * ((block + 1) * per_row + latency)
        groups = ceil_div(spec.width, config.layernorm_lanes)
        norm = (block + 1) * groups + layernorm_latency(config)
        layernorm += 2 * depth * norm
    if len(ranges) == 1:  # one LayerNorm for all tokens: nothing of the array's is beside it
        array += layernorm

    # Before the first pass: the image. After the last: the logits.
    line = spec.patch * spec.channels
    image_beats = ceil_div(spec.image_size**2 * spec.channels, BEAT_BYTES)
    image = image_beats * max(1.0, slot, BEAT_BYTES / gcd(line, BEAT_BYTES))
    before = timeline.START + 2 * memory.latency + int(image)
    after = memory.latency + ceil_div(spec.classes, config.int16_channels) * store.STORE_WORD
    # External memory: every tile once.
    stream = beats * max(1.0, config.memory_ports * slot)
    return before + after + max(array - least, drain, softmax, layernorm, int(stream))
