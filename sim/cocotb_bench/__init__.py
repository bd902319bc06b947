# SPDX-License-Identifier: Apache-2.0
"""Verification benches on cocotb: the complete top with AXI models and bins, single units.

A tool of the repository's tests: it does not travel in the wheel.
"""
