# SPDX-License-Identifier: Apache-2.0
"""Images, uint8 [n, H, W, channels]: archives, folders, a seeded generator, the package's own."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.errors import FormatError, UsageError
from hwgen.frontend.texts import listing, quoted
from hwgen.graph.npz_file import NpzRows, read_npz
from hwgen.graph.spec import ModelSpec
from hwgen.models import DIGITS_DATA
from hwgen.reading import printable, read_bytes

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
#: What such a file may hold, whatever its name says: Pillow's other readers start programs
#: (PostScript) or follow references.
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
#: Modes of at most 8 bits per channel.
_IMAGE_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"})
#: An image file larger than this is none of those that models of today take.
_MAX_IMAGE_BYTES = 1 << 28
_EXIF_ORIENTATION = 0x0112
#: Most that is taken from an archive, in bytes.
_MAX_ARRAY_BYTES = 1 << 34
_MAX_LABEL_BYTES = 1 << 30
#: Pixels that a side of a resized picture may have.
_MAX_SIDE = 1 << 16


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

    def only(self, indices: np.ndarray) -> ImageSet:
        """Return the images of some indices."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)

    def without(self, indices: np.ndarray) -> ImageSet:
        """Return the images but those of some indices."""
        return self.only(np.setdiff1d(np.arange(len(self.images)), indices))

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
    not; names that begin with a dot are passed over. Where all subfolders are named by numbers,
    these are the labels; else their places in the sorted list, if there is one per class; otherwise
    there are no labels, and a ``note`` says so. Images of another size are refused, not resized; of
    another mode (grey, with alpha) converted; those of 16 bits, or to be turned by their EXIF
    entry, are refused, for frameworks differ in what they make of them.

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


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStream:
    """Images that are read as they are needed: memory for some of them only."""

    names: tuple[str, ...] | None  #: of the files, within their folder; an archive's have none
    count: int
    labels: np.ndarray | None  #: int64 [count] or None
    #: What is known of the content without reading it all: names, sizes and times of the files.
    identity: str
    note: str | None
    #: Images uint8 [n, H, W, channels] of slices in rising order.
    read: Callable[[Iterable[slice]], Iterator[np.ndarray]]


def stream_images(source: str | Path, spec: ModelSpec) -> ImageStream:
    """Return the images of an NPZ archive or of a folder, unread.

    As :func:`load_images`, but for the sizes of a folder's pictures: they are resized and cropped
    as the specification says.

    Raises:
        UsageError: the source does not exist or is neither form.
        FormatError: it holds something else; of a picture that is read when it is read.
    """
    path = Path(source)
    if path.is_dir():
        folder = _list_folder(path, spec)

        def pictures(blocks: Iterable[slice]) -> Iterator[np.ndarray]:
            shape = (spec.image_size, spec.image_size, spec.channels)
            for block in blocks:
                files = folder.files[block]
                yield np.stack(
                    [_load_picture(f, spec, folder.mode, resize=True).reshape(shape) for f in files]
                )

        return ImageStream(
            names=tuple(file.relative_to(path).as_posix() for file in folder.files),
            count=len(folder.files),
            labels=folder.labels,
            identity=_files_identity(folder.files),
            note=folder.note,
            read=pictures,
        )
    if not path.is_file():
        raise UsageError(f"Images must be an .npz file or a folder, not {str(source)!r}: missing")
    rows = NpzRows(path, "images")
    _check_shape(rows.dtype, rows.shape, spec, path)
    labels = read_npz(path, limit_bytes=_MAX_LABEL_BYTES, names=("labels",))[0].get("labels")
    if labels is not None:
        labels = _check_labels(labels, rows.shape[0], spec, path)
    return ImageStream(
        names=None,
        count=rows.shape[0],
        labels=labels,
        identity=_files_identity([path]),
        note=None,
        read=rows.read,
    )


def _files_identity(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        entry = f"{os.path.realpath(file)}\0{found.st_size}\0{found.st_mtime_ns}\0"
        digest.update(entry.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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
        raise FormatError(f"{path}: must hold an array 'images', not {listing(names) or 'nothing'}")
    images, labels = arrays["images"], arrays.get("labels")
    _check_shape(images.dtype, images.shape, spec, path)
    if labels is not None:
        labels = _check_labels(labels, len(images), spec, path)
    return ImageSet(images=images, labels=labels, source=str(path), from_files=True)


def _check_shape(dtype: np.dtype[Any], shape: tuple[int, ...], spec: ModelSpec, path: Path) -> None:
    expected = (spec.image_size, spec.image_size, spec.channels)
    if dtype != np.uint8 or len(shape) != 4 or shape[1:] != expected:
        raise FormatError(
            f"{path}: images must be uint8 [n, {', '.join(map(str, expected))}] for model"
            f" {spec.name!r} (they are not resized), not {dtype} {list(shape)}"
        )
    if shape[0] == 0:
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
    folder = _list_folder(path, spec)
    chosen = np.arange(len(folder.files))
    if limit is not None and len(chosen) > limit:  # spread over the classes
        chosen = np.arange(limit) * len(chosen) // limit
    images = np.empty((len(chosen), spec.image_size, spec.image_size, spec.channels), np.uint8)
    for row, number in enumerate(chosen):
        images[row] = _load_picture(folder.files[number], spec, folder.mode).reshape(
            images.shape[1:]
        )
    return ImageSet(
        images=images,
        labels=None if folder.labels is None else folder.labels[chosen],
        source=str(path),
        from_files=True,
        note=folder.note,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Folder:
    files: list[Path]
    labels: np.ndarray | None
    mode: str  #: Pillow's, of the model's channels
    note: str | None


def _list_folder(path: Path, spec: ModelSpec) -> _Folder:
    _pillow(path)
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    classes = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if _is_image(entry) and not entry.is_dir()]
    if classes and loose:
        raise FormatError(
            f"{printable(str(path))}: must hold images or class folders, not both:"
            f" {quoted(loose[0].name)} lies beside {len(classes)} folders"
        )
    numbers = _class_numbers([p.name for p in classes], spec.classes)
    files = [(-1, file) for file in loose]
    for label, folder in zip(numbers or [-1] * len(classes), classes, strict=True):
        files += [(label, file) for file in sorted(folder.iterdir()) if _is_image(file)]
    if not files:
        raise FormatError(
            f"{path}: must hold image files ({', '.join(_IMAGE_SUFFIXES)}), holds none"
        )
    if classes and len(classes) > spec.classes:
        raise FormatError(
            f"{path}: must have at most {spec.classes} class folders, not {len(classes)}"
        )
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(spec.channels)
    if mode is None:
        raise UsageError(
            f"Image folders must be for models of 1, 3 or 4 channels, not {spec.channels}; use .npz"
        )
    labels = np.array([label for label, _ in files], dtype=np.int64) if numbers else None
    note = (
        f"{path}: no labels, for its {len(classes)} class folders are neither one for each of the"
        f" model's {spec.classes} classes nor named by class numbers"
    )
    return _Folder(
        files=[file for _, file in files],
        labels=labels,
        mode=mode,
        note=note if classes and numbers is None else None,
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")


def _pillow(path: Path) -> Any:
    """The module that reads image files."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            f"Reading the image folder {str(path)!r} needs Pillow, which is not installed;"
            " install pillow, or give an .npz with 'images' uint8 [n, H, W, channels]"
        ) from error
    return Image


def _load_picture(file: Path, spec: ModelSpec, mode: str, *, resize: bool = False) -> np.ndarray:
    """Pixels of one file, uint8, in Pillow's ``mode``."""
    Image = _pillow(file)
    where = printable(str(file))
    size = spec.image_size
    data = read_bytes(file, limit=_MAX_IMAGE_BYTES)
    try:
        # Pillow warns of large and of odd images; those that matter here are refused.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS) as picture:
                resize = resize and spec.resize_mode != "none"
                if picture.size != (size, size) and not resize:
                    raise FormatError(
                        f"{where}: must be {size}x{size} pixels for model {spec.name!r} (it is not"
                        f" resized), not {picture.size[0]}x{picture.size[1]}"
                    )
                if picture.mode not in _IMAGE_MODES or _is_deep(picture.tile):
                    raise FormatError(
                        f"{where}: must have 8 bits per channel, not 16 or more (mode"
                        f" {picture.mode}); convert it as your framework does, or give an .npz"
                    )
                turned = picture.getexif().get(_EXIF_ORIENTATION, 1)
                if turned in range(2, 9):
                    raise FormatError(
                        f"{where}: must be stored upright, not with EXIF orientation {turned},"
                        " which some frameworks follow and others do not; store the turned pixels,"
                        " or remove the entry"
                    )
                converted = picture.convert(mode)
                if resize:
                    converted = _resize(converted, spec, where)
                return np.asarray(converted, dtype=np.uint8)
    except FormatError:
        raise
    except Image.UnidentifiedImageError as error:
        kinds = ", ".join(_IMAGE_FORMATS)
        raise FormatError(
            f"{where}: must be a readable image: its content is none of {kinds}"
        ) from error
    except Exception as error:  # Pillow raises many types for a damaged file
        why = quoted(f"{type(error).__name__}: {error}")
        raise FormatError(f"{where}: must be a readable image: {why}") from error


def _resize(picture: Any, spec: ModelSpec, where: str) -> Any:
    """The model's size of a picture of any size, by the specification's rule.

    As torchvision's Resize and CenterCrop on Pillow's pictures (timm), with ``stretch`` as
    transformers' image processors: sizes, rounding and Pillow's own filters.
    """
    width, height = picture.size
    side, size = spec.resize_to, spec.image_size
    if spec.resize_mode == "stretch":
        target = (side, side)
    elif width <= height:
        target = (side, int(side * height / width))
    else:
        target = (int(side * width / height), side)
    if max(target) > _MAX_SIDE:
        raise FormatError(
            f"{where}: must have sides whose ratio can be resized, not {width}x{height}"
        )
    if target != picture.size:
        picture = picture.resize(target, _filter(spec.interpolation))
    left, top = (round((length - size) / 2) for length in target)
    return picture.crop((left, top, left + size, top + size))


def _filter(name: str) -> Any:
    from PIL import Image

    return Image.Resampling[name.upper()]


def _is_deep(tiles: list[Any]) -> bool:
    """Whether a picture has 16 bits per channel that Pillow would cut to 8 without a word."""
    for decoder, _, _, arguments in tiles:
        if decoder == "zip" and ";16" in str(arguments):  # PNG: the mode of the stored pixels
            return True
        if decoder in ("ppm", "ppm_plain") and arguments[-1] > 255:  # the largest value
            return True
    return False


def _class_numbers(names: list[str], classes: int) -> list[int] | None:
    """Labels of the class folders; None if their names do not tell."""
    if all(re.fullmatch("[0-9]+", name) for name in names):  # their order as text means nothing
        numbers = [int(name[-10:]) for name in names]
        distinct = len(set(numbers)) == len(numbers)
        return numbers if distinct and max(numbers, default=0) < classes else None
    return list(range(classes)) if len(names) == classes else None
