# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the RTL: three models at three memory settings, none used to fit it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwgen.columns import dense
from hwgen.frontend.models import ModelSpec, get_model
from hwgen.graph.interpreter import run
from hwgen.program.buffer_plan import preset_config
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.lower import lower
from hwgen.sim.frame import Memory, run_frames

from .frames import frame_setup
from .graphs import random_graph, random_image

#: Latency in cycles and bytes per cycle.
MEMORIES = ((100, 46.67), (50, 16.0), (200, 24.0))
#: Most that the model may be off, relative.
MODEL_ERROR = 0.02
#: A model of a user's: 50 tokens, 96 wide, 3 blocks.
DESCRIBED = {
    "name": "described",
    "image_size": 28,
    "channels": 1,
    "patch": 4,
    "width": 96,
    "depth": 3,
    "heads": 3,
    "head_dim": 32,
    "mlp_hidden": 384,
    "classes": 10,
    "mean": [0.5],
    "std": [0.5],
}
#: Rows, columns, memory ports.
DESIGNS = {"deit_tiny": (32, 32, 2), "described": (16, 16, 1), "digits": (16, 16, 1)}


def model_of(name: str, folder: Path) -> ModelSpec:
    """A known model, or the one described by a JSON file."""
    if name != "described":
        return get_model(name)
    file = folder / "described.json"
    file.write_text(json.dumps(DESCRIBED))
    return get_model(str(file))


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize("name", DESIGNS)
def test_predicted_and_simulated_cycles(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of(name, tmp_path)
    graph = random_graph(model, seed=5)
    rows, columns, ports = DESIGNS[name]
    config = preset_config(graph, rows=rows, groups=dense(columns), memory_ports=ports)
    program = lower(graph, config)
    # Before the simulation: the prediction knows nothing of it.
    predicted = [predict(program, MemoryModel(b, latency)).cycles for latency, b in MEMORIES]
    setup = frame_setup(program, config)
    image = random_image(model, 1)[None]
    expected = run(graph, image)[0]
    rows_of_table = []
    for (latency, bandwidth), cycles in zip(MEMORIES, predicted, strict=True):
        frame = run_frames(setup, image, memory=Memory(latency, bandwidth)).frames[0]
        logits = frame.output[: 2 * program.classes].view("<i2")
        np.testing.assert_array_equal(logits, expected)
        rows_of_table.append((latency, bandwidth, frame.cycles, cycles))
    with capsys.disabled():
        print(f"\n{name}, {rows} x {columns}, ports: {ports}")
        for latency, bandwidth, simulated, cycles in rows_of_table:
            error = 100 * (cycles - simulated) / simulated
            print(
                f"  {latency:4} cycles, {bandwidth:5} B/cycle: simulated {simulated:9,},"
                f" predicted {cycles:9,}, {error:+.2f} %"
            )
    for latency, bandwidth, simulated, cycles in rows_of_table:
        assert abs(cycles - simulated) <= MODEL_ERROR * simulated, (latency, bandwidth)
