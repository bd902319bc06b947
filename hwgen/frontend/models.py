# SPDX-License-Identifier: Apache-2.0
"""The table of known models, and model files."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path

from hwgen.errors import ModelError
from hwgen.graph.spec import ModelSpec
from hwgen.models import DIGITS_CHECKPOINT

__all__ = ["ALIASES", "MODELS", "ModelSpec", "default_checkpoint", "get_model", "model_names"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

#: A model file larger than this is not a model file.
_MAX_MODEL_FILE_BYTES = 1 << 20


def _vit(name: str, width: int, depth: int, heads: int) -> ModelSpec:
    # timm's ViTs ("augreg") normalise to -1..1; DeiT keeps ImageNet's statistics.
    return ModelSpec(name=name, width=width, depth=depth, heads=heads, mlp_hidden=4 * width)


def _deit(name: str, width: int, depth: int, heads: int) -> ModelSpec:
    return replace(_vit(name, width, depth, heads), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)


#: Known models by short name.
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="digits",
            image_size=8,
            channels=1,
            patch=2,
            width=64,
            depth=4,
            heads=4,
            head_dim=16,
            mlp_hidden=128,
            classes=10,
            mean=(0.5,),
            std=(0.5,),
        ),
        _deit("deit_tiny", 192, 12, 3),
        _deit("deit_small", 384, 12, 6),
        _deit("deit_base", 768, 12, 12),
        _vit("vit_tiny", 192, 12, 3),
        _vit("vit_small", 384, 12, 6),
        _vit("vit_base", 768, 12, 12),
        _vit("vit_large", 1024, 24, 16),
    )
}


def _long_forms() -> dict[str, ModelSpec]:
    """Long names as timm has them: ``<short name>_patch<P>_<image size>``."""
    table: dict[str, ModelSpec] = {}
    variants = {
        "deit_tiny": [(16, 224)],
        "deit_small": [(16, 224)],
        "deit_base": [(16, 224), (16, 384)],
        "vit_tiny": [(16, 224), (16, 384)],
        "vit_small": [(16, 224), (16, 384), (32, 224), (32, 384)],
        "vit_base": [(16, 224), (16, 384), (32, 224), (32, 384)],
        "vit_large": [(16, 224), (16, 384), (32, 224), (32, 384)],
    }
    for short, forms in variants.items():
        for patch, size in forms:
            name = f"{short}_patch{patch}_{size}"
            table[name] = replace(MODELS[short], name=name, patch=patch, image_size=size)
    return table


#: timm's long names; the 224-pixel, 16-patch ones have the geometry of the short names.
ALIASES: dict[str, ModelSpec] = _long_forms()


def model_names() -> tuple[str, ...]:
    """Return every known name, the short ones first."""
    return (*MODELS, *ALIASES)


def get_model(name_or_path: str | Path) -> ModelSpec:
    """Return the specification of a known model's name or of a JSON model file.

    Raises:
        ModelError: the name is unknown (the nearest legal names are in the message), or the file
        is bad.
    """
    text = str(name_or_path)
    if text in MODELS:
        return MODELS[text]
    # timm's tags ("deit_tiny_patch16_224.fb_in1k") name a training recipe, not another geometry.
    stem = text.split(".", maxsplit=1)[0]
    if stem in ALIASES and not text.endswith(".json"):
        return ALIASES[stem]
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        return _read_model_file(path)
    near = difflib.get_close_matches(text, model_names(), n=3, cutoff=0.4) or list(MODELS)
    raise ModelError(
        f"Model must be a known name or a JSON file, not {text!r}; the nearest names:"
        f" {', '.join(near)}"
    )


def default_checkpoint(spec: ModelSpec) -> Path | None:
    """Return the embedded checkpoint of a model, or None when it must be given by the user."""
    return DIGITS_CHECKPOINT if spec == MODELS["digits"] else None


def _read_model_file(path: Path) -> ModelSpec:
    try:
        if path.stat().st_size > _MAX_MODEL_FILE_BYTES:
            raise ModelError(
                f"Model file must be at most {_MAX_MODEL_FILE_BYTES} bytes of JSON, not {path}"
            )
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"Model file must be readable, not {str(path)!r}: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:  # no text, no JSON, or an endless integer
        raise ModelError(
            f"Model file must be JSON, not {str(path)!r}: {type(error).__name__}: {error}"
        ) from error
    try:
        return ModelSpec.from_json(data)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
