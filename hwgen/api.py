# SPDX-License-Identifier: Apache-2.0
"""The Python interface that stays: what docs/api.md lists, and nothing else.

Everything below it may move between two releases; a change of a name here goes into the CHANGELOG.
"""

from __future__ import annotations

from hwgen.boards import Board, get_board
from hwgen.config import AcceleratorConfig
from hwgen.emit.manifest import Manifest
from hwgen.errors import HwgenError
from hwgen.flow import Evidence, Settings
from hwgen.flow import generate_all as generate
from hwgen.flow import simulate_design as simulate
from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.frontend.quantiser import layer_names, quantise
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run, run_boundaries
from hwgen.graph.spec import ModelSpec
from hwgen.models import DIGITS_CHECKPOINT
from hwgen.report.results import SimulationResult, SynthesisResult
from hwgen.report.terminal import Reporter
from hwgen.stages.emit import DesignFolder
from hwgen.stages.options import DesignOptions
from hwgen.stages.synthesise import synthesise
from hwgen.units import UNITS, UnitResult, emit_unit
from hwgen.units import simulate as simulate_unit
from hwgen.units import synthesise_folder as synthesise_unit

__all__ = [
    "DIGITS_CHECKPOINT",
    "MODELS",
    "UNITS",
    "AcceleratorConfig",
    "Board",
    "DesignFolder",
    "DesignOptions",
    "Evidence",
    "FloatModel",
    "HwgenError",
    "IntegerGraph",
    "Manifest",
    "ModelSpec",
    "Reporter",
    "Settings",
    "SimulationResult",
    "SynthesisResult",
    "UnitResult",
    "digits_dataset",
    "emit_unit",
    "generate",
    "get_board",
    "layer_names",
    "load_checkpoint",
    "quantise",
    "run",
    "run_boundaries",
    "simulate",
    "simulate_unit",
    "synthesise",
    "synthesise_unit",
]
