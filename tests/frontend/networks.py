# SPDX-License-Identifier: Apache-2.0
"""A small network with random tensors, and what other implementations make of it."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.frontend.models import ModelSpec
from hwgen.frontend.naming import expected_shapes

SPEC = ModelSpec(
    name="small",
    image_size=32,
    patch=8,
    width=48,
    depth=3,
    heads=3,
    head_dim=16,
    mlp_hidden=96,
    classes=11,
)


def random_state(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors under the canonical names: biases, LayerNorms and position included."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in expected_shapes(spec).items():
        spread = 1.0 if "norm" not in name and len(shape) == 1 else 0.3
        spread = 2.0 / np.sqrt(shape[-1]) if len(shape) == 2 else spread
        centre = 1.0 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else 0.0
        state[name] = (centre + spread * rng.standard_normal(shape)).astype(np.float32)
    return state


def hugging_face(spec: ModelSpec):
    torch = pytest.importorskip("torch", reason="torch is not installed: no external reference")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: no external reference"
    )
    config = transformers.ViTConfig(
        hidden_size=spec.width,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.heads,
        intermediate_size=spec.mlp_hidden,
        image_size=spec.image_size,
        patch_size=spec.patch,
        num_labels=spec.classes,
        layer_norm_eps=spec.layer_norm_epsilon,
        hidden_act="gelu" if spec.activation == "gelu_erf" else "gelu_pytorch_tanh",
        attn_implementation="eager",
    )
    model = transformers.ViTForImageClassification(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 2:
                parameter.copy_(noise * 2 / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.5 * noise)
    return torch, model


def torch_forward(spec: ModelSpec, state: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The network once more in torch, from timm's names."""
    torch = pytest.importorskip("torch", reason="torch is not installed: no external reference")
    f = torch.nn.functional
    s = {n: torch.from_numpy(a) for n, a in state.items()}
    x = torch.from_numpy(images.transpose(0, 3, 1, 2))
    x = f.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=spec.patch)
    x = x.flatten(2).transpose(1, 2)
    if spec.class_token:
        x = torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + s["pos_embed"]
    for i in range(spec.depth):

        def p(name, i=i):
            return s.get(f"blocks.{i}.{name}")

        def norm(y, name, p=p):
            return f.layer_norm(
                y, (spec.width,), p(f"{name}.weight"), p(f"{name}.bias"), spec.layer_norm_epsilon
            )

        y = f.linear(norm(x, "norm1"), p("attn.qkv.weight"), p("attn.qkv.bias"))
        y = y.reshape(*y.shape[:2], 3, spec.heads, spec.head_dim).permute(2, 0, 3, 1, 4)
        y = f.scaled_dot_product_attention(*y).transpose(1, 2).flatten(2)
        y = f.linear(y, p("attn.proj.weight"), p("attn.proj.bias"))
        scale = p("ls1.gamma")
        x = x + (y if scale is None else y * scale)
        y = f.linear(norm(x, "norm2"), p("mlp.fc1.weight"), p("mlp.fc1.bias"))
        y = f.relu(y) if spec.activation == "relu" else f.gelu(y)
        y = f.linear(y, p("mlp.fc2.weight"), p("mlp.fc2.bias"))
        scale = p("ls2.gamma")
        x = x + (y if scale is None else y * scale)
    x = f.layer_norm(x, (spec.width,), s["norm.weight"], s["norm.bias"], spec.layer_norm_epsilon)
    x = x[:, 0] if spec.pooling == "class_token" else x[:, int(spec.class_token) :].mean(1)
    return f.linear(x, s["head.weight"], s["head.bias"]).numpy()
