# SPDX-License-Identifier: Apache-2.0
"""The cocotb test of :mod:`hwgen.sim.cocotb_bench.library`: frames between foreign AXI models."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiRam,
    AxiRamRead,
    AxiReadBus,
)
from cocotbext.axi.sparse_memory import SparseMemory

from hwgen.isa.instructions import INSTRUCTION_BYTES
from hwgen.isa.registers import BY_NAME, CONTROL_START
from hwgen.sim.cocotb_bench.program import TestFrame
from hwgen.sim.cocotb_bench.runner import read_job, write_report

IMAGE_BASE, INPUT_BASE, OUTPUT_BASE = 0x1_0000_0000, 0x2_4000_0000, 0x3_8000_0000
#: Bytes before and behind the output that nobody may write.
GUARD = 4096
#: What a fetch may read beyond the program.
OVERRUN = 128 * INSTRUCTION_BYTES
FILLER = 0xA5


def pause(chance: float, seed: int) -> Iterator[bool]:
    """Whether a channel is held back, cycle by cycle."""
    rng = random.Random(seed)
    while True:
        yield rng.random() < chance


@cocotb.test()
async def run_frames(dut: Any) -> None:
    """Run one frame per chance of a pause."""
    frame: TestFrame
    frame, pauses, seed = read_job()
    memory = SparseMemory(1 << 40)
    size, guard = len(frame.output), bytes([FILLER]) * GUARD
    fixed = {IMAGE_BASE: frame.image + bytes(OVERRUN), INPUT_BASE: frame.input_bytes}
    fixed |= {OUTPUT_BASE - GUARD: guard, OUTPUT_BASE + size: guard}
    for address, content in fixed.items():
        memory.write(address, content)
    dut.rst.value = 1
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    first = AxiRam(AxiBus.from_prefix(dut, "m_axi0"), dut.clk, dut.rst, mem=memory)
    reads = [first.read_if]
    for port in range(1, frame.config.memory_ports):
        bus = AxiReadBus.from_prefix(dut, f"m_axi{port}")
        reads.append(AxiRamRead(bus, dut.clk, dut.rst, mem=memory))
    writes = first.write_if
    channels = [writes.aw_channel, writes.w_channel, writes.b_channel]
    channels += [c for read in reads for c in (read.ar_channel, read.r_channel)]
    channels += [host.write_if.aw_channel, host.write_if.w_channel, host.write_if.b_channel]
    channels += [host.read_if.ar_channel, host.read_if.r_channel]
    Clock(dut.clk, 10, unit="ns").start()
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)

    async def write(name: str, value: int) -> None:
        await host.write_dword(BY_NAME[name].offset, value)

    async def read(name: str) -> int:
        value: int = await host.read_dword(BY_NAME[name].offset)
        return value

    bases = {"IMAGE": IMAGE_BASE, "INPUT": INPUT_BASE, "OUTPUT": OUTPUT_BASE}
    for name, base in bases.items():
        await write(f"{name}_LOW", base & 0xFFFF_FFFF)
        await write(f"{name}_HIGH", base >> 32)
    await write("INTERRUPT_ENABLE", 1)
    found = []
    for index, chance in enumerate(pauses):
        for number, channel in enumerate(channels):
            channel.set_pause_generator(pause(chance, seed + 100 * index + number))
        memory.write(OUTPUT_BASE, bytes([FILLER]) * size)
        await write("CONTROL", CONTROL_START)
        if not int(dut.interrupt.value):
            await with_timeout(RisingEdge(dut.interrupt), 10_000_000, "ns")
        found.append(
            {
                "status": await read("STATUS"),
                "cause": await read("CAUSE"),
                "cycles": await read("CYCLES"),
                "output": bytes(memory.read(OUTPUT_BASE, size)).hex(),
                "others": all(
                    bytes(memory.read(address, len(content))) == content
                    for address, content in fixed.items()
                ),
            }
        )
        await write("INTERRUPT", 1)
    write_report({"frames": found})
