# SPDX-License-Identifier: Apache-2.0
"""Simulates whole frames on the emitted top level, at the speed of Verilated C++."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwgen.emit.manifest import Manifest
from hwgen.errors import FormatError, SimulationError
from hwgen.files import scratch_folder
from hwgen.isa.build import build_identity
from hwgen.isa.instructions import ROW_SHIFT_BANK, ROW_SHIFT_SLOTS
from hwgen.isa.registers import (
    BY_NAME,
    COUNTERS,
    IDENTITY,
    REGISTERS,
    WATCHDOG_RESET,
    Cause,
)
from hwgen.processes import started
from hwgen.reading import MAX_DESIGN_FILE_BYTES, read_bytes
from hwgen.sim import boundaries as boundary_table
from hwgen.sim.frame_build import (
    BANK_SIGNALS,
    COUNTER_SIGNALS,
    OFFER_SIGNALS,
    SNAPSHOT_DELAY,
    FrameSetup,
    build_frames,
    observable,
)
from hwgen.sim.frame_results import DamagedFrame, FrameResults, frame_of
from hwgen.sim.verilator import Progress, Source


@dataclass(frozen=True)
class Memory:
    """The external memory's model."""

    latency: int = 100  #: cycles from the accepted address to the first data
    bandwidth: float = 16.0  #: bytes per cycle, summed over ports and directions

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 1 <= self.latency <= 1_000_000:
            raise SimulationError(f"latency must be in 1..1000000 cycles, not {self.latency!r}")
        if not 0.01 <= self.bandwidth <= 1e6:
            raise SimulationError(
                f"bandwidth must be in 0.01..1000000 bytes per cycle, not {self.bandwidth!r}"
            )


@dataclass(frozen=True)
class Window:
    """What a waveform shows: cycles of one image since its START, ends included."""

    image: int
    first: int
    last: int

    def __post_init__(self) -> None:
        """Check the order."""
        if not 0 <= self.first <= self.last:
            raise SimulationError(
                f"Window must begin at 0 or later and end behind its beginning, not"
                f" {self.first} to {self.last}"
            )


def _settings(
    setup: FrameSetup,
    folder: Path,
    frames: int,
    memory: Memory,
    *,
    seed: int,
    max_cycles: int,
    watchdog: int,
    flips: Sequence[int] = (),
) -> dict[str, object]:
    observed = bool(setup.boundaries) or observable(setup)
    config = setup.config
    banks = [(words, config.rows) for words in config.bank_words]
    if config.softmax_fractional:
        # The row shifts come behind the activation banks, by number.
        assert len(banks) == ROW_SHIFT_BANK
        banks.append((ROW_SHIFT_SLOTS * config.shift_words, 1))
    return {
        "frames": frames,
        "image": folder / "image",
        "inputs": folder / "inputs",
        "parts": folder / "parts",
        "out": folder,
        "input_bytes": setup.input_bytes,
        "output_bytes": setup.output_bytes,
        "latency": memory.latency,
        "bandwidth": memory.bandwidth,
        "seed": seed,
        "max_cycles": max_cycles,
        "max_quiet_cycles": 2 * watchdog,
        "watchdog": watchdog,
        "flips": " ".join(map(str, flips)) or " ",
        "identity": IDENTITY,
        "build": build_identity(setup.config),
        "snapshot_delay": SNAPSHOT_DELAY,
        "bank_words": _banks(words for words, _ in banks) if observed else " ",
        "bank_bytes": _banks(size for _, size in banks) if observed else " ",
        "bank_enable": BANK_SIGNALS[0],
        "bank_address": BANK_SIGNALS[1],
        "bank_data": BANK_SIGNALS[2],
        "counters": " ".join(COUNTER_SIGNALS) if observed else " ",
        "offers": " ".join(OFFER_SIGNALS) if observed else " ",
        "counter_offsets": " ".join(str(BY_NAME[name].offset) for name, _ in COUNTERS),
        **{f"reg_{register.name}": register.offset for register in REGISTERS},
    }


def _banks(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _fault(frame: int, cycles: int, status: int, cause: int, address: int) -> SimulationError:
    try:
        name = Cause(cause).name
    except ValueError:
        name = str(cause)
    return SimulationError(
        f"The accelerator must finish the frame, but reports {name} "
        f"(cause address 0x{address:x}, status 0x{status:x})",
        where=f"image {frame}",
        image=frame,
        cycle=cycles,
    )


def run_frames(
    setup: FrameSetup,
    inputs: Sequence[bytes] | npt.NDArray[np.uint8],
    *,
    memory: Memory | None = None,
    seed: int = 1,
    max_cycles: int = 1 << 40,
    watchdog: int = WATCHDOG_RESET,
    expected_cycles: int | None = None,
    progress: Progress | None = None,
) -> FrameResults:
    """Simulate images one after the other, without a reset between them.

    The windows are exactly what the frame has: image, input and output.

    Args:
        setup: the design and its program.
        inputs: content of the input region per image: uint8 [images, ...], at most ``input_bytes``.
        memory: latency and bandwidth of the external memory.
        seed: of the registers' and memories' content at power-up; no result may depend on it.
        max_cycles: ceiling per image.
        watchdog: most cycles without a completed instruction; a slow memory needs more than after
            reset (:attr:`hwgen.program.cycle_model.CyclePrediction.watchdog`).
        expected_cycles: of a frame, for the progress within it.
        progress: told about build and simulation.

    Raises:
        SimulationError: the accelerator reported a fault, broke the bus protocol or did not finish.
    """
    model = memory or Memory()
    report: Progress = progress or (lambda *_: None)
    executable = build_frames(setup, progress=report)
    regions = [_region(setup, image, f"image {index}") for index, image in enumerate(inputs)]
    rows = setup.config.rows
    parts = [
        (part, part.slices(rows, boundary.dtype.itemsize))
        for boundary in setup.boundaries
        for part in boundary.parts
    ]
    with scratch_folder() as folder:
        (folder / "image").write_bytes(setup.image)
        (folder / "inputs").write_bytes(b"".join(regions))
        (folder / "parts").write_text(
            "".join(
                f"{int(part.engine)} {part.count} {part.base} {part.stride} {part.first_token} "
                f"{part.tokens} {slices}\n"
                for part, slices in parts
            )
        )
        settings = _settings(
            *(setup, folder, len(regions), model),
            seed=seed,
            max_cycles=max_cycles,
            watchdog=watchdog,
        )
        started = time.monotonic()
        lines = _run(executable, folder, settings, expected_cycles, report)
        wall_seconds = time.monotonic() - started
        for index, result in enumerate(lines[::4]):  # the harness ends with the first fault
            _, _, cycles, status, cause, address, _ = result
            if cause:
                raise _fault(index, cycles, status, cause, address)
        outputs = np.fromfile(folder / "outputs", np.uint8).reshape(-1, setup.output_bytes)
        record_bytes = sum(part.tokens * slices * part.word_bytes(rows) for part, slices in parts)
        records = np.fromfile(folder / "boundaries", np.uint8).reshape(len(regions), record_bytes)
        written = np.fromfile(folder / "written", np.int64).reshape(len(regions), -1)
    frames = []
    for index in range(len(regions)):
        told = lines[4 * index : 4 * index + 4]
        frames.append(
            frame_of(setup.boundaries, rows, told, outputs[index], records[index], written[index])
        )
    return FrameResults(tuple(frames), wall_seconds)


def run_wave(
    setup: FrameSetup,
    inputs: Sequence[bytes] | npt.NDArray[np.uint8],
    window: Window,
    path: Path,
    *,
    memory: Memory | None = None,
    seed: int = 1,
    max_cycles: int = 1 << 40,
    watchdog: int = WATCHDOG_RESET,
    expected_cycles: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Simulate images as :func:`run_frames` does, up to a window of one, and show that (VCD).

    The build is another one, with tracing; cycles and values are the same. One nanosecond of the
    waveform is one cycle, and time 0 is the cycle of the START write. The window ends with its
    frame at the latest, and where the accelerator breaks the bus protocol or does not finish.

    Args:
        setup: the design and its program.
        inputs: content of the input region per image; ``window.image`` is one of them.
        window: image and cycles.
        path: the waveform; whatever is there is written over.
        memory: latency and bandwidth of the external memory.
        seed: of the registers' and memories' content at power-up.
        max_cycles: ceiling per image.
        watchdog: most cycles without a completed instruction.
        expected_cycles: of a frame, for the progress within it.
        progress: told about build and simulation.

    Raises:
        SimulationError: the window was not reached.
    """
    report: Progress = progress or (lambda *_: None)
    executable = build_frames(setup, trace=True, progress=report)
    regions = [
        _region(setup, image, f"image {index}")
        for index, image in enumerate(inputs[: window.image + 1])
    ]
    with scratch_folder() as folder:
        (folder / "image").write_bytes(setup.image)
        (folder / "inputs").write_bytes(b"".join(regions))
        (folder / "parts").write_text("")
        settings = _settings(
            *(setup, folder, len(regions), memory or Memory()),
            seed=seed,
            max_cycles=max_cycles,
            watchdog=watchdog,
        )
        settings |= {
            "wave": path.resolve(),
            "wave_frame": window.image,
            "wave_first": window.first,
            "wave_last": window.last,
        }
        try:
            _run(executable, folder, settings, expected_cycles, report)
        except SimulationError as error:
            if error.image != window.image or error.cycle is None or error.cycle < window.first:
                raise


def run_damaged(
    setup: FrameSetup,
    image: bytes | npt.NDArray[np.uint8],
    bits: Sequence[int],
    *,
    memory: Memory | None = None,
    seed: int = 1,
    max_cycles: int = 1 << 40,
    watchdog: int = WATCHDOG_RESET,
) -> list[DamagedFrame]:
    """Simulate one image again and again, each time with another bit of the memory image wrong.

    Args:
        setup: the design and its program.
        image: content of the input region, at most ``input_bytes``.
        bits: which bit is wrong, frame by frame.
        memory: latency and bandwidth of the external memory.
        seed: of the registers' and memories' content at power-up.
        max_cycles: ceiling per frame.
        watchdog: most cycles without a completed instruction.

    Raises:
        SimulationError: the accelerator left its windows, broke the bus protocol or did not finish.
    """
    executable = build_frames(setup)
    with scratch_folder() as folder:
        (folder / "image").write_bytes(setup.image)
        (folder / "inputs").write_bytes(_region(setup, image, "image") * len(bits))
        (folder / "parts").write_text("")
        settings = _settings(
            *(setup, folder, len(bits), memory or Memory()),
            seed=seed,
            max_cycles=max_cycles,
            watchdog=watchdog,
            flips=bits,
        )
        lines = _run(executable, folder, settings, None, lambda *_: None)
        outputs = np.fromfile(folder / "outputs", np.uint8).reshape(-1, setup.output_bytes)
    return [
        DamagedFrame(bit, result[2], Cause(result[4]), result[5], output)
        for bit, result, output in zip(bits, lines[::4], outputs, strict=True)
    ]


def _region(setup: FrameSetup, image: bytes | npt.NDArray[np.uint8], where: str) -> bytes:
    """The content of the input region for an image."""
    data = image if isinstance(image, bytes) else np.asarray(image, np.uint8).tobytes()
    if len(data) > setup.input_bytes:
        raise FormatError(
            f"Input must be at most {setup.input_bytes} bytes, not {len(data)}", where=where
        )
    return data.ljust(setup.input_bytes, b"\0")


def start_inputs(setup: FrameSetup, images: npt.NDArray[np.uint8], frames: int) -> list[bytes]:
    """Content of the input region per START: ``frames`` images, each in its part."""
    part = setup.input_bytes // frames
    padded = [image.tobytes().ljust(part, b"\0") for image in images]
    return [b"".join(padded[at : at + frames]) for at in range(0, len(padded), frames)]


def _part_done(cycles: int, expected: int | None) -> float:
    """How much of a frame is done: never all of it, for the expectation is an estimate."""
    return min(cycles / expected, 0.99) if expected else 0.0


def _run(
    executable: Path,
    folder: Path,
    settings: Mapping[str, object],
    expected_cycles: int | None,
    report: Progress,
) -> list[list[int]]:
    """Run the harness; four lists per frame: result, counters, completions, accepted."""
    (folder / "settings").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    frames = int(str(settings["frames"]))
    lines: list[list[int]] = []
    stopped: list[int] = []  # image and cycle of a failure within a frame
    with (
        (folder / "errors").open("w+") as errors,
        started(
            [str(executable), str(folder / "settings")], stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            key, *numbers = line.split()
            values = [int(number) for number in numbers]
            if key == "progress":
                done = values[0] + _part_done(values[1], expected_cycles)
                report(f"image {values[0]}: {values[1]} cycles", done / frames)
            elif key == "stopped":
                stopped = values
            else:
                lines.append(values)
            if key == "frame":
                report(f"image {values[0]}: done", (values[0] + 1) / frames)
        process.wait()
        errors.seek(0)
        why = errors.read().strip()
    if process.returncode:
        image, cycle = stopped or (None, None)
        raise SimulationError(
            why or f"The simulation ended with status {process.returncode}",
            image=image,
            cycle=cycle,
        )
    return lines


def load_setup(folder: Path) -> tuple[FrameSetup, Manifest, list[str]]:
    """A design folder as it is now: its setup, its manifest, and the files changed since."""
    manifest = Manifest.load(folder)
    changed = manifest.changed_files(folder)
    image = read_bytes(folder / manifest.program.image, limit=MAX_DESIGN_FILE_BYTES)
    setup = FrameSetup(
        verilog=tuple(Source.of(folder / name) for name in manifest.simulation),
        top=manifest.top,
        config=manifest.config,
        image=image,
        input_bytes=manifest.program.input_bytes,
        output_bytes=manifest.program.output_bytes,
        boundaries=boundary_table.load(folder / manifest.program.boundaries),
    )
    return setup, manifest, changed


def simulate_frames(
    folder: Path,
    images: npt.NDArray[np.uint8],
    *,
    latency: int = 100,
    bandwidth: float = 16.0,
    seed: int = 1,
    watchdog: int | None = None,
    expected_cycles: int | None = None,
    progress: Progress | None = None,
) -> FrameResults:
    """Simulate images uint8 [n, height, width, channels] on a design folder, as it is.

    Nothing is generated again: a file changed by hand is simulated, and named in ``changed_files``.
    ``watchdog`` is the manifest's by default, which is for the board's memory.

    Raises:
        FormatError: the images have another size, or the folder is not well formed.
        SimulationError: the accelerator reported a fault, broke the bus protocol or did not finish.
    """
    setup, manifest, changed = load_setup(folder)
    shape, frames = manifest.program.input_shape, manifest.frames_per_start
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise FormatError(
            f"Images must be uint8 [n, {', '.join(map(str, shape))}], "
            f"not {images.dtype} {list(images.shape)}"
        )
    if len(images) % frames:
        raise FormatError(f"Images must be whole STARTs of {frames}, not {len(images)}")
    memory = Memory(latency, bandwidth)
    results = run_frames(
        setup,
        start_inputs(setup, images, frames),
        memory=memory,
        seed=seed,
        watchdog=watchdog or manifest.program.watchdog_cycles,
        expected_cycles=expected_cycles or frames * manifest.program.predicted_cycles,
        progress=progress,
    )
    return FrameResults(results.frames, results.wall_seconds, tuple(changed))
