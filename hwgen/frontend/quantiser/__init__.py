# SPDX-License-Identifier: Apache-2.0
"""Post-training static quantisation: FloatModel and calibration images -> IntegerGraph.

NumPy only. Weights symmetric per output channel, int8 activations with one static scale per
tensor, one int16 residual stream, power-of-two factors (PTF, FQ-ViT, IJCAI 2022) in front of every
LayerNorm.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

import numpy as np

from hwgen.errors import UsageError
from hwgen.frontend.calibration import Calibration, calibrate
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.quantiser.builder import Builder, Squares, quantise_operation
from hwgen.frontend.quantiser.weights import quantise_weights
from hwgen.graph.graph import GraphMetadata, IntegerGraph
from hwgen.graph.network import in_encoder, layer_names, network_of
from hwgen.graph.ops import last_uses
from hwgen.graph.spec import ModelSpec
from hwgen.graph.widths import NARROWEST, WIDEST, Width, narrowest
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction

__all__ = ["Calibration", "calibrate", "layer_names", "quantise", "quantise_weights"]

# What quantises an operation registers itself.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

#: With a layer this narrow the quantiser tries with and without bias correction.
_UNCERTAIN_BITS = 2


def quantise(
    model: FloatModel,
    images: np.ndarray | Calibration,
    *,
    weight_bits: int | Mapping[str, Width] = 8,
    squares: Squares = "compressed",
    softmax: SoftmaxFunction = DEFAULT_FUNCTION,
    image_source: str = "unknown",
) -> IntegerGraph:
    """Return the integer graph of a model.

    Args:
        model: the float model.
        images: calibration images uint8 [n, H, W, channels], or their :func:`calibrate` result.
        weight_bits: 1..8. A number holds for the encoder's matrices (patch embedding and head stay
            at 8); a mapping from :func:`layer_names` to widths may name any layer, the others
            have 8.
        squares: AILayerNorm's mode.
        softmax: the softmax of the network; it cannot be changed afterwards, for everything behind
            it is calibrated with it.
        image_source: where the images come from, for the reports.

    Raises:
        UsageError: an unknown layer or an illegal width.
        CheckpointError: a weight or bias that the integer formats cannot represent.
    """
    widths = _layer_widths(model.spec, weight_bits)
    statistics = images if isinstance(images, Calibration) else calibrate(model, images)
    network = network_of(model.spec, weight_bits=widths, softmax=softmax)
    builder = Builder(model, statistics, network, squares)
    _network(builder)
    if min(map(narrowest, widths.values())) <= _UNCERTAIN_BITS:
        # The means of the integer network now differ so much from the float one's that correcting
        # them may do harm (measured at W1: +24 % of top-1 on one model, -16 % on another).
        plain = Builder(model, statistics, network, squares, correct_bias=False)
        _network(plain)
        if plain.loss() < builder.loss():
            builder = plain
    metadata = GraphMetadata(
        image_source=image_source,
        calibration_images=statistics.images,
        checkpoint_digest=checkpoint_digest(model),
        squares=squares,
        warnings=tuple(builder.warnings),
        notes=model.notes,
        logit_saturation=builder.logit_saturation,
        assumed=model.assumed,
    )
    return IntegerGraph(
        spec=model.spec, ops=tuple(builder.ops), tensors=builder.tensors, metadata=metadata
    )


def _network(builder: Builder) -> None:
    """Quantise the whole network, in its order."""
    ops = builder.network.ops
    for op, freed in zip(ops, last_uses(ops), strict=True):
        quantise_operation(op, builder)
        for name in freed:
            del builder.values[name]


def _layer_widths(spec: ModelSpec, weight_bits: int | Mapping[str, Width]) -> dict[str, Width]:
    names = layer_names(spec)
    widths: dict[str, Width] = dict.fromkeys(names, WIDEST)
    if isinstance(weight_bits, Mapping):
        for name in weight_bits:
            if name not in widths:
                near = difflib.get_close_matches(name, names, n=3) or names[:3]
                raise UsageError(
                    f"Weight widths must be given for layers of the model, not {name!r};"
                    f" the nearest: {', '.join(near)}"
                )
        widths.update(weight_bits)
    else:
        widths.update(dict.fromkeys(filter(in_encoder, names), weight_bits))
    for name, width in widths.items():
        for bits in [bits for bits, _ in width] if isinstance(width, tuple) else [width]:
            if type(bits) is not int or not NARROWEST <= bits <= WIDEST:
                raise UsageError(
                    f"Weight width of {name!r} must be an integer in {NARROWEST}..{WIDEST},"
                    f" not {bits!r}"
                )
    return widths


def checkpoint_digest(model: FloatModel) -> str:
    """SHA-256 of the tensors: canonical names and float32 values."""
    digest = hashlib.sha256()
    for name in sorted(model.tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(model.tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()
