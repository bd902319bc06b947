# SPDX-License-Identifier: Apache-2.0
"""The cache: entries count only if they are the user's own and undamaged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hwgen.cache import fill_once, is_sound
from hwgen.errors import ToolError


def filled(folder: Path, text: str = "good") -> int:
    """Fill an entry; how often it was made."""
    made = []

    def make(partial: Path) -> None:
        made.append(partial)
        (partial / "file").write_text(text)
        (partial / "file").chmod(0o777)

    fill_once(folder, make)
    return len(made)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "kind" / "key"
    assert filled(folder) == 1
    assert filled(folder) == 0
    return folder


def test_others_cannot_write_to_an_entry(entry: Path) -> None:
    for path in (entry.parent, entry, *entry.iterdir()):
        assert not path.stat().st_mode & 0o022, path
    assert (entry / "file").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", ["file", "digests.json"])
@pytest.mark.parametrize("damage", ["", "other", None])
def test_a_damaged_entry_is_made_again(entry: Path, name: str, damage: str | None) -> None:
    if damage is None:
        (entry / name).unlink()
    else:
        (entry / name).write_text(damage)
    assert not is_sound(entry)
    assert filled(entry) == 1
    assert (entry / "file").read_text() == "good"
    assert is_sound(entry)


def test_what_is_no_folder_or_a_link_is_made_again(entry: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    assert filled(entry) == 1
    assert not entry.is_symlink()
    assert (elsewhere / "file").exists()  # the link went, not what it led to
    (entry / "file").unlink()
    (entry / "file").symlink_to(elsewhere / "file")
    assert filled(entry) == 1
    os.mkfifo(entry / "pipe")  # not waited for
    assert filled(entry) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
@pytest.mark.parametrize("name", ["", "file", "digests.json"])
def test_an_entry_of_another_user_is_not_believed(entry: Path, name: str) -> None:
    os.chown(entry / name, 12345, -1)
    assert filled(entry) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_a_cache_of_another_user_is_refused(entry: Path) -> None:
    os.chown(entry.parent, 12345, -1)
    with pytest.raises(ToolError, match=r"must be the user's own.*kind.*HWGEN_CACHE"):
        filled(entry)


def test_a_cache_that_all_can_write_to_is_refused(entry: Path) -> None:
    entry.parent.parent.chmod(0o777)
    with pytest.raises(ToolError, match="can be written by others; set HWGEN_CACHE"):
        filled(entry)
    entry.parent.parent.chmod(0o1777)  # as /tmp is: nobody exchanges what is another's
    assert filled(entry) == 0


def test_leftovers_of_a_killed_process_go(entry: Path) -> None:
    left = entry.with_name(".hwgen-0123456789abcdef.tmp")
    left.mkdir()
    (left / "half").write_text("half")
    assert filled(entry.with_name("other")) == 1
    assert {p.name for p in entry.parent.iterdir() if p.suffix != ".lock"} == {"key", "other"}
