# SPDX-License-Identifier: Apache-2.0
"""Is a graph alive?

A dead one (constant logits, saturated boundaries) would match anything bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run
from hwgen.graph.ops import Softmax

LEAST_CODES = 64
LEAST_SOFTMAX_CODES = 8
MOST_SATURATION = 0.01
LEAST_LOGIT_SPREAD = 1.5


@dataclass(frozen=True, kw_only=True)
class BoundaryLiveness:
    """How one boundary uses its codes over some images."""

    name: str
    codes: int  #: distinct codes
    saturation: float  #: fraction of codes on the edge of the clip
    least_codes: int  #: what the check asks for


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """How a graph behaves on some images."""

    boundaries: tuple[BoundaryLiveness, ...]
    logit_spread: (
        float  #: standard deviation of the real-valued logits over classes, mean of the images
    )
    image_spread: float  #: standard deviation of a class's logit over images, mean of the classes


def measure_liveness(graph: IntegerGraph, images: np.ndarray) -> Liveness:
    """Return the numbers of :class:`Liveness` for uint8 images [n, H, W, channels]."""
    makers = {name: op for op in graph.ops for name in op.outputs}
    histograms: dict[str, np.ndarray] = {}

    def tap(name: str, array: np.ndarray) -> None:
        counts = np.bincount(array.astype(np.int64).reshape(-1) + 32768, minlength=65536)
        histograms[name] = histograms.get(name, 0) + counts

    logits = run(graph, images, tap=tap) * graph.output.scale
    rows = []
    for name, counts in histograms.items():
        op = makers[name]
        edge = sum(int(counts[code + 32768]) for code in op.edges)
        # A boundary cannot show more codes than it has values (a small head), nor an image more
        # than it has.
        least = LEAST_SOFTMAX_CODES if isinstance(op, Softmax) else LEAST_CODES
        if isinstance(op, Softmax) and name == op.shifts:
            least = 1  # of rows of one length, often all equal
        rows.append(
            BoundaryLiveness(
                name=name,
                codes=int(np.count_nonzero(counts)),
                saturation=edge / int(counts.sum()),
                least_codes=min(least, int(counts.sum()) // 2),
            )
        )
    return Liveness(
        boundaries=tuple(rows),
        logit_spread=float(logits.std(axis=1).mean()),
        image_spread=float(logits.std(axis=0).mean()),
    )


def check_alive(graph: IntegerGraph, images: np.ndarray) -> Liveness:
    """Return the measured liveness; raise :class:`HwgenError` where the graph is dead.

    Asked for: every boundary uses at least 64 codes (softmax 8) and has less than 1 % of them on
    the edge of its clip; the logits' standard deviation over the classes is at least 1.5, and they
    depend on the image.
    """
    found = measure_liveness(graph, images)
    problems = [
        f"{row.name} uses {row.codes} codes, must use at least {row.least_codes}"
        for row in found.boundaries
        if row.codes < row.least_codes
    ]
    problems += [
        f"{100 * row.saturation:.2f} % of {row.name} saturate, must be below"
        f" {100 * MOST_SATURATION:g} %"
        for row in found.boundaries
        if row.saturation >= MOST_SATURATION
    ]
    if found.logit_spread < LEAST_LOGIT_SPREAD:
        problems.append(
            f"standard deviation of the logits is {found.logit_spread:.2f}, must be at least"
            f" {LEAST_LOGIT_SPREAD:g}"
        )
    if len(images) > 1 and found.image_spread == 0:
        problems.append("logits must depend on the image, they do not")
    if problems:
        raise HwgenError(f"Graph {graph.spec.name!r} must be alive: {'; '.join(problems)}")
    return found
