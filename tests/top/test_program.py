# SPDX-License-Identifier: Apache-2.0
"""The bench's frame is alive: dead or saturated tensors would hide faults."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sim.cocotb_bench.program import OUTPUT_GAP, TOKENS, make_frame


@pytest.mark.parametrize("ports", [1, 2])
def test_stored_tensors_are_alive(ports: int) -> None:
    frame = make_frame(ports)
    stored = np.frombuffer(frame.output, np.uint8)[OUTPUT_GAP:]
    normalised, rest = stored[: 3 * 16 * TOKENS].view(np.int8), stored[3 * 16 * TOKENS :]
    codes, rest = rest[: 2 * 16 * TOKENS], rest[(2 * TOKENS + 24) * 16 :]
    assert frame.config.softmax_fractional == (ports == 1)
    if frame.config.softmax_fractional:
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
    two, three = make_frame(2), make_frame(3)
    assert two.output == three.output
    assert two.input_bytes == three.input_bytes
    assert two.instructions == three.instructions
