# SPDX-License-Identifier: Apache-2.0
"""docs/host.md against the top level's ports and constants."""

from __future__ import annotations

import re
from pathlib import Path

from hwgen.isa.instructions import BEAT_BYTES
from hwgen.isa.registers import ADDRESS_BITS, BY_NAME, IDENTITY, WATCHDOG_RESET
from hwgen.rtl.axi import ID_FETCH, ID_LOAD, READ_CHANNELS, WRITE_CHANNELS
from hwgen.rtl.registers import AXIL_CHANNELS
from hwgen.rtl.store import STORE_BURST_BEATS
from hwgen.timings import FETCH_BURST_BEATS

#: Names of AMD's tools that the page has, beside those of registers.
VENDORS = ("BUFGCE_DIV", "CLOCK_DELAY_GROUP")
PAGE = (Path(__file__).parents[2] / "docs" / "host.md").read_text(encoding="utf-8")


def test_every_port_is_on_the_page() -> None:
    patterns = [
        pattern.replace("<p>", r"\d").replace("*", r"\w+")
        for pattern in re.findall(r"`((?:m_axi|s_axil_|interrupt)[\w<>*]*)`", PAGE)
    ]
    names = [f"m_axi{port}_{name}" for port in (0, 3) for name in READ_CHANNELS]
    names += [f"m_axi0_{name}" for name in WRITE_CHANNELS]
    names += [*(f"s_axil_{name}" for name in AXIL_CHANNELS), "interrupt"]
    for name in names:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_numbers_of_the_page() -> None:
    for text in (
        f"{ADDRESS_BITS}-bit address, 32-bit data",
        (
            f"{READ_CHANNELS['araddr'][1]}-bit address, {READ_CHANNELS['rdata'][1]}-bit data,"
            f" {READ_CHANNELS['arid'][1]}-bit ID"
        ),
        f"| ID | {ID_LOAD} | {ID_FETCH} | 0 |",
        f"INCR, {BEAT_BYTES} bytes a beat",
        f"INCR, {FETCH_BURST_BEATS} beats",
        f"INCR, 1 to {STORE_BURST_BEATS} beats",
        f"0x{IDENTITY:08X}",
        f"2^{WATCHDOG_RESET.bit_length() - 1}",
    ):
        assert text in PAGE, text
    assert WRITE_CHANNELS["wdata"][1] == READ_CHANNELS["rdata"][1]
    for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", PAGE):
        assert name in BY_NAME or name in VENDORS or name.endswith("HWGEN_FILL_MEMORIES"), name
