# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import FormatError, UsageError
from hwgen.frontend.models import MODELS
from hwgen.graph.network import layer_names
from hwgen.graph.weight_bits import (
    DEFAULT_WEIGHT_BITS,
    parse_weight_bits,
    read_weight_bits,
    weight_bits_text,
)

SPEC = MODELS["digits"]
NAMES = layer_names(SPEC)


def widths(text: str) -> dict[str, int]:
    """The layers that have not 8 bits."""
    found = parse_weight_bits(text).of(SPEC)
    assert tuple(found) == NAMES
    return {name: bits for name, bits in found.items() if bits != 8}


def blocks(*parts: str, bits: int) -> dict[str, int]:
    return {f"blocks.{i}.{part}": bits for i in range(SPEC.depth) for part in parts}


def test_layers() -> None:
    assert len(NAMES) == 2 + 4 * SPEC.depth
    assert NAMES[:2] == ("embedding", "blocks.0.qkv") and NAMES[-2:] == ("blocks.3.fc2", "head")
    assert set(DEFAULT_WEIGHT_BITS.of(SPEC).values()) == {8}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8", {}),
        ("4", blocks("qkv", "proj", "fc1", "fc2", bits=4)),
        (" 1 ", blocks("qkv", "proj", "fc1", "fc2", bits=1)),
        ("blocks.*.fc1=4", blocks("fc1", bits=4)),
        ("blocks.*.fc1=4, head=7", {**blocks("fc1", bits=4), "head": 7}),
        ("*.fc?=3", blocks("fc1", "fc2", bits=3)),
        ("blocks.[02].proj=2", {"blocks.0.proj": 2, "blocks.2.proj": 2}),
        ("embedding=6", {"embedding": 6}),
        ("*=5", {name: 5 for name in NAMES}),
        # The last that matches counts; the encoder's width stands behind them all, wherever it is.
        ("*=5,blocks.*=8", {"embedding": 5, "head": 5}),
        ("blocks.*=8,*=5", {name: 5 for name in NAMES}),
        ("blocks.*.qkv=8,4", blocks("proj", "fc1", "fc2", bits=4)),
        ("4,blocks.*.qkv=8", blocks("proj", "fc1", "fc2", bits=4)),
    ],
)
def test_what_a_text_says(text: str, expected: dict[str, int]) -> None:
    assert widths(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "must be an integer in 1..8, not '0'; nearest legal value: 1"),
        ("4,head=9", "of 'head' must be an integer in 1..8, not '9'; nearest legal value: 8"),
        ("x", "not 'x'"),
        ("", "not ''"),
        ("4,", "stated once, not as 4 and ''"),
        ("4,5", "stated once, not as 4 and '5'"),
        ("=4", "must follow a pattern, as in fc1=4, not '=4'"),
        ("head=", "of 'head' must be an integer in 1..8, not ''"),
        ("head=4.0", "not '4.0'"),
        ("head=\u0664", "of 'head' must be an integer in 1..8"),
        ("head=" + "4" * 5000, "of 'head' must be an integer in 1..8"),
        ("fc1=4", "'fc1' matches none; nearest legal value: blocks.*.fc1, "),
        ("blocks.*.fc3=4", "'blocks.*.fc3' matches none; nearest legal value: blocks.*.fc2"),
        ("blocks.4.fc1=4", "'blocks.4.fc1' matches none; nearest legal value: blocks.*.fc1"),
        ("Head=4", "'Head' matches none; nearest legal value: head, "),
        ("4,heads*=8", "'heads*' matches none; nearest legal value: head, "),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_weight_bits(text).of(SPEC)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.toml", '"blocks.*" = 4\n"blocks.*.fc1" = 6\nhead = 3\n'),
        ("w.json", '{"blocks.*": 4, "blocks.*.fc1": 6, "head": 3}'),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read_weight_bits(tmp_path / name)
    assert found.of(SPEC) == parse_weight_bits("4,blocks.*.fc1=6,head=3").of(SPEC)
    assert found.source == tmp_path / name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"blocks.*" = 9', ("must be at most 8, not 9",)),
        ('"blocks.*" = "x"', ("must be an integer in 1..8, not 'x'",)),
        ("blocks.0.fc1 = 4", ("must be an integer, not a table",)),
        ('"blocks.*.fc3" = 4', ("matches none", "blocks.*.fc")),
        ("4", ("TOML",)),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "w.toml"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        read_weight_bits(path).of(SPEC)
    for word in ("w.toml: ", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("8", "8"),
        ("4,embedding=8", "4"),
        ("blocks.*.fc1=4,head=4", "8,blocks.*.fc1=4,head=4"),
        ("3,blocks.1.qkv=4", "3,blocks.1.qkv=4"),
    ],
)
def test_the_text_of_widths_is_short(text: str, shown: str) -> None:
    assert weight_bits_text(parse_weight_bits(text).of(SPEC)) == shown


@given(st.lists(st.integers(1, 8), min_size=len(NAMES), max_size=len(NAMES)))
def test_the_text_of_widths_says_them_all(bits: list[int]) -> None:
    made = dict(zip(NAMES, bits, strict=True))
    assert parse_weight_bits(weight_bits_text(made)).of(SPEC) == made
