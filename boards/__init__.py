# SPDX-License-Identifier: Apache-2.0
"""Boards: one data file each, with device resources, clock and memory.

A new board is a new ``.toml`` file in this folder with the keys of ``zcu102.toml``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hwgen.errors import ConfigError, FormatError

_FOLDER = Path(__file__).parent
#: Resources that every board states and every design is measured in.
RESOURCES = ("lut", "ff", "dsp", "bram36")


@dataclass(frozen=True, kw_only=True)
class Board:
    """What the generator knows of a board."""

    name: str
    title: str
    part: str  #: ordering name of the device
    synthesis_target: str  #: target of hwgen.synth
    resources: Mapping[str, int]  #: what the device has, by :data:`RESOURCES`
    budget: Mapping[str, float]  #: fraction of it that a design may use, 0 ... 1
    clock_mhz: int
    memory_bytes_per_second: int
    memory_latency_cycles: int  #: from an accepted read address to its first data
    memory_ports: int  #: most AXI4 masters
    memory_port_bits: int
    preset: Mapping[str, int]  #: configuration for a graph without a design

    def __post_init__(self) -> None:
        """Check the ranges."""
        for resource in RESOURCES:
            if self.resources.get(resource, 0) <= 0:
                raise FormatError(f"resources.{resource} must be positive", where=self.name)
            if not 0 < self.budget.get(resource, 0) <= 1:
                raise FormatError(f"budget.{resource} must be in 0..1", where=self.name)
        for name in (
            "clock_mhz",
            "memory_bytes_per_second",
            "memory_latency_cycles",
            "memory_ports",
        ):
            if getattr(self, name) <= 0:
                raise FormatError(f"{name} must be positive", where=self.name)

    @property
    def memory_bytes_per_cycle(self) -> float:
        """Bandwidth of the external memory in bytes per clock cycle."""
        return self.memory_bytes_per_second / (self.clock_mhz * 1_000_000)

    def limit(self, resource: str) -> int:
        """How much of a resource a design may use: the whole part of resources x budget."""
        return int(self.resources[resource] * self.budget[resource])

    def overruns(self, used: Mapping[str, float]) -> dict[str, float]:
        """Resources of which ``used`` asks for more than the limit, with the excess factor."""
        return {
            resource: used[resource] / self.limit(resource)
            for resource in RESOURCES
            if used.get(resource, 0) > self.limit(resource)
        }


def list_boards() -> list[str]:
    """Names of all boards, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def get_board(name: str) -> Board:
    """The board of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    names = list_boards()
    if name not in names:
        close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)
        raise ConfigError(
            f"Board must be one of {', '.join(names)}, not {name!r}", nearest=close[0]
        )
    path = _FOLDER / f"{name}.toml"
    values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        return Board(
            name=values["name"],
            title=values["title"],
            part=values["part"],
            synthesis_target=values["synthesis_target"],
            resources=values["resources"],
            budget=values["budget"],
            clock_mhz=values["clock"]["mhz"],
            memory_bytes_per_second=values["memory"]["bytes_per_second"],
            memory_latency_cycles=values["memory"]["latency_cycles"],
            memory_ports=values["memory"]["ports"],
            memory_port_bits=values["memory"]["port_bits"],
            preset=values["preset"],
        )
    except KeyError as error:
        raise FormatError(f"Board file must state {error}", where=path.name) from error
