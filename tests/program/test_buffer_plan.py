# SPDX-License-Identifier: Apache-2.0
"""Where tensors lie: what is needed at a time shares no words."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from hwgen.config import BANK_ROLES
from hwgen.errors import ConfigError
from hwgen.graph.network import Network, network_of
from hwgen.graph.ops import AttentionLogits, Linear, Op, Softmax, Tensor
from hwgen.program.buffer_plan import BufferPlan, Placement, plan_buffers

from .graphs import spec

MODELS = {
    "plain": spec(),
    "one head": spec(heads=1, head_dim=40),
    "odd": spec(image_size=12, patch=3, width=40, heads=3, head_dim=10, mlp_hidden=24, classes=70),
    "wide patches": spec(image_size=32, patch=16, channels=3, mlp_hidden=16),
    "mean": spec(pooling="mean"),
    "mean, no class token": spec(pooling="mean", class_token=False, width=72, mlp_hidden=8),
}


def plan(network: Network, frames: int = 1) -> BufferPlan:
    return plan_buffers(network, rows=16, value_columns=32, tile_rows=80, frames=frames)


def words(place: Placement) -> range:
    return range(place.base, place.base + place.slices * place.stride)


def check_shares(network: Network, found: BufferPlan, frames: int = 1) -> int:
    """What is needed at a time must share no words; how many pairs share some."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    in_place = set()
    for number, op in enumerate(network.ops):
        for tensor in op.outputs:
            first[tensor] = last[tensor] = number
        for tensor in op.inputs:
            last[tensor] = number
        if isinstance(op, Linear) and op.residual is not None:
            assert found.places[op.output] == found.places[op.residual]
            in_place.add((op.residual, op.output))
    needed = {tensor: (first[tensor], last[tensor]) for tensor in found.places}
    if frames > 1:
        needed["image_codes"] = (0, len(network.ops))
    places = dict(found.places)
    for name, place in found.constants.items():
        places[name + ".constant"], needed[name + ".constant"] = place, (0, len(network.ops))
    shared = 0
    for one, other in combinations(places, 2):
        if places[one].role != places[other].role or (one, other) in in_place:
            continue
        apart = set(words(places[one])).isdisjoint(words(places[other]))
        if needed[one][0] <= needed[other][1] and needed[other][0] <= needed[one][1]:
            assert apart, (one, other)
        shared += not apart
    sizes = dict(zip(BANK_ROLES, found.words, strict=True))
    for place in places.values():
        assert words(place).stop <= sizes[place.role]
    return shared


@pytest.mark.parametrize("frames", (1, 2))
@pytest.mark.parametrize("name", MODELS)
def test_what_is_needed_at_a_time_shares_no_words(name: str, frames: int) -> None:
    network = network_of(MODELS[name])
    found = plan(network, frames)
    scored = [op for op in network.ops if isinstance(op, AttentionLogits | Softmax)]
    assert set(found.places) == set(network.tensors) - {t for op in scored for t in op.outputs}
    assert ("pool" in found.constants) == ("mean" in name)
    assert check_shares(network, found, frames) > 10  # words are used again


def random_network(rng: np.random.Generator) -> Network:
    """LayerNorms and linear layers of tensors from anywhere before, narrow and wide, in place."""
    model = spec()
    layers = {op.name: op for op in network_of(model).ops}
    norm, fc1, head = layers["blocks.0.norm1"], layers["blocks.0.fc1"], layers["head"]
    assert isinstance(fc1, Linear) and isinstance(head, Linear)
    ops = [layers["image_codes"], layers["embedding"]]
    tensors = {name: network_of(model).tensors[name] for name in ("image_codes", "embedding")}
    bytes_, streams = ["image_codes"], ["embedding"]
    for number in range(24):
        name = f"t{number}"
        kind = rng.integers(4)
        source = str(rng.choice(bytes_))
        added = [s for s in streams if tensors[s].shape[0] == tensors[source].shape[0]]
        if kind == 0:
            op: Op = replace(norm, name=name, output=name, input=str(rng.choice(streams)))
            bytes_.append(name)
        elif kind == 1:
            columns = int(rng.integers(1, 6)) * 16
            weights = np.zeros((tensors[source].shape[1], columns), np.int8)
            op = replace(fc1, name=name, output=name, input=source, weights=weights)
            bytes_.append(name)
        else:
            weights = np.zeros((tensors[source].shape[1], model.width), np.int8)
            op = replace(head, name=name, output=name, input=source, weights=weights)
            streams.append(name)
            if kind == 3 and added:
                op = replace(op, wide=False, residual=str(rng.choice(added)))
                streams.remove(op.residual)
        ops.append(op)
        shape = tensors[op.inputs[0]].shape
        columns = op.weights.shape[1] if isinstance(op, Linear) else shape[1]
        wide = isinstance(op, Linear) and op.is_int16
        tensors[name] = Tensor(
            name=name, shape=(shape[0], columns), dtype="int16" if wide else "int8"
        )
    return Network(spec=model, ops=tuple(ops), tensors=tensors)


def test_networks_of_any_order() -> None:
    rng = np.random.default_rng(0)
    shared = 0
    for _ in range(30):
        network = random_network(rng)
        shared += check_shares(network, plan(network))
    assert shared > 600


def test_words_that_become_free_are_used_again() -> None:
    """The lowest that are enough: the third tensor goes between the second and the fourth."""
    network = network_of(spec(depth=1))
    layers = {op.name: op for op in network.ops}
    fc1, image = layers["blocks.0.fc1"], layers["image_codes"]
    ops = [image]
    tensors = {"image_codes": network.tensors["image_codes"]}
    for name, source, columns in (
        ("a", "image_codes", 16),
        ("b", "image_codes", 48),
        ("c", "image_codes", 32),  # the last reader of the image: its 16 words are free behind it
        ("d", "a", 32),  # does not fit there
        ("e", "a", 16),  # fits; the last reader of a
        ("f", "b", 16),  # where a was
        ("g", "e", 16),  # where b was
        ("h", "f", 16),  # where e was
        ("i", "c", 16),
    ):
        assert isinstance(fc1, Linear)
        weights = np.zeros((tensors[source].shape[1], columns), np.int8)
        ops.append(replace(fc1, name=name, output=name, input=source, weights=weights))
        tensors[name] = Tensor(name=name, shape=(16, columns), dtype="int8")
    places = plan(Network(spec=network.spec, ops=tuple(ops), tensors=tensors)).places
    assert {name: place.base // 16 for name, place in places.items()} == {
        **{"image_codes": 0, "a": 1, "b": 2, "c": 5, "d": 7, "e": 0, "f": 1},
        **{"g": 2, "h": 0, "i": 0},
    }


def test_a_place_is_what_a_tensor_needs() -> None:
    found = plan(network_of(MODELS["odd"])).places
    key, value = found["blocks.0.k"], found["blocks.0.v"]
    assert (key.base, value.base) == (0, key.slices * 17)
    assert key.groups == value.groups == 3 and found["blocks.0.q"].slices == 3
    assert found["blocks.0.attention"] == found["blocks.0.q"]
    assert (found["norm"].stride, found["head"].stride) == (1, 1)
    assert found["head"].filled and not found["blocks.0.gelu"].filled


def test_a_stationary_operand_is_read_in_whole_tiles() -> None:
    """V of 32 columns at a time where a head has one word: the last head's tile reads one more."""
    network = network_of(spec())
    sizes = [plan_buffers(network, rows=16, value_columns=n, tile_rows=80).words for n in (16, 32)]
    assert sizes[1][3] - sizes[0][3] == 17
    assert sizes[0][:3] + sizes[0][4:] == sizes[1][:3] + sizes[1][4:]


def test_nothing_is_added_to_what_is_read_later() -> None:
    network = network_of(spec(depth=1))
    ops: list[Op] = [
        replace(op, input="embedding") if op.name == "blocks.0.norm2" else op for op in network.ops
    ]
    with pytest.raises(ConfigError, match=r"be read for the last time by blocks\.0\.proj"):
        plan(replace(network, ops=tuple(ops)))
