# SPDX-License-Identifier: Apache-2.0
"""docs/models.md: its tables are the code's, its examples run."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.frontend.expected import TOLERANCE, load_expected
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.models import get_model
from hwgen.frontend.naming import PREFIXES, expected_shapes, mappable_names
from hwgen.graph.spec import ModelSpec

from .networks import SPEC, random_state

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
MODELS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]


def test_the_table_of_fields_is_complete():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", TEXT, re.MULTILINE))
    fields = {field.name: field.default for field in dataclasses.fields(ModelSpec)}
    assert list(rows) == list(fields)
    defaults = ModelSpec(name="x", width=8, depth=1, heads=1, mlp_hidden=8).to_json()
    for name, cell in rows.items():
        if name == "head_dim":
            assert cell == "`width / heads`"
        elif fields[name] is dataclasses.MISSING:
            assert cell == ""
        else:
            assert json.loads(cell.strip("`")) == defaults[name], name


def test_prefixes_and_names_are_the_code_s():
    for prefix in PREFIXES:
        assert f"`{prefix}.`" in TEXT
    for name in mappable_names(SPEC):
        parts = name.removeprefix("blocks.{i}.")
        assert f"`{parts}`" in TEXT or f"`{parts.rpartition('.')[0]}`" in TEXT, name
    assert f"more than {TOLERANCE:.0e} of".replace("e-04", "e-4") in TEXT


def theirs(spec: ModelSpec, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under the names of a map, by the map's own word."""
    names = dict(spec.name_map)
    out = {}
    for name, array in state.items():
        number = re.match(r"blocks\.(\d+)\.(.*)", name)
        block = f"blocks.{{i}}.{number[2]}" if number else name
        parts = {block: array}
        if "attn.qkv" in block and block not in names:
            thirds = np.split(array, 3)
            parts = {block.replace("qkv", n): a for n, a in zip("qkv", thirds, strict=True)}
        for part, values in parts.items():
            out[names[part].replace("{i}", number[1] if number else "")] = values
    return out


@pytest.mark.parametrize("values", MODELS, ids=lambda values: values["name"])
def test_examples(values):
    spec = ModelSpec.from_json(values)
    small = replace(
        spec, **{f: getattr(SPEC, f) for f in ("image_size", "patch", "width", "depth")}
    )
    small = replace(small, heads=3, head_dim=16, mlp_hidden=96, classes=11)
    state = random_state(small)
    given = theirs(small, state) if small.name_map else state
    assert not small.name_map or not set(given) & set(expected_shapes(small))
    model = FloatModel.from_state_dict(small, given)
    for name, array in state.items():
        assert np.array_equal(model.tensors[name], array), name
    assert model.assumed["qkv_layout"].value == (
        "head dim" if values["name"] == "apart" else "qkv head dim"
    )


def test_the_archive_of_expected_logits(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    np.savez(tmp_path / "val.npz", images=images)
    seen = []

    class Stub(torch.nn.Module):
        def forward(self, pixels):
            seen.append(pixels.numpy())
            return torch.zeros(len(pixels), 1000)

    monkeypatch.chdir(tmp_path)
    exec(code, {"model": Stub()})
    spec = get_model("deit_tiny")
    found = load_expected(tmp_path / "logits.npz", spec)
    assert np.array_equal(found.images, images)
    model = FloatModel(spec=spec, tensors={})
    assert np.abs(seen[0].transpose(0, 2, 3, 1) - model.preprocess(images)).max() < 1e-6
