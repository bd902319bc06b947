# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle

import pytest

from hwgen import errors
from hwgen.errors import DoesNotFitError, FormatError, HwgenError, MismatchError, UsageError


def test_message_joins_what_where_why_nearest() -> None:
    error = HwgenError("Width must be even, not 3", where="layer 2", why="pairs", nearest=4)
    assert str(error) == "layer 2: Width must be even, not 3 (pairs); nearest legal value: 4"
    assert (error.what, error.where, error.why, error.nearest) == (
        "Width must be even, not 3",
        "layer 2",
        "pairs",
        4,
    )
    assert str(HwgenError("plain")) == "plain"
    assert str(HwgenError("zero", nearest=0)) == "zero; nearest legal value: 0"


def test_exit_status() -> None:
    statuses = {
        name: cls.exit_status
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, HwgenError)
    }
    assert len(statuses) == 13
    assert statuses.pop("UsageError") == 2
    assert set(statuses.values()) == {1}


def test_does_not_fit() -> None:
    error = DoesNotFitError("DSP", 3000, 2520, "blocks", ("fewer columns", "4-bit weights"))
    assert str(error) == (
        "DSP must be at most 2,520 blocks, not 3,000 blocks; try: fewer columns; 4-bit weights"
    )
    assert (error.resource, error.demand, error.bound) == ("DSP", 3000, 2520)


def test_mismatch_names_the_first_difference() -> None:
    place = {"op": "blocks.0.qkv", "tile": 3, "lane": 7, "index": (0, 4), "expected": 5, "got": -1}
    counts = {"differing": 12, "elements": 3456, "largest_difference": 9}
    error = MismatchError(**place, **counts, image=2, cycle=1234)
    assert str(error) == (
        "blocks.0.qkv, tile 3, lane 7, index (0, 4): expected 5, got -1, written in cycle 1,234;"
        " 12 of 3,456 elements differ, by at most 9"
    )
    assert error.first_difference == place | counts | {"image": 2, "cycle": 1234}
    unknown = MismatchError("op", expected=1, got=2).first_difference
    assert unknown == {name: None for name in error.first_difference} | {
        "op": "op",
        "expected": 1,
        "got": 2,
    }
    assert str(MismatchError("head", index=0, expected=1, got=2)) == (
        "head, index 0: expected 1, got 2"
    )


@pytest.mark.parametrize(
    "error",
    [
        FormatError("x", nearest=3),
        UsageError("y"),
        DoesNotFitError("LUT", 2, 1),
        MismatchError("op", expected=1, got=2, lane=4),
    ],
)
def test_errors_survive_a_process_boundary(error: HwgenError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
