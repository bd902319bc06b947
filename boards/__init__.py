# SPDX-License-Identifier: Apache-2.0
"""Boards: one data file each, with device resources, clock and memory.

The files of this folder are the boards known by name; a user's own is a ``.toml`` file with the
same keys, anywhere. Once read, a board is an object that travels with the design: nothing later
looks it up again.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from hwgen.columns import dense, parse_groups
from hwgen.config import COLUMNS, PARAMETERS, AcceleratorConfig, check_parameter
from hwgen.errors import ConfigError, FormatError
from hwgen.reading import STRICT, printable, read_toml, show, validate

_FOLDER = Path(__file__).parent
#: Resources that every board states and every design is measured in.
RESOURCES = ("lut", "ff", "dsp", "bram36")
#: Rows of a cascade for which a board's table says how many fit: those of the array.
CASCADE_ROWS = (16, 32, 64, 128)
#: The board of a design for which the user names none.
DEFAULT_BOARD = "zcu102"


def _name(text: str) -> str:
    # It becomes part of a design's name, of a module's and of a folder's.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", text):
        raise ValueError("1 to 32 letters, digits, '_' and '-', the first a letter or digit")
    return text


def _part(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}", text):
        raise ValueError("the ordering name of a device, 1 to 64 characters without spaces")
    return text


def _title(text: str) -> str:
    if not text.strip() or len(text) > 80 or not text.isprintable():
        raise ValueError("1 to 80 printable characters")
    return text


#: What a column of the array may be made of.
Primitive = Literal["DSP48E2", "none"]

#: Families of devices whose DSP blocks are other ones: a beginning of the part, family, block.
_OTHER_BLOCKS = (
    ("xc7|xa7|xq7", "7 series", "DSP48E1"),
    ("xcv[cephmn]|xav[cephmn]|xqv[cephmn]", "Versal", "DSP58"),
    ("xc[2-6]|xa[2-6]|xq[2-6]", "of an older generation", "another DSP block"),
)
_AMD = "x[caq]"
_LATTICE = "lf[ecdm]|lif|lcm|lamxo|ice"


def _other_block(part: str) -> tuple[str, str] | None:
    """Family and DSP block of a part that is known to lack DSP48E2."""
    for beginning, family, block in _OTHER_BLOCKS:
        if re.match(beginning, part, re.IGNORECASE):
            return family, block
    return None


def _usual_primitive(values: dict[str, Any]) -> Primitive:
    lacking = values["synthesis_target"] != "xcup" or _other_block(values["part"])
    return "none" if lacking else "DSP48E2"


class _Section(BaseModel):
    """A table of a board file: exactly these keys, nothing converted."""

    model_config = STRICT


Size = Annotated[int, Field(ge=1, le=1 << 30)]


class Resources(_Section):
    """What the device has."""

    lut: Size
    ff: Size
    dsp: Size  #: of whatever kind
    bram36: Size  #: blocks of 36 Kbit

    def __getitem__(self, resource: str) -> int:
        """One of :data:`RESOURCES` by name."""
        return dict(self)[resource]


class Budget(_Section):
    """The fraction of each resource that a design may use."""

    lut: float = Field(gt=0, le=1)
    ff: float = Field(gt=0, le=1)
    dsp: float = Field(gt=0, le=1)
    bram36: float = Field(gt=0, le=1)

    def __getitem__(self, resource: str) -> float:
        """One of :data:`RESOURCES` by name."""
        return dict(self)[resource]


class Clock(_Section):
    """The clock of a design that asks for no other (an assumption, not a measurement)."""

    mhz: int = Field(ge=1, le=1000)
    #: The most for DSP blocks that run at twice a design's clock; without it no design has any.
    dsp_mhz: Annotated[int, Field(ge=2, le=2000)] | None = None


class ExternalMemory(_Section):
    """The external memory, as a design meets it."""

    bytes_per_second: int = Field(ge=10**7, le=10**12)  #: summed over ports and directions
    latency_cycles: int = Field(ge=1, le=10_000)  #: from an accepted read address to its data
    ports: int = Field(ge=1, le=64)  #: most AXI4 masters
    port_bits: Literal[128]  #: the data width of the accelerator's masters


class _Array(_Section):
    """An array: fields of the configuration."""

    rows: int
    columns: int | None = Field(None, ge=8, le=1024)  #: 8-bit DSP columns
    groups: str | None = None  #: in the place of ``columns``, as ``--groups`` takes them
    memory_ports: int
    requantise_lanes: int | None = None  #: rows / 2 if they are not stated
    layernorm_lanes: int | None = None
    softmax_vec: int | None = None  #: lanes of the softmax, where the graph does not state them

    @model_validator(mode="after")
    def _check(self) -> _Array:
        if (self.columns is None) == (self.groups is None):
            raise FormatError("columns or groups must be stated, one of them")
        if self.columns is not None:
            check_parameter("columns", COLUMNS, self.columns)
        # The stage that sizes the memories sizes this FIFO, too: here it must only suffice.
        fifo = PARAMETERS["constant_fifo_beats"].high
        AcceleratorConfig(**self.fields(), constant_fifo_beats=fifo)
        return self

    def fields(self) -> dict[str, Any]:
        """Fields of the configuration."""
        if self.groups is not None:
            groups = parse_groups(self.groups)
        else:
            assert self.columns is not None
            groups = dense(self.columns)
        values = {"rows": self.rows, "groups": groups, "memory_ports": self.memory_ports}
        for name in ("requantise_lanes", "layernorm_lanes", "softmax_vec"):
            if (lanes := getattr(self, name)) is not None:
                values[name] = lanes
        return values


class Preset(_Array):
    """The array for a graph without a design."""

    #: That of models which would leave the other one idle.
    small: _Array = _Array(rows=16, columns=16, memory_ports=1)


class Board(_Section):
    """What the generator knows of a board; its fields are the keys of a board file."""

    name: Annotated[str, AfterValidator(_name)]
    title: Annotated[str, AfterValidator(_title)]
    part: Annotated[str, AfterValidator(_part)]  #: ordering name of the device
    synthesis_target: Literal["xcup", "ecp5"]  #: target of hwgen.synth
    #: What the array's columns may be made of. Without DSP48E2, synthesis gets their plain twins.
    dsp_primitive: Primitive = Field(default_factory=_usual_primitive)
    #: Height and number of the uninterrupted DSP columns; None where they are not known.
    dsp_column_heights: tuple[tuple[Size, Size], ...] | None = None
    resources: Resources
    budget: Budget
    clock: Clock
    memory: ExternalMemory
    preset: Preset

    @model_validator(mode="after")
    def _check(self) -> Board:
        self._check_family()
        self._check_columns()
        for resource in RESOURCES:
            if self.limit(resource) < 1:
                raise FormatError(
                    f"budget.{resource} must leave at least 1 of {self.resources[resource]},"
                    f" not {self.budget[resource]!r} of it"
                )
        for name, preset in (("preset", self.preset), ("preset.small", self.preset.small)):
            if preset.memory_ports > self.memory.ports:
                raise FormatError(
                    f"{name}.memory_ports must be at most memory.ports = {self.memory.ports},"
                    f" not {preset.memory_ports}",
                    nearest=self.memory.ports,
                )
        return self

    def _check_family(self) -> None:
        """Refuse what the part's name contradicts, where it is recognised."""
        target = self.synthesis_target
        for maker, beginning, right in (("AMD", _AMD, "xcup"), ("Lattice", _LATTICE, "ecp5")):
            if re.match(beginning, self.part, re.IGNORECASE) and target != right:
                raise FormatError(
                    f"synthesis_target must be {right!r}, not {target!r}",
                    why=f"part {self.part!r} is {maker}'s",
                    nearest=right,
                )
        if self.dsp_primitive == "none":
            return
        if target != "xcup":
            why = f"synthesis_target {target!r} has no DSP48E2"
        elif other := _other_block(self.part):
            why = f"part {self.part!r} is {other[0]} and has {other[1]}"
        else:
            return
        raise FormatError(
            f"dsp_primitive must be 'none', not {self.dsp_primitive!r}", why=why, nearest="none"
        )

    def _check_columns(self) -> None:
        if self.dsp_column_heights is None:
            return
        if self.dsp_primitive == "none":
            raise FormatError(
                "dsp_column_heights must be absent", why="dsp_primitive is 'none': no cascades"
            )
        total = sum(height * count for height, count in self.dsp_column_heights)
        if total != self.resources.dsp:
            raise FormatError(
                f"dsp_column_heights must add up to resources.dsp = {self.resources.dsp},"
                f" not {total}"
            )

    def cascades(self, rows: int) -> int | None:
        """How many cascades of ``rows`` DSPs the columns hold; None where that is not known."""
        if self.dsp_column_heights is None:
            return None
        return sum(count * (height // rows) for height, count in self.dsp_column_heights)

    @property
    def memory_bytes_per_cycle(self) -> float:
        """Bandwidth of the external memory in bytes per cycle of the board's clock."""
        return self.memory.bytes_per_second / (self.clock.mhz * 1_000_000)

    def limit(self, resource: str) -> int:
        """How much of a resource a design may use: the whole part of resources x budget."""
        return int(self.resources[resource] * self.budget[resource])

    def overruns(self, used: Mapping[str, float]) -> dict[str, float]:
        """Resources of which ``used`` asks for more than the limit, with the excess factor."""
        return {
            resource: used[resource] / self.limit(resource)
            for resource in RESOURCES
            if used.get(resource, 0) > self.limit(resource)
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: Any, where: str | None = None) -> Board:
        """Inverse of :meth:`to_json`; everything is checked.

        Raises:
            FormatError: it is no board; names the key.
        """
        return validate(values, cls, where=where)


def list_boards() -> list[str]:
    """Names of all boards, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def get_board(name: str) -> Board:
    """The board of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    names = list_boards()
    if name not in names:
        close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)
        raise ConfigError(
            f"Board must be one of {', '.join(names)} or a .toml file, not {show(name)}",
            nearest=close[0],
        )
    return read_toml(_FOLDER / f"{name}.toml", Board)


def open_board(name_or_path: str) -> Board:
    """A known board, or that of a user's file: what ends in ``.toml`` or has a path separator.

    Raises:
        ConfigError: no board has that name; names the nearest, or the file that may be meant.
        FormatError: the file holds no board.
    """
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        return read_toml(name_or_path, Board)
    try:
        return get_board(name_or_path)
    except ConfigError as error:
        if os.path.isfile(name_or_path):
            raise ConfigError(error.what, nearest=printable(f"./{name_or_path}")) from error
        raise
