#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a random but living checkpoint of a known model (NumPy only; timm's tensor names).

What makes it living: :mod:`hwgen.frontend.random_weights`. ``--check`` quantises it on synthetic
images and prints how the boundaries use their codes.

Usage: ``python scripts/make_random_checkpoint.py deit_tiny -o F.safetensors --seed 1``
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from hwgen.errors import HwgenError
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.models import get_model
from hwgen.frontend.quantiser import quantise
from hwgen.frontend.random_weights import random_state
from hwgen.graph.liveness import LEAST_LOGIT_SPREAD, check_alive, measure_liveness
from hwgen.graph.safetensors_file import write_safetensors


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
