# SPDX-License-Identifier: Apache-2.0
"""Which files make a checkpoint: one file, a folder with one, or an index and its shards.

Never half a model: a shard alone is refused, and an index must name every tensor of every shard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hwgen.errors import CheckpointError, FormatError
from hwgen.reading import printable, read_json

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
KINDS = ".safetensors, .pt, .pth, .bin, .ckpt or .pth.tar"
INDEX_SUFFIX = ".index.json"
#: What Hugging Face calls a model's weights; the first that is there counts, as in transformers.
_STANDARD = ("model.safetensors", "pytorch_model.bin")
#: ``model-00001-of-00002.safetensors``
_SHARD = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})(\.\w+)")
#: A file of the index's own folder: no separators, no dot in front.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")


class _Metadata(BaseModel):
    """What an index says of all shards; writers put more there."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    total_size: int | float | None = None  #: bytes of all tensors; old writers have a float


class _Index(BaseModel):
    """``model.safetensors.index.json``."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    metadata: _Metadata = _Metadata()
    weight_map: dict[str, str] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The files of one checkpoint, all of the same folder."""

    files: tuple[Path, ...]
    weight_map: Mapping[str, str] = field(default_factory=dict)  #: tensor -> shard, by the index
    total_bytes: int | None = None  #: of all tensors, if the index says it
    index: Path | None = None
    chosen: str | None = None  #: of a folder: the file that was taken
    others: tuple[str, ...] = ()  #: of a folder: the checkpoints that were not

    @property
    def folder(self) -> Path:
        """Where configuration files lie beside the weights."""
        return self.files[0].parent


def find_checkpoint(path: Path) -> CheckpointFiles:
    """Return the files of a checkpoint file, of a folder with one, or of an index.

    A folder: ``model.safetensors`` or its index, else ``pytorch_model.bin`` or its index, else the
    only recognisable checkpoint.

    Raises:
        CheckpointError: there is none, more than one, or only part of one.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        what = "no regular file" if path.exists() else "missing"
        raise CheckpointError(
            f"Checkpoint must be a {KINDS} file, an index of shards or a folder with one of them,"
            f" not {str(path)!r}: {what}"
        )
    if path.name.endswith(INDEX_SUFFIX):
        return _from_index(path)
    if not _is_weights(path):
        raise CheckpointError(
            f"Checkpoint must be a {KINDS} file, an index of shards ({INDEX_SUFFIX}) or a folder"
            f" with one of them, not {str(path)!r}"
        )
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1:
        index = path.with_name(f"{shard[1]}{shard[4]}{INDEX_SUFFIX}")
        lies = "lies beside it" if index.is_file() else "must lie beside it, and does not"
        raise CheckpointError(
            f"Checkpoint must be whole, not {str(path)!r}, one of {int(shard[3])} shards: give the"
            f" folder or the index {str(index)!r}, which {lies}"
        )
    return CheckpointFiles(files=(path,))


def _is_weights(path: Path) -> bool:
    return path.suffix.lower() in (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES)


def _in_folder(folder: Path) -> CheckpointFiles:
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
        and (_is_weights(entry) or entry.name.endswith(INDEX_SUFFIX))
        and entry.is_file()
    )
    # Shards belong to their index; without one they are refused by name.
    whole = [name for name in names if not _SHARD.fullmatch(name)] or names
    candidates = whole
    for standard in _STANDARD:
        if mine := [name for name in whole if name in (standard, standard + INDEX_SUFFIX)]:
            candidates = mine
            break
    if len(candidates) != 1:
        held = ", ".join(map(printable, candidates[:8])) or "none"
        raise CheckpointError(
            f"Checkpoint must be a {KINDS} file, an index of shards or a folder with exactly one of"
            f" them, not {str(folder)!r}: a folder with {held}"
            + ("; give the file itself" if candidates else "")
        )
    chosen = candidates[0]
    others = tuple(name for name in whole if name != chosen)
    return replace(find_checkpoint(folder / chosen), chosen=chosen, others=others)


def _from_index(path: Path) -> CheckpointFiles:
    try:
        index = read_json(path, _Index)
    except FormatError as error:
        raise CheckpointError(str(error)) from error
    shards = sorted(set(index.weight_map.values()))
    for name in shards:
        if not _PLAIN_NAME.fullmatch(name) or not _is_weights(Path(name)):
            raise CheckpointError(
                f"{path}: a shard must be a {KINDS} file of the index's own folder, named without"
                f" a path, not {name!r:.80}"
            )
    files = tuple(path.with_name(name) for name in shards)
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{path}: every shard must lie beside the index; missing: {', '.join(missing[:8])}"
            f" ({len(missing)} of {len(files)})"
        )
    total = index.metadata.total_size
    return CheckpointFiles(
        files=files,
        weight_map=index.weight_map,
        total_bytes=None if total is None else int(total),
        index=path,
    )
