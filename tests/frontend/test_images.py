# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest

from hwgen.errors import FormatError, UsageError
from hwgen.frontend.images import ImageSet, digits_dataset, load_images, synthetic_images
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

    def save(name, level):
        (tmp_path / name).mkdir()
        pillow.fromarray(np.full((8, 8), level, np.uint8)).save(tmp_path / name / "a.png")

    save("n02", 20)
    save("n01", 10)
    found = load_images(tmp_path, DIGITS)
    assert found.images[:, 0, 0, 0].tolist() == [10, 20]
    # Two of ten classes: which ones, the names do not say.
    assert found.labels is None
    assert "10 classes" in found.note
    for level in range(3, 11):
        save(f"n{level:02}", 10 * level)
    found = load_images(tmp_path, DIGITS)
    assert found.labels.tolist() == list(range(10))
    assert found.note is None
    (tmp_path / "numbers").mkdir()
    for name in ("9", "02"):  # named by number
        save(f"numbers/{name}", 7)
    assert load_images(tmp_path / "numbers", DIGITS).labels.tolist() == [2, 9]
    (tmp_path / "numbers" / "10").mkdir()
    assert load_images(tmp_path / "numbers", DIGITS).labels is None
    shutil.rmtree(tmp_path / "numbers")
    (tmp_path / "from 1").mkdir()
    for level in range(1, 11):  # sorted as text 10 follows 1
        save(f"from 1/{level}", level)
    assert load_images(tmp_path / "from 1", DIGITS).labels is None
    shutil.rmtree(tmp_path / "from 1")
    pillow.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "n01" / "b.png")
    with pytest.raises(FormatError, match="not resized"):
        load_images(tmp_path, DIGITS)


def test_folder_without_pillow_gives_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(UsageError, match="needs Pillow"):
        load_images(tmp_path, DIGITS)


def test_identity_does_not_depend_on_the_place(tmp_path):
    images = np.arange(192, dtype=np.uint8).reshape(3, 8, 8, 1)
    found = []
    for index, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / f"{name}.npz", images=images ^ (index == 2))
        found.append(load_images(tmp_path / name / f"{name}.npz", DIGITS).identity)
    assert found[0] == found[1] != found[2]
    assert found[0].startswith("sha256:")
    synthetic = ImageSet(images=images, labels=None, source="synthetic")
    assert synthetic.identity == "synthetic"


def npz_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy_header(shape, descr="|u1"):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_a_small_archive_that_declares_petabytes_is_refused_by_its_header(tmp_path):
    path = npz_of(tmp_path / "x.npz", {"images.npy": npy_header((1 << 44, 8, 8, 1)) + bytes(64)})
    with pytest.raises(FormatError, match=r"must take 1125899906842624 bytes, but the archive"):
        load_images(path, DIGITS)
    path = npz_of(tmp_path / "x.npz", {"images.npy": npy_header((1 << 70, 8, 8, 1))})
    with pytest.raises(FormatError, match="shape must be up to 8 sizes"):
        load_images(path, DIGITS)


def test_damaged_archives(tmp_path):
    """Every byte of a small archive flipped, one after the other: no other exception escapes."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=synthetic_images(DIGITS, 2, 0))
    good = path.read_bytes()
    refused = 0
    for place in range(len(good)):
        data = bytearray(good)
        data[place] ^= 0x21
        path.write_bytes(data)
        try:
            load_images(path, DIGITS)
        except FormatError:
            refused += 1
    assert refused > len(good) / 2
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(FormatError):
            load_images(path, DIGITS)


def test_an_archive_is_not_waited_for(tmp_path):
    from hwgen.graph.npz_file import read_npz

    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(FormatError, match="archive"):
        read_npz(tmp_path / "pipe.npz", limit_bytes=100)


def test_array_orders_types_and_limits(tmp_path):
    from hwgen.graph.npz_file import read_npz

    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(7),
        "empty": np.zeros((0, 4), np.int8),
        "big": np.arange(3, dtype=">i4"),
    }
    path = save(tmp_path / "x.npz", **arrays)
    got, names = read_npz(path, limit_bytes=1 << 20)
    assert names == list(arrays)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        assert np.array_equal(got[name], array)
    with pytest.raises(FormatError, match="at most 100 bytes"):
        read_npz(path, limit_bytes=100)
    got, _ = read_npz(path, limit_bytes=200, names=("scalar",))
    assert list(got) == ["scalar"]


def test_damaged_pictures(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path = tmp_path / "a.png"
    pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    good = path.read_bytes()
    for place in range(8, len(good)):
        for mask in (0x01, 0x80, 0xFF):
            data = bytearray(good)
            data[place] ^= mask
            path.write_bytes(data)
            with contextlib.suppress(FormatError):
                load_images(tmp_path, DIGITS)
    for length in range(len(good) - 24):
        path.write_bytes(good[:length])
        with pytest.raises(FormatError, match=r"a\.png: must be a readable image"):
            load_images(tmp_path, DIGITS)


def picture(path, array, **options):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(array).save(path, **options)


SQUARE = np.arange(64, dtype=np.uint8).reshape(8, 8)


def refused(folder, spec=DIGITS):
    """The one line that refuses a folder; nothing is waited for."""
    signal.alarm(20)
    try:
        with pytest.raises(FormatError) as caught:
            load_images(folder, spec)
    finally:
        signal.alarm(0)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600
    return line


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "PPM"])
def test_the_content_decides_what_a_picture_is(tmp_path, kind):
    level = np.full((8, 8), 100, np.uint8)  # that every format keeps
    picture(
        tmp_path / "a.png", level, format=kind, **({"lossless": True} if kind == "WEBP" else {})
    )
    assert np.abs(load_images(tmp_path, DIGITS).images.astype(int) - 100).max() <= 1


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "GIF", "ICO", "PDF", "PCX"])
def test_other_formats_are_not_opened(tmp_path, monkeypatch, kind):
    """Pillow starts Ghostscript for PostScript, whatever the file's name."""
    picture(tmp_path / "a.png", SQUARE, format=kind)
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    assert "a.png: must be a readable image: its content is none of PNG, JPEG" in refused(tmp_path)
    assert not started


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_pictures_of_16_bits_are_refused(tmp_path, suffix, stored, channels):
    from dataclasses import replace

    spec = replace(DIGITS, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    words = np.repeat(SQUARE[..., None].astype(">u2") * 257, stored, axis=2)
    if suffix == "ppm":
        data = b"P%d\n8 8\n65535\n" % (5 if stored == 1 else 6) + words.tobytes()
    else:
        data = png_of_16_bits(words)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    line = refused(tmp_path, spec)
    assert f"a.{suffix}: must have 8 bits per channel, not 16 or more" in line


def png_of_16_bits(words):
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = words.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in words)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_a_named_pipe_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "a.png: File must be a regular one, not a pipe" in refused(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "0").mkdir()
    os.mkfifo(tmp_path / "0" / "a.png")
    assert "a.png: File must be a regular one" in refused(tmp_path)


def test_loose_images_beside_class_folders_are_refused(tmp_path):
    picture(tmp_path / "0" / "a.png", SQUARE)
    assert load_images(tmp_path, DIGITS).labels.tolist() == [0]
    picture(tmp_path / "b.png", SQUARE)
    assert "images or class folders, not both: b.png lies beside 1 folders" in refused(tmp_path)


def test_names_that_begin_with_a_dot_are_passed_over(tmp_path):
    """Other systems leave such files beside every picture."""
    picture(tmp_path / "a.png", SQUARE)
    (tmp_path / "._a.png").write_bytes(b"no picture")
    (tmp_path / ".cache").mkdir()
    assert np.array_equal(load_images(tmp_path, DIGITS).images[0, ..., 0], SQUARE)


def test_pictures_that_are_to_be_turned_are_refused(tmp_path):
    from PIL import Image

    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(tmp_path / "a.png", SQUARE, exif=exif)
        if 2 <= orientation <= 8:
            assert f"not with EXIF orientation {orientation}" in refused(tmp_path)
        else:  # upright, or nothing that is defined
            assert np.array_equal(load_images(tmp_path, DIGITS).images[0, ..., 0], SQUARE)


def test_headers_of_arrays_are_refused_in_one_line(tmp_path):
    """The first one is what NumPy's second attempt at a header fails at."""
    path = tmp_path / "x.npz"
    texts = (b"{'descr': '|u1', 'fortran_order': False, 'shape': (4,8,8,", b"(" * 9000, b"-" * 9000)
    for text in texts:
        header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        npz_of(path, {"images.npy": header})
        assert refused(path).startswith(f"{path}: must be a readable .npz archive")
    # A header that unpacks to gigabytes is refused by its length.
    header = b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + b" " * 100
    npz_of(path, {"images.npy": header})
    assert "header must have at most 10000 bytes, not 2147483648" in refused(path)


def test_names_of_arrays_are_shown_in_a_bounded_line(tmp_path):
    path = npz_of(tmp_path / "x.npz", {"\x1b[31m" + "n" * 60000 + ".npy": b""})
    assert "must hold an array 'images', not" in refused(path)
    npz_of(path, {f"a{i}.npy": b"" for i in range(5000)})
    assert "and 4988 more" in refused(path)
    npz_of(path, {f"a{i}.npy": b"" for i in range(10001)})
    assert "at most 10000 arrays, not 10001" in refused(path)
