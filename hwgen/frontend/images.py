# SPDX-License-Identifier: Apache-2.0
"""Images, uint8 [n, H, W, channels]: archives, folders, a seeded generator, the package's own."""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwgen.errors import FormatError, UsageError
from hwgen.graph.npz_file import read_npz
from hwgen.graph.spec import ModelSpec
from hwgen.models import DIGITS_DATA

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
#: Most that is taken from an archive, in bytes.
_MAX_ARRAY_BYTES = 1 << 34


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images with where they come from and, if known, their labels."""

    images: np.ndarray  #: uint8 [n, H, W, channels]
    labels: np.ndarray | None  #: int64 [n] or None
    source: str  #: "synthetic", "digits", or the path they were read from
    from_files: bool = False  #: the source is a path
    note: str | None = None  #: what the user should know of them

    def head(self, count: int) -> ImageSet:
        """Return the first ``count`` images."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, images=self.images[:count], labels=labels)

    @property
    def identity(self) -> str:
        """The source, wherever its files lie: a path becomes the digest of the pixels."""
        if not self.from_files:
            return self.source
        return f"sha256:{hashlib.sha256(self.images.tobytes()).hexdigest()[:16]}"


def synthetic_images(spec: ModelSpec, count: int, seed: int) -> np.ndarray:
    """Return ``count`` uint8 images whose amplitude spectrum falls as 1/f, as natural images' does.

    Field, D. J., "Relations between the statistics of natural images and the response properties of
    cortical cells", J. Opt. Soc. Am. A 4 (1987). Channels are correlated; mean and contrast vary
    from image to image. Equal arguments give equal images; image i does not depend on ``count``.
    """
    size, channels = spec.image_size, spec.channels
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / size)
    amplitude[0, 0] = 0.0
    out = np.empty((count, size, size, channels), dtype=np.uint8)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        noise = rng.standard_normal((channels + 1, size, size))
        planes = np.fft.irfft2(np.fft.rfft2(noise) * amplitude, s=(size, size))
        planes /= planes.std(axis=(1, 2), keepdims=True) + 1e-12
        # Most of a natural image's variation is common to its channels.
        mixed = 0.9 * planes[0] + np.sqrt(1 - 0.9**2) * planes[1:]
        # Black and white stay rare: a few pixels in a thousand.
        level = 122 + 15 * rng.standard_normal()
        contrast = 42 * np.exp(0.2 * rng.standard_normal())
        image = np.clip(np.rint(level + contrast * mixed), 0, 255)
        out[i] = np.moveaxis(image, 0, -1)
    return out


def load_images(source: str | Path, spec: ModelSpec, *, limit: int | None = None) -> ImageSet:
    """Return the images of an NPZ archive or of a folder.

    NPZ: ``images`` uint8 [n, H, W, channels], optional ``labels`` [n]. Folder: image files (any
    order of the file system, read sorted by name), in subfolders by class (ImageNet's layout) or
    not. Where all subfolders are named by numbers, these are the labels; else their places in the
    sorted list, if there is one per class; otherwise there are no labels, and a ``note`` says so.
    Images of another size are refused, not resized; of another mode (grey, with alpha) converted.

    Raises:
        UsageError: the source does not exist or is neither form.
        FormatError: it holds something else than images of the model's size.
    """
    path = Path(source)
    if path.is_dir():
        found = _load_folder(path, spec, limit)
    elif path.is_file():
        found = _load_npz(path, spec)
    else:
        raise UsageError(f"Images must be an .npz file or a folder, not {str(source)!r}: missing")
    return found if limit is None else found.head(limit)


def digits_dataset() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the embedded digits: train images, train labels, test images, test labels.

    Images uint8 [n, 8, 8, 1] (values 0..240), labels int64. From the UCI "Optical Recognition of
    Handwritten Digits" data as shipped by scikit-learn, with a fixed stratified split.
    """
    with np.load(DIGITS_DATA, allow_pickle=False) as data:
        return (
            data["train_images"],
            data["train_labels"].astype(np.int64),
            data["test_images"],
            data["test_labels"].astype(np.int64),
        )


def _load_npz(path: Path, spec: ModelSpec) -> ImageSet:
    arrays, names = read_npz(path, limit_bytes=_MAX_ARRAY_BYTES, names=("images", "labels"))
    if "images" not in arrays:
        raise FormatError(
            f"{path}: must hold an array 'images', not {', '.join(names) or 'nothing'}"
        )
    images, labels = arrays["images"], arrays.get("labels")
    _check_shape(images, spec, path)
    if labels is not None:
        labels = _check_labels(labels, len(images), spec, path)
    return ImageSet(images=images, labels=labels, source=str(path), from_files=True)


def _check_shape(images: np.ndarray, spec: ModelSpec, path: Path) -> None:
    expected = (spec.image_size, spec.image_size, spec.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise FormatError(
            f"{path}: images must be uint8 [n, {', '.join(map(str, expected))}] for model"
            f" {spec.name!r} (they are not resized), not {images.dtype} {list(images.shape)}"
        )
    if len(images) == 0:
        raise FormatError(f"{path}: images must hold at least one image, not 0")


def _check_labels(labels: np.ndarray, count: int, spec: ModelSpec, path: Path) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise FormatError(
            f"{path}: labels must be integers [{count}], not {labels.dtype} {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= spec.classes:
        raise FormatError(
            f"{path}: labels must be 0..{spec.classes - 1}, not {labels.min()}..{labels.max()}"
        )
    return labels.astype(np.int64)


def _load_folder(path: Path, spec: ModelSpec, limit: int | None) -> ImageSet:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            f"Reading the image folder {str(path)!r} needs Pillow, which is not installed;"
            " install pillow, or give an .npz with 'images' uint8 [n, H, W, channels]"
        ) from error
    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    numbers = _class_numbers([p.name for p in classes], spec.classes)
    groups = list(zip(numbers or [-1] * len(classes), classes, strict=True)) or [(-1, path)]
    files = [
        (label, file)
        for label, folder in groups
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _IMAGE_SUFFIXES
    ]
    if not files:
        raise FormatError(
            f"{path}: must hold image files ({', '.join(_IMAGE_SUFFIXES)}), holds none"
        )
    if classes and len(classes) > spec.classes:
        raise FormatError(
            f"{path}: must have at most {spec.classes} class folders, not {len(classes)}"
        )
    if limit is not None and len(files) > limit:  # spread over the classes
        files = [files[i * len(files) // limit] for i in range(limit)]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(spec.channels)
    if mode is None:
        raise UsageError(
            f"Image folders must be for models of 1, 3 or 4 channels, not {spec.channels}; use .npz"
        )
    images = np.empty((len(files), spec.image_size, spec.image_size, spec.channels), np.uint8)
    for row, (_, file) in enumerate(files):
        try:
            # Pillow warns of large and of odd images; those that matter here are refused.
            with warnings.catch_warnings(), Image.open(file) as picture:
                warnings.simplefilter("ignore")
                if picture.size != (spec.image_size, spec.image_size):
                    raise FormatError(
                        f"{file}: must be {spec.image_size}x{spec.image_size} pixels for model"
                        f" {spec.name!r} (it is not resized), not"
                        f" {picture.size[0]}x{picture.size[1]}"
                    )
                pixels = np.asarray(picture.convert(mode), dtype=np.uint8)
        except FormatError:
            raise
        except Exception as error:  # Pillow raises many types for a damaged file
            raise FormatError(
                f"{file}: must be a readable image: {type(error).__name__}: {error!s:.200}"
            ) from error
        images[row] = pixels.reshape(images.shape[1:])
    labels = np.array([label for label, _ in files], dtype=np.int64) if numbers else None
    note = (
        f"{path}: no labels, for its {len(classes)} class folders are neither one for each of the"
        f" model's {spec.classes} classes nor named by class numbers"
    )
    return ImageSet(
        images=images,
        labels=labels,
        source=str(path),
        from_files=True,
        note=note if classes and numbers is None else None,
    )


def _class_numbers(names: list[str], classes: int) -> list[int] | None:
    """Labels of the class folders; None if their names do not tell."""
    if all(re.fullmatch("[0-9]+", name) for name in names):  # their order as text means nothing
        numbers = [int(name[-10:]) for name in names]
        distinct = len(set(numbers)) == len(numbers)
        return numbers if distinct and max(numbers, default=0) < classes else None
    return list(range(classes)) if len(names) == classes else None
