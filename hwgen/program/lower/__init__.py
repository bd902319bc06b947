# SPDX-License-Identifier: Apache-2.0
"""Integer graph -> program: tiles, buffers, schedule, instructions, packed memory image.

One module per kind of operation; :mod:`.context` has what they share, :mod:`.product` the one way
to write a matmul's instructions. Words used here: a *block* is a range of tokens
(:func:`hwgen.program.buffer_plan.row_blocks`); the *head* of a layer are its first tiles, issued
block by block because the block behind is still in LayerNorm; its *tail* are its last tiles, issued
block by block so that the next LayerNorm can begin with the first block; between them a tile's
weights serve all tokens at once.
"""

from __future__ import annotations

from hwgen.config import AcceleratorConfig, softmax_fields, value_text
from hwgen.errors import ConfigError
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
    Softmax,
)
from hwgen.program.buffer_plan import GraphLike, plan_buffers
from hwgen.program.lower.attention import lower_attention
from hwgen.program.lower.context import Lowering
from hwgen.program.lower.embedding import lower_embedding, lower_image_codes
from hwgen.program.lower.layer_norm import lower_layer_norm
from hwgen.program.lower.linear import lower_linear, lower_query_key_value
from hwgen.program.lower.mean_pool import lower_mean_pool
from hwgen.program.lower.product import store
from hwgen.program.program import Program


def lower(
    graph: GraphLike,
    config: AcceleratorConfig,
    *,
    skeleton: bool = False,
    blocks: int | None = None,
    frames: int = 1,
) -> Program:
    """Compile a graph for a design.

    Args:
        graph: the model; for a skeleton its arrays are looked at for their shapes only.
        config: the design.
        skeleton: leave the memory image out (for the cycle model).
        blocks: row blocks; None: by the rule.
        frames: images of a START, one behind the other.

    Raises:
        ConfigError: the design cannot run the model: another softmax, no columns for a layer's
            width, rows or channels beyond a unit's size.
        DoesNotFitError: a tensor does not fit its bank, which is said before anything is packed, or
            more instructions than the thresholds can count.
        ProgramError: a number beyond an instruction's field.
    """
    _check(graph, config)
    plan = plan_buffers(
        graph.spec,
        rows=config.rows,
        value_columns=config.value_columns,
        tile_rows=config.tile_rows,
        word_keys=config.word_keys,
        blocks=blocks,
        frames=frames,
    )
    plan.check(config)
    low = Lowering(graph, config, plan, skeleton)
    ops = graph.ops
    for index, op in enumerate(ops):
        before = ops[index - 1] if index else None
        after = ops[index + 1] if index + 1 < len(ops) else None
        match op:
            case ImageCodes():
                lower_image_codes(low, op)
            case Embedding():
                lower_embedding(low, op)
            case LayerNorm():
                lower_layer_norm(low, op)
            case QueryKeyValue():
                lower_query_key_value(low, op)
            case AttentionLogits() | Softmax():
                pass  # with the values, below
            case AttentionValues():
                lower_attention(low, *_attention(ops, index), op)
            case MeanPool():
                lower_mean_pool(low, op)
            case Linear():
                lower_linear(low, op, before, after)
            case _:
                raise ConfigError(f"Operation must be a known one, not {type(op).__name__}")
    store(low)
    low.repeat(frames)
    return low.finish()


def _attention(ops: tuple[Op, ...], index: int) -> tuple[AttentionLogits, Softmax]:
    """The two operations that come before attention values, and are lowered with them."""
    logits, softmax = ops[index - 2 : index] if index >= 2 else (None, None)
    if not isinstance(logits, AttentionLogits) or not isinstance(softmax, Softmax):
        raise ConfigError(
            "AttentionValues must follow its AttentionLogits and Softmax", where=ops[index].name
        )
    return logits, softmax


def _check(graph: GraphLike, config: AcceleratorConfig) -> None:
    spec = graph.spec
    length = config.row_length(spec.tokens)
    for op in graph.ops:
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
    for name, demand, what in (
        (
            "max_row_length",
            length,
            f"{spec.tokens} tokens" + (f", {length} bytes" if length != spec.tokens else ""),
        ),
        ("max_channels", spec.width, f"width {spec.width}"),
    ):
        if demand > getattr(config, name):
            raise ConfigError(
                f"{name} must be at least the model's {what}, not {getattr(config, name)}",
                nearest=demand,
            )


__all__ = ["lower"]
