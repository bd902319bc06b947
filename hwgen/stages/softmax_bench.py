# SPDX-License-Identifier: Apache-2.0
"""The functions of the softmax side by side: what networks keep of their accuracy with each.

Networks are quantised anew for each function, since all that lies behind a softmax is calibrated
with it; in the same way with an exact softmax whose output is rounded to codes of scale 2^-8, the
best that codes of one scale can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

import numpy as np
import numpy.typing as npt

from hwgen.frontend.calibration import calibrate
from hwgen.frontend.images import ImageSet
from hwgen.frontend.quantiser import quantise
from hwgen.graph.interpreter import run
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request, calibration_images, load
from hwgen.stages.quantise import top1

#: Images of a model where the user states none.
DEFAULT_IMAGES = 100


@dataclass(frozen=True, kw_only=True)
class ExactSoftmax(SoftmaxFunction):
    """The softmax in double precision, its output rounded to uint8 codes of scale 2^-8."""

    def __call__(
        self,
        logits: npt.ArrayLike,
        *,
        fraction_bits: int,
        max_length: int,
        kernels: Kernels | None = None,
    ) -> tuple[npt.NDArray[np.uint8], None]:
        """As :meth:`hwgen.numerics.softmax.SoftmaxFunction.__call__`."""
        values = np.asarray(logits, np.float64) * 2.0**-fraction_bits
        weights = np.exp(values - values.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.clip(np.rint(256 * weights), 0, 255).astype(np.uint8), None


#: The functions that are compared, by the names that the tables give them.
FUNCTIONS: dict[str, SoftmaxFunction] = {
    "sole": SoftmaxFunction.sole(),
    "fractional": SoftmaxFunction.fractional(),
    "exact": ExactSoftmax(mode="sole", vec=1),
}


@dataclass(frozen=True, kw_only=True)
class QualityFigures:
    """A network with one function."""

    model: str
    function: str  #: of :data:`FUNCTIONS`
    images: int
    logit_sqnr_db: float  #: 10 log10(sum f^2 / sum (f - i)^2) over all logits
    top1: float | None  #: of the integer graph, with labels
    top1_float: float | None
    agreement: float  #: fraction of images with the same largest logit


def quality_figures(request: Request, images: ImageSet, reporter: Reporter) -> list[QualityFigures]:
    """Quantise a model with every function, and compare it with the float model on images."""
    loaded = load(request, reporter)
    figures = []
    with reporter.stage(f"quality {request.spec.name}"):
        reporter("calibrating", 0.0)
        statistics = calibrate(loaded.model, calibration_images(request).images)
        exact = loaded.model.classify(images.images)
        best = np.argmax(exact, axis=1)
        for number, (name, function) in enumerate(FUNCTIONS.items()):
            reporter(f"{name}: {len(images.images)} images", (1 + number) / (1 + len(FUNCTIONS)))
            graph = quantise(
                loaded.model,
                statistics,
                weight_bits=request.weight_bits,
                squares=request.squares,
                softmax=function,
            )
            got = run(graph, images.images) * graph.output.scale
            noise = float(np.sum((exact - got) ** 2))
            labels = images.labels
            figures.append(
                QualityFigures(
                    model=request.spec.name,
                    function=name,
                    images=len(images.images),
                    logit_sqnr_db=round(10 * log10(float(np.sum(exact**2)) / noise), 2),
                    top1=None if labels is None else top1(got, labels),
                    top1_float=None if labels is None else top1(exact, labels),
                    agreement=float(np.mean(np.argmax(got, axis=1) == best)),
                )
            )
    return figures


QUALITY_HEADER = ("model", "softmax", "images", "logit SQNR", "top-1", "float", "agreement")


def quality_rows(figures: list[QualityFigures]) -> list[list[str]]:
    """A table of the networks, ready with :data:`QUALITY_HEADER`."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f} %"

    return [
        [
            item.model,
            item.function,
            f"{item.images:,}",
            f"{item.logit_sqnr_db:.1f} dB",
            percent(item.top1),
            percent(item.top1_float),
            percent(item.agreement),
        ]
        for item in figures
    ]
