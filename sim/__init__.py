# SPDX-License-Identifier: Apache-2.0
"""Simulation of the emitted Verilog: Verilator builds, benches, frame harness, comparison."""
