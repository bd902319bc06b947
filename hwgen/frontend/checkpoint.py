# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files -> a flat dict of float32 arrays.

A checkpoint is data: nothing in it is executed.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.errors import CheckpointError, FormatError
from hwgen.graph.safetensors_file import read_safetensors

_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
#: Keys under which training scripts put the state dict (timm, DeiT's release, Lightning).
_CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "module")
_MAX_NESTING = 4
#: The first release whose ``weights_only`` can be relied on.
_SAFE_TORCH = (2, 10)


def load_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Return the state dict of a checkpoint file as float32 arrays.

    ``.safetensors`` needs NumPy only. ``.pt``, ``.pth`` and ``.bin`` are read with
    ``weights_only=True``: a file that would run code is refused. Common containers (``{"model":
    ...}``, ``{"state_dict": ...}``) are unwrapped.

    Raises:
        CheckpointError: the file is missing, malformed, or is no state dict of numbers.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise CheckpointError(
            f"Checkpoint must be a .safetensors, .pt, .pth or .bin file, not {str(path)!r}: {what}"
        )
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            tensors, _ = read_safetensors(path)
        except FormatError as error:
            raise CheckpointError(str(error)) from error
        return {name: _to_float32(name, array, path) for name, array in tensors.items()}
    if suffix in _TORCH_SUFFIXES:
        return _load_torch(path)
    raise CheckpointError(
        f"Checkpoint must be a .safetensors, .pt, .pth or .bin file, not {str(path)!r}"
    )


def _load_torch(path: Path) -> dict[str, np.ndarray]:
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
    state = _unwrap(loaded, path)
    out = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: a state dict must map names to tensors, not {name!r} to"
                f" {type(value).__name__}"
            )
        if why := _unusable(torch, value):
            raise CheckpointError(f"{path}: tensor {name!r} must be {why}")
        if value.dtype == torch.bfloat16:
            value = value.float()
        out[name] = _to_float32(name, value.detach().numpy(), path)
    return out


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


def _unwrap(loaded: Any, path: Path) -> Mapping[Any, Any]:
    for _ in range(_MAX_NESTING):
        if not isinstance(loaded, Mapping):
            raise CheckpointError(
                f"{path}: must hold a state dict (names to tensors), not {type(loaded).__name__}"
            )
        inner = next((k for k in _CONTAINERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    # DistributedDataParallel prefixes every name.
    if loaded and all(isinstance(n, str) and n.startswith("module.") for n in loaded):
        loaded = {n.removeprefix("module."): v for n, v in loaded.items()}
    return loaded


def _to_float32(name: str, array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind == "f":
        # Values beyond float32 become infinities, which the model's checks report.
        with np.errstate(over="ignore"):
            return np.array(array, dtype=np.float32)
    if array.dtype.kind in "iub":  # e.g. BatchNorm counters or position indices: never a weight
        return np.array(array)
    raise CheckpointError(f"{path}: tensor {name!r} must be floating point, not {array.dtype}")
