# SPDX-License-Identifier: Apache-2.0
"""Checkpoints -> a flat mapping of float32 arrays, and what was taken for granted in reading them.

A checkpoint is data: nothing in it is executed.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.errors import CheckpointError, FormatError
from hwgen.frontend.checkpoint_files import (
    SAFETENSORS_SUFFIX,
    CheckpointFiles,
    find_checkpoint,
)
from hwgen.frontend.other_networks import refuse_what_is_said
from hwgen.frontend.texts import listing, quoted
from hwgen.graph.assumption import Assumption
from hwgen.graph.safetensors_file import data_bytes, read_safetensors

_MAX_NESTING = 4
#: Entries of training checkpoints that hold tensors which are no weights.
_NO_WEIGHTS = re.compile(r"(optim|(lr_)?sched|scaler|amp|loss_scaler|rng|loops|grad)\w*")
#: The first release whose ``weights_only`` can be relied on.
_SAFE_TORCH = (2, 10)


#: Keys that lead to a state dict.
_Place = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(Mapping[str, np.ndarray]):
    """The state dict of a checkpoint: name -> array, float32 where the file has floats."""

    tensors: Mapping[str, np.ndarray]
    assumed: Mapping[str, Assumption] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True, kw_only=True)
class _File:
    """What one file holds: a tree of mappings with tensors, and how to make arrays of them."""

    tree: Any
    is_tensor: Callable[[object], bool]
    to_array: Callable[[str, Any], np.ndarray]
    nbytes: Callable[[Mapping[str, Any]], int]  #: bytes of tensors as they are stored


def load_checkpoint(path: str | Path, *, container: str | None = None) -> Checkpoint:
    """Return the state dict of a checkpoint file, of a folder with one, or of an index of shards.

    ``.safetensors`` needs NumPy only. ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` and ``.pth.tar`` are
    read with ``weights_only=True``: a file that would run code is refused.

    Args:
        path: a file, an index (``*.index.json``), or a folder, see
            :func:`hwgen.frontend.checkpoint_files.find_checkpoint`.
        container: which of several state dicts: a key of a training checkpoint
            (``model_ema``, ``state_dict.teacher``), or what the names begin with, up to a dot. By
            default the only one; several are refused.

    Raises:
        CheckpointError: the file is missing, malformed, or is no state dict of numbers; or it
            holds several, of which none was chosen.
    """
    found = find_checkpoint(Path(path))
    assumed: dict[str, Assumption] = {}
    if found.chosen is not None:
        beside = f", besides {', '.join(found.others)}" if found.others else ""
        assumed["file"] = Assumption(quoted(found.chosen), f"in the folder{quoted(beside)}")
    notes: list[str] = []
    if found.index is not None:
        tensors, prefix = _read_shards(found), container or ""
    else:
        tensors, place, prefix = _read_one(found.files[0], container, notes)
        if place:
            assumed["container"] = Assumption(quoted(".".join(place)), "the only one of the file")
    if prefix:
        tensors = _behind_prefix(tensors, prefix, notes, found.index or found.files[0])
    if container is not None:
        assumed["container"] = Assumption(quoted(container), "option --container")
    return Checkpoint(tensors=tensors, assumed=assumed, notes=tuple(notes))


def _read_one(
    path: Path, container: str | None, notes: list[str]
) -> tuple[dict[str, np.ndarray], _Place, str]:
    """The tensors of a file, the place of their state dict, and a prefix that is asked for."""
    file = _open(path)
    place, state, prefix = _choose(file, container, path)
    if left := _unread(file, place):
        notes.append(f"not read, beside the state dict: {listing(left)}")
    tensors = {name: file.to_array(name, value) for name, value in _named(file, state, path)}
    return tensors, place, prefix


def _behind_prefix(
    tensors: dict[str, np.ndarray], prefix: str, notes: list[str], path: Path
) -> dict[str, np.ndarray]:
    """The tensors whose names begin with a prefix and a dot, without it."""
    chosen = {n[len(prefix) + 1 :]: a for n, a in tensors.items() if n.startswith(f"{prefix}.")}
    if not chosen:
        firsts = sorted({name.partition(".")[0] for name in tensors})
        raise CheckpointError(
            f"{path}: --container must be a key or the beginning of names that is there, not"
            f" {prefix!r}; names begin with {listing(firsts)}"
        )
    left = [name for name in tensors if not name.startswith(f"{prefix}.")]
    if left:
        notes.append(f"outside {prefix!r}, not read: {listing(left)}")
    return chosen


def _read_shards(found: CheckpointFiles) -> dict[str, np.ndarray]:
    """All tensors of the shards of an index, each named once by both."""
    out: dict[str, np.ndarray] = {}
    place: dict[str, Path] = {}
    total = 0
    for path in found.files:
        file = _open(path)
        _, state, _ = _choose(file, None, path)
        for name, value in _named(file, state, path):
            if name in place:
                raise CheckpointError(
                    f"{path}: every tensor must be in one shard; {quoted(name)!r} is also in"
                    f" {place[name].name}"
                )
            if found.weight_map.get(name) != path.name:
                said = found.weight_map.get(name)
                raise CheckpointError(
                    f"{found.index}: must place every tensor of its shards; {quoted(name)!r} is in"
                    f" {path.name}, but the index says {said or 'nothing'}"
                )
            place[name] = path
            out[name] = file.to_array(name, value)
        total += file.nbytes(state)
    if missing := [name for name in found.weight_map if name not in place]:
        raise CheckpointError(
            f"{found.index}: every tensor of the index must be in its shard; missing:"
            f" {listing(missing)}"
        )
    if found.total_bytes not in (None, total):
        raise CheckpointError(
            f"{found.index}: total_size must be the bytes of all tensors ({total}), not"
            f" {found.total_bytes}: the shards are not those that the index was written for"
        )
    return out


# State dicts within a file


def _choose(
    file: _File, container: str | None, path: Path
) -> tuple[_Place, Mapping[Any, Any], str]:
    """Place and content of the state dict that is asked for, or of the only one.

    What follows the place in ``container`` is a prefix of names, and comes third.
    """
    if not isinstance(file.tree, Mapping):
        raise CheckpointError(
            f"{path}: must hold a state dict (names to tensors), not {type(file.tree).__name__}"
        )
    states = _state_dicts(file, file.tree)
    if not states:
        return (), file.tree, ""  # refused name by name
    if container is not None:
        fitting = [p for p in states if f"{container}.".startswith(f"{'.'.join(p)}.")]
        if container == ".":
            fitting = [p for p in states if not p]
        if fitting:
            place = max(fitting, key=len)
            return place, states[place], container[len(".".join(place)) :].strip(".")
    if len(states) == 1:
        place, state = next(iter(states.items()))
        return place, state, container or ""
    places = sorted(".".join(place) or "." for place in states)
    raise CheckpointError(
        f"{path}: holds several state dicts, of which one must be chosen with --container, not"
        f" {quoted(container) if container else 'none'}: {listing(places)}"
        + (" (trained weights and their moving average differ)" if container is None else "")
    )


def _state_dicts(
    file: _File, tree: Mapping[Any, Any], place: _Place = (), seen: set[int] | None = None
) -> dict[_Place, Mapping[Any, Any]]:
    """Every mapping of names to tensors in a tree; one that is in several places, once.

    A few bytes of pickle make a mapping that holds itself a thousand times, hence ``seen``.
    """
    seen = set() if seen is None else seen
    seen.add(id(tree))
    found: dict[_Place, Mapping[Any, Any]] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or id(value) in seen:
            continue
        if len(place) < _MAX_NESTING and not _NO_WEIGHTS.fullmatch(key):
            found |= _state_dicts(file, value, (*place, key), seen)
    own = [key for key, value in tree.items() if file.is_tensor(value)]
    # Beside state dicts, single tensors (an epoch, statistics) are none; names with dots are one.
    if own and not found:
        found[place] = tree
    elif any("." in str(key) for key in own):
        found[place] = {key: v for key, v in tree.items() if not isinstance(v, Mapping)}
    return found


def _unread(file: _File, place: _Place) -> list[str]:
    """Entries beside a state dict that hold tensors, which nobody reads."""
    tree, left = file.tree, []
    for key in place:
        seen = {id(tree)}
        left += [
            str(name) for name, v in tree.items() if name != key and _holds_tensor(file, v, seen)
        ]
        tree = tree[key]
    return sorted(left)


def _holds_tensor(file: _File, value: Any, seen: set[int], depth: int = 0) -> bool:
    if isinstance(value, Mapping | list | tuple):
        if id(value) in seen or depth > _MAX_NESTING:
            return False
        seen.add(id(value))
        inner = value.values() if isinstance(value, Mapping) else value
        return any(_holds_tensor(file, item, seen, depth + 1) for item in inner)
    return file.is_tensor(value)


def _named(file: _File, state: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a state dict, which must have nothing else."""
    for name, value in state.items():
        if not isinstance(name, str) or not file.is_tensor(value):
            raise CheckpointError(
                f"{path}: a state dict must map names to tensors, not {name!r:.120} to"
                f" {type(value).__name__}"
            )
        yield name, value


# Files


def _open(path: Path) -> _File:
    if path.suffix.lower() == SAFETENSORS_SUFFIX:
        try:
            tensors, metadata = read_safetensors(path)
            size = data_bytes(path)
        except FormatError as error:
            raise CheckpointError(str(error)) from error
        refuse_what_is_said(metadata, str(path))
        return _File(
            tree=tensors,
            is_tensor=lambda value: isinstance(value, np.ndarray),
            to_array=lambda name, value: _to_float32(name, value, path),
            nbytes=lambda _: size,
        )
    return _open_torch(path)


def _open_torch(path: Path) -> _File:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading {path.suffix} files needs torch, which is not installed;"
            " install torch, or convert the file to .safetensors (which needs NumPy only)"
        ) from error
    if _release(torch.__version__) < _SAFE_TORCH:
        raise CheckpointError(
            f"{path}: torch must be {'.'.join(map(str, _SAFE_TORCH))} or later to read"
            f" {path.suffix} files, not {torch.__version__}: before, weights_only does not keep a"
            " file from running code; update torch, or convert the file to .safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an odd pickle protocol: refused below, if at all
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Only what was met: the rest of torch's text tells how to execute such a file.
        met = re.search(r"GLOBAL ([\w.]+)|<class '([\w.]+)'>|(operand \d+)", str(error))
        what = next(filter(None, met.groups())) if met else "something else"
        raise CheckpointError(
            f"{path}: refused: the file must hold tensors only, and nothing in it was executed"
            f" (found {what}); save model.state_dict(), or use .safetensors"
        ) from error
    except Exception as error:  # torch raises many types for a damaged archive
        size = path.stat().st_size
        told = str(error).partition(" In PyTorch")[0]
        said = f": {told:.200}" if told else ""
        raise CheckpointError(
            f"{path}: must be a file of torch.save(state_dict), whole and unchanged; torch cannot"
            f" read these {size} bytes ({type(error).__name__}{said})"
        ) from error

    if isinstance(loaded, Mapping):
        refuse_what_is_said(loaded, str(path))

    def to_array(name: str, value: Any) -> np.ndarray:
        if why := _unusable(torch, value):
            raise CheckpointError(f"{path}: tensor {name!r} must be {why}")
        if value.dtype == torch.bfloat16:
            value = value.float()
        return _to_float32(name, value.detach().numpy(), path)

    return _File(
        tree=loaded,
        is_tensor=lambda value: isinstance(value, torch.Tensor),
        to_array=to_array,
        nbytes=lambda state: sum(t.numel() * t.element_size() for t in state.values()),
    )


def _release(version: str) -> tuple[int, ...]:
    """``2.10.0+cpu`` -> (2, 10)."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def _unusable(torch: Any, value: Any) -> str | None:
    """What a tensor must be and is not; None if its values can be read as they are."""
    if value.is_nested:
        return "one array, not a nested tensor"
    if value.layout != torch.strided or value.is_quantized:
        return f"dense, not {'quantised' if value.is_quantized else value.layout}"
    if value.device.type != "cpu":  # of the device "meta": a shape without values
        return f"stored with its values, not on the device {value.device.type!r}"
    integers = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if value.dtype not in (*floats, *integers):
        return f"float16, bfloat16, float32 or float64, not {value.dtype}"
    need, have = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if need > have:  # an expanded one: a few bytes would become any size
        return f"stored element by element ({need} bytes), not expanded from {have} bytes"
    return None


def _to_float32(name: str, array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind == "f":
        # Values beyond float32 become infinities, which the model's checks report.
        with np.errstate(over="ignore"):
            return np.array(array, dtype=np.float32)
    if array.dtype.kind in "iub":  # e.g. BatchNorm counters or position indices: never a weight
        return np.array(array)
    raise CheckpointError(f"{path}: tensor {name!r} must be floating point, not {array.dtype}")
