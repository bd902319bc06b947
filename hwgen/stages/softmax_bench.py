# SPDX-License-Identifier: Apache-2.0
"""The two functions of the softmax side by side: what they cost, and what they keep.

Hardware: the unit alone with its default lanes, synthesised with Yosys and simulated on the emitted
Verilog. Quality: networks quantised anew for each function, since all that lies behind a softmax is
calibrated with it; in the same way with an exact softmax whose output is rounded to codes of scale
2^-8, the best that codes of one scale can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import HwgenError
from hwgen.files import scratch_folder
from hwgen.frontend.calibration import calibrate
from hwgen.frontend.images import ImageSet
from hwgen.frontend.quantiser import quantise
from hwgen.graph.interpreter import run
from hwgen.numerics.softmax import MODES, SoftmaxFunction, SoftmaxMode
from hwgen.report.terminal import Reporter
from hwgen.stages.load import Request, calibration_images, load
from hwgen.stages.quantise import top1
from hwgen.units import UNITS, emit_unit, simulate, synthesise_folder

#: Rows that are simulated: as many of one length, one behind the other.
ROWS = 64
LENGTHS = (197, 1024)
#: Images of a model where the user states none.
DEFAULT_IMAGES = 100


@dataclass(frozen=True, kw_only=True)
class ExactSoftmax(SoftmaxFunction):
    """The softmax in double precision, its output rounded to uint8 codes of scale 2^-8."""

    def __call__(
        self, logits: npt.ArrayLike, *, fraction_bits: int, max_length: int
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
class UnitFigures:
    """The unit of one mode."""

    mode: SoftmaxMode
    lut: int
    ff: int
    bram36: float
    logic_levels: int | None
    cycles: dict[int, int]  #: of :data:`ROWS` rows, by their length


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


def unit_figures(mode: SoftmaxMode, reporter: Reporter) -> UnitFigures:
    """Synthesise and simulate the unit of one mode; both are kept by content.

    Raises:
        HwgenError: the unit differs from its reference.
        ToolError: Yosys or Verilator is missing or failed.
    """
    unit = UNITS["e2softmax"]
    values = unit.resolve({"mode": mode})
    rng = np.random.default_rng(1)
    cycles = {}
    with reporter.stage(f"unit {mode}"), scratch_folder() as folder:
        reporter("Yosys", 0.0)
        emit_unit(unit, values, folder / "unit")
        counts = synthesise_folder(folder / "unit")
        for length in LENGTHS:
            logits = np.clip(rng.normal(0, 30, (ROWS, length)), -128, 127).astype(np.int8)
            result = simulate(unit, values, {"logits": logits}, progress=reporter)
            if not result.matches_reference:
                raise HwgenError(f"e2softmax must equal its reference: {result.first_difference}")
            cycles[length] = result.cycles
    return UnitFigures(
        mode=mode,
        lut=int(counts["lut"]),
        ff=int(counts["ff"]),
        bram36=counts["bram36"],
        logic_levels=counts["logic_levels"],
        cycles=cycles,
    )


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


def unit_rows(figures: list[UnitFigures]) -> list[list[str]]:
    """A table of the units, ready with :data:`UNIT_HEADER`."""
    return [
        [
            item.mode,
            f"{item.lut:,}",
            f"{item.ff:,}",
            f"{item.bram36:g}",
            str(item.logic_levels),
            *(f"{item.cycles[length]:,}" for length in LENGTHS),
        ]
        for item in figures
    ]


UNIT_HEADER = (
    *("mode", "LUT", "FF", "BRAM36", "levels"),
    *(f"cycles of {ROWS} x {length}" for length in LENGTHS),
)
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


def describe(units: list[UnitFigures], quality: list[QualityFigures]) -> dict[str, Any]:
    """All figures as plain values."""

    def plain(item: Any) -> dict[str, Any]:
        values = dict(vars(item))
        if "cycles" in values:
            values["cycles"] = {str(length): count for length, count in item.cycles.items()}
        return values

    return {
        "units": [plain(item) for item in units],
        "lut_ratio": round(units[1].lut / units[0].lut, 3) if len(units) == len(MODES) else None,
        "quality": [plain(item) for item in quality],
    }
