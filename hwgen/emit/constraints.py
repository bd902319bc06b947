# SPDX-License-Identifier: Apache-2.0
"""Constraints of a design with DSP blocks at twice the clock, for Vivado."""

from __future__ import annotations

from hwgen.config import AcceleratorConfig

_TEXT = """\
# Clocks of {name}: clk at {clock} MHz, clk2x at {dsp} MHz (assumed).
# A fragment; nothing of it has been through Vivado.
#
# Both come from ONE output of ONE MMCM ({dsp} MHz), through two buffers of the same clock region
# with CE and CLR in common:
#   BUFGCE_DIV #(.BUFGCE_DIVIDE(2)) clk_buffer   (.I(mmcm_out), .CE(1'b1), .CLR(1'b0), .O(clk));
#   BUFGCE_DIV #(.BUFGCE_DIVIDE(1)) clk2x_buffer (.I(mmcm_out), .CE(1'b1), .CLR(1'b0), .O(clk2x));
# Every rising edge of clk is then one of clk2x, and no synchroniser is needed or wanted. Vivado
# derives both clocks from that of the MMCM's input. Where the cells have other names than above,
# change the next lines.
set hwgen_clk [get_pins -hierarchical -filter {{NAME =~ *clk_buffer/O}}]
set hwgen_clk2x [get_pins -hierarchical -filter {{NAME =~ *clk2x_buffer/O}}]
set hwgen_nets [get_nets -of_objects [list $hwgen_clk $hwgen_clk2x]]

# The same route for both, so that their edges meet everywhere.
set_property CLOCK_DELAY_GROUP {name}_clocks $hwgen_nets
# Choose a region in the middle of the design, the same for both:
# set_property USER_CLOCK_ROOT X2Y3 $hwgen_nets

# Activations (B) and weights (A) change with clk, and what a block takes of them in the first half
# of a cycle is never used: they have the whole cycle. Everything else between the two clocks has
# half of one: clock enables, D, late_swap, and P on its way back.
set hwgen_blocks [get_cells -hierarchical -filter \\
  {{REF_NAME == DSP48E2 && NAME =~ *column_*/cell_*}}]
set hwgen_data [get_pins -of_objects $hwgen_blocks -filter \\
  {{REF_PIN_NAME =~ A[*] || REF_PIN_NAME =~ B[*]}}]
set hwgen_from [get_clocks -of_objects $hwgen_clk]
set_multicycle_path 2 -setup -end -from $hwgen_from -to $hwgen_data
set_multicycle_path 1 -hold -end -from $hwgen_from -to $hwgen_data
"""


def constraints(config: AcceleratorConfig, name: str) -> str:
    """The file; only for a configuration with a second clock."""
    return _TEXT.format(name=name, clock=config.clock_mhz, dsp=config.dsp_clock_mhz)
