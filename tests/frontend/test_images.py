# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hwgen.errors import FormatError, UsageError
from hwgen.frontend.images import digits_dataset, load_images, synthetic_images
from hwgen.frontend.models import MODELS

DIGITS = MODELS["digits"]


def test_digits_split():
    train, train_labels, test, test_labels = digits_dataset()
    assert train.shape == (1297, 8, 8, 1)
    assert test.shape == (500, 8, 8, 1)
    assert np.bincount(test_labels).tolist() == [50] * 10
    assert len(train_labels) == 1297
    assert train.dtype == np.uint8
    assert train.max() == 240
    seen = {hashlib.sha256(x.tobytes()).digest() for x in train}
    assert not any(hashlib.sha256(x.tobytes()).digest() in seen for x in test)


def test_synthetic_images_are_seeded_and_independent_of_the_count():
    spec = MODELS["vit_tiny"]
    few, more = synthetic_images(spec, 2, 7), synthetic_images(spec, 3, 7)
    assert few.dtype == np.uint8
    assert few.shape == (2, 224, 224, 3)
    assert np.array_equal(few, more[:2])
    assert not np.array_equal(few, synthetic_images(spec, 2, 8))


def test_synthetic_spectrum_falls_as_one_over_f():
    images = synthetic_images(MODELS["vit_tiny"], 6, 1)[..., 0].astype(float)
    spectrum = np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True)))
    f = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.fftfreq(224)[None])
    bands = [spectrum[:, (f > low) & (f <= 1.2 * low)].mean() for low in (0.02, 0.04, 0.08, 0.16)]
    slopes = np.diff(np.log2(bands))
    assert np.all(np.abs(slopes + 1) < 0.2)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_npz(tmp_path):
    images = synthetic_images(DIGITS, 4, 0)
    path = save(tmp_path / "x.npz", images=images, labels=np.array([0, 1, 2, 9], np.uint8))
    found = load_images(path, DIGITS, limit=3)
    assert np.array_equal(found.images, images[:3])
    assert found.labels.tolist() == [0, 1, 2]
    assert load_images(save(tmp_path / "y.npz", images=images), DIGITS).labels is None


GOOD = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"pixels": GOOD}, "must hold an array 'images', not pixels"),
        ({"images": GOOD.astype(float)}, "must be uint8"),
        ({"images": np.zeros((2, 9, 9, 1), np.uint8)}, "not resized"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "must be uint8"),
        ({"images": GOOD[:0]}, "at least one image"),
        ({"images": GOOD, "labels": np.zeros(3, int)}, r"labels must be integers \[2\]"),
        ({"images": GOOD, "labels": np.array([0, 10])}, r"labels must be 0\.\.9"),
        ({"images": np.array([{}, {}], dtype=object)}, "plain arrays"),
    ],
)
def test_bad_npz(tmp_path, arrays, match):
    with pytest.raises(FormatError, match=match):
        load_images(save(tmp_path / "x.npz", **arrays), DIGITS)


@pytest.mark.parametrize("data", [b"", b"PK", b"text"])
def test_files_that_are_no_archive(tmp_path, data):
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"\.npz"):
        load_images(path, DIGITS)


def test_missing_source(tmp_path):
    with pytest.raises(UsageError, match="missing"):
        load_images(tmp_path / "none", DIGITS)


def test_folder_of_classes(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, level in (("n02", 20), ("n01", 10)):
        (tmp_path / name).mkdir()
        pillow.fromarray(np.full((8, 8), level, np.uint8)).save(tmp_path / name / "a.png")
    found = load_images(tmp_path, DIGITS)
    assert found.labels.tolist() == [0, 1]
    assert found.images[:, 0, 0, 0].tolist() == [10, 20]
    pillow.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "n01" / "b.png")
    with pytest.raises(FormatError, match="not resized"):
        load_images(tmp_path, DIGITS)


def test_folder_without_pillow_gives_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(UsageError, match="needs Pillow"):
        load_images(tmp_path, DIGITS)
