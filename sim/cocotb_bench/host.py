# SPDX-License-Identifier: Apache-2.0
"""What a host does with the design: registers, frames, resets; what it expects of an error."""

from __future__ import annotations

from hwgen.isa.build import build_identity
from hwgen.isa.registers import (
    CONTROL_SOFT_RESET,
    CONTROL_START,
    IDENTITY,
    STATUS_BUSY,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_RESETTING,
    WATCHDOG_RESET,
    Cause,
)
from hwgen.sim.cocotb_bench.axi import Chances
from hwgen.sim.cocotb_bench.bench import IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, Bench, Cycles

BASES = {"IMAGE": IMAGE_BASE, "INPUT": INPUT_BASE, "OUTPUT": OUTPUT_BASE}
FILLER = 0xA5
#: A burst of the instruction fetch.
FETCH_BYTES = 256


class ScenarioError(Exception):
    """The design did something else than the scenario expects."""


def expect(condition: bool, message: str) -> None:
    """Fail the scenario unless it holds."""
    if not condition:
        raise ScenarioError(message)


def configure(bench: Bench) -> Cycles:
    """Registers after a hard reset: all at their initial values, then set."""
    build = build_identity(bench.frame.config)
    initial = {"IDENTITY": IDENTITY, "WATCHDOG": WATCHDOG_RESET}
    initial |= {"BUILD_LOW": build & 0xFFFF_FFFF, "BUILD_HIGH": build >> 32}
    zero = ("STATUS", "CAUSE", "INTERRUPT", "IMAGE_LOW", "OUTPUT_HIGH", "INPUT_SIZE")
    for name, value in (initial | dict.fromkeys(zero, 0)).items():
        found = yield from bench.read(name)
        expect(found == value, f"{name} is {found:#x}, not {value:#x} after a hard reset")
    for name, base in BASES.items():
        yield from write_base(bench, name, base)
        yield from bench.write(f"{name}_SIZE", sizes(bench)[name])
    yield from bench.write("INTERRUPT_ENABLE", 1)


def sizes(bench: Bench) -> dict[str, int]:
    """Bytes of each window: exactly what the frame has."""
    frame = bench.frame
    data = {"IMAGE": frame.image, "INPUT": frame.input_bytes, "OUTPUT": frame.output}
    return {name: len(content) for name, content in data.items()}


def set_window(bench: Bench, name: str, size: int | None = None) -> Cycles:
    """Declare a window, and hold the design to it; None: what the frame has."""
    region = {"IMAGE": bench.image, "INPUT": bench.input, "OUTPUT": bench.output}[name]
    region.window = size
    yield from bench.write(f"{name}_SIZE", sizes(bench)[name] if size is None else size)


def write_base(bench: Bench, name: str, base: int) -> Cycles:
    """Both halves of a base register."""
    yield from bench.write(f"{name}_LOW", base & 0xFFFF_FFFF)
    yield from bench.write(f"{name}_HIGH", base >> 32)


def ready(bench: Bench) -> Cycles:
    """Bring the design to idle if it was never reset."""
    if bench.cycle < 8:
        yield from bench.hard_reset()
        yield from configure(bench)


def recover(bench: Bench) -> Cycles:
    """After a failed scenario: start again from a hard reset."""
    yield from bench.hard_reset()
    yield from configure(bench)


def start(bench: Bench) -> Cycles:
    """Clear the output and start a frame."""
    bench.output.data[:] = bytes([FILLER]) * len(bench.output.data)
    bench.done_before = False
    bench.banks_before = bench.bank_digests()
    yield from bench.write("CONTROL", CONTROL_START)


def wait_interrupt(bench: Bench, ceiling: int = 300_000) -> Cycles:
    """Wait for the pin."""
    for _ in range(ceiling):
        if bench.seen["interrupt"]:
            return
        yield
    raise ScenarioError("no interrupt")


def finish(bench: Bench) -> Cycles:
    """Wait for the end of a frame and compare its output."""
    yield from wait_interrupt(bench)
    bench.check_quiet("The frame")
    bench.done_before = True
    status = yield from bench.read("STATUS")
    cause = yield from bench.read("CAUSE")
    expect(
        status & (STATUS_DONE | STATUS_ERROR) == STATUS_DONE and cause == 0,
        f"STATUS {status:#x}, CAUSE {cause} after the interrupt",
    )
    expect(not status & STATUS_BUSY, "busy after the interrupt: a START now would be lost")
    yield from bench.write("INTERRUPT", 1)
    expect(not bench.seen["interrupt"], "interrupt stays after it was cleared")
    expected, got = bench.frame.output, bytes(bench.output.data)
    if got != expected:
        wrong = [i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b]
        raise ScenarioError(
            f"{len(wrong)} output bytes differ, first {wrong[0]}: {got[wrong[0]]} instead of "
            f"{expected[wrong[0]]}"
        )
    # What was written into the banks, that is every layer boundary: as in the first frame.
    now = zip(bench.bank_digests(), bench.banks_before, strict=True)
    written = [(after - before) % (1 << 64) for after, before in now]
    if bench.bank_writes is None:
        bench.bank_writes = written
    other = [b for b, (a, c) in enumerate(zip(written, bench.bank_writes, strict=True)) if a != c]
    expect(not other, f"banks {other} were written otherwise than in the first frame")


def frame(bench: Bench, frames: int = 1) -> Cycles:
    """Frames under back-pressure."""
    yield from ready(bench)
    for _ in range(frames):
        yield from start(bench)
        yield from finish(bench)


def soft_reset(bench: Bench) -> Cycles:
    """Write SOFT_RESET and wait for its end; the buses must be quiet then."""
    yield from bench.write("CONTROL", CONTROL_SOFT_RESET)
    yield from wait_reset_end(bench)
    bench.done_before = False
    for _ in range(1000):
        if not (yield from bench.read("STATUS")) & STATUS_RESETTING:
            break
    else:
        raise ScenarioError("STATUS says resetting for ever")
    for name in ("STATUS", "CAUSE", "CAUSE_ADDRESS", "CAUSE_ADDRESS_HIGH", "INTERRUPT"):
        expect((yield from bench.read(name)) == 0, f"{name} is not 0 after a soft reset")
    expect(not bench.seen["interrupt"], "interrupt after a soft reset")
    for name, base in BASES.items():
        low = yield from bench.read(f"{name}_LOW")
        expect(low == base & 0xFFFF_FFFF, f"{name}_LOW does not survive a soft reset")


def wait_reset_end(bench: Bench, ceiling: int = 100_000) -> Cycles:
    """Until the core leaves its reset; checks the buses in that very cycle."""
    for _ in range(ceiling):
        if not bench.seen["resetting"]:
            bench.check_quiet()
            return
        yield
    raise ScenarioError("the soft reset does not end")


def tame(bench: Bench) -> None:
    """Quick channels for the frame that shows that all is well again."""
    bench.memory.chances = Chances(ar=0.9, r=0.9, aw=0.9, w=0.9, b=0.9)


def cause_address(bench: Bench) -> Cycles:
    """CAUSE_ADDRESS, both halves."""
    low = yield from bench.read("CAUSE_ADDRESS")
    high = yield from bench.read("CAUSE_ADDRESS_HIGH")
    return low | high << 32


def failed(bench: Bench, cause: Cause, address: int | None) -> Cycles:
    """The error state, that START is ignored in it, and the way out."""
    yield from wait_interrupt(bench)
    status = yield from bench.read("STATUS")
    expect(bool(status & STATUS_ERROR), f"STATUS {status:#x}: no error")
    found = yield from bench.read("CAUSE")
    expect(found == cause, f"CAUSE {found}, not {cause.value} ({cause.name})")
    where = yield from cause_address(bench)
    if address is not None:
        expect(where == address, f"CAUSE_ADDRESS {where:#x}, not {address:#x}")
    # Sticky: neither clearing the interrupt nor START changes it.
    yield from bench.write("INTERRUPT", 1)
    expect(not bench.seen["interrupt"], "interrupt stays after it was cleared")
    yield from bench.write("CONTROL", CONTROL_START)
    yield from bench.wait(bench.rng.randrange(200))
    expect((yield from bench.read("CAUSE")) == cause, "the cause is not sticky")
    expect((yield from cause_address(bench)) == where, "the address is not sticky")
    bench.memory.dead = False
    bench.memory.target = None
    yield from soft_reset(bench)
    tame(bench)
    yield from frame(bench)
