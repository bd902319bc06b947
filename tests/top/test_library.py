# SPDX-License-Identifier: Apache-2.0
"""The complete top between AXI models that somebody else wrote, with pauses on every channel."""

from __future__ import annotations

import pytest

from hwgen.isa.registers import STATUS_DONE, STATUS_ERROR
from hwgen.sim.cocotb_bench.library import run_library
from hwgen.sim.cocotb_bench.program import make_frame

pytestmark = pytest.mark.verilator


@pytest.mark.parametrize("ports", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_frames_between_foreign_models(ports: int) -> None:
    frame = make_frame(ports)
    pauses = [0.0, 0.5, 0.9, 0.0]
    results = run_library(frame, pauses)
    assert len(results) == len(pauses)
    for result in results:
        assert result["status"] & (STATUS_DONE | STATUS_ERROR) == STATUS_DONE
        assert result["cause"] == 0
        assert result["output"] == frame.output
        assert result["others"]
    # The pauses were felt, and the same conditions give the same cycles.
    cycles = [result["cycles"] for result in results]
    assert cycles[0] == cycles[3] < cycles[1] < cycles[2]
