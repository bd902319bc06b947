# SPDX-License-Identifier: Apache-2.0
"""The image's codes and the patch embedding."""

from __future__ import annotations

from math import gcd

from hwgen.errors import ConfigError
from hwgen.graph.ops import Embedding, ImageCodes
from hwgen.isa.instructions import BEAT_BYTES, BY_NAME, DrainMode, Engine
from hwgen.program.buffer_plan import ceil_div
from hwgen.program.lower.context import Lowering, lower_operation
from hwgen.program.lower.layer import layer_item, layer_pieces, weight_layer
from hwgen.program.lower.layer_norm import load_layernorm
from hwgen.program.lower.mean_pool import load_ones
from hwgen.program.machine.state import ACCUMULATOR_BANKS
from hwgen.program.packing import split_words, words_of_int16, words_size, words_stride
from hwgen.program.schedule import Draft, Item


@lower_operation.register
def lower_image_codes(op: ImageCodes, low: Lowering) -> None:
    """LOAD_IMAGE.

    Raises:
        ConfigError: image or patch beyond what the load unit counts.
    """
    spec, placement = low.graph.spec, low.plan.places[op.output]
    across = spec.image_size // spec.patch
    line = spec.patch * spec.channels
    size = min(16, gcd(line, 16))
    fields = {
        "address": 0,
        "destination": low.word(placement),
        "stride": placement.stride,
        "patch_rows": across,
        "lines": spec.patch,
        "patches": across,
        "groups": line // size,
        "group_log2": size.bit_length() - 1,
        "beats": ceil_div(spec.image_size**2 * spec.channels, BEAT_BYTES),
    }
    for item in BY_NAME["LOAD_IMAGE"].fields:
        if fields[item.name] > item.maximum:
            raise ConfigError(
                f"LOAD_IMAGE.{item.name} must be at most {item.maximum}, not {fields[item.name]}",
                where=op.name,
                why="image size and patch are beyond what the load unit counts",
            )
    frame_beats = fields["beats"]

    def load(first: int, count: int) -> Draft:
        """Some rows of patches."""
        row_bytes = spec.patch * spec.image_size * spec.channels
        patches = (first * across, (first + count) * across)
        changes = {
            "address": first * row_bytes // BEAT_BYTES,
            "destination": low.word(placement, 0, patches[0]),
            "patch_rows": count,
            "beats": ceil_div(count * row_bytes, BEAT_BYTES),
        }
        return Draft(
            opcode="LOAD_IMAGE",
            fields=fields | changes,
            label=op.name,
            frame_stride=frame_beats,
            parts=tuple(low.parts(op.output, placement, patches, (0, 1 << 30))),
        )

    low.items.append(Item(engine=Engine.LOAD, drafts=[load(0, across)]))
    # As few rows of patches at a time as begin with a beat.
    step = BEAT_BYTES // gcd(spec.patch * spec.image_size * spec.channels, BEAT_BYTES)
    low.image_pieces = [load(first, min(step, across - first)) for first in range(0, across, step)]


@lower_operation.register
def lower_embedding(op: Embedding, low: Lowering) -> None:
    """Patches x weights, added to the position constants, which are loaded before."""
    spec = low.graph.spec
    source, residual = low.plan.places[op.input], low.plan.places[op.output]
    first = int(op.class_token)
    layer = weight_layer(low, op, op.weights, op.requantise, source, residual)
    layer.mode, layer.token_offset = DrainMode.RESIDUAL, first
    words = residual.slices * low.tokens
    position = None
    if not low.skeleton:
        position = split_words(words_of_int16(op.position, low.config), low.config)
    address = low.image.add(words_size(words, low.config), position)
    beats = low.config.rows // (low.config.word_ports * BEAT_BYTES)  # of a word, on every port
    # Blocks of patches: the tokens of the row blocks without the class token.
    blocks = [
        (max(0, start - first), stop - first) for start, stop in low.plan.blocks if stop - first > 0
    ]
    tail = low.layernorm_cycles(blocks[0]) + low.drain_tail(blocks[0], wide=True)
    pieces = layer_pieces(
        low,
        layer,
        blocks,
        head=0,
        tail=ceil_div(tail, layer.tile_cycles(low, blocks[-1])),
        pieces=12,
    )
    loaded = 0
    for rows, tiles in pieces:
        item = layer_item(low, layer, rows, tiles)
        reached = ceil_div(tiles[1] * layer.form.columns, residual.per_word)
        until = min(residual.slices, reached)
        if until > loaded:
            # The position constants, residual of the first addition, just before their tiles.
            columns = (loaded * residual.per_word, until * residual.per_word)
            load = Draft(
                opcode="LOAD_WORDS",
                fields={
                    "address": address + loaded * low.tokens * beats,
                    "port_stride": words_stride(words, low.config),
                    "words": (until - loaded) * low.tokens,
                    "destination": low.word(residual, loaded),
                },
                label=op.name,
                relocate=True,
                parts=tuple(low.parts(op.output, residual, (0, 1), columns)) if first else (),
            )
            # Behind the tiles where they can be handed over before any is drained: the array
            # starts earlier. More of them would wait for DRAIN, and DRAIN for these words.
            item.drafts.insert(int(tiles[1] - tiles[0] <= ACCUMULATOR_BANKS), load)
            loaded = until
        low.items.append(item)
    if low.layernorms:
        low.items[-1].drafts.insert(1, load_layernorm(low, 0))
    if spec.pooling == "mean":
        # Behind the tiles' STATIONARY: a queue of two holds no third load in front of it.
        low.items[-1].drafts.append(load_ones(low))
