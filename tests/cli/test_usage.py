# SPDX-License-Identifier: Apache-2.0
"""Options, help, exit status, and the purity of ``--json``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]


def test_version(hwgen: Command) -> None:
    from hwgen import __version__

    done = hwgen("--version")
    assert (done.status, done.out) == (0, f"hwgen, version {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("quantize",),
        ("quantize", "digits"),
        ("quantize", "digits", "-o", "g", "--weight-bits", "9"),
        ("quantize", "digits", "-o", "g", "--weight-bits", "x"),
        ("quantize", "digits", "-o", "g", "--squares", "round"),
        ("models", "--nonsense"),
    ],
)
def test_wrong_usage_is_status_2(hwgen: Command, arguments: tuple[str, ...]) -> None:
    done = hwgen(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert done.err
    done = hwgen(*arguments, "--json")
    assert done.status == 2
    assert set(done.json) == {"error", "kind"}
    assert done.json["error"] in done.err


def test_models(hwgen: Command) -> None:
    done = hwgen("models", "--json")
    assert done.status == 0
    names = [model["name"] for model in done.json["models"]]
    assert {"digits", "deit_tiny", "deit_small", "deit_base", "vit_large"} <= set(names)
    assert "deit_tiny_patch16_224" in names
    assert "digits" in hwgen("models").out
