# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import json
import pickle
import struct
import sys

import numpy as np
import pytest

from hwgen.errors import CheckpointError
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.graph.safetensors_file import write_safetensors


def container(header, data=b"", *, length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_reads_what_the_library_writes(tmp_path, dtype):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    tensors = {
        "a.weight": np.arange(6, dtype=dtype).reshape(2, 3),
        "scalar": np.array(1.5, dtype=dtype),
        "empty": np.zeros((0, 4), dtype),
    }
    path = tmp_path / "c.safetensors"
    library.save_file(tensors, path, metadata={"format": "pt"})
    got = load_checkpoint(path)
    assert set(got) == set(tensors)
    for name, array in tensors.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == array.shape
        assert np.array_equal(got[name], array)


def test_bfloat16_is_exact(tmp_path):
    data = np.array([0x3F80, 0xC040], "<u2").tobytes()  # 1.0, -3.0
    path = tmp_path / "c.safetensors"
    path.write_bytes(container({"x": entry("BF16", (2,), (0, 4))}, data))
    assert load_checkpoint(path)["x"].tolist() == [1.0, -3.0]


def test_the_library_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    tensors = {"b": np.arange(3, dtype=np.int8), "a": np.ones((2, 2), np.float32)}
    path = tmp_path / "c.safetensors"
    write_safetensors(path, tensors, {"k": "v"})
    got = library.load_file(path)
    assert all(np.array_equal(got[name], tensors[name]) for name in tensors)


DUPLICATE = b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "at least 8 bytes, not 0"),
        (b"\x01\x02", "at least 8 bytes, not 2"),
        (container({}, length=2**63), "header length must be"),
        (container({}, length=2**40), "header length must be"),
        (container(b"not json"), "header must be JSON"),
        (container(b"\xff\xfe"), "header must be JSON"),
        (container([1]), "header must be a JSON object"),
        (container(b"[" * 50000), "header must be JSON"),
        (container({"a": entry()}, b"1234"), "truncated file"),
        (container({"a": entry(offsets=(0, 800), shape=(200,))}, b"12345678"), "truncated file"),
        (container({"a": entry()}, bytes(9)), "bytes that no tensor owns"),
        (container({"a": entry(offsets=(4, 12))}, bytes(12)), "leave a gap before it"),
        (container({"a": entry(), "b": entry()}, bytes(8)), "overlap it"),
        (container({"a": entry(shape=(2**40, 2**40))}, bytes(8)), "must take .* bytes"),
        (container({"a": entry(shape=(-1, -2))}, bytes(8)), "list of at most 8 sizes"),
        (container({"a": entry(shape=(True, 2))}, bytes(8)), r"shape\[0\] must be an integer"),
        (container({"a": entry(shape=(1,) * 40 + (2,))}, bytes(8)), "a list of at most 8 sizes"),
        (container({"a": entry(offsets=(8, 0))}, bytes(8)), r"offsets must be \[begin, end\]"),
        (container({"a": entry(dtype="F33")}, bytes(8)), "dtype must be one of"),
        (container({"a": 5}, bytes(8)), "must have dtype, shape and data_offsets, not 5"),
        (container({"__metadata__": {"a": 1}}), "__metadata__ must be an object of strings"),
        (container(DUPLICATE, bytes(8)), "Key 'a' must stand once"),
    ],
)
def test_malformed_safetensors(tmp_path, data, match):
    path = tmp_path / "c.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)


def test_every_truncation_is_refused(tmp_path):
    whole = tmp_path / "whole.safetensors"
    write_safetensors(whole, {"a": np.ones(3, np.float32)}, {})
    data = whole.read_bytes()
    path = tmp_path / "c.safetensors"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("wrap", [(), ("model",), ("state_dict",), ("state_dict", "model")])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_torch_containers(tmp_path, wrap, suffix):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = {"head.bias": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    for key in wrap:
        state = {key: state, "epoch": 3}
    path = tmp_path / f"c{suffix}"
    torch.save(state, path)
    assert load_checkpoint(path)["head.bias"].tolist() == [1.0, 2.0]


def saved(tmp_path, content, name="c.pt"):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / name
    torch.save(tensors_of(torch, content), path)
    return path


def tensors_of(torch, content):
    if isinstance(content, dict):
        return {key: tensors_of(torch, value) for key, value in content.items()}
    return torch.tensor(content) if isinstance(content, list) else content


WEIGHTS, AVERAGE = {"head.bias": [1.0, 2.0]}, {"head.bias": [3.0, 4.0]}


@pytest.mark.parametrize("name", ["c.pt", "c.ckpt", "c.pth.tar", "C.PTH"])
def test_suffixes_of_torch(tmp_path, name):
    assert load_checkpoint(saved(tmp_path, WEIGHTS, name))["head.bias"].tolist() == [1, 2]


def test_the_only_state_dict_is_taken_and_said(tmp_path):
    optimizer = {"state": {0: {"exp_avg": [0.0]}}, "param_groups": []}
    content = {"model": WEIGHTS, "optimizer": optimizer, "epoch": 3, "model_ema": None}
    got = load_checkpoint(saved(tmp_path, content))
    assert got["head.bias"].tolist() == [1, 2]
    assert (got.assumed["container"].value, got.assumed["container"].source) == (
        "model",
        "the only one of the file",
    )
    assert "container" not in load_checkpoint(saved(tmp_path, WEIGHTS)).assumed


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"model": WEIGHTS, "model_ema": AVERAGE}, ("model", "model_ema")),
        ({"state_dict": WEIGHTS, "state_dict_ema": AVERAGE}, ("state_dict", "state_dict_ema")),
        ({"student": WEIGHTS, "teacher": AVERAGE}, ("student", "teacher")),
        ({"ema": {"module": AVERAGE}, "net": WEIGHTS}, ("ema.module", "net")),
        ({"a": {"b": {"c": WEIGHTS, "d": AVERAGE}}}, ("a.b.c", "a.b.d")),
        ({**WEIGHTS, "ema": AVERAGE}, (".", "ema")),
    ],
)
def test_of_several_state_dicts_none_is_picked(tmp_path, content, places):
    path = saved(tmp_path, content)
    with pytest.raises(CheckpointError, match=r"several state dicts.*--container") as caught:
        load_checkpoint(path)
    values = []
    for place in places:
        assert place in str(caught.value)
        got = load_checkpoint(path, container=place)
        assert place == "." or len(got.notes) == 1  # the others are not read
        values.append(got["head.bias"].tolist())
        assert (got.assumed["container"].value, got.assumed["container"].source) == (
            place,
            "option --container",
        )
    assert sorted(values) == [[1, 2], [3, 4]]
    with pytest.raises(CheckpointError, match=r"not averge: .*" + places[-1]):
        load_checkpoint(path, container="averge")


def test_a_container_may_be_what_names_begin_with(tmp_path):
    flat = {"model.head.bias": [1.0, 2.0], "model_ema.head.bias": [3.0, 4.0], "loss.w": [5.0]}
    for content, before in ((flat, ""), ({"state_dict": flat}, "state_dict.")):
        path = saved(tmp_path, content)
        for option in ("model_ema", f"{before}model_ema"):
            got = load_checkpoint(path, container=option)
            assert got["head.bias"].tolist() == [3, 4]
            assert list(got) == ["head.bias"]
            assert got.notes == ("outside 'model_ema', not read: model.head.bias, loss.w",)
        with pytest.raises(CheckpointError, match="not 'mode'; names begin with loss, model"):
            load_checkpoint(path, container="mode")


def test_a_container_of_safetensors(tmp_path):
    path = tmp_path / "c.safetensors"
    write_safetensors(path, {"ema.x": np.ones(1, np.float32), "y": np.zeros(1, np.float32)}, {})
    assert list(load_checkpoint(path, container="ema")) == ["x"]


def test_tensors_beside_the_state_dict_are_named(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    content = {"state_dict": {"model": WEIGHTS, "b": [1.0]}, "pixel_mean": [0.5], "epoch": 3}
    got = load_checkpoint(saved(tmp_path, content))
    assert got.assumed["container"].value == "state_dict.model"
    assert got.notes == ("not read, beside the state dict: b, pixel_mean",)
    # torch_ema keeps its averages as a list.
    ema = {"decay": 0.99, "shadow_params": (torch.ones(2), torch.ones(3))}
    got = load_checkpoint(saved(tmp_path, {"model": WEIGHTS, "ema": ema, "args": {"lr": 1}}))
    assert got.notes == ("not read, beside the state dict: ema",)


def test_a_file_that_holds_itself_many_times(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tree = {"w": torch.ones(2)}
    many = [tree] * 1000
    for i in range(1000):
        tree[f"again{i}"] = tree
    many += [many] * 1000
    torch.save({"model": tree, "beside": many}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="must map names to tensors"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    "said",
    [
        {"norm_first": False},
        {"layer_norm_first": False},
        {"post_norm": True},
        {"cfg": {"encoder": {"normalize-before": False}}},
        {"norm_position": "post"},
    ],
)
def test_a_post_norm_network_that_the_file_says(tmp_path, said):
    path = saved(tmp_path, {"state_dict": WEIGHTS, "hyper_parameters": said})
    with pytest.raises(CheckpointError, match="post-norm"):
        load_checkpoint(path)
    key, value = next(iter(said.items()))
    if not isinstance(value, dict):
        path = tmp_path / "c.safetensors"
        write_safetensors(path, {"x": np.ones(1, np.float32)}, {key: str(value)})
        with pytest.raises(CheckpointError, match="post-norm"):
            load_checkpoint(path)


def test_a_pre_norm_network_that_the_file_says(tmp_path):
    said = {"norm_first": True, "post_norm": False, "norm_position": "pre", "qk_norm": False}
    load_checkpoint(saved(tmp_path, {"state_dict": WEIGHTS, "hyper_parameters": said}))


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (exec, (f"open({str(self.target)!r}, 'w').close()",))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_payload_is_refused_and_not_executed(tmp_path, writer):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    marker, path = tmp_path / "executed", tmp_path / "c.pt"
    content = {"x": Payload(marker)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="nothing in it was executed") as caught:
        load_checkpoint(path)
    assert not marker.exists()
    # No advice on how to execute it after all.
    assert "weights_only" not in str(caught.value)


def test_what_a_refused_file_holds_is_named(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "c.pt"
    torch.save({"x": torch.zeros(1), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(CheckpointError, match=r"found argparse\.Namespace\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 broken", b"random text", bytes(100)])
def test_damaged_torch_files(tmp_path, data):
    pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "c.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"must be a file of torch|refused"):
        load_checkpoint(path)


def test_torch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "c.pt"
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"needs torch, which is not installed.*safetensors"):
        load_checkpoint(path)


def test_state_dict_must_hold_tensors(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "c.pt"
    torch.save({"a": 3}, path)
    with pytest.raises(CheckpointError, match="must map names to tensors"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="must hold a state dict"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "match"), [("none.safetensors", "missing"), ("folder", "a folder"), ("c.txt", "not ")]
)
def test_paths_that_are_no_checkpoint(tmp_path, name, match):
    (tmp_path / "folder").mkdir()
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path / name)


def test_an_empty_tensor_cannot_hide_a_huge_axis(tmp_path):
    path = tmp_path / "c.safetensors"
    for shape in ([0, 1 << 70], [0, 1 << 40, 1 << 40]):
        path.write_bytes(container({"x": entry("F32", shape, (0, 0))}))
        with pytest.raises(CheckpointError, match=r"shape must|of 64 bits"):
            load_checkpoint(path)


def test_tensors_without_plain_values_are_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "c.pt"
    for value, match in (
        (torch.zeros(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.zeros(3, device="meta"), "device 'meta'"),
        (torch.zeros(1).expand(1 << 40), r"4398046511104 bytes.*not expanded from 4 bytes"),
        (torch.zeros(3).to_sparse(), "dense"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
    ):
        torch.save({"x": value}, path)
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(path)


def test_nested_tensors_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from hwgen.frontend.checkpoint import _unusable

    class Nested:
        is_nested = True

    assert "nested" in _unusable(torch, Nested())
    assert _unusable(torch, torch.zeros(2, 3).T) is None


@pytest.mark.parametrize("version", ["2.9.1+cpu", "1.13.0", "2", "unknown"])
def test_torch_with_unsafe_loading_is_refused(tmp_path, monkeypatch, version):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "c.pt"
    torch.save({"x": torch.zeros(2)}, path)
    load_checkpoint(path)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(CheckpointError, match=r"torch must be 2\.10 or later"):
        load_checkpoint(path)
