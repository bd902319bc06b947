# SPDX-License-Identifier: Apache-2.0
"""What every unit consists of: parameters, vectors, and how vectors become words of streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from amaranth.lib import wiring

from hwgen.errors import UsageError

Value = int | str
Values = Mapping[str, Value]
Vectors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a unit: an integer of a range, one of a few words, or a text."""

    name: str  #: as in the integer contract, with underscores
    default: Value
    doc: str
    minimum: int = 0
    maximum: int = 0
    choices: tuple[str, ...] = ()  #: legal words; empty for an integer
    form: str = ""  #: what a text looks like; the unit itself checks it
    power_of_two: bool = False  #: only powers of two
    build: bool = False  #: True: decides the hardware; False: run-time data, the same hardware

    @property
    def option(self) -> str:
        """The command-line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def legal(self) -> str:
        """The legal values, for help and messages."""
        if self.choices:
            return " or ".join(repr(choice) for choice in self.choices)
        if self.form:
            return self.form
        kind = "a power of two in" if self.power_of_two else "in"
        return f"{kind} {self.minimum}..{self.maximum}"

    def check(self, value: object) -> Value:
        """The value, from itself or from its text.

        Raises:
            UsageError: it is not legal; names the nearest legal one.
        """
        if self.choices:
            if value in self.choices:
                return str(value)
            raise UsageError(f"{self.option} must be {self.legal}, not {value!r}")
        if self.form:
            if isinstance(value, str) and value.strip():
                return value.strip()
            raise UsageError(f"{self.option} must be {self.legal}, not {value!r}")
        if isinstance(value, str):
            try:
                number = int(value.strip())
            except ValueError:
                raise UsageError(
                    f"{self.option} must be an integer {self.legal}, not {value!r}"
                ) from None
        elif isinstance(value, int | np.integer) and not isinstance(value, bool):
            number = int(value)
        else:
            raise UsageError(f"{self.option} must be an integer {self.legal}, not {value!r}")
        nearest = min(max(number, self.minimum), self.maximum)
        if self.power_of_two and nearest & (nearest - 1):
            nearest = 1 << (nearest.bit_length() - 1)
        if nearest != number:
            raise UsageError(f"{self.option} must be {self.legal}, not {number}", nearest=nearest)
        return number


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One array of a vector file."""

    name: str
    axes: tuple[str | int, ...]  #: sizes; equal letters are equal sizes
    dtypes: tuple[str, ...] = ()  #: element types; empty: any integer type, checked by value
    optional: bool = False
    doc: str = ""

    @property
    def shape(self) -> str:
        """The shape as text."""
        return f"[{', '.join(map(str, self.axes))}]"


@dataclass(frozen=True)
class Words:
    """What the bench pushes through a unit."""

    inputs: npt.NDArray[np.uint8]  #: [words, bytes], little endian
    outputs: int  #: words that the unit returns
    configuration: Mapping[str, int] = field(default_factory=dict)  #: static inputs


@dataclass(frozen=True)
class UnitResult:
    """What a simulated unit returned, and whether it is what the reference says."""

    outputs: Vectors
    cycles: int  #: from the first word offered to the last one taken
    matches_reference: bool
    first_difference: Mapping[str, object] | None = None  #: name, index, expected, got
    changed_files: tuple[str, ...] = ()  #: Verilog files that differ from the emitted ones


class Unit(ABC):
    """A unit: description, hardware, words of its streams, reference.

    A unit has one input stream ``i_stream``, one output stream ``o_stream`` and static
    configuration inputs. Hardware depends on the build parameters only.
    """

    name: ClassVar[str]  #: of the command line
    doc: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    inputs: ClassVar[tuple[Entry, ...]]
    outputs: ClassVar[tuple[Entry, ...]]

    @property
    def module(self) -> str:
        """Name of the Verilog module."""
        return f"hwgen_{self.name.replace('-', '_')}"

    def resolve(self, values: Mapping[str, object] | None = None) -> dict[str, Value]:
        """All parameters, with defaults, checked.

        Args:
            values: by parameter name; text is read.

        Raises:
            UsageError: an unknown name or an illegal value.
        """
        given = dict(values or {})
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := sorted(set(given) - set(known)):
            names = ", ".join(p.option for p in self.parameters) or "none"
            raise UsageError(f"Parameters of {self.name} must be among {names}, not {unknown[0]!r}")
        resolved = {
            name: parameter.check(given.get(name, parameter.default))
            for name, parameter in known.items()
        }
        self.check_together(resolved)
        return resolved

    def check_together(self, values: Values) -> None:  # noqa: B027
        """Refuse values that are legal each, but not together; by default none are."""

    def figures(
        self,
        values: Values,
        resources: Mapping[str, Any],
        modules: Mapping[str, Mapping[str, float]],
    ) -> dict[str, Any]:
        """What a synthesis report says beside the totals; ``modules`` has one instance of each."""
        return {}

    def build_values(self, values: Values) -> dict[str, Value]:
        """The parameters that decide the hardware."""
        return {p.name: values[p.name] for p in self.parameters if p.build}

    @abstractmethod
    def component(self, values: Values) -> wiring.Component:
        """The hardware."""

    def parts(self, component: wiring.Component) -> dict[str, wiring.Component]:
        """Modules that the component instantiates by name."""
        return {}

    def synthesis_parts(self, component: wiring.Component) -> dict[str, wiring.Component]:
        """Those of :meth:`parts` that synthesis for DSP48E2 replaces by these."""
        return {}

    @abstractmethod
    def reference(self, vectors: Vectors, values: Values) -> dict[str, npt.NDArray[Any]]:
        """What the unit must return, by the integer contract; refuses values out of range."""

    @abstractmethod
    def encode(self, vectors: Vectors, values: Values) -> Words:
        """Checked vectors as words of the input stream."""

    @abstractmethod
    def decode(
        self, words: npt.NDArray[np.uint8], vectors: Vectors, values: Values
    ) -> dict[str, npt.NDArray[Any]]:
        """Words of the output stream as arrays; the vectors give the shapes."""


def integer(values: Values, name: str) -> int:
    """An integer parameter."""
    return int(values[name])


def pad_axis(array: npt.NDArray[Any], axis: int, multiple: int) -> npt.NDArray[Any]:
    """Zeros behind an axis up to a multiple."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, widths)


def bit_planes(fields: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """[n, fields] two's complement -> [n, fields * bits], a bit each, the lowest first."""
    shifts = np.arange(bits, dtype=np.int64)
    planes = ((fields.astype(np.int64)[:, :, None] >> shifts) & 1).astype(np.uint8)
    return planes.reshape(len(fields), -1)
