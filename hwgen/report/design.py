# SPDX-License-Identifier: Apache-2.0
"""A design and what was measured on it, as the rows of a table."""

from __future__ import annotations

from hwgen.emit.manifest import Manifest
from hwgen.report.results import SimulationResult, SynthesisResult


def rows(
    manifest: Manifest, simulation: SimulationResult | None, synthesis: SynthesisResult | None
) -> list[list[str]]:
    """Name and value of everything that is known, ready for a table."""
    config = manifest.config
    predicted = manifest.program.predicted_cycles
    table = [
        ["model", manifest.model],
        ["board", f"{manifest.board}, {config.clock_mhz} MHz (assumed)"],
        ["array", f"{config.rows} x {config.columns} at {config.weight_bits} bits"],
        ["instructions", f"{manifest.program.instructions:,}"],
        ["MACs per frame", f"{manifest.program.macs:,}"],
    ]
    if simulation is None:
        table.append(
            ["predicted", f"{predicted:,} cycles ({1e6 * config.clock_mhz / predicted:,.1f} FPS)"]
        )
        table.append(["simulation", "none for these files (hwgen simulate)"])
    else:
        table += _simulation(simulation)
    if synthesis is not None:
        table += _synthesis(synthesis)
    else:
        table.append(["synthesis", "none for these files (hwgen synth)"])
    return table


def _simulation(result: SimulationResult) -> list[list[str]]:
    cycles = result.cycles
    table = [
        ["FPS", f"{result.fps:,.1f} (simulated cycles at the assumed clock)"],
        ["cycles per frame", f"{cycles:,}"],
    ]
    if result.predicted_cycles:
        error = (result.predicted_cycles - cycles) / cycles
        table.append(["predicted", f"{result.predicted_cycles:,} cycles ({100 * error:+.2f} %)"])
    table += [
        [
            "memory",
            f"{result.memory_bandwidth:.1f} B/cycle, {result.memory_latency} cycles latency",
        ],
        [
            "useful MACs per cycle",
            f"{result.useful_macs_per_cycle:,.1f} of {result.macs_per_cycle:,}",
        ],
        ["array utilisation", _percent(result.array_utilisation)],
        ["array busy", f"{result.busy_cycles:,} cycles, {_percent(result.busy_cycles / cycles)}"],
    ]
    for cause, count in sorted(result.stall_cycles.items(), key=lambda item: -item[1]):
        if count:
            table.append([f"waiting: {cause}", f"{count:,} cycles, {_percent(count / cycles)}"])
    table += [
        ["layers checked", f"{result.layers_checked} on each of {result.images} images, all equal"],
        ["images", result.image_source],
    ]
    if result.top1 is not None:
        text = f"{_percent(result.top1)} of {result.top1_images} images"
        if result.top1_float is not None:
            text += f" (float model: {_percent(result.top1_float)})"
        table.append(["top-1", text])
    if result.changed_files:
        table.append(["changed since generated", ", ".join(result.changed_files)])
    return table


def _synthesis(result: SynthesisResult) -> list[list[str]]:
    levels = "not measured" if result.logic_levels is None else str(result.logic_levels)
    return [
        ["synthesis", f"{result.tool}, {result.target}"],
        ["LUT / FF", f"{result.lut:,} / {result.ff:,}"],
        ["DSP / BRAM36", f"{result.dsp:,} / {result.bram36:g}"],
        ["logic levels", levels],
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
