# SPDX-License-Identifier: Apache-2.0
"""Cycles that no program of a design can go below, from the model's shapes alone.

Each engine works in order, so the work of any of them is a bound; the array's is the sharpest. The
bounds hold for :mod:`hwgen.program.cycle_model`, whose named timings they use: the explorer leaves
a design out without running the model when its bound already loses. The tests compare them with
the model over the whole space.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from types import MappingProxyType

from hwgen.config import AcceleratorConfig
from hwgen.graph.network import network_of
from hwgen.graph.ops import LayerNorm, Weighted
from hwgen.graph.spec import ModelSpec
from hwgen.graph.widths import WIDEST, Width, narrowest
from hwgen.isa.instructions import BEAT_BYTES
from hwgen.program.buffer_plan import ceil_div, round_up, row_blocks
from hwgen.program.machine import drain as drain_engine
from hwgen.program.machine import matmul, stationary, store, timeline
from hwgen.program.machine.layernorm import layernorm_cycles
from hwgen.program.machine.softmax import softmax_cycles
from hwgen.program.weight_planes import pass_beats, tile_formats


@dataclass(frozen=True)
class _Layer:
    """A matmul with packed weights: every tile and pass streams all rows."""

    rows: int
    passes: int  #: of a tile and slice
    columns: int  #: written, padding of heads included
    weight_bits: int  #: of the narrowest
    wide: bool = False  #: int16 results


@functools.lru_cache(maxsize=64)
def _layers(
    spec: ModelSpec, rows: int, widths: tuple[tuple[str, Width], ...]
) -> tuple[tuple[_Layer, int], ...]:
    """The layers of a model, equal ones once, with their number."""
    network, weight_bits = network_of(spec), dict(widths)
    makers = {name: op for op in network.ops for name in op.outputs}

    def channels(tensor: str) -> int:
        """Channels with the padding of heads."""
        count, heads = network.tensors[tensor].shape[1], makers[tensor].output_heads
        return heads * round_up(count // heads, rows) if heads else count

    found = Counter(
        _Layer(
            rows=network.tensors[op.input].shape[0],
            passes=ceil_div(channels(op.input), rows),
            # However Q, K and V are tiled.
            columns=sum(map(channels, op.outputs)),
            weight_bits=narrowest(weight_bits.get(op.name, WIDEST)),
            wide=network.tensors[op.outputs[0]].dtype == "int16",
        )
        for op in network.ops
        if isinstance(op, Weighted)
    )
    return tuple(found.items())


def cycle_bound(
    spec: ModelSpec,
    config: AcceleratorConfig,
    blocks: int,
    memory: timeline.MemoryModel,
    weight_bits: Mapping[str, Width] = MappingProxyType({}),
    frames: int = 1,
) -> int:
    """A lower bound of the cycles of a frame; costs microseconds.

    Args:
        spec: shapes of the model.
        config: the design.
        blocks: its row blocks.
        memory: external memory.
        weight_bits: by layer; 8 where it says nothing.
        frames: images that a START works on; the bound is of one of them.
    """
    rows = config.rows
    tokens, ops = spec.tokens, network_of(spec).ops
    heads = spec.depth * spec.heads
    norms = sum(isinstance(op, LayerNorm) for op in ops) - 1  # the last one may be of one row
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
    for layer, count in _layers(spec, rows, tuple(weight_bits.items())):
        # Of the columns that it can run on those with the fewest passes, and the fewest beats:
        # channels of several widths as if all had the narrowest, and no padding.
        forms = [
            (ceil_div(layer.columns, form.columns), form)
            for form in tile_formats(config, layer.weight_bits)
        ]
        runs = layer.passes * min(tiles * form.slices for tiles, form in forms)
        # A layer of one row, the last one, is done for several images of a START at once.
        images = frames if layer.rows == 1 else 1
        array += count * runs * max(layer.rows, least) // images
        drain += count * chunks(layer.columns, layer.rows, wide=layer.wide) // images
        beats += count * min(
            tiles
            * (
                config.constant_beats_of(form.columns)
                + layer.passes * form.slices * pass_beats(config, form)
            )
            for tiles, form in forms
        )
    # K lies on all 8-bit columns, V on whole or half words of them.
    key_columns, value_columns = config.attention_columns, config.value_columns
    key_tiles = ceil_div(tokens, key_columns)
    value_tiles = ceil_div(head_slices * rows, value_columns)
    key_passes, value_passes = key_tiles * head_slices, value_tiles * ceil_div(tokens, rows)
    key_interval = max(rows + stationary.COLUMNS_EMIT + swap, key_columns)
    value_interval = rows * max(1, value_columns // rows) + stationary.ROWS_INJECT + swap
    softmax = layernorm = 0
    for block in ranges:
        attention = (key_passes - 1) * max(block, key_interval) + max(block, least)
        attention += (value_passes - 1) * max(block, value_interval) + max(block, least)
        array += heads * attention
        written = chunks(tokens, block) + chunks(head_slices * rows, block)
        drain += heads * written
        slices = ceil_div(tokens, config.softmax_vec)
        words = ceil_div(tokens, rows)
        softmax += heads * softmax_cycles(config, rows=block, words=words, slices=slices)
        layernorm += norms * layernorm_cycles(config, rows=block, channels=spec.width)
    # External memory: every tile once a START.
    stream = beats * max(1.0, config.memory_ports * slot) / frames
    if frames > 1:  # whatever is before and behind one frame may be beside another
        return max(array - least, drain, softmax, layernorm, int(stream))
    if len(ranges) == 1:  # one LayerNorm for all tokens: nothing of the array's is beside it
        array += layernorm

    # Before the first pass: the image. After the last: the logits.
    line = spec.patch * spec.channels
    image_beats = ceil_div(spec.image_size**2 * spec.channels, BEAT_BYTES)
    image = image_beats * max(1.0, slot, BEAT_BYTES / gcd(line, BEAT_BYTES))
    before = timeline.START + 2 * memory.latency + int(image)
    words = ceil_div(spec.classes, config.int16_channels)
    after = memory.latency + words * store.word_cycles(config)
    return before + after + max(array - least, drain, softmax, layernorm, int(stream))
