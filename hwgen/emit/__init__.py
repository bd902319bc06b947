# SPDX-License-Identifier: Apache-2.0
"""From a component and a program to files: deterministic Verilog, manifest, design folder."""
