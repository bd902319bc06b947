# SPDX-License-Identifier: Apache-2.0
"""What the bench does with the design: frames, errors, resets. Each ends with an exact frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hwgen.isa.build import build_identity
from hwgen.isa.instructions import (
    BEAT_BYTES,
    CHECKED_BITS,
    INSTRUCTION_BYTES,
    OPCODE_BITS,
    WAIT_BITS,
    Engine,
    Instruction,
    decode,
    encode,
    with_check,
)
from hwgen.isa.instructions import BY_NAME as OPCODES
from hwgen.isa.registers import (
    BASE_ALIGNMENT,
    BY_NAME,
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
from hwgen.sim.cocotb_bench import bins
from hwgen.sim.cocotb_bench.axi import Chances, Region, Target
from hwgen.sim.cocotb_bench.bench import IMAGE_BASE, INPUT_BASE, OUTPUT_BASE, Bench, Cycles

_BASES = {"IMAGE": IMAGE_BASE, "INPUT": INPUT_BASE, "OUTPUT": OUTPUT_BASE}
_FILLER = 0xA5
#: A burst of the instruction fetch.
FETCH_BYTES = 256


class ScenarioError(Exception):
    """The design did something else than the scenario expects."""


def _expect(condition: bool, message: str) -> None:
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
        _expect(found == value, f"{name} is {found:#x}, not {value:#x} after a hard reset")
    for name, base in _BASES.items():
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
    bench.output.data[:] = bytes([_FILLER]) * len(bench.output.data)
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
    _expect(
        status & (STATUS_DONE | STATUS_ERROR) == STATUS_DONE and cause == 0,
        f"STATUS {status:#x}, CAUSE {cause} after the interrupt",
    )
    _expect(not status & STATUS_BUSY, "busy after the interrupt: a START now would be lost")
    yield from bench.write("INTERRUPT", 1)
    _expect(not bench.seen["interrupt"], "interrupt stays after it was cleared")
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
    _expect(not other, f"banks {other} were written otherwise than in the first frame")


def frame(bench: Bench, frames: int = 1) -> Cycles:
    """Frames under back-pressure."""
    yield from ready(bench)
    for _ in range(frames):
        yield from start(bench)
        yield from finish(bench)


def soft_reset(bench: Bench) -> Cycles:
    """Write SOFT_RESET and wait for its end; the buses must be quiet then."""
    yield from bench.write("CONTROL", CONTROL_SOFT_RESET)
    yield from _wait_reset_end(bench)
    bench.done_before = False
    for _ in range(1000):
        if not (yield from bench.read("STATUS")) & STATUS_RESETTING:
            break
    else:
        raise ScenarioError("STATUS says resetting for ever")
    for name in ("STATUS", "CAUSE", "CAUSE_ADDRESS", "CAUSE_ADDRESS_HIGH", "INTERRUPT"):
        _expect((yield from bench.read(name)) == 0, f"{name} is not 0 after a soft reset")
    _expect(not bench.seen["interrupt"], "interrupt after a soft reset")
    for name, base in _BASES.items():
        low = yield from bench.read(f"{name}_LOW")
        _expect(low == base & 0xFFFF_FFFF, f"{name}_LOW does not survive a soft reset")


def _wait_reset_end(bench: Bench, ceiling: int = 100_000) -> Cycles:
    """Until the core leaves its reset; checks the buses in that very cycle."""
    for _ in range(ceiling):
        if not bench.seen["resetting"]:
            bench.check_quiet()
            return
        yield
    raise ScenarioError("the soft reset does not end")


def _tame(bench: Bench) -> None:
    """Quick channels for the frame that shows that all is well again."""
    bench.memory.chances = Chances(ar=0.9, r=0.9, aw=0.9, w=0.9, b=0.9)


def reset(bench: Bench, *, how: str, phase: str, within: int = 0) -> Cycles:
    """A reset in a phase of a frame, as often as it takes to meet it; then an exact frame.

    ``within``: cycles of the phase among which the reset is drawn; otherwise soon after its start.
    """
    yield from ready(bench)
    name = bins.reset(how, phase)
    for _ in range(20):
        before = bench.hits[name]
        if phase == "before start":
            yield from bench.hard_reset()
            yield from configure(bench)
        elif phase == "idle after":
            yield from frame(bench)
        else:
            yield from start(bench)
            for _ in range(200_000):
                if phase in bench.phases():
                    break
                yield
            else:
                raise ScenarioError(f"phase {phase} did not come")
            soon = bench.rng.randrange(1, 12) * bench.rng.randrange(0, 3)
            yield from bench.wait(bench.rng.randrange(within) if within else soon)
        if how == "hard":
            yield from bench.hard_reset()
            yield from configure(bench)
        else:
            yield from soft_reset(bench)
        if bench.hits[name] > before:
            break
    else:
        raise ScenarioError(f"{name} was not met")
    chances = bench.memory.chances
    _tame(bench)
    yield from frame(bench)
    bench.memory.chances = chances


def random_reset(bench: Bench, *, how: str, within: int) -> Cycles:
    """A reset after a random number of cycles; then an exact frame."""
    yield from ready(bench)
    yield from start(bench)
    for _ in range(bench.rng.randrange(within)):
        if bench.seen["interrupt"]:
            break
        yield
    if how == "hard":
        yield from bench.hard_reset()
        yield from configure(bench)
    else:
        yield from soft_reset(bench)
    _tame(bench)
    yield from frame(bench)


def _cause_address(bench: Bench) -> Cycles:
    low = yield from bench.read("CAUSE_ADDRESS")
    high = yield from bench.read("CAUSE_ADDRESS_HIGH")
    return low | high << 32


def _failed(bench: Bench, cause: Cause, address: int | None) -> Cycles:
    """The error state, that START is ignored in it, and the way out."""
    yield from wait_interrupt(bench)
    status = yield from bench.read("STATUS")
    _expect(bool(status & STATUS_ERROR), f"STATUS {status:#x}: no error")
    found = yield from bench.read("CAUSE")
    _expect(found == cause, f"CAUSE {found}, not {cause.value} ({cause.name})")
    where = yield from _cause_address(bench)
    if address is not None:
        _expect(where == address, f"CAUSE_ADDRESS {where:#x}, not {address:#x}")
    # Sticky: neither clearing the interrupt nor START changes it.
    yield from bench.write("INTERRUPT", 1)
    _expect(not bench.seen["interrupt"], "interrupt stays after it was cleared")
    yield from bench.write("CONTROL", CONTROL_START)
    yield from bench.wait(bench.rng.randrange(200))
    _expect((yield from bench.read("CAUSE")) == cause, "the cause is not sticky")
    _expect((yield from _cause_address(bench)) == where, "the address is not sticky")
    bench.memory.dead = False
    bench.memory.target = None
    yield from soft_reset(bench)
    _tame(bench)
    yield from frame(bench)


def bus_error(
    bench: Bench,
    *,
    channel: str,
    what: str = "",
    response: str,
    position: str = "",
    skips: int | None = None,
    **where: Any,
) -> Cycles:
    """One error response, on one of the first ``skips`` beats that match.

    By default among many outstanding bursts; ``where``: further fields of :class:`Target`.
    """
    yield from ready(bench)
    # A stray load, where one is dispatched, must reach the bus to be seen.
    yield from bench.write("IMAGE_SIZE", 0)
    most = skips or (4 if position else 2)
    for skip in (bench.rng.randrange(most), bench.rng.randrange(1 + most // 4), 0):
        target = Target(channel, what, response, position, skip=skip, **where)
        bench.memory.target = target
        yield from start(bench)
        for _ in range(300_000):
            if target.address is not None or bench.seen["interrupt"]:
                break
            yield
        if target.address is not None:
            break
        yield from finish(bench)  # not so many matching beats in this frame
    else:
        raise ScenarioError("no such beat in the frame")
    cause = Cause.READ_ERROR if channel == "R" else Cause.WRITE_ERROR
    yield from bench.write("IMAGE_SIZE", sizes(bench)["IMAGE"])
    yield from _failed(bench, cause, target.address)


def watchdog(bench: Bench, *, after: int, limit: int = 700) -> Cycles:
    """The memory dies after some cycles; it lives again before the soft reset."""
    yield from ready(bench)
    yield from bench.write("WATCHDOG", limit)
    yield from start(bench)
    yield from bench.wait(after)
    bench.memory.dead = True
    _expect(not bench.seen["interrupt"], "the frame was over before the memory died")
    died = bench.cycle
    yield from wait_interrupt(bench, 10 * limit)
    # Beats already received may still complete instructions for a while.
    _expect(bench.cycle - died <= 6 * limit, "the watchdog came too late")
    yield from bench.write("WATCHDOG", WATCHDOG_RESET)
    yield from _failed(bench, Cause.WATCHDOG, None)


def _patched(bench: Bench, index: int, data: bytes, body: Callable[[], Cycles]) -> Cycles:
    position = index * INSTRUCTION_BYTES
    place = slice(position, position + INSTRUCTION_BYTES)
    saved = bytes(bench.image.data[place])
    bench.image.data[place] = data
    try:
        yield from start(bench)
        yield from wait_interrupt(bench)
    finally:
        bench.image.data[place] = saved
    yield from body()


def _bytes_at(bench: Bench, index: int) -> bytes:
    position = index * INSTRUCTION_BYTES
    return bytes(bench.image.data[position : position + INSTRUCTION_BYTES])


def _with_code(bench: Bench, index: int, code: int) -> bytes:
    """An instruction with another opcode, and the check that belongs to it."""
    word = int.from_bytes(_bytes_at(bench, index), "little") & ((1 << CHECKED_BITS) - 1)
    changed = word >> OPCODE_BITS << OPCODE_BITS | code
    return with_check(changed.to_bytes(CHECKED_BITS // 8, "little"), index)


def illegal_instruction(bench: Bench, *, index: int, code: int) -> Cycles:
    """An unknown opcode among the instructions, or BEGIN; the check is right."""
    yield from ready(bench)
    data = _with_code(bench, index, code)
    yield from _patched(
        bench, index, data, lambda: _failed(bench, Cause.ILLEGAL_INSTRUCTION, index)
    )


def integrity(bench: Bench, *, index: int, bit: int | None = None) -> Cycles:
    """One wrong bit, or (without ``bit``) the next instruction in the place of this one."""
    yield from ready(bench)
    if bit is None:
        data = _bytes_at(bench, index + 1)
    else:
        word = int.from_bytes(_bytes_at(bench, index), "little") ^ 1 << bit
        data = word.to_bytes(INSTRUCTION_BYTES, "little")
    yield from _patched(bench, index, data, lambda: _failed(bench, Cause.INTEGRITY, index))


def wrong_image(bench: Bench, *, how: str) -> Cycles:
    """IMAGE points to memory that holds no image, or one for other hardware."""
    yield from ready(bench)
    first = decode(_bytes_at(bench, 0), 0)
    if how == "zeros":
        data = bytes(INSTRUCTION_BYTES)
    elif how == "no begin":
        data = _with_code(bench, 0, OPCODES["LOAD_TABLE"].code)
    else:  # a field of BEGIN
        data = encode(replace(first, fields={**first.fields, how: first[how] ^ 1}), 0)
    before = _issued(bench)

    def judge() -> Cycles:
        _expect(_issued(bench) == before, "something of a wrong image ran")
        yield from _failed(bench, Cause.IMAGE, 0)

    yield from _patched(bench, 0, data, judge)


def _issued(bench: Bench) -> int:
    """Bursts so far, fetches apart."""
    requested = bench.memory.requested
    return requested.total() - requested["fetch"]


def _find(bench: Bench, opcode: str, skip: int = 0) -> tuple[int, Instruction]:
    for index in range(bench.frame.instructions):
        instruction = decode(_bytes_at(bench, index), index)
        if instruction.opcode == opcode:
            if skip == 0:
                return index, instruction
            skip -= 1
    raise ScenarioError(f"no {opcode} in the program")


def address_range(bench: Bench, *, opcode: str, field: str, value: int, where: int) -> Cycles:
    """A word address outside its bank, or in a bank that its engine does not reach."""
    yield from ready(bench)
    index, instruction = _find(bench, opcode)
    changed = replace(instruction, fields={**instruction.fields, field: value})
    yield from _patched(
        bench, index, encode(changed, index), lambda: _failed(bench, Cause.ADDRESS_RANGE, where)
    )


def window(bench: Bench, *, opcode: str, short: int = 0, port: int = 0) -> Cycles:
    """The window ends where the last instruction of an opcode does on a port, ``short`` bytes less.

    The image lies in the order of the loads, so that those before it are inside.
    """
    yield from ready(bench)
    name = {"LOAD_IMAGE": "INPUT", "STORE": "OUTPUT"}.get(opcode, "IMAGE")
    rows = bench.frame.config.rows
    ends = {}
    for index in range(bench.frame.instructions):
        instruction = decode(_bytes_at(bench, index), index)
        if instruction.opcode != opcode:
            continue
        first = instruction["address"] * BEAT_BYTES
        if opcode == "LOAD_TILES":
            first += port * instruction["port_stride"] * BEAT_BYTES
        if "beats" in instruction.fields:
            size = instruction["beats"] * BEAT_BYTES
        elif "words" in instruction.fields:
            size = instruction["words"] * rows
        else:
            size = 256
        ends[first + size] = first
    end = max(ends)
    yield from set_window(bench, name, end - short)
    yield from start(bench)
    yield from wait_interrupt(bench)
    yield from set_window(bench, name)
    if short:
        yield from _failed(bench, Cause.WINDOW, _BASES[name] + ends[end])
    else:
        yield from finish(bench)


def fetch_window(bench: Bench, *, bursts: int) -> Cycles:
    """The image's window ends among the instructions; the loads before do not begin."""
    yield from ready(bench)
    index, instruction = _find(bench, "LOAD_LAYERNORM")
    for_ever = ((1 << WAIT_BITS) - 1,) * len(Engine)
    data = encode(replace(instruction, waits=for_ever), index)
    size = FETCH_BYTES * bursts
    yield from set_window(bench, "IMAGE", size)

    def judge() -> Cycles:
        yield from set_window(bench, "IMAGE")
        yield from _failed(bench, Cause.WINDOW, IMAGE_BASE + size)

    yield from _patched(bench, index, data, judge)


def short_program(bench: Bench) -> Cycles:
    """BEGIN and END alone, in a window of one burst: the fetch beyond END is no error."""
    yield from ready(bench)
    yield from set_window(bench, "IMAGE", FETCH_BYTES)

    def judge() -> Cycles:
        status, cause = (yield from bench.read("STATUS")), (yield from bench.read("CAUSE"))
        _expect(status & STATUS_DONE and not cause, f"STATUS {status:#x}, CAUSE {cause}")
        yield from set_window(bench, "IMAGE")
        yield from bench.write("INTERRUPT", 1)
        yield from frame(bench)

    yield from _patched(bench, 1, encode(Instruction("END", {}), 1), judge)


def top_of_memory(bench: Bench, *, name: str) -> Cycles:
    """A base so high that what lies there would go on at address 0; no size is declared.

    ``name``: IMAGE (its loads), OUTPUT, or FETCH: a page full of loads without END.
    """
    yield from ready(bench)
    top = (1 << 64) - BASE_ALIGNMENT
    register = "IMAGE" if name == "FETCH" else name
    content = bench.output.data if name == "OUTPUT" else bench.image.data
    page = bytes(content[:BASE_ALIGNMENT])
    if name == "FETCH":
        load = Instruction("LOAD_WORDS", {"address": 0, "words": 1, "destination": 0})
        rest = range(1, BASE_ALIGNMENT // INSTRUCTION_BYTES)
        page = page[:INSTRUCTION_BYTES] + b"".join(encode(load, index) for index in rest)
    bench.memory.regions.append(Region("top", top, bytearray(page), name == "OUTPUT"))
    yield from write_base(bench, register, top)
    for other in _BASES:
        yield from bench.write(f"{other}_SIZE", 0)
    yield from start(bench)
    yield from write_base(bench, register, _BASES[register])
    for other, size in sizes(bench).items():
        yield from bench.write(f"{other}_SIZE", size)
    # Of the load with the lowest address, which is the first; of the burst; of the fetch.
    first = _find(bench, "LOAD_LAYERNORM")[1]["address"] * BEAT_BYTES
    where = (top + first) % (1 << 64) if name == "IMAGE" else 0
    yield from _failed(bench, Cause.WINDOW, where)
    bench.memory.regions.pop()


def alignment(bench: Bench, *, name: str, bit: int) -> Cycles:
    """START with a base that is not aligned starts nothing."""
    yield from ready(bench)
    base = _BASES[name] | 1 << bit
    yield from write_base(bench, name, base)
    before = bench.memory.requested.total()
    yield from bench.write("CONTROL", CONTROL_START)
    yield from bench.wait(100)
    _expect(bench.memory.requested.total() == before, "a frame was started")
    _expect(not (yield from bench.read("STATUS")) & STATUS_BUSY, "busy without a frame")
    yield from write_base(bench, name, _BASES[name])
    yield from _failed(bench, Cause.BASE_ALIGNMENT, base)


def next_bases(bench: Bench, *, after: int) -> Cycles:
    """Bases and sizes of the next frame are written while one runs: it keeps its own."""
    yield from ready(bench)
    yield from start(bench)
    yield from bench.wait(after)
    _expect(not bench.seen["interrupt"], "the frame was over before the bases were written")
    for name, base in _BASES.items():
        yield from write_base(bench, name, base + (1 << 40))
        yield from bench.write(f"{name}_SIZE", BASE_ALIGNMENT)
    yield from finish(bench)
    for name, base in _BASES.items():
        yield from write_base(bench, name, base)
        yield from bench.write(f"{name}_SIZE", sizes(bench)[name])
    yield from frame(bench)


def start_while_busy(bench: Bench) -> Cycles:
    """START written again and again while a frame runs changes nothing."""
    yield from ready(bench)
    yield from start(bench)
    for _ in range(6):
        yield from bench.wait(bench.rng.randrange(100))
        if bench.seen["interrupt"]:
            break
        yield from bench.write("CONTROL", CONTROL_START)
    yield from finish(bench)
    _expect(not (yield from bench.read("STATUS")) & STATUS_BUSY, "a second frame was started")


def registers(bench: Bench) -> Cycles:
    """Byte strobes, read-only and unknown registers, INTERRUPT_ENABLE, counters."""
    yield from ready(bench)
    for strobe in (1, 2, 4, 8, 5, 15, 0):
        yield from bench.write("WATCHDOG", 0x1122_3344)
        yield from bench.write("WATCHDOG", 0xAABB_CCDD, strobe)
        mask = sum(0xFF << 8 * k for k in range(4) if strobe >> k & 1)
        got = yield from bench.read("WATCHDOG")
        expected = 0x1122_3344 & ~mask | 0xAABB_CCDD & mask
        _expect(got == expected, f"WATCHDOG {got:#x}, not {expected:#x}, strobe {strobe}")
    for byte in range(4):  # as a processor's byte accesses arrive
        yield from bench.write("WATCHDOG", 0x1122_3344)
        yield from bench.write("WATCHDOG", 0xAABB_CCDD, 1 << byte, byte)
        expected = (0x1122_3344 ^ 0xAABB_CCDD) & 0xFF << 8 * byte ^ 0x1122_3344
        got = yield from bench.read("WATCHDOG", byte)
        _expect(got == expected, f"WATCHDOG {got:#x}, not {expected:#x}, byte {byte}")
    yield from bench.write("WATCHDOG", WATCHDOG_RESET)
    for name in ("IDENTITY", "STATUS", "CAUSE", "BUILD_LOW"):
        before = yield from bench.read(name)
        yield from bench.write(name, 0xFFFF_FFFF)
        _expect((yield from bench.read(name)) == before, f"{name} was written")
    yield from bench.write("INTERRUPT_ENABLE", 0)
    yield from start(bench)
    for _ in range(100_000):
        status = yield from bench.read("STATUS")
        if status & STATUS_DONE:
            break
    else:
        raise ScenarioError("no end of the frame")
    _expect(not bench.seen["interrupt"], "interrupt without INTERRUPT_ENABLE")
    _expect((yield from bench.read("INTERRUPT")) == 1, "INTERRUPT is not pending")
    yield from bench.write("INTERRUPT_ENABLE", 1)
    yield from finish(bench)
    counters = {}
    for name in BY_NAME:
        if name == "CYCLES" or name.startswith(("ARRAY_", "STALL_")):
            counters[name] = yield from bench.read(name)
    cycles = counters.pop("CYCLES")
    _expect(cycles == sum(counters.values()), f"{cycles} cycles, causes {counters}")


def traffic(bench: Bench, *, count: int = 60) -> Cycles:
    """Writes and reads of registers at once: a read sees a write that was not over before it."""
    yield from ready(bench)
    written = [1000 + n for n in range(count)]
    yield from bench.write("WATCHDOG", 999)
    names = [bench.rng.choice(["WATCHDOG", "IDENTITY", "IMAGE_HIGH"]) for _ in range(count)]
    values, spans = yield from bench.pipeline([("WATCHDOG", value) for value in written], names)
    for name, value, (first, last) in zip(names, values, spans, strict=True):
        if name == "WATCHDOG":
            legal = f"{999 + first}..{999 + last}"
            _expect(999 + first <= value <= 999 + last, f"WATCHDOG {value}, not in {legal}")
        else:
            expected = IDENTITY if name == "IDENTITY" else IMAGE_BASE >> 32
            _expect(value == expected, f"{name} {value:#x} beside writes, not {expected:#x}")
    _expect((yield from bench.read("WATCHDOG")) == written[-1], "the last write is lost")
    yield from bench.write("WATCHDOG", WATCHDOG_RESET)
    yield from frame(bench)


SCENARIOS: dict[str, Callable[..., Cycles]] = {
    "frame": frame,
    "reset": reset,
    "random reset": random_reset,
    "bus error": bus_error,
    "watchdog": watchdog,
    "illegal instruction": illegal_instruction,
    "integrity": integrity,
    "wrong image": wrong_image,
    "address range": address_range,
    "window": window,
    "fetch window": fetch_window,
    "short program": short_program,
    "top of memory": top_of_memory,
    "alignment": alignment,
    "next bases": next_bases,
    "start while busy": start_while_busy,
    "registers": registers,
    "traffic": traffic,
}

__all__ = ["SCENARIOS", "Any", "Engine", "ScenarioError", "recover"]
