# SPDX-License-Identifier: Apache-2.0
"""Stage quantise: the integer graph, and what quantisation costs in accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hwgen.frontend.comparison import (
    compare_batches,
    compare_set,
    image_warnings,
    outlier_warnings,
    quality_warnings,
)
from hwgen.frontend.images import ImageSet
from hwgen.frontend.quantiser import calibrate
from hwgen.frontend.quantiser import quantise as quantise_model
from hwgen.graph.graph import IntegerGraph
from hwgen.report.terminal import Reporter
from hwgen.stages.load import Loaded, split_calibration


def quantise(loaded: Loaded, reporter: Reporter) -> IntegerGraph:
    """Calibrate and quantise."""
    request = loaded.request
    with reporter.stage("quantise"):
        images, held_back = split_calibration(request)
        reporter(f"calibrating on {len(images.images)} images ({images.source})", 0.0)
        statistics = calibrate(loaded.model, images.images)
        graph = quantise_model(
            loaded.model,
            statistics,
            weight_bits=request.weight_bits,
            squares=request.squares,
            softmax=request.softmax,
            image_source=images.identity,
        )
        reporter(f"comparing with the float model on {len(held_back.images)} images", 0.9)
        sums = compare_set(loaded.model, graph, held_back.images)
    warnings = (
        *image_warnings(images.images),
        *outlier_warnings(statistics),
        *graph.metadata.warnings,
        *quality_warnings(sums),
    )
    metadata = replace(
        graph.metadata,
        logit_sqnr_db=sums.sqnr_db["head"],
        float_agreement=sums.agreement,
        quality_images=sums.images,
        softmax_mass=sums.softmax_mass,
        warnings=warnings,
    )
    return replace(graph, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Fractions of images whose largest logit is the label's."""

    top1: float  #: of the integer graph
    top1_float: float  #: of the float model
    images: int


def measure_accuracy(
    loaded: Loaded, graph: IntegerGraph, images: ImageSet, reporter: Reporter
) -> Accuracy | None:
    """Top-1 of the float model and of the integer graph; None without labels."""
    if images.labels is None:
        return None
    hits = exact = seen = 0
    with reporter.stage("accuracy"):
        for batch in compare_batches(loaded.model, graph, images.images):
            assert batch.float_logits is not None
            labels = images.labels[seen : seen + batch.sums.images]
            hits += int(np.count_nonzero(np.argmax(batch.logits, axis=1) == labels))
            exact += int(np.count_nonzero(np.argmax(batch.float_logits, axis=1) == labels))
            seen += len(labels)
            total = len(images.images)
            reporter(f"float model and integer graph, {seen} of {total} images", seen / total)
    return Accuracy(top1=hits / seen, top1_float=exact / seen, images=seen)


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows whose largest logit is the label's; the first of equal ones counts."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))
