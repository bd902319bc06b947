# SPDX-License-Identifier: Apache-2.0
"""Random weights of a living network, for benchmarks and tests.

Living: LayerNorms with spread gammas and a few outlier channels, attention logits of sigma about
2, every block changes the residual stream, and the logits' standard deviation is about 2.5. Such a
network uses the codes of every integer boundary, so that an error anywhere shows.
"""

from __future__ import annotations

import numpy as np

from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.naming import expected_shapes
from hwgen.graph.spec import ModelSpec

LOGIT_SIGMA = 2.0  #: attention logits
HEAD_SIGMA = 2.5  #: classifier logits
BRANCH_SIGMA = 0.35  #: what a branch adds, relative to the stream in front of it


def random_state(spec: ModelSpec, seed: int) -> dict[str, np.ndarray]:
    """Return random tensors; three passes over two synthetic images set the branches' sizes."""
    rng = np.random.default_rng(seed)
    outliers = rng.choice(spec.width, max(1, spec.width // 64), replace=False)
    state: dict[str, np.ndarray] = {}
    for name, shape in expected_shapes(spec).items():
        z = rng.standard_normal(shape)
        if name == "patch_embed.proj.weight":
            z *= 1.5 / np.sqrt(spec.patch_values)
        elif ".norm" in name or name.startswith("norm"):
            z = (
                np.exp(0.3 * z) * rng.choice([-1, 1], shape, p=[0.1, 0.9])
                if "weight" in name
                else 0.2 * z
            )
            if "weight" in name:
                z[outliers] *= 2.5
        elif len(shape) == 2:
            # Spread rows: per-channel weight scales differ by a factor of about 4.
            z *= np.exp(0.35 * rng.standard_normal((shape[0], 1))) / np.sqrt(shape[1])
        elif name in ("pos_embed", "cls_token"):
            z *= 0.5
        else:
            z *= 0.1
        if name in ("patch_embed.proj.bias", "pos_embed"):
            z[..., outliers] *= 4  # the residual's outlier channels, as trained ViTs have them
        state[name] = z.astype(np.float32)
    _set_sizes(spec, state, synthetic_images(spec, 2, seed))
    return state


def _set_sizes(spec: ModelSpec, state: dict[str, np.ndarray], images: np.ndarray) -> None:
    """Scale q, k, proj, fc1, fc2 block by block, then the head, by what the float model shows."""
    for _ in range(3):
        seen: dict[str, float] = {}
        stream: list[np.ndarray] = []  # the residual stream as it was before

        def tap(
            name: str,
            x: np.ndarray,
            seen: dict[str, float] = seen,
            stream: list[np.ndarray] = stream,
        ) -> None:
            if name.endswith(".logits"):  # what softmax sees: variation within a row
                seen[name] = float(x.std(axis=-1).mean())
            elif name == "head":
                seen[name] = float(x.std())
            else:
                seen[name] = float(np.sqrt(np.mean(x * x)))
            if name.endswith((".residual1", ".residual2")):
                seen[f"{name}.added"] = float(np.sqrt(np.mean((x - stream[0]) ** 2)))
            if "residual" in name or name == "embedding":
                stream[:] = [x]

        model = FloatModel.from_state_dict(spec, state)
        model.forward(model.preprocess(images), tap=tap)
        before = "embedding"
        inner = spec.attention_width
        for i in range(spec.depth):
            block = f"blocks.{i}"
            gain = np.sqrt(LOGIT_SIGMA / seen[f"{block}.logits"])
            for part in ("weight", "bias"):
                if f"{block}.attn.qkv.{part}" in state:
                    state[f"{block}.attn.qkv.{part}"][: 2 * inner] *= gain
                state[f"{block}.mlp.fc1.{part}"] *= 1.2 / seen[f"{block}.fc1"]
            for layer, after in (("attn.proj", "residual1"), ("mlp.fc2", "residual2")):
                gain = BRANCH_SIGMA * seen[before] / seen[f"{block}.{after}.added"]
                for part in ("weight", "bias"):
                    state[f"{block}.{layer}.{part}"] *= gain
                before = f"{block}.{after}"
        for part in ("weight", "bias"):
            state[f"head.{part}"] *= HEAD_SIGMA / seen["head"]
