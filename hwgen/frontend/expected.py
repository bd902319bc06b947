# SPDX-License-Identifier: Apache-2.0
"""Logits of the user's own framework, compared with those of the float model.

They find what names and shapes cannot show: other preprocessing, another activation, heads in
another order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.errors import CheckpointError, FormatError, UnexpectedLogitsError, UsageError
from hwgen.graph.assumption import Assumption, assumptions_to_json
from hwgen.graph.npz_file import read_npz
from hwgen.graph.spec import ModelSpec
from hwgen.reading import show

#: Largest difference of a logit, as a fraction of the largest expected magnitude. A float32
#: framework differs by some 1e-6; the other kind of GELU by 4e-4 on the embedded model, weights of
#: half precision by 8e-4.
TOLERANCE = 1e-4
#: Most that is taken from the file, in bytes.
_MAX_BYTES = 1 << 34


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """Logits of another framework, and the images that they belong to, if the file has them."""

    logits: np.ndarray  #: float64 [n, classes]
    images: np.ndarray | None  #: uint8 [n, H, W, channels]
    path: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How close the float model comes to the expected logits."""

    images: int
    max_abs_difference: float
    bound: float  #: what the largest difference may be
    sqnr_db: float | None  #: 10 log10(sum f^2 / sum (f - g)^2); None where nothing differs
    top1_agreement: float  #: fraction of images with the same largest logit

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line."""
        ratio = "no difference" if self.sqnr_db is None else f"SQNR {self.sqnr_db:.1f} dB"
        return (
            f"largest difference {self.max_abs_difference:.3g} (bound {self.bound:.3g}), {ratio},"
            f" top-1 equal for {100 * self.top1_agreement:.4g} % of {self.images} images"
        )


def load_expected(path: Path, spec: ModelSpec) -> Expected:
    """Read ``logits`` float [n, classes] and, if there, ``images`` uint8 [n, H, W, channels].

    Raises:
        UsageError: the file does not exist.
        FormatError: it holds something else.
    """
    if not path.is_file():
        raise UsageError(f"Expected logits must be an .npz file, not {str(path)!r}: missing")
    arrays, names = read_npz(path, limit_bytes=_MAX_BYTES, names=("logits", "images"))
    logits, images = arrays.get("logits"), arrays.get("images")
    if logits is None:
        held = ", ".join(map(show, names)) or "nothing"
        raise FormatError(f"{path}: must hold an array 'logits', not {held:.200}")
    if logits.dtype.kind != "f" or logits.ndim != 2 or logits.shape[1] != spec.classes:
        raise FormatError(
            f"{path}: logits must be floats [n, {spec.classes}] for model {spec.name!r}, not"
            f" {logits.dtype} {list(logits.shape)}"
        )
    if len(logits) == 0 or not np.isfinite(logits).all():
        raise FormatError(f"{path}: logits must be finite numbers of at least one image")
    shape = (len(logits), spec.image_size, spec.image_size, spec.channels)
    if images is not None and (images.dtype != np.uint8 or images.shape != shape):
        raise FormatError(
            f"{path}: images must be uint8 {list(shape)}, one for each row of logits, not"
            f" {images.dtype} {list(images.shape)}"
        )
    return Expected(logits=logits.astype(np.float64), images=images, path=str(path))


def compare_logits(
    expected: Expected, got: np.ndarray, assumed: Mapping[str, Assumption]
) -> Agreement:
    """Compare logits [n, classes] of the float model with the expected ones.

    Raises:
        CheckpointError: the model's logits are not finite.
        UnexpectedLogitsError: one of them differs by more than :data:`TOLERANCE` of the largest
            expected magnitude; names the first such image and what was taken for granted.
    """
    want = expected.logits
    if not np.isfinite(got).all():
        raise CheckpointError("Float model must give finite logits on the images, and does not")
    difference = np.abs(got - want)
    bound = TOLERANCE * float(np.abs(want).max())
    noise, signal = float(np.sum(difference**2)), float(np.sum(want**2))
    agreement = Agreement(
        images=len(want),
        max_abs_difference=float(difference.max()),
        bound=bound,
        sqnr_db=10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
        top1_agreement=float(np.mean(want.argmax(axis=1) == got.argmax(axis=1))),
    )
    if agreement.max_abs_difference <= bound:
        return agreement
    image = int(np.argmax(difference.max(axis=1) > bound))
    logit = int(np.argmax(difference[image]))
    suspects = "; ".join(f"{name} = {value}" for name, value in assumed.items())
    raise UnexpectedLogitsError(
        "Float model must give the expected logits, and does not (quantisation has no part in"
        f" this): first at image {image}, logit {logit}: expected {want[image, logit]:.6g}, got"
        f" {got[image, logit]:.6g}; {agreement}. Taken for granted, one of these may be wrong:"
        f" {suspects}",
        agreement=agreement.to_json() | {"first_difference": {"image": image, "logit": logit}},
        assumed=assumptions_to_json(assumed),
        where=expected.path,
    )
