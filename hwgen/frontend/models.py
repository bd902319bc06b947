# SPDX-License-Identifier: Apache-2.0
"""The table of known models, and model files."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwgen.errors import FormatError, ModelError
from hwgen.frontend.statements import FILE, TABLE, Statement, resolve
from hwgen.graph.spec import ModelSpec
from hwgen.models import DIGITS_CHECKPOINT
from hwgen.reading import load_json, read_bytes, show

__all__ = [
    "ALIASES",
    "MODELS",
    "ModelSpec",
    "default_checkpoint",
    "get_model",
    "model_names",
    "state_model",
]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

#: A model file larger than this is not a model file.
_MAX_MODEL_FILE_BYTES = 1 << 20


def _vit(name: str, width: int, depth: int, heads: int) -> ModelSpec:
    # timm's ViTs ("augreg") normalise to -1..1; DeiT keeps ImageNet's statistics.
    # Their central crop is 0.9 of the resized image at 224 pixels, all of it at 384 (crop_pct).
    return ModelSpec(
        name=name, width=width, depth=depth, heads=heads, mlp_hidden=4 * width, crop_fraction=0.9
    )


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
            crop = {224: 0.9, 384: 1.0}[size]
            table[name] = replace(
                MODELS[short], name=name, patch=patch, image_size=size, crop_fraction=crop
            )
    return table


#: timm's long names; the 224-pixel, 16-patch ones have the geometry of the short names.
ALIASES: dict[str, ModelSpec] = _long_forms()


#: timm's training recipes of these geometries (the tag behind the dot), as its configurations have
#: them: what a recipe changes of the name's specification. Another recipe may have been trained on
#: other statistics.
_IMAGENET = {"mean": _IMAGENET_MEAN, "std": _IMAGENET_STD}
RECIPES: dict[str, dict[str, Any]] = {
    "fb_in1k": _IMAGENET,
    "augreg_in21k_ft_in1k": {},
    "augreg2_in21k_ft_in1k": {},
    "augreg_in1k": {},
    "augreg_in21k": {"classes": 21843},
    "orig_in21k_ft_in1k": {},
    "orig_in21k": {},
    "sam_in1k": {},
    "dino": _IMAGENET,
    "mae": _IMAGENET,
}


def model_names() -> tuple[str, ...]:
    """Return every known name, the short ones first."""
    return (*MODELS, *ALIASES)


def get_model(name_or_path: str | Path) -> ModelSpec:
    """Return the specification of a known model's name or of a JSON model file.

    Raises:
        ModelError: the name is unknown (the nearest legal names are in the message), or the file
        is bad.
    """
    return resolve([state_model(name_or_path)]).spec


def state_model(name_or_path: str | Path) -> Statement:
    """Return what the table says of a name, or what a JSON model file says.

    Raises:
        ModelError: as :func:`get_model`.
    """
    text = str(name_or_path)
    if text in MODELS:
        return Statement(source=TABLE, values=MODELS[text].to_json())
    # timm's tags ("deit_tiny_patch16_224.fb_in1k") name a training recipe, not another geometry.
    stem, _, tag = text.partition(".")
    if stem in ALIASES and tag != "json":
        return Statement(source=TABLE, values=_recipe(stem, tag).to_json())
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        return Statement(source=FILE, values=_read_model_file(path), path=text)
    near = difflib.get_close_matches(text, model_names(), n=3, cutoff=0.4) or list(MODELS)
    raise ModelError(
        f"Model must be a known name or a JSON file, not {text!r}; the nearest names:"
        f" {', '.join(near)}"
    )


def _recipe(stem: str, tag: str) -> ModelSpec:
    spec = ALIASES[stem]
    if not tag:
        return spec
    if tag not in RECIPES:
        near = difflib.get_close_matches(tag, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ModelError(
            f"Tag of model {stem!r} must be a known recipe of timm's, not {tag!r}, for the recipe"
            f" decides mean and std; the nearest: {', '.join(near)}; without a tag mean"
            f" {spec.mean} and std {spec.std} are taken, a model file can say others"
        )
    return replace(spec, **RECIPES[tag])


def default_checkpoint(spec: ModelSpec) -> Path | None:
    """Return the embedded checkpoint of a model, or None when it must be given by the user."""
    return DIGITS_CHECKPOINT if spec == MODELS["digits"] else None


def _read_model_file(path: Path) -> dict[str, Any]:
    try:
        data = load_json(read_bytes(path, limit=_MAX_MODEL_FILE_BYTES), where=str(path))
    except FormatError as error:
        raise ModelError(f"Model file must be readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: Model file must hold one JSON object, not {show(data)}")
    return data
