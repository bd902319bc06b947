# SPDX-License-Identifier: Apache-2.0
"""A small hand-made frame that uses every engine and every mode, with its expected output.

One encoder block in miniature: image -> embedding + residual -> LayerNorm -> q, k, v -> attention
-> table -> head. What STORE does not reach, where it lies, is multiplied by a unit matrix into the
residual's bank. A load and a store cross 4 KiB within what would be a burst; a store has more than
four bursts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.columns import MAXIMUM_GROUPS, dense
from hwgen.config import BANK_ROLES, AcceleratorConfig
from hwgen.isa.build import begin
from hwgen.isa.instructions import (
    BEAT_BYTES,
    BY_NAME,
    OFFSET_BITS,
    DrainMode,
    Engine,
    Instruction,
    StationarySource,
    encode,
)
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.numerics.elementwise import apply_table
from hwgen.numerics.image import image_codes, patchify
from hwgen.numerics.requantise import (
    ptf_codes,
    requantise,
    requantise_int16,
    requantise_residual,
)

PAGE = 4096
PATCH, DOWN, ACROSS, CHANNELS = 4, 4, 5, 3
TOKENS = DOWN * ACROSS
EMBEDDING, HEAD_DIM, CLASSES = 40, 16, 48
GAMMA_SHIFT = 1
#: Bytes of the output region before the first store: it crosses 4 KiB, not aligned to a burst.
OUTPUT_GAP = PAGE - 45 * BEAT_BYTES
#: The same for the position words within the memory image.
POSITION_GAP = PAGE - 37 * BEAT_BYTES

Int = npt.NDArray[np.int64]


def bench_config(memory_ports: int) -> AcceleratorConfig:
    """A configuration that holds the frame.

    One port and several differ in all that has two forms, so that each is tested.
    """
    return AcceleratorConfig(
        rows=16,
        groups=dense(16),
        softmax_vec=8 if memory_ports == 1 else 32,
        memory_ports=memory_ports,
        softmax_fractional=memory_ports == 1,
        bank_words=(256, 64, 64, 64, 64, 64, 64),
        tile_rows=32,
        max_row_length=64,
        max_channels=64,
        read_fifo_beats=256,
        instruction_check=memory_ports == 1,
    )


@dataclass(frozen=True, kw_only=True)
class TestFrame:
    """What the bench needs to run and to judge frames."""

    __test__ = False  # not a test class, whatever its name says

    config: AcceleratorConfig
    image: bytes  #: memory image, instructions first
    input_bytes: bytes
    output: bytes  #: the whole output region; bytes that are not stored are 0xA5
    instructions: int
    image_load: int  #: number of LOAD_IMAGE among the LOAD instructions
    weights: tuple[tuple[int, int], ...]  #: [first, end) of the tile regions in the image
    loads: dict[str, tuple[int, int]]  #: [first, end) in the image of what other loads read
    last_store: tuple[int, int]  #: [first, end) in the output


@dataclass
class _Builder:
    config: AcceleratorConfig
    image: bytearray = field(default_factory=lambda: bytearray(PAGE))
    program: list[Instruction] = field(default_factory=list)
    count: dict[Engine, int] = field(default_factory=lambda: dict.fromkeys(Engine, 0))
    weights: list[tuple[int, int]] = field(default_factory=list)
    loads: dict[str, tuple[int, int]] = field(default_factory=dict)

    def place(self, data: bytes, gap: int = 0) -> int:
        self.image.extend(bytes(-len(self.image) % PAGE + gap))
        offset = len(self.image)
        self.image.extend(data)
        return offset

    def load(self, name: str, data: bytes, gap: int = 0) -> int:
        """Place what a load reads; returns its beat address."""
        offset = self.place(data, gap)
        self.loads[name] = (offset, offset + len(data))
        return offset // BEAT_BYTES

    def emit(self, opcode: str, waits: dict[Engine, int] | None = None, **fields: int) -> int:
        """Append; returns the number of instructions of its engine so far.

        Of the thresholds those of other engines are taken.
        """
        given = {e: n for e, n in (waits or {}).items() if e in BY_NAME[opcode].waits_for}
        thresholds = tuple(given.get(engine, 0) for engine in Engine)
        instruction = Instruction(opcode, fields, thresholds)
        self.program.append(instruction)
        if instruction.engine is None:
            return 0
        self.count[instruction.engine] += 1
        return self.count[instruction.engine]

    def words(self, tensor: npt.NDArray[np.generic]) -> bytes:
        """Activation words of a tensor [tokens, channels], slice by slice."""
        per_word = self.config.rows // tensor.dtype.itemsize
        tokens, channels = tensor.shape
        slices = -(-channels // per_word)
        padded = np.zeros((tokens, slices * per_word), tensor.dtype)
        padded[:, :channels] = tensor
        return padded.reshape(tokens, slices, per_word).transpose(1, 0, 2).tobytes()

    def tiles(self, weights: Int, constants: list[tuple[int, int, int]]) -> int:
        """LOAD_TILES of weights [K, N] and (bias, multiplier, shift) per column."""
        config = self.config
        rows, columns = config.rows, config.columns
        beat = config.wide_beat_bits // 8
        k, n = weights.shape
        tiles, passes = -(-n // columns), -(-k // rows)
        padded = np.zeros((passes * rows, tiles * columns), np.int8)
        padded[:k, :n] = weights
        constants = constants + [(0, 0, 1)] * (tiles * columns - n)
        data = bytearray()

        def fill() -> None:
            data.extend(bytes(-len(data) % beat))

        for tile in range(tiles):
            live = min(columns, n - tile * columns)
            for c in range(columns):
                bias, multiplier, shift = constants[tile * columns + c]
                record = bias.to_bytes(4, "little", signed=True) + multiplier.to_bytes(2, "little")
                place = self.place_of(tile * columns + c, c, live) if c < live else 0
                data += record + bytes([shift, place])
            fill()
            for p in range(passes):
                block = padded[p * rows : (p + 1) * rows, tile * columns : (tile + 1) * columns]
                data += self.planes(block[::-1])
        beats = len(data) // beat
        ports = config.memory_ports
        split = np.frombuffer(bytes(data), np.uint8).reshape(beats, ports, BEAT_BYTES)
        offsets = [self.place(split[:, p].tobytes()) for p in range(ports)]
        self.weights += [(offset, offset + beats * BEAT_BYTES) for offset in offsets]
        return self.emit(
            "LOAD_TILES",
            address=offsets[0] // BEAT_BYTES,
            port_stride=(offsets[-1] - offsets[0]) // max(1, ports - 1) // BEAT_BYTES,
            tiles=tiles,
            constant_beats=config.constant_beats,
            weight_beats=beats // tiles - config.constant_beats,
            beats=beats,
        )

    def place_of(self, channel: int, column: int, live: int) -> int:
        """Byte 7 of a column's record: lane pair, end of the half word, end of the tile."""
        if column % 2:
            return 0
        pairs = self.config.requantise_lanes // 2
        pair, last = channel // 2 % pairs, column + 2 >= live
        return pair | 64 * (last or pair == pairs - 1) | 128 * last

    def planes(self, block: Int) -> bytes:
        """Bit planes of a pass of 8-bit columns, rows in the order of the cascade."""
        beat = self.config.wide_beat_bits // 8
        height = max(1, 8 * beat // block.shape[1])
        data = bytearray()
        for first in range(0, len(block), height):
            cells = block[first : first + height].reshape(-1)
            for bit in range(8):
                plane = sum((int(cell) >> bit & 1) << index for index, cell in enumerate(cells))
                data += plane.to_bytes(-(-len(cells) // (8 * beat)) * beat, "little")
        return bytes(data)

    def matmul(
        self,
        source: int,
        shape: tuple[int, int, int],
        waits: dict[Engine, int],
        *,
        signed: int = 1,
        stride: int | None = None,
        operand: tuple[StationarySource, int, int] = (StationarySource.WEIGHTS, 0, 0),
        **drain: int,
    ) -> int:
        """STATIONARY, MATMUL and DRAIN of [M, K] x [K, N]; returns the count of DRAIN."""
        m, k, n = shape
        tiles, passes = -(-n // self.config.columns), -(-k // self.config.rows)
        loops = {"tiles": tiles, "passes": passes, "slices": 1, "stride": stride or m}
        kind, base, limit = operand
        packed = kind == StationarySource.WEIGHTS
        given = {} if packed else waits
        planes = {f"planes{group}": 8 * (packed and group == 0) for group in range(MAXIMUM_GROUPS)}
        self.emit(
            "STATIONARY",
            given,
            source=kind,
            base=base,
            limit=limit,
            pass_tokens=self.config.rows if kind == StationarySource.ROWS else 0,
            carry=0,
            **loops,
            **planes,
        )
        self.emit("MATMUL", waits, base=source, rows=m, signed=signed, slice_bits=0, **loops)
        fields = {
            "zero_point": 0,
            "low": -128,
            "high": 127,
            "slot": 0,
            "offset": 0,
            "apart": 0,
        } | drain
        fields |= {"stride": stride or m, "rows": m, "tiles": tiles, "columns": n}
        fields["tile_columns"] = self.config.columns
        return self.emit("DRAIN", waits, **fields)


def _word(bank: int, offset: int = 0) -> int:
    return bank << OFFSET_BITS | offset


def _constants(
    rng: np.random.Generator, columns: int, shift: int
) -> tuple[list[tuple[int, int, int]], dict[str, Any]]:
    bias = rng.integers(-2000, 2000, columns)
    multiplier = rng.integers(1 << 15, 1 << 16, columns)
    shifts = rng.integers(shift, shift + 3, columns)
    records = list(zip(bias.tolist(), multiplier.tolist(), shifts.tolist(), strict=True))
    arrays: dict[str, Any] = {
        "bias": bias.astype(np.int32),
        "multiplier": multiplier.astype(np.uint16),
        "shift": shifts.astype(np.uint8),
    }
    return records, arrays


def _weights(rng: np.random.Generator, k: int, n: int) -> Int:
    return rng.integers(-127, 128, (k, n))


def _product(a: npt.NDArray[np.generic], w: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    return (a.astype(np.int64) @ w.astype(np.int64)).astype(np.int32)


def make_frame(memory_ports: int, *, seed: int = 1) -> TestFrame:
    """The program, a random image and the output that the integer contract gives."""
    config = bench_config(memory_ports)
    rng = np.random.default_rng(seed)
    b = _Builder(config, program=[begin(config)])
    m = TOKENS
    banks = (_word(bank) for bank in range(len(BANK_ROLES)))
    residual_bank, normalised, query, key_value, scores, codes_bank, hidden = banks
    # In the residual's bank: what is stored, what loads write beside DRAIN.
    copied, beside = residual_bank + 128, residual_bank + 228

    # Parameters, table, positions, image.
    alpha = rng.integers(0, 4, EMBEDDING)
    gamma = rng.integers(-127, 128, EMBEDDING)
    beta = rng.integers(-(1 << 11), 1 << 11, EMBEDDING)
    records = bytearray()
    for c in range(EMBEDDING):
        records += int(beta[c]).to_bytes(3, "little", signed=True)
        records += int(gamma[c]).to_bytes(1, "little", signed=True) + bytes([alpha[c], 0, 0, 0])
    b.emit(
        "LOAD_LAYERNORM",
        address=b.load("layernorm", bytes(records)),
        beats=len(records) // BEAT_BYTES,
        slot=1,
    )
    table = rng.integers(-128, 128, 256).astype(np.int8)
    table_load = b.emit("LOAD_TABLE", address=b.load("table", table.tobytes()), slot=1)
    positions = rng.integers(-3000, 3000, (m, EMBEDDING)).astype(np.int16)
    position_words = b.words(positions)
    position_load = b.emit(
        "LOAD_WORDS",
        address=b.load("positions", position_words, POSITION_GAP),
        port_stride=0,
        words=len(position_words) // config.rows,
        destination=residual_bank,
    )
    pixels = rng.integers(0, 256, (DOWN * PATCH, ACROSS * PATCH, CHANNELS), dtype=np.uint8)
    line = PATCH * CHANNELS
    image_load = b.emit(
        "LOAD_IMAGE",
        address=0,
        destination=hidden,
        stride=m,
        patch_rows=DOWN,
        lines=PATCH,
        patches=ACROSS,
        groups=line // 4,
        group_log2=2,
        beats=-(-pixels.size // BEAT_BYTES),
    )
    patches = patchify(image_codes(pixels[None]), PATCH)[0]

    # Embedding onto the positions, LayerNorm.
    k = patches.shape[1]
    w = _weights(rng, k, EMBEDDING)
    constants, arrays = _constants(rng, EMBEDDING, 22)
    b.tiles(w, constants)
    drained = b.matmul(
        hidden,
        (m, k, EMBEDDING),
        {Engine.LOAD: max(image_load, position_load)},
        destination=residual_bank,
        mode=DrainMode.RESIDUAL,
    )
    residual = requantise_residual(_product(patches, w), **arrays, residual=positions)
    b.emit(
        "LAYERNORM",
        {Engine.DRAIN: drained},
        source=residual_bank,
        source_stride=m,
        destination=normalised,
        destination_stride=m,
        rows=m,
        channels=EMBEDDING,
        ptf_shift=4,
        zero_point=120,
        gamma_shift=GAMMA_SHIFT,
        beta_fraction_bits=8,
        output_zero_point=-3,
        exact=0,
        slot=1,
    )
    ptf = ptf_codes(residual, shift=4, alpha=alpha, zero_point=120)
    y = ailayernorm(
        ptf,
        alpha=alpha,
        gamma=gamma,
        beta=beta,
        zero_point=120,
        gamma_shift=GAMMA_SHIFT,
        output_zero_point=-3,
    )
    after_layernorm = {Engine.LAYERNORM: 1}

    stored: list[tuple[int, bytes]] = []
    position = OUTPUT_GAP

    def store(
        waits: dict[Engine, int], source: int, tensor: npt.NDArray[np.generic], stride: int = 1
    ) -> None:
        """A tensor of the residual's bank."""
        nonlocal position
        data = b.words(tensor)
        b.emit(
            "STORE",
            waits,
            address=position // BEAT_BYTES,
            source=source,
            stride=stride,
            words=len(data) // config.rows,
        )
        stored.append((position, data))
        position += len(data)

    def copy(waits: dict[Engine, int], source: int, tensor: npt.NDArray[np.generic]) -> None:
        """Store int8 or uint8 [m, k], word by word m apart, as int16."""
        k = tensor.shape[1]
        n = -(-k // (words := config.word_channels(wide=True))) * words
        b.tiles(np.eye(k, n, dtype=np.int64), [(0, 1 << 15, 15)] * n)
        drained = b.matmul(
            source,
            (m, k, n),
            waits | {Engine.STORE: b.count[Engine.STORE]},
            signed=int(tensor.dtype == np.int8),
            destination=copied,
            mode=DrainMode.WIDE,
        )
        store({Engine.DRAIN: drained}, copied, tensor.astype(np.int16))

    copy(after_layernorm, normalised, y)

    # q; k and v; scores; softmax; attention with a table.
    wq = _weights(rng, EMBEDDING, HEAD_DIM)
    constants, arrays = _constants(rng, HEAD_DIM, 23)
    b.tiles(wq, constants)
    b.matmul(
        normalised,
        (m, EMBEDDING, HEAD_DIM),
        after_layernorm,
        destination=query,
        mode=DrainMode.INT8,
        zero_point=2,
        low=-100,
    )
    q = requantise(_product(y, wq), **arrays, zero_point=2, low=-100)
    wkv = _weights(rng, EMBEDDING, 2 * HEAD_DIM)
    constants, arrays = _constants(rng, 2 * HEAD_DIM, 23)
    b.tiles(wkv, constants)
    drained = b.matmul(
        normalised,
        (m, EMBEDDING, 2 * HEAD_DIM),
        after_layernorm,
        destination=key_value,
        mode=DrainMode.INT8,
    )
    kv = requantise(_product(y, wkv), **arrays)
    keys, values = kv[:, :HEAD_DIM], kv[:, HEAD_DIM:]

    constants, arrays = _constants(rng, m, 24)
    b.tiles(np.zeros((0, m), np.int64), constants)
    drained = b.matmul(
        query,
        (m, HEAD_DIM, m),
        {Engine.DRAIN: drained},
        operand=(StationarySource.COLUMNS, key_value, m),
        destination=scores,
        mode=DrainMode.INT8,
    )
    logits = requantise(_product(q, keys.T), **arrays)
    b.emit(
        "SOFTMAX",
        {Engine.DRAIN: drained},
        source=scores,
        source_stride=m,
        destination=codes_bank,
        destination_stride=m,
        rows=m,
        words=-(-m // config.rows),
        word_length=config.rows,
        last_length=m % config.rows or config.rows,
        fraction_bits=4,
        slot=1,
    )
    # Beside it DRAIN writes the same bank: SOFTMAX must wait for its words.
    constants, arrays = _constants(rng, HEAD_DIM, 23)
    b.tiles(wq, constants)
    drained = b.matmul(
        normalised,
        (m, EMBEDDING, HEAD_DIM),
        {Engine.DRAIN: drained},
        destination=codes_bank + 2 * m,
        mode=DrainMode.INT8,
    )
    codes, shifts = config.softmax(logits, fraction_bits=4, max_length=m)
    # Beside DRAIN loads write the same bank, again and again: they must wait for its words.
    extra = rng.integers(-128, 128, (24, config.rows)).astype(np.int8)
    extra_address = b.place(extra.tobytes()) // BEAT_BYTES
    for _ in range(3):
        extra_load = b.emit(
            "LOAD_WORDS",
            {Engine.SOFTMAX: 1},
            address=extra_address,
            port_stride=0,
            words=len(extra),
            destination=beside,
        )
    copy({Engine.SOFTMAX: 1}, codes_bank, codes)
    store({Engine.LOAD: extra_load}, beside, extra)
    copy({Engine.DRAIN: drained}, codes_bank + 2 * m, requantise(_product(y, wq), **arrays))

    # With row shifts once more than with the table, which has none.
    constants, arrays = _constants(rng, HEAD_DIM, 22)
    if shifts is not None:
        b.tiles(np.zeros((0, HEAD_DIM), np.int64), constants)
        drained = b.matmul(
            codes_bank,
            (m, m, HEAD_DIM),
            {Engine.SOFTMAX: 1},
            signed=0,
            operand=(StationarySource.ROWS, key_value + m, m),
            destination=scores + 40,
            mode=DrainMode.SHIFTED,
            low=-127,
            slot=1,
        )
        shifted = requantise(_product(codes, values), **arrays, low=-127, row_shift=shifts)
        copy({Engine.DRAIN: drained}, scores + 40, shifted)
        constants, arrays = _constants(rng, HEAD_DIM, 22)
    b.tiles(np.zeros((0, HEAD_DIM), np.int64), constants)
    drained = b.matmul(
        codes_bank,
        (m, m, HEAD_DIM),
        {Engine.SOFTMAX: 1, Engine.LOAD: table_load},
        signed=0,
        operand=(StationarySource.ROWS, key_value + m, m),
        destination=query + 32,
        mode=DrainMode.TABLE,
        zero_point=-3,
        low=-127,
        slot=1,
    )
    attended = apply_table(
        requantise(_product(codes, values), **arrays, zero_point=-3, low=-127), table
    )

    # Head.
    w = _weights(rng, HEAD_DIM, CLASSES)
    constants, arrays = _constants(rng, CLASSES, 20)
    b.tiles(w, constants)
    drained = b.matmul(
        query + 32,
        (m, HEAD_DIM, CLASSES),
        {Engine.DRAIN: drained, Engine.STORE: b.count[Engine.STORE]},
        destination=copied,
        mode=DrainMode.WIDE,
    )
    head = requantise_int16(_product(attended, w), **arrays)
    store({Engine.DRAIN: drained}, copied, head)

    # One row alone, as a classification head has it: passes shorter than the array's latency.
    w = _weights(rng, EMBEDDING, HEAD_DIM)
    constants, arrays = _constants(rng, HEAD_DIM, 20)
    b.tiles(w, constants)
    drained = b.matmul(
        normalised,
        (1, EMBEDDING, HEAD_DIM),
        after_layernorm,
        stride=m,
        destination=residual_bank + 5 * m,
        mode=DrainMode.WIDE,
    )
    single = requantise_int16(_product(y[:1], w), **arrays)
    store({Engine.DRAIN: drained}, residual_bank + 5 * m, single, m)

    b.emit("END", dict(b.count))
    program = b"".join(encode(item, index) for index, item in enumerate(b.program))
    if len(program) > PAGE:
        raise ValueError(f"The program must fit {PAGE} bytes, not {len(program)}")
    b.image[: len(program)] = program
    output = bytearray(b"\xa5" * (-(-position // PAGE) * PAGE))
    for offset, data in stored:
        output[offset : offset + len(data)] = data
    return TestFrame(
        config=config,
        image=bytes(b.image),
        input_bytes=pixels.tobytes(),
        output=bytes(output),
        instructions=len(b.program),
        image_load=image_load - 1,
        weights=tuple(b.weights),
        loads=b.loads,
        last_store=(stored[-1][0], position),
    )
