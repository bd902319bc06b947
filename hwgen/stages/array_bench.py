# SPDX-License-Identifier: Apache-2.0
"""``hwgen bench array``, whole frames: what named designs make of DeiT-Tiny, -Small and -Base.

Cycles are the cycle model's, on the program that would run; a frame in RTL is simulated on request.
Resources are the explorer's estimate. Nothing here states a figure: all follows from
:data:`DESIGNS` and the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hwgen.boards import Board
from hwgen.columns import parse_groups
from hwgen.errors import ConfigError
from hwgen.explore.resources import ResourceEstimate, estimate_resources
from hwgen.files import scratch_folder
from hwgen.frontend.models import get_model
from hwgen.frontend.random_weights import random_state
from hwgen.graph.network import network_of
from hwgen.graph.safetensors_file import write_safetensors
from hwgen.graph.weight_bits import parse_weight_bits
from hwgen.numerics.softmax import DEFAULT_FUNCTION
from hwgen.report.regions import PageTable
from hwgen.report.results import ASSUMED
from hwgen.report.terminal import Reporter
from hwgen.stages.configure import check_fits
from hwgen.stages.design import design as make_design
from hwgen.stages.emit import emit
from hwgen.stages.load import Request, held_out_images, load
from hwgen.stages.lower import board_memory, compiled, lower, prediction
from hwgen.stages.options import DesignOptions
from hwgen.stages.quantise import quantise
from hwgen.stages.simulate import simulate

#: Seed of the random checkpoint that is simulated.
_SEED = 1
#: What all designs have in common.
COMMON: Mapping[str, Any] = {
    "rows": 64,
    "memory_ports": 4,
    "requantise_lanes": 64,
    "softmax_vec": 32,
    # Filling included: a START of four frames, whole.
    "frames_per_start": 4,
}


@dataclass(frozen=True)
class FrameDesign:
    """A line of the table: a model, its weights, the columns that it runs on, and how."""

    model: str
    weight_bits: str  #: as ``--weight-bits`` takes it
    groups: str  #: as ``--groups`` takes it
    layernorm_lanes: int = 16
    row_blocks: int = 2
    frames_in_flight: int = 1
    rotation: bool = True
    #: Further parameters, instead of those that all designs have in common or of the usual ones.
    others: tuple[tuple[str, int], ...] = ()

    @property
    def how(self) -> str:
        """All after the columns."""
        text = f"{self.layernorm_lanes}, {self.row_blocks}, {self.frames_in_flight}"
        text += "" if self.rotation else ", no rotation"
        return text + "".join(f", {n.replace('_', ' ')} {value}" for n, value in self.others)

    @property
    def name(self) -> str:
        """Model, weights and columns; what ``--match`` looks at."""
        return f"{self.model} W{self.weight_bits} {self.groups}"

    @property
    def options(self) -> DesignOptions:
        """What is stated of the design."""
        own: dict[str, Any] = {
            "groups": parse_groups(self.groups),
            "layernorm_lanes": self.layernorm_lanes,
            "row_blocks": self.row_blocks,
            "frames_in_flight": self.frames_in_flight,
            "rotation": self.rotation,
        }
        return DesignOptions(values={**COMMON, **own, **dict(self.others)})


#: 58 columns in DSP blocks and six in the fabric, or six pairs, are the 64 of a tile of V.
_W4 = "dual:58:8,tables:6:8,tables:64:4"
_MIXED = "dual:56:8,tables:8:8,tables:64:4"
#: 28 cascades at twice the clock, and what makes the sum a third of 384 or half of it.
_PUMPED_W8 = "pumped:112:8,tables:16:8"
_PUMPED_W4 = "pumped:112:8,tables:80:4"
#: At 1 bit attention would wait for a softmax of 32 lanes. Constants of two tiles are the fewest:
#: block RAM binds.
_OF_SIGNS = (("softmax_vec", 64), ("constant_fifo_beats", 78))
#: The lines of the table: what is fastest of those that were tried and fit the ZCU102's budget, 80
#: % of DSPs and block RAM and 70 % of LUTs.
DESIGNS: tuple[FrameDesign, ...] = (
    FrameDesign("deit_base", "8", "dual:58:8"),
    FrameDesign("deit_small", "8", "dual:58:8", row_blocks=1, frames_in_flight=2),
    FrameDesign("deit_tiny", "8", "dual:58:8,digits:12:4+4", frames_in_flight=2),
    FrameDesign("deit_base", "8", "dual:58:8,tables:38:8", row_blocks=1),
    FrameDesign("deit_small", "8", "dual:58:8,tables:38:8", row_blocks=1, frames_in_flight=2),
    FrameDesign("deit_tiny", "8", "dual:58:8,tables:38:8", row_blocks=1, frames_in_flight=2),
    FrameDesign("deit_base", "8", _PUMPED_W8, 32, 1),
    FrameDesign("deit_small", "8", _PUMPED_W8, 32, 1, 2),
    FrameDesign("deit_tiny", "8", _PUMPED_W8, 32, 1, 2),
    FrameDesign("deit_base", "4", _W4, rotation=False),
    FrameDesign("deit_small", "4", _W4, frames_in_flight=2, rotation=False),
    FrameDesign("deit_tiny", "4", _W4, frames_in_flight=2, rotation=False),
    FrameDesign("deit_base", "4", _PUMPED_W4, 32, 1),
    FrameDesign("deit_small", "4", _PUMPED_W4, 32, 1, 2),
    FrameDesign("deit_tiny", "4", _PUMPED_W4, 32, 1, 2),
    # Half of the columns 8 bits wide; two DSP columns less leave the DSPs for LayerNorm's lanes.
    FrameDesign("deit_base", "8:64+4:64", _MIXED, 32, 1, rotation=False),
    FrameDesign("deit_base", "1", "dual:58:8,tables:6:8,digits:192:1", rotation=False),
    FrameDesign("deit_base", "1", "pumped:96:8,digits:212:1", others=_OF_SIGNS),
)


@dataclass(frozen=True, kw_only=True)
class FrameFigures:
    """A frame on a design; simulated figures are None where no frame was."""

    design: FrameDesign
    predicted_cycles: int
    clock_mhz: int
    dsp_clock_mhz: int | None  #: None with one clock
    macs: int
    macs_per_cycle: int  #: products that the array can make a cycle
    weight_bytes: int
    estimate: ResourceEstimate | None  #: None where the resource model does not know the columns
    cascades: int
    placeable_cascades: int | None
    simulated_cycles: int | None = None
    boundaries_equal: int | None = None
    logit_sqnr_db: float | None = None

    @property
    def cycles(self) -> int:
        """Simulated if a frame was, else predicted."""
        return self.simulated_cycles or self.predicted_cycles

    @property
    def useful_macs_per_cycle(self) -> float:
        """MACs of the graph per cycle of the frame."""
        return self.macs / self.cycles

    @property
    def fps(self) -> float:
        """Frames per second at the stated clock."""
        return 1e6 * self.clock_mhz / self.cycles

    @property
    def gops(self) -> float:
        """Additions and multiplications per second at the stated clock, 10^9."""
        return 2e-3 * self.clock_mhz * self.useful_macs_per_cycle

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = {
            "model": self.design.model,
            "weight_bits": self.design.weight_bits,
            "groups": self.design.groups,
            "layernorm_lanes": self.design.layernorm_lanes,
            "row_blocks": self.design.row_blocks,
            "frames_in_flight": self.design.frames_in_flight,
            "rotation": self.design.rotation,
            **dict(self.design.others),
            "predicted_cycles": self.predicted_cycles,
            "useful_macs_per_cycle": self.useful_macs_per_cycle,
            "array_utilisation": self.useful_macs_per_cycle / self.macs_per_cycle,
            "clock_mhz": self.clock_mhz,
            "dsp_clock_mhz": self.dsp_clock_mhz,
            "fps": self.fps,
            "gops": self.gops,
            "macs": self.macs,
            "weight_bytes": self.weight_bytes,
            "cascades": {"used": self.cascades, "placeable": self.placeable_cascades},
        }
        if self.estimate is not None:
            resources = ("lut", "ff", "dsp", "bram36")
            values["estimated_resources"] = {n: getattr(self.estimate, n) for n in resources}
        if self.simulated_cycles is not None:
            values["simulated_cycles"] = self.simulated_cycles
            values["boundaries_equal"] = self.boundaries_equal
            values["logit_sqnr_db"] = self.logit_sqnr_db
        return values


def frame_figures(chosen: FrameDesign, board: Board) -> FrameFigures:
    """What the models say of a frame; needs no weights, takes a second.

    Raises:
        DoesNotFitError: the design cannot be placed, or the model does not fit it.
    """
    spec = get_model(chosen.model)
    hardware = check_fits(spec, board, chosen.options, DEFAULT_FUNCTION)
    config = hardware.config
    graph = network_of(spec, weight_bits=parse_weight_bits(chosen.weight_bits).of(spec))
    memory = board_memory(board, config.clock_mhz)
    program = compiled(graph, hardware, memory, skeleton=True)
    predicted = prediction(program, memory)
    try:
        estimate: ResourceEstimate | None = estimate_resources(config)
    except ConfigError:
        estimate = None
    return FrameFigures(
        design=chosen,
        predicted_cycles=predicted.frame_cycles,
        clock_mhz=config.clock_mhz,
        dsp_clock_mhz=config.dsp_clock_mhz if config.clk2x else None,
        macs=graph.macs(),
        macs_per_cycle=config.macs_per_cycle,
        weight_bytes=program.weight_bytes,
        estimate=estimate,
        cascades=int(sum(group.dsps for group in config.groups)),
        placeable_cascades=board.cascades(config.rows),
    )


def simulated(figures: FrameFigures, board: Board, reporter: Reporter) -> FrameFigures:
    """The same in RTL: random weights, synthetic images of one START, every boundary compared.

    Raises:
        MismatchError: a boundary differs from the reference.
    """
    chosen = figures.design
    spec = get_model(chosen.model)
    with scratch_folder() as folder:
        checkpoint = folder / "random.safetensors"
        write_safetensors(str(checkpoint), random_state(spec, _SEED), {"format": "pt"})
        request = Request.of(
            chosen.model,
            checkpoint=checkpoint,
            weight_bits=parse_weight_bits(chosen.weight_bits),
        )
        graph = quantise(load(request, reporter), reporter)
        lowered = lower(make_design(graph, board, chosen.options, reporter), reporter)
        made = emit(lowered, folder / "design", reporter)
        result, _ = simulate(made, held_out_images(spec, lowered.design.frames_per_start), reporter)
    return replace(
        figures,
        simulated_cycles=result.cycles,
        boundaries_equal=result.layers_checked,
        logit_sqnr_db=graph.metadata.logit_sqnr_db,
    )


_HEADER = (
    *("model", "weights", "columns", "LayerNorm lanes, row blocks, in flight"),
    *("cycles (predicted)", "MAC/cycle", "MHz (assumed)", "FPS", "GOP/s"),
    *("packed weights, bytes", "LUT (estimated)", "FF (estimated)", "DSP", "BRAM36"),
    "simulated: cycles, MAC/cycle, boundaries equal, logit SQNR",
)


def row(figures: FrameFigures) -> list[str]:
    """A line of the table, ready for :data:`TABLE`; rates are of the predicted cycles."""
    told = replace(figures, simulated_cycles=None)
    estimate = figures.estimate
    resources = [""] * 4
    if estimate is not None:
        resources = [f"{getattr(estimate, n):,g}" for n in ("lut", "ff", "dsp", "bram36")]
        resources[:2] = [f"{estimate.lut:,}", f"{estimate.ff:,}"]
    last = ""
    if figures.simulated_cycles is not None:
        error = 100 * (figures.predicted_cycles / figures.simulated_cycles - 1)
        last = (
            f"{figures.simulated_cycles:,} (predicted {error:+.2f} %),"
            f" {figures.useful_macs_per_cycle:,.0f}, {figures.boundaries_equal},"
            f" {figures.logit_sqnr_db:.1f} dB"
        )
    return [
        figures.design.model,
        figures.design.weight_bits,
        figures.design.groups,
        figures.design.how,
        f"{figures.predicted_cycles:,}",
        f"{told.useful_macs_per_cycle:,.0f}",
        "/".join(f"{clock}" for clock in (figures.clock_mhz, figures.dsp_clock_mhz) if clock),
        f"{told.fps:,.1f}",
        f"{told.gops:,.0f}",
        f"{figures.weight_bytes:,}",
        *resources,
        last,
    ]


def _name_of(cells: list[str]) -> str:
    return FrameDesign(cells[0], cells[1], cells[2]).name


def _kept_simulation(new: list[str], old: list[str]) -> list[str]:
    """A new line with the old one's simulation, where the cycle model says what it said then."""
    same = new[:5] == old[:5] and not new[-1]
    return [*new[:-1], old[-1]] if same else new


TABLE = PageTable(
    region="bench array: frames",
    title=f"Frames (cycles predicted, LUT and FF estimated; clocks {ASSUMED})",
    header=_HEADER,
    order=tuple(design.name for design in DESIGNS),
    name_of=_name_of,
    keep=_kept_simulation,
)
