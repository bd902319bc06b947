# SPDX-License-Identifier: Apache-2.0
"""LayerNorm, with the loads of what the next one and the next table need."""

from __future__ import annotations

from hwgen.graph.ops import LayerNorm, Linear
from hwgen.isa.instructions import BEAT_BYTES, CONSTANT_BYTES, Engine
from hwgen.program.buffer_plan import round_up
from hwgen.program.lower.context import Lowering, clip_ranges, lower_operation
from hwgen.program.packing import layernorm_records
from hwgen.program.schedule import Draft, Item


def load_layernorm(low: Lowering, number: int) -> Draft:
    """Parameters of a LayerNorm by its place among them."""
    op = low.layernorms[number]
    data = None
    size = round_up(len(op.gamma), 2) * CONSTANT_BYTES
    if not low.skeleton:
        data = layernorm_records(op.alpha, op.gamma, op.beta).tobytes()
    return Draft(
        opcode="LOAD_LAYERNORM",
        fields={
            "address": low.image.add(size, data),
            "beats": size // BEAT_BYTES,
            "slot": number % 2,
        },
        label=op.name,
        relocate=True,
    )


def _load_table(low: Lowering, op: Linear) -> Draft:
    slot = low.tables.index(op) % 2
    data = None if low.skeleton or op.table is None else op.table.tobytes()
    return Draft(
        opcode="LOAD_TABLE",
        fields={"address": low.image.add(256, data), "slot": slot},
        label=op.name,
        relocate=True,
    )


@lower_operation.register
def lower_layer_norm(op: LayerNorm, low: Lowering) -> None:
    """One instruction per block of tokens."""
    number, ops = low.layernorms.index(op), low.graph.ops
    residual, normalised = low.plan.places[op.input], low.plan.places[op.output]
    ranges = low.plan.blocks if op.rows is None else clip_ranges(low.plan.blocks, op.rows)
    for index, rows in enumerate(ranges):
        start, stop = rows
        draft = Draft(
            opcode="LAYERNORM",
            fields={
                "source": low.word(residual, 0, start),
                "source_stride": residual.stride,
                "destination": low.word(normalised, 0, start),
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
            label=op.name,
            row_per_frame=low.row_per_frame(op),
            parts=tuple(low.parts(op.output, normalised, rows, (0, 1 << 30))),
        )
        drafts = [draft]
        if index == 0:
            # What the next LayerNorm and the next table need, a whole phase ahead.
            begin, end = ops.index(op), len(ops)
            if number + 1 < len(low.layernorms):
                drafts.append(load_layernorm(low, number + 1))
                end = ops.index(low.layernorms[number + 1])
            drafts += [_load_table(low, t) for t in low.tables if begin < ops.index(t) < end]
        low.items.append(
            Item(engine=Engine.LAYERNORM, drafts=drafts, cycles=low.layernorm_cycles(rows))
        )
