# SPDX-License-Identifier: Apache-2.0
"""Calibration: what the float model's boundaries look like on sample images.

Everything runs in float64 and every scale is snapped to 12 significant bits, so that the last bits
of a matrix product, which depend on the BLAS library and its threads, do not reach the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwgen.errors import CheckpointError, FormatError
from hwgen.frontend.float_model import FloatModel

#: Elements kept per boundary for scale searches, and rows kept per LayerNorm input.
_SAMPLE_ELEMENTS = 1 << 17
_SAMPLE_ROWS = 384
#: Elements of the widest tensor of one forward pass.
_BATCH_ELEMENTS = 1 << 22
_SNAP = 1 << 12
#: Images that the quantiser runs through the integer network, and the elements of them all.
_PROBES = 32
_PROBE_ELEMENTS = 1 << 21
#: A magnitude beyond this is a broken checkpoint (trained ViTs stay below 10^4).
_LARGEST = 1e9
#: Largest number of fraction bits of an attention logit (E2Softmax's own bound).
_MAX_FRACTION_BITS = 15


@dataclass(frozen=True, kw_only=True, eq=False)
class Boundary:
    """Statistics of one boundary over all calibration images."""

    minimum: float
    maximum: float
    mean: np.ndarray  #: float64 [C], per channel
    second_moment: np.ndarray  #: float64 [C], mean of squares per channel
    rows: np.ndarray  #: float32 [rows, C], a sample spread over images and tokens

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return float(np.maximum(abs(self.minimum), abs(self.maximum)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """All boundaries of a model; made once and used for any number of quantisations."""

    images: int
    boundaries: Mapping[str, Boundary]
    probes: np.ndarray  #: the first images, which the quantiser runs through the integer network
    probe_means: Mapping[str, np.ndarray]  #: float64 [C] per boundary, over the probes only
    probe_logits: np.ndarray  #: float64 [probes, classes] of the float model
    #: Per logits boundary: fraction of |logit| beyond 127 * 2^-f, index f = 0..15.
    logit_excess: Mapping[str, np.ndarray]


def calibrate(model: FloatModel, images: np.ndarray) -> Calibration:
    """Keep what the quantiser needs of a pass over uint8 images [n, H, W, channels]."""
    spec = model.spec
    count = len(images)
    if count == 0:
        raise FormatError("Calibration must have at least one image, not 0")
    widest = spec.tokens * max(spec.mlp_hidden, spec.heads * spec.tokens, spec.patch_values)
    batch = max(1, min(64, _BATCH_ELEMENTS // widest))
    probes = max(2, min(_PROBES, _PROBE_ELEMENTS // widest))
    collectors: dict[str, _Collector] = {}
    logits: list[np.ndarray] = []
    beyond: dict[str, np.ndarray] = {}
    total: dict[str, int] = {}

    def tap(name: str, array: np.ndarray) -> None:
        if name.endswith(".softmax"):
            return
        if name.endswith(".logits"):
            magnitude = np.abs(array)
            counts = [
                np.count_nonzero(magnitude > math.ldexp(127.0, -f))
                for f in range(_MAX_FRACTION_BITS + 1)
            ]
            beyond[name] = beyond.get(name, np.zeros(len(counts), np.int64)) + counts
            total[name] = total.get(name, 0) + array.size
            return
        if name not in collectors:
            collectors[name] = _Collector(array.shape[1], array.shape[2], count, probes)
        collectors[name].add(array)

    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, count, batch):
            logits.append(model.forward(model.preprocess(images[start : start + batch]), tap=tap))
        boundaries = {name: c.finish() for name, c in collectors.items()}
    for name, boundary in boundaries.items():
        if not boundary.peak <= _LARGEST:  # also NaN
            raise CheckpointError(
                f"Model must keep every boundary finite and within {_LARGEST:g} on the"
                f" calibration images; {name!r} reaches {boundary.peak:g}"
            )
    return Calibration(
        images=count,
        boundaries=boundaries,
        probes=images[:probes],
        probe_logits=np.concatenate(logits)[:probes],
        probe_means={name: c.probe_mean for name, c in collectors.items()},
        logit_excess={name: beyond[name] / total[name] for name in beyond},
    )


class _Collector:
    """Streaming statistics of one boundary [n, tokens, C]."""

    def __init__(self, tokens: int, channels: int, images: int, probes: int) -> None:
        rows = max(_SAMPLE_ROWS, _SAMPLE_ELEMENTS // channels)
        self.per_image = max(1, min(tokens, rows // images))
        self.stride = max(1, images * self.per_image // rows)  # every stride-th image gives rows
        self.tokens = tokens
        self.seen = 0
        self.probes = min(probes, images)
        self.probe_mean = np.zeros(channels)
        self.sum = np.zeros(channels)
        self.squares = np.zeros(channels)
        self.low, self.high = math.inf, -math.inf
        self.kept: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> None:
        """Take a batch."""
        for image in array:
            if self.seen < self.probes:
                self.probe_mean += image.mean(axis=0) / self.probes
            self.sum += image.sum(axis=0)
            self.squares += (image * image).sum(axis=0)
            if self.seen % self.stride == 0:
                # Token 0 (the class token) always; the others walk through the image.
                step = np.arange(1, self.per_image) * self.tokens // self.per_image
                walk = 1 + (step + self.seen) % max(1, self.tokens - 1)
                index = np.concatenate([[0], np.minimum(walk, self.tokens - 1)])
                self.kept.append(image[np.unique(index)].astype(np.float32))
            self.seen += 1
        # np.minimum keeps a NaN, min() would lose it.
        self.low = float(np.minimum(self.low, array.min()))
        self.high = float(np.maximum(self.high, array.max()))

    def finish(self) -> Boundary:
        """Return the statistics."""
        rows = self.seen * self.tokens
        return Boundary(
            minimum=self.low,
            maximum=self.high,
            mean=self.sum / rows,
            second_moment=self.squares / rows,
            rows=np.concatenate(self.kept),
        )


def snap(scale: float) -> float:
    """Return the scale rounded to 12 significant bits."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(mantissa * _SNAP) / _SNAP, exponent)


def symmetric_scale(values: np.ndarray, peak: float, limit: int = 127) -> float:
    """Return the scale of codes -limit..limit with the least mean squared error.

    Searches clip levels from ``peak`` down to 1/16 of it; a boundary that is always 0 gets scale 1.
    """
    if peak <= 0:
        return 1.0
    flat = values.reshape(-1).astype(np.float32)

    def error(exponent: float) -> float:
        scale = peak * 2.0**-exponent / limit
        codes = np.clip(np.rint(flat / np.float32(scale)), -limit, limit)
        return float(np.mean((codes * np.float32(scale) - flat) ** 2, dtype=np.float64))

    coarse = min((k / 4 for k in range(17)), key=error)
    fine = min((max(0.0, coarse + k / 16) for k in range(-3, 4)), key=error)
    return snap(peak * 2.0**-fine / limit)


def affine_scale(
    values: np.ndarray, low: float, high: float, *, least: float = 0.0
) -> tuple[float, int]:
    """Return scale and zero point of int8 codes with the least mean squared error.

    ``low`` and ``high`` are the true range; the search shrinks it. The scale is at least ``least``.
    """
    if high <= low:
        # One value only: give it a code of its own.
        return snap(max(abs(high) / 127, least) or 1.0), 0
    flat = values.reshape(-1).astype(np.float32)

    def pair(interval: tuple[float, float]) -> tuple[float, int]:
        scale = snap(max((interval[1] - interval[0]) / 255, least))
        return scale, int(np.clip(round(-128 - interval[0] / scale), -128, 127))

    def error(interval: tuple[float, float]) -> float:
        scale, zero = pair(interval)
        codes = np.clip(np.rint(flat / np.float32(scale)) + zero, -128, 127) - zero
        return float(np.mean((codes * np.float32(scale) - flat) ** 2, dtype=np.float64))

    best = min(((low * 2 ** (-k / 4), high * 2 ** (-k / 4)) for k in range(15)), key=error)
    factors = (1.0, 1.3, 1.14, 0.88, 0.75, 0.6)
    best = min(((max(low, best[0] * f), best[1]) for f in factors), key=error)
    best = min(((best[0], min(high, best[1] * f)) for f in factors), key=error)
    return pair(best)
