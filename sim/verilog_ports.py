# SPDX-License-Identifier: Apache-2.0
"""The ports of a module, read from Verilog as Amaranth's back end (Yosys) writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwgen.errors import SimulationError

_MODULE = re.compile(r"^module\s+(\\\S+\s|\w+)\s*#?\s*\(", re.MULTILINE)
_PORT = re.compile(
    r"^\s*(input|output)\s+(?:wire\s+|reg\s+)?(?:signed\s+)?(?:\[(\d+):(\d+)\]\s*)?(\\\S+\s|\w+)\s*;",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Port:
    """One port of a module."""

    name: str
    direction: str  #: ``input`` or ``output``
    width: int  #: bits

    @property
    def bytes(self) -> int:
        """Bytes of a packed word of this width."""
        return -(-self.width // 8)

    @property
    def cpp_name(self) -> str:
        """Member of the Verilated class; Verilator writes a double underscore as ``___05F``."""
        return self.name.replace("__", "___05F")


def module_names(verilog: str) -> list[str]:
    """Names of the modules, in the order of the file."""
    return [match[1].strip().removeprefix("\\") for match in _MODULE.finditer(verilog)]


def module_ports(verilog: str, top: str) -> dict[str, Port]:
    """Ports of a module by name.

    Raises:
        SimulationError: there is no such module.
    """
    for match in _MODULE.finditer(verilog):
        if match[1].strip().removeprefix("\\") != top:
            continue
        end = verilog.find("\nendmodule", match.end())
        body = verilog[match.end() : end if end >= 0 else len(verilog)]
        ports: dict[str, Port] = {}
        for direction, high, low, name in _PORT.findall(body):
            name = name.strip().removeprefix("\\")
            width = abs(int(high) - int(low)) + 1 if high else 1
            ports[name] = Port(name, direction, width)
        return ports
    raise SimulationError(
        f"Verilog must define the module {top!r}; "
        f"it defines {', '.join(module_names(verilog)) or 'none'}"
    )
