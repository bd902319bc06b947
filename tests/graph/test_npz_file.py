# SPDX-License-Identifier: Apache-2.0
"""Archives that hwgen wrote are known again, whatever happened to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.graph.npz_file import npz_bytes, recognise_npz
from hwgen.outputs import State

ARRAYS = {"b/rtl": np.arange(12, dtype=np.int8).reshape(3, 4), "a": np.zeros(5, np.uint8)}
LIMIT = 1 << 20


def test_equal_arrays_give_equal_bytes_that_are_recognised(tmp_path: Path) -> None:
    assert npz_bytes(ARRAYS) == npz_bytes(ARRAYS)
    (tmp_path / "x.npz").write_bytes(npz_bytes(ARRAYS))
    assert recognise_npz(tmp_path / "x.npz", limit_bytes=LIMIT) == State.OWN


def test_damaged_or_changed_ones_are_edited_and_others_foreign(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    data = npz_bytes(ARRAYS)
    damaged = bytearray(data)
    damaged[data.index(np.arange(12, dtype=np.int8).tobytes())] ^= 1
    path.write_bytes(damaged)
    assert recognise_npz(path, limit_bytes=LIMIT) == State.EDITED
    other = npz_bytes({**ARRAYS, "a": np.ones(5, np.uint8)})
    seal = data[data.rindex(b"PK\x05\x06") + 22 :]
    path.write_bytes(other[: -len(seal)] + seal)
    assert recognise_npz(path, limit_bytes=LIMIT) == State.EDITED
    np.savez(path, **ARRAYS)
    assert recognise_npz(path, limit_bytes=LIMIT) == State.FOREIGN
    path.write_bytes(b"PK")
    assert recognise_npz(path, limit_bytes=LIMIT) == State.FOREIGN


@pytest.mark.parametrize("place", range(0, 700, 7))
def test_any_damage_is_recognised_without_a_traceback(place: int, tmp_path: Path) -> None:
    data = bytearray(npz_bytes(ARRAYS))
    data[place % len(data)] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(data)
    assert recognise_npz(tmp_path / "x.npz", limit_bytes=LIMIT) in State
