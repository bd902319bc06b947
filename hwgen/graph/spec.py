# SPDX-License-Identifier: Apache-2.0
"""Geometry and conventions of a Vision Transformer: what a state dict does not say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hwgen.errors import ModelError
from hwgen.reading import show

Activation = Literal["gelu_erf", "gelu_tanh", "relu"]
Pooling = Literal["class_token", "mean"]
ResizeMode = Literal["shortest", "stretch", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

#: The three axes of a fused qkv's rows, slowest first: which of q, k, v (in the letters' order),
#: which head, which channel of the head.
DEFAULT_QKV_LAYOUT = "qkv head dim"
#: The three axes of a row of a linear patch embedding, slowest first.
DEFAULT_PATCH_LAYOUT = "dy dx channel"

MAX_CHANNELS = 64
MIN_CROP_FRACTION = 0.1

#: Largest sizes that a model may have: (lowest, highest) legal value of each integer field.
_BOUNDS: dict[str, tuple[int, int]] = {
    "image_size": (1, 4096),
    "channels": (1, MAX_CHANNELS),
    "patch": (1, 512),
    "width": (8, 8192),
    "depth": (1, 256),
    "heads": (1, 256),
    "head_dim": (1, 1024),
    "mlp_hidden": (1, 65536),
    "classes": (1, 65536),
}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One Vision Transformer: pre-norm encoder, learned position embedding, one linear head.

    ``image_size``, ``patch`` in pixels (square); ``mean`` and ``std`` per channel on the 0..1
    pixel scale. Pictures of any size are made the model's by resizing to :attr:`resize_to`
    pixels, the shortest edge or both, and taking the centre. ``name_map``
    translates a checkpoint with names of its own: canonical (timm) name
    -> name in the checkpoint, ``{i}`` standing for the block's number. ``qkv_layout``,
    ``patch_layout`` and ``transposed`` (canonical names of matrices stored as [in, out]) say how
    the checkpoint stores what can have the same names and shapes in several ways.
    """

    name: str
    image_size: int = 224
    channels: int = 3
    patch: int = 16
    width: int
    depth: int
    heads: int
    head_dim: int = 64
    mlp_hidden: int
    classes: int = 1000
    class_token: bool = True
    pooling: Pooling = "class_token"
    layer_norm_epsilon: float = 1e-6
    activation: Activation = "gelu_erf"
    qkv_bias: bool = True
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop_fraction: float = 1.0
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    name_map: tuple[tuple[str, str], ...] = ()
    qkv_layout: str = DEFAULT_QKV_LAYOUT
    patch_layout: str = DEFAULT_PATCH_LAYOUT
    transposed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field; a wrong one raises :class:`hwgen.errors.ModelError`."""
        if not isinstance(self.name, str) or not self.name:
            raise ModelError(f"Model name must be a non-empty string, not {show(self.name)}")
        for field, (low, high) in _BOUNDS.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ModelError(
                    f"Model field {field!r} must be an integer in {low}..{high}, not {show(value)}"
                )
        for field in ("class_token", "qkv_bias"):
            if not isinstance(getattr(self, field), bool):
                raise ModelError(
                    f"Model field {field!r} must be true or false, not {show(getattr(self, field))}"
                )
        for field, kinds in (
            ("pooling", get_args(Pooling)),
            ("activation", get_args(Activation)),
            ("resize_mode", get_args(ResizeMode)),
            ("interpolation", get_args(Interpolation)),
        ):
            if getattr(self, field) not in kinds:
                raise ModelError(
                    f"Model field {field!r} must be one of {', '.join(kinds)},"
                    f" not {show(getattr(self, field))}"
                )
        if self.image_size % self.patch:
            nearest = max(1, round(self.image_size / self.patch)) * self.patch
            raise ModelError(
                f"Model field 'image_size' must be a multiple of the patch ({self.patch}),"
                f" not {show(self.image_size)}; the nearest is {nearest}"
            )
        if not _is_real(self.crop_fraction) or not MIN_CROP_FRACTION <= self.crop_fraction <= 1:
            raise ModelError(
                f"Model field 'crop_fraction' must be a number in {MIN_CROP_FRACTION:g}..1,"
                f" not {show(self.crop_fraction)}"
            )
        if self.pooling == "class_token" and not self.class_token:
            raise ModelError(
                "Model field 'pooling' must be 'mean' when there is no class token, not"
                " 'class_token'"
            )
        if not _is_real(self.layer_norm_epsilon) or not 0 < self.layer_norm_epsilon <= 1:
            raise ModelError(
                "Model field 'layer_norm_epsilon' must be a number in (0, 1],"
                f" not {show(self.layer_norm_epsilon)}"
            )
        for field in ("mean", "std"):
            values = getattr(self, field)
            if (
                not isinstance(values, tuple)
                or len(values) != self.channels
                or not all(_is_real(v) for v in values)
            ):
                raise ModelError(
                    f"Model field {field!r} must be {self.channels} numbers (one per channel),"
                    f" not {show(values)}"
                )
        if not all(v > 0 for v in self.std):
            raise ModelError(f"Model field 'std' must be positive numbers, not {show(self.std)}")
        if not all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(n, str) for n in pair)
            for pair in self.name_map
        ):
            raise ModelError(
                "Model field 'name_map' must be an object of canonical name -> checkpoint name,"
                f" not {show(self.name_map)}"
            )
        if not isinstance(self.transposed, tuple) or not all(
            isinstance(name, str) for name in self.transposed
        ):
            raise ModelError(
                "Model field 'transposed' must be a list of canonical names of matrices, not"
                f" {show(self.transposed)}"
            )
        _check_layout("patch_layout", self.patch_layout, DEFAULT_PATCH_LAYOUT)
        # The letters may stand in any order, too: "kqv head dim".
        words = str(self.qkv_layout).split(" ")
        letters = ["qkv" if sorted(word) == ["k", "q", "v"] else word for word in words]
        _check_layout("qkv_layout", self.qkv_layout, DEFAULT_QKV_LAYOUT, letters)

    @property
    def resize_to(self) -> int:
        """Pixels that a picture is resized to before its centre is taken, as timm has it."""
        # A fraction that is itself a quotient of two sizes gives the larger one back.
        return math.floor(self.image_size / self.crop_fraction + 1e-6)

    @property
    def patches(self) -> int:
        """Number of patches of one image."""
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Number of tokens: patches and the class token, if any."""
        return self.patches + int(self.class_token)

    @property
    def patch_values(self) -> int:
        """Number of pixel values of one patch: K of the patch embedding."""
        return self.patch * self.patch * self.channels

    @property
    def attention_width(self) -> int:
        """Columns of q (and of k and v): heads x head_dim."""
        return self.heads * self.head_dim

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which :meth:`from_json` makes an equal specification."""
        out = dataclasses.asdict(self)
        out["mean"], out["std"] = list(self.mean), list(self.std)
        out["name_map"] = dict(self.name_map)
        out["transposed"] = list(self.transposed)
        return out

    @classmethod
    def from_json(cls, data: object) -> ModelSpec:
        """Return the specification of a JSON object; unknown, missing or wrong keys are refused.

        Without ``head_dim`` it is ``width / heads``, as timm has it.
        """
        if not isinstance(data, Mapping):
            raise ModelError(f"Model file must hold one JSON object, not {type(data).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(fields), key=str)
        if unknown:
            raise ModelError(
                f"Model file's keys must be among {', '.join(fields)}, not"
                f" {', '.join(map(show, unknown[:8]))}"
            )
        missing = [
            n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in data
        ]
        if missing:
            raise ModelError(f"Model file must give {', '.join(missing)}: missing")
        values = dict(data)
        if "head_dim" not in values:
            width, heads = values["width"], values["heads"]
            if type(width) is int and type(heads) is int and heads > 0:
                if width % heads:
                    raise ModelError(
                        f"Model file must give head_dim: the width ({width}) is no multiple of the"
                        f" heads ({heads})"
                    )
                values["head_dim"] = width // heads
        for field in ("mean", "std", "transposed"):
            if isinstance(values.get(field), list):
                values[field] = tuple(values[field])
        if isinstance(values.get("name_map"), Mapping):
            values["name_map"] = tuple(sorted(values["name_map"].items(), key=str))
        elif "name_map" in values:
            raise ModelError(
                "Model field 'name_map' must be an object of canonical name -> checkpoint name,"
                f" not {show(values['name_map'])}"
            )
        return cls(**values)


def _check_layout(field: str, value: object, default: str, words: list[str] | None = None) -> None:
    """Refuse what is no order of the default's words."""
    given = words if words is not None else str(value).split(" ")
    if not isinstance(value, str) or sorted(given) != sorted(default.split(" ")):
        raise ModelError(
            f"Model field {field!r} must be the words of {default!r} in some order, slowest axis"
            f" first, not {show(value)}"
        )


def _is_real(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False
