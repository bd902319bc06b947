# SPDX-License-Identifier: Apache-2.0
"""The comparison of float model and integer graph against sums written down by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hwgen.frontend.calibration import calibrate
from hwgen.frontend.comparison import (
    Comparison,
    Mass,
    Power,
    compare,
    compare_set,
    decibels,
    image_warnings,
    outlier_warnings,
    quality_warnings,
    row_mass,
)
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import synthetic_images
from hwgen.frontend.quantiser import quantise
from hwgen.graph.interpreter import Interpreter, run, run_boundaries
from hwgen.graph.ops import Softmax
from hwgen.numerics.softmax import SoftmaxFunction

from .networks import SPEC, random_state

MODEL = FloatModel.from_state_dict(SPEC, random_state(SPEC))
IMAGES = synthetic_images(SPEC, 9, 5)
GRAPH = quantise(MODEL, synthetic_images(SPEC, 8, 6))


def _weights(name: str, codes: list[dict[str, np.ndarray]]) -> np.ndarray:
    """What the codes of a fractional softmax stand for."""
    shifts = np.stack([c[f"{name}.shift"] for c in codes]).astype(float)
    return np.stack([c[name] for c in codes]) / 2.0 ** (8 + shifts[..., None])


def test_every_boundary_and_the_logits() -> None:
    found = compare(MODEL, Interpreter(GRAPH), IMAGES)
    exact: dict[str, np.ndarray] = {}
    MODEL.forward(MODEL.preprocess(IMAGES), tap=exact.__setitem__)
    codes = [run_boundaries(GRAPH, image) for image in IMAGES]
    assert list(found.sums.power) == [
        name for name in GRAPH.tensors if name != "image_codes" and not name.endswith(".shift")
    ]
    weights = {name: _weights(name, codes) for name in found.sums.mass}
    for name, power in found.sums.power.items():
        t = GRAPH.tensors[name]
        i = (np.stack([c[name] for c in codes]).astype(float) - t.zero_point) * t.scale
        i = weights.get(name, i)
        f = exact[name]
        assert power.signal == pytest.approx((f * f).sum(), rel=1e-12), name
        assert power.noise == pytest.approx(((f - i) ** 2).sum(), rel=1e-9), name
    assert np.array_equal(found.logits, run(GRAPH, IMAGES))
    f, i = MODEL.classify(IMAGES), found.logits * GRAPH.output.scale
    expected = 10 * math.log10((f**2).sum() / ((f - i) ** 2).sum())
    assert found.sums.sqnr_db["head"] == pytest.approx(expected, abs=0.006)
    assert 5 < expected < 40
    assert found.sums.agreement == np.mean(f.argmax(1) == i.argmax(1))
    for name, mass in found.sums.mass.items():
        rows = weights[name].sum(axis=-1)
        assert mass.rows == rows.size
        assert mass.to_json() == {"mean": round(rows.mean(), 4), "min": round(rows.min(), 4)}


def test_batches_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare_set(MODEL, GRAPH, IMAGES)
    monkeypatch.setattr("hwgen.graph.interpreter._BATCH_ELEMENTS", 1)
    parts = compare_set(MODEL, GRAPH, IMAGES)
    assert (parts.images, parts.agreeing, parts.mass) == (9, whole.agreeing, whole.mass)
    for name, power in whole.power.items():
        assert parts.power[name].noise == pytest.approx(power.noise, rel=1e-9)
    only = compare_set(None, GRAPH, IMAGES)
    assert only.power == {} and only.mass == whole.mass


def test_rows_with_shifts_of_their_own() -> None:
    def softmax(function: SoftmaxFunction) -> Softmax:
        return Softmax(name="s", output="s", input="l", fraction_bits=3, function=function)

    codes = np.full((1, 2, 3, 4), 64, dtype=np.uint8)
    assert row_mass({"s": codes}, softmax(SoftmaxFunction.sole(32))).tolist() == [[[1.0] * 3] * 2]
    op = softmax(SoftmaxFunction.fractional())
    with pytest.raises(KeyError):
        row_mass({"s": codes}, op)
    shift = np.array([[[0, 1, 11], [2, 3, 4]]], dtype=np.uint8)
    expected = [[[1, 0.5, 2**-11], [0.25, 0.125, 0.0625]]]
    assert row_mass({"s": codes, "s.shift": shift}, op).tolist() == expected


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == 20.0
    assert decibels(1.0, 0.0) is None and decibels(0.0, 1.0) is None


@pytest.mark.parametrize(
    ("mean", "told"), [(0.84, True), (0.85, False), (1.1, False), (1.11, True)]
)
def test_a_softmax_that_loses_mass_is_named(mean: float, told: bool) -> None:
    sums = Comparison(images=1, mass={"b.softmax": Mass(rows=2, total=2 * mean, least=0.5)})
    found = quality_warnings(sums)
    assert [w.startswith(f"b.softmax: the weights of a row sum to {mean}") for w in found] == (
        [True] if told else []
    )


def test_a_low_sqnr_is_told() -> None:
    good = Comparison(images=3, power={"head": Power(signal=10**1.5, noise=1.0)})
    assert quality_warnings(good) == []
    bad = Comparison(images=3, power={"head": Power(signal=10**1.49, noise=1.0)})
    (warning,) = quality_warnings(bad)
    assert warning.startswith("logit SQNR is 14.9 dB on 3 images, below 15 dB")


def test_long_rows_of_sole_are_warned_of() -> None:
    # 577 tokens with nearly equal logits: 8-bit codes of scale 2^-8 cannot hold the weights.
    spec = replace(
        SPEC, name="long", image_size=24, patch=1, width=16, depth=1, heads=1, head_dim=8
    )
    state = random_state(spec)
    state["blocks.0.attn.qkv.weight"][:16] *= 0.01
    model = FloatModel.from_state_dict(spec, state)
    images = synthetic_images(spec, 2, 0)
    sole = quantise(model, images, softmax=SoftmaxFunction.sole())
    sums = compare_set(model, sole, images)
    (warning,) = (w for w in quality_warnings(sums) if "softmax" in w)
    assert warning.startswith("blocks.0.softmax: the weights of a row sum to 0.0")
    sums = compare_set(model, quantise(model, images), images)
    assert not [w for w in quality_warnings(sums) if "softmax" in w]
    assert abs(sums.mass["blocks.0.softmax"].mean - 1) <= 0.04


def test_degenerate_calibration_images() -> None:
    image = IMAGES[:1]
    assert image_warnings(IMAGES) == []
    (single,) = image_warnings(image)
    assert "a single image" in single
    (equal,) = image_warnings(np.repeat(image, 3, axis=0))
    assert "all images are equal" in equal
    (some,) = image_warnings(np.concatenate([IMAGES, image]))
    assert "only 9 of 10 differ" in some
    constant = np.concatenate([IMAGES, np.full_like(image, 7)])
    (told,) = image_warnings(constant)
    assert "1 of 10 images are constant (every pixel equal), the first is image 9" in told


def test_outlier_channels_are_named() -> None:
    assert outlier_warnings(calibrate(MODEL, IMAGES)) == []
    state = random_state(SPEC)
    state["blocks.1.mlp.fc1.bias"][17] = 400.0
    model = FloatModel.from_state_dict(SPEC, state)
    found = [w for w in outlier_warnings(calibrate(model, IMAGES)) if "blocks.1.gelu" in w]
    assert len(found) == 1
    assert found[0].startswith("blocks.1.gelu: outlier channels 17 (")
