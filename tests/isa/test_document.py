# SPDX-License-Identifier: Apache-2.0
"""docs/isa.md is what the tables say."""

from __future__ import annotations

from pathlib import Path

from hwgen.isa.document import markdown

PAGE = Path(__file__).parents[2] / "docs" / "isa.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m hwgen.isa.document > docs/isa.md"
