# SPDX-License-Identifier: Apache-2.0
"""Executes a program seeing only instruction words and memory bytes, never the graph.

Second link of the golden chain. It models what decides the result: engines with queues, wait
thresholds and completion counters, the handshakes between LOAD, STATIONARY, MATMUL and DRAIN (tile
by tile), activation banks, parameter slots. It does not model cycles: an order of events is chosen,
either a fixed one or, to expose missing hazards, a random one that the hardware could take too.
Every legal order must give the same bytes.

Words that were never written are poison: reading them is an error unless what is read cannot reach
a result (columns that DRAIN does not write, bytes whose weights are zero).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.columns import MAXIMUM_GROUPS
from hwgen.config import AcceleratorConfig
from hwgen.errors import ProgramError
from hwgen.isa.instructions import (
    BEAT_BYTES,
    CONSTANT_BYTES,
    OFFSET_BITS,
    ROW_SHIFT_BANK,
    ROW_SHIFT_SLOTS,
    DrainMode,
    Engine,
    Instruction,
    StationarySource,
)
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.elementwise import apply_table
from hwgen.numerics.requantise import (
    BIASED_BITS,
    fits_lanes,
    ptf_codes,
    requantise,
    requantise_int16,
    requantise_residual,
)
from hwgen.program.packing import (
    PLACE_CHUNK_END,
    PLACE_PAIR,
    PLACE_TILE_END,
    decode_constants,
    decode_layernorm,
)
from hwgen.program.program import Part, Program, decode_instructions
from hwgen.program.weight_planes import TileFormat, unpack_weights

Bytes = npt.NDArray[np.uint8]
_Condition = Callable[[], bool]
_Step = Generator[_Condition, None, None]

#: Accumulator banks.
_BANKS = 2
#: Most consecutive events between two draws of a random order.
_LONGEST_BIAS = 40


@dataclass(frozen=True)
class ProgramResult:
    """What a run leaves behind."""

    output: Bytes  #: the output region, uint8 [output_bytes]
    logits: npt.NDArray[np.int16]  #: [classes]
    boundaries: dict[str, npt.NDArray[np.integer]]  #: by tensor name, in network order
    completions: tuple[int, ...]  #: instructions per engine


class ProgramInterpreter:
    """Executes one program; :meth:`run` may be called for any number of images.

    Args:
        program: what to run; its instructions are decoded from the image's bytes again.
        where: name for error messages.

    Raises:
        ProgramError: an image that the hardware refuses, too: for another build, or damaged.
    """

    def __init__(self, program: Program, where: str = "program interpreter") -> None:
        """Decode the instructions."""
        if program.skeleton:
            raise ProgramError("A program must have its memory image to be run, not be a skeleton")
        self.program = program
        self.config = program.config
        self.where = where
        self.instructions = decode_instructions(program.image, program.config)
        self._snapshots: dict[tuple[Engine, int], list[tuple[str, Part]]] = {}
        for boundary in program.boundaries:
            for part in boundary.parts:
                self._snapshots.setdefault((part.engine, part.count), []).append(
                    (boundary.name, part)
                )

    def run(
        self, image: npt.NDArray[np.uint8], *, seed: int | None = None, boundaries: bool = True
    ) -> ProgramResult:
        """Execute the program on one image.

        Args:
            image: uint8 [H, W, channels].
            seed: None for the fixed order of events, else the seed of a random legal one.
            boundaries: record the boundary tensors.

        Raises:
            ProgramError: deadlock, a word outside its bank, a word read that was never written.
        """
        program = self.program
        if image.dtype != np.uint8 or image.shape != program.input_shape:
            raise ProgramError(
                f"Image must be uint8 {list(program.input_shape)}, "
                f"not {image.dtype} {list(image.shape)}"
            )
        source = np.zeros(program.input_bytes, np.uint8)
        source[: image.size] = image.reshape(-1)
        machine = _Machine(self, source, seed, boundaries)
        machine.execute()
        output = machine.output
        logits = output[: 2 * program.classes].copy().view("<i2").astype(np.int16)
        return ProgramResult(output, logits, machine.boundaries, tuple(machine.completed))


def run_program(
    program: Program, image: npt.NDArray[np.uint8], *, seed: int | None = None
) -> ProgramResult:
    """Execute a program on one image: :meth:`ProgramInterpreter.run`."""
    return ProgramInterpreter(program).run(image, seed=seed)


@dataclass
class _Operand:
    """Stationary operand of one tile."""

    weights: npt.NDArray[np.int16]  #: [slices, passes * rows, columns]
    poisoned: npt.NDArray[np.bool_]  #: [columns]: something was read that was never written


class _Machine:
    """State of one run."""

    def __init__(
        self, interpreter: ProgramInterpreter, source: Bytes, seed: int | None, record: bool
    ) -> None:
        self.config: AcceleratorConfig = interpreter.config
        self.program = interpreter.program
        self.where = interpreter.where
        self.image = np.frombuffer(self.program.image, np.uint8)
        self.source = source
        self.output = np.zeros(self.program.output_bytes, np.uint8)
        self.random = None if seed is None else np.random.default_rng(seed)
        self.snapshots = interpreter._snapshots if record else {}
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

        self.instructions = interpreter.instructions
        self.next = 0
        self.finished = False
        self.completed = [0] * len(Engine)
        self.queues: list[deque[Instruction]] = [deque() for _ in Engine]
        self.running: list[tuple[_Step, _Condition] | None] = [None] * len(Engine)
        self.current: list[Instruction | None] = [None] * len(Engine)
        # Handshakes.
        self.weights: deque[Bytes] = deque()  # the tile that LOAD holds out to STATIONARY
        self.weights_wanted = 0  # tiles for which STATIONARY waits
        self.constants: deque[Bytes] = deque()
        self.operands: deque[_Operand] = deque()
        self.accumulators: deque[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]] = deque()

    # Memory ---------------------------------------------------------------------------------

    def fail(self, message: str, instruction: Instruction | None = None) -> ProgramError:
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

    # Sequencing -----------------------------------------------------------------------------

    def met(self, instruction: Instruction) -> bool:
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
            step = _EXECUTE[engine](self, instruction)
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
        self.boundaries[name][part.first_token, part.first_channel : last] = values

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

    # Engines --------------------------------------------------------------------------------
    # Each is a generator: it yields the condition of its next event and then does it.

    def do_load(self, i: Instruction) -> _Step:
        config = self.config
        start = i["address"] * BEAT_BYTES
        if i.opcode == "LOAD_TILES":
            per_tile = i["constant_beats"] + i["weight_beats"]
            if i["beats"] != i["tiles"] * per_tile:
                raise self.fail(f"beats must be {i['tiles'] * per_tile}, not {i['beats']}", i)
            ports = [
                self.load(
                    self.image, start + p * i["port_stride"] * BEAT_BYTES, i["beats"] * BEAT_BYTES
                ).reshape(-1, BEAT_BYTES)
                for p in range(config.memory_ports)
            ]
            wide = np.stack(ports, axis=1).reshape(i["tiles"], per_tile, -1)
            room = config.constant_fifo_beats
            for tile in range(i["tiles"]):
                beats = wide[tile, : i["constant_beats"]]
                if len(beats) > room:
                    raise self.fail(f"Constants of a tile must fit {room} beats", i)
                yield partial(self.constants_fit, len(beats), room)
                if len(beats):
                    self.constants.append(beats)
                if i["weight_beats"]:
                    # Handed over while STATIONARY takes it, not before.
                    yield lambda: self.weights_wanted > 0 and not self.weights
                    self.weights.append(wide[tile, i["constant_beats"] :])
                    yield lambda: not self.weights
            return
        yield lambda: True
        if i.opcode == "LOAD_WORDS":
            data = self.load(self.image, start, i["words"] * config.rows)
            self.write(i["destination"], 0, data.reshape(-1, config.rows))
        elif i.opcode == "LOAD_IMAGE":
            self.load_image(i, start)
        elif i.opcode == "LOAD_LAYERNORM":
            self.layernorm[i["slot"]] = self.load(
                self.image, start, i["beats"] * BEAT_BYTES
            ).reshape(-1, CONSTANT_BYTES)
        else:
            self.tables[i["slot"]] = self.load(self.image, start, 256).view(np.int8)
        yield lambda: True

    def constants_fit(self, beats: int, room: int) -> bool:
        """Whether the constant FIFO has room for the constants of another tile."""
        return sum(len(held) for held in self.constants) + beats <= room

    def load_image(self, i: Instruction, start: int) -> None:
        rows = self.config.rows
        size = 1 << i["group_log2"]
        shape = (i["patch_rows"], i["lines"], i["patches"], i["groups"] * size)
        pixels = self.load(self.source, start, int(np.prod(shape))).reshape(shape)
        if i["beats"] != -(-pixels.size // BEAT_BYTES):
            raise self.fail(f"beats must be {-(-pixels.size // BEAT_BYTES)}, not {i['beats']}", i)
        patches = pixels.transpose(0, 2, 1, 3).reshape(i["patch_rows"] * i["patches"], -1)
        codes = patches ^ np.uint8(0x80)
        if rows % size:
            raise self.fail(f"Group must divide a word of {rows} bytes, not be {size}", i)
        self.write(i["destination"], i["stride"], codes)

    def do_stationary(self, i: Instruction) -> _Step:
        for tile in range(i["tiles"]):
            # One tile ahead of MATMUL at most.
            yield lambda: len(self.operands) < 1
            if i["source"] == StationarySource.WEIGHTS:
                self.weights_wanted += 1
                yield lambda: bool(self.weights)
                self.weights_wanted -= 1
                self.operands.append(self.unpack(self.weights.popleft(), i))
            elif i["source"] == StationarySource.ROWS:
                self.operands.append(self.operand_rows(i, tile))
            else:
                self.operands.append(self.operand_columns(i, tile))
        yield lambda: True

    def unpack(self, beats: Bytes, i: Instruction) -> _Operand:
        groups = self.config.groups
        planes = tuple(i[f"planes{number}"] for number in range(MAXIMUM_GROUPS))
        used = sum(1 for bits in planes if bits)
        if not used or any(planes[used:]) or used > len(groups):
            raise self.fail(f"planes must be those of the first groups, not {planes}", i)
        if bool(i["carry"]) != (i["slices"] > 1):
            raise self.fail(f"carry must be set with several slices, not {i['carry']}", i)
        columns = self.config.prefixes[used - 1]
        form = TileFormat(columns=columns, planes=planes, slices=i["slices"])
        try:
            weights = unpack_weights(self.config, form, beats.reshape(-1), passes=i["passes"])
        except ProgramError as error:
            raise self.fail(str(error), i) from error
        return _Operand(weights, np.zeros(columns, np.bool_))

    def operand_rows(self, i: Instruction, tile: int) -> _Operand:
        """V: reduction index = token, column = channel."""
        rows, columns = self.config.rows, self.config.value_columns
        first = tile * columns
        slices = max(1, columns // rows)
        base = i["base"] + first // rows * i["stride"]
        data, valid = self.read(base, i["stride"], slices, i["limit"])
        part = first % rows
        data, valid = data[:, part : part + columns], valid[:, part : part + columns]
        weights = np.zeros((1, i["passes"] * rows, columns), np.int16)
        weights[0, : i["limit"]] = data.view(np.int8)
        poisoned: npt.NDArray[np.bool_] = np.logical_not(valid.all(axis=0))
        return _Operand(weights, poisoned)

    def operand_columns(self, i: Instruction, tile: int) -> _Operand:
        """K: reduction index = channel, column = token."""
        rows, columns = self.config.rows, self.config.attention_columns
        first = tile * columns
        count = min(columns, i["limit"] - first)
        data, valid = self.read(i["base"] + first, i["stride"], i["passes"], count)
        weights = np.zeros((1, i["passes"] * rows, columns), np.int16)
        weights[0, :, :count] = data.view(np.int8).T
        poisoned = np.zeros(columns, np.bool_)
        poisoned[:count] = ~valid.all(axis=1)
        return _Operand(weights, poisoned)

    def do_matmul(self, i: Instruction) -> _Step:
        config = self.config
        if i["rows"] > config.tile_rows:
            raise self.fail(f"rows must be at most {config.tile_rows}, not {i['rows']}", i)
        for _ in range(i["tiles"]):
            yield lambda: bool(self.operands) and len(self.accumulators) < _BANKS
            operand = self.operands.popleft()
            data, valid = self.read(i["base"], i["stride"], i["passes"], i["rows"])
            if operand.weights.shape[1] != data.shape[1] or len(operand.weights) != i["slices"]:
                raise self.fail(
                    f"Operand must have {i['passes']} passes and {i['slices']} slices, "
                    f"not {operand.weights.shape[1] // config.rows} and {len(operand.weights)}",
                    i,
                )
            unwritten = ~valid.all(axis=0)
            if unwritten.any() and operand.weights[:, unwritten].any():
                raise self.fail("Activations must be written before they are read", i)
            codes = data.view(np.int8) if i["signed"] else data
            self.accumulators.append((self.product(codes, operand, i), operand.poisoned))
        yield lambda: True

    def product(
        self, codes: np.ndarray, operand: _Operand, i: Instruction
    ) -> npt.NDArray[np.int32]:
        """Exact: all partial sums are integers below 2^53."""
        if i["slices"] > 1 and i["slice_bits"] not in self.config.slice_widths:
            legal = list(self.config.slice_widths)
            raise self.fail(f"slice_bits must be one of {legal}, not {i['slice_bits']}", i)
        activations = codes.astype(np.float64)
        total = np.zeros((codes.shape[0], operand.weights.shape[2]), np.int64)
        for weights in operand.weights:
            product = (activations @ weights.astype(np.float64)).astype(np.int64)
            total = (total << i["slice_bits"]) + product
        if total.size and np.abs(total).max() > np.iinfo(np.int32).max:
            raise self.fail("Accumulators must fit 32 bits", i)
        return total.astype(np.int32)

    def do_drain(self, i: Instruction) -> _Step:
        config = self.config
        wide = i["mode"] in (DrainMode.RESIDUAL, DrainMode.WIDE)
        per_word = config.word_channels(wide=wide)
        size, columns = 2 if wide else 1, i["tile_columns"]
        for tile in range(i["tiles"]):
            yield lambda: bool(self.accumulators) and bool(self.constants)
            accumulators, poisoned = self.accumulators.popleft()
            beats = self.constants.popleft()
            valid = min(columns, i["columns"] - tile * columns)
            self.check_tile(i, accumulators, beats, valid)
            if poisoned[:valid].any():
                raise self.fail("Stationary operand must be written before it is read", i)
            first = i["offset"] + tile * columns
            records = beats.reshape(-1)[: valid * CONSTANT_BYTES].reshape(valid, CONSTANT_BYTES)
            self.check_places(i, records[:, 7], first, wide=wide)
            bias, multiplier, shift = decode_constants(records)
            constants: dict[str, Any] = {"bias": bias, "multiplier": multiplier, "shift": shift}
            values = accumulators[:, :valid]
            if not fits_lanes(values.astype(np.int64) + bias).all():
                raise self.fail(f"Accumulators with their bias must fit {BIASED_BITS} bits", i)
            out: npt.NDArray[np.integer]
            start = first % per_word
            word = first // per_word - i["offset"] // per_word
            destination = i["destination"] + word * i["stride"]
            if i["mode"] == DrainMode.RESIDUAL:
                slices = -(-(start + valid) // per_word)
                data, written = self.read(destination, i["stride"], slices, i["rows"])
                held = slice(size * start, size * (start + valid))
                if not written[:, held].all():
                    raise self.fail("Residual must be written before it is read", i)
                residual = np.ascontiguousarray(data[:, held]).view("<i2").astype(np.int16)
                out = requantise_residual(values, residual=residual, **constants)
            elif wide:
                out = requantise_int16(values, **constants)
            else:
                out = self.codes(i, values, constants)
            stored = np.ascontiguousarray(out, f"<i{size}").view(np.uint8)
            self.write_channels(destination, i["stride"], size * start, stored)
        yield lambda: True

    def check_tile(
        self, i: Instruction, accumulators: np.ndarray, beats: Bytes, valid: int
    ) -> None:
        """What a tile must be for DRAIN to take it."""
        config, columns = self.config, i["tile_columns"]
        if columns % 2 or not 0 < columns <= accumulators.shape[1]:
            raise self.fail(
                f"tile_columns must be even and at most the tile's {accumulators.shape[1]},"
                f" not {columns}",
                i,
            )
        if valid <= 0:
            raise self.fail(f"columns must reach the last tile, not be {i['columns']}", i)
        if len(beats) != (expected := config.constant_beats_of(columns)):
            raise self.fail(f"Constants of a tile must be {expected} beats, not {len(beats)}", i)
        if len(accumulators) != i["rows"]:
            raise self.fail(f"rows must be the tile's {len(accumulators)}, not {i['rows']}", i)

    def check_places(self, i: Instruction, places: Bytes, first: int, *, wide: bool) -> None:
        """The lane pairs of the constants must be those of the channels that they go to."""
        chunk = self.config.chunk_channels(wide=wide)
        even = np.arange(0, len(places), 2)
        pairs = (first + even) // 2 % (self.config.requantise_lanes // 2)
        tile_end = even + 2 >= len(places)
        chunk_end = tile_end | ((first + even + 2) % chunk == 0)
        expected = pairs | np.where(chunk_end, PLACE_CHUNK_END, 0)
        expected |= np.where(tile_end, PLACE_TILE_END, 0)
        if (places[even] != expected).any():
            index = int(np.flatnonzero(places[even] != expected)[0])
            found, wanted = int(places[2 * index]), int(expected[index])
            raise self.fail(
                f"Place of column {2 * index} must be {wanted & PLACE_PAIR} with ends"
                f" {wanted >> 6:02b}, not {found & PLACE_PAIR} with {found >> 6:02b}",
                i,
            )

    def codes(
        self, i: Instruction, values: np.ndarray, constants: dict[str, Any]
    ) -> npt.NDArray[np.int8]:
        """int8 results: requantised, in mode TABLE looked up."""
        codes = requantise(
            values,
            zero_point=i["zero_point"],
            low=i["low"],
            high=i["high"],
            row_shift=self.row_shifts(i) if i["mode"] == DrainMode.SHIFTED else None,
            **constants,
        )
        if i["mode"] == DrainMode.TABLE:
            table = self.tables[i["slot"]]
            if table is None:
                raise self.fail("Table must be loaded before it is used", i)
            codes = apply_table(codes, table)
        return codes

    def row_shifts(self, i: Instruction) -> npt.NDArray[np.int16]:
        """The shifts that a DRAIN adds, row by row."""
        if not self.config.softmax_fractional:
            raise self.fail("mode must not be SHIFTED on a design without row shifts", i)
        values = self.shifts[i["slot"], : i["rows"]]
        if (values < 0).any():
            raise self.fail("Row shifts must be written before they are read", i)
        return values

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

    def do_softmax(self, i: Instruction) -> _Step:
        length, rows = i["length"], i["rows"]
        slices = -(-length // self.config.rows)
        if length > self.config.max_row_length:
            raise self.fail(f"length must be at most {self.config.max_row_length}, not {length}", i)
        if self.config.softmax_fractional and rows > self.config.shift_words:
            raise self.fail(f"rows must be at most {self.config.shift_words}, not {rows}", i)
        early = self.random is not None and bool(self.random.integers(2))
        if not early:
            yield lambda: True
        data, valid = self.read(i["source"], i["source_stride"], slices, rows)
        if not valid[:, :length].all():
            raise self.fail("Logits must be written before they are read", i)
        yield lambda: True
        codes = np.zeros((rows, slices * self.config.rows), np.uint8)
        codes[:, :length], shifts = self.config.softmax(
            data.view(np.int8)[:, :length], fraction_bits=i["fraction_bits"], max_length=length
        )
        if shifts is not None:
            self.shifts[i["slot"], :rows] = shifts
        self.write(i["destination"], i["destination_stride"], codes)
        yield lambda: True

    def do_layernorm(self, i: Instruction) -> _Step:
        channels, rows = i["channels"], i["rows"]
        if channels > self.config.max_channels:
            raise self.fail(
                f"channels must be at most {self.config.max_channels}, not {channels}", i
            )
        words = -(-channels // self.config.int16_channels)
        early = self.random is not None and bool(self.random.integers(2))
        if not early:
            yield lambda: True
        data, valid = self.read(i["source"], i["source_stride"], words, rows)
        records = self.layernorm[i["slot"]]
        if records is None or len(records) < channels:
            raise self.fail("LayerNorm parameters must be loaded before they are used", i)
        if not valid[:, : 2 * channels].all():
            raise self.fail("Residual must be written before it is read", i)
        yield lambda: True
        alpha, gamma, beta = (values[:channels] for values in decode_layernorm(records))
        residual = data.view("<i2").astype(np.int16)[:, :channels]
        codes = ptf_codes(residual, shift=i["ptf_shift"], alpha=alpha, zero_point=i["zero_point"])
        out = ailayernorm(
            codes,
            alpha=alpha,
            gamma=gamma,
            beta=beta,
            zero_point=i["zero_point"],
            gamma_shift=i["gamma_shift"],
            beta_fraction_bits=i["beta_fraction_bits"],
            output_zero_point=i["output_zero_point"],
            squares="exact" if i["exact"] else "compressed",
            max_channels=channels,
        )
        slices = -(-channels // self.config.rows)
        padded = np.zeros((rows, slices * self.config.rows), np.uint8)
        padded[:, :channels] = out.view(np.uint8)
        self.write(i["destination"], i["destination_stride"], padded)
        yield lambda: True

    def do_store(self, i: Instruction) -> _Step:
        yield lambda: True
        data, valid = self.read(i["source"], i["stride"], i["words"], 1)
        start = i["address"] * BEAT_BYTES
        size = i["words"] * self.config.rows
        if start + size > len(self.output):
            raise self.fail(
                f"External write must end within {len(self.output)} bytes, not at {start + size}", i
            )
        # Padding behind the last class was never written; the host does not look at it.
        used = max(0, min(size, 2 * self.program.classes - start))
        if not valid.reshape(-1)[:used].all():
            raise self.fail("Words must be written before they are stored", i)
        self.output[start : start + size] = data.reshape(-1)
        yield lambda: True


_EXECUTE: dict[Engine, Callable[[_Machine, Instruction], _Step]] = {
    Engine.LOAD: _Machine.do_load,
    Engine.STATIONARY: _Machine.do_stationary,
    Engine.MATMUL: _Machine.do_matmul,
    Engine.DRAIN: _Machine.do_drain,
    Engine.SOFTMAX: _Machine.do_softmax,
    Engine.LAYERNORM: _Machine.do_layernorm,
    Engine.STORE: _Machine.do_store,
}
