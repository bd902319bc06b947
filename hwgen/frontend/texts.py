# SPDX-License-Identifier: Apache-2.0
"""Names of tensors as a message can show them."""

from __future__ import annotations

from collections.abc import Collection

from hwgen.reading import printable

#: More offending names than this are counted, not listed.
_MAX_LISTED = 12
_MAX_NAME = 120


def listing(names: Collection[str]) -> str:
    """The first names, and how many there are more."""
    more = len(names) - _MAX_LISTED
    shown = ", ".join(quoted(name) for name in list(names)[:_MAX_LISTED])
    return shown + (f" and {more} more" if more > 0 else "")


def quoted(name: str) -> str:
    """A name as far as it can be shown: printable and not endless."""
    shown = printable(name[: 2 * _MAX_NAME])
    return shown if len(shown) <= _MAX_NAME else f"{shown[: _MAX_NAME - 3]}..."


def shape_text(shape: tuple[int, ...]) -> str:
    """``10x192``."""
    return "x".join(map(str, shape)) or "scalar"
