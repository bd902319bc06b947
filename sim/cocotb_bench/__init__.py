# SPDX-License-Identifier: Apache-2.0
"""Verification bench of the complete top level: cocotb, AXI models, coverage bins.

A tool of the repository's tests: it does not travel in the wheel.
"""
