# SPDX-License-Identifier: Apache-2.0
"""Attention: q k^T, softmax and the weighted sum of v, head by head and block by block."""

from __future__ import annotations

from hwgen.errors import ConfigError
from hwgen.graph.ops import AttentionLogits, AttentionValues, Softmax
from hwgen.isa.instructions import (
    OFFSET_BITS,
    ROW_SHIFT_BANK,
    DrainMode,
    Engine,
    StationarySource,
)
from hwgen.program.buffer_plan import INJECTION_CYCLES, ceil_div
from hwgen.program.lower.context import VECTOR_LATENCY, Lowering, Parts, lower_operation
from hwgen.program.lower.product import (
    Operand,
    Result,
    attention_format,
    constants_only,
    product,
)
from hwgen.program.schedule import Draft, Item, Kind


@lower_operation.register
def lower_with_values(op: AttentionLogits | Softmax, low: Lowering) -> None:
    """Nothing: lowered with the values, :func:`lower_attention_values`."""


@lower_operation.register
def lower_attention_values(op: AttentionValues, low: Lowering) -> None:
    """With the two operations before.

    Raises:
        ConfigError: they are others.
    """
    softmax, _ = low.neighbours(op)
    logits, _ = low.neighbours(softmax) if softmax is not None else (None, None)
    if not isinstance(logits, AttentionLogits) or not isinstance(softmax, Softmax):
        raise ConfigError(
            "AttentionValues must follow its AttentionLogits and Softmax", where=op.name
        )
    lower_attention(low, logits, softmax, op)


def lower_attention(
    low: Lowering, logits: AttentionLogits, softmax: Softmax, values: AttentionValues
) -> None:
    """Two score buffers: the logits of a head are made before the values of the head before."""
    plan, config = low.plan, low.config
    query, key, value = (plan.places[n] for n in (logits.query, logits.key, values.value))
    assert plan.places[values.output] == query  # head by head, behind the head's logits
    tokens, padded = low.tokens, query.padded
    keys = plan.scores[0]
    apart = keys.per_word != config.rows
    key_form = attention_format(config.attention_columns)
    value_form = attention_format(config.value_columns)
    key_tiles = ceil_div(tokens, key_form.columns)
    value_tiles = ceil_div(padded, value_form.columns)
    key_records = constants_only(
        low,
        logits,
        tokens,
        key_form,
        largest=128 * low.graph.spec.head_dim * 128,
        apart=apart,
    )
    value_records = constants_only(low, values, padded, value_form, largest=128 * tokens * 255)
    sum_passes = keys.slices
    # Pieces of a row of logits and codes, each of whole words behind each other.
    pieces = [(0, 0, tokens)]
    if apart:
        pieces = [
            (word, first, min(keys.per_word, tokens - first))
            for word, first in enumerate(range(0, tokens, keys.per_word))
        ]
    work: list[tuple[Item, Item, Item]] = []
    pairs = [(rows, head) for rows in plan.blocks for head in range(logits.heads)]
    for number, (rows, head) in enumerate(pairs):
        slot = number % 2  # of the rows' shifts, one beside each score buffer
        scores = plan.scores[slot]
        m = rows[1] - rows[0]
        here = (0, m)
        parts = [
            {
                "base": low.word(scores, word) - rows[0],
                "stride": scores.stride,
                "first_token": rows[0],
                "tokens": m,
                "first_channel": first,
                "channels": channels,
                "index": (head,),
            }
            for word, first, channels in pieces
        ]
        slices = (head * query.group_slices, (head + 1) * query.group_slices)
        dot = product(
            low,
            logits.name,
            records=key_records,
            form=key_form,
            tiles=(0, key_tiles),
            passes=query.group_slices,
            stationary=Operand(
                source=StationarySource.COLUMNS,
                base=low.word(key, slices[0]),
                stride=key.stride,
                limit=tokens,
            ),
            moving=Operand(
                base=low.word(query, slices[0], rows[0]),
                stride=query.stride,
            ),
            rows=m,
            result=Result(
                placement=scores,
                first=0,
                columns=tokens,
                tokens=here,
                apart=apart,
                parts=[(logits.output, part) for part in parts],
            ),
            cycles=key_tiles * query.group_slices * max(m, config.rows + INJECTION_CYCLES),
            kind=Kind.ATTENTION,
        )
        soft_parts: Parts = [(softmax.output, part) for part in parts]
        if softmax.shifts is not None:
            first = (ROW_SHIFT_BANK << OFFSET_BITS) + slot * config.shift_words
            row_shifts: dict[str, object] = {
                "base": first - head,
                "stride": 1,
                "first_token": head,
                "tokens": 1,
                "first_channel": rows[0],
                "channels": m,
            }
            soft_parts.append((softmax.shifts, row_shifts))
        per_row = keys.slices * max(1, ceil_div(keys.per_word, config.softmax_vec))
        soft = Item(
            engine=Engine.SOFTMAX,
            cycles=m * per_row + VECTOR_LATENCY,
            drafts=[
                Draft(
                    opcode="SOFTMAX",
                    fields={
                        "source": low.word(scores),
                        "source_stride": scores.stride,
                        "destination": low.word(scores),
                        "destination_stride": scores.stride,
                        "rows": m,
                        "words": keys.slices,
                        "word_length": keys.per_word,
                        "last_length": tokens - (keys.slices - 1) * keys.per_word,
                        "fraction_bits": softmax.fraction_bits,
                        "slot": slot if softmax.shifts else 0,
                    },
                    label=softmax.name,
                    parts=tuple(soft_parts),
                )
            ],
        )
        weighted = product(
            low,
            values.name,
            records=value_records,
            form=value_form,
            tiles=(0, value_tiles),
            passes=sum_passes,
            stationary=Operand(
                source=StationarySource.ROWS,
                base=low.word(value, slices[0]),
                stride=value.stride,
                limit=tokens,
                pass_tokens=keys.per_word,
            ),
            moving=Operand(
                base=low.word(scores),
                stride=scores.stride,
                signed=False,
            ),
            rows=m,
            result=Result(
                placement=query,
                first=head * padded,
                columns=padded,
                tokens=rows,
                mode=DrainMode.SHIFTED if softmax.shifts else DrainMode.INT8,
                low=values.low,
                high=values.high,
                slot=slot if softmax.shifts else 0,
                parts=low.parts(values.output, query, rows, (head * padded, (head + 1) * padded)),
            ),
            cycles=value_tiles * sum_passes * max(m, config.rows + 2 * INJECTION_CYCLES),
            kind=Kind.ATTENTION,
        )
        work.append((dot, soft, weighted))
    low.items += work[0][:2]
    low.items += low.pending_value
    for number, (dot, soft, _) in enumerate(work[1:]):
        low.items += [dot, soft, work[number][2]]
    low.items.append(work[-1][2])
    low.pending_value = []
