#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the embedded default model: a small ViT on scikit-learn's 8x8 handwritten digits.

Needs torch and scikit-learn. Writes ``hwgen/models/digits.npz`` (the data with their fixed split),
``digits.safetensors`` (timm's tensor names) and ``README.md`` (what was measured). Run from the
repository's root: ``python scripts/train_digits.py``. Takes under five minutes on one core.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.frontend.quantiser import quantise
from hwgen.graph.interpreter import run
from hwgen.graph.safetensors_file import write_safetensors
from hwgen.models import DIGITS_CHECKPOINT, DIGITS_DATA

SPEC = MODELS["digits"]
TEST_PER_CLASS = 50


class Block(nn.Module):
    """One pre-norm encoder block with timm's parameter names."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        width, inner = SPEC.width, SPEC.attention_width
        self.norm1 = nn.LayerNorm(width, eps=SPEC.layer_norm_epsilon)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * inner), "proj": nn.Linear(inner, width)}
        )
        self.norm2 = nn.LayerNorm(width, eps=SPEC.layer_norm_epsilon)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, SPEC.mlp_hidden), "fc2": nn.Linear(SPEC.mlp_hidden, width)}
        )
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output [n, tokens, width]."""
        n, tokens, _ = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(n, tokens, 3, SPEC.heads, SPEC.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(n, tokens, SPEC.attention_width)
        x = x + self.drop(self.attn["proj"](y))
        return x + self.drop(self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x)))))


class SmallViT(nn.Module):
    """The geometry of ``MODELS["digits"]`` with timm's parameter names."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        proj = nn.Conv2d(SPEC.channels, SPEC.width, SPEC.patch, stride=SPEC.patch)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, SPEC.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, SPEC.tokens, SPEC.width))
        self.blocks = nn.ModuleList(Block() for _ in range(SPEC.depth))
        self.norm = nn.LayerNorm(SPEC.width, eps=SPEC.layer_norm_epsilon)
        self.head = nn.Linear(SPEC.width, SPEC.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes]."""
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def write_data(seed: int) -> None:
    """Write the fixed stratified split: 50 images of each class are held out."""
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.uint8)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    test = np.concatenate([order[labels[order] == c][:TEST_PER_CLASS] for c in range(10)])
    test = rng.permutation(test)
    train = np.setdiff1d(order, test)
    np.savez_compressed(
        DIGITS_DATA,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images [n, 1, 8, 8] moved by -1, 0 or 1 pixels in each direction, zeros moving in."""
    low = (0.0 - SPEC.mean[0]) / SPEC.std[0]
    padded = functional.pad(x, (1, 1, 1, 1), value=low)
    moves = torch.randint(0, 3, (len(x), 2), generator=generator)
    rows = moves[:, :1] + torch.arange(SPEC.image_size)
    columns = moves[:, 1:] + torch.arange(SPEC.image_size)
    index = torch.arange(len(x))[:, None, None]
    return padded[index, 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(epochs: int, seed: int) -> SmallViT:
    """Return the trained model; seeded, one thread, so that a rerun gives the same weights."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    images, labels, _, _ = digits_dataset()
    x = torch.from_numpy((images / 255.0 - SPEC.mean[0]) / SPEC.std[0]).float().permute(0, 3, 1, 2)
    y = torch.from_numpy(labels)
    model = SmallViT()
    steps = epochs * -(-len(x) // 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.15
    )
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x), generator=generator).split(64):
            logits = model(shifted(x[batch], generator))
            loss = functional.cross_entropy(logits, y[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(x):.4f}", flush=True)
    return model.eval()


def measure() -> dict[str, float]:
    """Return the float and integer top-1 of the saved checkpoint on the held-out images."""
    train_images, _, images, labels = digits_dataset()
    model = FloatModel.from_state_dict(SPEC, load_checkpoint(DIGITS_CHECKPOINT))
    result = {"float": float(np.mean(model.classify(images).argmax(1) == labels))}
    for bits in (8, 4, 3, 2, 1):
        graph = quantise(model, train_images[:256], weight_bits=bits, image_source="digits")
        result[f"W{bits}A8"] = float(np.mean(run(graph, images).argmax(1) == labels))
    return result


def main() -> None:
    """Train, save, measure, and write down what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure-only", action="store_true", help="do not train again")
    options = parser.parse_args()
    if not options.measure_only:
        start = time.monotonic()
        write_data(options.seed)
        model = train(options.epochs, options.seed)
        state = {n: t.detach().numpy() for n, t in model.state_dict().items()}
        write_safetensors(DIGITS_CHECKPOINT, state, {"format": "pt"})
        print(f"trained in {time.monotonic() - start:.0f} s")
    result = measure()
    rows = [f"| {name} | {100 * value:.1f} % |" for name, value in result.items()]
    print("\n".join(rows))
    DIGITS_CHECKPOINT.with_name("README.md").write_text(README.format(rows="\n".join(rows)))


README = """\
# Embedded default model: digits

Written by `scripts/train_digits.py`; do not edit.

- `digits.npz`: 1797 handwritten digits of 8x8 pixels (UCI "Optical Recognition of Handwritten
  Digits", test part, as shipped by scikit-learn; CC BY 4.0), grey levels 0..16 times 15, split
  once: 1297 for training, 500 held out (50 of each class).
- `digits.safetensors`: a ViT with timm's tensor names: patch 2, 16 patches and a class token,
  width 64, 4 blocks of 4 heads of 16, MLP 128, 10 classes.

Top-1 on the 500 held-out images; the integer rows are the bit-exact interpreter's, calibrated on
the first 256 training images, patch embedding and head at 8 bits. The widths below 8 are
post-training quantisation without retraining.

| arithmetic | top-1 |
|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
