# SPDX-License-Identifier: Apache-2.0
"""A generator of accelerators for quantised Vision Transformers.

In goes a checkpoint, a board and a target frame rate; out comes Verilog, the program and packed
weights that run the model on it, and a simulation that proves it bit for bit against an integer
reference.
"""

from __future__ import annotations

__version__ = "0.1.0"
