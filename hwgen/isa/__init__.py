# SPDX-License-Identifier: Apache-2.0
"""The contract between program and hardware: instructions, memory map, registers, counters.

Each is one table; encoder, decoder, RTL layouts and documentation are derived from it.
"""
