# SPDX-License-Identifier: Apache-2.0
"""Integer graph -> program: tiles, buffers, schedule, instructions, packed memory image.

Words used here: a *block* is a range of tokens (:func:`hwgen.program.buffer_plan.row_blocks`); the
*head* of a layer are its first tiles, issued block by block because the block behind is still in
LayerNorm; its *tail* are its last tiles, issued block by block so that the next LayerNorm can begin
with the first block; between them a tile's weights serve all tokens at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import gcd

import numpy as np

from hwgen.config import AcceleratorConfig, softmax_fields, value_text
from hwgen.errors import ConfigError, DoesNotFitError
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Requantise,
    Softmax,
)
from hwgen.isa.build import begin
from hwgen.isa.instructions import (
    BEAT_BYTES,
    BY_NAME,
    CONSTANT_BYTES,
    INSTRUCTION_BYTES,
    OFFSET_BITS,
    ROW_SHIFT_BANK,
    WAIT_BITS,
    DrainMode,
    Engine,
    Instruction,
    StationarySource,
    encode,
)
from hwgen.numerics.slices import slice_count
from hwgen.program.buffer_plan import (
    INJECTION_CYCLES,
    BufferPlan,
    GraphLike,
    Placement,
    ceil_div,
    plan_buffers,
    round_up,
)
from hwgen.program.hazards import (
    LAYERNORM_SLOTS,
    SHIFT_SLOTS,
    TABLE_SLOTS,
    Access,
    HazardTracker,
    slot_access,
)
from hwgen.program.packing import (
    constant_records,
    layernorm_records,
    pack_tiles,
    port_stride,
    split_ports,
    words_of_bytes,
    words_of_int16,
)
from hwgen.program.program import Boundary, Part, Program
from hwgen.program.schedule import Draft, Item, schedule

_PAGE = 4096
#: Output tiles that MATMUL can finish before DRAIN has taken any.
_ACCUMULATOR_BANKS = 2
#: Estimated latency from the last row of a tile to its last word written, and of a vector unit.
_DRAIN_LATENCY = 60
_VECTOR_LATENCY = 80


def lower(
    graph: GraphLike,
    config: AcceleratorConfig,
    *,
    skeleton: bool = False,
    blocks: int | None = None,
    allow_slices: bool = False,
) -> Program:
    """Compile a graph for a design.

    Args:
        graph: the model; for a skeleton its arrays are looked at for their shapes only.
        config: the design.
        skeleton: leave the memory image out (for the cycle model).
        blocks: row blocks; None: by the rule.
        allow_slices: permit layers wider than the columns (several weight slices a tile).

    Raises:
        ConfigError: the design cannot run the model: columns too narrow, another softmax,
            rows or channels beyond a unit's size.
        DoesNotFitError: a tensor does not fit its bank, which is said before anything is packed, or
            more instructions than the thresholds can count.
        ProgramError: a number beyond an instruction's field.
    """
    _check(graph, config, allow_slices)
    plan = plan_buffers(
        graph.spec,
        rows=config.rows,
        columns=config.columns,
        tile_rows=config.tile_rows,
        blocks=blocks,
    )
    plan.check(config)
    builder = _Builder(graph, config, plan, skeleton)
    builder.build()
    return builder.finish()


def _check(graph: GraphLike, config: AcceleratorConfig, allow_slices: bool) -> None:
    spec = graph.spec
    for op in graph.ops:
        if isinstance(op, Embedding | Linear | QueryKeyValue):
            slices = slice_count(op.weight_bits, config.weight_bits)
            if slices > 1 and not allow_slices:
                raise ConfigError(
                    f"Weight width must be at most the column's {config.weight_bits} bits, "
                    f"not {op.weight_bits}",
                    where=op.name,
                    why="the hardware takes one weight slice per tile",
                    nearest=config.weight_bits,
                )
        if isinstance(op, Softmax):
            for name, value in softmax_fields(op.function).items():
                if value != getattr(config, name):
                    raise ConfigError(
                        f"{name} must be the graph's {value_text(value)},"
                        f" not {value_text(getattr(config, name))}",
                        where=op.name,
                        why="it is part of the softmax's function",
                        nearest=value_text(value),
                    )
    if config.weight_bits < 8:
        raise ConfigError(
            f"weight_bits must be 8 for a model with attention, not {config.weight_bits}",
            why="K and V are stationary operands of 8 bits",
            nearest=8,
        )
    if spec.tokens > config.max_row_length:
        raise ConfigError(
            f"max_row_length must be at least the model's {spec.tokens} tokens, "
            f"not {config.max_row_length}",
            nearest=spec.tokens,
        )
    if spec.width > config.max_channels:
        raise ConfigError(
            f"max_channels must be at least the model's width {spec.width}, "
            f"not {config.max_channels}",
            nearest=spec.width,
        )


@dataclass(kw_only=True)
class _Layer:
    """A matmul of the graph, tiled: where its operands, results and tile records lie."""

    name: str
    source: Placement
    destination: Placement
    passes: int
    slices: int
    tiles: int
    address: int = 0  #: of tile 0's record, units of 16 bytes, within the data
    port_stride: int = 0
    record_beats: int = 0  #: wide beats of a tile record
    mode: DrainMode = DrainMode.INT8
    zero_point: int = 0
    low: int = -128
    high: int = 127
    slot: int = 0
    token_offset: int = 0  #: destination token of source token 0
    tensor: str = ""  #: boundary tensor that it makes
    tensor_first_group: int = 0


@dataclass
class _Image:
    """The data of the memory image behind the instructions; 4096-aligned sections."""

    skeleton: bool
    size: int = 0
    sections: list[tuple[int, bytes]] = field(default_factory=list)

    def add(self, size: int, data: bytes | None) -> int:
        """Reserve a section; returns its address in units of 16 bytes."""
        address = self.size
        if not self.skeleton:
            assert data is not None and len(data) <= size
            self.sections.append((address, data))
        self.size = round_up(address + size, _PAGE)
        return address // BEAT_BYTES


class _Builder:
    def __init__(
        self, graph: GraphLike, config: AcceleratorConfig, plan: BufferPlan, skeleton: bool
    ) -> None:
        self.graph = graph
        self.config = config
        self.plan = plan
        self.skeleton = skeleton
        self.image = _Image(skeleton)
        self.items: list[Item] = []
        self.layernorms = [op for op in graph.ops if isinstance(op, LayerNorm)]
        self.tables = [op for op in graph.ops if isinstance(op, Linear) and op.table is not None]
        self.layernorm_address: dict[str, int] = {}
        self.table_address: dict[str, int] = {}
        self.produced: dict[str, Placement] = {}
        self.pending_value: list[Item] = []
        self.output_words = 0
        self.tokens = graph.spec.tokens

    # Addresses ------------------------------------------------------------------------------

    def bank(self, placement: Placement) -> int:
        return self.config.bank(placement.role)

    def word(self, placement: Placement, slice_index: int = 0, token: int = 0) -> int:
        offset = placement.base + slice_index * placement.stride + token
        return self.bank(placement) << OFFSET_BITS | offset

    def access(
        self, placement: Placement, slices: tuple[int, int], tokens: tuple[int, int], write: bool
    ) -> Access:
        return Access(
            self.bank(placement), placement.base, placement.stride, *slices, *tokens, write
        )

    # Building -------------------------------------------------------------------------------

    def build(self) -> None:
        """Items of all operations in canonical order."""
        ops = self.graph.ops
        for index, op in enumerate(ops):
            before = ops[index - 1] if index else None
            after = ops[index + 1] if index + 1 < len(ops) else None
            match op:
                case ImageCodes():
                    self._image_codes(op)
                case Embedding():
                    self._embedding(op)
                case LayerNorm():
                    self._layer_norm(op)
                case QueryKeyValue():
                    self._query_key_value(op)
                case AttentionLogits() | Softmax():
                    pass  # with the values, below
                case AttentionValues():
                    if not (
                        index >= 2
                        and isinstance(ops[index - 2], AttentionLogits)
                        and isinstance(before, Softmax)
                    ):
                        raise ConfigError(
                            "AttentionValues must follow its AttentionLogits and Softmax",
                            where=op.name,
                        )
                    self._attention(ops[index - 2], before, op)  # type: ignore[arg-type]
                case MeanPool():
                    self._mean_pool(op)
                case Linear():
                    self._linear(op, before, after)
                case _:
                    raise ConfigError(f"Operation must be a known one, not {type(op).__name__}")
        self._store()

    def _image_codes(self, op: ImageCodes) -> None:
        spec, placement = self.graph.spec, self.plan.image
        across = spec.image_size // spec.patch
        line = spec.patch * spec.channels
        size = min(16, gcd(line, 16))
        groups = line // size
        fields = {
            "address": 0,
            "destination": self.word(placement),
            "stride": placement.stride,
            "patch_rows": across,
            "lines": spec.patch,
            "patches": across,
            "groups": groups,
            "group_log2": size.bit_length() - 1,
            "beats": ceil_div(spec.image_size**2 * spec.channels, BEAT_BYTES),
        }
        for item in BY_NAME["LOAD_IMAGE"].fields:
            if fields[item.name] > item.maximum:
                raise ConfigError(
                    f"LOAD_IMAGE.{item.name} must be at most {item.maximum}, "
                    f"not {fields[item.name]}",
                    where=op.name,
                    why="image size and patch are beyond what the load unit counts",
                )
        self.produced[op.output] = placement
        self.items.append(
            Item(
                engine=Engine.LOAD,
                drafts=[
                    Draft(
                        opcode="LOAD_IMAGE",
                        fields=fields,
                        accesses=(
                            self.access(placement, (0, placement.slices), (0, spec.patches), True),
                        ),
                        label=op.name,
                        parts=tuple(
                            self._parts(op.output, placement, (0, spec.patches), (0, 1 << 30))
                        ),
                    )
                ],
            )
        )

    def _embedding(self, op: Embedding) -> None:
        spec, residual = self.graph.spec, self.plan.residual
        first = int(op.class_token)
        layer = self._weight_layer(
            op, op.weights, op.weight_bits, op.requantise, self.plan.image, residual
        )
        layer.mode, layer.token_offset, layer.tensor = DrainMode.RESIDUAL, first, op.output
        position = None if self.skeleton else words_of_int16(op.position, self.config).tobytes()
        address = self.image.add(residual.slices * self.tokens * self.config.rows, position)
        # Blocks of patches: the tokens of the row blocks without the class token.
        blocks = [
            (max(0, start - first), stop - first)
            for start, stop in self.plan.blocks
            if stop - first > 0
        ]
        tile_cycles = self._tile_cycles(layer, blocks[-1])
        tail = self._layernorm_cycles(blocks[0]) + self._drain_tail(blocks[0])
        segments = self._segments(
            layer, blocks, head=0, tail=ceil_div(tail, tile_cycles), chunks=12, single=12
        )
        loaded = 0
        beats_per_word = self.config.rows // BEAT_BYTES
        for rows, tiles in segments:
            item = self._matmul_item(layer, rows, tiles)
            until = min(residual.slices, tiles[1] * self.config.segments)
            if until > loaded:
                # The position constants, residual of the first addition, just before their tiles.
                parts = []
                if first:
                    parts = self._parts(
                        op.output,
                        residual,
                        (0, 1),
                        (loaded * residual.per_word, until * residual.per_word),
                    )
                load = Draft(
                    opcode="LOAD_WORDS",
                    fields={
                        "address": address + loaded * self.tokens * beats_per_word,
                        "words": (until - loaded) * self.tokens,
                        "destination": self.word(residual, loaded),
                    },
                    accesses=(self.access(residual, (loaded, until), (0, self.tokens), True),),
                    label=op.name,
                    relocate=True,
                    parts=tuple(parts),
                )
                # Behind the tiles where they can be handed over before any is drained: the array
                # starts earlier. More of them would wait for DRAIN, and DRAIN for these words.
                item.drafts.insert(int(tiles[1] - tiles[0] <= _ACCUMULATOR_BANKS), load)
                loaded = until
            self.items.append(item)
        if self.layernorms:
            self.items[-1].drafts.insert(1, self._load_layernorm(0))
        if spec.pooling == "mean":
            # Behind the tiles' STATIONARY: a queue of two holds no third load in front of it.
            self.items[-1].drafts.append(self._load_ones())
        self.produced[op.output] = residual

    def _load_layernorm(self, number: int) -> Draft:
        op = self.layernorms[number]
        data = None
        size = round_up(len(op.gamma), 2) * CONSTANT_BYTES
        if not self.skeleton:
            data = layernorm_records(op.alpha, op.gamma, op.beta).tobytes()
        return Draft(
            opcode="LOAD_LAYERNORM",
            fields={
                "address": self.image.add(size, data),
                "beats": size // BEAT_BYTES,
                "slot": number % 2,
            },
            accesses=(slot_access(LAYERNORM_SLOTS, number % 2, True),),
            label=op.name,
            relocate=True,
        )

    def _load_table(self, op: Linear) -> Draft:
        slot = self.tables.index(op) % 2
        data = None if self.skeleton or op.table is None else op.table.tobytes()
        return Draft(
            opcode="LOAD_TABLE",
            fields={"address": self.image.add(256, data), "slot": slot},
            accesses=(slot_access(TABLE_SLOTS, slot, True),),
            label=op.name,
            relocate=True,
        )

    def _load_ones(self) -> Draft:
        ones = self.plan.ones
        pool = next(op for op in self.graph.ops if isinstance(op, MeanPool))
        values = np.zeros((1, self.tokens), np.uint8)
        values[:, pool.first :] = 1
        data = None if self.skeleton else words_of_bytes(values, self.config).tobytes()
        return Draft(
            opcode="LOAD_WORDS",
            fields={
                "address": self.image.add(ones.slices * self.config.rows, data),
                "words": ones.slices,
                "destination": self.word(ones),
            },
            accesses=(self.access(ones, (0, ones.slices), (0, 1), True),),
            label=pool.name,
            relocate=True,
        )

    def _layer_norm(self, op: LayerNorm) -> None:
        number = self.layernorms.index(op)
        residual, normalised = self.plan.residual, self.plan.normalised
        ranges = self.plan.blocks if op.rows is None else _clip_ranges(self.plan.blocks, op.rows)
        for index, rows in enumerate(ranges):
            start, stop = rows
            draft = Draft(
                opcode="LAYERNORM",
                fields={
                    "source": self.word(residual, 0, start),
                    "source_stride": residual.stride,
                    "destination": self.word(normalised, 0, start),
                    "destination_stride": normalised.stride,
                    "rows": stop - start,
                    "channels": residual.channels,
                    "ptf_shift": op.ptf_shift,
                    "zero_point": op.zero_point,
                    "gamma_shift": op.gamma_shift,
                    "beta_fraction_bits": op.beta_fraction_bits,
                    "output_zero_point": op.output_zero_point,
                    "exact": int(op.squares == "exact"),
                    "slot": number % 2,
                },
                accesses=(
                    self.access(residual, (0, residual.slices), rows, False),
                    self.access(normalised, (0, normalised.slices), rows, True),
                    slot_access(LAYERNORM_SLOTS, number % 2, False),
                ),
                label=op.name,
                parts=tuple(self._parts(op.output, normalised, rows, (0, 1 << 30))),
            )
            drafts = [draft]
            if index == 0:
                # What the next LayerNorm and the next table need, a whole phase ahead.
                if number + 1 < len(self.layernorms):
                    drafts.append(self._load_layernorm(number + 1))
                ops = self.graph.ops
                end = len(ops)
                if number + 1 < len(self.layernorms):
                    end = ops.index(self.layernorms[number + 1])
                begin = ops.index(op)
                drafts += [self._load_table(t) for t in self.tables if begin < ops.index(t) < end]
            self.items.append(
                Item(engine=Engine.LAYERNORM, drafts=drafts, cycles=self._layernorm_cycles(rows))
            )
        self.produced[op.output] = normalised

    def _query_key_value(self, op: QueryKeyValue) -> None:
        source = self.produced[op.input]
        width = op.heads * op.head_dim
        names = op.outputs
        places = (self.plan.query, self.plan.key, self.plan.value)
        layers = []
        for index, (name, place) in enumerate(zip(names, places, strict=True)):
            columns = slice(index * width, (index + 1) * width)
            r = op.requantise
            part = Requantise(
                bias=r.bias[columns],
                multiplier=r.multiplier[columns],
                shift=r.shift[columns],
                zero_point=r.zero_point,
                low=r.low,
                high=r.high,
            )
            layer = self._weight_layer(
                op, op.weights[:, columns], op.weight_bits, part, source, place, suffix=name
            )
            layer.tensor = name
            layers.append(layer)
            self.produced[name] = place
        query, key, value = layers
        blocks = self.plan.blocks
        # The head hides the LayerNorm of the second block: as many tiles of k, then q, as it takes.
        wanted = self._layernorm_cycles(blocks[-1]) + self._drain_tail(blocks[-1])
        for layer in (key, query, value):
            tile_cycles = self._tile_cycles(layer, blocks[0])
            head = min(layer.tiles, max(0, ceil_div(wanted, tile_cycles)))
            wanted -= head * tile_cycles
            items = [
                self._matmul_item(layer, rows, tiles)
                for rows, tiles in self._segments(layer, blocks, head=head, tail=0)
            ]
            if layer is value:
                self.pending_value = items
            else:
                self.items += items

    def _attention(
        self, logits: AttentionLogits, softmax: Softmax, values: AttentionValues
    ) -> None:
        plan, config = self.plan, self.config
        query, key, value = (
            self.produced[name] for name in (logits.query, logits.key, values.value)
        )
        tokens, padded = self.tokens, query.padded
        keys = plan.scores[0]
        key_tiles = ceil_div(tokens, config.columns)
        value_tiles = ceil_div(padded, config.columns)
        sections = []
        for op, tiles in ((logits, key_tiles), (values, value_tiles)):
            size = tiles * config.constant_beats * config.wide_beat_bits // 8
            records = np.zeros((tiles, size // tiles), np.uint8)
            live = constant_records(
                np.zeros(config.columns),
                np.full(config.columns, op.multiplier),
                np.full(config.columns, op.shift),
                config.columns,
            )
            records[:, : live.size] = live.reshape(-1)
            data, stride = split_ports(records, config)
            sections.append((self.image.add(len(data), data), stride))
        pairs = [(rows, head) for rows in plan.blocks for head in range(logits.heads)]
        lanes = config.lanes
        work: list[tuple[Item, Item, Item]] = []
        for number, (rows, head) in enumerate(pairs):
            scores = plan.scores[number % 2]
            m = rows[1] - rows[0]
            here = (0, m)
            pass_cycles = max(m, config.rows + INJECTION_CYCLES)
            part = {
                "base": self.word(scores) - rows[0],
                "stride": scores.stride,
                "first_token": rows[0],
                "tokens": m,
                "first_channel": 0,
                "channels": tokens,
                "index": (head,),
            }
            slices = (head * query.group_slices, (head + 1) * query.group_slices)
            groups = ceil_div(tokens, lanes)
            # The rows' shifts: a slot beside each score buffer.
            slot = number % 2
            soft_parts = [(softmax.output, part)]
            if softmax.shifts is not None:
                first = (ROW_SHIFT_BANK << OFFSET_BITS) + slot * config.shift_words
                soft_parts.append(
                    (
                        softmax.shifts,
                        {
                            "base": first - head,
                            "stride": 1,
                            "first_token": head,
                            "tokens": 1,
                            "first_channel": rows[0],
                            "channels": m,
                        },
                    )
                )

            def shift_access(write: bool, slot: int = slot) -> tuple[Access, ...]:
                return (slot_access(SHIFT_SLOTS, slot, write),) if softmax.shifts else ()

            product = Item(
                engine=Engine.MATMUL,
                cycles=key_tiles * query.group_slices * pass_cycles,
                drain_cycles=groups * m,
                tail_cycles=self._drain_tail(rows),
                drafts=[
                    self._load_tiles(
                        logits.name, *sections[0], key_tiles, config.constant_beats, 0
                    ),
                    Draft(
                        opcode="STATIONARY",
                        fields={
                            "source": StationarySource.COLUMNS,
                            "base": self.word(key, head * key.group_slices),
                            "stride": key.stride,
                            "tiles": key_tiles,
                            "passes": query.group_slices,
                            "slices": 1,
                            "limit": tokens,
                        },
                        accesses=(self.access(key, slices, (0, tokens), False),),
                        label=logits.name,
                    ),
                    Draft(
                        opcode="MATMUL",
                        fields={
                            "base": self.word(query, slices[0], rows[0]),
                            "stride": query.stride,
                            "rows": m,
                            "tiles": key_tiles,
                            "passes": query.group_slices,
                            "slices": 1,
                            "signed": 1,
                        },
                        accesses=(self.access(query, slices, rows, False),),
                        label=logits.name,
                    ),
                    Draft(
                        opcode="DRAIN",
                        fields={
                            "destination": self.word(scores),
                            "stride": scores.stride,
                            "rows": m,
                            "tiles": key_tiles,
                            "columns": tokens,
                            "mode": DrainMode.INT8,
                            "zero_point": 0,
                            "low": -128,
                            "high": 127,
                            "slot": 0,
                        },
                        accesses=(self.access(scores, (0, keys.slices), here, True),),
                        label=logits.name,
                        parts=((logits.output, part),),
                    ),
                ],
            )
            soft = Item(
                engine=Engine.SOFTMAX,
                cycles=m * max(ceil_div(tokens, config.rows), ceil_div(tokens, config.softmax_vec))
                + _VECTOR_LATENCY,
                drafts=[
                    Draft(
                        opcode="SOFTMAX",
                        fields={
                            "source": self.word(scores),
                            "source_stride": scores.stride,
                            "destination": self.word(scores),
                            "destination_stride": scores.stride,
                            "rows": m,
                            "length": tokens,
                            "fraction_bits": softmax.fraction_bits,
                            "slot": slot if softmax.shifts else 0,
                        },
                        accesses=(
                            self.access(scores, (0, keys.slices), here, False),
                            self.access(scores, (0, keys.slices), here, True),
                            *shift_access(True),
                        ),
                        label=softmax.name,
                        parts=tuple(soft_parts),
                    )
                ],
            )
            sum_passes = ceil_div(tokens, config.rows)
            drained = min(padded, value_tiles * config.columns)
            weighted = Item(
                engine=Engine.MATMUL,
                cycles=value_tiles * sum_passes * max(m, config.rows + 2 * INJECTION_CYCLES),
                drain_cycles=ceil_div(drained, lanes) * m,
                tail_cycles=self._drain_tail(rows),
                drafts=[
                    self._load_tiles(
                        values.name, *sections[1], value_tiles, config.constant_beats, 0
                    ),
                    Draft(
                        opcode="STATIONARY",
                        fields={
                            "source": StationarySource.ROWS,
                            "base": self.word(value, head * value.group_slices),
                            "stride": value.stride,
                            "tiles": value_tiles,
                            "passes": sum_passes,
                            "slices": 1,
                            "limit": tokens,
                        },
                        accesses=(self.access(value, slices, (0, tokens), False),),
                        label=values.name,
                    ),
                    Draft(
                        opcode="MATMUL",
                        fields={
                            "base": self.word(scores),
                            "stride": scores.stride,
                            "rows": m,
                            "tiles": value_tiles,
                            "passes": sum_passes,
                            "slices": 1,
                            "signed": 0,
                        },
                        accesses=(self.access(scores, (0, keys.slices), here, False),),
                        label=values.name,
                    ),
                    Draft(
                        opcode="DRAIN",
                        fields={
                            "destination": self.word(query, slices[0], rows[0]),
                            "stride": query.stride,
                            "rows": m,
                            "tiles": value_tiles,
                            "columns": padded,
                            "mode": DrainMode.SHIFTED if softmax.shifts else DrainMode.INT8,
                            "zero_point": 0,
                            "low": values.low,
                            "high": values.high,
                            "slot": slot if softmax.shifts else 0,
                        },
                        accesses=(self.access(query, slices, rows, True), *shift_access(False)),
                        label=values.name,
                        parts=tuple(
                            self._parts(
                                values.output,
                                query,
                                rows,
                                (head * padded, (head + 1) * padded),
                            )
                        ),
                    ),
                ],
            )
            work.append((product, soft, weighted))
        # Two score buffers: the logits of item i + 1 are made before the values of item i.
        self.items += work[0][:2]
        self.items += self.pending_value
        for number, (product, soft, _) in enumerate(work[1:]):
            self.items += [product, soft, work[number][2]]
        self.items.append(work[-1][2])
        self.pending_value = []
        self.produced[values.output] = query

    def _mean_pool(self, op: MeanPool) -> None:
        source, ones, pooled = self.produced[op.input], self.plan.ones, self.plan.pooled
        config = self.config
        tiles = ceil_div(source.channels, config.columns)
        size = tiles * config.constant_beats * config.wide_beat_bits // 8
        records = np.zeros((tiles, size // tiles), np.uint8)
        live = constant_records(
            np.zeros(config.columns),
            np.full(config.columns, op.multiplier),
            np.full(config.columns, op.shift),
            config.columns,
        )
        records[:, : live.size] = live.reshape(-1)
        data, stride = split_ports(records, config)
        address = self.image.add(len(data), data)
        self.items.append(
            Item(
                engine=Engine.MATMUL,
                cycles=tiles * ones.slices * (config.rows + INJECTION_CYCLES),
                drain_cycles=tiles * config.segments,
                tail_cycles=_DRAIN_LATENCY,
                drafts=[
                    self._load_tiles(op.name, address, stride, tiles, config.constant_beats, 0),
                    Draft(
                        opcode="STATIONARY",
                        fields={
                            "source": StationarySource.ROWS,
                            "base": self.word(source),
                            "stride": source.stride,
                            "tiles": tiles,
                            "passes": ones.slices,
                            "slices": 1,
                            "limit": self.tokens,
                        },
                        accesses=(
                            self.access(source, (0, source.slices), (0, self.tokens), False),
                        ),
                        label=op.name,
                    ),
                    Draft(
                        opcode="MATMUL",
                        fields={
                            "base": self.word(ones),
                            "stride": ones.stride,
                            "rows": 1,
                            "tiles": tiles,
                            "passes": ones.slices,
                            "slices": 1,
                            "signed": 1,
                        },
                        accesses=(self.access(ones, (0, ones.slices), (0, 1), False),),
                        label=op.name,
                    ),
                    Draft(
                        opcode="DRAIN",
                        fields={
                            "destination": self.word(pooled),
                            "stride": pooled.stride,
                            "rows": 1,
                            "tiles": tiles,
                            "columns": source.channels,
                            "mode": DrainMode.INT8,
                            "zero_point": 0,
                            "low": -128,
                            "high": 127,
                            "slot": 0,
                        },
                        accesses=(self.access(pooled, (0, pooled.slices), (0, 1), True),),
                        label=op.name,
                        parts=tuple(self._parts(op.output, pooled, (0, 1), (0, 1 << 30))),
                    ),
                ],
            )
        )
        self.produced[op.output] = pooled

    def _linear(self, op: Linear, before: Op | None, after: Op | None) -> None:
        source = self.produced[op.input]
        rows = self.graph.tensors[op.input].shape[0]
        destination = self.plan.hidden
        if op.residual is not None:
            destination = self.plan.residual
        elif op.wide:
            destination = self.plan.logits
        layer = self._weight_layer(
            op, op.weights, op.weight_bits, op.requantise, source, destination
        )
        layer.tensor = op.output
        if op.residual is not None:
            layer.mode = DrainMode.RESIDUAL
        elif op.wide:
            layer.mode = DrainMode.WIDE
        elif op.table is not None:
            layer.mode, layer.slot = DrainMode.TABLE, self.tables.index(op) % 2
        blocks = self.plan.blocks if rows == self.tokens else _clip_ranges(self.plan.blocks, rows)
        head = tail = 0
        last, first = self._tile_cycles(layer, blocks[-1]), self._tile_cycles(layer, blocks[0])
        if isinstance(before, AttentionValues):
            tail = layer.tiles
        elif isinstance(before, LayerNorm):
            # LayerNorm and drain of the second block, and something to do beside the last softmax.
            wanted = self._layernorm_cycles(blocks[-1]) + self._drain_tail(blocks[-1])
            head = ceil_div(2 * wanted, first)
        elif isinstance(before, Linear):
            head = ceil_div(self._drain_tail(blocks[-1]), first)
        if isinstance(after, LayerNorm):
            wanted = self._layernorm_cycles(blocks[0]) + self._drain_tail(blocks[0])
            tail = max(tail, ceil_div(5 * wanted // 4, last))
        elif isinstance(after, Linear):
            tail = max(tail, ceil_div(self._drain_tail(blocks[0]), last))
        for segment_rows, tiles in self._segments(layer, blocks, head=head, tail=tail):
            self.items.append(self._matmul_item(layer, segment_rows, tiles))
        self.produced[op.output] = destination

    def _store(self) -> None:
        logits = self.plan.logits
        self.output_words = logits.slices
        self.items.append(
            Item(
                engine=Engine.STORE,
                drafts=[
                    Draft(
                        opcode="STORE",
                        fields={
                            "address": 0,
                            "source": self.word(logits),
                            "stride": logits.stride,
                            "words": logits.slices,
                        },
                        accesses=(self.access(logits, (0, logits.slices), (0, 1), False),),
                        label="store",
                    )
                ],
            )
        )

    # Layers ---------------------------------------------------------------------------------

    def _weight_layer(
        self,
        op: Op,
        weights: np.ndarray,
        weight_bits: int,
        requantise: Requantise,
        source: Placement,
        destination: Placement,
        suffix: str | None = None,
    ) -> _Layer:
        """Tile a layer and put its records into the image."""
        config = self.config
        passes = source.slices
        tiles = ceil_div(destination.used, config.columns)
        slices = slice_count(weight_bits, config.weight_bits)
        record_beats = config.constant_beats + slices * passes * config.weight_beats_per_pass
        beats = tiles * record_beats
        stride = port_stride(beats)
        size = ((config.memory_ports - 1) * stride + beats) * BEAT_BYTES
        data = None
        if not self.skeleton:
            matrix = np.zeros((passes * config.rows, tiles * config.columns), np.int8)
            rows = _padded_index(source)
            columns = _padded_index(destination)
            matrix[np.ix_(rows, columns)] = weights
            constants = np.zeros((tiles * config.columns, CONSTANT_BYTES), np.uint8)
            constants[:, 6] = 1
            constants[columns] = constant_records(
                requantise.bias, requantise.multiplier, requantise.shift, len(columns)
            )
            data, stride = split_ports(pack_tiles(matrix, weight_bits, constants, config), config)
            size = len(data)
        return _Layer(
            name=suffix or op.name,
            source=source,
            destination=destination,
            passes=passes,
            slices=slices,
            tiles=tiles,
            address=self.image.add(size, data),
            port_stride=stride,
            record_beats=record_beats,
            zero_point=requantise.zero_point,
            low=requantise.low,
            high=requantise.high,
        )

    def _load_tiles(
        self, label: str, address: int, stride: int, tiles: int, constants: int, weights: int
    ) -> Draft:
        return Draft(
            opcode="LOAD_TILES",
            fields={
                "address": address,
                "port_stride": stride,
                "tiles": tiles,
                "constant_beats": constants,
                "weight_beats": weights,
                "beats": tiles * (constants + weights),
            },
            label=label,
            relocate=True,
        )

    def _matmul_item(self, layer: _Layer, rows: tuple[int, int], tiles: tuple[int, int]) -> Item:
        """Load, stationary, matmul and drain of some tiles over some source tokens."""
        config = self.config
        start, stop = rows
        count = tiles[1] - tiles[0]
        source, destination = layer.source, layer.destination
        first_column = tiles[0] * config.columns
        columns = min(destination.used, tiles[1] * config.columns) - first_column
        first_slice = first_column // destination.per_word
        slices = (first_slice, first_slice + ceil_div(columns, destination.per_word))
        written = (start + layer.token_offset, stop + layer.token_offset)
        accesses = [self.access(destination, slices, written, True)]
        if layer.mode == DrainMode.RESIDUAL:
            accesses.append(self.access(destination, slices, written, False))
        if layer.mode == DrainMode.TABLE:
            accesses.append(slot_access(TABLE_SLOTS, layer.slot, False))
        weight_beats = layer.record_beats - config.constant_beats
        drafts = [
            self._load_tiles(
                layer.name,
                layer.address + tiles[0] * layer.record_beats,
                layer.port_stride,
                count,
                config.constant_beats,
                weight_beats,
            ),
            Draft(
                opcode="STATIONARY",
                fields={
                    "source": StationarySource.WEIGHTS,
                    "base": 0,
                    "stride": 0,
                    "tiles": count,
                    "passes": layer.passes,
                    "slices": layer.slices,
                    "limit": 0,
                },
                label=layer.name,
            ),
            Draft(
                opcode="MATMUL",
                fields={
                    "base": self.word(source, 0, start),
                    "stride": source.stride,
                    "rows": stop - start,
                    "tiles": count,
                    "passes": layer.passes,
                    "slices": layer.slices,
                    "signed": 1,
                },
                accesses=(self.access(source, (0, layer.passes), rows, False),),
                label=layer.name,
            ),
            Draft(
                opcode="DRAIN",
                fields={
                    "destination": self.word(destination, first_slice, written[0]),
                    "stride": destination.stride,
                    "rows": stop - start,
                    "tiles": count,
                    "columns": columns,
                    "mode": layer.mode,
                    "zero_point": layer.zero_point,
                    "low": layer.low,
                    "high": layer.high,
                    "slot": layer.slot,
                },
                accesses=tuple(accesses),
                label=layer.name,
                parts=tuple(
                    self._parts(
                        layer.tensor, destination, written, (first_column, first_column + columns)
                    )
                ),
            ),
        ]
        return Item(
            engine=Engine.MATMUL,
            drafts=drafts,
            cycles=count * self._tile_cycles(layer, rows),
            drain_cycles=ceil_div(columns, config.lanes) * (stop - start),
            tail_cycles=self._drain_tail(rows),
        )

    def _segments(
        self,
        layer: _Layer,
        blocks: tuple[tuple[int, int], ...] | list[tuple[int, int]],
        *,
        head: int,
        tail: int,
        chunks: int = 3,
        single: int = 1,
    ) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """(token range, tile range) of a layer's matmuls in canonical order.

        Args:
            layer: the layer.
            blocks: token ranges.
            head: tiles that are issued block by block at the start.
            tail: tiles that are issued block by block at the end.
            chunks: pieces of the tiles between.
            single: pieces of the whole layer when there is one block only.
        """
        config = self.config
        whole = (blocks[0][0], blocks[-1][1])
        # A drain starts at a whole word.
        granule = 1
        if layer.mode in (DrainMode.INT8, DrainMode.TABLE):
            granule = max(1, config.rows // config.columns)
        if len(blocks) == 1:
            return [(whole, tiles) for tiles in _chunks((0, layer.tiles), single, granule)]
        if whole[1] - whole[0] > config.tile_rows:
            return [
                (rows, tiles)
                for rows in blocks
                for tiles in _chunks((0, layer.tiles), chunks, granule)
            ]
        head = min(layer.tiles, round_up(head, granule))
        tail = min(layer.tiles - head, round_up(tail, granule))
        middle = round_up(layer.tiles - tail, granule)
        middle = max(head, min(middle, layer.tiles))
        out = []
        for rows in blocks:
            out += [(rows, tiles) for tiles in _chunks((0, head), 6, granule)]
        out += [(whole, tiles) for tiles in _chunks((head, middle), chunks, granule)]
        for rows in blocks:
            out += [(rows, tiles) for tiles in _chunks((middle, layer.tiles), 6, granule)]
        return out

    def _parts(
        self,
        tensor: str,
        placement: Placement,
        tokens: tuple[int, int],
        columns: tuple[int, int],
    ) -> list[tuple[str, dict[str, object]]]:
        """Boundary pieces of some tokens and padded columns of a placed tensor."""
        parts: list[tuple[str, dict[str, object]]] = []
        groups = range(placement.groups)
        if placement.padded == placement.channels:
            groups = range(1)  # no padding between groups: one piece
        width = placement.channels if len(groups) > 1 else placement.groups * placement.channels
        for group in groups:
            start = max(columns[0] - group * placement.padded, 0)
            stop = min(columns[1] - group * placement.padded, width)
            if start >= stop:
                continue
            column = group * placement.padded + start
            parts.append(
                (
                    tensor,
                    {
                        "base": self.word(placement, column // placement.per_word),
                        "stride": placement.stride,
                        "first_token": tokens[0],
                        "tokens": tokens[1] - tokens[0],
                        "first_channel": group * placement.channels + start,
                        "channels": stop - start,
                    },
                )
            )
        return parts

    # Estimates ------------------------------------------------------------------------------

    def _tile_cycles(self, layer: _Layer, rows: tuple[int, int]) -> int:
        count = rows[1] - rows[0]
        return layer.passes * layer.slices * max(count, self.config.rows + INJECTION_CYCLES)

    def _drain_tail(self, rows: tuple[int, int]) -> int:
        return self.config.segments * (rows[1] - rows[0]) + _DRAIN_LATENCY

    def _layernorm_cycles(self, rows: tuple[int, int]) -> int:
        groups = ceil_div(self.graph.spec.width, self.config.lanes)
        return (rows[1] - rows[0]) * groups + _VECTOR_LATENCY

    # Finish ---------------------------------------------------------------------------------

    def _check_counts(self) -> None:
        """Refuse what the thresholds cannot count, before the work of ordering it."""
        counts = Counter(BY_NAME[d.opcode].engine for item in self.items for d in item.drafts)
        engine, count = counts.most_common(1)[0]
        assert engine is not None
        if count >= 1 << WAIT_BITS:
            levers = ("fewer row blocks", "more array columns", "a smaller model")
            raise DoesNotFitError(
                f"instructions of {engine.name}", count, (1 << WAIT_BITS) - 1, levers=levers
            )

    def finish(self) -> Program:
        """Order the items, find the thresholds, place the data, encode."""
        self._check_counts()
        order = schedule(self.items)
        drafts = [draft for number in order for draft in self.items[number].drafts]
        area = round_up((len(drafts) + 2) * INSTRUCTION_BYTES, _PAGE)
        tracker = HazardTracker()
        instructions: list[Instruction] = [begin(self.config)]
        labels: list[str] = ["begin"]
        pieces: dict[str, list[Part]] = {name: [] for name in self.graph.tensors}
        for draft in drafts:
            engine = BY_NAME[draft.opcode].engine
            assert engine is not None
            waits = tracker.issue(engine, draft.accesses)
            fields = {key: int(value) for key, value in draft.fields.items()}
            if draft.relocate:
                fields["address"] += area // BEAT_BYTES
            instructions.append(Instruction(draft.opcode, fields, waits))
            labels.append(draft.label)
            for tensor, values in draft.parts:
                pieces[tensor].append(
                    Part(engine=engine, count=tracker.counts[engine], **values)  # type: ignore[arg-type]
                )
        instructions.append(Instruction("END", {}, tuple(tracker.counts)))
        labels.append("end")
        image = b""
        if not self.skeleton:
            buffer = bytearray(area + self.image.size)
            code = b"".join(encode(item, index) for index, item in enumerate(instructions))
            buffer[: len(code)] = code
            for start, data in self.image.sections:
                buffer[area + start : area + start + len(data)] = data
            image = bytes(buffer)
        spec = self.graph.spec
        pixels = spec.image_size**2 * spec.channels
        return Program(
            config=self.config,
            instructions=tuple(instructions),
            image=image,
            input_shape=(spec.image_size, spec.image_size, spec.channels),
            input_bytes=round_up(pixels, BEAT_BYTES),
            output_bytes=self.output_words * self.config.rows,
            classes=spec.classes,
            boundaries=tuple(
                Boundary(
                    name=name,
                    shape=tuple(tensor.shape),
                    dtype=tensor.dtype,
                    parts=tuple(pieces[name]),
                )
                for name, tensor in self.graph.tensors.items()
            ),
            macs=self.graph.macs(),
            labels=tuple(labels),
        )


def _padded_index(placement: Placement) -> np.ndarray:
    """Padded column of every channel of a placed tensor."""
    groups = np.arange(placement.groups)[:, None] * placement.padded
    return (groups + np.arange(placement.channels)).reshape(-1)


def _clip_ranges(blocks: tuple[tuple[int, int], ...], rows: int) -> tuple[tuple[int, int], ...]:
    """The part of token ranges below ``rows``."""
    return tuple((start, min(stop, rows)) for start, stop in blocks if start < rows)


def _chunks(span: tuple[int, int], count: int, granule: int) -> list[tuple[int, int]]:
    """Cut a range of tiles into at most ``count`` pieces that start at multiples of ``granule``."""
    start, stop = span
    units = ceil_div(stop - start, granule)
    if units <= 0:
        return []
    step = ceil_div(units, min(count, units)) * granule
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]
