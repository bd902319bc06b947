# SPDX-License-Identifier: Apache-2.0
"""The bit-exact interpreter of the integer graph: the first link of the golden chain."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hwgen.errors import FormatError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import Batch, last_uses
from hwgen.numerics.compiled import Kernels
from hwgen.threads import map_threads, thread_count

#: Receives every boundary tensor, batch axis first, as soon as it exists.
Tap = Callable[[str, np.ndarray], None]

#: Elements of the largest tensor that a batch may have: its tensors stay in the caches.
_BATCH_ELEMENTS = 1 << 20


class Interpreter:
    """Runs one graph; its weights and constants are converted once.

    NumPy alone, unless there are compiled loops (``compiled_kernels()``), which give the same bits
    sooner: what hardware is held against is NumPy's.
    """

    def __init__(self, graph: IntegerGraph, *, kernels: Kernels | None = None) -> None:
        """Prepare a graph."""
        self.graph = graph
        self.kernels = kernels
        self._steps = [op.prepare() for op in graph.ops]
        self._last_uses = last_uses(graph.ops)
        largest = max(math.prod(tensor.shape) for tensor in graph.tensors.values())
        #: Images of a batch.
        self.batch = max(1, _BATCH_ELEMENTS // largest)

    def run(self, images: np.ndarray, *, tap: Tap | None = None) -> np.ndarray:
        """Return the logits int16 [n, classes] of images uint8 [n, H, W, channels].

        ``tap(name, array)`` is called for every tensor of every batch of images, in execution
        order, by the caller's thread; without it batches are computed in several threads.

        Raises:
            FormatError: images of another type or size.
        """
        spec = self.graph.spec
        expected = (spec.image_size, spec.image_size, spec.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise FormatError(
                f"Images must be uint8 [n, {', '.join(map(str, expected))}],"
                f" not {images.dtype} {list(images.shape)}"
            )
        count = -(-len(images) // self.batch)
        if tap is None:
            count = max(count, min(thread_count(), len(images)))
        batches = np.array_split(images, max(1, count))
        if tap is not None or len(batches) == 1:
            parts = [self._run_batch(batch, tap) for batch in batches]
        else:
            parts = list(map_threads(lambda batch: self._run_batch(batch, None), batches))
        return np.concatenate(parts)

    def _run_batch(self, images: np.ndarray, tap: Tap | None) -> np.ndarray:
        values: dict[str, np.ndarray] = {}
        batch = Batch(images=images, values=values, kernels=self.kernels)
        for step, freed in zip(self._steps, self._last_uses, strict=True):
            for name, array in step(batch).items():
                values[name] = array
                if tap is not None:
                    tap(name, array)
            for name in freed:
                del values[name]
        return values[self.graph.output.name][:, 0]


def run(graph: IntegerGraph, images: np.ndarray, *, tap: Tap | None = None) -> np.ndarray:
    """Return :meth:`Interpreter.run` of a graph that is run once."""
    return Interpreter(graph).run(images, tap=tap)


def run_boundaries(graph: IntegerGraph, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return every boundary tensor of one image uint8 [H, W, channels], without the batch axis."""
    boundaries: dict[str, np.ndarray] = {}

    def keep(name: str, array: np.ndarray) -> None:
        boundaries[name] = array[0]

    run(graph, image[None], tap=keep)
    return boundaries
