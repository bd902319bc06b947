# SPDX-License-Identifier: Apache-2.0
"""Whether hwgen.sim and hwgen.boards are of the same tree as hwgen itself.

In a checkout they are the folders beside ``hwgen/`` and are found by the installation; in a wheel
they lie inside it. In the folder of a second checkout Python finds that one's ``hwgen`` and the
installed one's ``hwgen.sim``: two versions in one process.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from hwgen.errors import ToolError

#: Packages whose folder is not in ``hwgen/`` in a checkout.
_APART = ("sim", "boards")


def package_folder() -> Path:
    """Where this ``hwgen`` is."""
    return Path(__file__).resolve().parent


def parts() -> dict[str, Path | None]:
    """Where Python finds the packages that may be of another tree; None: nowhere."""
    found: dict[str, Path | None] = {}
    for name in _APART:
        spec = importlib.util.find_spec(f"hwgen.{name}")
        origin = spec.origin if spec is not None else None
        found[name] = Path(origin).resolve().parent if origin is not None else None
    return found


def check_one_tree(package: Path, found: Mapping[str, Path | None]) -> None:
    """Refuse packages of another tree than hwgen's.

    Args:
        package: the folder of ``hwgen``.
        found: the folders of its packages, by name (:func:`parts`).

    Raises:
        ToolError: names the first that is elsewhere, and what to do.
    """
    root = package.parent
    for name, folder in found.items():
        if folder in (package / name, root / name):
            continue
        why = "two checkouts are mixed" if folder is not None else "this checkout is not installed"
        raise ToolError(
            f"hwgen.{name} must come from {root / name}, not {folder or 'nowhere'}",
            where=str(package),
            why=f"{why}: run hwgen in another folder, or install this checkout:"
            f" pip install -e {root}",
        )
