# SPDX-License-Identifier: Apache-2.0
"""Mean over the tokens: a row of ones times the tokens, which are the stationary operand."""

from __future__ import annotations

import numpy as np

from hwgen.graph.ops import MeanPool
from hwgen.isa.instructions import StationarySource
from hwgen.program.buffer_plan import INJECTION_CYCLES, ceil_div
from hwgen.program.lower.context import Lowering, lower_operation
from hwgen.program.lower.product import (
    Operand,
    Result,
    attention_format,
    constants_only,
    product,
)
from hwgen.program.packing import split_words, words_of_bytes, words_size, words_stride
from hwgen.program.schedule import Draft


def load_ones(low: Lowering) -> Draft:
    """The row of ones, zero for tokens that do not count."""
    pool = next(op for op in low.graph.ops if isinstance(op, MeanPool))
    ones = low.plan.constants[pool.name]
    values = np.zeros((1, low.tokens), np.uint8)
    values[:, pool.first :] = 1
    data = split_words(words_of_bytes(values, low.config), low.config)
    return Draft(
        opcode="LOAD_WORDS",
        fields={
            "address": low.image.add(words_size(ones.slices, low.config), data),
            "port_stride": words_stride(ones.slices, low.config),
            "words": ones.slices,
            "destination": low.word(ones),
        },
        label=pool.name,
        relocate=True,
    )


@lower_operation.register
def lower_mean_pool(op: MeanPool, low: Lowering) -> None:
    """One row."""
    source, pooled = low.plan.places[op.input], low.plan.places[op.output]
    ones = low.plan.constants[op.name]
    config = low.config
    form = attention_format(config.value_columns)
    tiles = ceil_div(source.channels, form.columns)
    item = product(
        low,
        op.name,
        records=constants_only(low, op, source.channels, form, largest=128 * low.tokens),
        form=form,
        tiles=(0, tiles),
        passes=ones.slices,
        stationary=Operand(
            source=StationarySource.ROWS,
            base=low.word(source),
            stride=source.stride,
            limit=low.tokens,
            pass_tokens=config.rows,
        ),
        moving=Operand(
            base=low.word(ones),
            stride=ones.stride,
        ),
        rows=1,
        result=Result(
            placement=pooled,
            first=0,
            columns=source.channels,
            tokens=(0, 1),
            parts=low.parts(op.output, pooled, (0, 1), (0, 1 << 30)),
        ),
        cycles=tiles * ones.slices * (config.rows + INJECTION_CYCLES),
    )
    item.drafts[-1].row_per_frame = low.row_per_frame(op)
    low.items.append(item)
