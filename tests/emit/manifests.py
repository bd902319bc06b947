# SPDX-License-Identifier: Apache-2.0
"""A manifest that no real design belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from hwgen.boards import get_board
from hwgen.config import AcceleratorConfig
from hwgen.emit.manifest import Manifest, ProgramFacts


def manifest(files: Mapping[str, str], **extra: object) -> Manifest:
    """Of a design with the files ``x.v``, ``program.bin``, ``b.json``, ``g.safetensors``."""
    return Manifest(
        name="x",
        top="x",
        model="digits",
        board=get_board("zcu102"),
        config=AcceleratorConfig(),
        row_blocks=1,
        frames_per_start=1,
        frames_in_flight=1,
        program=ProgramFacts(
            image="program.bin",
            boundaries="b.json",
            graph="g.safetensors",
            instructions=3,
            input_shape=(28, 28, 1),
            input_bytes=784,
            output_bytes=32,
            classes=10,
            macs=1000,
            weight_bytes=2000,
            predicted_cycles=500,
            watchdog_cycles=1 << 20,
        ),
        simulation=("x.v",),
        synthesis=("x.v",),
        files=dict(files),
        extra=extra,
    )
