# SPDX-License-Identifier: Apache-2.0
"""Float model against integer graph: one comparison for calibration and evaluation.

Sums over images, so that batches can be computed in any place, kept, and added up in order.
SQNR is ``10 log10(sum f^2 / sum (f - i)^2)`` over all elements, f of the float model, i of the
integer graph times its scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from hwgen.frontend.calibration import Calibration
from hwgen.frontend.float_model import FloatModel
from hwgen.graph.graph import IntegerGraph, Tensor
from hwgen.graph.interpreter import Interpreter
from hwgen.graph.ops import Softmax
from hwgen.threads import map_threads

#: The whole weight of a row of softmax codes: scale 2^-8.
_CODE_BITS = 8


def decibels(signal: float, noise: float) -> float | None:
    """``10 log10(signal / noise)`` to a hundredth; None where there is no noise or no signal."""
    if not signal > 0 or not noise > 0:
        return None
    return round(10 * math.log10(signal / noise), 2)


@dataclass(kw_only=True)
class Power:
    """Sums of squares of one boundary: of the float model's values, and of the difference."""

    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantisation noise, dB."""
        return decibels(self.signal, self.noise)


@dataclass(kw_only=True)
class Mass:
    """What the weights of softmax's rows sum to: 1 in the float model."""

    rows: int = 0
    total: float = 0.0
    least: float = math.inf

    @property
    def mean(self) -> float:
        """Mean over the rows."""
        return self.total / self.rows

    def to_json(self) -> dict[str, float]:
        """Mean and minimum."""
        return {"mean": round(self.mean, 4), "min": round(self.least, 4)}


@dataclass(kw_only=True)
class Comparison:
    """What is known of some images. ``power`` and ``agreeing`` need a float model."""

    images: int = 0
    agreeing: int = 0  #: images whose largest logit both networks have in the same place
    power: dict[str, Power] = field(default_factory=dict)  #: per boundary, in execution order
    mass: dict[str, Mass] = field(default_factory=dict)  #: per softmax

    def add(self, other: Comparison) -> None:
        """Take the sums of other images."""
        self.images += other.images
        self.agreeing += other.agreeing
        for name, power in other.power.items():
            own = self.power.setdefault(name, Power())
            own.signal += power.signal
            own.noise += power.noise
        for name, mass in other.mass.items():
            kept = self.mass.setdefault(name, Mass())
            kept.rows += mass.rows
            kept.total += mass.total
            kept.least = min(kept.least, mass.least)

    @property
    def agreement(self) -> float:
        """Fraction of images with the same largest logit."""
        return self.agreeing / self.images

    @property
    def softmax_mass(self) -> dict[str, dict[str, float]]:
        """Mean and minimum per softmax."""
        return {name: mass.to_json() for name, mass in self.mass.items()}

    @property
    def sqnr_db(self) -> dict[str, float | None]:
        """SQNR per boundary, dB."""
        return {name: power.sqnr_db for name, power in self.power.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One batch: its sums, and the logits that they are of."""

    sums: Comparison
    logits: np.ndarray  #: int16 [n, classes]
    float_logits: np.ndarray | None  #: [n, classes]


def row_mass(boundaries: Mapping[str, np.ndarray], op: Softmax) -> np.ndarray:
    """Sum of the weights of every row of a softmax, float64 [n, heads, tokens].

    A code has the scale 2^-8; where rows have shifts of their own, ``2^-(8 + shift)``.
    """
    total = boundaries[op.output].sum(axis=-1, dtype=np.int64)
    more: np.ndarray | int = 0 if op.shifts is None else boundaries[op.shifts].astype(np.int64)
    mass: np.ndarray = np.ldexp(total.astype(np.float64), -(_CODE_BITS + more))
    return mass


def compare(
    model: FloatModel | None,
    interpreter: Interpreter,
    images: np.ndarray,
    *,
    dtype: type = np.float64,
) -> Compared:
    """Run a batch of uint8 images [n, H, W, channels] through both networks.

    Args:
        model: the float model; without one only the integer graph is run.
        interpreter: the integer graph's.
        images: at most the interpreter's batch: all boundaries of the integer graph are kept.
        dtype: of the float model's arithmetic.
    """
    graph = interpreter.graph
    sums = Comparison(images=len(images))
    masses = {op.output: op for op in graph.ops if isinstance(op, Softmax)}
    kept: dict[str, np.ndarray] = {}

    def keep(name: str, array: np.ndarray) -> None:
        kept[name] = array

    logits = interpreter.run(images, tap=keep)
    for name, op in masses.items():
        mass = row_mass(kept, op)
        sums.mass[name] = Mass(rows=mass.size, total=float(mass.sum()), least=float(mass.min()))
    if model is None:
        return Compared(sums=sums, logits=logits, float_logits=None)

    def against(name: str, exact: np.ndarray) -> None:
        codes = kept.pop(name, None)
        if codes is None:  # no boundary of the integer graph
            return
        shifts = masses[name].shifts if name in masses else None
        values = _values(graph.tensors[name], codes, None if shifts is None else kept[shifts])
        sums.power[name] = _power(exact, values)

    pixels = model.preprocess(images)
    float_logits = model.forward(pixels, dtype=dtype, tap=against)
    sums.agreeing = int(np.count_nonzero(np.argmax(float_logits, 1) == np.argmax(logits, 1)))
    return Compared(sums=sums, logits=logits, float_logits=float_logits)


def _values(tensor: Tensor, codes: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """What the codes of a boundary stand for, float64; rows may have shifts of their own."""
    values = codes.astype(np.float64)
    values -= tensor.zero_point
    values *= tensor.scale
    return values if shift is None else np.ldexp(values, -shift.astype(np.int64)[..., None])


def _power(exact: np.ndarray, values: np.ndarray) -> Power:
    wide = exact.astype(np.float64, copy=False)
    values -= wide
    return Power(
        signal=float(np.vdot(wide, wide)) if wide.size else 0.0,
        noise=float(np.vdot(values, values)) if values.size else 0.0,
    )


def compare_batches(
    model: FloatModel | None, graph: IntegerGraph, images: np.ndarray
) -> Iterator[Compared]:
    """:func:`compare` of any number of images, batch by batch in several threads, in order."""
    interpreter = Interpreter(graph)
    starts = range(0, len(images), interpreter.batch)
    batches = (images[start : start + interpreter.batch] for start in starts)
    return map_threads(lambda batch: compare(model, interpreter, batch), batches)


def compare_set(model: FloatModel | None, graph: IntegerGraph, images: np.ndarray) -> Comparison:
    """The sums of all batches."""
    sums = Comparison()
    for compared in compare_batches(model, graph, images):
        sums.add(compared.sums)
    return sums


# What is worth a warning.

#: Softmax rows whose weights sum to less or more than this lose or gain attention.
LEAST_MASS, MOST_MASS = 0.85, 1.1
#: A channel this many times the median one's magnitude is an outlier; the worst are named.
OUTLIER = 16.0
OUTLIERS_NAMED = 4
#: Below this logit SQNR (dB) a warning: docs/decisions.md says why.
LEAST_SQNR_DB = 15.0


def quality_warnings(sums: Comparison) -> list[str]:
    """What the user should know of a quantised network."""
    found = []
    for name, mass in sums.mass.items():
        if not LEAST_MASS <= mass.mean <= MOST_MASS:
            found.append(
                f"{name}: the weights of a row sum to {mass.mean:.2f} in the mean (at least"
                f" {mass.least:.2f}), and must be within {LEAST_MASS:g}..{MOST_MASS:g}: this"
                " softmax loses accuracy on rows of this length"
            )
    if (head := sums.power.get("head")) is not None:
        found_db = head.sqnr_db
        if found_db is not None and found_db < LEAST_SQNR_DB:
            found.append(
                f"logit SQNR is {found_db:g} dB on {sums.images} images, below"
                f" {LEAST_SQNR_DB:g} dB: the integer network differs visibly from the float model"
            )
    return found


def image_warnings(images: np.ndarray) -> list[str]:
    """Calibration images that cannot show a network's ranges, uint8 [n, H, W, channels]."""
    count = len(images)
    flat = images.reshape(count, -1)
    constant = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
    distinct = len({image.tobytes() for image in flat})
    found = []
    if len(constant):
        found.append(
            f"calibration: {len(constant)} of {count} images are constant (every pixel equal),"
            f" the first is image {constant[0]}; they show no range of the network"
        )
    if count == 1:
        found.append(
            "calibration: there is a single image; ranges are those of one picture, give some"
            " hundred"
        )
    elif distinct < count:
        what = "all images are equal" if distinct == 1 else f"only {distinct} of {count} differ"
        found.append(f"calibration: {what}; equal images add nothing to the ranges")
    return found


def outlier_warnings(statistics: Calibration) -> list[str]:
    """Channels that take the int8 range of a tensor for themselves.

    A few channels (at most one in 64) whose largest magnitude is :data:`OUTLIER` times the
    median channel's; the residual stream has 16 bits and factors per channel and is not looked at.
    """
    found = []
    for name, boundary in statistics.boundaries.items():
        if "residual" in name or name in ("embedding", "norm.input", "head"):
            continue
        peaks = np.abs(boundary.rows).max(axis=0)
        median = float(np.median(peaks))
        beyond = np.flatnonzero(peaks > OUTLIER * median) if median > 0 else np.array([], int)
        if 0 < len(beyond) <= max(1, len(peaks) // 64):
            worst = beyond[np.argsort(-peaks[beyond], kind="stable")][:OUTLIERS_NAMED]
            listed = ", ".join(f"{c} ({peaks[c] / median:.0f} times)" for c in worst)
            more = f" and {len(beyond) - len(worst)} more" if len(beyond) > len(worst) else ""
            found.append(
                f"{name}: outlier channels {listed}{more} the median channel's magnitude; the other"
                " channels are left few of the 8 bits"
            )
    return found
