# SPDX-License-Identifier: Apache-2.0
"""What narrow weights cost: the embedded model at several widths, on images held back.

    python examples/quantise_and_evaluate.py

For a model of your own: a ``ModelSpec`` in the place of ``MODELS["digits"]``, your checkpoint, and
images uint8 [n, height, width, channels].
"""

from __future__ import annotations

import numpy as np

from hwgen import api

spec = api.MODELS["digits"]
model = api.FloatModel.from_state_dict(spec, api.load_checkpoint(api.DIGITS_CHECKPOINT))
train, _, images, labels = api.digits_dataset()

print("layers:", ", ".join(api.layer_names(spec)))
mixed = {name: 8 if name.endswith("qkv") else 3 for name in api.layer_names(spec)}
for name, weight_bits in (("8 bits", 8), ("4 bits", 4), ("3 bits, qkv at 8", mixed)):
    graph = api.quantise(model, train[:64], weight_bits=weight_bits)
    logits = api.run(graph, images)
    top1 = np.mean(logits.argmax(axis=1) == labels)
    print(f"{name:18} {100 * top1:.1f} % of {len(images)} images")

# Every boundary between two layers, of one image: what the hardware is compared with.
boundaries = api.run_boundaries(graph, images[0])
for name, tensor in list(boundaries.items())[:5]:
    print(f"{name:18} {tensor.dtype} {list(tensor.shape)}, {tensor.min()} to {tensor.max()}")
