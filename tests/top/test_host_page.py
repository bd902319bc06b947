# SPDX-License-Identifier: Apache-2.0
"""docs/host.md against the top level's ports and constants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import BEAT_BYTES
from hwgen.isa.registers import ADDRESS_BITS, BY_NAME, IDENTITY, WATCHDOG_RESET
from hwgen.rtl.accelerator import Accelerator
from hwgen.rtl.axi import ID_FETCH, ID_LOAD, READ_CHANNELS, WRITE_CHANNELS
from hwgen.rtl.sequencer import FETCH_BURST_BEATS
from hwgen.rtl.store import STORE_BURST_BEATS

PAGE = (Path(__file__).parents[2] / "docs" / "host.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("ports", [1, 3])
def test_every_port_is_on_the_page(ports: int) -> None:
    patterns = [
        pattern.replace("<p>", r"\d").replace("*", r"\w+")
        for pattern in re.findall(r"`((?:m_axi|s_axil_|interrupt)[\w<>*]*)`", PAGE)
    ]
    config = AcceleratorConfig(memory_ports=ports)
    for name in Accelerator(config).signature.members:
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
        assert name in BY_NAME, name
