# SPDX-License-Identifier: Apache-2.0
"""One wrong bit in an instruction of the embedded model: always an error, never outside."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.cli import main
from hwgen.frontend.images import digits_dataset
from hwgen.isa.instructions import INSTRUCTION_BITS
from hwgen.isa.registers import Cause
from hwgen.sim.frame import FrameSetup, load_setup, run_damaged, run_frames

pytestmark = pytest.mark.verilator

IMAGE = digits_dataset()[2][0]
#: Cycles from the last completed instruction to the error, at most.
WATCHDOG = 20_000


def make(folder: Path, *options: str) -> tuple[FrameSetup, int]:
    """The design of the digits, and how many instructions its program has."""
    graph, design = folder / "graph", folder / "design"
    assert main(["quantize", "digits", "-o", str(graph), "--json"]) == 0
    assert main(["generate", str(graph), "-o", str(design), "--json", *options]) == 0
    setup, manifest, _ = load_setup(design)
    return replace(setup, boundaries=()), manifest.program.instructions


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrameSetup, int]:
    return make(tmp_path_factory.mktemp("flips"))


def check(setup: FrameSetup, bits: list[int]) -> None:
    sound = run_frames(setup, [IMAGE]).frames[0]
    for frame in run_damaged(setup, IMAGE, bits, watchdog=WATCHDOG):
        index = frame.bit // INSTRUCTION_BITS
        # A wrong magic or build identity comes first.
        expected = {Cause.INTEGRITY, Cause.IMAGE} if index == 0 else {Cause.INTEGRITY}
        assert frame.cause in expected, frame
        assert frame.address == index, frame
        assert frame.cycles < sound.cycles, frame
        # Nothing of what is behind it ran: the logits are stored by the last one but END.
        assert np.all(frame.output == 0xA5) or np.array_equal(frame.output, sound.output)


def test_no_wrong_bit_is_silent(digits: tuple[FrameSetup, int]) -> None:
    setup, instructions = digits
    bits = random.Random(1).sample(range(INSTRUCTION_BITS * instructions), 210)
    # Every kind of place in BEGIN, too: opcode, magic, build, unused, check.
    check(setup, [0, 116, 148, 211, 212, 239, 240, 255, *bits])


@pytest.mark.slow
def test_no_wrong_bit_is_silent_at_length(digits: tuple[FrameSetup, int]) -> None:
    setup, instructions = digits
    bits = random.Random(2).sample(range(INSTRUCTION_BITS * instructions), 2_500)
    check(setup, [*range(INSTRUCTION_BITS), *bits])


@pytest.mark.slow
def test_without_the_check_nothing_leaves_the_windows_or_the_watchdog(tmp_path: Path) -> None:
    """What is left where the option is off: the simulation fails with any access outside."""
    setup, instructions = make(tmp_path, "--instruction-check", "false")
    sound = run_frames(setup, [IMAGE]).frames[0]
    bits = random.Random(3).sample(range(INSTRUCTION_BITS * instructions), 1_000)
    frames = run_damaged(
        setup, IMAGE, bits, watchdog=WATCHDOG, max_cycles=20 * (sound.cycles + WATCHDOG)
    )
    causes = Counter(frame.cause for frame in frames)
    assert causes[Cause.WINDOW]
    assert causes[Cause.NONE]  # many a wrong bit changes nothing, or the logits
    assert not causes[Cause.INTEGRITY]
