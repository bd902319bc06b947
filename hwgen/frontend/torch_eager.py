# SPDX-License-Identifier: Apache-2.0
"""The float model in torch's eager mode, float32: what the integer graph's speed is held against.

As timm computes it: a strided convolution, fused attention, one call per layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwgen.errors import UsageError
from hwgen.frontend.float_model import FloatModel


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

    def _forward(self, x: Any) -> Any:
        spec, s, f = self._spec, self._tensors, self._torch.nn.functional

        def norm(y: Any, name: str) -> Any:
            return f.layer_norm(
                y, (spec.width,), s[f"{name}.weight"], s[f"{name}.bias"], spec.layer_norm_epsilon
            )

        def linear(y: Any, name: str) -> Any:
            return f.linear(y, s[f"{name}.weight"], s.get(f"{name}.bias"))

        kernel, bias = s["patch_embed.proj.weight"], s["patch_embed.proj.bias"]
        x = f.conv2d(x, kernel, bias, stride=spec.patch).flatten(2).transpose(1, 2)
        if spec.class_token:
            x = self._torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1)
        x = x + s["pos_embed"]
        for i in range(spec.depth):
            block = f"blocks.{i}"
            y = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
            y = y.reshape(*y.shape[:2], 3, spec.heads, spec.head_dim).permute(2, 0, 3, 1, 4)
            y = f.scaled_dot_product_attention(*y).transpose(1, 2).flatten(2)
            x = x + linear(y, f"{block}.attn.proj")
            y = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            if spec.activation == "relu":
                y = f.relu(y)
            else:
                y = f.gelu(y, approximate="tanh" if spec.activation == "gelu_tanh" else "none")
            x = x + linear(y, f"{block}.mlp.fc2")
        if spec.pooling == "class_token":
            x = norm(x[:, 0], "norm")
        else:
            x = norm(x, "norm")[:, int(spec.class_token) :].mean(1)
        return linear(x, "head")
