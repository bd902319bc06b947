# SPDX-License-Identifier: Apache-2.0
"""Paths of a mapped netlist by the clocks of their ends, where a design has several clocks.

Levels are counted as in :mod:`hwgen.synth.netlist`; paths from and to DSP blocks and block RAMs are
listed, too, by the pins that they reach, because they cross from one clock to another as registers
do. What is behind a pin is the block's matter: it counts no level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import with_config

from hwgen.reading import STRICT
from hwgen.synth.netlist import PRIMITIVES, Primitive, module_order, topological

#: Pins that are clocks, by the kind of primitive.
_CLOCK_PINS = {
    "register": ("C", "CLK"),
    "memory": ("CLK", "WCLK"),
    "block": ("CLK", "CLKARDCLK", "CLKBWRCLK"),
}
_ADDRESS_PINS = re.compile(r"ADDR\w*|A\d*|DPRA\d*|RAD\d*")


@with_config(STRICT)
@dataclass(frozen=True, order=True)
class ClockPaths:
    """All paths from what one clock drives to what one clock drives, of one kind."""

    source: str  #: clock
    source_kind: str  #: register, memory, DSP or RAM
    target: str  #: clock
    target_kind: str  #: register or memory; a pin of a block: ``DSP CEA1``
    pins: int  #: that are reached
    logic_levels: int  #: LUTs, at most

    @property
    def crossing(self) -> bool:
        """Whether they go from one clock to another."""
        return self.source != self.target


#: Clock, by its name in the module, and what is there.
_End = tuple[str, str]
#: An input bit of the module, or where a path begins: ``("", clock, kind)``.
_Source = tuple[str, int] | tuple[str, str, str]


@dataclass
class _Paths:
    """What the outside has to know of a module, and the paths within it by their ends."""

    through: dict[tuple[str, int], dict[tuple[str, int], int]] = field(default_factory=dict)
    #: output bit -> {where paths begin: levels}
    begin: dict[tuple[str, int], dict[_End, int]] = field(default_factory=dict)
    #: where paths end, from which input bits with how many levels -> pins
    end: dict[tuple[_End, tuple[tuple[tuple[str, int], int], ...]], int] = field(
        default_factory=dict
    )
    inside: dict[tuple[_End, _End], tuple[int, int]] = field(default_factory=dict)

    def add(self, ends: tuple[_End, _End], levels: int, pins: int) -> None:
        """Some more paths within."""
        most, count = self.inside.get(ends, (0, 0))
        self.inside[ends] = (max(most, levels), count + pins)


def clock_paths(netlist: Mapping[str, Any], top: str, target: str) -> tuple[ClockPaths, ...]:
    """Paths of a design by their clocks; nothing where there is one clock only."""
    primitives = PRIMITIVES[target]
    modules = {
        name: module
        for name, module in netlist["modules"].items()
        if name == top or (name not in primitives and module["cells"])
    }
    order = module_order(modules, top)
    if len(_clocks(modules, order, primitives)) < 2:
        return ()
    below: dict[str, _Paths] = {}
    for name in order:
        below[name] = _Walk(modules[name], primitives, below, name).paths
    return tuple(
        ClockPaths(*source, *end, pins=pins, logic_levels=levels)
        for (source, end), (levels, pins) in sorted(below[top].inside.items())
    )


def _clocks(
    modules: Mapping[str, Any], order: Iterable[str], primitives: Mapping[str, Primitive]
) -> set[int]:
    """Nets of the last module that clock anything, there or below."""
    ports: dict[str, set[tuple[str, int]]] = {}  # by module: input bits that are clocks
    nets: set[int] = set()
    for name in order:
        nets = set()
        for cell in modules[name]["cells"].values():
            kind = cell["type"]
            pins = ports.get(kind)
            if pins is None and kind in primitives:
                pins = {(pin, 0) for pin in _CLOCK_PINS.get(primitives[kind].kind, ())}
            for pin, index in pins or ():
                bits = cell["connections"].get(pin, ())
                nets |= {bit for bit in bits[index : index + 1] if isinstance(bit, int)}
        ports[name] = {
            (port, index)
            for port, entry in modules[name]["ports"].items()
            for index, net in enumerate(entry["bits"])
            if net in nets
        }
    return nets


class _Walk:
    """One module: its nets from drivers to loads."""

    def __init__(
        self,
        module: Mapping[str, Any],
        primitives: Mapping[str, Primitive],
        below: Mapping[str, _Paths],
        name: str,
    ) -> None:
        self.module = module
        self.paths = _Paths()
        self._names = self._clock_names()
        self._arrival: dict[int, dict[_Source, int]] = {}
        self._drivers: dict[int, list[tuple[int, int]]] = {}
        #: nets with the levels behind them, of each end; pins
        self._ends: list[tuple[list[tuple[int, int]], _End, int]] = []
        for port, index, net in self._port_bits("input"):
            self._arrival.setdefault(net, {})[port, index] = 0
        for cell in module["cells"].values():
            if cell["type"] in below:
                self._submodule(cell, below[cell["type"]])
            elif cell["type"] in primitives:
                self._primitive(cell, primitives[cell["type"]])
        self._propagate(name)

    def _port_bits(self, direction: str) -> Iterator[tuple[str, int, int]]:
        for port, entry in self.module["ports"].items():
            if entry["direction"] == direction:
                for index, net in enumerate(entry["bits"]):
                    if isinstance(net, int):
                        yield port, index, net

    def _clock_names(self) -> dict[int, str]:
        names = {net: port for port, _, net in self._port_bits("input")}
        for name, entry in self.module["netnames"].items():
            for net in entry["bits"]:
                if isinstance(net, int):
                    names.setdefault(net, name)
        return names

    def _begin(self, net: int, levels: int, end: _End) -> None:
        known = self._arrival.setdefault(net, {})
        source = ("", *end)
        known[source] = max(levels, known.get(source, 0))

    def _arc(self, source: int, sink: int, levels: int) -> None:
        self._drivers.setdefault(sink, []).append((source, levels))

    def _submodule(self, cell: Mapping[str, Any], inner: _Paths) -> None:
        connections = cell["connections"]

        def net_of(bit: tuple[str, int]) -> int | None:
            bits = connections.get(bit[0], ())
            net = bits[bit[1]] if bit[1] < len(bits) else None
            return net if isinstance(net, int) else None

        def outer(end: _End) -> _End:
            net = net_of((end[0], 0))
            return (end[0] if net is None else self._names[net], end[1])

        for (source, end), (levels, pins) in inner.inside.items():
            self.paths.add((outer(source), outer(end)), levels, pins)
        for bit, begins in inner.begin.items():
            if (net := net_of(bit)) is not None:
                for end, levels in begins.items():
                    self._begin(net, levels, outer(end))
        for (end, bits), pins in inner.end.items():
            nets = [(net, levels) for bit, levels in bits if (net := net_of(bit)) is not None]
            self._ends.append((nets, outer(end), pins))
        for bit, sources in inner.through.items():
            sink = net_of(bit)
            for before, levels in sources.items():
                net = net_of(before)
                if net is not None and sink is not None:
                    self._arc(net, sink, levels)

    def _primitive(self, cell: Mapping[str, Any], primitive: Primitive) -> None:
        inputs: list[tuple[str, int]] = []
        outputs: list[int] = []
        clock = ""
        for port, bits in cell["connections"].items():
            nets = [bit for bit in bits if isinstance(bit, int)]
            if cell["port_directions"][port] == "output":
                outputs += nets
            elif port in _CLOCK_PINS.get(primitive.kind, ()):
                clock = clock or "".join(self._names[net] for net in nets[:1])
            else:
                inputs += [(port, net) for net in nets]
        kind = primitive.kind
        if kind in ("register", "memory", "block"):
            block = ("DSP" if primitive.dsp else "RAM") if kind == "block" else kind
            for port, net in inputs:
                where = f"{block} {port}" if kind == "block" else kind
                self._ends.append(([(net, 0)], (clock, where), 1))
            for net in outputs:
                self._begin(net, int(kind == "memory"), (clock, block))
                if kind == "memory":
                    for port, before in inputs:
                        if _ADDRESS_PINS.fullmatch(port):
                            self._arc(before, net, 1)
            return
        for port, before in inputs:
            chained = kind == "carry" and port in ("CI", "CIN")
            levels = 1 if kind == "logic" or (kind == "carry" and not chained) else 0
            for net in outputs:
                self._arc(before, net, levels)

    def _propagate(self, name: str) -> None:
        arrival = self._arrival
        for net in topological(self._drivers, name):
            sources = arrival.setdefault(net, {})
            for before, levels in self._drivers.get(net, ()):
                for source, depth in arrival.get(before, {}).items():
                    if sources.get(source, -1) < depth + levels:
                        sources[source] = depth + levels
        for nets, end, pins in self._ends:
            longest: dict[_Source, int] = {}
            for net, levels in nets:
                for source, depth in arrival.get(net, {}).items():
                    longest[source] = max(longest.get(source, 0), depth + levels)
            bits = []
            for source, depth in longest.items():
                if len(source) == 3:
                    self.paths.add(((source[1], source[2]), end), depth, pins)
                else:
                    bits.append((source, depth))
            if bits:
                key = (end, tuple(sorted(bits)))
                self.paths.end[key] = self.paths.end.get(key, 0) + pins
        for port, index, net in self._port_bits("output"):
            for source, levels in arrival.get(net, {}).items():
                if len(source) == 3:
                    begins = self.paths.begin.setdefault((port, index), {})
                    begins[source[1], source[2]] = levels
                else:
                    self.paths.through.setdefault((port, index), {})[source] = levels


def crossings(paths: Iterable[ClockPaths]) -> tuple[ClockPaths, ...]:
    """Those from one clock to another."""
    return tuple(path for path in paths if path.crossing)
