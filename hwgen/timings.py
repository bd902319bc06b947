# SPDX-License-Identifier: Apache-2.0
"""Latencies that the hardware, its cycle model and its resource model share, in cycles.

:mod:`hwgen.rtl` is built with them, :mod:`hwgen.program.machine` predicts with them and
:mod:`hwgen.explore` sizes rings with them; none of the three may import another.
"""

from __future__ import annotations

#: Granted read of the activation memory -> its data: request, block RAM, output register, choice.
READ_LATENCY = 4

#: Beats of a burst of instructions, and of the FIFO that they are fetched into.
FETCH_BURST_BEATS = 16
FETCH_FIFO_BEATS = 32

# DRAIN ------------------------------------------------------------------------------------------

#: A row's drain address -> its accumulators; from there to its codes; on to the table's.
ACCUMULATOR_LATENCY = 4
REQUANTISE_LATENCY = 9
TABLE_LATENCY = 3
#: A chunk's first accumulators -> its lanes have read its constants for the last time.
CONSTANTS_READ = 3


# Vector units -----------------------------------------------------------------------------------


def tree_latency(count: int) -> int:
    """Of a tree over ``count`` values with a register a level."""
    return (count - 1).bit_length()


def slice_latency(lanes: int) -> int:
    """Of a slice's maximum or sum; a slice of one logit takes a register, too."""
    return max(1, tree_latency(lanes))


def ring_depth(longest: int, latency: int) -> int:
    """Slices of a ring: a row, what the stage in front of the launch holds, and the handshakes."""
    return 1 << (longest + latency + 4).bit_length()


#: E2Softmax: distance -> exponent.
LOG2EXP_LATENCY = 4
#: Launch of a slice in stage 2 -> its codes are offered.
E2SOFTMAX_STAGE_2 = LOG2EXP_LATENCY + 6


def e2softmax_stage_1(vec: int) -> int:
    """A row's last slice is taken -> stage 2 can launch the row."""
    return 2 * slice_latency(vec) + LOG2EXP_LATENCY + 7


#: Fractional softmax: distance -> exponent.
EXPONENT_LATENCY = 5
#: Launch of a slice of exponents -> its codes are offered.
CODES_LATENCY = 7


def maximum_latency(vec: int) -> int:
    """A row's last slice is taken -> its logits can be launched."""
    return slice_latency(vec) + 4


def sum_latency(vec: int) -> int:
    """A row's last logits are launched -> its exponents can be."""
    return EXPONENT_LATENCY + slice_latency(vec) + 6


#: LAYERNORM: residual -> its power-of-two-factor codes.
PTF_LATENCY = 5
#: AILayerNorm: sums of a row -> its result.
PREPROCESS_LATENCY = 12
#: Launch of a group in stage 2 -> its codes are offered.
AILAYERNORM_STAGE_2 = 20


def ailayernorm_stage_1(lanes: int) -> int:
    """A row's last group is taken -> stage 2 can launch the row."""
    return tree_latency(lanes) + PREPROCESS_LATENCY + 10
