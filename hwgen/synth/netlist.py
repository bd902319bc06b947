# SPDX-License-Identifier: Apache-2.0
"""Counts and logic depth of a mapped netlist (Yosys JSON), by module with the hierarchy kept.

Logic levels: the LUTs on the longest path between registers. A LUT is one level, an inverter none
(it is absorbed), wide multiplexers (MUXF7/8/9) none; entering a carry chain is one level and the
chain itself none, because its ripple is short beside a LUT and its route. The output of a LUT
memory or shift register is one level after its clock and its address. Paths from or to a DSP or a
block RAM are left out. Paths through several modules are followed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import with_config

from hwgen.errors import ToolError
from hwgen.reading import STRICT

RESOURCES = ("lut", "ff", "dsp", "bram36")


@dataclass(frozen=True)
class Primitive:
    """What one primitive costs and how it appears on a path."""

    kind: str  #: logic, carry, mux, register, memory (LUT as memory), block (DSP, RAM), none
    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram36: float = 0


def _xilinx() -> dict[str, Primitive]:
    table = {f"LUT{n}": Primitive("logic", lut=1) for n in range(1, 7)}
    table["LUT6_2"] = Primitive("logic", lut=1)
    table["INV"] = Primitive("none")  # absorbed by the LUT or register behind it
    table |= {name: Primitive("carry") for name in ("CARRY4", "CARRY8")}
    table |= {name: Primitive("mux") for name in ("MUXF7", "MUXF8", "MUXF9")}
    for name in ("FDRE", "FDSE", "FDCE", "FDPE"):
        table |= {name: Primitive("register", ff=1), f"{name}_1": Primitive("register", ff=1)}
    for luts, names in {
        1: "SRL16E SRLC16E SRLC32E RAM32X1S RAM64X1S",
        2: "RAM32X1D RAM64X1D RAM128X1S",
        4: "RAM32M RAM64M RAM128X1D RAM256X1S",
        8: "RAM32M16 RAM64M8 RAM256X1D RAM512X1S RAM64X8SW RAM32X16DR8",
    }.items():
        table |= {name: Primitive("memory", lut=luts) for name in names.split()}
    table |= {name: Primitive("block", bram36=0.5) for name in ("RAMB18E1", "RAMB18E2")}
    table |= {name: Primitive("block", bram36=1) for name in ("RAMB36E1", "RAMB36E2")}
    table |= {name: Primitive("block", dsp=1) for name in ("DSP48E1", "DSP48E2")}
    table |= {name: Primitive("none") for name in ("BUFG", "IBUF", "OBUF", "VCC", "GND")}
    return table


def _ecp5() -> dict[str, Primitive]:
    return {
        "LUT4": Primitive("logic", lut=1),
        "CCU2C": Primitive("carry", lut=2),
        "PFUMX": Primitive("mux"),
        "L6MUX21": Primitive("mux"),
        "TRELLIS_FF": Primitive("register", ff=1),
        # Sixteen words of four bits: two slices, of which two LUT pairs hold the data.
        "TRELLIS_DPR16X4": Primitive("memory", lut=4),
        "MULT18X18D": Primitive("block", dsp=1),
        "ALU54B": Primitive("block", dsp=1),
        # 18 Kbit blocks, counted in the common unit of 36 Kbit.
        "DP16KD": Primitive("block", bram36=0.5),
        "PDPW16KD": Primitive("block", bram36=0.5),
        "VCC": Primitive("none"),
        "GND": Primitive("none"),
    }


PRIMITIVES: Mapping[str, Mapping[str, Primitive]] = {"xcup": _xilinx(), "ecp5": _ecp5()}

_IGNORED = {"$scopeinfo"}


@with_config(STRICT)
@dataclass(frozen=True)
class ModuleReport:
    """One module: its own resources, those with all submodules, and its depth."""

    name: str
    instances: int  #: in the whole design
    own: Mapping[str, float]
    total: Mapping[str, float]  #: of one instance, submodules included
    logic_levels: int  #: longest path between registers, within it or through its submodules
    #: that path: register or submodule port, named nets, register or submodule port
    critical_path: tuple[str, ...]


@dataclass
class _Depth:
    """Timing abstraction of a module: LUT levels."""

    #: output bit -> {input bit: levels of the longest combinational path}
    through: dict[tuple[str, int], dict[tuple[str, int], int]] = field(default_factory=dict)
    #: output bit -> levels from a register inside
    from_register: dict[tuple[str, int], int] = field(default_factory=dict)
    #: input bit -> levels to a register inside
    to_register: dict[tuple[str, int], int] = field(default_factory=dict)
    inside: int = 0  #: longest path between registers, within it or through its submodules
    path: tuple[str, ...] = ()  #: nets of that path


_REGISTER = ("", -1)  # the source "a register" among input bits


def _module_cells(module: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (cell for cell in module["cells"].values() if cell["type"] not in _IGNORED)


def module_order(modules: Mapping[str, Any], top: str) -> list[str]:
    """Modules below the top, submodules first."""
    done: list[str] = []
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name in entered:
            return
        entered.add(name)
        for cell in _module_cells(modules[name]):
            if cell["type"] in modules:
                visit(cell["type"])
        done.append(name)

    visit(top)
    return done


def _arcs(
    cell: Mapping[str, Any], primitives: Mapping[str, Primitive]
) -> tuple[str, list[int], list[int]]:
    """Kind, input nets and output nets of a primitive."""
    inputs: list[int] = []
    outputs: list[int] = []
    for port, bits in cell["connections"].items():
        nets = [bit for bit in bits if isinstance(bit, int)]
        (outputs if cell["port_directions"][port] == "output" else inputs).extend(nets)
    return primitives[cell["type"]].kind, inputs, outputs


def _lut6_2_arcs(cell: Mapping[str, Any]) -> Iterable[tuple[int, int]]:
    """Nets of inputs and the outputs that depend on them.

    One instance is two functions; adders rely on it that one does not depend on all inputs.
    """
    table = int(cell["parameters"]["INIT"], 2)
    ports = {port: bits[0] for port, bits in cell["connections"].items() if bits}
    for output, inputs in (("O5", 5), ("O6", 6)):
        for k in range(inputs):
            entries = range(1 << inputs)
            changes = any((table >> e ^ table >> (e ^ 1 << k)) & 1 for e in entries)
            before, sink = ports.get(f"I{k}"), ports.get(output)
            if changes and isinstance(before, int) and isinstance(sink, int):
                yield before, sink


_Sources = dict[tuple[str, int], int]


def _merge(target: _Sources, sources: _Sources, levels: int) -> None:
    for source, depth in sources.items():
        if target.get(source, -1) < depth + levels:
            target[source] = depth + levels


def _depth(
    module: Mapping[str, Any],
    primitives: Mapping[str, Primitive],
    below: Mapping[str, _Depth],
    name: str,
) -> _Depth:
    """Longest paths of one module by a topological walk over its nets.

    A node is a net; its sources are the module's input bits and "a register", with levels.
    """
    result = _Depth()
    arrival: dict[int, _Sources] = {}
    drivers: dict[int, list[tuple[int, int]]] = {}  # net -> [(net before, levels)]
    ends: list[tuple[int, int, str]] = []  # (net, levels behind it to a register, where that is)
    names = _net_names(module)
    starts: dict[int, str] = {}  # net -> the register or port that drives it

    def start(net: int, levels: int, place: str) -> None:
        starts[net] = place
        _merge(arrival.setdefault(net, {}), {_REGISTER: 0}, levels)

    def arc(source: int, sink: int, levels: int) -> None:
        drivers.setdefault(sink, []).append((source, levels))

    for port, entry in module["ports"].items():
        if entry["direction"] == "input":
            for index, net in enumerate(entry["bits"]):
                if isinstance(net, int):
                    arrival.setdefault(net, {})[port, index] = 0
    for cell_name, cell in module["cells"].items():
        if cell["type"] in _IGNORED:
            continue
        depth = below.get(cell["type"])
        if depth is not None:
            connections = cell["connections"]

            def net_of(bit: tuple[str, int], nets: Mapping[str, Any] = connections) -> int | None:
                bits = nets.get(bit[0], ())
                net = bits[bit[1]] if bit[1] < len(bits) else None
                return net if isinstance(net, int) else None

            for bit, levels in depth.from_register.items():
                if (net := net_of(bit)) is not None:
                    start(net, levels, f"{cell_name}.{bit[0]}")
            for bit, levels in depth.to_register.items():
                if (net := net_of(bit)) is not None:
                    ends.append((net, levels, f"{cell_name}.{bit[0]}"))
            for bit, sources in depth.through.items():
                sink = net_of(bit)
                for source, levels in sources.items():
                    net = net_of(source)
                    if net is not None and sink is not None:
                        arc(net, sink, levels)
            continue
        kind, inputs, outputs = _arcs(cell, primitives)
        if kind == "register":
            place = names.get(outputs[0], cell["type"]) if outputs else cell["type"]
            ends += [(net, 0, place) for net in inputs]
            for net in outputs:
                start(net, 0, place)
        elif kind == "memory":
            # Write side and address end a path, address and clock start one at the output.
            ends += [(net, 0, cell["type"]) for net in inputs]
            for net in outputs:
                start(net, 1, cell["type"])
                for port, bits in cell["connections"].items():
                    if re.fullmatch(r"ADDR\w*|A\d*|DPRA\d*|RAD\d*", port):
                        for source in bits:
                            if isinstance(source, int):
                                arc(source, net, 1)
        elif kind == "carry":
            for sink in outputs:
                for port, bits in cell["connections"].items():
                    chained = port in ("CI", "CIN")
                    for source in bits if cell["port_directions"][port] == "input" else ():
                        if isinstance(source, int):
                            arc(source, sink, 0 if chained else 1)
        elif cell["type"] == "LUT6_2":
            for before, sink in _lut6_2_arcs(cell):
                arc(before, sink, 1)
        elif kind in ("logic", "mux", "none"):
            levels = 1 if kind == "logic" else 0
            for sink in outputs:
                for before in inputs:
                    arc(before, sink, levels)
        # A path from or to a block is not counted: what it holds depends on the block's registers.

    order = topological(drivers, name)
    for net in order:
        sources = arrival.setdefault(net, {})
        for before, levels in drivers.get(net, ()):
            _merge(sources, arrival.get(before, {}), levels)
    worst: tuple[int, int, str] | None = None
    for net, levels, place in ends:
        for source, depth_here in arrival.get(net, {}).items():
            if source == _REGISTER:
                if worst is None or depth_here + levels > result.inside:
                    result.inside = depth_here + levels
                    worst = (net, depth_here, place)
            elif result.to_register.get(source, -1) < depth_here + levels:
                result.to_register[source] = depth_here + levels
    if worst is not None:
        nets = _trace(drivers, arrival, worst[0], worst[1])
        steps = [starts[nets[0]], *(names[net] for net in nets if net in names)]
        result.path = (*dict.fromkeys(steps), worst[2])
    for port, entry in module["ports"].items():
        if entry["direction"] != "output":
            continue
        for index, net in enumerate(entry["bits"]):
            for source, levels in arrival.get(net, {}).items() if isinstance(net, int) else ():
                if source == _REGISTER:
                    result.from_register[port, index] = levels
                else:
                    result.through.setdefault((port, index), {})[source] = levels
    return result


def _trace(
    drivers: Mapping[int, list[tuple[int, int]]],
    arrival: Mapping[int, _Sources],
    net: int,
    depth: int,
) -> list[int]:
    """Nets of the longest path from a register to ``net``, which it reaches at ``depth``."""
    path = [net]
    while True:
        for before, levels in drivers.get(path[-1], ()):
            if arrival.get(before, {}).get(_REGISTER) == depth - levels:
                path.append(before)
                depth -= levels
                break
        else:
            return path[::-1]


def _net_names(module: Mapping[str, Any]) -> dict[int, str]:
    """Names of nets; those that the tool made up are left out."""
    names: dict[int, str] = {}
    for name, entry in module["netnames"].items():
        if entry.get("hide_name") or name.startswith(("$", "\\$")):
            continue
        for index, net in enumerate(entry["bits"]):
            names.setdefault(net, f"{name}[{index}]" if len(entry["bits"]) > 1 else name)
    return names


def topological(drivers: Mapping[int, list[tuple[int, int]]], name: str) -> list[int]:
    """Nets in an order in which drivers come first; a loop is an error."""
    state: dict[int, int] = {}
    order: list[int] = []
    for root in drivers:
        if root in state:
            continue
        stack = [(root, iter(drivers.get(root, ())))]
        state[root] = 1
        while stack:
            net, rest = stack[-1]
            for before, _ in rest:
                if before not in state:
                    state[before] = 1
                    stack.append((before, iter(drivers.get(before, ()))))
                    break
                if state[before] == 1:
                    raise ToolError(f"Module {name} must have no combinational loop")
            else:
                state[net] = 2
                order.append(net)
                stack.pop()
    return order


def analyse(netlist: Mapping[str, Any], top: str, target: str) -> list[ModuleReport]:
    """Resources and depth of every module below ``top``, the top first.

    Raises:
        ToolError: a cell is neither a known primitive nor a module.
    """
    primitives = PRIMITIVES[target]
    modules = {
        name: module
        for name, module in netlist["modules"].items()
        if name == top or (name not in primitives and module["cells"])
    }
    order = module_order(modules, top)
    own: dict[str, dict[str, float]] = {}
    total: dict[str, dict[str, float]] = {}
    children: dict[str, Counter[str]] = {}
    depths: dict[str, _Depth] = {}
    for name in order:
        counts: Counter[str] = Counter()
        parts: Counter[str] = Counter()
        for cell in _module_cells(modules[name]):
            kind = cell["type"]
            if kind in modules:
                parts[kind] += 1
            elif kind in primitives:
                counts[kind] += 1
            elif netlist["modules"].get(kind, {}).get("cells") == {} and "blackbox" not in (
                netlist["modules"][kind].get("attributes", {})
            ):
                continue  # a module without cells: wires only
            else:
                raise ToolError(
                    "Every cell must be a primitive that is counted or a module; "
                    f"{name} has {kind!r}"
                )
        own[name] = {
            resource: sum(getattr(primitives[k], resource) * n for k, n in counts.items())
            for resource in RESOURCES
        }
        total[name] = {
            resource: own[name][resource] + sum(total[k][resource] * n for k, n in parts.items())
            for resource in RESOURCES
        }
        children[name] = parts
        depths[name] = _depth(modules[name], primitives, depths, name)
    instances: Counter[str] = Counter({top: 1})
    for name in reversed(order):
        for child, count in children[name].items():
            instances[child] += instances[name] * count
    return [
        ModuleReport(
            name, instances[name], own[name], total[name], depths[name].inside, depths[name].path
        )
        for name in reversed(order)
    ]
