# SPDX-License-Identifier: Apache-2.0
"""Typed reading: what a file may be, and the one line that says what is wrong with it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, model_validator, with_config

from hwgen.errors import ConfigError, FormatError
from hwgen.reading import (
    MAX_DEPTH,
    MAX_TOML_BYTES,
    STRICT,
    check_version,
    load_json,
    parse_json,
    printable,
    read_json,
    read_toml,
    show,
    validate,
)


def _even(number: int) -> int:
    if number % 2:
        raise ValueError("an even number")
    return number


class Inner(BaseModel):
    model_config = STRICT

    size: int = Field(ge=1, le=8)
    share: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Inner:
        if self.size == 7:
            raise ConfigError("size must be another than 7", why="bad luck", nearest=8)
        return self


@with_config(STRICT)
@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    pairs: tuple[tuple[int, int], ...] = ()
    kind: Literal["long", "short"] = "long"
    rows: Literal[16, 32, 64] = 16
    even: Annotated[int, AfterValidator(_even)] = 0
    parts: Mapping[str, Inner] | None = None


GOOD: dict[str, Any] = {"name": "x", "inner": {"size": 3}}


def refused(values: object) -> str:
    with pytest.raises(FormatError) as caught:
        validate(values, Outer, where="f")
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 400
    return line


def test_a_good_document() -> None:
    values = GOOD | {"pairs": [[1, 2], [3, 4]], "parts": {"a b": {"size": 1, "share": 1}}}
    found = validate(values, Outer)
    assert found == Outer(
        "x", Inner(size=3), ((1, 2), (3, 4)), parts={"a b": Inner(size=1, share=1)}
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": 3}, "name must be a text, not 3"),
        ({"name": None}, "name must be a text, not null"),
        ({"inner": []}, "inner must be a table, not an empty list"),
        ({"inner": {"size": True}}, "inner.size must be an integer, not true"),
        ({"inner": {"size": 3.0}}, "inner.size must be an integer, not 3.0"),
        ({"inner": {"size": "3"}}, "inner.size must be an integer, not '3'"),
        (
            {"inner": {"size": 0}},
            "inner.size must be at least 1, not 0; nearest legal value: 1",
        ),
        (
            {"inner": {"size": 9}},
            "inner.size must be at most 8, not 9; nearest legal value: 8",
        ),
        (
            {"inner": {"size": 7}},
            "inner.size must be another than 7 (bad luck); nearest legal value: 8",
        ),
        ({"inner": {"size": 1, "share": 0}}, "inner.share must be more than 0.0, not 0"),
        ({"inner": {}}, "inner.size must be stated, and is missing"),
        (
            {"inner": {"size": 1, "shore": 1}},
            "inner.shore must be a known key (share, size); nearest legal value: inner.share",
        ),
        (
            {"inner": {"sise": 1}},
            (
                "inner.sise must be a known key (share, size) (and 1 more fault);"
                " nearest legal value: inner.size"
            ),
        ),
        (
            {"parts": {"a b": {"sise": 1, "size": 2}}},
            (
                "parts.'a b'.sise must be a known key (share, size);"
                " nearest legal value: parts.'a b'.size"
            ),
        ),
        ({"pairs": [[1, 2], [3]]}, "pairs[1][1] must be stated, and is missing"),
        ({"pairs": [[1, 2], [3, "x"]]}, "pairs[1][1] must be an integer, not 'x'"),
        ({"pairs": 7}, "pairs must be a list, not 7"),
        ({"kind": "lang"}, "kind must be 'long' or 'short', not 'lang'; nearest legal value: long"),
        ({"rows": 60}, "rows must be 16, 32 or 64, not 60; nearest legal value: 64"),
        ({"even": 3}, "even must be an even number, not 3"),
        (
            {"nome": 1, "kind": 1, "even": 1},
            "kind must be 'long' or 'short', not 1 (and 2 more faults)",
        ),
        ({"x\x1b[31m": 1}, r"'x\x1b[31m' must be a known key"),
        ({"name": {"\ud800": 1}}, r"name.'\ud800' must be Unicode text, not '\ud800'"),
        ({"name": {1: 2}}, "name must be a table with texts as keys, not 1"),
        ({"name": "\ud800"}, r"name must be Unicode text, not '\ud800'"),
        ({"even": float("inf")}, "even must be a finite number, not inf"),
        ({"even": 1 << 64}, "even must be an integer of 64 bits, not an integer of 65 bits"),
        ({"even": 10**5000}, "even must be an integer of 64 bits, not an integer of 16610 bits"),
    ],
)
def test_the_line_says_where_and_what(change: dict[str, Any], line: str) -> None:
    found = refused(GOOD | change)
    assert found.startswith(f"f: {line}") if "known key" in line else found == f"f: {line}"


def test_values_and_keys_are_shown_short_and_escaped() -> None:
    line = refused(GOOD | {"kind": "a\n\x1b[31m\u202e" + "b" * 5000})
    assert r"'a\n\x1b[31m\u202ebbb" in line
    line = refused(GOOD | {"k\n" * 5000: 1})
    assert line.startswith(r"f: 'k\nk\n")
    assert show([]) == "an empty list"
    assert show((1,)) == "a list"
    assert show({1: 2}) == "a table"
    assert show(False) == "false"
    assert printable("a\tb\udcff\u2028ä") == r"a\tb\udcff\u2028ä"


def test_depth_is_bounded() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    message = f"f: Tables and lists must be nested at most {MAX_DEPTH} deep"
    assert load_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, where="f") != []
    assert refused(GOOD | {"name": nested(MAX_DEPTH)}) == message
    for depth in (MAX_DEPTH + 1, 1000, 100_000, 1_000_000):
        with pytest.raises(FormatError) as caught:
            load_json("[" * depth + "]" * depth, where="f")
        assert str(caught.value) == message
        with pytest.raises(FormatError) as caught:
            load_json('{"a":' * depth + "1" + "}" * depth, where="f")
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "Key 'a' must stand once in its table, not twice"),
        ('{"c": {"a": 1, "a": 1}}', "Key 'a' must stand once in its table, not twice"),
        ("[NaN]", "Numbers must be finite, not NaN"),
        ("[-Infinity]", "Numbers must be finite, not -Infinity"),
        ("[1, 1e999]", "[1] must be a finite number, not inf"),
        ("1" * 5000, "Integers must be of 64 bits, not of 5000 digits"),
        ("-9223372036854775809", "File must be an integer of 64 bits, not -9223372036854775809"),
        ("{", "File must be JSON: Expecting property name enclosed in double quotes"),
        ("", "File must be JSON: Expecting value: line 1 column 1 (char 0)"),
        ('["\\ud800"]', r"[0] must be Unicode text, not '\ud800'"),
        (b"\n\n\xff", "File must be UTF-8 text, not byte 0xff in line 3"),
        ('"\x1b"', "File must be JSON: Invalid control character at"),
    ],
)
def test_what_is_no_json(text: str | bytes, line: str) -> None:
    with pytest.raises(FormatError) as caught:
        load_json(text, where="f")
    assert str(caught.value).startswith(f"f: {line}")
    assert str(caught.value).isprintable()


def test_json_is_read_exactly() -> None:
    text = '{"a": [0.1, -9223372036854775808, 18446744073709551615, "\\u00e4", null, true]}'
    assert load_json(text, where="f") == {"a": [0.1, -(1 << 63), (1 << 64) - 1, "ä", None, True]}
    assert parse_json(
        b'\xef\xbb\xbf{"name": "x", "inner": {"size": 3}}', Outer, where="f"
    ) == Outer("x", Inner(size=3))


@pytest.mark.parametrize("read", [read_toml, read_json])
def test_only_regular_files_are_read(read: Any, tmp_path: Path) -> None:
    def line(path: Path | str) -> str:
        started = time.monotonic()
        with pytest.raises(FormatError) as caught:
            read(path, Outer)
        assert time.monotonic() - started < 5
        return str(caught.value).removeprefix(f"{printable(str(path))}: ")

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    irregular = "File must be a regular one, not"
    assert line(tmp_path / "pipe") == f"{irregular} a pipe, device or socket"
    assert line("/dev/zero") == f"{irregular} a pipe, device or socket"
    assert line(tmp_path) == f"{irregular} a folder"
    assert line(tmp_path / "absent\x1b") == "File must be readable: No such file or directory"
    assert line(tmp_path / "loop").startswith("File must be readable: ")
    assert line("nul\0byte") == "File must be readable: embedded null byte"
    assert line("n" * 5000).startswith("File must be readable: ")


@pytest.mark.parametrize("read", [read_toml, read_json])
def test_a_large_file_takes_no_memory(read: Any, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(FormatError, match=r"large: File must have at most [\d,]+ bytes"):
        read(tmp_path / "large", Outer)
    # The size that the system tells is 0, the content is not.
    with pytest.raises(FormatError, match="at most 10 bytes"):
        read("/proc/self/status", Outer, limit=10)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name = ", "File must be TOML: Invalid value (at end of document)"),
        (
            "name = 1\nname = 2\n",
            "File must be TOML: Cannot overwrite a value (at line 2, column 9)",
        ),
        ("name = 1979-05-27", "name must be a text, a number, true, false, a list or a table"),
        ("name = nan", "name must be a finite number, not nan"),
        ("a." * 600 + "a = 1", "Line 1 must have at most 1000 characters, not 1205"),
        ("\n" + '"\u2028".' * 400 + "a = 1", "Line 2 must have at most 1000 characters, not 1605"),
        (
            ("a = " + "[" * 900 + "\n") + ("[" * 900 + "\n") * 20,
            f"Tables and lists must be nested at most {MAX_DEPTH} deep",
        ),
        ("[" + "a." * 400 + "a]", f"Tables and lists must be nested at most {MAX_DEPTH} deep"),
        ("#" * MAX_TOML_BYTES + "#", "File must have at most 65,536 bytes"),
        ("name = 'x'\n[inner]\nsize = 0", "inner.size must be at least 1, not 0"),
    ],
)
def test_what_is_no_toml(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        read_toml(path, Outer)
    assert str(caught.value).startswith(f"{path}: {line}")


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml, json = tmp_path / "f.toml", tmp_path / "f.json"
    toml.write_text("\ufeffname = 'x'\npairs = [[1, 2]]\n[inner]\nsize = 3\n")
    json.write_text('{"name": "x", "pairs": [[1, 2]], "inner": {"size": 3}}')
    assert read_toml(toml, Outer) == read_json(json, Outer) == Outer("x", Inner(size=3), ((1, 2),))


def test_missing_keys_are_named_together() -> None:
    for values, sentence in (
        ({}, "name and inner must be stated, and are missing"),
        ({"inner": {}}, "name and inner.size must be stated, and are missing"),
        ({"inner": {"size": 9}}, "inner.size must be at most 8, not 9 (and 1 more fault)"),
    ):
        with pytest.raises(FormatError) as caught:
            validate(values, Outer)
        assert str(caught.value).startswith(sentence)


@dataclass(frozen=True)
class Above:
    number: Annotated[int, AfterValidator(lambda value, info: value + info.context)]


def test_context_reaches_the_models_validators() -> None:
    assert validate({"number": 2}, Above, context=40).number == 42


@pytest.mark.parametrize("values", [{}, [], 7, {"schema_version": True}, {"schema_version": "3"}])
def test_versions(values: Any) -> None:
    check_version({"schema_version": 3}, 3, what="Design", where="f", remedy="do it again")
    with pytest.raises(FormatError, match=r"f: Design must have schema version 1, not .*; do it"):
        check_version(values, 1, what="Design", where="f", remedy="do it again")
