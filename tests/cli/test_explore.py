# SPDX-License-Identifier: Apache-2.0
"""``hwgen explore`` and ``run --fps`` on the command line, in this process."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import get_board
from hwgen.cli import main
from hwgen.emit.manifest import Manifest
from hwgen.explore.search import MARGIN
from hwgen.frontend.models import MODELS
from hwgen.graph.spec import ModelSpec
from hwgen.graph.weight_bits import DEFAULT_WEIGHT_BITS, parse_weight_bits
from hwgen.report.terminal import Reporter
from hwgen.stages.design import Design, Shapes
from hwgen.stages.explore import ExploreRequest, explore

Command = Callable[..., Any]

#: A part of the space that takes a second.
FEW = ("--rows", 16, "--columns", "8,16,32", "--ports", "1,2", "--row-blocks", 1, "--workers", 1)


def test_a_front(call: Command) -> None:
    done = call("explore", "digits", *FEW, "--csv", "front.csv", "-o", "D")
    assert done.status == 0, done.err
    values = done.json
    assert values["feasible"] is True
    assert values["binding_resource"] is None
    assert values["proven_optimal"] is True
    assert values["designs_legal"] == 3 * 2 * 4 * 2 * 2
    assert 0 < values["designs_within_limits"] <= values["designs_legal"]
    assert values["designs_evaluated"] > 0
    assert set(values["resource_error"]) == {"lut", "ff", "dsp", "bram36"}
    assert "accuracy_proxy" not in json.dumps(values)
    designs = values["designs"]
    rates = [design["fps"] for design in designs]
    assert rates == sorted(rates)
    assert len(rates) > 1
    for design in designs:
        assert design["fps"] == pytest.approx(300e6 / design["cycles"])
        assert set(design["resources"]) == {"lut", "ff", "dsp", "bram36"}
        assert design["weight_bits"]["blocks.0.qkv"] == 8
        assert (design["fabric_mhz"], design["dsp_mhz"]) == (300, None)
        assert design["config"]["rows"] == 16
        assert design["cascades"] == {
            "used": sum(int(group.split(":")[1]) for group in design["config"]["groups"]) // 2,
            "placeable": 152,
        }
    with Path("front.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["fps"]) for row in table] == pytest.approx(rates, abs=1e-3)
    assert [int(row["lut"]) for row in table] == [d["resources"]["lut"] for d in designs]
    # The fastest is what -o writes, without weights.
    written = Design.load(Path("D"))
    assert written is not None
    assert written.graph is None
    assert written.config.to_json() == designs[-1]["config"]
    assert written.shapes == Shapes.of(MODELS["digits"], written.config.softmax)


def test_narrow_weights_get_columns_of_their_own(call: Command) -> None:
    few = ("--rows", 16, "--ports", 1, "--row-blocks", 1, "--softmax-lanes", 32, "--workers", 1)
    lanes = ("--requantise-lanes", 16, "--layernorm-lanes", 8)
    limits = ("--dsp", 0.1, "--lut", 0.2)
    wide = call("explore", "digits", *few, *lanes, *limits)
    narrow = call("explore", "digits", *few, *lanes, *limits, "--weight-bits", "4", "-o", "D")
    assert (wide.status, narrow.status) == (0, 0), narrow.err
    best = narrow.json["designs"][-1]
    assert best["fps"] > 1.2 * wide.json["designs"][-1]["fps"]
    assert [group.split(":")[::2] for group in best["config"]["groups"]][-1] == ["tables", "4"]
    assert best["weight_bits"]["blocks.0.fc1"] == 4 and best["weight_bits"]["head"] == 8
    assert f"--groups {','.join(best['config']['groups'])}" in best["command"]
    assert "--weight-bits 4" in best["command"]
    assert best["cascades"]["used"] * 16 <= narrow.json["limits"]["dsp"]
    written = Design.load(Path("D"))
    assert written is not None and written.config.to_json() == best["config"]
    # The same groups, named.
    groups = ",".join(best["config"]["groups"])
    named = call(
        "explore", "digits", *few, *lanes, *limits, "--weight-bits", "4", "--groups", groups
    )
    (one,) = named.json["designs"]
    assert (one["cycles"], one["config"]) == (best["cycles"], best["config"])


#: One design of every array of 16 rows.
ARRAYS = (
    *("--rows", 16, "--ports", 2, "--row-blocks", 1, "--workers", 1, "--softmax-lanes", 32),
    *("--requantise-lanes", 16, "--layernorm-lanes", 8),
)


def test_columns_at_twice_the_clock_are_chosen_where_they_are_better(call: Command) -> None:
    either = call("explore", "digits", *ARRAYS, "--fps", 4_000)
    without = call("explore", "digits", *ARRAYS, "--fps", 4_000, "--no-pump")
    assert (either.status, without.status) == (0, 0), either.err + without.err
    best, other = either.json["designs"][0], without.json["designs"][0]
    assert (best["fabric_mhz"], best["dsp_mhz"]) == (300, 600)
    assert (other["fabric_mhz"], other["dsp_mhz"]) == (300, None)
    assert best["cost"] < other["cost"]
    assert "--groups pumped:" in best["command"] and "--no-pump" in without.json["clocks"]
    assert all(design["dsp_mhz"] is None for design in without.json["designs"])
    # A board whose DSP blocks are not fast enough for its clock has none either.
    slow = call("explore", "digits", *ARRAYS, "--fps", 4_000, "--clock", 301)
    assert "DSP blocks take 600 MHz at most" in slow.json["clocks"]
    assert all(design["dsp_mhz"] is None for design in slow.json["designs"])


def test_the_clock_of_dsp_blocks(
    call: Command, no_verilog: None, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("explore", "digits", *ARRAYS, "--groups", "pumped:16:8", "--dsp-clock", 500)
    done = call(*named, "--csv", "t.csv")
    assert done.status == 0, done.err
    (one,) = done.json["designs"]
    assert (one["fabric_mhz"], one["dsp_mhz"]) == (250, 500)
    assert one["fps"] == pytest.approx(250e6 / one["cycles"])
    assert one["cascades"]["used"] == 4
    assert one["command"].endswith("--clock 250")
    with Path("t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["clock_mhz"], row["dsp_clock_mhz"]) == ("250", "500")
    assert main([*map(str, named)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "250/500" in out
    assert "500 MHz for DSP blocks of pumped columns; assumed, nothing was placed" in out


def test_drain_without_rotators(
    call: Command, graph: str, no_verilog: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Proposed, shown, and built by the command; the cheaper of two that are as fast."""
    named = ("explore", graph, *ARRAYS, "--groups", "dual:12:8,tables:4:8,tables:16:4")
    done = call(*named, "--csv", "t.csv")
    assert done.status == 0, done.err
    (one,) = done.json["designs"]
    assert one["config"]["rotation"] is False
    assert one["command"].endswith("--rotation false")
    with Path("t.csv").open(newline="") as file:
        assert [row["rotation"] for row in csv.DictReader(file)] == ["False"]
    assert call(*shlex.split(one["command"])[1:], "-o", "made").status == 0
    assert Manifest.load(Path("made")).config.to_json() == one["config"]
    assert main([*map(str, named)]) == 0
    assert "tables:16:4, no rotation" in " ".join(capsys.readouterr().out.split())


def test_the_same_answer_and_bytes_twice(call: Command) -> None:
    answers = []
    for number in (1, 2):
        values = call("explore", "digits", *FEW[:-1], number, "-o", f"D{number}").json
        answers.append({k: v for k, v in values.items() if k not in ("seconds", "design")})
    assert answers[0] == answers[1]
    assert Path("D1").read_bytes() == Path("D2").read_bytes()


def test_a_target(call: Command) -> None:
    done = call("explore", "digits", *FEW, "--fps", 16_000)
    assert done.status == 0, done.err
    first, second = done.json["designs"][:2]
    assert first["fps"] >= 16_000 * (1 + MARGIN)
    assert first["cost"] <= second["cost"]
    assert "the runner-up" in done.json["why"]
    assert first["command"].startswith("hwgen run digits --board zcu102 --rows 16 --columns ")


def test_the_command_builds_the_design(call: Command, graph: str, no_verilog: None) -> None:
    done = call("explore", graph, *FEW, "--fps", 15_000, "--clock", 250, "-o", "D")
    assert done.status == 0, done.err
    best = done.json["designs"][0]
    words = shlex.split(best["command"])
    assert words[:3] == ["hwgen", "generate", graph]
    assert call(*words[1:], "-o", "made").status == 0
    made = Manifest.load(Path("made"))
    assert made.config.to_json() == best["config"]
    assert made.config.clock_mhz == 250
    assert made.program.predicted_cycles == best["cycles"]
    assert call("generate", "D", "--graph", graph, "-o", "again").status == 0
    assert Path("again/program.bin").read_bytes() == Path("made/program.bin").read_bytes()


def test_a_graph_fixes_the_softmax(call: Command, graph: str) -> None:
    values = call("explore", graph, *FEW).json
    configs = [design["config"] for design in values["designs"]]
    assert {config["softmax_fractional"] for config in configs} == {True}
    assert call("quantize", "digits", "--softmax", "sole", "-o", "sole").status == 0
    values = call("explore", "sole", *FEW).json
    configs = [design["config"] for design in values["designs"]]
    functions = {(config["softmax_fractional"], config["softmax_vec"]) for config in configs}
    assert functions == {(False, 32)}
    done = call("explore", "sole", *FEW, "--softmax-lanes", 8)
    assert done.status == 2
    assert "--softmax-lanes must be the graph's 32 or absent, not 8" in done.json["error"]


def test_infeasible(call: Command) -> None:
    done = call("explore", "digits", *FEW, "--fps", 1e6, "-o", "D")
    assert done.status == 1
    values = done.json
    assert values["feasible"] is False
    assert values["designs"] == []
    assert values["best_fps"] > 0
    assert values["binding_resource"] == "design_space"
    assert "Frame rate must be at most" in values["error"]
    assert not Path("D").exists()
    # What can be met is met.
    assert call("explore", "digits", *FEW, "--fps", values["best_fps"]).status == 0
    assert call("explore", "digits", *FEW, "--fps", values["best_fps"] * 1.001).status == 1


def test_a_limit_binds(call: Command) -> None:
    limited = call("explore", "digits", *FEW, "--fps", 20_000, "--dsp", 200)
    assert limited.status == 1
    assert limited.json["binding_resource"] == "dsp"
    assert limited.json["limits"]["dsp"] == 200
    assert limited.json["nearest_beyond"]["resources"]["dsp"] > 200
    assert "DSP of 200" in limited.json["error"]
    fraction = call("explore", "digits", *FEW, "--fps", 20_000, "--dsp", 0.05, "--bram", 1)
    assert fraction.json["limits"]["dsp"] == int(2520 * 0.05)
    assert fraction.json["limits"]["bram36"] == 912


def test_nothing_fits(call: Command) -> None:
    done = call("explore", "digits", *FEW, "--dsp", 20)
    assert done.status == 1
    assert done.json["best_fps"] is None
    assert done.json["binding_resource"] == "dsp"
    assert "none of 96" in done.json["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rows", 24), "--rows must be 16, 32, 64 or 128, not 24"),
        (("--rows", "16,24"), "--rows must be 16, 32, 64 or 128, not 24"),
        (("--rows", "many"), "must be integers"),
        (("--ports", 9), "--ports must be in 1..6, not 9; nearest legal value: 6"),
        (("--clock", 0), "--clock must be in 1..1000, not 0; nearest legal value: 1"),
        (("--dsp", 2.5), "--dsp must be a fraction up to 1 or a whole number, not 2.5"),
        (("--dsp", 99_999), "--dsp must be at most the device's 2,520, not 99,999"),
        (("--lut", -1), "-1"),
        (("--fps", 0), "0"),
        (("--fps", "nan"), "nan"),
        (("--workers", 0), "0"),
        (("--board", "nowhere"), "nowhere"),
        (("--rows", 16, "--rows", "x"), "must be integers"),
        (("--columns", 16, "--groups", "dual:16:8"), "--columns must be absent with --groups"),
        (
            ("--groups", "dual:16"),
            "KIND:COLUMNS:BITS, as dual:58:8, or paired, as digits:12:4+4, not dual:16",
        ),
        (("--frames-per-start", 65), "--frames-per-start must be in 1..64, not 65"),
        (("--weight-bits", "9"), "must be an integer in 1..8"),
        (
            ("--dsp-clock", 500, "--clock", 300),
            "--dsp-clock must be twice --clock 300, not 500; nearest legal value: 600, or --clock",
        ),
        (("--dsp-clock", 700), "--dsp-clock must be at most 600, not 700"),
        (("--dsp-clock", 501), "--dsp-clock must be an even number in 2..2000, not 501"),
        (("--dsp-clock", 600, "--no-pump"), "--dsp-clock must be absent with --no-pump, not 600"),
        (("--dsp-clock", 600, "--columns", 16), "--dsp-clock must be absent with one clock"),
        (
            ("--no-pump", "--groups", "pumped:16:8"),
            "--groups must be without columns at twice the clock with --no-pump, not pumped:16:8",
        ),
        (
            ("--clock", 350, "--groups", "pumped:16:8"),
            "--clock must be at most 300 with columns at twice the clock, not 350",
        ),
    ],
)
def test_wrong_usage(call: Command, options: tuple[Any, ...], message: str) -> None:
    done = call("explore", "digits", *options)
    assert done.status == 2
    assert message in done.json["error"]


def test_no_legal_design_and_no_model(call: Command) -> None:
    done = call("explore", "digits", "--rows", 64, "--columns", 8)
    assert done.status == 1
    assert "none is" in done.json["error"]
    assert call("explore", "no_such_model").status in (1, 2)


def test_columns_that_were_not_measured(call: Command) -> None:
    done = call("explore", "digits", "--rows", 128, "--groups", "dual:64:8,digits:8:4")
    assert done.status == 1
    assert "--groups must be of columns that the resource model knows" in done.json["error"]


@pytest.mark.usefixtures("no_verilog")
def test_a_graph_has_its_widths(call: Command) -> None:
    assert call("quantize", "digits", "--weight-bits", "8:8+4:24", "-o", "mixed").status == 0
    done = call("explore", "mixed", *FEW[:2], "--ports", 1, "--row-blocks", 1, "--workers", 1,
                "--groups", "dual:8:8,digits:24:4", "--layernorm-lanes", 8,
                "--softmax-lanes", 32, "--requantise-lanes", 8)  # fmt: skip
    assert done.status == 0, done.err
    (one,) = done.json["designs"]
    assert one["weight_bits"]["blocks.0.fc1"].startswith("8:8+4:24")
    built = call("generate", "mixed", *shlex.split(one["command"])[3:], "-o", "made")
    assert built.status == 0, built.err
    assert Manifest.load(Path("made")).program.predicted_cycles == one["cycles"]
    done = call("explore", "mixed", "--weight-bits", "4")
    assert "--weight-bits must be absent" in done.json["error"]


def test_a_model_file_and_a_board_file(call: Command) -> None:
    spec = ModelSpec(name="mine", image_size=32, patch=8, width=48, depth=1, heads=2, head_dim=24,
                     mlp_hidden=96, classes=10)  # fmt: skip
    Path("mine.json").write_text(json.dumps(spec.to_json()))
    text = (Path(__file__).parents[2] / "boards/ultra96v2.toml").read_text()
    Path("my board.toml").write_text(text.replace('name = "ultra96v2"', 'name = "mine"'))
    done = call("explore", "mine.json", "--board", "./my board.toml", *FEW)
    assert done.status == 0, done.err
    assert (done.json["model"], done.json["board"]) == ("mine", "mine")
    assert done.json["designs"][0]["fabric_mhz"] == 200
    command = done.json["designs"][0]["command"]
    assert "run mine.json --checkpoint FILE --board './my board.toml'" in command


def test_the_command_says_the_widths() -> None:
    spec = MODELS["digits"]
    request = replace(
        ExploreRequest.of(
            "digits",
            board=get_board("zcu102"),
            board_source="zcu102",
            fps=15000,
            choices={"rows": (16,), "columns": (16,), "memory_ports": (1,), "row_blocks": (1,)},
            workers=1,
        ),
        weight_bits=parse_weight_bits("4,blocks.*.fc1=6").of(spec),
    )
    found = explore(request, Reporter(quiet=True))
    command = found.command(found.answer.designs[0])
    assert "--weight-bits '4,blocks.*.fc1=6'" in command
    plain = replace(request, weight_bits=DEFAULT_WEIGHT_BITS.of(spec))
    assert "--weight-bits" not in replace(found, request=plain).command(found.answer.designs[0])


def test_a_family_without_a_resource_model_is_refused(call: Command) -> None:
    text = (Path(__file__).parents[2] / "boards/zcu102.toml").read_text()
    changed = text.replace('"xcup"', '"ecp5"').replace("xczu9eg-ffvb1156-2-e", "lfe5um-85")
    lines = [line for line in changed.splitlines() if "dsp_" not in line]
    Path("b.toml").write_text("\n".join(lines).replace('"zcu102"', '"lattice"'))
    done = call("explore", "digits", "--board", "./b.toml")
    assert done.status == 1
    assert "synthesis_target must be xcup" in done.json["error"]


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "digits", *map(str, FEW), "--fps", "16000"]) == 0
    out = capsys.readouterr().out
    for words in ("Designs that meet the target", "runner-up", "build it with", "estimated"):
        assert words in out
    assert main(["explore", "digits", *map(str, FEW)]) == 0
    out = capsys.readouterr().out
    assert "Pareto front" in out
    assert "placement" in out


def test_an_interrupt_gives_what_was_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwgen", "explore", "digits", "--json", "--workers", "2"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Interrupts are heeded where the shell's background jobs ignore them.
        preexec_fn=lambda: signal.signal(  # noqa: PLW1509
            signal.SIGINT, signal.default_int_handler
        ),
    )
    assert process.stderr is not None
    told = next(line for line in process.stderr if "designs evaluated" in line)
    assert "explore" in told
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    values = json.loads(out)
    assert values["interrupted"] is True
    assert values["proven_optimal"] is False
    assert values["designs_evaluated"] > 0


def test_run_finds_a_design(
    call: Command, no_verilog: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Design] = []

    def stop(lowered: Any, *_: Any, **__: Any) -> None:
        built.append(lowered.design)
        raise KeyboardInterrupt

    monkeypatch.setattr("hwgen.flow.emit", stop)
    words = ("--queue-depth", 5, "--frames-per-start", 2)
    done = call("run", "--fps", 16_000, "--rows", 16, "--columns", 16, *words)
    assert done.status == 130
    (design,) = built
    assert (design.config.rows, design.config.queue_depth) == (16, 5)
    assert design.graph is not None
    best = call(
        "explore", "digits", "--fps", 16_000, "--rows", 16, "--columns", 16, "--workers", 1,
        "--frames-per-start", 2,
    ).json["designs"][0]  # fmt: skip
    assert design.config.replace(queue_depth=8).to_json() == best["config"]
    assert design.row_blocks == best["row_blocks"]
    assert design.frames_per_start == best["frames_per_start"] == 2
    assert "--frames-per-start 2" in best["command"]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--fps", 1e6, "--rows", 16, "--columns", 16), 1, "Frame rate must be at most"),
        (("--fps", 100, "--design", "D"), 2, "--fps and --design must not be given together"),
    ],
)
def test_run_that_cannot_be(
    call: Command, options: tuple[Any, ...], status: int, message: str
) -> None:
    done = call("run", *options)
    assert done.status == status
    assert message in done.json["error"]
    if status == 1:
        assert done.json["feasible"] is False
        assert done.json["best_fps"] > 0
        assert done.json["binding_resource"]
