# SPDX-License-Identifier: Apache-2.0
"""Where every tensor lies in the activation memory, and the exact sizes that a model needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from hwgen.columns import Groups
from hwgen.config import BANK_ROLES, PARAMETERS, AcceleratorConfig, softmax_fields
from hwgen.errors import ConfigError, DoesNotFitError
from hwgen.graph.ops import Op, Softmax, Tensor
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


@dataclass(frozen=True, kw_only=True)
class BufferPlan:
    """Placements of all tensors of a model on a design, and the words that each bank needs."""

    blocks: tuple[tuple[int, int], ...]  #: token ranges
    image: Placement
    residual: Placement
    normalised: Placement
    query: Placement
    key_value: Placement
    key: Placement
    value: Placement
    scores: tuple[Placement, Placement]
    hidden: Placement
    pooled: Placement
    ones: Placement
    logits: Placement
    words: tuple[int, ...]  #: per bank

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
    spec: ModelSpec,
    *,
    rows: int,
    value_columns: int,
    tile_rows: int,
    word_keys: int | None = None,
    blocks: int | None = None,
    frames: int = 1,
) -> BufferPlan:
    """Place all tensors of a model; needs shapes only, no weights.

    Args:
        spec: geometry of the model.
        rows: R of the array.
        value_columns: columns of a tile whose stationary operand is read by rows (V).
        tile_rows: rows of an accumulator bank.
        word_keys: of the configuration; ``rows`` if None.
        blocks: row blocks, None for the rule.
        frames: of a START; with several the next frame's image has a place of its own.

    Raises:
        DoesNotFitError: more words than an address can name.
    """
    tokens = spec.tokens
    ranges = row_blocks(tokens, rows, tile_rows, blocks)
    longest = max(stop - start for start, stop in ranges)

    def int8(role: str, base: int, count: int, channels: int, heads: int = 0) -> Placement:
        return Placement(
            role=role,
            base=base,
            stride=count,
            groups=max(1, heads),
            filled=heads > 0,
            channels=channels,
            padded=round_up(channels, rows),
            per_word=rows,
        )

    def int16(base: int, count: int, channels: int) -> Placement:
        return Placement(
            role="residual",
            base=base,
            stride=count,
            groups=1,
            channels=channels,
            padded=round_up(channels, rows // 2),
            per_word=rows // 2,
            wide=True,
        )

    def words(placement: Placement, count: int) -> int:
        return placement.base + placement.slices * count

    image = int8("hidden", 0, spec.patches, spec.patch_values)
    residual = int16(0, tokens, spec.width)
    normalised = int8("normalised", 0, tokens, spec.width)
    query = int8("query", 0, tokens, spec.head_dim, spec.heads)
    # Side by side, so that both are written as one layer.
    key_value = int8("key_value", 0, tokens, spec.head_dim, 2 * spec.heads)
    key = replace(key_value, groups=spec.heads)
    value = replace(key, base=key.slices * tokens)
    keys = word_keys or rows
    scores0 = replace(
        int8("scores0", 0, longest, tokens), padded=round_up(tokens, keys), per_word=keys
    )
    scores = scores0, replace(scores0, role="scores1")
    hidden = int8("hidden", 0, tokens, spec.mlp_hidden)
    pooled = int8("hidden", 0, 1, spec.width)
    if frames > 1:
        image = replace(image, base=max(hidden.slices * tokens, pooled.slices))
    large = max(words(image, spec.patches), words(hidden, tokens), words(pooled, 1))
    ones = int8("hidden", large, 1, tokens)
    logits = replace(int16(0, 1, spec.classes), filled=True)

    # A stationary operand from rows is read in whole tiles: the last ones of the last head may
    # reach beyond it; what is read there is never written out, but must exist.
    tile_slices = max(1, value_columns // rows)
    beyond = round_up(value.group_slices, tile_slices) - value.group_slices
    demand = {
        "residual": max(words(residual, tokens), words(logits, 1)),
        "normalised": words(normalised, tokens),
        "query": words(query, tokens),
        "key_value": max(words(key, tokens), words(value, tokens) + beyond * tokens),
        "scores0": words(scores[0], longest),
        "scores1": words(scores[1], longest),
        "hidden": large,
    }
    if spec.pooling == "mean":
        demand["normalised"] = round_up(normalised.slices, tile_slices) * tokens
        demand["hidden"] = words(ones, 1)
    for role, count in demand.items():
        if count > _BANK_MAXIMUM:
            raise DoesNotFitError(
                f"activation memory {role}",
                count,
                _BANK_MAXIMUM,
                "words",
                ("more array rows (longer words)", "a model with fewer tokens or channels"),
            )
    if max(tokens, spec.patches) > _STRIDE_MAXIMUM:
        raise DoesNotFitError(
            "tokens", tokens, _STRIDE_MAXIMUM, "tokens", ("a larger patch", "a smaller image")
        )
    return BufferPlan(
        blocks=ranges,
        image=image,
        residual=residual,
        normalised=normalised,
        query=query,
        key_value=key_value,
        key=key,
        value=value,
        scores=scores,
        hidden=hidden,
        pooled=pooled,
        ones=ones,
        logits=logits,
        words=tuple(demand[role] for role in BANK_ROLES),
    )


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
        spec,
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
    **options: Any,
) -> AcceleratorConfig:
    """A design whose memories fit a model exactly.

    Args:
        spec: geometry of the model.
        rows: R of the array.
        groups: column groups of the array.
        blocks: row blocks, None for the rule.
        frames: of a START.
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
    plan = plan_buffers(
        spec,
        rows=rows,
        value_columns=config.value_columns,
        tile_rows=config.tile_rows,
        word_keys=config.word_keys,
        blocks=blocks,
        frames=frames,
    )
    return config.replace(bank_words=plan.words)
