# SPDX-License-Identifier: Apache-2.0
"""The network of a specification, and that every part of the flow knows its operations."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from hwgen.frontend.quantiser import quantise_operation
from hwgen.graph.network import layer_names, network_of
from hwgen.graph.ops import OP_TYPES, Op, QueryKeyValue, Weighted, last_uses
from hwgen.graph.spec import ModelSpec
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.program.lower.context import lower_operation

from .test_graph import SPEC, make_graph

DEIT = ModelSpec(name="deit", width=192, depth=12, heads=3, mlp_hidden=768)


def test_it_is_the_network_of_a_graph() -> None:
    """Of one that is written by hand, operation by operation."""
    for function in (SoftmaxFunction.sole(8), SoftmaxFunction.fractional()):
        network, graph = network_of(SPEC, softmax=function), make_graph(SPEC, function=function)
        assert [(type(op), op.inputs, op.outputs) for op in network.ops] == [
            (type(op), op.inputs, op.outputs) for op in graph.ops
        ]
        assert {name: (t.shape, t.dtype) for name, t in network.tensors.items()} == {
            name: (t.shape, t.dtype) for name, t in graph.tensors.items()
        }
        assert network.macs() == graph.macs()


def test_a_large_network_takes_no_memory() -> None:
    network = network_of(DEIT)
    assert network.macs() == 1_253_683_200
    for op in network.ops:
        if isinstance(op, Weighted):
            assert op.weights.strides == (0, 0) and op.requantise.bias.strides == (0,)
    assert network_of(DEIT) is network


def test_mean_pooling_reads_all_tokens() -> None:
    network = network_of(replace(SPEC, pooling="mean", class_token=False))
    assert [op.name for op in network.ops[-3:]] == ["norm", "pool", "head"]
    shapes = [network.tensors[name].shape for name in ("norm", "pool", "head")]
    assert shapes == [(9, 24), (1, 24), (1, 7)]


def test_widths() -> None:
    widths = {"blocks.0.qkv": ((8, 2), (4, 6)), "head": 3}
    ops = {op.name: op for op in network_of(SPEC, weight_bits=widths).ops}
    assert {name: ops[name].weight_bits for name in layer_names(SPEC)} == {
        **dict.fromkeys(layer_names(SPEC), 8),
        "head": 3,
    }
    projections = ops["blocks.0.qkv"]
    assert isinstance(projections, QueryKeyValue) and projections.channel_bits is not None
    assert projections.channel_bits.tolist() == 3 * [8, 8, *6 * [4], 8, 8, *6 * [4]]
    ops = {op.name: op for op in network_of(SPEC, weight_bits=2).ops}
    encoder = [ops[name].weight_bits for name in layer_names(SPEC)[1:-1]]
    assert len(encoder) == 8 and set(encoder) == {2} and ops["head"].weight_bits == 8


def test_tensors_are_dropped_behind_their_last_reader() -> None:
    ops = network_of(SPEC).ops
    freed = dict(zip([op.name for op in ops], last_uses(ops), strict=True))
    assert freed["blocks.0.logits"] == ["blocks.0.q", "blocks.0.k"]
    assert freed["blocks.0.proj"] == ["embedding", "blocks.0.attention"]
    assert freed["head"] == ["norm"]
    assert sorted(name for names in freed.values() for name in names) == sorted(
        set(network_of(SPEC).tensors) - {"head"}
    )


@pytest.mark.parametrize("kind", OP_TYPES.values())
def test_every_operation_is_executed_quantised_and_lowered(kind: type[Op]) -> None:
    """And stands in a network."""
    networks = [network_of(SPEC), network_of(replace(SPEC, pooling="mean"))]
    assert any(isinstance(op, kind) for network in networks for op in network.ops)
    for function in (quantise_operation, lower_operation):
        assert function.dispatch(kind) is not function.dispatch(Op)


def test_an_operation_says_what_it_reads_makes_and_does() -> None:
    assert Op.__abstractmethods__ == {"inputs", "shapes", "execute"}
    for kind in OP_TYPES.values():
        assert not inspect.isabstract(kind), kind


def test_an_operation_that_nothing_quantises_is_named() -> None:
    refuse: Any = quantise_operation.dispatch(Op)
    with pytest.raises(TypeError, match="must be a known one, not NoneType"):
        refuse(None, None)
