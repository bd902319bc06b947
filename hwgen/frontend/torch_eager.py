# SPDX-License-Identifier: Apache-2.0
"""The float model in torch's eager mode, float32: what the integer graph's speed is held against.

As timm computes it: a strided convolution, fused attention, one call per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwgen.errors import UsageError
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.naming import parameter_of
from hwgen.graph.network import network_of
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Softmax,
    last_uses,
)


class TorchEager:
    """One network on so many threads."""

    def __init__(self, model: FloatModel, threads: int) -> None:
        """Copy the weights.

        Raises:
            UsageError: torch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise UsageError(
                "The comparison needs torch, which is not installed; install hwgen[torch]"
            ) from error
        torch.set_num_threads(threads)
        self._torch = torch
        self._spec = model.spec
        self._ops = network_of(model.spec).ops
        self._tensors = {name: torch.tensor(array) for name, array in model.tensors.items()}
        self.version: str = torch.__version__

    def prepare(self, pixels: np.ndarray) -> Any:
        """Normalised images [n, H, W, channels] as torch takes them."""
        planes = pixels.astype(np.float32).transpose(0, 3, 1, 2)
        return self._torch.tensor(np.ascontiguousarray(planes))

    def run(self, images: Any, batch: int) -> np.ndarray:
        """Logits float32 [n, classes] of prepared images, so many at a time."""
        with self._torch.inference_mode():
            parts = [self._forward(part) for part in self._torch.split(images, batch)]
            logits: np.ndarray = self._torch.cat(parts).numpy()
        return logits

    def _forward(self, images: Any) -> Any:
        values: dict[str, Any] = {}
        for op, freed in zip(self._ops, last_uses(self._ops), strict=True):
            values |= self._compute(op, values, images)
            for name in freed:
                values.pop(name, None)
        return values[self._ops[-1].output][:, 0]

    def _compute(self, op: Op, values: Mapping[str, Any], images: Any) -> dict[str, Any]:
        """The outputs of one operation; attention is computed by its last one."""
        spec, s, f = self._spec, self._tensors, self._torch.nn.functional
        parameter = parameter_of(op.name)
        weight, bias = s.get(f"{parameter}.weight"), s.get(f"{parameter}.bias")
        match op:
            case ImageCodes():
                return {op.output: images}
            case Embedding():
                x = f.conv2d(values[op.input], weight, bias, stride=spec.patch)
                x = x.flatten(2).transpose(1, 2)
                if op.class_token:
                    x = self._torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1)
                return {op.output: x + s["pos_embed"]}
            case LayerNorm():
                x = values[op.input][:, : op.rows]
                y = f.layer_norm(x, (spec.width,), weight, bias, spec.layer_norm_epsilon)
                return {op.output: y}
            case QueryKeyValue():
                y = f.linear(values[op.input], weight, bias)
                return dict(zip(op.outputs, y.chunk(3, -1), strict=True))
            case AttentionLogits():
                return {op.output: (values[op.query], values[op.key])}
            case Softmax():
                return {op.output: values[op.input]}
            case AttentionValues():
                operands = (*values[op.codes], values[op.value])
                heads = (y.unflatten(-1, (op.heads, -1)).transpose(1, 2) for y in operands)
                y = f.scaled_dot_product_attention(*heads)
                return {op.output: y.transpose(1, 2).flatten(2)}
            case Linear():
                y = f.linear(values[op.input], weight, bias)
                if op.table is not None:
                    y = self._activation(y)
                if op.residual is not None:
                    y = values[op.residual] + y
                return {op.output: y}
            case MeanPool():
                return {op.output: values[op.input][:, op.first :].mean(1, keepdim=True)}
            case _:
                raise TypeError(f"Operation must be a known one, not {type(op).__name__}")

    def _activation(self, y: Any) -> Any:
        kind, f = self._spec.activation, self._torch.nn.functional
        if kind == "relu":
            return f.relu(y)
        return f.gelu(y, approximate="tanh" if kind == "gelu_tanh" else "none")
