# SPDX-License-Identifier: Apache-2.0
"""What a simulation leaves for whoever looks for a fault: trace, layer boundaries, waveform."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.emit.folder import put_in_place
from hwgen.errors import ConfigError
from hwgen.files import is_unfinished, reason, replace_file, sweep, unfinished_folder
from hwgen.graph.npz_file import npz_bytes, recognise_npz
from hwgen.outputs import State, check_distinct, check_file, check_inputs_outside
from hwgen.reading import printable, show
from hwgen.report.trace import recognise_trace
from hwgen.sim.frame import Memory, Window, load_setup, run_wave, start_inputs
from hwgen.sim.verilator import Progress

#: Cycles of a waveform before and after the first difference. The deepest pipelines, from an
#: operand to the element that it decides, have some hundred cycles.
CYCLES_BEFORE = 512
CYCLES_AFTER = 64

_WAVE_BEGINNING = b"$comment hwgen waveform"
_IMAGE_FILE = re.compile(r"image_[0-9]{4,}\.npz")
#: Largest file of a dump that is looked into before it is replaced.
_DUMP_BYTES = 1 << 32


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is wanted of a simulation beside its figures."""

    trace: Path | None = None  #: file: when each engine worked on each instruction
    dump: Path | None = None  #: folder: every layer boundary, simulated and reference
    wave: Path | None = None  #: file: all signals in a window of cycles
    from_cycle: int | None = None  #: first cycle of the window, since START
    to_cycle: int | None = None  #: last cycle of the window

    def check_places(self, design: Path, *, inputs: Iterable[Path] = (), force: bool) -> None:
        """Refuse places where these must not go, by the rule of :mod:`hwgen.outputs`.

        Raises:
            UsageError: one is an input, or in the place of another.
            ConfigError: what is there must stay.
        """
        inputs = tuple(inputs)
        check_distinct((design, self.dump, self.wave))
        if self.trace is not None:
            check_file(self.trace, recognise_trace, inputs=inputs)
        if self.wave is not None:
            check_file(self.wave, recognise_wave, inputs=inputs)
        if self.dump is not None:
            _check_dump(self.dump, inputs, force)

    def window(self, cycle: int | None, end: int) -> tuple[int, int]:
        """First and last cycle of the waveform.

        Args:
            cycle: of the first difference or failure; None where there is none, or no cycle of it.
            end: last cycle of the frame.

        Raises:
            ConfigError: the frame ends before the window that is asked for.
        """
        length = CYCLES_BEFORE + CYCLES_AFTER
        first, last = self.from_cycle, self.to_cycle
        last = None if last is None else min(last, end)
        if first is None and last is None:
            first = 0 if cycle is None else max(0, cycle - CYCLES_BEFORE)
            last = first + length if cycle is None else cycle + CYCLES_AFTER
        elif first is None:
            assert last is not None
            first = max(0, last - length)
        elif last is None:
            last = first + length
        if first > end:
            raise ConfigError(
                f"First cycle of the waveform must be in the frame, not {first}",
                why=f"it ends in cycle {end}",
                nearest=end,
            )
        return first, min(last, end)


def recognise_wave(path: Path) -> State:
    """What a file is: nobody edits a waveform, so its beginning is enough."""
    with path.open("rb") as stream:
        beginning = stream.read(len(_WAVE_BEGINNING))
    return State.OWN if beginning == _WAVE_BEGINNING else State.FOREIGN


def write_wave(
    path: Path,
    folder: Path,
    images: npt.NDArray[np.uint8],
    window: Window,
    *,
    number: int,
    memory: Memory,
    watchdog: int,
    expected_cycles: int | None,
    progress: Progress,
) -> None:
    """Simulate images on a design folder once more, and write a window of the last one (VCD).

    Args:
        path: the waveform.
        folder: the design folder, used as it is.
        images: uint8 [n, height, width, channels], from the first after a reset on, whole STARTs.
        window: of which image of these, and which cycles.
        number: of that image among all, for the file's first line.
        memory: as in the simulation that is looked into.
        watchdog: likewise.
        expected_cycles: of a frame, for the progress.
        progress: told about build and simulation.

    Raises:
        SimulationError: the window was not reached.
        ConfigError: the file cannot be written.
    """
    setup, manifest, _ = load_setup(folder)
    inputs = start_inputs(setup, images, manifest.frames_per_start)
    title = f" of {folder.resolve().name}: image {number}, cycles {window.first} to {window.last}"
    title += " since START; 1 ns is 1 cycle"
    target = Path(os.path.realpath(path))
    try:
        # Where the file goes there must be room for it; elsewhere there may be little.
        with unfinished_folder(target.parent) as scratch:
            run_wave(
                *(setup, inputs, window, scratch / "wave.vcd"),
                memory=memory,
                watchdog=watchdog,
                expected_cycles=expected_cycles,
                progress=progress,
            )
            with (scratch / "wave.vcd").open("rb") as found:

                def write(stream: Any) -> None:
                    stream.write(_WAVE_BEGINNING + f"{printable(title)} $end\n".encode())
                    shutil.copyfileobj(found, stream, 1 << 20)

                replace_file(target, write)
    except OSError as error:
        raise ConfigError(f"Waveform must be writable: {reason(error)}", where=str(path)) from error


class Dump:
    """Layer boundaries of every image as ``image_<number>.npz``, put in place at the end."""

    def __init__(self, stage: Path, folder: Path) -> None:
        """See :func:`open_dump`."""
        self._stage = stage
        self._folder = folder

    def add(
        self,
        image: int,
        reference: Mapping[str, npt.NDArray[Any]],
        simulated: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        """Write an image's tensors as ``<boundary>/reference`` and ``<boundary>/rtl``.

        Raises:
            ConfigError: the folder cannot be written.
        """
        arrays = {}
        for name in [*reference, *(name for name in simulated if name not in reference)]:
            for kind, tensors in (("rtl", simulated), ("reference", reference)):
                if name in tensors:
                    arrays[f"{name}/{kind}"] = tensors[name]
        data = npz_bytes(arrays)
        with self._errors(), (self._stage / f"image_{image:04}.npz").open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> None:
        """Put the folder in its place.

        Raises:
            ConfigError: it cannot be.
        """
        with self._errors():
            put_in_place(self._stage, self._folder)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"Dump must be writable: {reason(error)}", where=printable(str(self._folder))
            ) from error


@contextlib.contextmanager
def open_dump(folder: Path) -> Iterator[Dump]:
    """A dump to be filled; without :meth:`Dump.finish` nothing is left of it.

    Raises:
        ConfigError: the folder cannot be made.
    """
    folder = Path(os.path.abspath(folder))
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stage = stack.enter_context(unfinished_folder(folder.parent))
        except OSError as error:
            raise ConfigError(
                f"Dump must be writable: {reason(error)}", where=printable(str(folder))
            ) from error
        yield Dump(stage, folder)


def _check_dump(folder: Path, inputs: Iterable[Path], force: bool) -> None:
    check_inputs_outside(folder, inputs)
    if not os.path.lexists(folder):
        return
    where = printable(str(folder))
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError("Output must be a folder, not another kind of file", where=where)
    sweep(folder)
    for path in sorted(folder.iterdir()):
        if is_unfinished(path.name):
            continue
        state = State.FOREIGN
        if _IMAGE_FILE.fullmatch(path.name):
            state = recognise_npz(path, limit_bytes=_DUMP_BYTES)
        if state is State.FOREIGN:
            raise ConfigError(
                f"Output folder must hold a dump of hwgen only; move {show(path.name)} elsewhere",
                where=where,
            )
        if state is State.EDITED and not force:
            raise ConfigError(
                f"Output folder must hold its files as hwgen wrote them, and {path.name} was"
                " changed; give --force to replace it",
                where=where,
            )
