# SPDX-License-Identifier: Apache-2.0
"""The bench's frame is alive: dead or saturated tensors would hide faults."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sim.cocotb_bench.program import OUTPUT_GAP, TOKENS, make_frame


@pytest.mark.parametrize("ports", [1, 2])
def test_stored_tensors_are_alive(ports: int) -> None:
    frame = make_frame(ports)
    stored = np.frombuffer(frame.output, np.uint8)[OUTPUT_GAP:].view("<i2")
    sizes = [5 * TOKENS, 3 * TOKENS, 24, 2 * TOKENS, 2 * TOKENS, 6 * TOKENS]
    assert frame.config.softmax_fractional == (ports == 1)
    if ports > 1:
        del sizes[4]
    ends = np.cumsum(sizes) * 8
    normalised, codes, _, query, *shifted, head, _ = np.split(stored, ends)
    for codes_of in (normalised, query, *shifted):
        assert codes_of.std() > 10
        assert np.mean(np.abs(codes_of) >= 127) < 0.1
    assert len(np.unique(codes)) > 10
    assert head.std() > 100
    assert np.mean(np.abs(head.astype(int)) == 32767) < 0.1


def test_image_depends_on_ports_only_in_tiles() -> None:
    two, three = make_frame(2), make_frame(3)
    assert two.output == three.output
    assert two.input_bytes == three.input_bytes
    assert two.instructions == three.instructions
