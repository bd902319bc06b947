# SPDX-License-Identifier: Apache-2.0
"""Logits of another framework: what agrees, and what a wrong assumption makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import CheckpointError, FormatError, UnexpectedLogitsError, UsageError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.expected import TOLERANCE, Expected, compare_logits, load_expected
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.models import DIGITS_CHECKPOINT

from .networks import SPEC, random_state, torch_forward

STATE = random_state(SPEC)
IMAGES = np.random.default_rng(4).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
MODEL = FloatModel.from_state_dict(SPEC, STATE)
LOGITS = MODEL.classify(IMAGES)


def expected(logits: np.ndarray = LOGITS) -> Expected:
    return Expected(logits=logits, images=None, path="l.npz")


def test_torch_in_float32_agrees():
    images = MODEL.preprocess(IMAGES).astype(np.float32)
    found = compare_logits(expected(torch_forward(SPEC, STATE, images)), LOGITS, MODEL.assumed)
    assert found.images == 6
    assert found.top1_agreement == 1
    assert 0 < found.max_abs_difference < 0.1 * found.bound
    assert found.sqnr_db > 100


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "relu"},
        {"layer_norm_epsilon": 1e-3},
        {"mean": (0.485, 0.456, 0.406)},
        {"std": (0.5, 0.5, 0.499)},
        {"heads": 6, "head_dim": 8},
        {"pooling": "mean"},
        {"qkv_layout": "qkv dim head"},
    ],
)
def test_every_wrong_assumption_is_found(change):
    """What the tensors cannot say: same names, same shapes, other logits."""
    wrong = FloatModel.from_state_dict(replace(SPEC, **change), STATE)
    with pytest.raises(UnexpectedLogitsError) as caught:
        compare_logits(expected(), wrong.classify(IMAGES), wrong.assumed)
    error = caught.value
    for name in change:
        assert f"{name} = " in str(error)
        assert name in error.assumed
    assert error.agreement["max_abs_difference"] > error.agreement["bound"]


def test_the_kind_of_gelu_is_found_in_a_trained_network():
    spec, state = MODELS["digits"], load_checkpoint(DIGITS_CHECKPOINT)
    images = digits_dataset()[2][:20]
    right = expected(FloatModel.from_state_dict(spec, state).classify(images))
    wrong = FloatModel.from_state_dict(replace(spec, activation="gelu_tanh"), state)
    with pytest.raises(UnexpectedLogitsError, match="activation = gelu_tanh"):
        compare_logits(right, wrong.classify(images), wrong.assumed)


def test_figures_are_those_of_the_definitions():
    got = LOGITS.copy()
    got[2, 3] += 0.5 * TOLERANCE * np.abs(LOGITS).max()
    found = compare_logits(expected(), got, {})
    ratio = np.sum(LOGITS**2) / np.sum((LOGITS - got) ** 2)
    assert found.sqnr_db == pytest.approx(10 * np.log10(ratio))
    assert found.max_abs_difference == pytest.approx(0.5 * found.bound)
    assert compare_logits(expected(), LOGITS, {}).sqnr_db is None


def test_the_first_image_that_differs_is_named():
    got = LOGITS.copy()
    got[3, 7] += 2 * TOLERANCE * np.abs(LOGITS).max()
    got[5] += 100
    with pytest.raises(
        UnexpectedLogitsError, match=r"l\.npz: .*first at image 3, logit 7: "
    ) as caught:
        compare_logits(expected(), got, MODEL.assumed)
    assert caught.value.agreement["first_difference"] == {"image": 3, "logit": 7}
    assert caught.value.exit_status == 1


def test_a_model_without_finite_logits():
    with pytest.raises(CheckpointError, match="finite"):
        compare_logits(expected(), np.full_like(LOGITS, np.nan), {})


def test_archives(tmp_path):
    path = tmp_path / "l.npz"
    np.savez(path, logits=LOGITS.astype(np.float32), images=IMAGES, more=np.zeros(3))
    found = load_expected(path, SPEC)
    assert found.logits.dtype == np.float64
    assert np.array_equal(found.images, IMAGES)
    np.savez(path, logits=LOGITS)
    assert load_expected(path, SPEC).images is None


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"images": IMAGES}, "must hold an array 'logits', not 'images'"),
        ({"a\nb": IMAGES}, r"must hold an array 'logits', not 'a\\nb'"),
        ({"logits": LOGITS[:, :10]}, r"floats \[n, 11\] .*\[6, 10\]"),
        ({"logits": LOGITS[0]}, r"floats \[n, 11\]"),
        ({"logits": LOGITS.astype(np.int64)}, r"floats \[n, 11\] .*int64"),
        ({"logits": LOGITS[:0]}, "at least one image"),
        ({"logits": LOGITS * np.nan}, "finite"),
        ({"logits": LOGITS, "images": IMAGES[:5]}, "one for each row"),
        ({"logits": LOGITS, "images": IMAGES[:, :16]}, "images must be uint8"),
        ({"logits": LOGITS, "images": IMAGES / 255}, "images must be uint8"),
    ],
)
def test_archives_that_do_not_fit(tmp_path, arrays, match):
    path = tmp_path / "l.npz"
    np.savez(path, **arrays)
    with pytest.raises(FormatError, match=match):
        load_expected(path, SPEC)


def test_what_is_no_archive(tmp_path):
    with pytest.raises(UsageError, match="missing"):
        load_expected(tmp_path / "none.npz", SPEC)
    (tmp_path / "l.npz").write_text("nothing")
    with pytest.raises(FormatError, match="must be a readable"):
        load_expected(tmp_path / "l.npz", SPEC)
