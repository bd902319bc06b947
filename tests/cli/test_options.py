# SPDX-License-Identifier: Apache-2.0
"""Every parameter of a design is an option: through the real command line, in this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwgen.cli import main
from hwgen.emit.manifest import Manifest
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.ops import Softmax
from hwgen.program.buffer_plan import row_blocks
from hwgen.stages.options import OPTIONS

Command = Callable[..., Any]

NARROW = (
    "The preset of zcu102 is changed for this model: rows = 16 instead of 64, groups = dual:16:8"
    " instead of dual:58:8,tables:38:8, memory_ports = 1 instead of 3, because its width 64 fills"
    " an array of 64 rows fewer than 3 times"
)


@pytest.mark.parametrize("verb", ["run", "generate"])
def test_help_shows_every_option_in_its_group(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in OPTIONS:
        if option.name == "groups":
            shown = "--groups KIND:COLUMNS:BITS,..."
        elif option.name == "no_pump":
            shown = "--no-pump"
        else:
            shown = f"{option.option} {'true|false' if option.parameter.flag else 'N'}"
        assert option.help in text
        heading = text.index(f"{option.group} of the design:")
        assert heading < text.index(shown)
    assert text.index("Options:") < text.index("Array of the design:")
    assert "[MODEL]" not in text[text.index("Options:") :]


def test_help_says_what_narrow_weights_buy(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "quantize"):
        assert main([verb, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "Weights are streamed at their width; cycles follow where the design" in text
        assert "4,blocks.*.fc1=6,head=4" in text
        assert "--softmax-lanes" in text


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        (("--rows", 24), 16),
        (("--columns", 23), 22),
        (("--rows", 64, "--columns", 16), "dual:32:8"),
        (("--groups", "dual:16:4"), 8),
        (("--groups", "digits:16:4,dual:16:8"), "dual:16:8,digits:16:4"),
        (("--ports", 7), 6),
        (("--softmax-lanes", 48), 32),
        (("--clock", 2000), 1000),
        (("--dsp-clock", 601), 600),
        (("--groups", "pumped:16:8", "--clock", 280, "--dsp-clock", 600), "560, or --clock 300"),
        (("--groups", "pumped:16:8", "--dsp-clock", 700), 600),
        (("--no-pump", "--groups", "pumped:16:8"), "dual:16:8"),
        (("--row-blocks", 18), 17),
        (("--max-row-length", 16), 17),
        (("--max-channels", 63), 64),
        (("--tile-rows", 1), 2),
        (("--tile-rows", 8, "--row-blocks", 2), 3),
        (("--bank-words", "1,2,3"), "1,2,3,1,1,1,1"),
        (("--bank-words", "136,68,68,136,34,34,1"), "136,68,68,136,34,34,136"),
        (("--read-fifo-beats", 300), 256),
        (("--burst-beats", 64, "--read-fifo-beats", 64), 128),
        (("--constant-fifo-beats", 8), 16),
        (("--burst-beats", 24), 16),
        (("--outstanding", 0), 1),
        (("--queue-depth", 1), 2),
    ],
    ids=str,
)
def test_an_illegal_value_is_wrong_usage_and_the_nearest_is_named(
    options: tuple[object, ...], nearest: object, call: Command, tmp_path: Path
) -> None:
    done = call("run", "--images", "1", *options)
    assert done.status == 2
    assert re.match(rf"{options[-2]}(: .*)? must be ", done.json["error"])
    assert done.json["error"].endswith(f"; nearest legal value: {nearest}")
    assert done.json["error"] in done.err
    assert not list(tmp_path.iterdir())  # before any work


@pytest.mark.parametrize(
    "options", [("--rows", "x"), ("--bank-words", "1,x"), ("--rows",), ("--instruction-check", 2)]
)
def test_what_is_no_number(options: tuple[str, ...], call: Command) -> None:
    done = call("generate", "g", *options)
    assert done.status == 2
    assert options[0] in done.json["error"]


@pytest.mark.usefixtures("no_verilog")
def test_the_preset_is_not_changed_in_silence(graph: str, call: Command) -> None:
    done = call("generate", graph)
    assert done.status == 0
    assert NARROW in done.err.splitlines()
    assert done.json["notes"] == [NARROW]
    report = call("report", done.json["out"])
    assert report.json["notes"] == [NARROW]
    assert report.json["row_blocks"] == done.json["row_blocks"] == 1


@pytest.mark.usefixtures("no_verilog")
def test_notes_are_shown_as_a_table(
    graph: str, call: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    out = call("generate", graph, "--row-blocks", 2).json["out"]
    assert main(["report", out]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "row blocks 2" in text
    assert f"note {NARROW}" in text


def test_options_decide_the_design(graph: str, call: Command) -> None:
    options = {
        "--rows": ("rows", 32),
        "--groups": ("groups", ["dual:20:8", "digits:6:4"]),
        "--ports": ("memory_ports", 3),
        "--clock": ("clock_mhz", 200),
        "--max-row-length": ("max_row_length", 100),
        "--max-channels": ("max_channels", 100),
        "--tile-rows": ("tile_rows", 30),
        "--bank-words": ("bank_words", [100, 90, 80, 200, 70, 60, 150]),
        "--constant-fifo-beats": ("constant_fifo_beats", 77),
        "--queue-depth": ("queue_depth", 5),
        "--read-fifo-beats": ("read_fifo_beats", 64),
        "--burst-beats": ("burst_beats", 32),
        "--outstanding": ("outstanding", 7),
        "--softmax-lanes": ("softmax_vec", 32),
        "--requantise-lanes": ("requantise_lanes", 32),
        "--layernorm-lanes": ("layernorm_lanes", 8),
        "--rotation": ("rotation", True),
        "--instruction-check": ("instruction_check", False),
    }
    arguments = []
    for option, (_, value) in options.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else value
        arguments += [option, text]
    done = call("generate", graph, *arguments, "--row-blocks", 3, "-o", "d")
    assert done.status == 0, done.err
    for name, value in options.values():
        assert done.json["config"][name] == value
    assert done.json["row_blocks"] == Manifest.load(Path("d")).row_blocks == 3
    assert done.json["notes"] == []
    # Bytes per cycle follow the clock.
    assert done.json["memory_bandwidth"] == pytest.approx(14e9 / 200e6)
    assert {o.option for o in OPTIONS} == {
        *options,
        "--columns",
        "--dsp-clock",
        "--no-pump",
        "--row-blocks",
        "--frames-per-start",
        "--frames-in-flight",
    }


@pytest.mark.usefixtures("no_verilog")
def test_the_second_clock(graph: str, call: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", graph, "--groups", "pumped:16:8")
    done = call(*words, "--dsp-clock", 500, "-o", "d")
    assert done.json["config"]["clock_mhz"] == 250
    assert done.json["dsp_clock_mhz"] == 500
    note = "clock_mhz = 250 is taken instead of 300: DSP blocks of pumped:16:8 run at twice of it"
    assert any(text.startswith(note) for text in done.json["notes"])
    assert main(["report", "d"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "FPS at 250 MHz, DSP blocks 500 MHz, assumed, nothing was placed" in text
    both = call(*words, "--clock", 250, "--dsp-clock", 500, "-o", "e")
    assert (both.json["config"], both.json["notes"][1:]) == (done.json["config"], [])
    # What a design that exists has is not contradicted.
    made = call(*words, "--dsp-clock", 500, "--design-out", "D", "-o", "f")
    assert made.status == 0, made.err
    assert call("generate", "D", "--dsp-clock", 500, "-o", "f").status == 0
    refused = call("generate", "D", "--dsp-clock", 600)
    assert "--dsp-clock must be the design's 500 or absent, not 600" in refused.json["error"]
    refused = call("generate", "D", "--no-pump")
    assert "--no-pump must be absent: the design has pumped:16:8" in refused.json["error"]
    for more in ((), ("--no-pump",)):
        refused = call("generate", graph, "--dsp-clock", 600, *more)
        assert refused.status == 2
        assert "--dsp-clock must be absent with one clock, not 600" in refused.json["error"]
    assert call("generate", graph, "--no-pump", "-o", "h").status == 0


@pytest.mark.usefixtures("no_verilog")
def test_row_blocks_decide_the_program(graph: str, call: Command) -> None:
    programs = {}
    for blocks in (1, 2, 5):
        done = call("generate", graph, "--row-blocks", blocks, "-o", f"d{blocks}")
        assert done.status == 0, done.err
        programs[blocks] = Path(f"d{blocks}", "program.bin").read_bytes()
        longest = max(stop - start for start, stop in row_blocks(17, 16, 17, blocks))
        assert done.json["config"]["bank_words"][4] == 2 * longest
    assert len(set(programs.values())) == 3
    assert call("generate", graph, "-o", "d").json["row_blocks"] == 1
    assert Path("d", "program.bin").read_bytes() == programs[1]


@pytest.mark.usefixtures("no_verilog")
def test_slice_length_is_the_graphs(graph: str, call: Command) -> None:
    sole = ("--softmax", "sole", "--softmax-lanes", 16)
    assert call("quantize", "digits", *sole, "-o", "h").status == 0
    slices = {op.function.vec for op in IntegerGraph.load("h").ops if isinstance(op, Softmax)}
    assert slices == {16}
    done = call("generate", "h")
    assert done.json["config"]["softmax_vec"] == 16
    assert done.json["config"]["softmax_fractional"] is False
    done = call("generate", "h", "--softmax-lanes", 32)
    assert done.status == 2
    assert "--softmax-lanes must be the graph's 16, not 32" in done.json["error"]
    # Without slices in the function the lanes are the design's.
    config = call("generate", graph, "--softmax-lanes", 16, "-o", "d").json["config"]
    assert (config["softmax_vec"], config["softmax_fractional"]) == (16, True)
    done = call("quantize", "digits", "--softmax-lanes", 16, "-o", "i")
    assert done.status == 2
    assert "--softmax-lanes must be absent with the softmax fractional" in done.json["error"]


def test_what_does_not_fit_with_the_options_given(call: Command, tmp_path: Path) -> None:
    """The configuration that would be built is checked, before the checkpoint is read."""
    arguments = ("run", "deit_base", "--checkpoint", "none")
    done = call(*arguments, "--rows", 128, "--columns", 1024)
    assert done.status == 1
    assert done.json["resource"] == "Block RAM for activations"
    # Accumulators of 1,024 columns: two banks of 197 x 32 bits each, 512 x 64 bits a block.
    assert done.json["demand"] > 2 * 1024 * 32 / 64
    assert not list(tmp_path.iterdir())
    done = call(*arguments, "--rows", 128)
    assert done.json["resource"] == "DSP cascades"
    assert "at most 11 cascades of 128 DSPs, not 29 " in done.json["error"]
    assert "dual" not in done.json["error"].partition("try: ")[2]  # 22 columns are none of 128 rows
    done = call(*arguments, "--rows", 64, "--columns", 64)
    assert "try: --groups dual:58:8;" in done.json["error"]
    done = call(*arguments, "--rows", 64, "--columns", 32)
    assert "none" in done.json["error"]  # this one fits; what fails is the checkpoint


def test_frames_of_a_start_decide_the_program(graph: str, call: Command) -> None:
    one = Manifest.load(Path(call("generate", graph, "-o", "one").json["out"]))
    done = call("generate", graph, "--frames-per-start", 3, "-o", "three")
    three = Manifest.load(Path("three"))
    assert (one.frames_per_start, three.frames_per_start) == (1, 3)
    assert done.json["frames_per_start"] == 3
    assert three.program.input_bytes == 3 * one.program.input_bytes
    assert three.program.output_bytes == 3 * one.program.output_bytes
    assert three.program.macs == one.program.macs


def test_two_frames_in_flight(graph: str, call: Command) -> None:
    one = Manifest.load(Path(call("generate", graph, "-o", "one").json["out"]))
    both = ("--frames-per-start", 4, "--frames-in-flight", 2)
    assert call("generate", graph, *both, "-o", "two").json["frames_in_flight"] == 2
    two = Manifest.load(Path("two"))
    assert (two.frames_per_start, two.frames_in_flight) == (4, 2)
    keys_and_values = two.config.bank("key_value")  # nothing but an image's own
    assert two.config.bank_words[keys_and_values] == 2 * one.config.bank_words[keys_and_values]
    refused = call("generate", graph, "--frames-per-start", 3, "--frames-in-flight", 2)
    assert refused.status == 2
    assert "--frames-per-start must be a multiple of --frames-in-flight 2, not 3" in refused.err
    assert "nearest legal value: 4" in refused.err
