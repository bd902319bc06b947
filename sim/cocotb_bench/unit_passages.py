# SPDX-License-Identifier: Apache-2.0
"""The cocotb test of one stream unit: all scenarios of a job in one simulation."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from hwgen.sim.cocotb_bench.runner import read_job, write_report
from hwgen.sim.cocotb_bench.unit import (
    BROKEN,
    I_TAKEN,
    I_VALID,
    O_READY,
    O_TAKEN,
    READY_AFTER_VALID,
    RST,
    UnitJob,
    UnitScenario,
)

#: Cycles without a transfer after which a unit hangs, where the chances are 1.
HANG = 5_000
#: Cycles after the last output in which no further one may come.
SURPLUS = 64
#: Longest time with the same chances, cycles.
PHASE = 60


class _BrokenError(Exception):
    """The unit broke a rule of its streams."""


class _Bench:
    """The wrapped unit, advanced cycle by cycle."""

    def __init__(self, dut: Any, job: UnitJob) -> None:
        self.dut = dut
        self.job = job
        self.edge = FallingEdge(dut.clk)
        self.cycle = 0
        self.bytes_each = (len(dut.word) + 7) // 8

    async def step(self, control: int) -> int:
        """Drive the control vector over one rising edge; what happened at it."""
        self.dut.control.value = control
        await self.edge
        self.cycle += 1
        return int(self.dut.seen.value)

    async def reset(self, rng: random.Random) -> None:
        """Hold the reset for some cycles, whatever is offered meanwhile."""
        for _ in range(rng.randint(1, 4)):
            await self.step(RST | rng.choice((0, I_VALID)) | rng.choice((0, O_READY)))

    async def passage(
        self, scenario: UnitScenario, rng: random.Random, until: int | None
    ) -> tuple[int, bytes]:
        """Offer all words and take what comes; ``until``: transfers after which to stop.

        Returns words taken by the unit, and its outputs.
        """
        job = self.job
        taken, returned = 0, bytearray()
        returned_words = quiet = surplus = left = 0  # surplus: cycles after the last output
        offering = False
        # A phase of the least chances may come several times in a row, not for ever.
        patience = HANG / (max(scenario.valid) * max(scenario.ready)) + 40 * PHASE
        while True:
            if until is not None and taken + returned_words >= until:
                return taken, bytes(returned)
            if left == 0:
                left = rng.randint(1, PHASE)
                valid, ready = rng.choice(scenario.valid), rng.choice(scenario.ready)
            left -= 1
            if not offering and taken < len(job.inputs) and rng.random() < valid:
                self.dut.i_stream__payload.value = job.inputs[taken]
                offering = True
            control = I_VALID if offering else 0
            control |= O_READY if surplus or rng.random() < ready else 0
            control |= READY_AFTER_VALID if scenario.ready_after_valid else 0
            seen = await self.step(control)
            if seen & BROKEN:
                raise _BrokenError(
                    f"output {returned_words} was withdrawn or changed before its time"
                )
            if seen & I_TAKEN:
                taken += 1
                offering = False
            if seen & O_TAKEN:
                if returned_words == job.outputs:
                    raise _BrokenError(f"more than {job.outputs} outputs")
                returned += int(self.dut.word.value).to_bytes(self.bytes_each, "little")
                returned_words += 1
            quiet = 0 if seen & (I_TAKEN | O_TAKEN) else quiet + 1
            if taken == len(job.inputs) and returned_words == job.outputs:
                surplus += 1
                if surplus > SURPLUS:
                    return taken, bytes(returned)
            elif quiet > patience:
                raise _BrokenError(
                    f"took {taken} of {len(job.inputs)} words, returned {returned_words} of"
                    f" {job.outputs}, then nothing more"
                )


@cocotb.test()
async def run_passages(dut: Any) -> None:
    """Run the scenarios of the job."""
    job: UnitJob = read_job()
    bench = _Bench(dut, job)
    dut.control.value = RST
    for name, value in job.configuration.items():
        getattr(dut, name).value = value
    dut.i_stream__payload.value = 0
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(4):
        await bench.edge
    results = []
    for scenario in job.scenarios:
        rng = random.Random(scenario.seed)
        start, error, outputs = bench.cycle, None, b""
        cut = []
        try:
            for _ in range(scenario.resets):
                until = rng.randint(0, len(job.inputs) + job.outputs - 1)
                taken, before = await bench.passage(scenario, rng, until)
                cut.append([taken, len(before) // bench.bytes_each])
                await bench.reset(rng)
            _, outputs = await bench.passage(scenario, rng, None)
        except _BrokenError as problem:
            error = f"{problem} (cycle {bench.cycle - start})"
            await bench.reset(rng)
        results.append(
            {
                "seed": scenario.seed,
                "cycles": bench.cycle - start,
                "cut": cut,
                "outputs": outputs.hex(),
                "error": error,
            }
        )
    write_report({"results": results})
