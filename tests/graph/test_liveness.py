# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.liveness import check_alive, measure_liveness
from hwgen.graph.ops import Linear

from .test_graph import SPEC, make_graph

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 2), dtype=np.uint8)


def with_head(graph: IntegerGraph, **changes) -> IntegerGraph:
    head = graph.ops[-1]
    assert isinstance(head, Linear)
    changed = replace(head, requantise=replace(head.requantise, **changes))
    return IntegerGraph(spec=graph.spec, ops=(*graph.ops[:-1], changed), tensors=graph.tensors)


def test_numbers_of_a_hand_made_graph():
    found = measure_liveness(make_graph(SPEC), IMAGES)
    rows = {row.name: row for row in found.boundaries}
    assert rows["image_codes"].codes > 240
    assert rows["image_codes"].saturation == 0
    assert rows["blocks.0.softmax"].codes <= 16
    assert found.logit_spread > 0
    assert found.image_spread > 0


def test_constant_logits_are_dead():
    graph = with_head(make_graph(SPEC), multiplier=np.zeros(7, np.uint16))
    with pytest.raises(HwgenError, match=r"head uses 1 codes.*standard deviation of the logits"):
        check_alive(graph, IMAGES)


def test_saturated_boundaries_are_dead():
    graph = with_head(make_graph(SPEC), shift=np.full(7, 1, np.uint8))
    with pytest.raises(HwgenError, match="of head saturate"):
        check_alive(graph, IMAGES)
