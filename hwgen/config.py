# SPDX-License-Identifier: Apache-2.0
"""The one configuration object: drives RTL, compiler, reference and models.

Everything that is a property of the hardware stands here once; derived widths are properties.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hwgen.errors import ConfigError

#: Roles of the activation memory's banks, in the order of their numbers. Each is a memory of its
#: own with one read and one write port; the compiler places every tensor by its role so that
#: concurrent engines use different banks.
BANK_ROLES: tuple[str, ...] = (
    "residual",  # int16 residual stream; head logits
    "normalised",  # LayerNorm outputs
    "query",  # q; attention output
    "key_value",  # k, v
    "scores0",  # attention logits and codes, ping
    "scores1",  # attention logits and codes, pong
    "hidden",  # image patches; GELU outputs; pooled row
)


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Everything that decides the hardware.

    ``rows`` is the reduction size of the systolic array and the bytes of an activation word;
    requantise lanes and LayerNorm lanes are ``rows / 2`` (one int16 word a cycle).
    """

    rows: int = 16  #: power of two, 16..128
    columns: int = 16  #: multiple of rows / 2; divides rows or is a multiple of it
    weight_bits: int = 8  #: width of an array column's weight, 1..8
    softmax_vec: int = 32  #: slice length V of E2Softmax (part of the function)
    max_row_length: int = 256  #: longest softmax row
    max_channels: int = 256  #: widest LayerNorm
    tile_rows: int = 64  #: depth of one accumulator bank: most tokens of a MATMUL
    bank_words: tuple[int, ...] = (64,) * len(
        BANK_ROLES
    )  #: words per bank, in the order of BANK_ROLES
    memory_ports: int = 1  #: AXI4 masters of 128 bits, 1..6
    read_fifo_beats: int = 512  #: prefetch FIFO per memory port, beats of 16 bytes
    constant_fifo_beats: int = 128  #: per-column constants in flight, wide beats
    burst_beats: int = 16  #: longest AXI burst
    outstanding: int = 16  #: AXI read bursts in flight per port
    queue_depth: int = 8  #: instructions per engine queue
    clock_mhz: int = 300

    def __post_init__(self) -> None:
        """Check every type and range; the message says what is legal."""
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if field.name == "bank_words" else (value,)
            # type() and not isinstance: a JSON true is an int to Python.
            if type(numbers) is not tuple or not all(type(n) is int for n in numbers):
                kind = "a tuple of integers" if field.name == "bank_words" else "an integer"
                raise ConfigError(f"{field.name} must be {kind}, not {value!r:.80}")
        if self.rows not in (16, 32, 64, 128):
            raise ConfigError(f"rows must be 16, 32, 64 or 128, not {self.rows!r}")
        if self.columns <= 0 or self.columns % (self.rows // 2):
            raise ConfigError(
                f"columns must be a multiple of rows / 2 = {self.rows // 2}, not {self.columns!r}"
            )
        if self.rows % self.columns and self.columns % self.rows:
            raise ConfigError(
                f"columns must divide rows = {self.rows} or be a multiple of it, not "
                f"{self.columns!r}"
            )
        self._range("weight_bits", 1, 8)
        self._range("memory_ports", 1, 6)
        self._range("tile_rows", 2, 4095)
        self._range("max_row_length", 1, 4095)
        self._range("max_channels", 8, 4095)
        self._range("outstanding", 1, 64)
        self._range("queue_depth", 2, 64)
        self._range("clock_mhz", 1, 1000)
        if self.softmax_vec not in (8, 16, 32, 64):
            raise ConfigError(f"softmax_vec must be 8, 16, 32 or 64, not {self.softmax_vec!r}")
        if self.burst_beats not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            raise ConfigError(
                f"burst_beats must be a power of two up to 256, not {self.burst_beats!r}"
            )
        if (
            self.read_fifo_beats & (self.read_fifo_beats - 1)
            or self.read_fifo_beats < 2 * self.burst_beats
        ):
            raise ConfigError(
                "read_fifo_beats must be a power of two and hold two bursts "
                f"({2 * self.burst_beats}), not {self.read_fifo_beats!r}"
            )
        if self.constant_fifo_beats < 2 * self.constant_beats:
            raise ConfigError(
                f"constant_fifo_beats must hold two tiles ({2 * self.constant_beats}), "
                f"not {self.constant_fifo_beats!r}"
            )
        if len(self.bank_words) != len(BANK_ROLES) or not all(
            0 < words <= 1 << 17 for words in self.bank_words
        ):
            raise ConfigError(
                f"bank_words must be {len(BANK_ROLES)} sizes in 1..131072, not {self.bank_words!r}"
            )

    def _range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} must be in {low}..{high}, not {value!r}")

    @property
    def lanes(self) -> int:
        """Requantise lanes, LayerNorm lanes, columns of a group, int16 channels of a word."""
        return self.rows // 2

    @property
    def groups(self) -> int:
        """Column groups of the array."""
        return self.columns // self.lanes

    @property
    def word_bits(self) -> int:
        """Bits of an activation word."""
        return 8 * self.rows

    @property
    def wide_beat_bits(self) -> int:
        """Bits that all memory ports deliver together per beat."""
        return 128 * self.memory_ports

    @property
    def constant_beats(self) -> int:
        """Wide beats of one tile's per-column constants (8 bytes a column)."""
        return -(-self.columns * 64 // self.wide_beat_bits)

    @property
    def weight_beats_per_pass(self) -> int:
        """Wide beats of the packed weights of one pass, padded to a beat."""
        return -(-self.rows * self.columns * self.weight_bits // self.wide_beat_bits)

    @property
    def macs_per_cycle(self) -> int:
        """Products that the array makes in a cycle."""
        return self.rows * self.columns

    def bank(self, role: str) -> int:
        """Number of the bank with that role."""
        return BANK_ROLES.index(role)

    def replace(self, **changes: Any) -> AcceleratorConfig:
        """A copy with changes, validated."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain values, in declaration order."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Any) -> AcceleratorConfig:
        """Inverse of :meth:`to_json`; unknown or missing keys are refused."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict):
            raise ConfigError(f"The configuration must be a table, not {values!r:.80}")
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise ConfigError(
                f"The configuration must have exactly the keys of this version; check {odd!r:.200}"
            )
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)
