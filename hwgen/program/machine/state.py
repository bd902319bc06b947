# SPDX-License-Identifier: Apache-2.0
"""State of a program's run: memories, queues, handshakes; the order of events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    OFFSET_BITS,
    ROW_SHIFT_BANK,
    ROW_SHIFT_SLOTS,
    Engine,
    Instruction,
)
from hwgen.program.program import Part, Program

Bytes = npt.NDArray[np.uint8]
Condition = Callable[[], bool]
Step = Generator[Condition, None, None]

#: Accumulator banks: output tiles that MATMUL can finish before DRAIN has taken any.
ACCUMULATOR_BANKS = 2
#: Most consecutive events between two draws of a random order.
_LONGEST_BIAS = 40
#: Parts of boundaries by what completes them: engine and its count.
Snapshots = Mapping[tuple[Engine, int], Sequence[tuple[str, Part]]]


@dataclass
class Operand:
    """Stationary operand of one tile."""

    weights: npt.NDArray[np.int16]  #: [slices, passes * rows, columns]
    poisoned: npt.NDArray[np.bool_]  #: [columns]: something was read that was never written


class Machine:
    """State of one run; the engines' behaviour is given to it."""

    def __init__(
        self,
        program: Program,
        instructions: Sequence[Instruction],
        engines: Mapping[Engine, Callable[[Machine, Instruction], Step]],
        source: Bytes,
        *,
        snapshots: Snapshots,
        where: str,
        seed: int | None,
        record: bool,
    ) -> None:
        """Nothing is written, nothing runs."""
        self.config: AcceleratorConfig = program.config
        self.program = program
        self.engines = engines
        self.where = where
        self.image = np.frombuffer(self.program.image, np.uint8)
        self.source = source
        self.output = np.zeros(self.program.output_bytes, np.uint8)
        self.random = None if seed is None else np.random.default_rng(seed)
        self.snapshots = snapshots if record else {}
        self.boundaries: dict[str, npt.NDArray[np.integer]] = {}
        if record:
            for boundary in self.program.boundaries:
                self.boundaries[boundary.name] = np.zeros(boundary.shape, boundary.dtype)
        self.dtypes = {b.name: np.dtype(b.dtype).newbyteorder("<") for b in self.program.boundaries}

        rows = self.config.rows
        self.banks = [np.zeros((words, rows), np.uint8) for words in self.config.bank_words]
        self.written = [np.zeros((words, rows), np.bool_) for words in self.config.bank_words]
        self.layernorm: list[Bytes | None] = [None, None]
        self.tables: list[npt.NDArray[np.int8] | None] = [None, None]
        # Row shifts, [slots, rows]; -1 was never written.
        self.shifts = np.full((ROW_SHIFT_SLOTS, self.config.shift_words), -1, np.int16)

        self.instructions = instructions
        self.next = 0
        self.finished = False
        self.completed = [0] * len(Engine)
        self.queues: list[deque[Instruction]] = [deque() for _ in Engine]
        self.running: list[tuple[Step, Condition] | None] = [None] * len(Engine)
        self.current: list[Instruction | None] = [None] * len(Engine)
        # Handshakes.
        self.weights: deque[Bytes] = deque()  # the tile that LOAD holds out to STATIONARY
        self.weights_wanted = 0  # tiles for which STATIONARY waits
        self.constants: deque[Bytes] = deque()
        self.operands: deque[Operand] = deque()
        self.accumulators: deque[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]] = deque()

    def fail(self, message: str, instruction: Instruction | None = None) -> ProgramError:
        """An error of the program."""
        name = "" if instruction is None else f", {instruction.opcode}"
        return ProgramError(message, where=f"{self.where}{name}")

    def span(self, address: int, stride: int, slices: int, tokens: int) -> tuple[int, np.ndarray]:
        """Bank and word offsets [slices, tokens] of a rectangle; checked."""
        bank, offset = address >> OFFSET_BITS, address & ((1 << OFFSET_BITS) - 1)
        if bank >= len(self.banks):
            raise self.fail(f"Bank must be in 0..{len(self.banks) - 1}, not {bank}")
        words = offset + stride * np.arange(slices)[:, None] + np.arange(tokens)
        last = int(words.max(initial=0))
        if last >= len(self.banks[bank]):
            raise self.fail(
                f"Word must be in 0..{len(self.banks[bank]) - 1} of bank {bank}, not {last}"
            )
        return bank, words

    def read(
        self, address: int, stride: int, slices: int, tokens: int
    ) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Bytes and whether they were ever written: [tokens, slices * rows] both."""
        bank, words = self.span(address, stride, slices, tokens)
        data = self.banks[bank][words].transpose(1, 0, 2).reshape(tokens, -1)
        valid = self.written[bank][words].transpose(1, 0, 2).reshape(tokens, -1)
        return np.ascontiguousarray(data), np.ascontiguousarray(valid)

    def write(self, address: int, stride: int, data: Bytes) -> None:
        """Write bytes [tokens, n]; what is left of the last word is not touched."""
        rows = self.config.rows
        tokens, size = data.shape
        slices = -(-size // rows)
        bank, words = self.span(address, stride, slices, tokens)
        for index in range(slices):
            part = data[:, index * rows : (index + 1) * rows]
            self.banks[bank][words[index], : part.shape[1]] = part
            self.written[bank][words[index], : part.shape[1]] = True

    def load(self, memory: Bytes, start: int, size: int) -> Bytes:
        """Bytes of an external memory."""
        if start + size > len(memory):
            raise self.fail(
                f"External read must end within {len(memory)} bytes, not at {start + size}"
            )
        return memory[start : start + size]

    def met(self, instruction: Instruction) -> bool:
        """Whether all thresholds of an instruction are met."""
        return all(
            done >= wait for done, wait in zip(self.completed, instruction.waits, strict=True)
        )

    def dispatch(self) -> bool:
        """Send the next instruction to its queue, if that has room."""
        if self.finished:
            return False
        instruction = self.instructions[self.next]
        engine = instruction.engine
        if engine is None:
            if instruction.opcode == "BEGIN":
                self.next += 1
                return True
            if not self.met(instruction):
                return False
            self.finished = True
            return True
        if len(self.queues[engine]) >= self.config.queue_depth:
            return False
        self.queues[engine].append(instruction)
        self.next += 1
        return True

    def advance(self, engine: Engine) -> bool:
        """Let an engine do one event, if it can."""
        state = self.running[engine]
        if state is None:
            queue = self.queues[engine]
            if not queue or not self.met(queue[0]):
                return False
            instruction = queue.popleft()
            self.current[engine] = instruction
            step = self.engines[engine](self, instruction)
            self.running[engine] = (step, next(step))
            return True
        step, condition = state
        if not condition():
            return False
        try:
            self.running[engine] = (step, next(step))
        except StopIteration:
            self.running[engine] = None
            self.current[engine] = None
            self.complete(engine)
        return True

    def complete(self, engine: Engine) -> None:
        """Count a completion; record the parts of boundaries that are complete with it."""
        self.completed[engine] += 1
        for name, part in self.snapshots.get((engine, self.completed[engine]), ()):
            dtype = self.dtypes[name]
            if (part.base + part.first_token) >> OFFSET_BITS == ROW_SHIFT_BANK:
                self.record_shifts(name, part)
                continue
            held = slice(part.skip * dtype.itemsize, (part.skip + part.channels) * dtype.itemsize)
            slices = -(-held.stop // self.config.rows)
            data, valid = self.read(part.base + part.first_token, part.stride, slices, part.tokens)
            if not valid[:, held].all():
                raise self.fail(f"Boundary {name} must be written when it is complete")
            self.boundaries[name][part.index][
                part.first_token : part.first_token + part.tokens,
                part.first_channel : part.first_channel + part.channels,
            ] = np.ascontiguousarray(data[:, held]).view(dtype)

    def record_shifts(self, name: str, part: Part) -> None:
        """A boundary of row shifts: words of one byte."""
        first = (part.base + part.first_token) & ((1 << OFFSET_BITS) - 1)
        values = self.shifts.reshape(-1)[first : first + part.channels]
        if (values < 0).any():
            raise self.fail(f"Boundary {name} must be written when it is complete")
        last = part.first_channel + part.channels
        self.boundaries[name][part.index][part.first_token, part.first_channel : last] = values

    def execute(self) -> None:
        """Until END."""
        while not self.finished:
            if not (self.fixed_round() if self.random is None else self.random_round()):
                raise self.deadlock()

    def fixed_round(self) -> bool:
        """Every engine as far as it comes, the last ones of the chain first."""
        any_progress = False
        for engine in reversed(Engine):
            while self.advance(engine):
                any_progress = True
        while self.dispatch():
            any_progress = True
        return any_progress

    def random_round(self) -> bool:
        """Some events under a random preference, kept for a while: bursts and starvation."""
        assert self.random is not None
        preference = self.random.permutation(len(Engine) + 1)
        any_progress = False
        for _ in range(int(self.random.integers(1, _LONGEST_BIAS))):
            for index in preference:
                done = self.dispatch() if index == len(Engine) else self.advance(Engine(index))
                if done:
                    any_progress = True
                    break
            else:
                break
        return any_progress

    def deadlock(self) -> ProgramError:
        """What every queue waits for."""
        heads = []
        for engine in Engine:
            instruction = self.current[engine]
            if instruction is not None:
                heads.append(f"{engine.name} inside {instruction.opcode}")
            elif self.queues[engine]:
                instruction = self.queues[engine][0]
                unmet = [
                    f"{Engine(e).name} {self.completed[e]} < {wait}"
                    for e, wait in enumerate(instruction.waits)
                    if self.completed[e] < wait
                ]
                heads.append(
                    f"{engine.name} {instruction.opcode} waits for {', '.join(unmet) or 'nothing'}"
                )
        last = self.instructions[self.next]
        unmet = [
            f"{Engine(e).name} {self.completed[e]} < {wait}"
            for e, wait in enumerate(last.waits)
            if self.completed[e] < wait
        ]
        heads.append(f"sequencer at instruction {self.next} {last.opcode} ({', '.join(unmet)})")
        return self.fail(f"Program must finish, not deadlock: {'; '.join(heads)}")

    def write_channels(self, address: int, stride: int, part: int, data: Bytes) -> None:
        """Write [tokens, n] bytes from byte ``part`` of the first word on, and no other."""
        rows = self.config.rows
        tokens, size = data.shape
        bank, words = self.span(address, stride, -(-(part + size) // rows), tokens)
        done = 0
        for offsets in words:
            count = min(rows - part, size - done)
            held = slice(part, part + count)
            self.banks[bank][offsets, held] = data[:, done : done + count]
            self.written[bank][offsets, held] = True
            part, done = 0, done + count
