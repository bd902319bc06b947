# SPDX-License-Identifier: Apache-2.0
"""Where every tensor lies in the activation memory, and the exact sizes that a model needs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from hwgen.columns import Groups
from hwgen.config import BANK_ROLES, PARAMETERS, AcceleratorConfig, softmax_fields
from hwgen.errors import ConfigError, DoesNotFitError
from hwgen.graph.network import network_of
from hwgen.graph.ops import (
    AttentionValues,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Softmax,
    Tensor,
)
from hwgen.graph.spec import ModelSpec
from hwgen.isa.instructions import OFFSET_BITS

#: Widest stride field, words; most words of a bank.
_STRIDE_MAXIMUM = (1 << 13) - 1
_BANK_MAXIMUM = 1 << OFFSET_BITS
#: Rows that one pass must stream beyond R so that the next pass's weights are in place in time.
INJECTION_CYCLES = 4


class GraphLike(Protocol):
    """What the compiler asks of a graph; :class:`hwgen.graph.graph.IntegerGraph` has it."""

    @property
    def spec(self) -> ModelSpec:
        """Geometry of the model."""

    @property
    def ops(self) -> tuple[Op, ...]:
        """Operations in execution order."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors by name."""

    def macs(self) -> int:
        """Multiply-accumulates per image, no padding."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A tensor [tokens, groups x channels] in a bank.

    Every group (head) starts at a slice: its channels are padded to ``padded``. Channel c of group
    g of token t is element ``(g * padded + c) % per_word`` of word
    ``base + (g * padded + c) // per_word * stride + t``.
    """

    role: str
    base: int  #: word offset within the bank
    stride: int  #: words between slices
    groups: int
    channels: int  #: of a group, without padding
    padded: int  #: of a group, a multiple of per_word
    per_word: int  #: elements of a word: rows (8 bits; logits: word_keys) or rows / 2 (16 bits)
    wide: bool = False  #: elements of 16 bits
    #: the padding is written, too: q, k and v are operands of each other, logits are read outside
    filled: bool = False

    @property
    def slices(self) -> int:
        """Words per token."""
        return self.groups * self.padded // self.per_word

    @property
    def group_slices(self) -> int:
        """Words per token and group."""
        return self.padded // self.per_word

    @property
    def used(self) -> int:
        """Columns that are written: up to the last channel, or all padding too."""
        return self.groups * self.padded if self.filled else self.channels


def ceil_div(value: int, divisor: int) -> int:
    """Quotient rounded up."""
    return -(-value // divisor)


def round_up(value: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-value // step) * step


def row_blocks(
    tokens: int, rows: int, tile_rows: int, blocks: int | None = None
) -> tuple[tuple[int, int], ...]:
    """Token ranges that are processed one behind the other.

    Two of them let LayerNorm, softmax and drains of one block hide behind the array working on the
    other; but a pass must stream more rows than a pass of weights takes to shift in, and no block
    may exceed an accumulator bank.

    Args:
        tokens: tokens in all.
        rows: R of the array.
        tile_rows: rows of an accumulator bank.
        blocks: how many; None: by the rule.
    """
    count = blocks
    if count is None:
        count = max(2 if tokens // 2 >= rows + INJECTION_CYCLES else 1, ceil_div(tokens, tile_rows))
    least = ceil_div(tokens, tile_rows)
    if not least <= count <= tokens:
        error = ConfigError(
            f"row_blocks must be in {least}..{tokens} for {tokens} tokens, not {count!r}",
            why=f"an accumulator bank holds {tile_rows} rows",
            nearest=min(max(count, least), tokens),
        )
        error.field = "row_blocks"
        raise error
    # The larger blocks first: their LayerNorm has the longer matmul to hide behind.
    bounds = [ceil_div(tokens * i, count) for i in range(count + 1)]
    return tuple(pairwise(bounds))


#: Most images of a START whose last operation is done at once: a row of each.
_MOST_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class BufferPlan:
    """Placements of all tensors of a model on a design, and the words that each bank needs."""

    blocks: tuple[tuple[int, int], ...]  #: token ranges
    #: by tensor; attention logits and codes lie in ``scores``, rows' shifts in no bank
    places: Mapping[str, Placement]
    constants: Mapping[str, Placement]  #: operands that are no tensors, by operation
    scores: tuple[Placement, Placement]  #: of one head and block each, alternately
    words: tuple[int, ...]  #: per bank
    #: per bank: how much further the buffers of a second image in flight lie
    second_words: tuple[int, ...] = (0,) * len(BANK_ROLES)
    together: int = 1  #: images of a START whose last operation is done at once, a row of each

    def check(self, config: AcceleratorConfig) -> None:
        """Every bank must hold what is placed in it.

        Raises:
            DoesNotFitError: names the bank, the demand and the bound in words.
        """
        for role, demand, bound in zip(BANK_ROLES, self.words, config.bank_words, strict=True):
            if demand > bound:
                raise DoesNotFitError(
                    f"activation memory {role}",
                    demand,
                    bound,
                    "words",
                    (
                        "larger bank_words",
                        "more array rows (longer words)",
                        "a model with fewer tokens or channels",
                    ),
                )


def plan_buffers(
    graph: GraphLike,
    *,
    rows: int,
    value_columns: int,
    tile_rows: int,
    word_keys: int | None = None,
    blocks: int | None = None,
    frames: int = 1,
    in_flight: int = 1,
) -> BufferPlan:
    """Place all tensors of a model; needs shapes only, no weights.

    A tensor's bank follows from the engines that need it at the same time as others; there it has
    the lowest words that are free from the operation that makes it to the last one that reads it.

    Args:
        graph: the model.
        rows: R of the array.
        value_columns: columns of a tile whose stationary operand is read by rows (V).
        tile_rows: rows of an accumulator bank.
        word_keys: of the configuration; ``rows`` if None.
        blocks: row blocks, None for the rule.
        frames: of a START; with several the next image and what the last operation reads and writes
            have places of their own.
        in_flight: how many have buffers; they share the scores.

    Raises:
        ConfigError: an operation that adds to a tensor which another one reads later.
        DoesNotFitError: more words than an address can name.
    """
    tokens = graph.spec.tokens
    ranges = row_blocks(tokens, rows, tile_rows, blocks)
    longest = max(stop - start for start, stop in ranges)
    keys = word_keys or rows
    scores0 = replace(_placement("scores0", (longest, tokens), rows), per_word=keys)
    scores0 = replace(scores0, padded=round_up(tokens, keys))
    scores = scores0, replace(scores0, role="scores1")
    together = min(frames, max(1, min(_MOST_TOGETHER, tile_rows) // in_flight) * in_flight)
    banks = _Banks(graph, rows, together=together)
    banks.place()
    demand = banks.demand(max(1, value_columns // rows))
    demand |= {scores.role: scores.slices * longest for scores in scores}
    shared = {place.role for place in scores}
    second = {role: 0 if role in shared else count for role, count in demand.items()}
    if in_flight > 1:
        demand = {role: count + second[role] for role, count in demand.items()}
    for role, count in demand.items():
        if count > _BANK_MAXIMUM:
            raise DoesNotFitError(
                f"activation memory {role}",
                count,
                _BANK_MAXIMUM,
                "words",
                ("more array rows (longer words)", "a model with fewer tokens or channels"),
            )
    stride = max(place.stride for place in banks.places.values())
    if stride > _STRIDE_MAXIMUM:
        raise DoesNotFitError(
            "tokens", stride, _STRIDE_MAXIMUM, "tokens", ("a larger patch", "a smaller image")
        )
    return BufferPlan(
        blocks=ranges,
        places=banks.places,
        constants=banks.constants,
        scores=scores,
        words=tuple(demand[role] for role in BANK_ROLES),
        second_words=tuple(second[role] for role in BANK_ROLES),
        together=together,
    )


def _placement(role: str, shape: tuple[int, int], rows: int, *, wide: bool = False) -> Placement:
    """A tensor of a shape at the beginning of its bank."""
    count, channels = shape
    per_word = rows // 2 if wide else rows
    return Placement(
        role=role,
        base=0,
        stride=count,
        groups=1,
        channels=channels,
        padded=round_up(channels, per_word),
        per_word=per_word,
        wide=wide,
    )


def _role(op: Op, output: str, *, wide: bool) -> str:
    """The bank of an operation's output.

    LayerNorm writes while the array reads the stream of another block; q, k and v are operands of
    each other, k and v stationary ones; of what remains nothing is read and written at a time.
    """
    match op:
        case LayerNorm():
            return "normalised"
        case QueryKeyValue() if output != op.outputs[0]:
            return "key_value"
        case QueryKeyValue() | AttentionValues():
            return "query"
        case _:
            return "residual" if wide else "hidden"


class _Banks:
    """Places tensors in the order of the operations; no two share words while both are needed."""

    def __init__(self, graph: GraphLike, rows: int, *, together: int) -> None:
        """``together``: images whose last operation is done at once.

        With several of a START, what outlasts an image's work has words of its own: the next image,
        and what the last operation reads and writes, a row of each image.
        """
        self.graph = graph
        self.rows = rows
        last = graph.ops[-1]
        image = [op.output for op in graph.ops if isinstance(op, ImageCodes)]
        #: rows of tensors that share words with no other one
        self.apart: dict[str, int] = {}
        if together > 1:
            self.apart |= {name: graph.tensors[name].shape[0] for name in image}
            self.apart |= dict.fromkeys((*last.inputs, *last.outputs), together)
        self.places: dict[str, Placement] = {}
        self.constants: dict[str, Placement] = {}
        self._last = {name: n for n, op in enumerate(graph.ops) for name in op.inputs}
        self._last[graph.ops[-1].output] = len(graph.ops)
        #: words that are taken, by bank: last operation that needs them, first word, end
        self._taken: dict[str, list[tuple[int, int, int]]] = {role: [] for role in BANK_ROLES}
        self._ends = dict.fromkeys(BANK_ROLES, 0)

    def place(self) -> None:
        """All tensors; behind them what the whole program needs."""
        ops = self.graph.ops
        for number, op in enumerate(ops):
            tensors = [self.graph.tensors[name] for name in op.outputs]
            if any(tensor.dtype == "uint8" or len(tensor.shape) == 3 for tensor in tensors):
                continue  # of a head and block at a time: scores, rows' shifts
            match op:
                case _ if op.output in self.apart:
                    pass  # below
                case Linear() if op.residual is not None:
                    self.places[op.output] = self._in_place(op, op.residual, number)
                case QueryKeyValue():
                    # k and v side by side, so that both are written as one layer.
                    query, key, value = (self._of(op, name) for name in op.outputs)
                    both = replace(key, groups=key.groups + value.groups)
                    first = self._fit(both, op.outputs[1:], number).base
                    self.places |= {
                        op.outputs[0]: self._fit(query, op.outputs[:1], number),
                        op.outputs[1]: replace(key, base=first),
                        op.outputs[2]: replace(value, base=first + key.slices * key.stride),
                    }
                case _:
                    place = self._of(op, op.output)
                    self.places[op.output] = self._fit(place, op.outputs, number)
        for op in ops:
            if op.output in self.apart:
                self.places[op.output] = self._behind(self._of(op, op.output))
            if isinstance(op, MeanPool):
                tokens = self.graph.tensors[op.input].shape[0]
                ones = _placement("hidden", (1, tokens), self.rows)
                self.constants[op.name] = self._behind(ones)

    def demand(self, tile_slices: int) -> dict[str, int]:
        """Words of each bank that are written or read.

        A stationary operand from rows is read in whole tiles of ``tile_slices``: the last ones of
        the last head may reach beyond it; what is read there is never written out, but must exist.
        """
        demand = dict(self._ends)
        for op in self.graph.ops:
            if isinstance(op, AttentionValues | MeanPool):
                place = self.places[op.value if isinstance(op, AttentionValues) else op.input]
                beyond = round_up(place.group_slices, tile_slices) - place.group_slices
                end = place.base + (place.slices + beyond) * place.stride
                demand[place.role] = max(demand[place.role], end)
        return demand

    def _of(self, op: Op, output: str) -> Placement:
        """An output at the beginning of its bank."""
        tensor = self.graph.tensors[output]
        count, channels = tensor.shape
        count = self.apart.get(output, count)
        wide, heads = tensor.dtype == "int16", op.output_heads
        place = _placement(
            *(_role(op, output, wide=wide), (count, channels // max(1, heads)), self.rows),
            wide=wide,
        )
        last = output == self.graph.ops[-1].output
        return replace(place, groups=max(1, heads), filled=heads > 0 or last)

    def _fit(self, place: Placement, names: tuple[str, ...], number: int) -> Placement:
        """The lowest free words for tensors that operation ``number`` makes."""
        taken, size = self._taken[place.role], place.slices * place.stride
        taken[:] = [words for words in taken if words[0] >= number]
        base = 0
        for _, first, end in sorted(taken, key=lambda words: words[1]):
            if first - base >= size:
                break
            base = max(base, end)
        last = max(self._last.get(name, number) for name in names)
        taken.append((last, base, base + size))
        self._ends[place.role] = max(self._ends[place.role], base + size)
        return replace(place, base=base)

    def _in_place(self, op: Op, tensor: str, number: int) -> Placement:
        """The words of a tensor that an operation adds to."""
        if self._last[tensor] > number:
            reader = self.graph.ops[self._last[tensor]].name
            raise ConfigError(
                f"{tensor} must be read for the last time by {op.name}, not by {reader}",
                where=op.name,
                why="it is added to in place",
            )
        place = self.places[tensor]
        end = place.base + place.slices * place.stride
        self._taken[place.role].append((self._last.get(op.output, number), place.base, end))
        return place

    def _behind(self, place: Placement) -> Placement:
        """Words behind all others, needed from the first operation to the last."""
        base = self._ends[place.role]
        self._ends[place.role] += place.slices * place.stride
        return replace(place, base=base)


def default_tile_rows(tokens: int) -> int:
    """Rows of an accumulator bank for a model: all tokens in one tile, up to a memory's depth."""
    return max(2, tokens if tokens <= 1024 else ceil_div(tokens, ceil_div(tokens, 1024)))


def bank_words_for(
    graph: GraphLike,
    rows: int,
    *,
    value_columns: int | None = None,
    tile_rows: int | None = None,
    blocks: int | None = None,
) -> tuple[int, ...]:
    """Words that each bank needs for a model, exactly.

    Args:
        graph: the model.
        rows: R of the array.
        value_columns: of the configuration; ``rows`` if None.
        tile_rows: rows of an accumulator bank; by the model if None.
        blocks: row blocks, None for the rule.
    """
    spec = graph.spec
    plan = plan_buffers(
        graph,
        rows=rows,
        value_columns=value_columns or rows,
        tile_rows=tile_rows or default_tile_rows(spec.tokens),
        blocks=blocks,
    )
    return plan.words


def preset_config(
    graph: GraphLike, *, rows: int, groups: Groups, blocks: int | None = None, **options: Any
) -> AcceleratorConfig:
    """A design whose memories fit the graph exactly: :func:`sized_config` with its softmax."""
    function = next(op.function for op in graph.ops if isinstance(op, Softmax))
    values = softmax_fields(function) | options
    return sized_config(graph.spec, rows=rows, groups=groups, blocks=blocks, **values)


def sized_config(
    spec: ModelSpec,
    *,
    rows: int,
    groups: Groups,
    blocks: int | None = None,
    frames: int = 1,
    in_flight: int = 1,
    **options: Any,
) -> AcceleratorConfig:
    """A design whose memories fit a model exactly.

    Args:
        spec: geometry of the model.
        rows: R of the array.
        groups: column groups of the array.
        blocks: row blocks, None for the rule.
        frames: of a START.
        in_flight: how many of them are worked on at a time.
        options: further fields of :class:`AcceleratorConfig`; they win over computed ones.

    Raises:
        ConfigError: a field that is not legal, or not with the others.
        DoesNotFitError: more tokens, channels or words than a design may have.
    """
    demands = (
        ("tokens", spec.tokens, "max_row_length", ("a larger patch", "a smaller image")),
        ("channels", spec.width, "max_channels", ("a narrower model",)),
    )
    for what, demand, name, levers in demands:
        if demand > (bound := PARAMETERS[name].high):
            raise DoesNotFitError(what, demand, bound, what, levers)
    tile_rows = default_tile_rows(spec.tokens)
    if blocks is not None and blocks > 0:
        tile_rows = max(tile_rows, ceil_div(spec.tokens, blocks))
    constant_beats = ceil_div(groups.columns * 64, 128 * max(1, options.get("memory_ports", 1)))
    constant_fifo = max(128, 1 << (4 * constant_beats - 1).bit_length())
    computed: dict[str, Any] = {
        "max_channels": max(PARAMETERS["max_channels"].low, spec.width),
        "tile_rows": tile_rows,
        "constant_fifo_beats": constant_fifo,
    }
    config = AcceleratorConfig(rows=rows, groups=groups, **(computed | options))
    if "max_row_length" not in options:
        length = max(PARAMETERS["max_row_length"].low, config.row_length(spec.tokens))
        config = config.replace(max_row_length=length)
    if "bank_words" in options:
        return config
    words = _model_words(
        spec,
        rows=rows,
        value_columns=config.value_columns,
        tile_rows=config.tile_rows,
        word_keys=config.word_keys,
        blocks=blocks,
        frames=frames,
        in_flight=in_flight,
    )
    return config.replace(bank_words=words)


@functools.lru_cache(maxsize=4096)
def _model_words(spec: ModelSpec, **shape: Any) -> tuple[int, ...]:
    """Words of the banks for a model: thousands of designs differ in nothing that decides them."""
    return plan_buffers(network_of(spec), **shape).words
