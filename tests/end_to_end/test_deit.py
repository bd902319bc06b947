# SPDX-License-Identifier: Apache-2.0
"""DeiT at full geometry, from a random living checkpoint through the whole flow.

Minutes each, of DeiT-Base about ten; how long on the wall is a matter of the machine and asserted
nowhere.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.boards import get_board
from hwgen.flow import Settings, run_all
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.models import ModelSpec, get_model
from hwgen.graph.liveness import check_alive
from hwgen.graph.safetensors_file import write_safetensors
from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_random_checkpoint.py"
#: Of an encoder block: LayerNorm, q, k, v, logits, softmax and its rows' shifts, attention, and so
#: on; 12 blocks.
BOUNDARIES = 148
#: The array waits for the units behind it: requantise, softmax, LayerNorm.
BEHIND = ("accumulator", "drain", "softmax", "layernorm")
LEAST_UTILISATION = 0.85
MOST_WAITING = 0.02
MODEL_ERROR = 0.02
LEAST_LOGIT_SPREAD = 1.5
LEAST_CODES, LEAST_SOFTMAX_CODES, MOST_SATURATION = 64, 8, 0.01
#: Not those of the flow, which calibrates on 1 and simulates 2.
LIVE_SEED = 7


def random_state(spec: ModelSpec, seed: int) -> dict[str, np.ndarray]:
    """The script's tensors."""
    found = importlib.util.spec_from_file_location("make_random_checkpoint", SCRIPT)
    assert found is not None and found.loader is not None
    module: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    state: dict[str, np.ndarray] = module.random_state(spec, seed)
    return state


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize("model", ["deit_tiny", "deit_small", "deit_base"])
def test_whole_frame(model: str, tmp_path: Path) -> None:
    spec = get_model(model)
    checkpoint = tmp_path / "checkpoint.safetensors"
    write_safetensors(checkpoint, random_state(spec, 1), {"format": "pt"})
    evidence = run_all(
        Request.of(model, checkpoint=checkpoint),
        Settings(board=get_board("zcu102"), out=tmp_path / "design"),
        Reporter(),
    )

    # A dead network would match anything.
    graph = evidence.folder.graph()
    alive = check_alive(graph, synthetic_images(spec, 2, LIVE_SEED))
    assert alive.logit_spread >= LEAST_LOGIT_SPREAD
    assert len(alive.boundaries) == BOUNDARIES
    for boundary in alive.boundaries:
        least = LEAST_SOFTMAX_CODES if "softmax" in boundary.name else LEAST_CODES
        if boundary.name.endswith(".shift"):
            least = 2
        assert boundary.codes >= least, boundary
        assert boundary.saturation < MOST_SATURATION, boundary

    result = evidence.simulation
    assert result is not None
    assert result.matches_reference and not result.changed_files
    assert result.layers_checked == BOUNDARIES
    assert result.macs_per_cycle >= 1024
    assert (result.memory_latency, round(result.memory_bandwidth, 1)) == (100, 46.7)
    assert result.array_utilisation >= LEAST_UTILISATION
    waiting = sum(result.stall_cycles[cause] for cause in BEHIND)
    assert waiting <= MOST_WAITING * result.cycles, result.stall_cycles
    assert result.predicted_cycles is not None
    assert abs(result.predicted_cycles - result.cycles) <= MODEL_ERROR * result.cycles
