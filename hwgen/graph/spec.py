# SPDX-License-Identifier: Apache-2.0
"""Geometry and conventions of a Vision Transformer: what a state dict does not say."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, with_config

from hwgen.errors import FormatError, ModelError
from hwgen.reading import STRICT, show, validate

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


def _pairs(value: object) -> object:
    """The pairs of a JSON object, sorted."""
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError("a table of canonical name -> checkpoint name")
    return tuple(sorted(value.items()))


@with_config(STRICT)
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
    name_map: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = ()
    qkv_layout: str = DEFAULT_QKV_LAYOUT
    patch_layout: str = DEFAULT_PATCH_LAYOUT
    transposed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field's value; a wrong one raises :class:`hwgen.errors.ModelError`."""
        if not self.name:
            raise ModelError("Model name must be a non-empty string, not ''")
        for field, (low, high) in _BOUNDS.items():
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise ModelError(
                    f"Model field {field!r} must be an integer in {low}..{high}, not {show(value)}"
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
        if not MIN_CROP_FRACTION <= self.crop_fraction <= 1:
            raise ModelError(
                f"Model field 'crop_fraction' must be a number in {MIN_CROP_FRACTION:g}..1,"
                f" not {show(self.crop_fraction)}"
            )
        if self.pooling == "class_token" and not self.class_token:
            raise ModelError(
                "Model field 'pooling' must be 'mean' when there is no class token, not"
                " 'class_token'"
            )
        if not 0 < self.layer_norm_epsilon <= 1:
            raise ModelError(
                "Model field 'layer_norm_epsilon' must be a number in (0, 1],"
                f" not {show(self.layer_norm_epsilon)}"
            )
        for field in ("mean", "std"):
            values = getattr(self, field)
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise ModelError(
                    f"Model field {field!r} must be {self.channels} numbers (one per channel),"
                    f" not {show(values)}"
                )
        if not all(v > 0 for v in self.std):
            raise ModelError(f"Model field 'std' must be positive numbers, not {show(self.std)}")
        _check_layout("patch_layout", self.patch_layout, DEFAULT_PATCH_LAYOUT)
        # The letters may stand in any order, too: "kqv head dim".
        words = self.qkv_layout.split(" ")
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
        values = dict(data) if isinstance(data, Mapping) else data
        if isinstance(values, dict) and "head_dim" not in values:
            width, heads = values.get("width"), values.get("heads")
            if type(width) is int and type(heads) is int and heads > 0:
                if width % heads:
                    raise ModelError(
                        f"Model file must give head_dim: the width ({width}) is no multiple of the"
                        f" heads ({heads})"
                    )
                values["head_dim"] = width // heads
        try:
            return validate(values, cls)
        except FormatError as error:
            raise ModelError(_BEGINNING.sub(_begin, str(error))) from error


#: How the reader's sentence begins: with the file, a field or several.
_BEGINNING = re.compile(r"^(File|[a-z]\S*( and \w+)?|[a-z, _]+ and \w+) must ")


def _begin(found: re.Match[str]) -> str:
    subject = found[1]
    if subject == "File":
        return "Model file must "
    return f"Model fields {subject} must " if " " in subject else f"Model field {subject!r} must "


def _check_layout(field: str, value: str, default: str, words: list[str] | None = None) -> None:
    """Refuse what is no order of the default's words."""
    given = words if words is not None else value.split(" ")
    if sorted(given) != sorted(default.split(" ")):
        raise ModelError(
            f"Model field {field!r} must be the words of {default!r} in some order, slowest axis"
            f" first, not {show(value)}"
        )
