# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.columns import dense
from hwgen.config import AcceleratorConfig, softmax_fields
from hwgen.isa.instructions import OFFSET_BITS, ROW_SHIFT_BANK
from hwgen.numerics.softmax import SoftmaxFunction, SoftmaxMode
from hwgen.program.machine.softmax import softmax_cycles
from hwgen.rtl.softmax_engine import SoftmaxEngine
from hwgen.sim.engine_bench import EngineScript, Grant, emit_bench, run_script, waited_cycles

pytestmark = pytest.mark.verilator

BANK_WORDS = 1024
MAX_LENGTH = 1024
TILE_ROWS = 1000


#: By rows and lanes.
FORMS = {8: (0, 5), 16: (3, 1), 32: (2, 4), 64: (1, 3)}


def config(rows: int, vec: int, mode: SoftmaxMode) -> AcceleratorConfig:
    function = SoftmaxFunction.fractional(*FORMS[vec])
    if mode == "sole":
        function = SoftmaxFunction.sole(vec)
    return AcceleratorConfig(
        rows=rows,
        groups=dense(rows),
        softmax_vec=vec,
        max_row_length=MAX_LENGTH,
        tile_rows=TILE_ROWS,
        constant_fifo_beats=1024,
    ).replace(**softmax_fields(function))


@cache
def _verilog(rows: int, vec: int, mode: SoftmaxMode) -> str:
    return emit_bench(SoftmaxEngine(config(rows, vec, mode)), "SOFTMAX", BANK_WORDS)


@dataclass(frozen=True)
class Job:
    """One SOFTMAX command; addresses are word addresses of two banks of 1024 words."""

    rows: int
    length: int
    fraction_bits: int
    source: int = 0
    destination: int = 0
    source_spare: int = 0  #: words between slices beyond the rows
    destination_spare: int = 0
    slot: int = 0
    spare_bytes: int = 0  #: of every word: bytes that are no logits

    def held(self, word_bytes: int) -> npt.NDArray[np.int64]:
        """Bytes of a row that are logits."""
        full = word_bytes - self.spare_bytes
        logit = np.arange(self.length)
        return logit // full * word_bytes + logit % full


OTHER_BANK = 1 << OFFSET_BITS


def _index(address: int) -> int:
    return (address >> OFFSET_BITS) * BANK_WORDS + address % BANK_WORDS


class Memory:
    """Expected contents of both banks."""

    def __init__(self, seed: int, word_bytes: int) -> None:
        rng = np.random.default_rng(seed)
        # Small logits: at three fraction bits most codes are neither 0 nor the largest.
        noise = rng.normal(0, 12, (2 * BANK_WORDS, word_bytes))
        self.words = np.clip(noise, -128, 127).astype(np.int8).view(np.uint8)
        self.word_bytes = word_bytes
        self.shifts: dict[int, int] = {}  # by word address

    def addresses(self, base: int, stride: int, job: Job) -> npt.NDArray[np.int64]:
        """[rows, words]"""
        count = -(-job.length // (self.word_bytes - job.spare_bytes))
        return _index(base) + np.arange(job.rows)[:, None] + stride * np.arange(count)

    def execute(self, job: Job, design: AcceleratorConfig) -> None:
        source = self.addresses(job.source, job.rows + job.source_spare, job)
        target = self.addresses(job.destination, job.rows + job.destination_spare, job)
        held = job.held(self.word_bytes)
        rows = self.words[source].reshape(job.rows, -1)[:, held].view(np.int8)
        codes, shifts = design.softmax(rows, fraction_bits=job.fraction_bits, max_length=MAX_LENGTH)
        if shifts is not None:
            first = (ROW_SHIFT_BANK << OFFSET_BITS) + job.slot * design.shift_words
            self.shifts |= {first + row: int(shift) for row, shift in enumerate(shifts)}
        padded = np.zeros((job.rows, target.shape[1] * self.word_bytes), np.uint8)
        padded[:, held] = codes
        self.words[target] = padded.reshape(*target.shape, self.word_bytes)


def fields(job: Job, word_bytes: int) -> dict[str, int]:
    """How a row lies in words."""
    full = word_bytes - job.spare_bytes
    words = -(-job.length // full)
    last = job.length - (words - 1) * full
    return {"words": words, "word_length": full, "last_length": last}


def slices(job: Job, word_bytes: int, vec: int) -> int:
    """Slices of a row that hold logits."""
    return len(np.unique(job.held(word_bytes) // vec))


def check(
    jobs: list[Job], *, rows: int, vec: int, mode: SoftmaxMode, grant: Grant, seed: int = 0
) -> list[int]:
    """Run the jobs one after another and compare the whole memory; cycles of each job."""
    design = config(rows, vec, mode)
    memory = Memory(seed, rows)
    script = EngineScript("SOFTMAX", rows)
    _fill(script, memory)
    script.grant(grant)
    for job in jobs:
        script.command(command_of(job, rows))
        if grant == Grant.ALWAYS:
            script.wait()
        memory.execute(job, design)
    script.wait()
    return _compare(_verilog(rows, vec, mode), script, memory)


def command_of(job: Job, word_bytes: int) -> dict[str, int]:
    """Fields of the job's instruction."""
    return {
        "source": job.source,
        "source_stride": job.rows + job.source_spare,
        "destination": job.destination,
        "destination_stride": job.rows + job.destination_spare,
        "rows": job.rows,
        **fields(job, word_bytes),
        "fraction_bits": job.fraction_bits,
        "slot": job.slot,
    }


def _fill(script: EngineScript, memory: Memory) -> None:
    for bank in range(2):
        script.write(bank << OFFSET_BITS, memory.words[bank * BANK_WORDS :][:BANK_WORDS])


def _compare(verilog: str, script: EngineScript, memory: Memory) -> list[int]:
    """Run the script, compare the whole memory and the shifts; what its waits returned."""
    for bank in range(2):
        script.read(bank << OFFSET_BITS, BANK_WORDS)
    for address in memory.shifts:
        script.read(address, 1)
    out = run_script(verilog, script)
    out, shifts = np.split(out, [len(out) - len(memory.shifts)])
    assert shifts[:, 0].tolist() == list(memory.shifts.values())
    waits = len(out) - 2 * BANK_WORDS
    wrong = np.argwhere(out[waits:, : memory.word_bytes] != memory.words)
    assert not len(wrong), wrong[:5].tolist()
    return [waited_cycles(word) for word in out[:waits]]


#: Rows and lanes: slices of half a word, of a word, of two and four words, of a quarter of one.
SHAPES = ((16, 8), (16, 16), (16, 32), (16, 64), (32, 8), (64, 16))
JOBS = [
    Job(3, 1, 3, source=5, destination=OTHER_BANK + 9),
    Job(4, 49, 3, source=40, destination=40),
    Job(5, 197, 4, source=OTHER_BANK + 100, destination=OTHER_BANK + 100, slot=1),
    Job(2, 785, 3, source=300, destination=OTHER_BANK + 400, source_spare=3, destination_spare=1),
    Job(9, 64, 0, source=500, destination=500, source_spare=2, destination_spare=2),
    Job(7, 16, 5, source=600, destination=OTHER_BANK + 900),
    Job(6, 17, 15, source=640, destination=660, source_spare=1),
    Job(1, 1024, 4, source=700, destination=700, slot=1),
    Job(20, 40, 3, source=OTHER_BANK + 800, destination=800, destination_spare=4),
]
#: Words that are not full: slices within a word, mode fractional. By spare bytes.
SPARE_JOBS = [
    Job(4, 5, 3, source=5, destination=OTHER_BANK + 9, spare_bytes=3),
    Job(5, 197, 4, source=OTHER_BANK + 100, destination=OTHER_BANK + 100, slot=1, spare_bytes=2),
    Job(3, 58, 3, source=300, destination=400, source_spare=2, spare_bytes=6),
    Job(9, 40, 0, source=500, destination=500, spare_bytes=1),
    Job(6, 33, 5, source=600, destination=OTHER_BANK + 900, spare_bytes=5, slot=1),
    Job(20, 40, 3, source=OTHER_BANK + 800, destination=800),
]


def jobs_of(rows: int, vec: int, mode: SoftmaxMode) -> list[Job]:
    """Those that the design can do."""
    return [*JOBS, *SPARE_JOBS] if vec <= rows and mode == "fractional" else JOBS


#: Gearboxes are the same in both modes, so that neither needs all of them; the matrix is slow.
QUICK = {"sole": ((16, 8),), "fractional": ((16, 16), (16, 32), (32, 8))}
CASES = [
    pytest.param(*shape, mode, marks=() if shape in shapes else pytest.mark.slow)
    for mode, shapes in QUICK.items()
    for shape in SHAPES
]


@pytest.mark.parametrize("grant", (Grant.ALWAYS, Grant.RANDOM, Grant.AFTER_VALID))
@pytest.mark.parametrize(("rows", "vec", "mode"), CASES)
def test_memory_after_commands(rows: int, vec: int, mode: SoftmaxMode, grant: Grant) -> None:
    jobs = jobs_of(rows, vec, mode)
    check(jobs, rows=rows, vec=vec, mode=mode, grant=grant, seed=rows + vec)


@pytest.mark.parametrize(("rows", "vec", "mode"), CASES)
def test_cycles(rows: int, vec: int, mode: SoftmaxMode) -> None:
    jobs = jobs_of(rows, vec, mode)
    cycles = check(jobs, rows=rows, vec=vec, mode=mode, grant=Grant.ALWAYS)
    design = config(rows, vec, mode)
    expected = [
        softmax_cycles(
            design,
            rows=job.rows,
            words=fields(job, rows)["words"],
            slices=slices(job, rows, vec),
        )
        for job in jobs
    ]
    assert cycles[:-1] == expected


@pytest.mark.parametrize(("rows", "vec", "mode"), CASES)
def test_slow_writes_fill_the_engine(rows: int, vec: int, mode: SoftmaxMode) -> None:
    jobs = [Job(15, 785, 3, destination=OTHER_BANK), Job(1000, 8, 4, slot=1)]
    check(jobs, rows=rows, vec=vec, mode=mode, grant=Grant.SLOW_WRITE)


@pytest.mark.parametrize(("rows", "vec", "mode"), CASES)
def test_nothing_is_left_after_a_reset(rows: int, vec: int, mode: SoftmaxMode) -> None:
    times = 40
    memory, script = Memory(vec, rows), EngineScript("SOFTMAX", rows)
    _fill(script, memory)
    script.grant(Grant.RANDOM)
    ended = Job(5, 197, 4, destination=OTHER_BANK, slot=1)
    whole = Job(4, 49, 3, source=500, destination=OTHER_BANK + 500)
    count = whole.rows * fields(whole, rows)["words"]
    for cycles in np.random.default_rng(vec).integers(1, 200, times):
        script.command(command_of(ended, rows))
        script.reset(int(cycles))
        # Other words than the results: those of the time before do not count.
        script.write(whole.destination, memory.words[:count])
        script.command(command_of(whole, rows))
        script.wait()
        script.read(whole.destination, count)
    memory.execute(whole, config(rows, vec, mode))
    first = _index(whole.destination)
    results = run_script(_verilog(rows, vec, mode), script).reshape(times, 1 + count, -1)
    for waited, *words in results:
        waited_cycles(waited)
        assert np.array_equal(np.stack(words)[:, :rows], memory.words[first:][:count])
