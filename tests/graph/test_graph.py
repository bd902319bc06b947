# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import FormatError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import (
    AttentionLogits,
    AttentionValues,
    Embedding,
    ImageCodes,
    LayerNorm,
    Linear,
    Op,
    QueryKeyValue,
    Requantise,
    Softmax,
    Tensor,
)
from hwgen.graph.safetensors_file import read_safetensors, write_safetensors
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import SoftmaxFunction


def constants(rng, columns: int, bits: int = 8, **changes) -> Requantise:
    finer = {8: 0, 4: 4, 1: 5}[bits]  # narrow weights make smaller accumulators
    return Requantise(
        bias=rng.integers(-500, 500, columns, dtype=np.int32),
        multiplier=rng.integers(1 << 15, 1 << 16, columns, dtype=np.uint16),
        shift=rng.integers(20 - finer, 24 - finer, columns).astype(np.uint8),
        **changes,
    )


def weights(rng, rows: int, columns: int, bits: int = 8) -> np.ndarray:
    if bits == 1:
        return rng.choice(np.array([-1, 1], np.int8), (rows, columns))
    limit = (1 << (bits - 1)) - 1
    return rng.integers(-limit, limit + 1, (rows, columns), dtype=np.int8)


SOLE = SoftmaxFunction.sole(8)
FRACTIONAL = SoftmaxFunction.fractional()


def make_graph(
    spec: ModelSpec, seed: int = 0, bits: int = 8, function: SoftmaxFunction = SOLE
) -> IntegerGraph:
    """A hand-made graph without the quantiser: random constants, spread results."""
    rng = np.random.default_rng(seed)
    ops: list[Op] = []
    tensors: dict[str, Tensor] = {}
    t, w, a = spec.tokens, spec.width, spec.attention_width

    def add(op: Op, shape, dtype, names=None):
        ops.append(op)
        for name in names or (op.output,):
            tensors[name] = Tensor(name=name, shape=shape, dtype=dtype, scale=0.5)

    def norm(name, source, rows=None):
        op = LayerNorm(
            name=name,
            output=name,
            input=source,
            alpha=rng.integers(0, 4, w).astype(np.uint8),
            gamma=rng.integers(-127, 128, w, dtype=np.int8),
            beta=rng.integers(-4000, 4000, w, dtype=np.int32),
            ptf_shift=2,
            zero_point=120,
            gamma_shift=2,
            beta_fraction_bits=8,
            output_zero_point=3,
            rows=rows,
        )
        add(op, (rows or t, w), "int8")

    def linear(name, source, output, columns, rows=t, **changes):
        k = tensors[source].shape[1]
        clip = changes.pop("clip", {})
        op = Linear(
            name=name,
            output=output,
            input=source,
            weights=weights(rng, k, columns, bits),
            weight_bits=bits,
            requantise=constants(rng, columns, bits, **clip),
            **changes,
        )
        wide = changes.get("residual") or changes.get("wide")
        add(op, (rows, columns), "int16" if wide else "int8")

    image = ImageCodes(name="image", output="image_codes", patch=spec.patch)
    add(image, (spec.patches, spec.patch_values), "int8")
    embedding = Embedding(
        name="embedding",
        output="embedding",
        input="image_codes",
        weights=weights(rng, spec.patch_values, w),
        weight_bits=8,
        requantise=constants(rng, w),
        position=rng.integers(-900, 900, (t, w), dtype=np.int16),
        class_token=spec.class_token,
    )
    add(embedding, (t, w), "int16")
    stream = "embedding"
    for i in range(spec.depth):
        b = f"blocks.{i}"
        norm(f"{b}.norm1", stream)
        qkv = QueryKeyValue(
            name=f"{b}.qkv",
            output=b,
            input=f"{b}.norm1",
            weights=weights(rng, w, 3 * a, bits),
            weight_bits=bits,
            requantise=constants(rng, 3 * a, bits, low=-127),
            heads=spec.heads,
            head_dim=spec.head_dim,
        )
        add(qkv, (t, a), "int8", qkv.outputs)
        square = (spec.heads, t, t)
        logits = AttentionLogits(
            name=f"{b}.logits",
            output=f"{b}.logits",
            query=f"{b}.q",
            key=f"{b}.k",
            heads=spec.heads,
            multiplier=40000,
            shift=22,
            fraction_bits=4,
        )
        add(logits, square, "int8")
        softmax = Softmax(
            name=f"{b}.softmax",
            output=f"{b}.softmax",
            input=logits.output,
            fraction_bits=4,
            function=function,
        )
        add(softmax, square, "uint8")
        if softmax.shifts is not None:
            tensors[softmax.shifts] = Tensor(name=softmax.shifts, shape=square[:2], dtype="uint8")
        values = AttentionValues(
            name=f"{b}.attention",
            output=f"{b}.attention",
            codes=softmax.output,
            value=f"{b}.v",
            heads=spec.heads,
            multiplier=50000,
            shift=23,
            shifts=softmax.shifts,
        )
        add(values, (t, a), "int8")
        linear(f"{b}.proj", values.output, f"{b}.residual1", w, residual=stream)
        norm(f"{b}.norm2", f"{b}.residual1")
        table = np.arange(-128, 128).astype(np.int8)[::-1].copy()
        linear(f"{b}.fc1", f"{b}.norm2", f"{b}.gelu", spec.mlp_hidden, table=table)
        stream = f"{b}.residual2"
        linear(f"{b}.fc2", f"{b}.gelu", stream, w, residual=f"{b}.residual1")
    norm("norm", stream, rows=1)
    linear("head", "norm", "head", spec.classes, rows=1, wide=True)
    return IntegerGraph(spec=spec, ops=tuple(ops), tensors=tensors)


SPEC = ModelSpec(
    name="t",
    image_size=12,
    channels=2,
    patch=4,
    width=24,
    depth=2,
    heads=2,
    head_dim=8,
    mlp_hidden=40,
    classes=7,
    mean=(0.5, 0.5),
    std=(0.5, 0.5),
)


def with_op(graph: IntegerGraph, name: str, **changes) -> tuple[Op, ...]:
    return tuple(replace(op, **changes) if op.name == name else op for op in graph.ops)


def test_save_load_save_is_the_identity(tmp_path):
    graph = make_graph(SPEC)
    graph.save(tmp_path / "a")
    again = IntegerGraph.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert again.spec == graph.spec
    assert dict(again.tensors) == dict(graph.tensors)
    assert again.metadata == graph.metadata
    for one, other in zip(graph.ops, again.ops, strict=True):
        for f in dataclasses.fields(one):
            a, b = getattr(one, f.name), getattr(other, f.name)
            if isinstance(a, Requantise):
                assert np.array_equal(a.bias, b.bias)
                assert a.low == b.low
            else:
                assert np.array_equal(a, b), f.name


def test_macs_of_deit_tiny():
    geometry = ModelSpec(name="deit", width=192, depth=12, heads=3, mlp_hidden=768)
    assert make_graph(geometry).macs() == 1_253_683_200


def refused(match: str, ops=None, tensors=None, spec=SPEC):
    graph = make_graph(SPEC)
    with pytest.raises(FormatError, match=match):
        IntegerGraph(
            spec=spec, ops=graph.ops if ops is None else ops, tensors=tensors or graph.tensors
        )


def bad_requantise(graph, **changes):
    op = next(op for op in graph.ops if op.name == "blocks.0.proj")
    return with_op(graph, "blocks.0.proj", requantise=replace(op.requantise, **changes))


def test_rules():
    graph = make_graph(SPEC)
    ops = graph.ops
    refused("at least one operation", ops=())
    refused("names must be unique, not 'image' twice", ops=(*ops, ops[0]))
    refused("must be produced once", ops=(*ops, replace(ops[0], name="x")))
    refused("must be produced by an earlier operation", ops=ops[2:])
    refused("not left over", tensors={**graph.tensors, "x": graph.tensors["head"]})
    refused(
        "Tensor 'head' .* must be int16",
        tensors={n: t for n, t in graph.tensors.items() if n != "head"},
    )
    wrong = {**graph.tensors, "norm": replace(graph.tensors["norm"], scale=float("nan"))}
    refused("Scale of tensor 'norm' must be positive", tensors=wrong)
    wrong = {**graph.tensors, "norm": replace(graph.tensors["norm"], shape=(2, 24))}
    refused(r"'norm' .* must be int8 \[1, 24\]", tensors=wrong)
    refused("Last operation must give", spec=replace(SPEC, classes=8))
    refused("patch must be the model's 4", ops=with_op(graph, "image", patch=2))


def test_constants_must_be_in_range():
    graph = make_graph(SPEC)
    refused("multiplier.*32768", ops=bad_requantise(graph, multiplier=np.full(24, 100, np.uint16)))
    refused("shift.*1..47", ops=bad_requantise(graph, shift=np.full(24, 48, np.uint8)))
    refused("fit int32", ops=bad_requantise(graph, bias=np.full(24, 2**31 - 1, np.int32)))
    refused("must have shape", ops=bad_requantise(graph, bias=np.zeros(23, np.int32)))
    refused("array of int32", ops=bad_requantise(graph, bias=np.zeros(24, np.int64)))
    refused("default zero point and clip", ops=bad_requantise(graph, zero_point=1))
    for name, change, match in (
        ("blocks.0.norm1", {"alpha": np.full(24, 4, np.uint8)}, "alpha"),
        ("blocks.0.norm1", {"gamma": np.full(24, -128, np.int8)}, "gamma"),
        ("blocks.0.norm1", {"beta": np.full(24, 1 << 23, np.int32)}, "beta"),
        ("blocks.0.norm1", {"ptf_shift": 12}, "ptf_shift"),
        ("blocks.0.norm1", {"rows": 11}, "rows"),
        ("blocks.0.logits", {"fraction_bits": 16}, "fraction_bits"),
        ("blocks.0.logits", {"multiplier": 1}, "multiplier"),
        ("blocks.0.logits", {"heads": 3}, "heads must divide"),
        ("blocks.0.softmax", {"fraction_bits": 16}, "fraction_bits"),
        ("blocks.0.softmax", {"function": None}, "function must be a softmax, not NoneType"),
        ("blocks.0.fc1", {"table": np.zeros(255, np.int8)}, "table"),
        ("blocks.0.fc1", {"weight_bits": 4}, "weights"),
        ("blocks.0.fc1", {"weight_bits": 9}, "weight_bits"),
        ("blocks.0.proj", {"residual": "blocks.0.norm2"}, "earlier operation"),
        ("blocks.0.proj", {"residual": "blocks.0.norm1"}, "must be int16"),
        ("blocks.0.proj", {"wide": True}, "wide must be False"),
        ("head", {"wide": False}, "must be int8"),
    ):
        refused(match, ops=with_op(graph, name, **change))
    graph = make_graph(SPEC, function=FRACTIONAL)
    for name, change, match in (
        ("blocks.0.attention", {"shifts": None}, "shifts must be 'blocks.0.softmax.shift'"),
        ("blocks.0.attention", {"shift": 36}, r"shift must be in 1\.\.35, not 36"),
    ):
        refused(match, ops=with_op(graph, name, **change), tensors=graph.tensors)


def rewrite(path, change):
    arrays, metadata = read_safetensors(path)
    document = json.loads(metadata["hwgen.graph"])
    change(document, arrays)
    write_safetensors(path, arrays, {"hwgen.graph": json.dumps(document)})


def function_of(document):
    return next(op["function"] for op in document["ops"] if op["type"] == "Softmax")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda d, a: function_of(d).update(mode="exact"),
            r"ops\[\d+\]\.function\.mode must be 'sole' or",
        ),
        (lambda d, a: function_of(d).update(vec=0), "vec must be at least 1, not 0"),
        (lambda d, a: function_of(d).update(divider_bits=4), "divider_bits must be absent in mode"),
        (lambda d, a: function_of(d).pop("vec"), r"function\.vec must be an integer, not None"),
        (lambda d, a: d.update(schema_version=1), "made by version 1: quantise again"),
        (lambda d, a: d["metadata"].update(assumed=[]), r"metadata\.assumed must be a table"),
        (lambda d, a: d["metadata"].update(assumed={"x": 1}), r"assumed\.x must be a table"),
        (
            lambda d, a: d["metadata"].update(assumed={"x": {"value": {}, "source": "y"}}),
            "value of an assumption must be",
        ),
        (
            lambda d, a: d["metadata"].update(assumed={"x": {"value": 1, "source": "\x1b[2J"}}),
            "source of an assumption must be",
        ),
        (lambda d, a: d.pop("ops"), "ops must be stated, and is missing"),
        (lambda d, a: d["ops"][0].update(type="Reshape"), r"ops\[0\]\.type must be one of"),
        (lambda d, a: d["ops"][0].update(type=["x"]), r"ops\[0\]\.type must be one of"),
        (lambda d, a: d["ops"][0].update(colour=1), r"ops\[0\]\.colour must be a known key"),
        (lambda d, a: d["ops"][-1].pop("residual"), r"\]\.residual must be stated"),
        (lambda d, a: d["tensors"][2].pop("scale"), r"tensors\[2\]\.scale must be stated"),
        (lambda d, a: function_of(d).update(colour=1), r"function\.colour must be a known key"),
        (lambda d, a: d["ops"][1].update(class_token=1), r"class_token must be true or false"),
        (
            lambda d, a: d["ops"][1].update(weights={"array": "x"}),
            r"weights\.array must be one of the",
        ),
        (lambda d, a: d["ops"][1].update(weights=3), r"ops\[1\]\.weights must be a table"),
        (lambda d, a: a.update(extra=np.zeros(1, np.int8)), "must belong to one operation"),
        (lambda d, a: d["spec"].update(width=0), "'width' must be"),
        (
            lambda d, a: d["tensors"][0].update(shape=[9, "x"]),
            r"tensors\[0\]\.shape\[1\] must be an integer",
        ),
        (lambda d, a: d["tensors"].append(d["tensors"][0]), "names of tensors must be unique"),
        (lambda d, a: d.update(ops=None), "ops must be a list, not null"),
        (lambda d, a: d.update(metadata=[]), "metadata must be a table"),
        (lambda d, a: a.update({"head.weights": a["head.weights"].T.copy()}), "weights must have"),
    ],
)
def test_malformed_files(tmp_path, change, match):
    path = tmp_path / "g"
    make_graph(SPEC).save(path)
    rewrite(path, change)
    with pytest.raises(FormatError, match=match):
        IntegerGraph.load(path)


def test_a_checkpoint_is_no_graph(tmp_path):
    write_safetensors(tmp_path / "c", {"a": np.zeros(2, np.float32)}, {"format": "pt"})
    with pytest.raises(FormatError, match="hwgen quantize"):
        IntegerGraph.load(tmp_path / "c")
    with pytest.raises(FormatError, match="must be readable"):
        IntegerGraph.load(tmp_path / "none")
