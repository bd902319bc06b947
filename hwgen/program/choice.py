# SPDX-License-Identifier: Apache-2.0
"""In which order the work of a program is done: the one that the cycle model says is fastest.

Preferences (:class:`hwgen.program.schedule.Preference`) differ by some per cent, and which one wins
follows from shapes, lanes and memory in ways that no rule has caught. So some are tried on
skeletons, which cost a fraction of a second each, and the program is compiled with the best one.
"""

from __future__ import annotations

from hwgen.config import AcceleratorConfig
from hwgen.errors import DoesNotFitError, ProgramError
from hwgen.program.buffer_plan import GraphLike, row_blocks
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.lower import lower
from hwgen.program.program import Program
from hwgen.program.schedule import Preference

_CANONICAL = (Preference(),)
#: One row block: nothing of an image's own hides its LayerNorm, but pieces of its layers hide its
#: softmax and another image's LayerNorm.
_ONE_BLOCK = (
    *_CANONICAL,
    Preference(pieces=2),
    Preference(pieces=6, attention=40),
)
_ONE_BLOCK_IN_FLIGHT = (
    *_ONE_BLOCK,
    Preference(pieces=3),
    Preference(pieces=4),
    Preference(pieces=3, attention=5),
)
_BLOCKS_IN_FLIGHT = (
    *_CANONICAL,
    Preference(pieces=1),
    Preference(linear=40),
)


def preferences(frames: int, in_flight: int, blocks: int) -> tuple[Preference, ...]:
    """What is tried, the canonical order first.

    One image by itself keeps that: an exploration compiles hundreds of such programs, and with
    several row blocks the others gain little.

    Args:
        frames: images of a START.
        in_flight: how many of them are worked on at a time.
        blocks: row blocks.
    """
    if frames == 1 or (in_flight == 1 and blocks > 1):
        return _CANONICAL
    if in_flight == 1:
        return _ONE_BLOCK
    return _ONE_BLOCK_IN_FLIGHT if blocks == 1 else _BLOCKS_IN_FLIGHT


def lower_fastest(
    graph: GraphLike,
    config: AcceleratorConfig,
    memory: MemoryModel,
    *,
    skeleton: bool = False,
    blocks: int | None = None,
    frames: int = 1,
    in_flight: int = 1,
) -> Program:
    """Compile a graph in the order that takes the fewest cycles; of equal ones the first.

    Args:
        graph: as :func:`hwgen.program.lower.lower` takes it.
        config: the design.
        memory: external memory, for the cycles.
        skeleton: leave the memory image out.
        blocks: row blocks; None: by the rule.
        frames: images of a START.
        in_flight: how many of them are worked on at a time, 1 or 2.

    Raises:
        ConfigError: the design cannot run the model.
        DoesNotFitError: a tensor does not fit its bank, or a program its counters.
        ProgramError: a number beyond an instruction's field.
    """

    def compiled(preference: Preference, *, skeleton: bool) -> Program:
        return lower(
            graph,
            config,
            skeleton=skeleton,
            blocks=blocks,
            frames=frames,
            in_flight=in_flight,
            preference=preference,
        )

    ranges = row_blocks(graph.spec.tokens, config.rows, config.tile_rows, blocks)
    first, *others = preferences(frames, in_flight, len(ranges))
    if not others:
        return compiled(first, skeleton=skeleton)
    best, program = first, compiled(first, skeleton=True)
    fewest = predict(program, memory).cycles
    for preference in others:
        try:
            tried = compiled(preference, skeleton=True)
            cycles = predict(tried, memory).cycles
        except (DoesNotFitError, ProgramError):
            continue  # more pieces are more instructions than the canonical order's
        if cycles < fewest:
            best, program, fewest = preference, tried, cycles
    return program if skeleton else compiled(best, skeleton=False)


__all__ = ["lower_fastest", "preferences"]
