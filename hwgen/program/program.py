# SPDX-License-Identifier: Apache-2.0
"""The compiled program: instructions, memory image, and where every layer boundary can be seen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import Engine, Instruction

BOUNDARY_SCHEMA = "hwgen.boundaries"
BOUNDARY_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """One piece of a boundary tensor: where it lies and when it is complete.

    Complete when ``engine`` has completed ``count`` instructions since START; a later instruction
    may overwrite it, none does so before. Channel ``first_channel + j`` of token
    ``first_token + i`` is element ``k % per_word``, ``k = skip + j``, of word ``base + (k //
    per_word) * stride + first_token + i``, where a word of ``rows`` bytes holds ``per_word``
    elements, little endian; a word of the row shifts is one byte
    (:data:`hwgen.isa.instructions.ROW_SHIFT_BANK`).
    """

    engine: Engine
    count: int
    base: int
    stride: int
    first_token: int
    tokens: int
    first_channel: int
    channels: int
    skip: int = 0  #: elements of the first word in front of the part
    index: tuple[int, ...] = ()  #: leading axes of the tensor (head)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "engine": self.engine.name,
            "count": self.count,
            "base": self.base,
            "stride": self.stride,
            "first_token": self.first_token,
            "tokens": self.tokens,
            "first_channel": self.first_channel,
            "channels": self.channels,
            "skip": self.skip,
            "index": list(self.index),
        }


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """One tensor that the graph names and the chip materialises; its parts cover it once."""

    name: str
    shape: tuple[int, ...]  #: [..., tokens, channels]
    dtype: str  #: "int8", "uint8" or "int16"
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "parts": [part.to_json() for part in self.parts],
        }


@dataclass(frozen=True, kw_only=True)
class Program:
    """Everything that a host needs to run a model on a design, and a test to look inside.

    ``image`` is the memory image: the instructions (BEGIN to END) from byte 0, then everything that
    loads read. The input region holds the image uint8 [H, W, channels] from its start; the output
    region receives ``classes`` int16 logits, little endian, from its start; of several
    ``frames`` each has as large a part of both regions, in their order. A *skeleton* program
    has no image bytes: it is for the cycle model only.
    """

    config: AcceleratorConfig
    instructions: tuple[Instruction, ...]
    image: bytes
    input_shape: tuple[int, int, int]
    input_bytes: int
    output_bytes: int
    classes: int
    boundaries: tuple[Boundary, ...]
    macs: int  #: multiply-accumulates of the graph's matmuls per frame, no padding
    frames: int = 1  #: of a START; with several every boundary has one more axis in front
    labels: tuple[str, ...] = field(default=())  #: operation of every instruction, for reports

    @property
    def skeleton(self) -> bool:
        """Whether the image bytes are left out."""
        return not self.image

    @property
    def weight_bytes(self) -> int:
        """Packed weights that a frame streams, padding to beats included."""
        beats = sum(
            i["tiles"] * i["weight_beats"] for i in self.instructions if i.opcode == "LOAD_TILES"
        )
        return beats * self.config.wide_beat_bits // 8 // self.frames

    def boundaries_json(self) -> dict[str, Any]:
        """The boundary table as the simulation harness reads it."""
        return {
            "schema": BOUNDARY_SCHEMA,
            "schema_version": BOUNDARY_SCHEMA_VERSION,
            "tensors": [boundary.to_json() for boundary in self.boundaries],
        }

    def boundaries_bytes(self) -> bytes:
        """The boundary table's file."""
        return (json.dumps(self.boundaries_json(), separators=(",", ":")) + "\n").encode()
