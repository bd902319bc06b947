# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import CheckpointError, FormatError, UsageError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import (
    FloatModel,
    activation,
    exact_activation,
    expected_shapes,
)
from hwgen.frontend.images import digits_dataset, synthetic_images
from hwgen.frontend.models import MODELS, ModelSpec
from hwgen.frontend.quantiser import (
    calibrate,
    layer_names,
    quantise,
    quantise_weights,
)
from hwgen.frontend.quantiser.weights import RATIO_LIMIT, fixed_point, fixed_points
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run, run_boundaries
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    LayerNorm,
    Linear,
    QueryKeyValue,
)
from hwgen.models import DIGITS_CHECKPOINT
from hwgen.numerics.matmul import matmul
from hwgen.numerics.requantise import requantise, requantise_residual
from hwgen.numerics.softmax import SoftmaxFunction

SPEC = ModelSpec(
    name="small",
    image_size=16,
    patch=4,
    width=48,
    depth=2,
    heads=3,
    head_dim=16,
    mlp_hidden=96,
    classes=11,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)


def random_model(spec: ModelSpec = SPEC, seed: int = 0, **changes) -> FloatModel:
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in expected_shapes(spec).items():
        z = rng.standard_normal(shape) * (0.3 if len(shape) == 1 else 1.2 / np.sqrt(shape[-1]))
        state[name] = (z + ("norm" in name and name.endswith("weight"))).astype(np.float32)
    state["patch_embed.proj.weight"] *= 0.3
    for name, change in changes.items():
        change(state[name.replace("__", ".")])
    return FloatModel.from_state_dict(spec, state)


def sqnr(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(expected**2) / np.mean((expected - got) ** 2)))


@pytest.fixture(scope="module")
def digits():
    model = FloatModel.from_state_dict(MODELS["digits"], load_checkpoint(DIGITS_CHECKPOINT))
    train, _, test, labels = digits_dataset()
    return model, calibrate(model, train[:128]), test, labels


def test_digits_float_and_integer_accuracy(digits):
    model, statistics, test, labels = digits
    top1_float = np.mean(model.classify(test).argmax(1) == labels)
    graph = quantise(model, statistics)
    logits = run(graph, test)
    top1 = np.mean(logits.argmax(1) == labels)
    assert top1_float >= 0.97
    assert top1 >= top1_float - 0.02
    assert sqnr(model.classify(test), logits * graph.output.scale) > 15


def test_fractional_softmax_keeps_the_accuracy(digits, tmp_path):
    model, statistics, test, _ = digits
    expected = model.classify(test)
    found = {}
    for function in (SoftmaxFunction.sole(), SoftmaxFunction.fractional()):
        graph = quantise(model, statistics, softmax=function)
        graph.save(tmp_path / "g")
        logits = run(IntegerGraph.load(tmp_path / "g"), test)
        assert np.array_equal(logits, run(graph, test))
        found[function.mode] = sqnr(expected, logits * graph.output.scale)
        values = [op for op in graph.ops if isinstance(op, AttentionValues)]
        assert [op.shifts is not None for op in values] == [function.has_shifts] * len(values)
    assert found["fractional"] > found["sole"] + 5
    # Everything behind the softmax is calibrated with it: another one afterwards is another graph.
    assert found["fractional"] > 28


def test_the_mode_decides_the_constants_behind_it(digits):
    model, statistics, _, _ = digits
    heads = [
        quantise(model, statistics, softmax=function).ops[-1]
        for function in (SoftmaxFunction.sole(), SoftmaxFunction.fractional())
    ]
    assert not np.array_equal(heads[0].requantise.bias, heads[1].requantise.bias)


@pytest.mark.parametrize(("bits", "least"), [(4, 0.95), (3, 0.95), (2, 0.85), (1, 0.5)])
def test_digits_at_narrow_widths(digits, bits, least):
    model, statistics, test, labels = digits
    graph = quantise(model, statistics, weight_bits=bits)
    assert np.mean(run(graph, test).argmax(1) == labels) >= least


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pooling": "mean"},
        {"pooling": "mean", "class_token": False},
        {"qkv_bias": False, "activation": "relu"},
        {"activation": "gelu_tanh"},
        {"head_dim": 32, "channels": 1, "mean": (0.4,), "std": (0.3,)},
    ],
)
def test_variants_follow_the_float_model(change):
    model = random_model(replace(SPEC, **change))
    images = synthetic_images(model.spec, 24, 1)
    graph = quantise(model, images[:16], squares="exact")
    expected = model.classify(images[16:])
    assert sqnr(expected, run(graph, images[16:]) * graph.output.scale) > 14


def test_every_boundary_follows_the_float_model():
    model = random_model()
    images = synthetic_images(SPEC, 12, 1)
    graph = quantise(model, images[:8])
    reals = {}
    model.forward(model.preprocess(images[8:]), tap=reals.__setitem__)
    ratios = {}

    def tap(name, codes):
        tensor = graph.tensors[name]
        if name in reals:
            real = (codes.astype(float) - tensor.zero_point) * tensor.scale
            ratios[name] = sqnr(reals[name], real)

    run(graph, images[8:], tap=tap)
    shifts = sum(name.endswith(".shift") for name in graph.tensors)
    assert len(ratios) == len(graph.tensors) - 1 - shifts > 20  # nor the image codes
    assert ratios["embedding"] > 35
    assert ratios["blocks.0.norm1"] > 25
    assert min(r for n, r in ratios.items() if "softmax" not in n) > 13, ratios


def test_embedding_folds_mean_and_standard_deviation():
    model = random_model()
    images = synthetic_images(SPEC, 4, 1)
    graph = quantise(model, images)
    op = next(op for op in graph.ops if isinstance(op, Embedding))
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    seen = {}
    run(graph, pixels, tap=seen.__setitem__)
    reals = {}
    model.forward(model.preprocess(pixels), tap=reals.__setitem__)
    difference = seen["embedding"] * graph.tensors["embedding"].scale - reals["embedding"]
    assert np.abs(difference).max() < 0.02 * np.abs(reals["embedding"]).max()
    assert np.array_equal(seen["embedding"][0, 0], op.position[0])


def test_linear_constants_against_their_definition():
    """Zero point, bias and multiplier of fc1 on random codes, against the real-valued layer."""
    model = random_model()
    graph = quantise(model, synthetic_images(SPEC, 8, 1))
    op = next(op for op in graph.ops if op.name == "blocks.1.fc1")
    source = graph.tensors[op.input]
    assert source.zero_point != 0
    r = op.requantise
    codes = np.random.default_rng(0).integers(-60, 60, (50, 48)).astype(np.int8)
    got = requantise(
        matmul(codes, op.weights),
        bias=r.bias,
        multiplier=r.multiplier,
        shift=r.shift,
        zero_point=r.zero_point,
    )
    weights = model.tensors["blocks.1.mlp.fc1.weight"].astype(float).T
    real = (codes.astype(float) - source.zero_point) * source.scale
    real = real @ weights + model.tensors["blocks.1.mlp.fc1.bias"]
    # The scale of the codes in front of the table is not in the graph: fit it, it must be one
    # number.
    inside = (got > -128) & (got < 127)
    x, y = real[inside], got[inside].astype(float) - r.zero_point
    scale = (x @ x) / (x @ y)
    assert inside.mean() > 0.5
    assert np.abs(y - x / scale).max() < 2.5
    table = activation("gelu_erf", scale * (np.arange(-128, 128) - r.zero_point))
    out = graph.tensors[op.output]
    expected = np.clip(np.rint(table / out.scale) + out.zero_point, -128, 127)
    assert np.abs(expected - op.table).max() <= 1


def test_attention_scales_and_clips():
    graph = quantise(random_model(), synthetic_images(SPEC, 8, 1))
    for op in graph.ops:
        if isinstance(op, QueryKeyValue):
            r = op.requantise
            assert (r.zero_point, r.low, r.high) == (0, -127, 127)
            assert all(graph.tensors[name].zero_point == 0 for name in op.outputs)
        if isinstance(op, AttentionLogits):
            scale = graph.tensors[op.query].scale * graph.tensors[op.key].scale / np.sqrt(16)
            assert op.multiplier / 2**op.shift == pytest.approx(
                scale * 2**op.fraction_bits, rel=2**-15
            )


def test_fraction_bits_are_the_largest_that_hold_the_logits():
    model = random_model()
    images = synthetic_images(SPEC, 8, 1)
    statistics = calibrate(model, images)
    seen = {}
    model.forward(model.preprocess(images), tap=lambda n, a: seen.setdefault(n, np.abs(a)))
    for op in quantise(model, statistics).ops:
        if isinstance(op, AttentionLogits):
            magnitude = seen[op.name]
            assert np.mean(magnitude > 127 / 2**op.fraction_bits) <= 1e-4
            assert np.mean(magnitude > 127 / 2 ** (op.fraction_bits + 1)) > 1e-4


def test_final_layer_norm_has_the_class_token_row_only():
    graph = quantise(random_model(), synthetic_images(SPEC, 4, 1))
    norm = next(op for op in graph.ops if op.name == "norm")
    assert isinstance(norm, LayerNorm)
    assert norm.rows == 1
    assert graph.tensors["norm"].shape == (1, 48)


def test_graph_bytes_do_not_depend_on_threads_or_torch(tmp_path):
    code = (
        "import sys, numpy as np; sys.modules['torch'] = None\n"
        "from hwgen.frontend.checkpoint import load_checkpoint\n"
        "from hwgen.frontend.float_model import FloatModel\n"
        "from hwgen.frontend.images import digits_dataset\n"
        "from hwgen.frontend.models import MODELS\n"
        "from hwgen.frontend.quantiser import quantise\n"
        "from hwgen.models import DIGITS_CHECKPOINT\n"
        "m = FloatModel.from_state_dict(MODELS['digits'], load_checkpoint(DIGITS_CHECKPOINT))\n"
        "quantise(m, digits_dataset()[0][:32], weight_bits=4).save(sys.argv[1])\n"
    )
    written = []
    for threads in ("1", "2"):
        path = tmp_path / threads
        environment = {**os.environ, "PYTHONHASHSEED": threads, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
        written.append(path.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("bits", range(1, 9))
def test_weight_codes(bits):
    rng = np.random.default_rng(bits)
    w = rng.standard_normal((64, 10)) * np.exp(rng.standard_normal(10))
    w[3, 4] = 0.0
    codes, scale = quantise_weights(w, bits, np.ones(64), np.zeros(10))
    limit = max(1, 2 ** (bits - 1) - 1)
    assert np.abs(codes).max() == limit
    if bits == 1:
        assert set(np.unique(codes)) == {-1, 1}
        assert codes[3, 4] == 1
        assert scale == pytest.approx(np.abs(w).mean(axis=0), rel=1e-3)
    relative = ((codes * scale - w) ** 2).mean(axis=0) / (w**2).mean(axis=0)
    assert relative.max() < {1: 0.55, 2: 0.3, 3: 0.08, 4: 0.02}.get(bits, 0.005)


def test_narrow_weights_minimise_the_weighed_error():
    rng = np.random.default_rng(0)
    w = rng.laplace(size=(200, 6))
    importance = rng.uniform(0.1, 4, 200)
    codes, scale = quantise_weights(w, 3, importance, np.zeros(6))
    naive = np.abs(w).max(axis=0) / 3
    plain = np.clip(np.rint(w / naive), -3, 3) * naive

    def error(x):
        return (importance[:, None] * (x - w) ** 2).sum(axis=0)

    assert np.all(error(codes * scale) < 0.8 * error(plain))


def test_dead_columns_and_columns_that_are_a_bias_only():
    def no_weights(array):
        array[5:7] = 0

    def bias(array):
        array[5:7] = (0.0, 0.75)

    model = random_model(blocks__0__mlp__fc1__weight=no_weights, blocks__0__mlp__fc1__bias=bias)
    images = synthetic_images(SPEC, 8, 1)
    graph = quantise(model, images)
    op = next(op for op in graph.ops if op.name == "blocks.0.fc1")
    assert isinstance(op, Linear)
    assert op.requantise.multiplier[5] == 0
    assert op.requantise.bias[5] == 0
    seen = {}
    run(graph, images[:1], tap=seen.setdefault)
    out = graph.tensors["blocks.0.gelu"]
    column = (seen["blocks.0.gelu"][0, :, 6].astype(float) - out.zero_point) * out.scale
    assert np.allclose(column, activation("gelu_erf", np.array([0.75])), atol=2 * out.scale)


def test_tiny_weights_with_a_bias_fit():
    def tiny(array):
        array[3] *= 1e-14

    model = random_model(blocks__0__attn__proj__weight=tiny)
    images = synthetic_images(SPEC, 8, 1)
    graph = quantise(model, images)
    assert sqnr(model.classify(images), run(graph, images) * graph.output.scale) > 10


def test_constants_that_cannot_be_represented_are_refused():
    def huge(array):
        array[:] = 0
        array[0] = 1e30

    with pytest.raises(CheckpointError):
        quantise(random_model(norm__bias=huge), synthetic_images(SPEC, 4, 1))

    def zero(array):
        array[:] = 0

    with pytest.raises(CheckpointError, match="must not be zero everywhere"):
        quantise(
            random_model(
                **{
                    name.replace(".", "__"): zero
                    for name in expected_shapes(SPEC)
                    if "norm" not in name
                }
            ),
            synthetic_images(SPEC, 4, 1),
        )


def test_large_means_are_warned_about():
    def shift(array):
        array += 20

    graph = quantise(random_model(pos_embed=shift), synthetic_images(SPEC, 4, 1))
    assert any("blocks.0.norm1: |mean|/sigma" in w for w in graph.metadata.warnings)
    assert not quantise(random_model(), synthetic_images(SPEC, 4, 1)).metadata.warnings


def test_widths_per_layer(digits):
    model, statistics, _, _ = digits
    names = layer_names(model.spec)
    assert names[:3] == ("embedding", "blocks.0.qkv", "blocks.0.proj")
    graph = quantise(model, statistics, weight_bits={"blocks.1.fc1": 3, "head": 5})
    widths = {op.name: op.weight_bits for op in graph.ops if hasattr(op, "weight_bits")}
    assert widths == {n: {"blocks.1.fc1": 3, "head": 5}.get(n, 8) for n in names}
    graph = quantise(model, statistics, weight_bits=2)
    widths = {op.name: op.weight_bits for op in graph.ops if hasattr(op, "weight_bits")}
    assert widths == {n: 8 if n in ("embedding", "head") else 2 for n in names}


@pytest.mark.parametrize("bits", [0, 9, 2.5, True, {"blocks.0.fc1": 0}])
def test_illegal_widths(digits, bits):
    with pytest.raises(UsageError, match=r"must be an integer in 1\.\.8"):
        quantise(digits[0], digits[1], weight_bits=bits)


def test_unknown_layer(digits):
    with pytest.raises(UsageError, match=r"not 'blocks.0.fc3'; the nearest: blocks.0.fc"):
        quantise(digits[0], digits[1], weight_bits={"blocks.0.fc3": 4})


def test_no_images(digits):
    with pytest.raises(FormatError, match="at least one image"):
        quantise(digits[0], np.zeros((0, 8, 8, 1), np.uint8))


def test_residual_form_is_one_rounding():
    """The residual is added after the only rounding: proj and fc2 rely on it."""
    out = requantise_residual(
        np.array([[3]], np.int32),
        bias=[0],
        multiplier=[32768],
        shift=[16],
        residual=np.array([[10]], np.int16),
    )
    assert out.tolist() == [[12]]


def test_logit_saturation_is_counted_on_the_integer_network():
    """What the reports say is what a naive count finds, image by image, before the clip."""

    def large(array):
        array[:96] *= 25  # queries and keys

    model = random_model(blocks__1__attn__qkv__weight=large)
    images = synthetic_images(SPEC, 6, 1)
    graph = quantise(model, images)
    found = graph.metadata.logit_saturation
    ops = {op.name: op for op in graph.ops if isinstance(op, AttentionLogits)}
    assert set(found) == set(ops)
    for name, op in ops.items():
        clipped = count = 0
        for image in images:
            seen = run_boundaries(graph, image)
            q, k = (seen[n].astype(np.int64).reshape(-1, op.heads, 16) for n in (op.query, op.key))
            for head in range(op.heads):
                acc = (q[:, head] @ k[:, head].T) * op.multiplier
                logits = (acc + (1 << (op.shift - 1))) >> op.shift
                clipped += int(((logits < -128) | (logits > 127)).sum())
                count += logits.size
        assert found[name] == clipped / count
    assert found["blocks.1.logits"] > 1e-3
    assert any(w.startswith("blocks.1.logits") and "saturate" in w for w in graph.metadata.warnings)
    assert found["blocks.0.logits"] < 1e-3


def test_multipliers_are_representable_up_to_the_limit():
    ends = (2.0**-31, 1.0, np.nextafter(1.0, 0), 2.0**14, np.nextafter(RATIO_LIMIT, 0))
    for ratio in ends:
        m, e = (int(x[0]) for x in fixed_points(np.array([ratio])))
        assert 1 << 15 <= m < 1 << 16
        assert 1 <= e <= 47
        assert abs(m / 2.0**e - ratio) <= ratio * 2.0**-16
    for ratio in (RATIO_LIMIT, np.nextafter(2.0**15, 0), 2.0**15):
        with pytest.raises(CheckpointError, match="Scale ratio of 'x' must be within"):
            fixed_point(ratio, "x")


def test_tables_hold_the_exact_function():
    x = np.linspace(-8, 8, 1001)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    assert np.abs(exact_activation("gelu_erf", x) - exact).max() < 1e-15
    assert np.abs(activation("gelu_erf", x) - exact).max() > 1e-9  # the fast one is not exact
    assert np.array_equal(exact_activation("relu", x), np.maximum(x, 0))
