# SPDX-License-Identifier: Apache-2.0
"""Widths of the weights, layer by layer: what ``--weight-bits`` says, and a graph shows.

A text is ``4``, ``blocks.*.fc1=4,head=8`` or ``4,blocks.0.*=8``: an optional width of the encoder,
and patterns over the names of the layers that have weights (``fnmatch``: ``*``, ``?``, ``[01]``).
Where several patterns match, the last one counts, and any pattern before the encoder's width,
wherever that stands. Patch embedding and head have 8 bits unless a pattern names them. A file is
the same as a table: ``"blocks.*.fc1" = 4``.

The output channels of a layer may have several widths: ``8:58+4:70`` stands for 58 channels of 8
bits, 70 of 4, 58 of 8, ..., as they meet the columns of ``dual:58:8,digits:70:4``. Of q, k and v
each begins anew.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hwgen.columns import MAXIMUM_COLUMNS
from hwgen.errors import FormatError, HwgenError, UsageError
from hwgen.graph.network import in_encoder, layer_names
from hwgen.graph.spec import ModelSpec
from hwgen.graph.widths import NARROWEST, WIDEST, Width
from hwgen.reading import printable, read_json, read_toml, show

#: Names that an error offers.
_OFFERED = 3
_TABLE = dict[str, Annotated[int, Field(ge=NARROWEST, le=WIDEST)] | str]


def width_text(width: Width) -> str:
    """As ``--weight-bits`` takes it: ``4``, ``8:58+4:70``."""
    return str(width) if isinstance(width, int) else "+".join(f"{b}:{n}" for b, n in width)


@dataclass(frozen=True, kw_only=True)
class WeightBits:
    """Widths as they are asked for: the encoder's, and rules of pattern and width in order."""

    encoder: Width = WIDEST
    rules: tuple[tuple[str, Width], ...] = ()
    source: Path | None = None  #: the file that says it

    def of(self, spec: ModelSpec) -> dict[str, Width]:
        """The width of every layer of a model.

        Raises:
            UsageError: a pattern that matches no layer (of a file: FormatError).
        """
        names = layer_names(spec)
        widths: dict[str, Width] = {
            name: self.encoder if in_encoder(name) else WIDEST for name in names
        }
        for pattern, bits in self.rules:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                raise self._unmatched(pattern, names)
            widths.update(dict.fromkeys(matched, bits))
        return widths

    def _unmatched(self, pattern: str, names: tuple[str, ...]) -> HwgenError:
        known = list(dict.fromkeys(map(_of_every_block, names)))
        near = difflib.get_close_matches(pattern[:60], known, n=_OFFERED, cutoff=0)
        what = f"Weight widths must be for layers of the model, and {show(pattern)} matches none"
        nearest = ", ".join(near)
        if self.source is None:
            return UsageError(what, nearest=nearest)
        return FormatError(what, where=printable(str(self.source)), nearest=nearest)


DEFAULT_WEIGHT_BITS = WeightBits()


def _of_every_block(layer: str) -> str:
    """The pattern of a layer of a block in all of them."""
    return re.sub(r"^blocks\.\d+\.", "blocks.*.", layer)


def parse_weight_bits(text: str) -> WeightBits:
    """Read a text as the module describes.

    Raises:
        UsageError: it is none; names the entry.
    """
    encoder: Width | None = None
    rules = []
    for entry in text.split(","):
        pattern, equals, bits = (part.strip() for part in entry.rpartition("="))
        if equals and pattern:
            rules.append((pattern, _width(bits, f"of {show(pattern)} ")))
        elif equals:
            raise UsageError(f"Weight width must follow a pattern, as in fc1=4, not {show(entry)}")
        elif encoder is not None:
            raise UsageError(
                f"Weight width of the encoder must be stated once, not as {width_text(encoder)} and"
                f" {show(bits)}"
            )
        else:
            encoder = _width(bits)
    return WeightBits(encoder=WIDEST if encoder is None else encoder, rules=tuple(rules))


def _width(text: str, whose: str = "") -> Width:
    if ":" not in text:
        return _bits(text, whose)
    period = []
    for part in text.split("+"):
        bits, _, count = (piece.strip() for piece in part.partition(":"))
        channels = int(count) if count.isascii() and count.isdecimal() and len(count) < 6 else 0
        if not 2 <= channels <= MAXIMUM_COLUMNS or channels % 2:
            raise UsageError(
                f"Channels {whose}must be BITS:CHANNELS+BITS:CHANNELS, an even number in"
                f" 2..{MAXIMUM_COLUMNS} each, as in 8:58+4:70, not {show(text)}"
            )
        period.append((_bits(bits, whose), channels))
    if len({bits for bits, _ in period}) == 1:
        return period[0][0]
    return tuple(period)


def _bits(text: str, whose: str = "") -> int:
    # Digits of other scripts are numbers to Python, too.
    bits = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
    if bits is None or not NARROWEST <= bits <= WIDEST:
        nearest = None if bits is None else max(NARROWEST, min(WIDEST, bits))
        raise UsageError(
            f"Weight width {whose}must be an integer in {NARROWEST}..{WIDEST}, not {show(text)}",
            nearest=nearest,
        )
    return bits


def read_weight_bits(path: Path) -> WeightBits:
    """Read a TOML or JSON file: a table of patterns and widths, in order.

    Raises:
        FormatError: it is none.
    """
    read = read_toml if path.suffix == ".toml" else read_json
    rules: list[tuple[str, Width]] = []
    for pattern, value in read(path, _TABLE).items():
        try:
            width = _width(value, f"of {show(pattern)} ") if isinstance(value, str) else value
        except UsageError as error:
            raise FormatError(error.what, where=printable(str(path))) from error
        rules.append((pattern, width))
    return WeightBits(rules=tuple(rules), source=path)


def weight_bits_text(widths: Mapping[str, Width]) -> str:
    """Return a short text of the widths of all layers of a model, in execution order.

    :func:`parse_weight_bits` understands it, and makes the same widths of it.
    """
    inner = {name: bits for name, bits in widths.items() if in_encoder(name)}
    encoder = Counter(inner.values()).most_common(1)[0][0]
    rules = []
    for pattern in dict.fromkeys(map(_of_every_block, inner)):
        own = {name: bits for name, bits in inner.items() if _of_every_block(name) == pattern}
        # One rule for the part's most frequent width, then those that have another.
        usual = Counter(own.values()).most_common(1)[0][0]
        if usual != encoder:
            rules.append(f"{pattern}={width_text(usual)}")
        rules += [f"{name}={width_text(bits)}" for name, bits in own.items() if bits != usual]
    rules += [
        f"{name}={width_text(bits)}"
        for name, bits in widths.items()
        if not in_encoder(name) and bits != WIDEST
    ]
    return ",".join([width_text(encoder), *rules])
