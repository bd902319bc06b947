# SPDX-License-Identifier: Apache-2.0
"""Every error that a user of hwgen can cause or meet.

The command line prints ``str(error)`` without a traceback and exits with
:attr:`HwgenError.exit_status`. A message says what is wrong, where, why, and the nearest legal
value where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


def _rebuild(cls: type[HwgenError], args: tuple[Any, ...], state: dict[str, Any]) -> HwgenError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class HwgenError(Exception):
    """The request cannot be met, data are bad, or a check failed.

    Args:
        what: the statement, ``<What> must be <expectation>, not {value!r}`` for a bad value.
        where: file, layer, tensor or instruction that it concerns.
        why: the reason behind the rule.
        nearest: the nearest legal value.
    """

    exit_status: ClassVar[int] = 1
    #: Files of the design that are not the generated ones any more: a cause that is not ours.
    changed_files: tuple[str, ...] = ()
    #: What was written for whoever looks for the cause: kind -> file or folder, and what it shows.
    views: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        what: str = "",
        *,
        where: str | None = None,
        why: str | None = None,
        nearest: object = None,
    ) -> None:
        """Keep the four parts as attributes; ``str`` joins them."""
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.nearest = nearest

    def __str__(self) -> str:
        """One line: ``where: what (why); nearest legal value: nearest``."""
        text = self.what
        if self.where is not None:
            text = f"{self.where}: {text}"
        if self.why is not None:
            text = f"{text} ({self.why})"
        if self.nearest is not None:
            text = f"{text}; nearest legal value: {self.nearest}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by attributes, so that worker processes can raise keyword-only errors."""
        return _rebuild, (type(self), self.args, self.__dict__)


class FormatError(HwgenError, ValueError):
    """A number, shape or element type lies outside its declared format."""


class ConfigError(HwgenError, ValueError):
    """A configuration is inconsistent or outside what the generator builds."""

    #: Parameter of the design that is not legal, where it is one.
    field: str | None = None


class CheckpointError(HwgenError):
    """A checkpoint cannot be read, or lacks, repeats or misshapes a tensor."""


class ModelError(HwgenError):
    """A model is unknown or uses something that the generator does not support."""


class ProgramError(HwgenError):
    """A program, instruction or memory image is not well formed."""


class SimulationError(HwgenError):
    """The simulated accelerator reported a fault or did not finish.

    Args:
        what: the statement.
        where: the image.
        why: the reason.
        image: index of the image that was not finished, where a frame had begun.
        cycle: when it ended, in cycles since its START.
    """

    def __init__(
        self,
        what: str = "",
        *,
        where: str | None = None,
        why: str | None = None,
        image: int | None = None,
        cycle: int | None = None,
    ) -> None:
        """Keep the place as attributes."""
        super().__init__(what, where=where, why=why)
        self.image = image
        self.cycle = cycle


class ToolError(HwgenError):
    """An external tool is missing or failed.

    Args:
        what: the statement.
        where: file and line, or the folder.
        why: the reason.
        detail: the telling lines of the tool's own output.
    """

    def __init__(
        self,
        what: str = "",
        *,
        where: str | None = None,
        why: str | None = None,
        detail: str = "",
    ) -> None:
        """Keep the tool's lines as an attribute."""
        super().__init__(what, where=where, why=why)
        self.detail = detail

    def bare(self) -> ToolError:
        """The same without the tool's lines."""
        return ToolError(self.what, where=self.where, why=self.why)

    def __str__(self) -> str:
        """The sentence of the base class; below it the tool's lines."""
        text = super().__str__()
        return f"{text}\n{self.detail}" if self.detail else text


class UsageError(HwgenError):
    """Wrong usage of the command line: unknown option or illegal option value."""

    exit_status: ClassVar[int] = 2


class DoesNotFitError(HwgenError):
    """A design asks for more of a resource than there is.

    Args:
        resource: what runs out, for example ``"DSP"``.
        demand: how much the design needs, in ``unit``.
        bound: how much there is, in ``unit``.
        unit: unit of both, for example ``"blocks"`` or ``"frames/s"``.
        levers: what the user can change to make it fit.
        where: board, memory or layer that it concerns.
    """

    def __init__(
        self,
        resource: str,
        demand: float,
        bound: float,
        unit: str = "",
        levers: tuple[str, ...] | list[str] = (),
        *,
        where: str | None = None,
    ) -> None:
        """Keep the numbers as attributes and phrase the sentence."""
        suffix = f" {unit}" if unit else ""
        super().__init__(
            f"{resource} must be at most {bound:,}{suffix}, not {demand:,}{suffix}", where=where
        )
        self.resource = resource
        self.demand = demand
        self.bound = bound
        self.unit = unit
        self.levers = tuple(levers)

    def __str__(self) -> str:
        """The sentence of the base class, then the levers."""
        text = super().__str__()
        if self.levers:
            text = f"{text}; try: {'; '.join(self.levers)}"
        return text


class InfeasibleError(HwgenError):
    """No design within the limits meets the frame rate that was asked for.

    Args:
        what: the statement.
        binding_resource: the limit that stands in the way.
        best_fps: the highest frame rate that can be met; None where no design fits.
        where: model and board.
        why: the fastest design, and what the next needs.
    """

    def __init__(
        self,
        what: str,
        *,
        binding_resource: str | None,
        best_fps: float | None,
        where: str | None = None,
        why: str | None = None,
    ) -> None:
        """Keep the answer as attributes."""
        super().__init__(what, where=where, why=why)
        self.binding_resource = binding_resource
        self.best_fps = best_fps


class UnexpectedLogitsError(HwgenError):
    """The float model does not give the logits that the user's own framework gives.

    Args:
        what: the sentence.
        agreement: the figures of the comparison, plain values.
        assumed: what was taken for granted of the model, plain values: the suspects.
        where: the file of the expected logits.
    """

    def __init__(
        self,
        what: str,
        *,
        agreement: Mapping[str, Any],
        assumed: Mapping[str, Any],
        where: str | None = None,
    ) -> None:
        """Keep figures and suspects as attributes."""
        super().__init__(what, where=where)
        self.agreement = dict(agreement)
        self.assumed = dict(assumed)


class MismatchError(HwgenError):
    """Two links of the golden chain differ; carries the first difference.

    Args:
        op: name of the operation or layer.
        expected: value of the reference.
        got: value of the link under test.
        tile: tile of the operation, if known.
        lane: lane or column of the unit, if known.
        index: index into the tensor, if known.
        where: the two links compared, for example ``"image 3, program interpreter"``.
        differing: how many elements of the tensor differ, if it is there.
        elements: how many it has.
        largest_difference: between any two of its elements.
        image: index of the image, if known.
        cycle: when the first of them was written, in cycles since the image's START, if known.
    """

    def __init__(
        self,
        op: str,
        *,
        expected: object,
        got: object,
        tile: object = None,
        lane: object = None,
        index: object = None,
        where: str | None = None,
        differing: int | None = None,
        elements: int | None = None,
        largest_difference: int | None = None,
        image: int | None = None,
        cycle: int | None = None,
    ) -> None:
        """Keep the parts as attributes and phrase the sentence."""
        place = "".join(
            f", {name} {value}"
            for name, value in (("tile", tile), ("lane", lane), ("index", index))
            if value is not None
        )
        text = f"{op}{place}: expected {expected}, got {got}"
        if cycle is not None:
            text += f", written in cycle {cycle:,}"
        if differing is not None and elements is not None:
            text += f"; {differing:,} of {elements:,} elements differ"
            text += f", by at most {largest_difference:,}"
        super().__init__(text, where=where)
        self.op = op
        self.tile = tile
        self.lane = lane
        self.index = index
        self.expected = expected
        self.got = got
        self.differing = differing
        self.elements = elements
        self.largest_difference = largest_difference
        self.image = image
        self.cycle = cycle

    @property
    def first_difference(self) -> dict[str, object]:
        """The difference as a mapping, for machine-readable output."""
        place = ("op", "tile", "lane", "index", "expected", "got")
        names = (*place, "differing", "elements", "largest_difference", "image", "cycle")
        return {name: getattr(self, name) for name in names}
