# SPDX-License-Identifier: Apache-2.0
"""The frame harness on a stand-in for the accelerator: data, memory model, boundaries, failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.config import AcceleratorConfig
from hwgen.errors import FormatError, SimulationError
from hwgen.isa.build import build_identity
from hwgen.isa.instructions import OFFSET_BITS, ROW_SHIFT_BANK, Engine
from hwgen.isa.registers import Cause
from hwgen.sim import boundaries
from hwgen.sim.frame import (
    FrameSetup,
    Memory,
    Window,
    _part_done,
    run_damaged,
    run_frames,
    run_wave,
)
from hwgen.sim.verilator import Source

pytestmark = pytest.mark.verilator

#: The fake top has no memory of row shifts.
CONFIG = AcceleratorConfig(softmax_fractional=False)
BUILD = f"BUILD = 64'h{build_identity(CONFIG):016x}"
FAKE = (Path(__file__).parent / "fake_top.v").read_text().replace("BUILD = 64'h0", BUILD)
BURSTS, BEATS = 32, 512
RNG = np.random.default_rng(11)
IMAGE = RNG.integers(0, 256, BEATS * 16, np.uint8)
INPUTS = RNG.integers(0, 256, (3, 256), np.uint8)


#: What can be wrong with the stand-in: where, the expression there, the wrong one, and the message.
FAULTS = {
    "size": ("m_axi0_arsize = ", "4", "3'd3", "AR must be an aligned"),
    "length": ("m_axi0_arlen = ", "15", "8'd16", "in no region|within 4 KiB"),
    "base": (": ", "{registers[9], registers[8]}", "{32'd0, registers[8]}", "in no region"),
    "last": ("m_axi0_wlast = ", "1", "1'd0", "WLAST"),
    "response": ("s_axil_bresp = ", "0", "2'd2", "BRESP is 2"),
    "identity": ("8'h00: s_axil_rdata <= ", "32'h48574731", "32'h48574732", "IDENTITY must read"),
    "build": (
        *("8'h84: s_axil_rdata <= ", "BUILD[31:0]", "32'h5"),
        "BUILD must read 0x[0-9a-f]+, not 0x[0-9a-f]*5$",
    ),
    "cause": (
        *("8'h14: s_axil_rdata <= ", "registers[6'h3f]", "32'd2"),
        "reports READ_ERROR .cause address 0x700000123",
    ),
    "idle": ("busy & ", "(issued <= BURSTS)", "(issued < BURSTS)", "no instruction completed in"),
    "boundary": (
        *("beats < BEATS & ", "beats[3:0] == 15", "(beats[3:0] == 15 & ~beats[8])"),
        "a layer boundary waits for 20",
    ),
    "sum": ("sum <= sum + ", "m_axi0_rdata", "(m_axi0_rdata + 1)", None),
    # The cause of one frame only.
    **{
        f"image {frame}": (
            *("8'h14: s_axil_rdata <= ", "registers[6'h3f]"),
            *(f"(frames == {frame + 1} ? 32'd2 : 32'd0)", f"^image {frame}: .*reports READ_ERROR"),
        )
        for frame in range(3)
    },
}


def with_faults(file: Path) -> str:
    """The stand-in with all of them, each there if ``file`` holds its number: one build for all."""
    text, choices = FAKE, {}
    for number, (place, right, wrong, _) in enumerate(FAULTS.values(), 1):
        assert place + right in FAKE, place
        choices.setdefault((place, right), []).append(f"fault[0] == {number} ? {wrong} : ")
    for (place, right), wrongs in choices.items():
        text = text.replace(place + right, f"{place}({''.join(wrongs)}{right})")
    declared = f"""
  reg [7:0] fault [0:0], frames;
  initial $readmemh("{file}", fault);
  always @(posedge clk) frames <= rst ? 8'd0 : frames + {{7'd0, start}};

  wire write ="""
    return text.replace("\n  wire write =", declared)


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fault") / "fault.hex"


@pytest.fixture
def faulty(fault_file: Path) -> Callable[[str], FrameSetup]:
    """The stand-in with one of the faults, until the next call."""

    def make(name: str) -> FrameSetup:
        fault_file.write_text(f"{[*FAULTS].index(name) + 1:02x}\n")
        return setup(with_faults(fault_file))

    return make


def part(count: int, base: int, first_token: int, tokens: int) -> dict[str, object]:
    return {
        "engine": "LOAD",
        "count": count,
        "base": base,
        "stride": 32,
        "skip": 0,
        "first_token": first_token,
        "tokens": tokens,
        "first_channel": 0,
        "channels": 20,
    }


def tensor(name: str, *parts: dict[str, object]) -> dict[str, object]:
    return {"name": name, "shape": [32, 20], "dtype": "int8", "parts": list(parts)}


# Words 0..31 hold slice 0 and words 32..63 slice 1 of 20 channels; four bursts fill the bank, 32
# bursts in all overwrite it seven times. One tensor is recorded in two pieces of different rounds.
TABLE = {
    "schema": "hwgen.boundaries",
    "schema_version": 2,
    "tensors": [
        tensor("third round", part(12, 0, 0, 32)),
        tensor("mixed rounds", part(16, 0, 0, 5), part(20, 0, 5, 27)),
        tensor("complement", part(28, 1 << 17, 0, 32)),
    ],
}


def setup(text: str = FAKE, table: dict[str, object] = TABLE) -> FrameSetup:
    return FrameSetup(
        verilog=(Source("fake.v", text.encode()),),
        top="fake",
        config=CONFIG,
        image=IMAGE.tobytes(),
        input_bytes=256,
        output_bytes=16,
        boundaries=boundaries.parse(table),
    )


def reference_sum(image: np.ndarray) -> int:
    beats = [int.from_bytes(row.tobytes(), "little") for row in IMAGE.reshape(-1, 16)]
    return (sum(beats) + int.from_bytes(image[:16].tobytes(), "little")) % (1 << 128)


def reference_tensor(round_index: int) -> np.ndarray:
    words = IMAGE.reshape(8, 64, 16)[round_index]
    return np.concatenate([words[:32], words[32:, :4]], axis=1).view(np.int8)


def test_frames_follow_each_other_without_reset() -> None:
    results = run_frames(setup(), INPUTS)
    for frame, image in zip(results.frames, INPUTS, strict=True):
        assert int.from_bytes(frame.output.tobytes(), "little") == reference_sum(image)
        assert list(frame.boundaries) == ["third round", "mixed rounds", "complement"]
        np.testing.assert_array_equal(frame.boundaries["third round"], reference_tensor(2))
        mixed = np.concatenate([reference_tensor(3)[:5], reference_tensor(4)[5:]])
        np.testing.assert_array_equal(frame.boundaries["mixed rounds"], mixed)
        np.testing.assert_array_equal(frame.boundaries["complement"], ~reference_tensor(6))
        assert len(frame.completions[Engine.LOAD]) == BURSTS
        assert np.all(np.diff(frame.completions[Engine.LOAD]) >= 16)
        assert len(frame.completions[Engine.DRAIN]) == 0
    # The same work takes the same time, and the pins agree with the counter.
    assert len(set(results.cycles)) == 1
    assert results.frames[0].counters["CYCLES"] + 1 == results.cycles[0]


def test_power_up_content_does_not_matter() -> None:
    first = run_frames(setup(), INPUTS[:1], seed=1).frames[0]
    second = run_frames(setup(), INPUTS[:1], seed=2).frames[0]
    assert first.cycles == second.cycles
    assert first.output.tolist() == second.output.tolist()


@pytest.mark.parametrize(
    ("latency", "bandwidth", "beat_cycles"),
    [(100, 16.0, 1.0), (10, 16.0, 1.0), (100, 64.0, 1.0), (100, 4.0, 4.0), (50, 10.5, 16 / 10.5)],
)
def test_latency_and_bandwidth(latency: int, bandwidth: float, beat_cycles: float) -> None:
    frame = run_frames(setup(), INPUTS[:1], memory=Memory(latency, bandwidth)).frames[0]
    # Reads: latency, then beats at the bandwidth; then one write whose response takes the latency.
    expected = 2 * latency + (BEATS + 17) * beat_cycles + (8 if beat_cycles == 1 else 0)
    assert expected - 8 <= frame.cycles <= expected + 8
    assert abs(frame.completions[Engine.LOAD][0] - (latency + 16 * beat_cycles)) <= 10


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault[3]])
def test_faults_of_the_design_are_named(name: str, faulty: Callable[[str], FrameSetup]) -> None:
    """The harness ends with the first fault: fewer images may come back than were given."""
    with pytest.raises(SimulationError, match=FAULTS[name][3]):
        run_frames(faulty(name), INPUTS)


def test_one_wrong_bit_per_frame(faulty: Callable[[str], FrameSetup]) -> None:
    """Each is in its frame only, whatever becomes of the frame."""
    bits = [0, 8 * 16 * BEATS - 1, 1000]
    expected = []
    for bit in bits:
        beat, place = divmod(bit, 128)
        sign = -1 if int.from_bytes(IMAGE[16 * beat :][:16].tobytes(), "little") >> place & 1 else 1
        expected.append((reference_sum(INPUTS[0]) + (sign << place)) % (1 << 128))
    for design, cause in ((setup(), Cause.NONE), (faulty("cause"), Cause.READ_ERROR)):
        frames = run_damaged(design, INPUTS[0], bits)
        assert [frame.bit for frame in frames] == bits
        assert [int.from_bytes(f.output.tobytes(), "little") for f in frames] == expected
        assert {(frame.cause, frame.address) for frame in frames} == {(cause, 0x7_0000_0123)}
        assert len({frame.cycles for frame in frames}) == 1


def test_a_region_ends_where_its_window_does() -> None:
    short = replace(setup(), image=IMAGE.tobytes()[:-16])
    with pytest.raises(SimulationError, match="reads address 0x100001ff0, which is in no region"):
        run_frames(short, INPUTS[:1])


def test_progress_within_an_image() -> None:
    assert [_part_done(cycles, 100) for cycles in (0, 50, 99, 100, 1000)] == [
        *(0, 0.5),
        *(0.99, 0.99, 0.99),
    ]
    assert _part_done(50, None) == 0


def test_changed_verilog_changes_the_result(faulty: Callable[[str], FrameSetup]) -> None:
    frame = run_frames(faulty("sum"), INPUTS[:1]).frames[0]
    assert int.from_bytes(frame.output.tobytes(), "little") == reference_sum(INPUTS[0]) + BEATS + 1


def test_when_words_were_written_and_instructions_taken() -> None:
    frame = run_frames(setup(), INPUTS[:1]).frames[0]
    taken, completed = frame.accepted[Engine.LOAD], frame.completions[Engine.LOAD]
    # The stand-in takes an instruction with the first of 16 beats that follow each other.
    assert (completed - taken).tolist() == [16] * BURSTS
    assert len(frame.accepted[Engine.DRAIN]) == 0
    # A beat is written the cycle after it came; to bank 1 one cycle later, as its complement.
    for name, burst, later in (("third round", 8, 1), ("complement", 24, 2)):
        first = frame.written_in(name, (0, 0))
        assert first == taken[burst] + later
        assert frame.written_in(name, (15, 15)) == first + 15
        # Token 16 is in the next burst; channels 16 to 19 are in words 32 beats behind.
        assert frame.written_in(name, (16, 0)) == taken[burst + 1] + later
        assert frame.written_in(name, (0, 16)) == taken[burst + 2] + later
    # The second part of this tensor was written a round later.
    early, late = (frame.written_in("mixed rounds", (token, 0)) for token in (4, 5))
    assert (early, late) == (taken[12] + 1 + 4, taken[16] + 1 + 5)


def changes(wave: Path, name: str) -> dict[int, int]:
    """Values of a signal by the time, in units of 100 ps, at which they begin."""
    found: dict[int, int] = {}
    codes: set[str] = set()
    time = -1
    for line in wave.read_text().splitlines():
        words = line.split()
        if words[:1] == ["$var"] and words[4] == name:
            codes.add(words[3])
        elif line.startswith("#"):
            time = int(line[1:])
        elif words and words[0][0] in "01" and words[0][1:] in codes:
            found[time] = int(words[0][0])
        elif len(words) == 2 and words[1] in codes:
            found[time] = int(words[0][1:], 2)
    return found


def test_waveform(tmp_path: Path) -> None:
    """A window of the second image; time 0 is its START, and a cycle takes a nanosecond."""
    frame = run_frames(setup(), INPUTS[:2]).frames[1]
    completed = frame.completions[Engine.LOAD].tolist()
    path = tmp_path / "wave.vcd"
    run_wave(setup(), INPUTS, Window(1, 0, 1 << 40), path)
    counter = changes(path, "completed_load")
    # START clears the counter, which held the first image's; new values come with a rising edge.
    assert list(counter.items())[:2] == [(0, BURSTS), (5, 0)]
    # The harness samples before the edge: what it sees in a cycle came with the one before.
    assert list(counter)[2:] == [10 * (cycle - 1) + 5 for cycle in completed]
    assert list(counter.values())[2:] == list(range(1, BURSTS + 1))
    clock = list(changes(path, "clk").items())
    assert clock == [(5 * step, step % 2) for step in range(2 * frame.cycles + 2)]
    # A window shows those cycles of it and no others.
    whole, beats = clock, changes(path, "beats")
    run_wave(setup(), INPUTS, Window(1, 150, 160), path)
    assert list(changes(path, "clk").items()) == [i for i in whole if 1500 <= i[0] < 1610]
    part = changes(path, "beats")
    assert list(part.items())[1:] == [i for i in beats.items() if 1500 < i[0] < 1610]


def test_waveform_of_what_does_not_finish(
    tmp_path: Path, faulty: Callable[[str], FrameSetup]
) -> None:
    design = faulty("idle")
    with pytest.raises(SimulationError, match="no instruction completed in") as caught:
        run_frames(design, INPUTS[:1], watchdog=1000)
    image, cycle = caught.value.image, caught.value.cycle
    assert image == 0
    assert cycle is not None
    path = tmp_path / "wave.vcd"
    run_wave(design, INPUTS, Window(0, cycle - 10, cycle + 10), path, watchdog=1000)
    assert max(changes(path, "clk")) == 10 * (cycle - 1) + 5  # given up before that cycle
    with pytest.raises(SimulationError, match="no instruction completed in"):
        run_wave(design, INPUTS, Window(0, cycle + 10, cycle + 20), path, watchdog=1000)


def test_input_of_another_size_is_refused() -> None:
    with pytest.raises(FormatError, match="image 0: Input must be at most 256 bytes, not 257"):
        run_frames(setup(), [bytes(257)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 19}, "cover the tensor exactly once"),
        ({"engine": "ALU"}, "engine must be one of"),
        ({"base": 1 << 20}, r"tensors\[0\]\.parts\[0\]\.base must be less than 1048576"),
        ({"base": True}, "base must be an integer, not true"),
        ({"stride": None}, "stride must be an integer, not null"),
        ({"first_token": 1}, r"must lie within \[32, 20\], .* tokens 1\+32"),
        ({"index": [0]}, r"must lie within \[32, 20\], not at index \[0\]"),
        ({"more": 0}, "more must be a known key"),
    ],
)
def test_malformed_tables_are_refused(change: dict[str, object], message: str) -> None:
    table = TABLE | {"tensors": [tensor("x", part(1, 0, 0, 32) | change)]}
    with pytest.raises(FormatError, match=message):
        boundaries.parse(table)


def test_a_table_cannot_ask_for_any_memory_or_time() -> None:
    huge = tensor("x", part(1, 0, 0, 32)) | {"shape": [1 << 19] * 3}
    with pytest.raises(FormatError, match="at most 1073741824 elements together"):
        boundaries.parse(TABLE | {"tensors": [huge]})
    parts = [part(1, 0, 0, 32)] * 100_000  # all of them the whole tensor
    with pytest.raises(FormatError, match="exactly once"):
        boundaries.parse(TABLE | {"tensors": [tensor("x", *parts)]})


@pytest.mark.parametrize("values", [None, [], {}, {"schema": "other"}])
def test_what_is_no_table_is_refused(values: object) -> None:
    with pytest.raises(FormatError, match=r"must have the schema 'hwgen\.boundaries'"):
        boundaries.parse(values)


@pytest.mark.verilator
def test_a_slow_memory_needs_a_longer_watchdog() -> None:
    usual = run_frames(setup(), INPUTS[:1]).frames[0]
    memory = Memory(4 * usual.cycles, 16.0)
    long, short = 8 * usual.cycles, usual.cycles
    slow = run_frames(setup(), INPUTS[:1], memory=memory, watchdog=long).frames[0]
    assert slow.cycles > 4 * usual.cycles
    np.testing.assert_array_equal(slow.output, usual.output)
    with pytest.raises(SimulationError):
        run_frames(setup(), INPUTS[:1], memory=memory, watchdog=short)


def test_boundary_outside_its_bank_is_refused() -> None:
    table = TABLE | {"tensors": [tensor("x", part(1, 40, 0, 32))]}
    with pytest.raises(SimulationError, match="outside the banks"):
        run_frames(replace(setup(), boundaries=boundaries.parse(table)), INPUTS[:1])


def test_row_shifts_are_words_of_one_byte() -> None:
    base = ROW_SHIFT_BANK << OFFSET_BITS
    parts = [
        {
            **{"engine": "SOFTMAX", "count": 1, "base": base + slot * 32 - head, "stride": 1},
            **{"skip": 0, "first_token": head, "tokens": 1, "first_channel": row, "channels": 5},
        }
        for slot, (head, row) in enumerate(((0, 0), (1, 0)))
    ]
    table = {"name": "s.shift", "shape": [2, 5], "dtype": "uint8", "parts": parts}
    (boundary,) = boundaries.parse(TABLE | {"tensors": [table]})
    assert [part.word_bytes(16) for part in boundary.parts] == [1, 1]
    assert [part.slices(16, 1) for part in boundary.parts] == [5, 5]
    records = np.arange(10, dtype=np.uint8).reshape(2, 5, 1, 1)
    assert boundary.assemble(list(records)).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
