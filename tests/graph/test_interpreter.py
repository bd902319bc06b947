# SPDX-License-Identifier: Apache-2.0
"""The interpreter against a second, plain model of Python integers and loops.

Nothing is shared but the two softmaxes and AILayerNorm, which have naive models of their own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run, run_boundaries
from hwgen.graph.ops import Linear, MeanPool, Tensor
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.e2softmax import e2softmax
from hwgen.numerics.fractional_softmax import fractional_softmax

from .test_graph import FRACTIONAL, SOLE, SPEC, make_graph


def half_up(value: int, shift: int) -> int:
    return (value + (1 << (shift - 1))) >> shift if shift else value


def clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def dense(x, w, r, *, residual=None, wide=False):
    """Plain requantised product of [M, K] and [K, N]."""
    out = np.zeros((len(x), w.shape[1]), np.int64)
    acc = x.astype(np.int64) @ w.astype(np.int64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            y = (int(acc[i, j]) + int(r.bias[j])) * int(r.multiplier[j])
            y = half_up(y, int(r.shift[j]))
            if residual is not None or wide:
                y += 0 if residual is None else int(residual[i, j])
                out[i, j] = clip(y, -32768, 32767)
            else:
                out[i, j] = clip(y + r.zero_point, r.low, r.high)
    return out


def norm(op, x):
    codes = np.zeros(x.shape, np.int64)
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            y = half_up(int(x[i, c]), op.ptf_shift + int(op.alpha[c])) + op.zero_point
            codes[i, c] = clip(y, 0, 255)
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
    )


def plain(graph: IntegerGraph, image: np.ndarray) -> dict[str, np.ndarray]:
    spec = graph.spec
    ops = {op.name: op for op in graph.ops}
    out: dict[str, np.ndarray] = {}
    patches = []
    for py in range(0, spec.image_size, spec.patch):
        for px in range(0, spec.image_size, spec.patch):
            patches.append(
                [
                    int(image[py + dy, px + dx, c]) - 128
                    for dy in range(spec.patch)
                    for dx in range(spec.patch)
                    for c in range(spec.channels)
                ]
            )
    out["image_codes"] = np.array(patches)
    op = ops["embedding"]
    rows = dense(out["image_codes"], op.weights, op.requantise, residual=op.position[1:])
    x = out["embedding"] = np.concatenate([op.position[:1], rows])
    d, heads = spec.head_dim, spec.heads
    for i in range(spec.depth):
        b = f"blocks.{i}"
        y = out[f"{b}.norm1"] = norm(ops[f"{b}.norm1"], x)
        op = ops[f"{b}.qkv"]
        qkv = dense(y, op.weights, op.requantise)
        for k, letter in enumerate("qkv"):
            out[f"{b}.{letter}"] = qkv[:, k * heads * d : (k + 1) * heads * d]
        logits = np.zeros((heads, len(x), len(x)), np.int64)
        attention = np.zeros((len(x), heads * d), np.int64)
        lop, vop, sop = ops[f"{b}.logits"], ops[f"{b}.attention"], ops[f"{b}.softmax"]
        codes = np.zeros_like(logits)
        shifts = np.zeros((heads, len(x)), np.int64)
        for h in range(heads):
            q, k, v = (out[f"{b}.{letter}"][:, h * d : (h + 1) * d] for letter in "qkv")
            for n in range(len(x)):
                for m in range(len(x)):
                    y = half_up(int(q[n] @ k[m]) * lop.multiplier, lop.shift)
                    logits[h, n, m] = clip(y, -128, 127)
            if sop.function.mode == "sole":
                codes[h] = e2softmax(
                    logits[h], fraction_bits=sop.fraction_bits, vec=sop.function.vec
                )
            else:
                codes[h], shifts[h] = fractional_softmax(logits[h], fraction_bits=sop.fraction_bits)
            for n in range(len(x)):
                for c in range(d):
                    more = int(shifts[h, n])
                    y = half_up(int(codes[h, n] @ v[:, c]) * vop.multiplier, vop.shift + more)
                    attention[n, h * d + c] = clip(y, vop.low, vop.high)
        out[f"{b}.logits"], out[f"{b}.softmax"] = logits, codes
        if sop.function.has_shifts:
            out[f"{b}.softmax.shift"] = shifts
        out[f"{b}.attention"] = attention
        op = ops[f"{b}.proj"]
        x = out[f"{b}.residual1"] = dense(attention, op.weights, op.requantise, residual=x)
        y = out[f"{b}.norm2"] = norm(ops[f"{b}.norm2"], x)
        op = ops[f"{b}.fc1"]
        y = out[f"{b}.gelu"] = op.table[dense(y, op.weights, op.requantise) + 128]
        op = ops[f"{b}.fc2"]
        x = out[f"{b}.residual2"] = dense(y, op.weights, op.requantise, residual=x)
    y = out["norm"] = norm(ops["norm"], x[:1])
    op = ops["head"]
    out["head"] = dense(y, op.weights, op.requantise, wide=True)
    return out


@pytest.mark.parametrize(
    ("seed", "bits", "function"), [(0, 8, SOLE), (1, 4, SOLE), (2, 1, SOLE), (3, 8, FRACTIONAL)]
)
def test_every_boundary_equals_the_plain_model(seed, bits, function):
    graph = make_graph(SPEC, seed, bits, function)
    images = np.random.default_rng(seed).integers(0, 256, (2, 12, 12, 2), dtype=np.uint8)
    for image in images:
        expected = plain(graph, image)
        got = run_boundaries(graph, image)
        assert list(got) == list(graph.tensors)
        for name, tensor in graph.tensors.items():
            assert got[name].dtype == tensor.dtype, name
            assert got[name].shape == tensor.shape, name
            assert np.array_equal(got[name], expected[name]), name
            if tensor.dtype != "uint8":
                assert len(np.unique(got[name])) > 5, f"{name} is dead"


def test_a_batch_equals_its_images():
    graph = make_graph(SPEC)
    images = np.random.default_rng(3).integers(0, 256, (5, 12, 12, 2), dtype=np.uint8)
    logits = run(graph, images)
    assert logits.dtype == np.int16
    assert logits.shape == (5, 7)
    for image, row in zip(images, logits, strict=True):
        assert np.array_equal(run_boundaries(graph, image)["head"][0], row)
    assert run(graph, images[:0]).shape == (0, 7)


def test_mean_pooling():
    graph = make_graph(replace(SPEC, pooling="mean"))
    ops, tensors = list(graph.ops), dict(graph.tensors)
    ops[-2] = replace(ops[-2], rows=None)
    tensors["norm"] = replace(tensors["norm"], shape=(10, 24))
    pool = MeanPool(name="pool", output="pool", input="norm", first=1, multiplier=58254, shift=19)
    tensors["pool"] = Tensor(name="pool", shape=(1, 24), dtype="int8")
    assert isinstance(ops[-1], Linear)
    ops[-1:] = [pool, replace(ops[-1], input="pool")]
    graph = IntegerGraph(spec=graph.spec, ops=tuple(ops), tensors=tensors)
    image = np.random.default_rng(3).integers(0, 256, (12, 12, 2), dtype=np.uint8)
    got = run_boundaries(graph, image)
    total = got["norm"][1:].astype(int).sum(axis=0)
    expected = [clip(half_up(int(t) * 58254, 19), -128, 127) for t in total]
    assert got["pool"][0].tolist() == expected


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 12, 12, 3), np.uint8), np.zeros((1, 12, 12, 2)), np.zeros((12, 12, 2), np.uint8)],
)
def test_other_images_are_refused(images):
    with pytest.raises(FormatError, match=r"Images must be uint8 \[n, 12, 12, 2\]"):
        run(make_graph(SPEC), images)
