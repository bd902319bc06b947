# SPDX-License-Identifier: Apache-2.0
"""Measured resources and logic depth of the emitted Verilog, by Yosys."""
