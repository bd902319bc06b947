# SPDX-License-Identifier: Apache-2.0
"""From graph to program: tiling, buffer plan, schedule, instructions and packed memory image."""
