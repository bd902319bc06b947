# SPDX-License-Identifier: Apache-2.0
"""What a simulation of frames is built from, and the signals that it watches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hwgen.config import AcceleratorConfig
from hwgen.errors import SimulationError
from hwgen.isa.instructions import Engine
from hwgen.sim.boundaries import Boundary
from hwgen.sim.verilator import Build, Progress, Source, build
from hwgen.sim.verilog_ports import module_names, module_ports

#: The program around the Verilated model, and its headers.
_HARNESS = ("frame_harness.cpp", "frame_memory.h", "frame_boundaries.h")

#: Signals of a bank, of activations or of row shifts, that the harness watches; part of the
#: contract with the RTL.
BANK_SIGNALS = ("bank_write_en", "bank_write_address", "bank_write_data")
#: Completion counter of each engine in the sequencer, in the order of :class:`Engine`.
COUNTER_SIGNALS = tuple(f"completed_{engine.name.lower()}" for engine in Engine)
#: Whether an instruction, its thresholds met, is on offer to each engine; falls when it is taken.
OFFER_SIGNALS = tuple(f"{engine.name.lower()}_ready" for engine in Engine)
#: Cycles between a completion and the moment at which the last write is visible in the bank.
SNAPSHOT_DELAY = 1

#: By itself Verilator leaves out words of more than 256 bits: those of arrays beyond 32 rows.
_TRACE_OPTIONS = ("--trace-max-width", "4096")

#: Columns of the array and the strips that they stand in: most of a design, and few modules.
_SHARED = re.compile(r"_(?:column|strip)_\w+$")

# Names of one declaration, without its range.
_DECLARATION = re.compile(
    r"^\s*(?:input|output|wire|reg)\b(?:\s+reg\b)?\s*(?:\[[^\]]*\])?([\w\s,]+)[;=]", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True)
class FrameSetup:
    """Everything that a simulation of frames needs."""

    verilog: tuple[Source, ...]
    top: str
    config: AcceleratorConfig
    image: bytes  #: memory image: instructions, constants, weights
    input_bytes: int
    output_bytes: int
    boundaries: tuple[Boundary, ...] = ()


def probe_control(verilog: str) -> str:
    """Verilator control file that makes the watched signals readable, and only these."""
    lines = ["`verilator_config"]
    starts = [match.start() for match in re.finditer(r"^module ", verilog, re.MULTILINE)]
    names = module_names(verilog)
    sequencer = {*COUNTER_SIGNALS, *OFFER_SIGNALS}
    for name, start, end in zip(names, starts, [*starts[1:], len(verilog)], strict=True):
        body = verilog[start:end]
        declared = {
            name
            for names_text in _DECLARATION.findall(body)
            for name in re.findall(r"\w+", names_text)
        }
        wanted = [signal for signal in BANK_SIGNALS if signal in declared]
        if len(wanted) != len(BANK_SIGNALS):
            wanted = []
        if sequencer and sequencer <= declared:
            wanted += [*COUNTER_SIGNALS, *OFFER_SIGNALS]
            sequencer = set()  # one place is enough
        lines += [f'public_flat_rd -module "{name}" -var "{signal}"' for signal in wanted]
    return "\n".join(lines) + "\n"


def build_frames(
    setup: FrameSetup, *, trace: bool = False, progress: Progress | None = None
) -> Path:
    """The executable that simulates frames of a design, or with ``trace`` writes waveforms."""
    text = "\n".join(source.data.decode() for source in setup.verilog)
    ports = module_ports(text, setup.top)
    count = sum(re.fullmatch(r"m_axi\d+_arvalid", name) is not None for name in ports)
    if count != setup.config.memory_ports:
        raise SimulationError(
            f"The top must have the configuration's {setup.config.memory_ports} memory ports, "
            f"not {count}",
            where=setup.top,
        )
    control = probe_control(text)
    spec = Build(
        top=setup.top,
        verilog=(*setup.verilog, Source("probes.vlt", control.encode())),
        harness=tuple(Source.of(Path(__file__).parent / name) for name in _HARNESS),
        defines=(f"HWGEN_PORTS={count}", *(("HWGEN_CLK2X",) if "clk2x" in ports else ())),
        trace=trace,
        options=_TRACE_OPTIONS if trace else (),
        shared=tuple(name for name in module_names(text) if _SHARED.search(name)),
    )
    return build(spec, progress)


def observable(setup: FrameSetup) -> bool:
    """Whether the design has the signals that are watched."""
    text = "\n".join(source.data.decode() for source in setup.verilog)
    return COUNTER_SIGNALS[0] in probe_control(text)
