# SPDX-License-Identifier: Apache-2.0
"""LAYERNORM: rows of the residual stream to codes."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import (
    Engine,
    Instruction,
)
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.requantise import (
    ptf_codes,
)
from hwgen.program.hazards import LAYERNORM_SLOTS, Access, Fields, slot, words
from hwgen.program.machine.state import Machine, Step
from hwgen.program.machine.timeline import (
    HANDOVER,
    VECTOR_DONE,
    VECTOR_REQUEST,
    VECTOR_TAKE,
    Process,
    Timeline,
)
from hwgen.program.packing import (
    decode_layernorm,
)
from hwgen.timings import AILAYERNORM_STAGE_2, PTF_LATENCY, READ_LATENCY, ailayernorm_stage_1


def layernorm_cycles(config: AcceleratorConfig, *, rows: int, channels: int) -> int:
    """A LAYERNORM command is accepted -> ``done``, if the memory always grants."""
    lanes = config.layernorm_lanes
    per_row = -(-channels // lanes)
    first = VECTOR_REQUEST + READ_LATENCY + PTF_LATENCY + VECTOR_TAKE
    unit = ailayernorm_stage_1(lanes) + AILAYERNORM_STAGE_2
    # From the first group to the last one of all rows; of the last row's codes, too.
    return first + rows * per_row - 1 + unit + per_row - 1 + VECTOR_DONE


def execute(machine: Machine, i: Instruction) -> Step:
    """What an instruction does, event by event."""
    channels, rows = i["channels"], i["rows"]
    if channels > machine.config.max_channels:
        raise machine.fail(
            f"channels must be at most {machine.config.max_channels}, not {channels}", i
        )
    words = -(-channels // machine.config.int16_channels)
    early = machine.random is not None and bool(machine.random.integers(2))
    if not early:
        yield lambda: True
    data, valid = machine.read(i["source"], i["source_stride"], words, rows)
    records = machine.layernorm[i["slot"]]
    if records is None or len(records) < channels:
        raise machine.fail("LayerNorm parameters must be loaded before they are used", i)
    if not valid[:, : 2 * channels].all():
        raise machine.fail("Residual must be written before it is read", i)
    yield lambda: True
    alpha, gamma, beta = (values[:channels] for values in decode_layernorm(records))
    residual = data.view("<i2").astype(np.int16)[:, :channels]
    codes = ptf_codes(residual, shift=i["ptf_shift"], alpha=alpha, zero_point=i["zero_point"])
    out = ailayernorm(
        codes,
        alpha=alpha,
        gamma=gamma,
        beta=beta,
        zero_point=i["zero_point"],
        gamma_shift=i["gamma_shift"],
        beta_fraction_bits=i["beta_fraction_bits"],
        output_zero_point=i["output_zero_point"],
        squares="exact" if i["exact"] else "compressed",
        max_channels=channels,
    )
    slices = -(-channels // machine.config.rows)
    padded = np.zeros((rows, slices * machine.config.rows), np.uint8)
    padded[:, :channels] = out.view(np.uint8)
    machine.write(i["destination"], i["destination_stride"], padded)
    yield lambda: True


def accesses(config: AcceleratorConfig, opcode: str, fields: Fields) -> tuple[Access, ...]:
    """What an instruction reads and writes."""
    del opcode
    source, destination = (
        words(
            fields,
            end,
            stride=fields[f"{end}_stride"],
            slices=-(-fields["channels"] // config.word_channels(wide=end == "source")),
            tokens=fields["rows"],
            write=end == "destination",
        )
        for end in ("source", "destination")
    )
    return (source, destination, slot(LAYERNORM_SLOTS, fields["slot"], write=False))


def timeline(model: Timeline) -> Process:
    """When instructions are taken and done."""
    time = 0
    for number, instruction in model.by_engine[Engine.LAYERNORM]:
        while not model.known(number, instruction):
            yield
        taken = max(model.met(number, instruction) + HANDOVER, time)
        model.taken[Engine.LAYERNORM].append(taken)
        model.progress += 1
        rows, channels = instruction["rows"], instruction["channels"]
        reads_end = taken + rows * -(-channels // model.config.layernorm_lanes)
        # DRAIN's residual reads go first. All that can happen before this command is complete
        # is known once nothing else moves.
        while not model.quiet:
            yield
        held = 0
        reads = model.residual_reads
        index = max(0, bisect_right(reads, (taken, 0)) - 1)
        for start, stop in reads[index:]:
            if start >= reads_end + held:
                break
            held += max(0, stop - max(start, taken))
        time = taken + held + layernorm_cycles(model.config, rows=rows, channels=channels)
        model.complete(Engine.LAYERNORM, taken, time)
        model.quiet = False
