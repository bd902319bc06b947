# SPDX-License-Identifier: Apache-2.0
"""A design and what was measured on it, as the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwgen.emit.manifest import Manifest
from hwgen.graph.assumption import Assumption, assumptions_from_json
from hwgen.reading import printable
from hwgen.report.results import (
    ASSUMED,
    AccuracyResult,
    SimulationResult,
    SynthesisResult,
    Usage,
)


def rows(
    manifest: Manifest,
    simulation: SimulationResult | None,
    synthesis: SynthesisResult | None,
    usage: Sequence[Usage] = (),
    accuracy: AccuracyResult | None = None,
) -> list[list[str]]:
    """Name and value of everything that is known, ready for a table.

    ``usage`` is what the synthesised design takes of the board.
    """
    config = manifest.config
    predicted = manifest.program.predicted_cycles
    table = [
        ["model", printable(manifest.model)],
        ["board", f"{manifest.board.name}, {config.clocks} ({ASSUMED})"],
        ["array", f"{config.rows} x {config.columns}: {config.groups}"],
        ["row blocks", f"{manifest.row_blocks}"],
        ["frames per START", f"{manifest.frames_per_start}"],
        ["instructions", f"{manifest.program.instructions:,}"],
        ["MACs per frame", f"{manifest.program.macs:,}"],
        ["packed weights per frame", f"{manifest.program.weight_bytes:,} bytes"],
        *_calibration(manifest.extra),
        *assumed_rows(assumptions_from_json(manifest.extra.get("assumed", {}))),
    ]
    if simulation is None:
        fps = f"{1e6 * config.clock_mhz / predicted:,.1f} FPS at {config.clocks}, {ASSUMED}"
        table.append(["predicted", f"{predicted:,} cycles ({fps})"])
        table.append(["simulation", "none for these files (hwgen simulate)"])
    else:
        table += _simulation(simulation)
    if accuracy is not None:
        text = f"{_percent(accuracy.top1)} of {accuracy.top1_images} images"
        float_model = f"float model: {_percent(accuracy.top1_float)}"
        table.append(["top-1", f"{text} of {accuracy.image_source} ({float_model})"])
    if synthesis is not None:
        table += synthesis_rows(synthesis, usage)
    else:
        table.append(["synthesis", "none for these files (hwgen synth)"])
    return [*table, *(["note", note] for note in manifest.notes)]


def _calibration(extra: Mapping[str, Any]) -> list[list[str]]:
    table = []
    if "calibration_source" in extra:
        images, source = extra.get("calibration_images"), extra["calibration_source"]
        table.append(["calibrated on", f"{images} images ({source})"])
    if saturation := extra.get("logit_saturation"):
        table.append(["attention logits clipped", saturation_text(saturation)])
    return table + quality_rows(extra)


def assumed_rows(assumed: Mapping[str, Assumption]) -> list[list[str]]:
    """What the weights do not say, one row each."""
    return [[f"assumed {name}", str(value)] for name, value in sorted(assumed.items())]


def saturation_text(saturation: Mapping[str, float]) -> str:
    """The fractions of attention logits that saturate, in a few words."""
    if not saturation:
        return "none counted"
    worst = max(saturation, key=lambda name: saturation[name])
    if not saturation[worst]:
        return f"none in {len(saturation)} layers"
    mean = sum(saturation.values()) / len(saturation)
    return f"{100 * mean:.2g} %, at most {100 * saturation[worst]:.2g} % ({worst})"


def quality_rows(values: Mapping[str, Any]) -> list[list[str]]:
    """What quantisation cost against the float model, on held-back calibration images."""
    table = []
    images = values.get("quality_images", 0)
    if (sqnr := values.get("logit_sqnr_db")) is not None:
        table.append(["logit SQNR", f"{sqnr:.1f} dB ({images} images)"])
    if (agreement := values.get("float_agreement")) is not None:
        table.append(["same class as the float model", f"{_percent(agreement)} of {images} images"])
    if mass := values.get("softmax_mass"):
        table.append(["softmax mass", mass_text(mass)])
    return table


def mass_text(mass: Mapping[str, Mapping[str, float]]) -> str:
    """What the weights of softmax's rows sum to, in a few words."""
    worst = max(mass, key=lambda name: abs(mass[name]["mean"] - 1))
    least = min(row["min"] for row in mass.values())
    return (
        f"{mass[worst]['mean']:.2f} in the mean of {worst}, the farthest from 1; least {least:.2f}"
    )


def _simulation(result: SimulationResult) -> list[list[str]]:
    cycles = result.cycles
    table = [
        ["FPS", f"{result.fps:,.1f} (simulated cycles at {result.clocks}, {ASSUMED})"],
        ["cycles per frame", f"{cycles:,}"],
    ]
    if result.frames_per_start > 1:
        text = f"{result.latency_cycles:,} cycles for {result.frames_per_start} frames"
        table.append(["START to interrupt", text])
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
        table.append(["top-1, simulated", text])
    if result.changed_files:
        table.append(["changed since generated", ", ".join(result.changed_files)])
    return table


def synthesis_rows(result: SynthesisResult, usage: Sequence[Usage] = ()) -> list[list[str]]:
    """A synthesis; against the board's resources where ``usage`` says what they are."""
    table = [["synthesis", f"{result.tool}, {result.target}"]]
    if usage:
        for item in usage:
            text = f"{item.used:,.12g} of {item.available:,} ({_percent(item.fraction)})"
            if item.overrun is not None:
                text += f": {item.overrun:.2f} times the limit of {item.limit:,}"
            table.append([item.resource.upper(), text])
    else:
        table += [
            ["LUT / FF", f"{result.lut:,} / {result.ff:,}"],
            ["DSP / BRAM36", f"{result.dsp:,} / {result.bram36:g}"],
        ]
    levels = "not measured" if result.logic_levels is None else str(result.logic_levels)
    return [*table, ["logic levels", levels]]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
