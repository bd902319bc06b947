# SPDX-License-Identifier: Apache-2.0
"""The bit-exact interpreter of the integer graph: the first link of the golden chain."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hwgen.errors import FormatError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    MeanPool,
    Op,
    QueryKeyValue,
    Softmax,
)
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.compiled import Kernels
from hwgen.numerics.image import image_codes, patchify
from hwgen.numerics.layer import Layer, attention
from hwgen.numerics.matmul import attention_matmul
from hwgen.numerics.pooling import row_sum
from hwgen.numerics.requantise import count_saturated, ptf_codes, requantise
from hwgen.threads import map_threads, thread_count

#: Receives every boundary tensor, batch axis first, as soon as it exists.
Tap = Callable[[str, np.ndarray], None]

#: Elements of the largest tensor that a batch may have: its tensors stay in the caches.
_BATCH_ELEMENTS = 1 << 20

#: Operations with a matrix of weights.
_Matrix = Embedding | Linear | QueryKeyValue


class Interpreter:
    """Runs one graph; its weights and constants are converted once.

    NumPy alone, unless there are compiled loops (``compiled_kernels()``), which give the same bits
    sooner: what hardware is held against is NumPy's.
    """

    def __init__(self, graph: IntegerGraph, *, kernels: Kernels | None = None) -> None:
        """Prepare a graph."""
        self.graph = graph
        self.kernels = kernels
        self._layers = {op.name: _layer(op) for op in graph.ops if isinstance(op, _Matrix)}
        self._last_use = _last_use(graph)
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
        for number, op in enumerate(self.graph.ops):
            layer = self._layers.get(op.name)
            made = execute(op, values, images, layer=layer, kernels=self.kernels)
            for name, array in made.items():
                values[name] = array
                if tap is not None:
                    tap(name, array)
            for name in self._last_use[number]:
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


def _last_use(graph: IntegerGraph) -> list[list[str]]:
    """Per operation the tensors that nothing after it reads (the graph's output stays)."""
    last: dict[str, int] = {}
    for number, op in enumerate(graph.ops):
        for name in (*op_inputs(op), *op_outputs(op)):
            last[name] = number
    del last[graph.output.name]
    freed: list[list[str]] = [[] for _ in graph.ops]
    for name, number in last.items():
        freed[number].append(name)
    return freed


def op_inputs(op: Op) -> tuple[str, ...]:
    """Names of the tensors that an operation reads, the streamed operand first."""
    match op:
        case AttentionLogits():
            return (op.query, op.key)
        case AttentionValues():
            return (op.codes, op.value, *(() if op.shifts is None else (op.shifts,)))
        case Linear() if op.residual is not None:
            return (op.input, op.residual)
        case Embedding() | LayerNorm() | Linear() | QueryKeyValue() | Softmax() | MeanPool():
            return (op.input,)
        case _:
            return ()


def op_outputs(op: Op) -> tuple[str, ...]:
    """Names of the tensors that an operation makes."""
    match op:
        case QueryKeyValue():
            return op.outputs
        case Softmax() if op.shifts is not None:
            return (op.output, op.shifts)
        case _:
            return (op.output,)


def _layer(op: _Matrix) -> Layer:
    r = op.requantise
    return Layer(
        op.weights,
        weight_bits=op.weight_bits,
        bias=r.bias,
        multiplier=r.multiplier,
        shift=r.shift,
    )


def execute(
    op: Op,
    values: dict[str, np.ndarray],
    images: np.ndarray,
    *,
    layer: Layer | None = None,
    kernels: Kernels | None = None,
) -> dict[str, np.ndarray]:
    """Return the tensors that one operation makes of ``values`` (or of uint8 ``images``).

    ``layer``: the operation's weights and constants, if they have been prepared. ``kernels``:
    compiled loops, where there are any.
    """
    match op:
        case ImageCodes():
            return {op.output: patchify(image_codes(images), op.patch)}
        case Embedding() | Linear() | QueryKeyValue():
            return _matrix(op, layer or _layer(op), values, kernels)
        case LayerNorm():
            return {op.output: _layer_norm(op, values[op.input], kernels)}
        case AttentionLogits():
            query, key = (_heads(values[name], op.heads) for name in (op.query, op.key))
            out = attention(
                *(query, key.swapaxes(-1, -2)),
                multiplier=op.multiplier,
                shift=op.shift,
                kernels=kernels,
            )
            return {op.output: out}
        case Softmax():
            logits = values[op.input]
            codes, shifts = op.function(
                logits,
                fraction_bits=op.fraction_bits,
                max_length=logits.shape[-1],
                kernels=kernels,
            )
            if op.shifts is None or shifts is None:
                return {op.output: codes}
            return {op.output: codes, op.shifts: shifts}
        case AttentionValues():
            out = attention(
                values[op.codes],
                _heads(values[op.value], op.heads),
                multiplier=op.multiplier,
                shift=op.shift,
                low=op.low,
                high=op.high,
                row_shift=None if op.shifts is None else values[op.shifts],
                kernels=kernels,
            )
            n, heads, tokens, head_dim = out.shape
            joined = out.transpose(0, 2, 1, 3).reshape(n, tokens, heads * head_dim)
            return {op.output: joined}
        case MeanPool():
            total = row_sum(values[op.input][:, op.first :])
            out = requantise(total, bias=0, multiplier=op.multiplier, shift=op.shift)
            return {op.output: out[:, None]}
        case _:
            raise FormatError(f"Operation must be a known one, not {type(op).__name__}")


def clipped_logits(op: AttentionLogits, values: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many attention logits the clip to int8 changes, and how many there are."""
    acc = _logit_accumulators(op, values)
    return count_saturated(acc, bias=0, multiplier=op.multiplier, shift=op.shift), acc.size


def _logit_accumulators(op: AttentionLogits, values: dict[str, np.ndarray]) -> np.ndarray:
    query, key = (_heads(values[name], op.heads) for name in (op.query, op.key))
    return attention_matmul(query, key.swapaxes(-1, -2))


def _matrix(
    op: _Matrix, layer: Layer, values: dict[str, np.ndarray], kernels: Kernels | None
) -> dict[str, np.ndarray]:
    r, rows = op.requantise, values[op.input]
    match op:
        case Embedding():
            return {op.output: _embedding(op, layer, rows, kernels)}
        case Linear() if op.wide or op.residual is not None:
            added = None if op.residual is None else values[op.residual]
            return {op.output: layer.int16(rows, added, kernels=kernels)}
        case Linear():
            out = layer.int8(
                rows,
                zero_point=r.zero_point,
                low=r.low,
                high=r.high,
                table=op.table,
                kernels=kernels,
            )
            return {op.output: out}
        case QueryKeyValue():
            out = layer.int8(rows, zero_point=r.zero_point, low=r.low, high=r.high, kernels=kernels)
            parts = np.split(out, 3, axis=-1)
            return dict(zip(op.outputs, map(np.ascontiguousarray, parts), strict=True))


def _embedding(
    op: Embedding, layer: Layer, codes: np.ndarray, kernels: Kernels | None
) -> np.ndarray:
    first = int(op.class_token)
    patches = op.position[first:]
    added = np.broadcast_to(patches, (len(codes), *patches.shape))
    out = layer.int16(codes, added, kernels=kernels)
    if op.class_token:
        row = np.broadcast_to(op.position[:1], (len(out), 1, out.shape[-1]))
        out = np.concatenate([row, out], axis=1)
    return out


def _layer_norm(op: LayerNorm, residual: np.ndarray, kernels: Kernels | None) -> np.ndarray:
    rows = residual if op.rows is None else residual[:, : op.rows]
    codes = ptf_codes(
        rows, shift=op.ptf_shift, alpha=op.alpha, zero_point=op.zero_point, kernels=kernels
    )
    return ailayernorm(
        codes,
        alpha=op.alpha,
        gamma=op.gamma,
        beta=op.beta,
        zero_point=op.zero_point,
        gamma_shift=op.gamma_shift,
        beta_fraction_bits=op.beta_fraction_bits,
        output_zero_point=op.output_zero_point,
        squares=op.squares,
        max_channels=codes.shape[-1],
        kernels=kernels,
    )


def _heads(array: np.ndarray, heads: int) -> np.ndarray:
    """[n, tokens, heads * head_dim] -> [n, heads, tokens, head_dim]."""
    n, tokens, columns = array.shape
    return array.reshape(n, tokens, heads, columns // heads).transpose(0, 2, 1, 3)
