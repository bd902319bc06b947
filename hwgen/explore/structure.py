# SPDX-License-Identifier: Apache-2.0
"""How the units of the accelerator grow with its parameters, for the resource model.

DSPs and block RAMs are formulas. LUTs and flip-flops are linear in a few features, which follow
the structure of :mod:`hwgen.rtl`: widths, lanes, delay lines, multiplexers, memories. Their
coefficients are fitted (:mod:`hwgen.explore.resources`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hwgen import timings
from hwgen.columns import Groups
from hwgen.config import AcceleratorConfig, bank_slices
from hwgen.explore.array_structure import (
    Features,
    accumulator_blocks,
    accumulator_features,
    array_features,
    ceil_div,
    column_dsps,
    column_features,
    drain_features,
    has_odd_factor,
    index_bits,
    planes_features,
    stationary_blocks,
    stationary_dsps,
    stationary_features,
)
from hwgen.explore.memories import MemoryMapping, block_ram, cheapest, lut_ram
from hwgen.isa.instructions import BODY_BITS, CHECKED_BITS, WAIT_BITS, Engine
from hwgen.numerics.ailayernorm import AILayerNormShape
from hwgen.numerics.e2softmax import E2SoftmaxShape
from hwgen.numerics.fractional_softmax import SHIFT_BITS


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How one unit of the accelerator grows with its parameters."""

    #: fields and properties of the configuration that the unit depends on
    parameters: tuple[str, ...]
    #: quantities that its LUTs and flip-flops are linear in
    features: Callable[..., Features]
    dsp: Callable[..., int] = lambda **_: 0
    bram36: Callable[..., float] = lambda **_: 0

    def of(self, config: AcceleratorConfig) -> dict[str, Any]:
        """The parameters of a configuration."""
        values = {name: getattr(config, name) for name in self.parameters}
        return {k: str(v) if isinstance(v, Groups) else v for k, v in values.items()}


# Activation memory ------------------------------------------------------------------------------


def _crossbar_features(*, rows: int, bank_words: tuple[int, ...]) -> Features:
    # Bits of an offset that a comparison with the number of words looks at.
    compared = sum(17 - ((words & -words).bit_length() - 1) for words in bank_words)
    return {"constant": 1, "rows": rows, "compared_bits": compared}


def _bank_features(*, rows: int, bank_words: tuple[int, ...]) -> Features:
    # Every slice has an output register; a LUT a bit chooses among up to four of them.
    slices = [len(bank_slices(words)) for words in bank_words]
    several = [count for count in slices if count > 1]
    return {
        "registers": 8 * rows * sum(slices),
        "banks": len(several),
        "enables": rows * sum(several),
        "choices": 8 * rows * len(several),
    }


def _bank_blocks(*, rows: int, bank_words: tuple[int, ...]) -> float:
    slices = [depth for words in bank_words for depth in bank_slices(words)]
    return sum(block_ram(depth, 8 * rows, enables=rows).bram36 for depth in slices)


# Engines ----------------------------------------------------------------------------------------


def _matmul_features(*, tile_rows: int) -> Features:
    return {"constant": 1, "row_bits": index_bits(tile_rows)}


def _drain_blocks(
    *, requantise_lanes: int, tile_rows: int, softmax_fractional: bool, **_: object
) -> float:
    words = 2 << (tile_rows - 1).bit_length()
    shifts = block_ram(words, SHIFT_BITS).bram36 if softmax_fractional else 0
    # A lane has two tables of 64 words of four entries.
    return shifts + requantise_lanes * block_ram(2 * 64, 32).bram36


def _softmax_ring(softmax_vec: int, max_row_length: int) -> tuple[int, int]:
    """Depth of the ring of slices and width of a slice (hwgen.rtl.e2softmax)."""
    shape = E2SoftmaxShape(vec=softmax_vec, max_length=max_row_length)
    depth = timings.ring_depth(shape.max_slices, timings.e2softmax_stage_1(softmax_vec))
    return depth, 4 * softmax_vec + 9


def _fractional_rings(
    softmax_vec: int, max_row_length: int, exponent_fraction_bits: int
) -> tuple[tuple[int, int], ...]:
    """Depth and width of the rings of logits and of exponents (hwgen.rtl.fractional_softmax)."""
    slices = E2SoftmaxShape(vec=softmax_vec, max_length=max_row_length).max_slices
    depths = [
        timings.ring_depth(slices, latency(softmax_vec))
        for latency in (timings.maximum_latency, timings.sum_latency)
    ]
    return (depths[0], 9 * softmax_vec), (depths[1], (4 + exponent_fraction_bits) * softmax_vec)


def _fractional_features(
    *,
    rows: int,
    softmax_vec: int,
    max_row_length: int,
    exponent_fraction_bits: int,
    divider_bits: int,
) -> Features:
    g = exponent_fraction_bits
    shape = E2SoftmaxShape(vec=softmax_vec, max_length=max_row_length)
    rings = _fractional_rings(softmax_vec, max_row_length, g)
    mappings = [(cheapest(*ring), ring[1]) for ring in rings]
    in_luts = [(mapping, width) for mapping, width in mappings if mapping.lut]
    result = shape.exponent_bits + divider_bits
    queues = [(rings[0][0], 8), (rings[1][0], result), *((depth, 1) for depth, _ in rings)]
    queued = [(lut_ram(*queue), queue[1]) for queue in queues]
    values = {
        "constant": 1,
        "rows": rows,
        "lanes": softmax_vec,
        # Terms and constants of a lane have one more input each with every bit.
        f"lanes_of_{g}_bits": softmax_vec,
        "divider": (1 << g) * (1 << max(0, divider_bits - 4)),
        "length_bits": max_row_length.bit_length(),
        "memories": sum(mapping.lut for mapping, _ in (*in_luts, *queued)),
        "memory_choices": sum((m.stacked - 1) * width for m, width in (*in_luts, *queued)),
        "memory_registers": sum(width for _, width in in_luts),
        "gathered_bits": 8 * (rows - softmax_vec if rows >= softmax_vec else softmax_vec),
    }
    return {f"fractional_{name}": value for name, value in values.items()}


def _softmax_features(
    *, rows: int, softmax_vec: int, max_row_length: int, softmax_fractional: bool, **widths: int
) -> Features:
    if softmax_fractional:
        return _fractional_features(
            rows=rows, softmax_vec=softmax_vec, max_row_length=max_row_length, **widths
        )
    shape = E2SoftmaxShape(vec=softmax_vec, max_length=max_row_length)
    depth, width = _softmax_ring(softmax_vec, max_row_length)
    ring = cheapest(depth, width)
    result = 9 + shape.exponent_bits
    results = lut_ram(depth, result)
    return {
        "constant": 1,
        "rows": rows,
        "lanes": softmax_vec,
        "length_bits": max_row_length.bit_length(),
        "memories": ring.lut + results.lut,
        "memory_choices": (ring.stacked - 1) * width * (ring.lut > 0)
        + (results.stacked - 1) * result,
        "memory_registers": width * (ring.lut > 0),
        # Slices that wait for their word, or words for their slice.
        "gathered_bits": 8 * (rows - softmax_vec if rows >= softmax_vec else softmax_vec),
    }


def _softmax_blocks(
    *,
    softmax_vec: int,
    max_row_length: int,
    softmax_fractional: bool,
    exponent_fraction_bits: int,
    **_: int,
) -> float:
    if softmax_fractional:
        rings = _fractional_rings(softmax_vec, max_row_length, exponent_fraction_bits)
        return sum(cheapest(*ring).bram36 for ring in rings)
    return cheapest(*_softmax_ring(softmax_vec, max_row_length)).bram36


def _layernorm_memories(lanes: int, max_channels: int) -> tuple[tuple[MemoryMapping, int], ...]:
    """Ring, alpha, gamma and beta, each with the bits that are read a cycle."""
    shape = AILayerNormShape(lanes=lanes, max_channels=max_channels)
    ring = timings.ring_depth(shape.max_slices, timings.ailayernorm_stage_1(lanes))
    slots = 2 << index_bits(shape.max_slices)
    return (
        (cheapest(ring, 8 * lanes), 8 * lanes),
        (cheapest(slots, 2 * lanes, enables=lanes, readers=3), 6 * lanes),
        (cheapest(slots, 8 * lanes, enables=lanes), 8 * lanes),
        (cheapest(slots, 24 * lanes, enables=lanes), 24 * lanes),
    )


def _layernorm_features(*, rows: int, max_channels: int, layernorm_lanes: int = 0) -> Features:
    lanes = layernorm_lanes or rows // 2
    shape = AILayerNormShape(lanes=lanes, max_channels=max_channels)
    memories = _layernorm_memories(lanes, max_channels)
    in_luts = [(mapping, bits) for mapping, bits in memories if mapping.lut]
    channel_bits = max_channels.bit_length()
    return {
        "constant": 1,
        "lanes": lanes,
        "lanes_sum_bits": lanes * shape.sum_bits,
        "lanes_levels": lanes * timings.tree_latency(lanes),
        "channel_bits": channel_bits,
        "memories": sum(mapping.lut for mapping, _ in in_luts),
        "memory_choices": sum(bits * (mapping.stacked - 1) for mapping, bits in in_luts),
        "memory_registers": sum(bits for _, bits in in_luts),
    }


def _layernorm_dsp(*, rows: int, max_channels: int, layernorm_lanes: int = 0) -> int:
    lanes = layernorm_lanes or rows // 2
    shape = AILayerNormShape(lanes=lanes, max_channels=max_channels)
    # Square, scaling, gain and product of a lane; C^2; C * Ex2 and Ex^2 in parts of 17 bits, of
    # which a last part of a single bit is no multiplication.
    parts = ceil_div(shape.square_sum_bits - 1, 17) + ceil_div(shape.sum_bits - 2, 17)
    return 4 * lanes + 1 + parts


def _load_features(*, rows: int, memory_ports: int, burst_beats: int, queue_depth: int) -> Features:
    return {
        "constant": 1,
        "rows": rows,
        "ports": memory_ports,
        "burst_bits": index_bits(burst_beats),
        "queue": lut_ram(queue_depth, CHECKED_BITS).lut,
        "queue_bits": index_bits(queue_depth),
    }


def _store_features(*, rows: int) -> Features:
    return {"constant": 1, "rows": rows, "beats_beyond_2": max(0, rows // 16 - 2)}


# Queues and the bus -----------------------------------------------------------------------------


def _fifo(words: int, width: int) -> MemoryMapping:
    """A queue that reads into its output register, so that one word is not in the memory."""
    return cheapest(words - 1, width)


def _constant_fifo(*, wide_beat_bits: int, constant_fifo_beats: int) -> MemoryMapping:
    return _fifo(constant_fifo_beats, wide_beat_bits + 1)  # with the mark of a tile's last beat


def _constant_fifo_features(*, wide_beat_bits: int, constant_fifo_beats: int) -> Features:
    memory = _constant_fifo(wide_beat_bits=wide_beat_bits, constant_fifo_beats=constant_fifo_beats)
    return {
        "constant": 1,
        "depth_bits": index_bits(constant_fifo_beats),
        "memory": memory.lut,
        "memory_registers": (wide_beat_bits + 1) * (memory.lut > 0),
    }


def _sequencer_features(*, queue_depth: int, instruction_check: bool) -> Features:
    others = len(Engine) - 1
    waits = WAIT_BITS * others
    widths = (CHECKED_BITS + waits, *[BODY_BITS + waits] * others)
    return {
        "constant": 1,
        "check": int(instruction_check),
        "queues": sum(lut_ram(queue_depth, width).lut for width in widths),
        "queue_bits": index_bits(queue_depth),
    }


def _read_fifo(read_fifo_beats: int) -> MemoryMapping:
    # A short queue is read without a clock edge, which block RAM cannot do.
    return _fifo(read_fifo_beats, 128) if read_fifo_beats > 64 else lut_ram(read_fifo_beats, 128)


def _read_features(*, memory_ports: int, read_fifo_beats: int, outstanding: int) -> Features:
    fifo = _read_fifo(read_fifo_beats)
    # Port 0 fetches instructions, too: a further queue of addresses.
    addresses = (memory_ports + 1) * lut_ram(outstanding + 1, 64).lut
    return {
        "constant": 1,
        "ports": memory_ports,
        "fifos": memory_ports * fifo.lut,
        "fifo_bits": memory_ports * index_bits(read_fifo_beats),
        "addresses": addresses,
        "address_bits": (memory_ports + 1) * index_bits(outstanding + 1),
    }


def _read_blocks(*, memory_ports: int, read_fifo_beats: int, outstanding: int) -> float:
    return memory_ports * _read_fifo(read_fifo_beats).bram36


#: Units by name; together they are the accelerator.
UNITS: Mapping[str, Unit] = MappingProxyType(
    {
        "columns": Unit(parameters=("rows", "groups"), features=column_features, dsp=column_dsps),
        "array": Unit(
            parameters=("rows", "groups", "tile_rows", "requantise_lanes"), features=array_features
        ),
        "accumulators": Unit(
            parameters=("rows", "groups", "tile_rows", "requantise_lanes"),
            features=accumulator_features,
            bram36=accumulator_blocks,
        ),
        "activation_memory": Unit(parameters=("rows", "bank_words"), features=_crossbar_features),
        "activation_banks": Unit(
            parameters=("rows", "bank_words"), features=_bank_features, bram36=_bank_blocks
        ),
        "stationary": Unit(
            parameters=("rows", "groups"),
            features=stationary_features,
            dsp=stationary_dsps,
            bram36=stationary_blocks,
        ),
        "weight_planes": Unit(
            parameters=("rows", "groups", "wide_beat_bits"), features=planes_features
        ),
        "matmul": Unit(parameters=("tile_rows",), features=_matmul_features),
        "drain": Unit(
            parameters=(
                "rows",
                "requantise_lanes",
                "groups",
                "memory_ports",
                "tile_rows",
                "softmax_fractional",
                "rotation",
            ),
            features=drain_features,
            dsp=lambda *, requantise_lanes, **_: requantise_lanes,
            bram36=_drain_blocks,
        ),
        "softmax": Unit(
            parameters=(
                "rows",
                "softmax_vec",
                "max_row_length",
                "softmax_fractional",
                "exponent_fraction_bits",
                "divider_bits",
            ),
            features=_softmax_features,
            bram36=_softmax_blocks,
        ),
        "layernorm": Unit(
            parameters=("rows", "max_channels", "layernorm_lanes"),
            features=_layernorm_features,
            dsp=_layernorm_dsp,
            bram36=lambda *, rows, max_channels, layernorm_lanes=0: sum(
                mapping.bram36
                for mapping, _ in _layernorm_memories(layernorm_lanes or rows // 2, max_channels)
            ),
        ),
        "load": Unit(
            parameters=("rows", "memory_ports", "burst_beats", "queue_depth"),
            features=_load_features,
            # The addresses of the ports 3 and 5.
            dsp=lambda *, memory_ports, **_: sum(map(has_odd_factor, range(memory_ports))),
        ),
        "store": Unit(parameters=("rows",), features=_store_features),
        "constant_fifo": Unit(
            parameters=("wide_beat_bits", "constant_fifo_beats"),
            features=_constant_fifo_features,
            bram36=lambda **sizes: _constant_fifo(**sizes).bram36,
        ),
        "sequencer": Unit(
            parameters=("queue_depth", "instruction_check"), features=_sequencer_features
        ),
        "registers": Unit(parameters=(), features=lambda: {"constant": 1}),
        "read_masters": Unit(
            parameters=("memory_ports", "read_fifo_beats", "outstanding"),
            features=_read_features,
            bram36=_read_blocks,
        ),
        "write_master": Unit(parameters=(), features=lambda: {"constant": 1}),
        "top": Unit(
            parameters=("memory_ports",),
            features=lambda *, memory_ports: {"constant": 1, "ports": memory_ports},
        ),
    }
)
