# SPDX-License-Identifier: Apache-2.0
"""``hwgen evaluate``: the accuracy of a graph on any number of images, and what costs it.

Images are read, compared and forgotten batch by batch. What is known of a finished batch is one
line of a journal in the user's cache, so that a run that was killed goes on where it was: sums are
added up in the order of the batches, and a number does not depend on how often that happened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hwgen import __version__
from hwgen.cache import kept_file
from hwgen.errors import FormatError
from hwgen.files import replace_file
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.comparison import Comparison, compare
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import ImageStream
from hwgen.frontend.quantiser import checkpoint_digest
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import Interpreter
from hwgen.numerics.compiled import compiled_kernels
from hwgen.outputs import recognise_json, sealed
from hwgen.reading import load_json, validate
from hwgen.report.terminal import Reporter
from hwgen.threads import map_threads

PREDICTIONS_SCHEMA = "hwgen.predictions"
recognise_predictions = recognise_json(PREDICTIONS_SCHEMA)
#: Classes that are kept of an image.
_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A finished batch: a line of the journal."""

    start: int
    sums: Comparison
    top: list[list[int]]  #: per image the classes of the largest logits, integer graph
    float_top: list[list[int]] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What all batches together say."""

    sums: Comparison
    top: np.ndarray  #: int64 [images, up to 5]
    float_top: np.ndarray | None
    stream: ImageStream
    computed: int  #: images of this run; the others were in the journal
    seconds: float

    def contract(self) -> dict[str, Any]:
        """The keys of ``--json``: of the float model with a checkpoint, of accuracy with labels."""
        values: dict[str, Any] = {"images": self.sums.images}
        for name, top in (("", self.top), ("_float", self.float_top)):
            if self.stream.labels is not None and top is not None:
                values[f"top1{name}"] = _hits(top[:, :1], self.stream.labels)
                values[f"top5{name}"] = _hits(top, self.stream.labels)
        if self.float_top is not None:
            sqnr = self.sums.sqnr_db
            values |= {
                "agreement": self.sums.agreement,
                "logit_sqnr_db": sqnr["head"],
                "layer_sqnr_db": sqnr,
            }
        return values | {
            "softmax_mass": self.sums.softmax_mass,
            "images_computed": self.computed,
            "images_per_second": self.computed / self.seconds if self.computed else None,
            "seconds": self.seconds,
        }

    def save_predictions(self, path: Path) -> None:
        """Write what both networks took every image for, the likeliest class first."""
        labels, float_top = self.stream.labels, self.float_top
        rows = []
        for number, top in enumerate(self.top.tolist()):
            row: dict[str, Any] = {"image": number}
            if self.stream.names is not None:
                row["file"] = self.stream.names[number]
            if labels is not None:
                row["label"] = int(labels[number])
            row["classes"] = top
            if float_top is not None:
                row["classes_float"] = float_top[number].tolist()
            rows.append(row)
        document = sealed({"schema": PREDICTIONS_SCHEMA, "predictions": rows})
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
        replace_file(path, lambda stream: stream.write(text.encode() + b"\n"))


def float_model(
    graph: IntegerGraph, checkpoint: Path, container: str | None, reporter: Reporter
) -> FloatModel:
    """The float model of a graph's specification; says where the graph is of other weights."""
    with reporter.stage("load"):
        reporter(f"reading {checkpoint.name}", 0.0)
        tensors = load_checkpoint(checkpoint, container=container)
        model = FloatModel.from_state_dict(graph.spec, tensors)
    if checkpoint_digest(model) != graph.metadata.checkpoint_digest:
        reporter.warn(
            f"{checkpoint}: other weights than the graph was made of; the comparison is with these"
        )
    return model


def evaluate(
    graph_path: Path,
    graph: IntegerGraph,
    model: FloatModel | None,
    stream: ImageStream,
    reporter: Reporter,
) -> Evaluation:
    """Run all images through the graph and, if it is given, through the float model.

    Args:
        graph_path: where the graph was read from.
        graph: the integer graph.
        model: the float model of the same specification.
        stream: the images.
        reporter: told how far it is.

    Raises:
        FormatError: an image cannot be read.
        ToolError: the journal cannot be written, or another process evaluates the same.
    """
    interpreter = Interpreter(graph, kernels=compiled_kernels())
    size = interpreter.batch
    blocks = [slice(i, min(i + size, stream.count)) for i in range(0, stream.count, size)]
    began = time.monotonic()
    with (
        reporter.stage("evaluate"),
        kept_file("evaluation", f"{_key(graph_path, model, stream)}.jsonl") as journal,
    ):
        finished = _read_journal(journal, blocks)
        if finished:
            known = sum(batch.sums.images for batch in finished)
            reporter.say(f"{known:,} of {stream.count:,} images are known from a run before")
        left = blocks[len(finished) :]

        def work(item: tuple[slice, np.ndarray]) -> Batch:
            block, images = item
            found = compare(model, interpreter, images, dtype=np.float32)
            return Batch(
                start=block.start,
                sums=found.sums,
                top=_largest(found.logits.astype(np.int64)),
                float_top=None if found.float_logits is None else _largest(found.float_logits),
            )

        reporter(f"{stream.count:,} images", len(finished) / len(blocks))
        for batch in map_threads(work, zip(left, stream.read(left), strict=True)):
            _append(journal, batch)
            finished.append(batch)
            done = batch.start + batch.sums.images
            reporter(f"{done:,} of {stream.count:,} images", done / stream.count)
        Path(journal.name).unlink()
    sums = Comparison()
    for batch in finished:
        sums.add(batch.sums)
    tops = [row for batch in finished for row in batch.top]
    float_tops = [row for batch in finished for row in batch.float_top or ()]
    return Evaluation(
        sums=sums,
        top=np.array(tops, dtype=np.int64),
        float_top=None if model is None else np.array(float_tops, dtype=np.int64),
        stream=stream,
        computed=sum(block.stop - block.start for block in left),
        seconds=time.monotonic() - began,
    )


def _largest(logits: np.ndarray) -> list[list[int]]:
    """Classes of the largest logits, of equal ones the lowest first."""
    order: list[list[int]] = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP].tolist()
    return order


def _hits(top: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean((top == labels[:, None]).any(axis=1)))


def _key(graph: Path, model: FloatModel | None, stream: ImageStream) -> str:
    """Digest of all that a journal's numbers depend on."""
    digest = hashlib.sha256(f"{__version__} {stream.count} {stream.identity}".encode())
    with graph.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(b"" if model is None else checkpoint_digest(model).encode())
    return digest.hexdigest()[:32]


def _append(journal: IO[bytes], batch: Batch) -> None:
    journal.write(json.dumps(dataclasses.asdict(batch), allow_nan=False).encode() + b"\n")
    journal.flush()


def _read_journal(journal: IO[bytes], blocks: list[slice]) -> list[Batch]:
    """Finished batches of a run before, from the first on; the rest of the journal is cut off."""
    finished: list[Batch] = []
    end = 0
    for block, line in zip(blocks, journal, strict=False):
        try:
            batch = validate(load_json(line, where=journal.name), Batch, where=journal.name)
        except FormatError:
            break  # torn: the run was killed while it wrote
        known = (batch.start, batch.sums.images, len(batch.top))
        count = block.stop - block.start
        if known != (block.start, count, count) or not line.endswith(b"\n"):
            break
        finished.append(batch)
        end += len(line)
    journal.truncate(end)
    return finished
