# SPDX-License-Identifier: Apache-2.0
"""Every reader on mutated files: a value or one bounded line, soon; never another exception."""

from __future__ import annotations

import io
import json
import random
import signal
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwgen.boards
from hwgen.boards import get_board, open_board
from hwgen.columns import dense
from hwgen.emit.manifest import Manifest
from hwgen.errors import HwgenError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.config_files import read_configuration
from hwgen.frontend.expected import load_expected
from hwgen.frontend.images import load_images
from hwgen.frontend.models import MODELS, get_model
from hwgen.frontend.statements import Statement, resolve
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.safetensors_file import write_safetensors
from hwgen.graph.weight_bits import read_weight_bits
from hwgen.program.buffer_plan import preset_config
from hwgen.program.lower import lower
from hwgen.report.design import rows
from hwgen.report.results import AccuracyResult, SimulationResult, SynthesisResult
from hwgen.sim import boundaries
from hwgen.stages.design import Design, shapes_of
from hwgen.stages.emit import DesignFolder, labels_bytes, read_labels
from hwgen.stages.synthesise import board_usage, describe_synthesis
from hwgen.units import UNITS, UnitManifest, emit_unit
from hwgen.units.vectors import load_vectors

from .emit.manifests import manifest as manifest_of
from .program.graphs import random_graph
from .program.graphs import spec as tiny_spec

#: Longest time for one input, seconds, and longest message, characters.
SECONDS = 10
CHARACTERS = 1500

MODEL = MODELS["digits"]
SHARD = "model-00001-of-00001.safetensors"


@dataclass(frozen=True)
class Reader:
    """A reader, a good file for it, and how the parts of that file are taken apart."""

    name: str  #: of the file; its folder is empty but for it
    good: Callable[[], bytes]
    read: Callable[[Path], object]
    #: From the file's bytes: the document within, and the file with another document in its place.
    parts: Callable[[bytes], tuple[bytes, Callable[[bytes], bytes]]] = lambda data: (
        data,
        lambda document: document,
    )


def saved(save: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        save(path)
        return path.read_bytes()


@cache
def graph() -> IntegerGraph:
    return random_graph(tiny_spec(depth=1), 0)


@cache
def program() -> Any:
    return lower(graph(), preset_config(graph(), rows=16, groups=dense(16), memory_ports=1))


@cache
def graph_file() -> bytes:
    return saved(graph().save)


def design() -> Design:
    config = preset_config(graph(), rows=16, groups=dense(16), memory_ports=1)
    return Design(
        model="tiny",
        shapes=shapes_of(graph()),
        config=config,
        row_blocks=1,
        board=get_board("zcu102"),
        notes=("a note",),
    )


def checkpoint_file() -> bytes:
    tensors = {"a.weight": np.ones((3, 4), np.float32), "b": np.arange(5, dtype=np.int8)}
    return saved(lambda path: write_safetensors(path, tensors, {"format": "pt"}))


def header_of(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The header of a safetensors file; put back with its length."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return data[8:end], lambda document: struct.pack("<Q", len(document)) + document + data[end:]


def entry_of(key: str) -> Callable[[bytes], tuple[bytes, Callable[[bytes], bytes]]]:
    """A JSON document among the metadata of a safetensors file."""

    def parts(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
        header, whole = header_of(data)
        values = json.loads(header)

        def put(document: bytes) -> bytes:
            text = document.decode("utf-8", "replace")
            changed = values | {"__metadata__": values["__metadata__"] | {key: text}}
            return whole(json.dumps(changed).encode())

        return values["__metadata__"][key].encode(), put

    return parts


def archive_of(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def member_of(name: str) -> Callable[[bytes], tuple[bytes, Callable[[bytes], bytes]]]:
    """One member of an archive; put back with sizes and checksum that are right."""

    def parts(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {item: archive.read(item) for item in archive.namelist()}

        def put(document: bytes) -> bytes:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for item, content in (members | {name: document}).items():
                    archive.writestr(item, content)
            return stream.getvalue()

        return members[name], put

    return parts


def unit_manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (
            emit_unit(UNITS["requantise"], {}, Path(folder, "u")) / "manifest.json"
        ).read_bytes()


def simulation() -> bytes:
    result = SimulationResult(
        design="0" * 64,
        matches_reference=True,
        layers_checked=40,
        images=20,
        cycles=40_000,
        frames_per_start=1,
        latency_cycles=40_000,
        clock_mhz=300,
        macs=2_380_928,
        weight_bytes=52_000,
        macs_per_cycle=256,
        busy_cycles=20_000,
        stall_cycles={"idle": 20_000},
        wall_seconds=2.5,
        memory_latency=100,
        memory_bandwidth=46.7,
        image_source="digits",
        predicted_cycles=41_000,
        top1=0.5,
        top1_images=20,
    )
    return json.dumps(result.to_json()).encode()


def accuracy() -> bytes:
    result = AccuracyResult(
        design="0" * 64, top1=0.5, top1_images=20, top1_float=0.75, image_source="digits"
    )
    return json.dumps(result.to_json()).encode()


def synthesis() -> bytes:
    result = SynthesisResult(
        design="0" * 64,
        lut=10,
        ff=20,
        dsp=3,
        bram36=1.5,
        logic_levels=7,
        tool="Yosys",
        target="xcup",
        extra={"synthesis_seconds": 1.0, "modules": {"x": {"lut": 10}}},
    )
    return json.dumps(result.to_json()).encode()


MANIFEST = manifest_of(
    dict.fromkeys(("program.bin", "b.json", "g.safetensors", "x.v"), "0"),
    assumed={"mean": {"value": [0.5], "source": "model table"}},
    calibration_source="digits",
    calibration_images=64,
    quality_images=8,
    float_agreement=1.0,
    logit_sqnr_db=20.5,
    logit_saturation={"blocks.0.attn.qk": 0.01},
    softmax_mass={"blocks.0.attn.softmax": {"mean": 1.0, "min": 0.9}},
)


def show_simulation(path: Path) -> None:
    """Read, and say all that a report says."""
    if (result := SimulationResult.load(path.parent)) is not None:
        rows(MANIFEST, result, None)
        json.dumps(result.contract(), allow_nan=False)


def show_accuracy(path: Path) -> None:
    if (result := AccuracyResult.load(path.parent)) is not None:
        rows(MANIFEST, None, None, accuracy=result)
        json.dumps(result.contract(), allow_nan=False)


def show_synthesis(path: Path) -> None:
    if (result := SynthesisResult.load(path.parent)) is not None:
        rows(MANIFEST, None, result, board_usage(MANIFEST.board, result))
        json.dumps(describe_synthesis(MANIFEST.board, result), allow_nan=False)


def show_manifest(path: Path) -> None:
    found = Manifest.load(path.parent)
    rows(found, None, None)
    found.changed_files(path.parent)


def model_file() -> bytes:
    return json.dumps(MODEL.to_json() | {"name_map": {"cls_token": "c"}}).encode()


def config_file() -> bytes:
    """As transformers writes it."""
    values = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "image_size": 8,
        "patch_size": [2, 2],
        "num_channels": 1,
        "qkv_bias": True,
        "id2label": {str(n): f"LABEL_{n}" for n in range(10)},
    }
    return json.dumps(values).encode()


def timm_config_file() -> bytes:
    weights = {
        "input_size": [3, 224, 224],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
    }
    values = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 1000,
        "global_pool": "token",
        "pretrained_cfg": weights,
        "model_args": {"img_size": 384, "mlp_ratio": 4.0, "qkv_bias": True},
    }
    return json.dumps(values).encode()


def preprocessor_file() -> bytes:
    values = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "do_center_crop": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
    }
    return json.dumps(values).encode()


def load_configuration(path: Path) -> None:
    """Read what lies beside weights, and put it together with a model file that says the rest."""
    statements = read_configuration(path.parent)
    said = {name for statement in statements for name in statement.values}
    model = MODELS["digits" if path.name == "config.json" else "deit_tiny"]
    rest = {name: value for name, value in model.to_json().items() if name not in said}
    resolve([*statements, Statement(source="rest", values=rest)])


def index_file() -> bytes:
    """Of the checkpoint, as one shard."""
    values = {"metadata": {"total_size": 53}, "weight_map": {"a.weight": SHARD, "b": SHARD}}
    return json.dumps(values).encode()


def load_index(path: Path) -> None:
    if not (shard := path.with_name(SHARD)).exists():
        shard.write_bytes(checkpoint_file())
    load_checkpoint(path)


def widths_file() -> bytes:
    return b'"blocks.*.fc1" = 4\n"blocks.0.*" = "8"\nhead = 8\n'


def load_widths(path: Path) -> None:
    read_weight_bits(path).of(MODEL)


def logits_file() -> bytes:
    return archive_of(logits=np.ones((2, 10), np.float32), images=np.zeros((2, 8, 8, 1), np.uint8))


def board_file() -> bytes:
    return (Path(hwgen.boards.__file__).parent / "zcu102.toml").read_bytes()


def images_file() -> bytes:
    return archive_of(images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.array([1, 2]))


def vectors_file() -> bytes:
    return archive_of(codes=np.zeros((2, 3), np.int8), table=np.zeros(256, np.int8))


def picture() -> bytes:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    stream = io.BytesIO()
    image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, format="PNG")
    return stream.getvalue()


def load_picture(path: Path) -> object:
    return load_images(path.parent, MODEL)


def load_labels(path: Path) -> object:
    return read_labels(DesignFolder(path=path.parent, manifest=MANIFEST))


READERS: dict[str, Reader] = {
    "safetensors": Reader("c.safetensors", checkpoint_file, load_checkpoint),
    "safetensors header": Reader("c.safetensors", checkpoint_file, load_checkpoint, header_of),
    "graph": Reader("g", graph_file, IntegerGraph.load, entry_of("hwgen.graph")),
    "graph header": Reader("g", graph_file, IntegerGraph.load, header_of),
    "design": Reader("d", lambda: saved(design().save), Design.load, entry_of("hwgen.design")),
    "design with graph": Reader(
        "d",
        lambda: saved(replace(design(), graph=graph()).save),
        Design.load,
        entry_of("hwgen.design"),
    ),
    "images": Reader("i.npz", images_file, lambda path: load_images(path, MODEL)),
    "images header": Reader(
        "i.npz", images_file, lambda path: load_images(path, MODEL), member_of("images.npy")
    ),
    "vectors": Reader(
        "v.npz",
        vectors_file,
        lambda path: load_vectors(UNITS["elementwise"], path),
        member_of("codes.npy"),
    ),
    "picture": Reader("a.png", picture, load_picture),
    "model file": Reader("m.json", model_file, get_model),
    "configuration": Reader("config.json", config_file, load_configuration),
    "timm's configuration": Reader("config.json", timm_config_file, load_configuration),
    "preprocessor": Reader("preprocessor_config.json", preprocessor_file, load_configuration),
    "index of shards": Reader("model.safetensors.index.json", index_file, load_index),
    "weight widths": Reader("w.toml", widths_file, load_widths),
    "expected logits": Reader(
        "e.npz", logits_file, lambda path: load_expected(path, MODEL), member_of("logits.npy")
    ),
    "board file": Reader("b.toml", board_file, lambda path: open_board(str(path))),
    "manifest": Reader("manifest.json", MANIFEST.to_bytes, show_manifest),
    "unit manifest": Reader(
        "manifest.json", unit_manifest, lambda path: UnitManifest.load(path.parent)
    ),
    "simulation": Reader("simulation.json", simulation, show_simulation),
    "accuracy": Reader("accuracy.json", accuracy, show_accuracy),
    "synthesis": Reader("synthesis.json", synthesis, show_synthesis),
    "boundaries": Reader("b.json", lambda: program().boundaries_bytes(), boundaries.load),
    "labels": Reader("labels.json", lambda: labels_bytes(program()), load_labels),
}

#: What stands in the place of a number, a text or a structure.
ODD = (
    *("0", "-1", "1", "1.5", "-0.0", "1e308", "1e999", "NaN", "Infinity", "true", "null", '""'),
    *("[]", "{}", "[[]]", '[""]', '{"a":0}', "9" * 30, "9" * 5000, str(1 << 62), str(1 << 64)),
    *('"' + "x" * 5000 + '"', '"\\u001b[31m"', '"\\ud800"', '"../x"', "[" * 100, "[" * 100_000),
    *(r'"\u0000"', '"\u202e"', "'", "\x1b[2J", "\x00", "\xff"),
)
TOKENS = tuple(b"0123456789[]{}\",:.-+eE \n\t'()=\\")


def odd_document(rng: random.Random, document: bytes) -> bytes:
    """JSON with another value somewhere, a key less or one more; else the same bytes."""
    try:
        values = json.loads(document)
    except ValueError:
        return document
    place, holders = values, []
    while isinstance(place, dict | list) and place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        holders.append((place, key))
        place = place[key]
        if rng.random() < 0.15:
            break
    if not holders:
        return document
    holder, key = holders[-1]
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder["odd" * rng.choice((1, 2000))] = 1
    elif kind == 2 and isinstance(holder, list):
        holder.extend(holder[:] * rng.choice((1, 50)))
    else:
        holder[key] = "@odd@"
    return json.dumps(values).replace('"@odd@"', rng.choice(ODD)).encode("utf-8", "replace")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One to four changes of bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.choice((0, 0xFF, 0x7F, 0x80, *TOKENS))
        elif kind == 2:
            del out[at : at + rng.choice((1, 1, 8, 100))]
        elif kind == 3:
            out[at:at] = bytes(rng.choice(TOKENS) for _ in range(rng.choice((1, 3))))
        elif kind == 4:
            out[at:at] = rng.choice(ODD).encode("utf-8", "replace")
        elif kind == 5:
            out[at:at] = out[at : at + rng.choice((4, 40))]
        else:
            del out[at:]
    return bytes(out)


class _TooLong(BaseException):
    """No reader catches it."""


def _alarm(*_: object) -> None:
    raise _TooLong


def run(name: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    """Read mutated files; how many were refused and how many were fine."""
    reader = READERS[name]
    good = reader.good()
    document, put = reader.parts(good)
    path = folder / reader.name
    path.write_bytes(good)
    reader.read(path)  # the good file is one
    seen = {"refused": 0, "fine": 0}
    handler = signal.signal(signal.SIGALRM, _alarm)
    try:
        for index in range(count):
            rng = random.Random(f"{name} {seed} {index}")
            inner = rng.random() < 0.8
            subject = document if inner else good
            changed = odd_document(rng, subject) if inner and rng.random() < 0.5 else subject
            if changed is subject:
                changed = mutated(rng, subject)
            path.unlink()  # to truncate a file just written can wait for the disk
            path.write_bytes(put(changed) if inner else changed)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                reader.read(path)
                seen["fine"] += 1
            except HwgenError as error:
                seen["refused"] += 1
                line = str(error)
                assert line.isprintable(), f"{name} {seed} {index}: {line!r:.300}"
                assert len(line) < CHARACTERS, f"{name} {seed} {index}: {line:.300}"
            except (Exception, _TooLong) as error:
                raise AssertionError(
                    f"{name} {seed} {index}, kept as {path}: {error!r:.300}"
                ) from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, handler)
    return seen


@pytest.mark.parametrize("name", READERS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    seen = run(name, 1_000, 0, tmp_path)
    assert seen["refused"] > 100, seen


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))  # 20,000 of each reader
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files(name: str, seed: int, tmp_path: Path) -> None:
    seen = run(name, 2_000, seed, tmp_path)
    assert seen["refused"] > 100, seen


def test_the_engine_finds_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that lets another exception through, one that waits, one that says too much."""

    def through(path: Path) -> object:
        return json.loads(path.read_bytes())["name"]

    def wait(path: Path) -> None:
        if path.read_bytes() != MODELS_BYTES:
            signal.pause()

    def chatter(path: Path) -> None:
        if path.read_bytes() != MODELS_BYTES:
            raise HwgenError("x" * 10**6)

    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 0.2)
    for read in (through, wait, chatter):
        monkeypatch.setitem(READERS, "odd", Reader("m.json", lambda: MODELS_BYTES, read))
        with pytest.raises(AssertionError, match="odd 0"):
            run("odd", 100, 0, tmp_path)


MODELS_BYTES = model_file()
