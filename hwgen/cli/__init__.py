# SPDX-License-Identifier: Apache-2.0
"""The command ``hwgen``: a module per verb, what they share beside them."""

from hwgen.cli import (
    bench,
    evaluate,
    explore,
    generate,
    lists,
    quantize,
    report,
    run,
    simulate,
    synth,
    unit,
)
from hwgen.cli.output import describe_error
from hwgen.cli.process import main

__all__ = [
    "bench",
    "describe_error",
    "evaluate",
    "explore",
    "generate",
    "lists",
    "main",
    "quantize",
    "report",
    "run",
    "simulate",
    "synth",
    "unit",
]
