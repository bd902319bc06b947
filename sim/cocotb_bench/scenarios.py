# SPDX-License-Identifier: Apache-2.0
"""What the bench does with the design: frames, errors, resets. Each ends with an exact frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
    CONTROL_START,
    IDENTITY,
    STATUS_BUSY,
    STATUS_DONE,
    WATCHDOG_RESET,
    Cause,
)
from hwgen.sim.cocotb_bench import bins
from hwgen.sim.cocotb_bench.axi import Region, Target
from hwgen.sim.cocotb_bench.bench import IMAGE_BASE, Bench, Cycles
from hwgen.sim.cocotb_bench.host import (
    BASES,
    FETCH_BYTES,
    ScenarioError,
    configure,
    expect,
    failed,
    finish,
    frame,
    ready,
    set_window,
    sizes,
    soft_reset,
    start,
    tame,
    wait_interrupt,
    write_base,
)


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
    tame(bench)
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
    tame(bench)
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
    yield from failed(bench, cause, target.address)


def watchdog(bench: Bench, *, after: int, limit: int = 700) -> Cycles:
    """The memory dies after some cycles; it lives again before the soft reset."""
    yield from ready(bench)
    yield from bench.write("WATCHDOG", limit)
    yield from start(bench)
    yield from bench.wait(after)
    bench.memory.dead = True
    expect(not bench.seen["interrupt"], "the frame was over before the memory died")
    died = bench.cycle
    yield from wait_interrupt(bench, 10 * limit)
    # Beats already received may still complete instructions for a while.
    expect(bench.cycle - died <= 6 * limit, "the watchdog came too late")
    yield from bench.write("WATCHDOG", WATCHDOG_RESET)
    yield from failed(bench, Cause.WATCHDOG, None)


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
    yield from _patched(bench, index, data, lambda: failed(bench, Cause.ILLEGAL_INSTRUCTION, index))


def integrity(bench: Bench, *, index: int, bit: int | None = None) -> Cycles:
    """One wrong bit, or (without ``bit``) the next instruction in the place of this one."""
    yield from ready(bench)
    if bit is None:
        data = _bytes_at(bench, index + 1)
    else:
        word = int.from_bytes(_bytes_at(bench, index), "little") ^ 1 << bit
        data = word.to_bytes(INSTRUCTION_BYTES, "little")
    yield from _patched(bench, index, data, lambda: failed(bench, Cause.INTEGRITY, index))


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
        expect(_issued(bench) == before, "something of a wrong image ran")
        yield from failed(bench, Cause.IMAGE, 0)

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
        bench, index, encode(changed, index), lambda: failed(bench, Cause.ADDRESS_RANGE, where)
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
        yield from failed(bench, Cause.WINDOW, BASES[name] + ends[end])
    else:
        yield from finish(bench)


def fetch_window(bench: Bench, *, bursts: int) -> Cycles:
    """The image's window ends among the instructions; the loads before do not begin."""
    yield from ready(bench)
    index, instruction = _find(bench, "LOAD_LAYERNORM")
    for_ever = [0] * len(Engine)
    for_ever[Engine.STORE] = (1 << WAIT_BITS) - 1
    data = encode(replace(instruction, waits=tuple(for_ever)), index)
    size = FETCH_BYTES * bursts
    yield from set_window(bench, "IMAGE", size)

    def judge() -> Cycles:
        yield from set_window(bench, "IMAGE")
        yield from failed(bench, Cause.WINDOW, IMAGE_BASE + size)

    yield from _patched(bench, index, data, judge)


def short_program(bench: Bench) -> Cycles:
    """BEGIN and END alone, in a window of one burst: the fetch beyond END is no error."""
    yield from ready(bench)
    yield from set_window(bench, "IMAGE", FETCH_BYTES)

    def judge() -> Cycles:
        status, cause = (yield from bench.read("STATUS")), (yield from bench.read("CAUSE"))
        expect(status & STATUS_DONE and not cause, f"STATUS {status:#x}, CAUSE {cause}")
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
        fields = {"address": 0, "port_stride": 0, "words": 1, "destination": 0}
        load = Instruction("LOAD_WORDS", fields)
        rest = range(1, BASE_ALIGNMENT // INSTRUCTION_BYTES)
        page = page[:INSTRUCTION_BYTES] + b"".join(encode(load, index) for index in rest)
    bench.memory.regions.append(Region("top", top, bytearray(page), name == "OUTPUT"))
    yield from write_base(bench, register, top)
    for other in BASES:
        yield from bench.write(f"{other}_SIZE", 0)
    yield from start(bench)
    yield from write_base(bench, register, BASES[register])
    for other, size in sizes(bench).items():
        yield from bench.write(f"{other}_SIZE", size)
    # Of the load with the lowest address, which is the first; of the burst; of the fetch.
    first = _find(bench, "LOAD_LAYERNORM")[1]["address"] * BEAT_BYTES
    where = (top + first) % (1 << 64) if name == "IMAGE" else 0
    yield from failed(bench, Cause.WINDOW, where)
    bench.memory.regions.pop()


def alignment(bench: Bench, *, name: str, bit: int) -> Cycles:
    """START with a base that is not aligned starts nothing."""
    yield from ready(bench)
    base = BASES[name] | 1 << bit
    yield from write_base(bench, name, base)
    before = bench.memory.requested.total()
    yield from bench.write("CONTROL", CONTROL_START)
    yield from bench.wait(100)
    expect(bench.memory.requested.total() == before, "a frame was started")
    expect(not (yield from bench.read("STATUS")) & STATUS_BUSY, "busy without a frame")
    yield from write_base(bench, name, BASES[name])
    yield from failed(bench, Cause.BASE_ALIGNMENT, base)


def next_bases(bench: Bench, *, after: int) -> Cycles:
    """Bases and sizes of the next frame are written while one runs: it keeps its own."""
    yield from ready(bench)
    yield from start(bench)
    yield from bench.wait(after)
    expect(not bench.seen["interrupt"], "the frame was over before the bases were written")
    for name, base in BASES.items():
        yield from write_base(bench, name, base + (1 << 40))
        yield from bench.write(f"{name}_SIZE", BASE_ALIGNMENT)
    yield from finish(bench)
    for name, base in BASES.items():
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
    expect(not (yield from bench.read("STATUS")) & STATUS_BUSY, "a second frame was started")


def registers(bench: Bench) -> Cycles:
    """Byte strobes, read-only and unknown registers, INTERRUPT_ENABLE, counters."""
    yield from ready(bench)
    for strobe in (1, 2, 4, 8, 5, 15, 0):
        yield from bench.write("WATCHDOG", 0x1122_3344)
        yield from bench.write("WATCHDOG", 0xAABB_CCDD, strobe)
        mask = sum(0xFF << 8 * k for k in range(4) if strobe >> k & 1)
        got = yield from bench.read("WATCHDOG")
        expected = 0x1122_3344 & ~mask | 0xAABB_CCDD & mask
        expect(got == expected, f"WATCHDOG {got:#x}, not {expected:#x}, strobe {strobe}")
    for byte in range(4):  # as a processor's byte accesses arrive
        yield from bench.write("WATCHDOG", 0x1122_3344)
        yield from bench.write("WATCHDOG", 0xAABB_CCDD, 1 << byte, byte)
        expected = (0x1122_3344 ^ 0xAABB_CCDD) & 0xFF << 8 * byte ^ 0x1122_3344
        got = yield from bench.read("WATCHDOG", byte)
        expect(got == expected, f"WATCHDOG {got:#x}, not {expected:#x}, byte {byte}")
    yield from bench.write("WATCHDOG", WATCHDOG_RESET)
    for name in ("IDENTITY", "STATUS", "CAUSE", "BUILD_LOW"):
        before = yield from bench.read(name)
        yield from bench.write(name, 0xFFFF_FFFF)
        expect((yield from bench.read(name)) == before, f"{name} was written")
    yield from bench.write("INTERRUPT_ENABLE", 0)
    yield from start(bench)
    for _ in range(100_000):
        status = yield from bench.read("STATUS")
        if status & STATUS_DONE:
            break
    else:
        raise ScenarioError("no end of the frame")
    expect(not bench.seen["interrupt"], "interrupt without INTERRUPT_ENABLE")
    expect((yield from bench.read("INTERRUPT")) == 1, "INTERRUPT is not pending")
    yield from bench.write("INTERRUPT_ENABLE", 1)
    yield from finish(bench)
    counters = {}
    for name in BY_NAME:
        if name == "CYCLES" or name.startswith(("ARRAY_", "STALL_")):
            counters[name] = yield from bench.read(name)
    cycles = counters.pop("CYCLES")
    expect(cycles == sum(counters.values()), f"{cycles} cycles, causes {counters}")


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
            expect(999 + first <= value <= 999 + last, f"WATCHDOG {value}, not in {legal}")
        else:
            expected = IDENTITY if name == "IDENTITY" else IMAGE_BASE >> 32
            expect(value == expected, f"{name} {value:#x} beside writes, not {expected:#x}")
    expect((yield from bench.read("WATCHDOG")) == written[-1], "the last write is lost")
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

__all__ = ["SCENARIOS"]
