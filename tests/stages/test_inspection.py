# SPDX-License-Identifier: Apache-2.0
"""Windows of waveforms, and what dumps and waveforms may take the place of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import ConfigError, HwgenError, UsageError
from hwgen.graph.npz_file import read_npz
from hwgen.outputs import State
from hwgen.stages.inspection import Dump, Inspection, open_dump, recognise_wave

REFERENCE = {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b/c": np.ones((1, 2), np.int16)}


@pytest.mark.parametrize(
    ("stated", "cycle", "window"),
    [
        ({}, None, (0, 576)),  # nothing differs: the beginning
        ({}, 700, (188, 764)),  # around the first difference
        ({}, 100, (0, 164)),
        ({}, 999, (487, 1000)),  # the frame ends before
        ({"from_cycle": 10, "to_cycle": 10}, 700, (10, 10)),
        ({"from_cycle": 100}, 700, (100, 676)),
        ({"from_cycle": 1000}, None, (1000, 1000)),
        ({"to_cycle": 900}, None, (324, 900)),
        ({"to_cycle": 9}, None, (0, 9)),
        ({"to_cycle": 5000}, None, (424, 1000)),
    ],
)
def test_window(stated: dict[str, int], cycle: int | None, window: tuple[int, int]) -> None:
    assert Inspection(**stated).window(cycle, 1000) == window


def test_a_window_behind_the_frame_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Inspection(from_cycle=1001).window(None, 1000)
    assert str(caught.value) == (
        "First cycle of the waveform must be in the frame, not 1001 (it ends in cycle 1000);"
        " nearest legal value: 1000"
    )


def dump(folder: Path, images: int = 1) -> None:
    with open_dump(folder) as made:
        assert isinstance(made, Dump)
        for image in range(images):
            got = {name: tensor + image for name, tensor in REFERENCE.items()}
            made.add(image, REFERENCE, got)
        made.finish()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_dump_holds_both_and_is_the_same_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dump"
    dump(folder, 2)
    assert sorted(content(folder)) == ["image_0000.npz", "image_0001.npz"]
    arrays, _ = read_npz(folder / "image_0001.npz", limit_bytes=1 << 20)
    assert list(arrays) == ["a/rtl", "a/reference", "b/c/rtl", "b/c/reference"]
    for name, tensor in REFERENCE.items():
        np.testing.assert_array_equal(arrays[f"{name}/reference"], tensor)
        np.testing.assert_array_equal(arrays[f"{name}/rtl"], tensor + 1)
        assert arrays[f"{name}/rtl"].dtype == tensor.dtype
    before = content(folder)
    dump(folder, 2)
    assert content(folder) == before
    # An older dump goes as a whole: none of its images is left among the new ones.
    dump(folder, 1)
    assert sorted(content(folder)) == ["image_0000.npz"]
    assert list(folder.parent.iterdir()) == [folder]


def test_what_one_side_lacks_is_not_in_the_dump(tmp_path: Path) -> None:
    with open_dump(tmp_path / "dump") as made:
        made.add(0, {"a": REFERENCE["a"]}, {"more": REFERENCE["a"]})
        made.finish()
    arrays, _ = read_npz(tmp_path / "dump" / "image_0000.npz", limit_bytes=1 << 20)
    assert list(arrays) == ["a/reference", "more/rtl"]


def test_an_interrupted_dump_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_dump(tmp_path / "dump") as made:
        made.add(0, REFERENCE, REFERENCE)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def check(tmp_path: Path, *, force: bool = False, **places: Path) -> None:
    Inspection(**places).check_places(tmp_path / "design", inputs=[tmp_path / "i"], force=force)


def test_a_dump_takes_the_place_of_a_dump_only(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    check(tmp_path, dump=folder)
    folder.mkdir()
    check(tmp_path, dump=folder)  # empty
    dump(folder)
    check(tmp_path, dump=folder)
    image = folder / "image_0000.npz"
    seal = image.read_bytes()[-64:]
    dump(tmp_path / "other", 2)
    other = (tmp_path / "other" / "image_0001.npz").read_bytes()
    image.write_bytes(other[:-64] + seal)  # other values than those that were sealed
    with pytest.raises(ConfigError, match=r"image_0000\.npz was changed; give --force"):
        check(tmp_path, dump=folder)
    check(tmp_path, dump=folder, force=True)
    np.savez(tmp_path / "foreign.npz", a=REFERENCE["a"])
    foreign = (tmp_path / "foreign.npz").read_bytes()
    for name, data in (("image_0000.npz", foreign), ("notes.txt", b""), ("image_1.npz", b"")):
        dump(folder)
        (folder / name).write_bytes(data)
        with pytest.raises(ConfigError, match=f"hold a dump of hwgen only; move '{name}'"):
            check(tmp_path, dump=folder, force=True)
        (folder / name).unlink()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a folder"):
        check(tmp_path, dump=tmp_path / "file")


def test_a_waveform_takes_the_place_of_one_only(tmp_path: Path) -> None:
    path = tmp_path / "w.vcd"
    check(tmp_path, wave=path)
    path.write_text("$comment hwgen waveform of x: image 0 $end\n")
    assert recognise_wave(path) is State.OWN
    check(tmp_path, wave=path)
    path.write_text("$version Generated by VerilatedVcd $end\n")  # somebody's own simulation
    with pytest.raises(ConfigError, match="is another file"):
        check(tmp_path, wave=path, force=True)
    with pytest.raises(ConfigError, match="Output file's folder must exist"):
        check(tmp_path, wave=tmp_path / "none" / "w.vcd")


@pytest.mark.parametrize(
    "places",
    [
        {"wave": "i"},  # an input
        {"dump": "."},  # holds it
        {"wave": "x", "dump": "x"},
        {"wave": "d/w.vcd", "dump": "d"},
        {"wave": "design/w.vcd"},  # a design folder holds what it lists
        {"dump": "design"},
    ],
)
def test_places_that_are_taken(places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "i").touch()
    (tmp_path / "design").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HwgenError) as caught:
        check(tmp_path, **{name: tmp_path / place for name, place in places.items()})
    assert isinstance(caught.value, UsageError)
    assert sorted(tmp_path.rglob("*")) == before
