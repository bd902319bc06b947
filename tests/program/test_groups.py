# SPDX-License-Identifier: Apache-2.0
"""Random designs of mixed column groups run random models of mixed widths, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.columns import ColumnGroup, Groups, parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run_boundaries
from hwgen.graph.ops import Weighted
from hwgen.numerics.softmax import SOLE_VEC, SoftmaxFunction
from hwgen.program.buffer_plan import preset_config
from hwgen.program.interpreter import run_program
from hwgen.program.lower import lower
from hwgen.sim.compare import compare

from .graphs import random_graph, random_image
from .test_lowering import MODELS

DESIGNS = 200


def _fabric(columns: int, bits: int) -> ColumnGroup:
    """Columns without DSP blocks: those of tables, which run no slices, where it may be."""
    return ColumnGroup("tables" if bits > 1 and columns % 4 == 0 else "digits", columns, bits)


def random_groups(rng: np.random.Generator, rows: int, most: int) -> Groups:
    """One to four groups of at most ``most`` columns, first ``rows / 2`` of 8 bits or more.

    Those of DSP blocks are at twice the clock where their number allows it. Pairs of columns in
    some of them, without which there may be too few for attention.
    """
    widths = sorted(rng.integers(1, 9, int(rng.integers(0, 4))).tolist(), reverse=True)
    columns = 2 * int(rng.integers(rows // 4, most // 2 + 1))
    first = ColumnGroup("dual" if columns % 8 else "pumped", columns, 8)
    rest = [_fabric(2 * int(rng.integers(1, most // 2 + 1)), bits) for bits in widths]
    if rng.integers(3) == 0:
        pairs = 4 * int(rng.integers(1, rows // 4 + 1))
        if columns - pairs // 2 >= 4 and rng.integers(2):
            first = ColumnGroup("dual", columns - pairs // 2, 8)
        narrow = [group for group in rest if group.weight_bits <= 4]
        rest = [ColumnGroup("digits", pairs, 4, paired=True), *narrow[:2]]
    return Groups((first, *rest))


def random_design(
    seed: int, rows: int | None = None, most: int | None = None
) -> tuple[IntegerGraph, AcceleratorConfig, int | None]:
    """A graph, a configuration that can run it, and its row blocks.

    ``most`` columns of a group, and a small softmax; twice as many as rows and the usual one where
    nothing is said.
    """
    rng = np.random.default_rng(seed)
    model = list(MODELS.values())[seed % len(MODELS)]
    rows = rows or int(rng.choice([16, 32]))
    layers = [op.name for op in random_graph(model).ops if isinstance(op, Weighted)]
    lanes = 8 if most else SOLE_VEC
    softmax = (SoftmaxFunction.sole(lanes), SoftmaxFunction.fractional())[rng.integers(2)]
    graph = random_graph(
        model,
        seed,
        weight_bits={name: int(rng.integers(1, 9)) for name in layers},
        softmax=softmax,
    )
    blocks = None if rng.integers(2) else int(rng.integers(1, 4))
    lanes_of_layernorm = [lanes for lanes in (rows // 8, rows // 4, rows // 2) if lanes >= 4]
    config = preset_config(
        graph,
        rows=rows,
        groups=random_groups(rng, rows, most or 2 * rows),
        blocks=blocks,
        softmax_vec=lanes,
        memory_ports=int(rng.integers(1, 5)),
        requantise_lanes=rows // int(rng.integers(1, 3)),
        layernorm_lanes=int(rng.choice(lanes_of_layernorm)),
    )
    try:  # lanes that are not rotated, where that will do
        still = config.replace(rotation=False)
        lower(graph, still, skeleton=True, blocks=blocks)
    except ConfigError:
        return graph, config, blocks
    return graph, still if rng.integers(2) else config, blocks


@pytest.mark.parametrize("start", range(0, DESIGNS, 20))
def test_random_designs_give_the_graphs_boundaries(start: int) -> None:
    for seed in range(start, start + 20):
        graph, config, blocks = random_design(seed)
        program = lower(graph, config, blocks=blocks)
        image = random_image(graph.spec, seed)
        expected = run_boundaries(graph, image)
        result = run_program(program, image, seed=seed if seed % 2 else None)
        compare(expected, result.boundaries, where=f"design {seed}")
        compare({"output": expected[graph.output.name][0]}, {"output": result.logits})


def test_a_layer_runs_where_it_takes_the_fewest_passes() -> None:
    """W8 on the wide columns or in two slices on all; narrow weights on all columns at once."""
    for groups, bits, columns, slices in (
        ("dual:16:8,digits:16:4", 4, 32, 1),
        ("dual:16:8,digits:16:4", 8, 16, 1),
        ("dual:16:8,digits:64:4", 8, 80, 2),
        ("dual:16:8,digits:64:2", 3, 80, 2),
        ("dual:16:8,tables:16:4", 4, 32, 1),
        ("dual:16:8,tables:64:4", 8, 16, 1),
        ("dual:16:8,digits:16:1", 1, 32, 1),
        ("dual:16:8,digits:16:1", 2, 16, 1),
    ):
        model = MODELS["tiny"]
        graph = random_graph(model, weight_bits=bits)
        config = preset_config(graph, rows=16, groups=parse_groups(groups))
        program = lower(graph, config, skeleton=True)
        label = "blocks.0.fc1"
        (drain, *_) = (
            i
            for i, name in zip(program.instructions, program.labels, strict=True)
            if name == label and i.opcode == "DRAIN"
        )
        (matmul, *_) = (
            i
            for i, name in zip(program.instructions, program.labels, strict=True)
            if name == label and i.opcode == "MATMUL"
        )
        assert (drain["tile_columns"], matmul["slices"]) == (columns, slices), (groups, bits)
