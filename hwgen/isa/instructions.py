# SPDX-License-Identifier: Apache-2.0
"""The instruction set: one field table from which everything else is derived.

An instruction is 256 bits (32 bytes, little endian, two 128-bit beats): opcode, one *wait
threshold* per other engine, body, check. Instructions are fetched in order, sent to the queue of
their engine and executed in order there, so that none waits for its own; engines run beside each
other. An instruction starts when for every other engine ``e`` the number of instructions that ``e``
has completed since START is at least ``wait_e`` (0: no wait). Three handshakes are implicit in
hardware and need no thresholds: weight stream -> STATIONARY, stationary operands -> MATMUL,
accumulator bank MATMUL -> DRAIN (and the constants that DRAIN takes from the tile stream). The
order of instructions must be a valid sequential order; then no queue can deadlock.

Addresses: *word addresses* name a word of ``rows`` bytes of the activation memory: bank in bits
19..17, offset in bits 16..0. A tensor ``[tokens, channels]`` of int8 is stored in slices of
``rows`` channels: channel c of token t is byte ``c % rows`` of word ``base + (c // rows) * stride +
t``. int16 tensors (residual, head) hold ``rows / 2`` channels a word, little endian. *External
addresses* are in units of 16 bytes from the base register that the instruction names.

Check: the last two bytes, high byte first, are the CRC-16 (polynomial 0x1021, initial value 0xFFFF,
no reflection) of the 30 bytes before them, XOR the low 16 bits of the instruction's index. So up to
three wrong bits anywhere in an instruction, one burst of up to 16, and an instruction in another's
place are found. Hardware with ``instruction_check`` dispatches nothing of an instruction whose
check is wrong; hardware without it ignores these bits.

The first instruction is BEGIN: an image for other hardware, or memory without an image, is refused
before anything of it runs.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from hwgen.columns import MAXIMUM_GROUPS
from hwgen.errors import ProgramError

INSTRUCTION_BITS = 256
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
CHECK_BITS = 16
CHECKED_BITS = INSTRUCTION_BITS - CHECK_BITS  #: the check stands above them
WAIT_BITS = 16
BANK_BITS = 3
OFFSET_BITS = 17
WORD_ADDRESS_BITS = BANK_BITS + OFFSET_BITS
EXTERNAL_ADDRESS_BITS = 28
BEAT_BYTES = 16  #: one AXI beat, the unit of external addresses
CONSTANT_BYTES = 8  #: one per-column or per-channel record of constants
#: Bank number of the row shifts in tables of layer boundaries: words of one byte, two slots of
#: ``shift_words`` of the configuration. No instruction addresses it.
ROW_SHIFT_BANK = 7
ROW_SHIFT_SLOTS = 2
IMAGE_MAGIC = int.from_bytes(b"HWGI", "little")


class Engine(IntEnum):
    """Engines in the order of their wait thresholds."""

    LOAD = 0
    STATIONARY = 1
    MATMUL = 2
    DRAIN = 3
    SOFTMAX = 4
    LAYERNORM = 5
    STORE = 6


#: Engines that a MATMUL waits for before it begins, in the order in which a cycle is counted.
WAITED_FOR = (Engine.LOAD, Engine.DRAIN, Engine.SOFTMAX, Engine.LAYERNORM)


class DocumentedEnum(IntEnum):
    """Values of a field, each with its meaning for the reference: ``NAME = number, "meaning"``."""

    doc: str

    def __new__(cls, value: int, doc: str) -> Self:
        """A member equals its number."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member


class StationarySource(DocumentedEnum):
    """Where STATIONARY takes its operands from."""

    WEIGHTS = 0, "packed weights from the tile stream"
    ROWS = 1, "V: words lie along the columns of the array"
    COLUMNS = 2, "K: words lie along the reduction; turned in the corner-turn buffer"


class DrainMode(DocumentedEnum):
    """What DRAIN writes."""

    INT8 = 0, "requantise to int8"
    TABLE = 1, "requantise to int8, then the 256-entry table (GELU)"
    RESIDUAL = 2, "int16: requantised accumulator + the word at the destination"
    WIDE = 3, "int16 without residual (head)"
    SHIFTED = 4, "requantise to int8, the row's shift added to the column's (fractional softmax)"


#: Whose values have names: a field of them has the name of the enum in the place of a meaning.
FIELD_ENUMS: tuple[type[DocumentedEnum], ...] = (StationarySource, DrainMode)


@dataclass(frozen=True)
class Field:
    """One field of an instruction body: width in bits, signedness and meaning."""

    name: str
    bits: int
    doc: str
    signed: bool = False

    @property
    def minimum(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Opcode:
    """One instruction: number, engine (None: the sequencer itself) and body fields."""

    name: str
    code: int
    engine: Engine | None
    doc: str
    fields: tuple[Field, ...] = ()

    @property
    def waits_for(self) -> tuple[Engine, ...]:
        """Engines of its thresholds, from bit 4 up: all but its own; END's all, BEGIN's none."""
        if self.engine is None and self.fields:
            return ()
        return tuple(engine for engine in Engine if engine != self.engine)


def _word(name: str, doc: str) -> Field:
    return Field(name, WORD_ADDRESS_BITS, doc)


def _stride(name: str, doc: str) -> Field:
    return Field(name, 13, doc)


_EXTERNAL = Field("address", EXTERNAL_ADDRESS_BITS, "external address, units of 16 bytes")
_PORT_STRIDE = Field("port_stride", 24, "distance between the ports' regions, units of 16 bytes")
_ROWS = Field("rows", 12, "tokens processed, 1..4095")
_TILES = Field("tiles", 16, "output tiles")
_PASSES = Field("passes", 12, "slices of `rows` reduction indices per tile")
_SLICES = Field(
    "slices",
    4,
    "weight slices per tile (1: the layer's width fits the columns), the top one first; slices are "
    "the outer, passes the inner loop",
)

OPCODES: tuple[Opcode, ...] = (
    Opcode(
        "LOAD_TILES",
        1,
        Engine.LOAD,
        "Stream tile records from the image: per tile first the constants (to the constant "
        "FIFO), then the packed "
        "weights (to the array). A wide beat is 16 bytes of every memory port: port p reads its "
        "own contiguous "
        "region at address + p * port_stride.",
        (
            _EXTERNAL,
            _PORT_STRIDE,
            _TILES,
            Field("constant_beats", 12, "wide beats of constants per tile"),
            Field("weight_beats", 20, "wide beats of packed weights per tile"),
            Field("beats", 24, "wide beats in all: tiles * (constant_beats + weight_beats)"),
        ),
    ),
    Opcode(
        "LOAD_WORDS",
        2,
        Engine.LOAD,
        "Copy consecutive words from the image to the activation memory: from wide beats as "
        "LOAD_TILES, where a word is one or several whole ones, else from port 0.",
        (
            _EXTERNAL,
            _PORT_STRIDE,
            Field("words", 17, "words"),
            _word("destination", "first word"),
        ),
    ),
    Opcode(
        "LOAD_IMAGE",
        3,
        Engine.LOAD,
        "Read the input image (uint8 [H, W, channels]) and write patches: codes pixel - 128. "
        "Loops, outer to inner: "
        "patch row, line of a patch, patch of the row, group of 2^group_log2 bytes. Address from "
        "the input base.",
        (
            _EXTERNAL,
            _word("destination", "word of the first patch's slice 0"),
            _stride("stride", "words between slices"),
            Field("patch_rows", 8, "rows of patches"),
            Field("lines", 7, "lines of a patch"),
            Field("patches", 8, "patches of a row"),
            Field("groups", 8, "groups of one line of one patch"),
            Field("group_log2", 3, "log2 of the bytes of a group, 0..4"),
            Field("beats", 20, "beats in all: the bytes of all loops, rounded up to 16"),
        ),
    ),
    Opcode(
        "LOAD_LAYERNORM",
        4,
        Engine.LOAD,
        "Load per-channel LayerNorm records (8 bytes: beta int24, gamma int8 in byte 3, alpha in "
        "byte 4).",
        (
            _EXTERNAL,
            Field("beats", 12, "beats, two channels each"),
            Field("slot", 1, "parameter slot"),
        ),
    ),
    Opcode(
        "LOAD_TABLE",
        5,
        Engine.LOAD,
        "Load one 256-byte element-wise table.",
        (_EXTERNAL, Field("slot", 1, "table slot")),
    ),
    Opcode(
        "STATIONARY",
        6,
        Engine.STATIONARY,
        "Supply the stationary operand of every pass of a MATMUL, in its order (tile, slice, "
        "pass).",
        (
            Field("source", 2, StationarySource.__name__),
            _word("base", "ROWS, COLUMNS: first word of the operand's tensor"),
            _stride("stride", "words between slices"),
            _TILES,
            _PASSES,
            _SLICES,
            Field(
                "limit",
                12,
                "ROWS: tokens; COLUMNS: valid columns; beyond it zeros",
            ),
            Field(
                "pass_tokens",
                8,
                "ROWS: tokens of a pass, the first reduction indices of it, 1..`rows`; beyond "
                "them zeros",
            ),
            *(
                Field(
                    f"planes{group}",
                    4,
                    f"WEIGHTS: bits of a packed weight of column group {group}, 0: the tile does "
                    "not use it",
                )
                for group in range(MAXIMUM_GROUPS)
            ),
            Field("carry", 1, "WEIGHTS: a plane of carries comes before those of the bits"),
        ),
    ),
    Opcode(
        "MATMUL",
        7,
        Engine.MATMUL,
        "Stream rows of activations through the array: for every tile, slice, pass: `rows` words "
        "from "
        "base + pass * stride. Alternates the accumulator bank per tile.",
        (
            _word("base", "word of the first row, slice 0"),
            _stride("stride", "words between slices"),
            _ROWS,
            _TILES,
            _PASSES,
            _SLICES,
            Field("signed", 1, "activations: 1 int8, 0 uint8"),
            Field(
                "slice_bits",
                3,
                "left shift of the accumulators in front of every slice but the first",
            ),
        ),
    ),
    Opcode(
        "DRAIN",
        8,
        Engine.DRAIN,
        "Requantise the accumulators of the next `tiles` tiles and write their valid columns: per "
        "tile, per word of the destination, or half a word of bytes where there are `rows` / 2 "
        "lanes, per row. Constants per tile come from the tile stream.",
        (
            _word("destination", "word of the first row that the first column goes to"),
            _stride("stride", "words between slices"),
            _ROWS,
            _TILES,
            Field("columns", 16, "valid output columns over all tiles"),
            Field("mode", 3, DrainMode.__name__),
            Field("zero_point", 8, "added after the shift (int8 modes)", signed=True),
            Field("low", 8, "lower clip (int8 modes)", signed=True),
            Field("high", 8, "upper clip (int8 modes)", signed=True),
            Field("slot", 1, "table slot; mode SHIFTED: slot of row shifts"),
            Field("tile_columns", 11, "columns of a tile: those of the groups that it uses"),
            Field(
                "offset",
                7,
                "channel of the tensor, modulo `rows`, that the first column goes to",
            ),
            Field(
                "apart",
                1,
                "1: every tile begins a word of its own (int8 modes, `offset` 0, tiles of at most "
                "a word); 0: where the one before has ended",
            ),
        ),
    ),
    Opcode(
        "SOFTMAX",
        9,
        Engine.SOFTMAX,
        "E2Softmax of rows of int8 logits to uint8 codes, in the design's mode; what words hold "
        "beside logits becomes code 0. In place is allowed. In mode fractional the shift of row "
        "r goes to entry r of the slot of row shifts, for DRAIN.",
        (
            _word("source", "word of the first row, slice 0"),
            _stride("source_stride", "words between slices"),
            _word("destination", "word of the first row, slice 0"),
            _stride("destination_stride", "words between slices"),
            _ROWS,
            Field("words", 12, "words of a row"),
            Field("word_length", 8, "logits of a word, its first bytes, 1..`rows`"),
            Field("last_length", 8, "logits of a row's last word, 1..`word_length`"),
            Field("fraction_bits", 4, "of the logits"),
            Field("slot", 1, "slot of row shifts (mode fractional)"),
        ),
    ),
    Opcode(
        "LAYERNORM",
        10,
        Engine.LAYERNORM,
        "PTF codes from int16 residual rows by shifts, then AILayerNorm to int8.",
        (
            _word("source", "word of the first row, residual group 0"),
            _stride("source_stride", "words between residual groups (rows / 2 channels)"),
            _word("destination", "word of the first row, slice 0"),
            _stride("destination_stride", "words between slices"),
            _ROWS,
            Field("channels", 12, "C"),
            Field("ptf_shift", 4, "t of the PTF codes, 0..11"),
            Field("zero_point", 8, "of the PTF codes"),
            Field("gamma_shift", 4, "kg"),
            Field("beta_fraction_bits", 4, "fb"),
            Field("output_zero_point", 8, "zo", signed=True),
            Field("exact", 1, "1: squares=exact, 0: compressed"),
            Field("slot", 1, "parameter slot"),
        ),
    ),
    Opcode(
        "STORE",
        11,
        Engine.STORE,
        "Write words source, source + stride, ... to consecutive external addresses from the "
        "output base.",
        (
            _EXTERNAL,
            _word("source", "first word"),
            _stride("stride", "words between stored words"),
            Field("words", 16, "words"),
        ),
    ),
    Opcode(
        "BEGIN",
        14,
        None,
        "Instruction 0 and no other: the hardware compares both fields with its own constants "
        "before it dispatches anything.",
        (
            Field("magic", 32, f"0x{IMAGE_MAGIC:08X}, the bytes HWGI"),
            Field("build", 64, "build identity of the hardware that the image is for"),
        ),
    ),
    Opcode("END", 15, None, "When the thresholds are met the frame is done: interrupt."),
)

BY_NAME = {opcode.name: opcode for opcode in OPCODES}
BY_CODE = {opcode.code: opcode for opcode in OPCODES}

OPCODE_BITS = 4
BODY_OFFSET = OPCODE_BITS + WAIT_BITS * (len(Engine) - 1)
BODY_BITS = CHECKED_BITS - BODY_OFFSET


@dataclass(frozen=True)
class Instruction:
    """One decoded instruction: opcode name, field values, wait thresholds per engine.

    Those of engines that the opcode does not wait for are 0.
    """

    opcode: str
    fields: dict[str, int]
    waits: tuple[int, ...] = (0,) * len(Engine)

    def __post_init__(self) -> None:
        """Check names and ranges."""
        if self.opcode not in BY_NAME:
            raise ProgramError(f"Opcode must be one of {sorted(BY_NAME)}, not {self.opcode!r}")
        table = BY_NAME[self.opcode].fields
        if set(self.fields) != {field.name for field in table}:
            raise ProgramError(
                f"{self.opcode} must have fields {[f.name for f in table]}, not "
                f"{sorted(self.fields)}"
            )
        for field in table:
            value = self.fields[field.name]
            if not field.minimum <= value <= field.maximum:
                raise ProgramError(
                    f"{self.opcode}.{field.name} must be in {field.minimum}..{field.maximum}, "
                    f"not {value!r}"
                )
        if len(self.waits) != len(Engine) or not all(
            0 <= wait < 1 << WAIT_BITS for wait in self.waits
        ):
            raise ProgramError(
                f"{self.opcode}: wait thresholds must be {len(Engine)} values in "
                f"0..{(1 << WAIT_BITS) - 1}, not {self.waits!r}"
            )
        waits_for = BY_NAME[self.opcode].waits_for
        for engine in Engine:
            if self.waits[engine] and engine not in waits_for:
                raise ProgramError(
                    f"{self.opcode} must not wait for {engine.name}: its threshold must be 0, not "
                    f"{self.waits[engine]}"
                )

    @property
    def engine(self) -> Engine | None:
        """The engine that executes it; None for BEGIN and END."""
        return BY_NAME[self.opcode].engine

    def __getitem__(self, name: str) -> int:
        """Value of a field."""
        return self.fields[name]


def field_offsets(opcode: Opcode) -> dict[str, int]:
    """Bit offset of each field of the body, packed from :data:`BODY_OFFSET` up in table order."""
    offsets: dict[str, int] = {}
    position = BODY_OFFSET
    for field in opcode.fields:
        offsets[field.name] = position
        position += field.bits
    if position > CHECKED_BITS:
        raise ProgramError(f"{opcode.name} needs {position} bits, more than {CHECKED_BITS}")
    return offsets


def with_check(body: bytes, index: int) -> bytes:
    """The bytes of the instruction at place ``index`` of a program, from those before its check."""
    check = binascii.crc_hqx(body, 0xFFFF) ^ (index & 0xFFFF)
    return body + check.to_bytes(CHECK_BITS // 8, "big")


def encode(instruction: Instruction, index: int) -> bytes:
    """Encode one instruction to 32 bytes; ``index`` is its place in the program."""
    opcode = BY_NAME[instruction.opcode]
    word = opcode.code
    for place, engine in enumerate(opcode.waits_for):
        word |= instruction.waits[engine] << (OPCODE_BITS + WAIT_BITS * place)
    offsets = field_offsets(opcode)
    for field in opcode.fields:
        mask = (1 << field.bits) - 1
        word |= (instruction.fields[field.name] & mask) << offsets[field.name]
    return with_check(word.to_bytes(CHECKED_BITS // 8, "little"), index)


def decode(data: bytes, index: int) -> Instruction:
    """Decode the 32 bytes at place ``index`` of a program.

    Raises:
        ProgramError: the check is wrong, or the opcode unknown.
    """
    where = f"instruction {index}"
    if len(data) != INSTRUCTION_BYTES:
        raise ProgramError(
            f"An instruction must be {INSTRUCTION_BYTES} bytes, not {len(data)}", where=where
        )
    body = CHECKED_BITS // 8
    if (sound := with_check(data[:body], index)) != data:
        check, stored = sound[body:].hex(), data[body:].hex()
        raise ProgramError(f"The check must be 0x{check}, not 0x{stored}", where=where)
    word = int.from_bytes(data, "little")
    code = word & ((1 << OPCODE_BITS) - 1)
    if code not in BY_CODE:
        raise ProgramError(f"Opcode must be one of {sorted(BY_CODE)}, not {code}", where=where)
    opcode = BY_CODE[code]
    waits = [0] * len(Engine)
    for place, engine in enumerate(opcode.waits_for):
        waits[engine] = word >> (OPCODE_BITS + WAIT_BITS * place) & ((1 << WAIT_BITS) - 1)
    fields: dict[str, int] = {}
    offsets = field_offsets(opcode)
    for field in opcode.fields:
        value = word >> offsets[field.name] & ((1 << field.bits) - 1)
        if field.signed and value >> (field.bits - 1):
            value -= 1 << field.bits
        fields[field.name] = value
    return Instruction(opcode.name, fields, tuple(waits))
