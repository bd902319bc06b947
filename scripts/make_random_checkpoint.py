#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a random but living checkpoint of a known model (NumPy only; timm's tensor names).

Living: LayerNorms with spread gammas and a few outlier channels, attention logits of sigma about
2, every block changes the residual stream, and the logits' standard deviation is about 2.5. Such a
network uses the codes of every integer boundary, so that an error anywhere shows. ``--check``
quantises it on synthetic images and prints how the boundaries use their codes.

Usage: ``python scripts/make_random_checkpoint.py deit_tiny -o F.safetensors --seed 1``
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from hwgen.errors import HwgenError
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.models import ModelSpec, get_model
from hwgen.frontend.naming import expected_shapes
from hwgen.frontend.quantiser import quantise
from hwgen.graph.liveness import LEAST_LOGIT_SPREAD, check_alive, measure_liveness
from hwgen.graph.safetensors_file import write_safetensors

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

        def tap(name: str, x: np.ndarray, seen: dict[str, float] = seen) -> None:
            if name.endswith(".logits"):  # what softmax sees: variation within a row
                seen[name] = float(x.std(axis=-1).mean())
            elif name == "head":
                seen[name] = float(x.std())
            else:
                seen[name] = float(np.sqrt(np.mean(x * x)))
            if name.endswith((".residual1", ".residual2")):
                seen[f"{name}.added"] = float(np.sqrt(np.mean((x - tap.last) ** 2)))  # type: ignore[attr-defined]
            if "residual" in name or name == "embedding":
                tap.last = x  # type: ignore[attr-defined]

        model = FloatModel.from_state_dict(spec, state)
        model.forward(model.preprocess(images), tap=tap)
        before = "embedding"
        inner = spec.attention_width
        for i in range(spec.depth):
            block = f"blocks.{i}"
            gain = np.sqrt(LOGIT_SIGMA / seen[f"{block}.logits"])
            for part in ("weight", "bias"):
                state[f"{block}.attn.qkv.{part}"][: 2 * inner] *= gain
                state[f"{block}.mlp.fc1.{part}"] *= 1.2 / seen[f"{block}.fc1"]
            for layer, after in (("attn.proj", "residual1"), ("mlp.fc2", "residual2")):
                gain = BRANCH_SIGMA * seen[before] / seen[f"{block}.{after}.added"]
                for part in ("weight", "bias"):
                    state[f"{block}.{layer}.{part}"] *= gain
                before = f"{block}.{after}"
        for part in ("weight", "bias"):
            state[f"head.{part}"] *= HEAD_SIGMA / seen["head"]


def main() -> int:
    """Write the checkpoint; print the numbers with ``--check``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="a known model's name or a JSON file")
    parser.add_argument("-o", "--output", required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="quantise and print the boundaries")
    options = parser.parse_args()
    try:
        spec = get_model(options.model)
        state = random_state(spec, options.seed)
        write_safetensors(options.output, state, {"format": "pt"})
        if options.check:
            model = FloatModel.from_state_dict(spec, state)
            graph = quantise(
                model, synthetic_images(spec, 8, options.seed), image_source="synthetic"
            )
            images = synthetic_images(spec, 4, options.seed + 1)
            found = measure_liveness(graph, images)
            for row in found.boundaries:
                print(f"{row.name:24} {row.codes:6} codes  {100 * row.saturation:7.3f} % saturated")
            print(
                f"logits: sigma {found.logit_spread:.2f} (at least {LEAST_LOGIT_SPREAD}),", end=" "
            )
            print(f"over images {found.image_spread:.2f}")
            float_logits = model.classify(images)
            from hwgen.graph.interpreter import run

            error = run(graph, images) * graph.output.scale - float_logits
            ratio = np.mean(float_logits**2) / np.mean(error**2)
            print(f"logit SQNR against float: {10 * np.log10(ratio):.1f} dB")
            check_alive(graph, images)
    except HwgenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
