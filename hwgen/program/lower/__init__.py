# SPDX-License-Identifier: Apache-2.0
"""Integer graph -> program: tiles, buffers, schedule, instructions, packed memory image.

One module per kind of operation, which registers itself; :mod:`.context` has what they share,
:mod:`.product` the one way to write a matmul's instructions. Words used here: a *block* is a range
of tokens
(:func:`hwgen.program.buffer_plan.row_blocks`); the *head* of a layer are its first tiles, issued
block by block because the block behind is still in LayerNorm; its *tail* are its last tiles, issued
block by block so that the next LayerNorm can begin with the first block; between them a tile's
weights serve all tokens at once.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from hwgen.config import AcceleratorConfig, softmax_fields, value_text
from hwgen.errors import ConfigError
from hwgen.graph.ops import Softmax
from hwgen.program.buffer_plan import GraphLike, plan_buffers
from hwgen.program.lower.context import Lowering, lower_operation
from hwgen.program.lower.frames import repeat
from hwgen.program.lower.product import store
from hwgen.program.program import Program
from hwgen.program.schedule import Preference

# What lowers an operation registers itself.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def lower(
    graph: GraphLike,
    config: AcceleratorConfig,
    *,
    skeleton: bool = False,
    blocks: int | None = None,
    frames: int = 1,
    in_flight: int = 1,
    preference: Preference | None = None,
) -> Program:
    """Compile a graph for a design.

    Args:
        graph: the model; for a skeleton its arrays are looked at for their shapes only.
        config: the design.
        skeleton: leave the memory image out (for the cycle model).
        blocks: row blocks; None: by the rule.
        frames: images of a START.
        in_flight: how many of them are worked on at a time, 1 or 2.
        preference: of the order of the work; None: the canonical one.

    Raises:
        ConfigError: the design cannot run the model: another softmax, no columns for a layer's
            width, rows or channels beyond a unit's size.
        DoesNotFitError: a tensor does not fit its bank, which is said before anything is packed, or
            more instructions than the thresholds can count.
        ProgramError: a number beyond an instruction's field.
    """
    _check(graph, config)
    plan = plan_buffers(
        graph,
        rows=config.rows,
        value_columns=config.value_columns,
        tile_rows=config.tile_rows,
        word_keys=config.word_keys,
        blocks=blocks,
        frames=frames,
        in_flight=in_flight,
    )
    plan.check(config)
    low = Lowering(graph, config, plan, skeleton, frames, preference)
    for op in graph.ops:
        low.starts.append(len(low.items))
        lower_operation(op, low)
    store(low)
    repeat(low, frames, in_flight)
    return low.finish()


def _check(graph: GraphLike, config: AcceleratorConfig) -> None:
    spec = graph.spec
    length = config.row_length(spec.tokens)
    for op in graph.ops:
        if isinstance(op, Softmax):
            for name, value in softmax_fields(op.function).items():
                if value != getattr(config, name):
                    raise ConfigError(
                        f"{name} must be the graph's {value_text(value)},"
                        f" not {value_text(getattr(config, name))}",
                        where=op.name,
                        why="it is part of the softmax's function",
                        nearest=value_text(value),
                    )
    for name, demand, what in (
        (
            "max_row_length",
            length,
            f"{spec.tokens} tokens" + (f", {length} bytes" if length != spec.tokens else ""),
        ),
        ("max_channels", spec.width, f"width {spec.width}"),
    ):
        if demand > getattr(config, name):
            raise ConfigError(
                f"{name} must be at least the model's {what}, not {getattr(config, name)}",
                nearest=demand,
            )


__all__ = ["lower"]
