# SPDX-License-Identifier: Apache-2.0
"""Folders, indices and shards: the whole model, or a refusal that says what is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import CheckpointError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.checkpoint_files import find_checkpoint
from hwgen.graph.safetensors_file import write_safetensors

STATE = {f"t{i}": np.full((i + 1, 2), i, np.float32) for i in range(6)}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
BYTES = sum(array.nbytes for array in STATE.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two shards with their index."""
    write(tmp_path, {n: FIRST if n < "t3" else SECOND for n in STATE})
    return tmp_path


def write(folder: Path, weight_map: dict[str, str], **metadata: object) -> Path:
    for shard in set(weight_map.values()):
        tensors = {n: STATE[n] for n, s in weight_map.items() if s == shard}
        write_safetensors(folder / shard, tensors, {"format": "pt"})
    return index(folder, weight_map, **metadata)


def index(folder: Path, weight_map: object, **metadata: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return path


def same(got: object) -> None:
    assert dict(got).keys() == STATE.keys()
    assert all(np.array_equal(got[name], array) for name, array in STATE.items())


def refused(path: Path, match: str) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    return str(caught.value)


def test_shards_are_joined(folder):
    same(load_checkpoint(folder))
    same(load_checkpoint(folder / "model.safetensors.index.json"))
    assert load_checkpoint(folder).assumed["file"].value == "model.safetensors.index.json"
    assert "file" not in load_checkpoint(folder / "model.safetensors.index.json").assumed


def test_shards_of_torch_are_joined(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    names = {n: f"pytorch_model-0000{1 + (n >= 't3')}-of-00002.bin" for n in STATE}
    for shard in set(names.values()):
        tensors = {n: torch.tensor(STATE[n]) for n, s in names.items() if s == shard}
        torch.save(tensors, tmp_path / shard)
    document = {"metadata": {"total_size": float(BYTES)}, "weight_map": names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(document))
    same(load_checkpoint(tmp_path))
    document["metadata"]["total_size"] = BYTES - 1
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(document))
    refused(tmp_path, f"bytes of all tensors \\({BYTES}\\), not {BYTES - 1}")


def test_sizes_are_those_of_the_file_not_of_float32(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    library.save_file({"x": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / FIRST)
    path = index(tmp_path, {"x": FIRST}, total_size=6)
    assert load_checkpoint(path)["x"].tolist() == [1, 1, 1]
    refused(index(tmp_path, {"x": FIRST}, total_size=12), r"\(6\), not 12")


@pytest.mark.parametrize("beside", [True, False])
def test_a_shard_alone_is_refused(folder, beside):
    if not beside:
        (folder / "model.safetensors.index.json").unlink()
    said = refused(folder / FIRST, r"must be whole, not .* one of 2 shards: give the folder or")
    assert ("which lies beside it" in said) == beside
    assert ("must lie beside it, and does not" in said) == (not beside)


def test_the_only_shard_is_whole(tmp_path):
    path = tmp_path / "model-00001-of-00001.safetensors"
    write_safetensors(path, STATE, {})
    same(load_checkpoint(path))
    same(load_checkpoint(tmp_path))


def test_shards_without_their_index_are_no_checkpoint(folder):
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, f"a folder with {FIRST}, {SECOND}")
    (folder / SECOND).unlink()
    refused(folder, "one of 2 shards")


def test_a_missing_shard_is_named(folder):
    (folder / SECOND).unlink()
    refused(folder, rf"missing: {SECOND} \(1 of 2\)")


def test_a_tensor_in_two_shards(folder):
    write_safetensors(folder / SECOND, {n: STATE[n] for n in ("t2", "t3", "t4", "t5")}, {})
    refused(folder, rf"{SECOND}: every tensor must be in one shard; 't2' is also in {FIRST}")


def test_a_tensor_in_another_shard_or_in_none(folder):
    write_safetensors(folder / SECOND, {n: STATE[n] for n in ("t3", "t4")}, {})
    refused(folder, "every tensor of the index must be in its shard; missing: t5")
    write_safetensors(folder / FIRST, {n: STATE[n] for n in ("t0", "t1", "t2", "t5")}, {})
    refused(folder, rf"'t5' is in {FIRST}, but the index says {SECOND}")


def test_a_tensor_that_the_index_does_not_know(folder):
    write_safetensors(
        folder / FIRST, {n: STATE[n] for n in ("t0", "t1", "t2")} | {"x": STATE["t0"]}, {}
    )
    refused(folder, rf"'x' is in {FIRST}, but the index says nothing")


def test_total_size(tmp_path):
    names = {n: FIRST if n < "t3" else SECOND for n in STATE}
    same(load_checkpoint(write(tmp_path, names, total_size=BYTES, total_parameters=42)))
    path = write(tmp_path, names, total_size=BYTES + 4)
    refused(path, f"total_size must be the bytes of all tensors \\({BYTES}\\), not {BYTES + 4}")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/outside.safetensors",
        "..\\outside.safetensors",
        ".hidden.safetensors",
        "",
        "model.txt",
        "model.safetensors\x00.safetensors",
    ],
)
def test_an_index_never_leaves_its_folder(tmp_path, name):
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    for place in (tmp_path, inside / "sub"):
        write_safetensors(place / "outside.safetensors", STATE, {})
    path = index(inside, dict.fromkeys(STATE, name))
    refused(path, "a shard must be a .* file of the index's own folder")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "must be JSON"),
        ("[]", "must be a table"),
        ("{}", "weight_map must be stated"),
        ('{"weight_map": {}}', "weight_map must be"),
        ('{"weight_map": {"a": 1}}', "weight_map.a must be a text, not 1"),
        ('{"weight_map": {"a": "x.bin", "a": "y.bin"}}', "'a' must stand once"),
        ('{"metadata": {"total_size": "x"}, "weight_map": {"a": "x.bin"}}', "total_size"),
        ("[" * 100_000, "nested at most"),
    ],
)
def test_indices_that_are_none(tmp_path, text, match):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    refused(path, match)


# Folders


def test_hugging_face_folders_have_standard_names(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", STATE, {})
    for other in ("optimizer.pt", "training_args.bin", "pytorch_model.bin", ".cache.safetensors"):
        (tmp_path / other).write_text("not read")
    (tmp_path / "config.json").write_text("{}")
    got = load_checkpoint(tmp_path)
    same(got)
    assert got.assumed["file"].value == "model.safetensors"
    assert got.assumed["file"].source == (
        "in the folder, besides optimizer.pt, pytorch_model.bin, training_args.bin"
    )


def test_any_folder_with_one_checkpoint(tmp_path):
    write_safetensors(tmp_path / "best.safetensors", STATE, {})
    same(load_checkpoint(tmp_path))
    (tmp_path / "last.pth").write_text("")
    refused(tmp_path, r"a folder with best.safetensors, last.pth; give the file itself")


def test_a_file_and_an_index_of_one_name_are_two(folder):
    write_safetensors(folder / "model.safetensors", STATE, {})
    refused(folder, "a folder with model.safetensors, model.safetensors.index.json; give the file")


def test_a_folder_without_checkpoint(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "sub.safetensors").mkdir()
    refused(tmp_path, "a folder with none")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "c.safetensors")
    refused(tmp_path / "c.safetensors", "no regular file")
    refused(tmp_path, "a folder with none")


def test_links_of_a_cache_are_followed(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    write_safetensors(blobs / "0a1b", STATE, {})
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(blobs / "0a1b")
    same(load_checkpoint(snapshot))
    assert find_checkpoint(snapshot).folder == snapshot  # where the configuration lies
