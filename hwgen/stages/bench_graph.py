# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench graph``: the integer graph's speed beside torch's eager float32.

The same network on the same images, processors and threads, in turns in one run, so that whatever
else the machine does meets both; of each the fastest round counts. torch gets its images prepared
and the batch that suits it best. The integer graph runs as in :mod:`hwgen.stages.evaluate`: with
compiled loops where they are installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from hwgen.errors import HwgenError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.models import MODELS, default_checkpoint
from hwgen.frontend.quantiser import quantise
from hwgen.frontend.random_weights import random_state
from hwgen.frontend.torch_eager import TorchEager
from hwgen.graph.interpreter import Interpreter
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.compiled import Kernels, compiled_kernels, kernels_text
from hwgen.report.terminal import Reporter
from hwgen.threads import thread_count

#: Rounds of each; batches that torch is tried with.
ROUNDS = 7
TORCH_BATCHES = (4, 16, 64, 256)
#: Both networks' logits must be of one network: at least this SQNR, in dB.
_LEAST_DB = 3.0

#: Networks and their images per round: the embedded one, and two with random weights.
NETWORKS: tuple[tuple[ModelSpec, int], ...] = (
    (MODELS["digits"], 1024),
    (
        ModelSpec(
            name="vit_32_pixels",
            image_size=32,
            patch=4,
            width=192,
            depth=6,
            heads=3,
            mlp_hidden=768,
            classes=10,
        ),
        64,
    ),
    (MODELS["deit_tiny"], 12),
)


@dataclass(frozen=True, kw_only=True)
class GraphSpeed:
    """One network's speed, images per second."""

    network: str
    images: int  #: of a round
    threads: int
    integer: float
    torch: float
    torch_batch: int
    ratio: float  #: integer / torch


def bench_graph(
    reporter: Reporter, *, numpy_only: bool = False
) -> tuple[list[GraphSpeed], dict[str, str]]:
    """Speeds of :data:`NETWORKS`, and the versions of what was compared.

    Args:
        reporter: told what is being done.
        numpy_only: leave the compiled loops out, even where they are installed.

    Raises:
        UsageError: torch is not installed.
    """
    rows = []
    kernels = None if numpy_only else compiled_kernels()
    versions = {"integer graph": kernels_text(kernels)}
    with reporter.stage("bench"):
        for number, (spec, count) in enumerate(NETWORKS):

            def tell(text: str, number: int = number, name: str = spec.name) -> None:
                reporter(f"{name}: {text}", number / len(NETWORKS))

            row, versions["torch"] = _measure(spec, count, kernels, tell)
            rows.append(row)
    return rows, versions


def _measure(
    spec: ModelSpec, count: int, kernels: Kernels | None, tell: Callable[[str], None]
) -> tuple[GraphSpeed, str]:
    threads = thread_count()
    tell("preparing")
    embedded = default_checkpoint(spec)
    state = random_state(spec, 1) if embedded is None else load_checkpoint(embedded)
    model = FloatModel.from_state_dict(spec, state)
    theirs = TorchEager(model, threads)
    seen = synthetic_images(spec, 16, 1)
    graph = quantise(model, seen[:4], image_source="synthetic")
    ours = Interpreter(graph, kernels=kernels)
    images = np.resize(seen, (count, *seen.shape[1:]))
    prepared = theirs.prepare(model.preprocess(images))

    exact = theirs.run(prepared[:16], 16)
    error = ours.run(images[:16]) * graph.output.scale - exact
    if 10 * np.log10(np.mean(exact**2) / np.mean(error**2)) < _LEAST_DB:
        raise HwgenError(f"Both networks of {spec.name!r} must compute the same, and do not")

    tell("looking for torch's best batch")
    batches = [batch for batch in TORCH_BATCHES if batch < count] + [count]
    trial = {batch: min(_time(partial(theirs.run, prepared, batch), 2)) for batch in batches}
    batch = min(trial, key=lambda size: trial[size])
    seconds: dict[str, list[float]] = {"integer": [], "torch": [trial[batch]]}
    for turn in range(ROUNDS):
        tell(f"round {turn + 1} of {ROUNDS}")
        seconds["torch"] += _time(partial(theirs.run, prepared, batch), 1)
        seconds["integer"] += _time(partial(ours.run, images), 1)
    integer, torch = (count / min(seconds[name]) for name in ("integer", "torch"))
    row = GraphSpeed(
        network=spec.name,
        images=count,
        threads=threads,
        integer=integer,
        torch=torch,
        torch_batch=batch,
        ratio=integer / torch,
    )
    return row, theirs.version


def _time(run: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


def to_json(rows: list[GraphSpeed], versions: dict[str, str]) -> dict[str, Any]:
    """The object of ``--json``."""
    return {"networks": [asdict(row) for row in rows], "versions": versions}
