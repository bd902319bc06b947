# SPDX-License-Identifier: Apache-2.0
"""The bench's frame is alive: dead or saturated tensors would hide faults."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sim.cocotb_bench.program import OUTPUT_GAP, TOKENS, make_frame


@pytest.mark.parametrize("small", [False, True])
def test_stored_tensors_are_alive(small: bool) -> None:
    frame = make_frame(1, small=small)
    stored = np.frombuffer(frame.output, np.uint8)[OUTPUT_GAP:]
    normalised, rest = stored[: 3 * 16 * TOKENS].view(np.int8), stored[3 * 16 * TOKENS :]
    codes, rest = rest[: 2 * 16 * TOKENS], rest[(2 * TOKENS + 24) * 16 :]
    assert frame.config.softmax_fractional == small
    if small:
        shifted, rest = rest[: 16 * TOKENS].view(np.int8), rest[16 * TOKENS :]
        assert shifted.std() > 10
        assert np.mean(np.abs(shifted.astype(int)) == 127) < 0.1
    head = rest[: 6 * 16 * TOKENS].view("<i2")
    assert normalised.std() > 20
    assert np.mean(np.abs(normalised.astype(int)) >= 127) < 0.1
    assert len(np.unique(codes)) > 10
    assert head.std() > 100
    assert np.mean(np.abs(head.astype(int)) == 32767) < 0.1


def test_image_depends_on_ports_only_in_tiles() -> None:
    one, two = make_frame(1), make_frame(2)
    assert one.output == two.output
    assert one.input_bytes == two.input_bytes
    assert one.instructions == two.instructions
