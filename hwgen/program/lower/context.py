# SPDX-License-Identifier: Apache-2.0
"""What lowering an operation needs: addresses, boundaries, the image, the items."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np

from hwgen.columns import Groups
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, DoesNotFitError
from hwgen.graph.ops import LayerNorm, Linear, Op
from hwgen.isa.build import begin
from hwgen.isa.instructions import (
    BEAT_BYTES,
    BY_NAME,
    INSTRUCTION_BYTES,
    OFFSET_BITS,
    WAIT_BITS,
    Instruction,
    encode,
)
from hwgen.numerics.requantise import BIASED_BITS, fits_lanes
from hwgen.program.buffer_plan import BufferPlan, GraphLike, Placement, ceil_div, round_up
from hwgen.program.hazards import HazardTracker
from hwgen.program.machine import ACCESSES
from hwgen.program.paths import check_paths
from hwgen.program.program import Boundary, Part, Program
from hwgen.program.schedule import Draft, Item, Preference, schedule

_PAGE = 4096
#: Estimated latency from the last row of a tile to its last word written, and of a vector unit.
DRAIN_LATENCY = 60
VECTOR_LATENCY = 80

#: Boundary pieces: tensor, and the fields of Part without engine and count.
Parts = list[tuple[str, dict[str, Any]]]


@dataclass
class Image:
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


class Lowering:
    """State of one compilation."""

    def __init__(
        self,
        graph: GraphLike,
        config: AcceleratorConfig,
        plan: BufferPlan,
        skeleton: bool,
        frames: int = 1,
        preference: Preference | None = None,
    ) -> None:
        """Nothing is lowered yet."""
        self.graph = graph
        self.config = config
        self.plan = plan
        self.skeleton = skeleton
        self.preference = preference or Preference()
        self.tokens = graph.spec.tokens
        self.image = Image(skeleton)
        self.items: list[Item] = []
        self.layernorms = [op for op in graph.ops if isinstance(op, LayerNorm)]
        self.tables = [op for op in graph.ops if isinstance(op, Linear) and op.table is not None]
        #: items of v, issued behind the first attention logits
        self.pending_value: list[Item] = []
        self.output_words = 0
        #: the image in pieces, for the frames of a START behind the first one
        self.image_pieces: list[Draft] = []
        self.frames = frames
        #: where the items of each operation of the graph begin
        self.starts: list[int] = []

    def neighbours(self, op: Op) -> tuple[Op | None, Op | None]:
        """The operations before and after one."""
        ops = self.graph.ops
        index = ops.index(op)
        return (
            ops[index - 1] if index else None,
            ops[index + 1] if index + 1 < len(ops) else None,
        )

    def row_per_frame(self, op: Op) -> bool:
        """Whether an operation makes a row for each of several images: what the last one reads."""
        return self.frames > 1 and op.output in self.graph.ops[-1].inputs

    # Addresses ------------------------------------------------------------------------------

    def word(self, placement: Placement, slice_index: int = 0, token: int = 0) -> int:
        """Word address."""
        offset = placement.base + slice_index * placement.stride + token
        return self.config.bank(placement.role) << OFFSET_BITS | offset

    def parts(
        self,
        tensor: str,
        placement: Placement,
        tokens: tuple[int, int],
        columns: tuple[int, int],
    ) -> Parts:
        """Boundary pieces of some tokens and padded columns of a placed tensor."""
        parts: Parts = []
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
                        "skip": column % placement.per_word,
                    },
                )
            )
        return parts

    # Accumulators ----------------------------------------------------------------------------

    def check_accumulators(self, name: str, lowest: np.ndarray, highest: np.ndarray) -> None:
        """Refuse columns whose accumulators with their bias could leave the requantise lanes.

        Args:
            name: of the operation.
            lowest: smallest that each column can reach, int64.
            highest: largest.

        Raises:
            ConfigError: names the worst column.
        """
        if fits_lanes(lowest).all() and fits_lanes(highest).all():
            return
        reach = np.maximum(-lowest, highest)
        column = int(reach.argmax())
        raise ConfigError(
            f"accumulator + bias of column {column} must fit {BIASED_BITS} bits for every input,"
            f" not reach {int(reach[column])}",
            where=name,
            why="a requantise lane multiplies in one DSP",
        )

    def check_narrow_accumulators(
        self, name: str, columns: np.ndarray, lowest: np.ndarray, highest: np.ndarray
    ) -> None:
        """Refuse sums that a group's accumulators, narrower than a requantise lane, cannot hold.

        Args:
            name: of the operation.
            columns: column of the array of each channel.
            lowest: smallest sum that each channel can reach, without its bias, int64.
            highest: largest.

        Raises:
            ConfigError: names the worst channel.
        """
        bits = np.array(self.config.groups.accumulator_bits)[columns]
        limit = np.int64(1) << (bits - 1)
        beyond = np.maximum(-lowest - limit, highest - limit + 1)
        # What wraps at the lanes' width is right again with its bias.
        channel = int(np.argmax(np.where(bits < BIASED_BITS, beyond, 0)))
        if bits[channel] == BIASED_BITS or beyond[channel] <= 0:
            return
        wide = (g for g in self.config.groups if g.accumulator_bits == BIASED_BITS)
        raise ConfigError(
            f"sums of channel {channel} must fit the {bits[channel]} bits of its column's"
            f" accumulator for every input, not reach"
            f" {int(max(-lowest[channel], highest[channel]))}",
            where=name,
            why="columns of fewer weight bits have narrower accumulators, which hold 4,095 input"
            " channels whatever their weights are",
            nearest=f"groups {Groups(wide)}",
        )

    # Estimates ------------------------------------------------------------------------------

    def drain_tail(self, rows: tuple[int, int], *, wide: bool = False) -> int:
        """Cycles of DRAIN behind the last row of a tile; ``wide``: of int16 results."""
        chunks = ceil_div(self.config.columns, self.config.chunk_channels(wide=wide))
        return chunks * (rows[1] - rows[0]) + DRAIN_LATENCY

    def layernorm_cycles(self, rows: tuple[int, int]) -> int:
        """Cycles of a LayerNorm."""
        groups = ceil_div(self.graph.spec.width, self.config.layernorm_lanes)
        return (rows[1] - rows[0]) * groups + VECTOR_LATENCY

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
        """Order the items, find the thresholds, place the data, encode.

        Raises:
            ProgramError: an engine would use a bank that it does not reach.
        """
        self._check_counts()
        for item in self.items:
            for draft in item.drafts:
                engine = BY_NAME[draft.opcode].engine
                assert engine is not None
                draft.accesses = ACCESSES[engine](self.config, draft.opcode, draft.fields)
        order = schedule(self.items, self.preference)
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
            instruction = Instruction(draft.opcode, fields, waits)
            check_paths(draft.opcode, draft.accesses, where=draft.label)
            instructions.append(instruction)
            labels.append(draft.label)
            for tensor, values in draft.parts:
                pieces[tensor].append(Part(engine=engine, count=tracker.counts[engine], **values))
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
            input_bytes=self.frames * round_up(pixels, BEAT_BYTES),
            output_bytes=self.frames * self.output_words * self.config.rows,
            frames=self.frames,
            classes=spec.classes,
            boundaries=tuple(
                Boundary(
                    name=name,
                    shape=tuple(tensor.shape) if self.frames == 1 else (self.frames, *tensor.shape),
                    dtype=tensor.dtype,
                    parts=tuple(pieces[name]),
                )
                for name, tensor in self.graph.tensors.items()
            ),
            macs=self.graph.macs(),
            labels=tuple(labels),
        )


@singledispatch
def lower_operation(op: Op, low: Lowering) -> None:
    """Add the items of an operation; the modules of this package register what they lower.

    Raises:
        ConfigError: nothing lowers such an operation, or not on the design.
        DoesNotFitError: more than the design holds.
    """
    del low
    raise ConfigError(f"Operation must be a known one, not {type(op).__name__}", where=op.name)


def padded_index(placement: Placement) -> np.ndarray:
    """Padded column of every channel of a placed tensor."""
    groups = np.arange(placement.groups)[:, None] * placement.padded
    return (groups + np.arange(placement.channels)).reshape(-1)


def clip_ranges(blocks: tuple[tuple[int, int], ...], rows: int) -> tuple[tuple[int, int], ...]:
    """The part of token ranges below ``rows``."""
    return tuple((start, min(stop, rows)) for start, stop in blocks if start < rows)
