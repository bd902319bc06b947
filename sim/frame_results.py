# SPDX-License-Identifier: Apache-2.0
"""What simulations of frames return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwgen.isa.instructions import Engine
from hwgen.isa.registers import COUNTERS, Cause
from hwgen.sim.boundaries import Boundary, Part


@dataclass(frozen=True)
class Frame:
    """Results of a START: of one image, or of several, one axis more in every boundary."""

    output: npt.NDArray[np.uint8]  #: [output_bytes] as stored
    cycles: int  #: from the START write to the interrupt, seen at the pins
    counters: Mapping[str, int]  #: the accelerator's own, by name
    boundaries: Mapping[str, npt.NDArray[np.integer]]  #: tensors by name, in network order
    completions: Mapping[Engine, npt.NDArray[np.int64]]  #: cycle of each completion since START
    #: Cycle since START in which each engine took each of its instructions.
    accepted: Mapping[Engine, npt.NDArray[np.int64]]
    #: Parts of every tensor, and the cycle since START in which each word of it was last written
    #: before it was recorded: [slices, tokens], 0 if it was not.
    written: Mapping[str, Sequence[tuple[Part, npt.NDArray[np.int64]]]]
    rows: int  #: of the array

    def written_in(self, name: str, index: tuple[int, ...]) -> int | None:
        """The cycle since START in which an element of a tensor was written; None if in none."""
        *leading, token, channel = index
        for part, cycles in self.written[name]:
            row, column = token - part.first_token, channel - part.first_channel
            inside = 0 <= row < part.tokens and 0 <= column < part.channels
            if inside and part.index == tuple(leading):
                size = self.boundaries[name].dtype.itemsize
                return (
                    int(cycles[(part.skip + column) * size // part.word_bytes(self.rows), row])
                    or None
                )
        return None


@dataclass(frozen=True)
class DamagedFrame:
    """What became of a frame while one bit of the memory image was wrong."""

    bit: int  #: of the image, bit 0 lowest in byte 0
    cycles: int  #: from the START write to the interrupt
    cause: Cause
    address: int  #: CAUSE_ADDRESS
    output: npt.NDArray[np.uint8]  #: [output_bytes]; what was not stored is 0xA5


@dataclass(frozen=True)
class FrameResults:
    """Results of all images."""

    frames: tuple[Frame, ...]
    wall_seconds: float  #: of the simulation, without the build
    changed_files: tuple[str, ...] = ()  #: files that are not the generated ones any more

    @property
    def cycles(self) -> list[int]:
        """Cycles per image."""
        return [frame.cycles for frame in self.frames]

    def logits(self, classes: int) -> npt.NDArray[np.int16]:
        """Logits int16 [images, classes]."""
        outputs = np.stack([frame.output[: 2 * classes] for frame in self.frames])
        return outputs.view("<i2").astype(np.int16)


def frame_of(
    boundaries: Sequence[Boundary],
    rows: int,
    lines: list[list[int]],
    output: npt.NDArray[np.uint8],
    record: npt.NDArray[np.uint8],
    write_cycles: npt.NDArray[np.int64],
) -> Frame:
    """A frame from the harness's four lines and what it wrote.

    Args:
        boundaries: of the design's frames.
        rows: of the array.
        lines: result, counters, completions, accepted.
        output: content of the output region.
        record: words of all parts of all boundaries.
        write_cycles: the cycle in which each of these words was written.
    """
    result, counters, completions, accepted = lines
    cycles = result[2]
    tensors: dict[str, npt.NDArray[np.integer]] = {}
    written: dict[str, list[tuple[Part, npt.NDArray[np.int64]]]] = {}
    position = word = 0
    for boundary in boundaries:
        words = []
        times = written[boundary.name] = []
        for part in boundary.parts:
            slices = part.slices(rows, boundary.dtype.itemsize)
            shape = (slices, part.tokens, part.word_bytes(rows))
            size = int(np.prod(shape))
            words.append(record[position : position + size].reshape(shape))
            position += size
            cycles_of_part = write_cycles[word : word + slices * part.tokens]
            times.append((part, cycles_of_part.reshape(shape[:2])))
            word += slices * part.tokens
        tensors[boundary.name] = boundary.assemble(words)
    names = [name for name, _ in COUNTERS]
    return Frame(
        output=output,
        cycles=cycles,
        counters=dict(zip(names, counters, strict=True)),
        boundaries=tensors,
        completions=_by_engine(completions),
        accepted=_by_engine(accepted),
        written=written,
        rows=rows,
    )


def _by_engine(rest: list[int]) -> dict[Engine, npt.NDArray[np.int64]]:
    """Lists of cycles, each behind its length, in the order of the engines."""
    times: dict[Engine, npt.NDArray[np.int64]] = {}
    for engine in Engine:
        if not rest:
            break
        times[engine] = np.array(rest[1 : 1 + rest[0]], np.int64)
        rest = rest[1 + rest[0] :]
    return times
