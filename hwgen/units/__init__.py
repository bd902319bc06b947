# SPDX-License-Identifier: Apache-2.0
"""Units that can be built, simulated and synthesised alone: the accelerator's own cores."""

from __future__ import annotations

from hwgen.units.ailayernorm import AILAYERNORM
from hwgen.units.base import Entry, Parameter, Unit, UnitResult
from hwgen.units.e2softmax import E2SOFTMAX
from hwgen.units.elementwise import ELEMENTWISE
from hwgen.units.folder import (
    UnitManifest,
    changed_files,
    check_vector_file,
    emit_unit,
    is_current,
    listed_files,
    simulate,
    simulate_folder,
    synthesise_folder,
    unit_verilog,
)
from hwgen.units.requantise import REQUANTISE
from hwgen.units.systolic_array import SYSTOLIC_ARRAY
from hwgen.units.vectors import load_vectors, recognise_vectors, save_vectors

#: Every unit by the name that the command line uses.
UNITS: dict[str, Unit] = {
    unit.name: unit for unit in (SYSTOLIC_ARRAY, E2SOFTMAX, AILAYERNORM, REQUANTISE, ELEMENTWISE)
}

__all__ = [
    "UNITS",
    "Entry",
    "Parameter",
    "Unit",
    "UnitManifest",
    "UnitResult",
    "changed_files",
    "check_vector_file",
    "emit_unit",
    "is_current",
    "listed_files",
    "load_vectors",
    "recognise_vectors",
    "save_vectors",
    "simulate",
    "simulate_folder",
    "synthesise_folder",
    "unit_verilog",
]
