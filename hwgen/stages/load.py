# SPDX-License-Identifier: Apache-2.0
"""Stage load: what is asked for, its checkpoint, checked, and its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from hwgen.errors import FormatError, UsageError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.checkpoint_files import find_checkpoint
from hwgen.frontend.describe import configuration_folder, describe
from hwgen.frontend.expected import Agreement, compare_logits, load_expected
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import ImageSet, digits_dataset, load_images, synthetic_images
from hwgen.frontend.models import MODELS, default_checkpoint
from hwgen.graph.spec import ModelSpec
from hwgen.graph.weight_bits import DEFAULT_WEIGHT_BITS, WeightBits
from hwgen.graph.widths import Width
from hwgen.numerics.softmax import DEFAULT_FUNCTION, SoftmaxFunction
from hwgen.reading import show
from hwgen.report.terminal import Reporter

Squares = Literal["compressed", "exact"]
#: Calibration images where the user gives none: of the digits' training part, or synthetic.
DIGITS_CALIBRATION_IMAGES = 256
SYNTHETIC_CALIBRATION_IMAGES = 16
#: One in so many calibration images is held back to measure quality on, at most so many.
HELD_BACK = 8
MAX_HELD_BACK = 64
#: Synthetic images that one command makes at most: they are held in memory.
MAX_SYNTHETIC_IMAGES = 10_000
#: Seeds of synthetic images: calibration never sees the images that are simulated.
_CALIBRATION_SEED = 1
_IMAGES_SEED = 2


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where a flow starts: a model, its checkpoint, and how to quantise it."""

    spec: ModelSpec
    checkpoint: Path
    calibration: Path | None = None
    #: by layer; one that is not named has 8
    weight_bits: Mapping[str, Width] = field(default_factory=dict)
    squares: Squares = "compressed"
    container: str | None = None  #: which of several state dicts
    sources: Mapping[str, str] = field(default_factory=dict)  #: of the specification's fields
    notes: tuple[str, ...] = ()
    softmax: SoftmaxFunction = DEFAULT_FUNCTION

    @classmethod
    def of(
        cls,
        model: str,
        *,
        checkpoint: Path | None = None,
        calibration: Path | None = None,
        weight_bits: WeightBits = DEFAULT_WEIGHT_BITS,
        squares: str = "compressed",
        container: str | None = None,
        softmax: SoftmaxFunction = DEFAULT_FUNCTION,
    ) -> Request:
        """Resolve names; a known model without a checkpoint is wrong usage.

        The model is what its table or file says, completed by the configuration files beside the
        checkpoint. A folder as model is its own checkpoint.

        Raises:
            ModelError: the model is unknown, its file is bad, or a configuration contradicts it.
            CheckpointError: there is no such checkpoint, or the configuration is another network's.
            UsageError: a checkpoint must be given, or a width is for no layer of the model.
        """
        path = checkpoint if checkpoint is not None else configuration_folder(model)
        # A checkpoint that is missing is said when it is read: after what needs no weights.
        beside = None
        if path is not None and path.exists():
            beside = find_checkpoint(path).folder
        described = describe(model, beside)
        spec = described.spec
        path = path if path is not None else default_checkpoint(spec)
        if path is None:
            raise UsageError(
                f"Model {spec.name!r} must be given with --checkpoint FILE (.safetensors or .pt of"
                " timm, Hugging Face or the model's own names): its weights do not travel with"
                " hwgen; 'hwgen run' without a model runs the embedded 'digits'"
            )
        return cls(
            spec=spec,
            checkpoint=path,
            calibration=calibration,
            weight_bits=weight_bits.of(spec),
            squares=cast("Squares", squares),
            container=container,
            sources=described.sources,
            notes=described.notes,
            softmax=softmax,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A float model together with the request it answers."""

    request: Request
    model: FloatModel


def load(request: Request, reporter: Reporter) -> Loaded:
    """Read and check the checkpoint."""
    with reporter.stage("load"):
        reporter(f"reading {request.checkpoint.name}", 0.0)
        checkpoint = load_checkpoint(request.checkpoint, container=request.container)
        model = FloatModel.from_state_dict(
            request.spec, checkpoint, sources=request.sources, assumed=checkpoint.assumed
        )
        notes = (*request.notes, *checkpoint.notes, *model.notes)
    return Loaded(request=request, model=replace(model, notes=notes))


def compare_with_expected(
    loaded: Loaded, path: Path, images: Callable[[], ImageSet], reporter: Reporter
) -> Agreement:
    """Compare the float model with another framework's logits.

    Args:
        loaded: the float model.
        path: the logits, see :func:`hwgen.frontend.expected.load_expected`.
        images: what they belong to where the file does not say it.
        reporter: told what is being done.

    Raises:
        UnexpectedLogitsError: they differ beyond the bound.
        FormatError: file and images do not fit the model or each other.
    """
    expected = load_expected(path, loaded.model.spec)
    pixels = expected.images
    if pixels is None:
        chosen = images()
        pixels = chosen.images
        if len(pixels) != len(expected.logits):
            raise FormatError(
                f"{path}: logits must have a row for each image of {chosen.source} ({len(pixels)}),"
                f" not {len(expected.logits)}; or the file holds its own 'images'"
            )
    with reporter.stage("expect"):
        reporter(f"float model on {len(pixels)} images", 0.0)
        got = loaded.model.classify(pixels)
    agreement = compare_logits(expected, got, loaded.model.assumed)
    reporter.say(f"float model against {path}: {agreement}")
    return agreement


def split_calibration(request: Request) -> tuple[ImageSet, ImageSet]:
    """Images to calibrate on, and images that quality is measured on.

    Of the user's images every eighth is held back, at most 64; of fewer than eight none is, and
    quality is measured on them all. The package's own sets have more images to offer.
    """
    chosen = calibration_images(request)
    if request.calibration is None and request.spec == MODELS["digits"]:
        images, labels, _, _ = digits_dataset()
        last = DIGITS_CALIBRATION_IMAGES + MAX_HELD_BACK
        part = slice(DIGITS_CALIBRATION_IMAGES, last)
        return chosen, replace(chosen, images=images[part], labels=labels[part])
    if request.calibration is None:
        count = SYNTHETIC_CALIBRATION_IMAGES + SYNTHETIC_CALIBRATION_IMAGES // HELD_BACK
        images = synthetic_images(request.spec, count, _CALIBRATION_SEED)
        return chosen, replace(chosen, images=images[SYNTHETIC_CALIBRATION_IMAGES:])
    count = len(chosen.images)
    held = np.arange(HELD_BACK - 1, count, HELD_BACK)
    if not len(held):
        return chosen, chosen
    held = held[:MAX_HELD_BACK]
    return chosen.without(held), chosen.only(held)


def calibration_images(request: Request) -> ImageSet:
    """The user's, else the training part of the digits, else seeded synthetic images."""
    spec = request.spec
    if request.calibration is not None:
        return load_images(request.calibration, spec)
    if spec == MODELS["digits"]:
        images, labels, _, _ = digits_dataset()
        chosen = ImageSet(images=images, labels=labels, source="digits")
        return chosen.head(DIGITS_CALIBRATION_IMAGES)
    images = synthetic_images(spec, SYNTHETIC_CALIBRATION_IMAGES, _CALIBRATION_SEED)
    return ImageSet(images=images, labels=None, source="synthetic")


def held_out_images(spec: ModelSpec, source: int | Path) -> ImageSet:
    """Images to run: ``source`` of them from the model's own held-out set, or a file or folder.

    Raises:
        UsageError: more images than the set has, or none.
    """
    if isinstance(source, Path):
        return load_images(source, spec)
    if source < 1:
        raise UsageError(f"Number of images must be at least 1, not {show(source)}")
    if spec == MODELS["digits"]:
        _, _, images, labels = digits_dataset()
        if source > len(images):
            raise UsageError(
                f"Number of images must be at most the {len(images)} held-out digits,"
                f" not {show(source)}",
                nearest=len(images),
            )
        return ImageSet(images=images, labels=labels, source="digits").head(source)
    if source > MAX_SYNTHETIC_IMAGES:
        raise UsageError(
            f"Number of images must be at most {MAX_SYNTHETIC_IMAGES} synthetic ones,"
            f" not {show(source)}",
            nearest=MAX_SYNTHETIC_IMAGES,
        )
    images = synthetic_images(spec, source, _IMAGES_SEED)
    return ImageSet(images=images, labels=None, source="synthetic")
