# SPDX-License-Identifier: Apache-2.0
"""Comparison of layer boundaries."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import MismatchError
from hwgen.sim.compare import compare


def tensors() -> dict[str, np.ndarray]:
    return {
        "zeta": np.arange(24, dtype=np.int8).reshape(2, 12),
        "alpha": np.arange(6, dtype=np.int16).reshape(2, 3),
    }


def test_equal_tensors_are_counted() -> None:
    assert compare(tensors(), tensors()) == 2
    wide = {name: value.astype(np.int64) for name, value in tensors().items()}
    assert compare(tensors(), wide) == 2


def test_first_difference_in_network_order() -> None:
    got = tensors()
    got["alpha"][0, 0] = 9
    got["zeta"][1, 6] = -1
    got["zeta"][1, 8] = 120
    with pytest.raises(MismatchError) as caught:
        compare(
            *(tensors(), got),
            where="image 3",
            lanes=4,
            tile_columns=5,
            image=3,
            written=lambda name, index: {("zeta", (1, 6)): 77}[name, index],
        )
    assert caught.value.first_difference == {
        "op": "zeta",
        "tile": 1,
        "lane": 2,
        "index": (1, 6),
        "expected": 18,
        "got": -1,
        "differing": 2,
        "elements": 24,
        "largest_difference": 100,
        "image": 3,
        "cycle": 77,
    }
    assert str(caught.value) == (
        "image 3: zeta, tile 1, lane 2, index (1, 6): expected 18, got -1, written in cycle 77;"
        " 2 of 24 elements differ, by at most 100"
    )


def test_difference_hidden_by_wrapping_is_seen() -> None:
    with pytest.raises(MismatchError, match=r"expected -1, got 255; 1 of 1 .* by at most 256"):
        compare({"a": np.array([-1], np.int8)}, {"a": np.array([255], np.uint8)})


def test_missing_extra_and_misshapen_tensors() -> None:
    part = {"zeta": tensors()["zeta"]}
    with pytest.raises(MismatchError, match="alpha: expected a tensor"):
        compare(tensors(), part)
    with pytest.raises(MismatchError, match="alpha: expected no such tensor"):
        compare(part, tensors())
    with pytest.raises(MismatchError, match="zeta: expected the shape"):
        compare(part, {"zeta": tensors()["zeta"].T})
