# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.models import ModelSpec
from hwgen.frontend.quantiser import quantise
from hwgen.graph.liveness import check_alive

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_random_checkpoint.py"
SPEC = ModelSpec(name="r", image_size=64, width=96, depth=3, heads=3, head_dim=32, mlp_hidden=192)


def test_random_checkpoints_are_alive_and_seeded():
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("make_random_checkpoint", SCRIPT)
    )
    module.__spec__.loader.exec_module(module)
    state = module.random_state(SPEC, 3)
    again = module.random_state(SPEC, 3)
    assert all(np.array_equal(state[name], again[name]) for name in state)
    graph = quantise(FloatModel.from_state_dict(SPEC, state), synthetic_images(SPEC, 8, 3))
    found = check_alive(graph, synthetic_images(SPEC, 8, 4))
    assert found.logit_spread >= 1.5
