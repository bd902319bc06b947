# SPDX-License-Identifier: Apache-2.0
"""Pushes words through one Verilated stream unit, under back-pressure, checking the contract."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import numpy.typing as npt

from hwgen.errors import SimulationError
from hwgen.files import scratch_folder
from hwgen.processes import started
from hwgen.sim.verilator import Build, Progress, Source, build
from hwgen.sim.verilog_ports import Port, module_ports

_TEMPLATE = Path(__file__).parent / "unit_bench.cpp.in"

Words = Sequence[int] | npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """How the bench drives VALID and READY."""

    valid_percent: int = 100  #: chance per cycle that the next word is offered, 1..100
    ready_percent: int = 100  #: chance per cycle that an output is taken, 1..100
    ready_after_valid: bool = False  #: READY only in cycles in which VALID is seen first
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("valid_percent", "ready_percent"):
            value = getattr(self, name)
            if not 1 <= value <= 100:
                raise SimulationError(f"{name} must be in 1..100, not {value!r}")


#: The consumer modes that every stream unit is tested with: a fault may be invisible to the others.
HANDSHAKES: Mapping[str, Handshake] = {
    "always": Handshake(),
    "random": Handshake(valid_percent=70, ready_percent=60, seed=1),
    "slow input": Handshake(valid_percent=10, ready_percent=90, seed=2),
    "slow output": Handshake(valid_percent=95, ready_percent=10, seed=3),
    "ready after valid": Handshake(
        valid_percent=80, ready_percent=50, ready_after_valid=True, seed=4
    ),
}


@dataclass(frozen=True)
class UnitRun:
    """What a unit returned."""

    outputs: npt.NDArray[np.uint8]  #: [words, bytes], little endian
    cycles: int  #: from the first cycle after reset to the last transfer
    first_output_cycle: int  #: cycles until the first output was taken

    def integers(self) -> list[int]:
        """The outputs as integers."""
        return [int.from_bytes(word.tobytes(), "little") for word in self.outputs]


def _one(ports: Mapping[str, Port], stream: str, member: str, direction: str) -> Port:
    for separator in ("__", "_"):
        port = ports.get(f"{stream}{separator}{member}")
        if port is not None:
            if port.direction != direction:
                raise SimulationError(
                    f"Port {port.name} must be an {direction}, not an {port.direction}"
                )
            return port
    raise SimulationError(
        f"The unit must have a port {stream}__{member}; it has {', '.join(sorted(ports))}"
    )


def pack_words(words: Words, port: Port) -> npt.NDArray[np.uint8]:
    """Words as [n, bytes] little endian, checked against the port's width."""
    if isinstance(words, np.ndarray):
        if words.dtype != np.uint8 or words.ndim != 2 or words.shape[1] != port.bytes:
            raise SimulationError(
                f"Words of {port.name} must be uint8 [n, {port.bytes}], "
                f"not {words.dtype} {list(words.shape)}"
            )
        spare = 8 * port.bytes - port.width
        if spare and words.size and int(words[:, -1].max()) >> (8 - spare):
            raise SimulationError(f"Words of {port.name} must fit {port.width} bits")
        return np.ascontiguousarray(words)
    packed = bytearray()
    for index, word in enumerate(words):
        if not 0 <= word < 1 << port.width:
            raise SimulationError(
                f"Word {index} of {port.name} must be in 0..2^{port.width}-1, not {word!r}"
            )
        packed += int(word).to_bytes(port.bytes, "little")
    return np.frombuffer(bytes(packed), np.uint8).reshape(-1, port.bytes)


def _configuration(ports: Sequence[Port], settings: Mapping[str, int]) -> tuple[str, bytes]:
    """Assignments of the static inputs from the head of the input file, and that head."""
    lines, head = [], b""
    for port in ports:
        value = settings.get(port.name, 0)
        if not -(1 << (port.width - 1)) <= value < 1 << port.width:
            raise SimulationError(f"{port.name} must fit {port.width} bits, not {value!r}")
        lines.append(f"  pack(dut->{port.cpp_name}, file.data() + {len(head)}, {port.bytes});")
        head += (value & ((1 << port.width) - 1)).to_bytes(port.bytes, "little")
    return "\n".join(lines), head


def run_unit(
    verilog: str | Path,
    top: str,
    inputs: Words,
    output_count: int,
    *,
    configuration: Mapping[str, int] | None = None,
    input_stream: str = "i",
    output_stream: str = "o",
    handshake: Handshake | None = None,
    max_cycles: int | None = None,
    options: Sequence[str] = (),
    progress: Progress | None = None,
) -> UnitRun:
    """Push words through a unit and return what it returned.

    The module has ``clk``, ``clk2x`` and ``rst`` (optional), one input and one output stream, named
    ``i__valid`` or ``i_valid`` and so on, and static configuration inputs.

    Args:
        verilog: text or file; the file is used as it is, so a change in it changes the result.
        top: name of the module.
        inputs: integers, or uint8 [n, bytes] in little endian.
        output_count: words that the unit returns; one more is an error.
        configuration: values of the other inputs; those not named are 0.
        input_stream: name of the input stream.
        output_stream: name of the output stream.
        handshake: how VALID and READY are driven; always, by default.
        max_cycles: ceiling; by default generous for a unit of one word in 64 cycles.
        options: further Verilator options.
        progress: told about the build.

    Raises:
        SimulationError: an offer was withdrawn or changed, too many outputs, or the ceiling was
            reached.
    """
    text = verilog.read_text() if isinstance(verilog, Path) else verilog
    mode = handshake or Handshake()
    ports = module_ports(text, top)
    streams = {
        f"{short}_{member}": _one(ports, stream, member, direction)
        for short, stream, given, taken in (
            ("i", input_stream, "input", "output"),
            ("o", output_stream, "output", "input"),
        )
        for member, direction in (("valid", given), ("payload", given), ("ready", taken))
    }
    packed = pack_words(inputs, streams["i_payload"])
    used = {port.name for port in streams.values()} | {"clk", "clk2x", "rst"}
    settings = dict(configuration or {})
    free = {name for name, port in ports.items() if port.direction == "input"} - used
    if unknown := sorted(set(settings) - free):
        raise SimulationError(
            f"Configuration must name inputs of {top} ({sorted(free)}), not {unknown}"
        )
    assignments, head = _configuration([ports[name] for name in sorted(free)], settings)
    source = Template(_TEMPLATE.read_text()).substitute(
        {short: port.cpp_name for short, port in streams.items()},
        input_bytes=streams["i_payload"].bytes,
        output_bytes=streams["o_payload"].bytes,
        output_bits=streams["o_payload"].width,
        configuration=assignments,
        configuration_bytes=len(head),
        reset_high="dut->rst = 1;" if "rst" in ports else "",
        reset_low="dut->rst = 0;" if "rst" in ports else "",
        clk2x=int("clk2x" in ports),
    )
    executable = build(
        Build(
            top=top,
            verilog=(Source(f"{top}.v", text.encode()),),
            harness=(Source("bench.cpp", source.encode()),),
            options=tuple(options),
        ),
        progress,
    )
    slowest = 100 * 100 // (mode.valid_percent * mode.ready_percent) + 1
    ceiling = max_cycles or 10_000 + 64 * slowest * (len(packed) + output_count)
    with scratch_folder() as folder:
        given, returned = folder / "inputs", folder / "outputs"
        given.write_bytes(head + packed.tobytes())
        command = [str(executable), str(given), str(len(packed)), str(returned), str(output_count)]
        command += [str(mode.seed), str(mode.valid_percent), str(mode.ready_percent)]
        command += [str(int(mode.ready_after_valid)), str(ceiling)]
        with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate()
        if process.returncode:
            why = err.strip() or f"the simulation ended with status {process.returncode}"
            raise SimulationError(f"{why} (seed {mode.seed})", where=top)
        words = np.frombuffer(returned.read_bytes(), np.uint8)
    figures = dict(line.split() for line in out.splitlines())
    return UnitRun(
        words.reshape(-1, streams["o_payload"].bytes), int(figures["cycles"]), int(figures["first"])
    )
