# SPDX-License-Identifier: Apache-2.0
"""Data that travel with the package: the embedded default checkpoint and its images."""

from __future__ import annotations

from pathlib import Path

#: Weights of the default model ``digits`` (safetensors, timm's tensor names).
DIGITS_CHECKPOINT = Path(__file__).parent / "digits.safetensors"
#: Handwritten digits with a fixed split: ``train_images``, ``train_labels``, ``test_images``,
#: ``test_labels``.
DIGITS_DATA = Path(__file__).parent / "digits.npz"
