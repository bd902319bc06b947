# SPDX-License-Identifier: Apache-2.0
"""The whole flow on the command line: run, generate, simulate, report, on the embedded model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.frontend.checkpoint import load_checkpoint
from hwgen.frontend.float_model import FloatModel
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.graph.graph import IntegerGraph
from hwgen.models import DIGITS_CHECKPOINT

Command = Callable[..., Any]

pytestmark = pytest.mark.verilator

#: The command line in a process in which torch cannot be imported: no stage may need it.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from hwgen.cli import main
status = main()
assert sys.modules["torch"] is None
sys.exit(status)
"""


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """``hwgen run --json`` in an empty folder: the folder, the object, standard error."""
    folder = tmp_path_factory.mktemp("run")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "run", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


@pytest.fixture
def design(first_run: tuple[Path, dict[str, Any], str], tmp_path: Path) -> Path:
    """A copy of the generated design, free to be changed."""
    return Path(shutil.copytree(first_run[0] / "rtl_out" / "digits_zcu102", tmp_path / "design"))


def test_run_keeps_the_contract(first_run: tuple[Path, dict[str, Any], str]) -> None:
    folder, values, errors = first_run
    assert values["matches_reference"] is True
    assert values["images"] == 20
    assert values["image_source"] == "digits"
    graph = IntegerGraph.load(folder / "rtl_out" / "digits_zcu102" / "graph.safetensors")
    assert values["layers_checked"] == len(graph.tensors) >= 40
    assert values["macs"] == 2_380_928
    assert values["clock_mhz"] == 300
    assert values["top1_images"] == 500
    assert values["top1_float"] >= 0.95
    assert abs(values["top1"] - values["top1_float"]) <= 0.02
    assert (values["calibration_source"], values["calibration_images"]) == ("digits", 256)
    assert set(values["logit_saturation"]) == {f"blocks.{i}.logits" for i in range(4)}
    assert all(0 <= part < 1e-3 for part in values["logit_saturation"].values())
    assert values["logit_sqnr_db"] > 20 and values["float_agreement"] > 0.9
    assert set(values["softmax_mass"]) == {f"blocks.{i}.softmax" for i in range(4)}
    cycles = values["cycles"]
    assert values["fps"] == pytest.approx(300e6 / cycles)
    assert values["useful_macs_per_cycle"] == pytest.approx(values["macs"] / cycles)
    assert values["array_utilisation"] == pytest.approx(values["macs"] / cycles / 256)
    assert values["busy_cycles"] + sum(values["stall_cycles"].values()) == cycles
    assert values["wall_seconds"] > 0
    assert values["assumed"]["mean"] == {"value": [0.5], "source": "model table"}
    assert values["assumed"]["heads"] == {"value": 4, "source": "model table"}
    assert values["predicted_cycles"] == pytest.approx(cycles, rel=0.15)
    assert errors.index("predicted:") < errors.index("simulate:")
    left = {path.name for path in (folder / "rtl_out").iterdir()}
    assert left == {"digits_zcu102"}  # nothing half-written beside it


def test_run_compares_with_expected_logits(
    first_run: tuple[Path, dict[str, Any], str], hwgen: Command, tmp_path: Path
) -> None:
    """On the images that are simulated, where the file has none of its own."""
    images = digits_dataset()[2][:3]
    model = FloatModel.from_state_dict(MODELS["digits"], load_checkpoint(DIGITS_CHECKPOINT))
    np.savez(tmp_path / "l.npz", logits=model.classify(images).astype(np.float32))
    done = hwgen("run", "--images", "3", "--expect", "l.npz", "--json")
    assert done.status == 0, done.err
    assert done.json["matches_reference"] is True
    assert done.json["expect"]["images"] == 3
    assert done.json["expect"]["sqnr_db"] > 100


def test_same_input_same_bytes(
    first_run: tuple[Path, dict[str, Any], str], hwgen: Command, tmp_path: Path
) -> None:
    first = first_run[0] / "rtl_out" / "digits_zcu102"
    assert hwgen("quantize", "digits", "-o", "g").status == 0
    for name, seed in (("a", "1"), ("b", "2")):
        done = hwgen("generate", "g", "-o", name, environment={"PYTHONHASHSEED": seed})
        assert done.status == 0, done.err
        listed = json.loads((tmp_path / name / "manifest.json").read_text())["files"]
        for file in (*listed, "manifest.json"):
            assert (tmp_path / name / file).read_bytes() == (first / file).read_bytes(), file


def test_simulate_takes_the_files_as_they_are(
    first_run: tuple[Path, dict[str, Any], str], hwgen: Command, design: Path
) -> None:
    dumped = design.parent / "tensors"
    done = hwgen("simulate", design, "--images", "2", "--trace", "--dump", dumped, "--json")
    assert done.status == 0, done.err
    assert done.json["images"] == 2
    assert done.json["cycles"] <= first_run[1]["cycles"]
    assert done.json["top1_images"] == 2
    trace = json.loads((design / "trace.json").read_text())
    events = trace["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"MATMUL", "SOFTMAX", "STORE", "MATMUL predicted"} <= names
    check_bars(events, done.json["cycles"])
    assert (done.json["trace"], done.json["dump"]) == (str(design / "trace.json"), str(dumped))
    graph = IntegerGraph.load(design / "graph.safetensors")
    assert [path.name for path in sorted(dumped.iterdir())] == ["image_0000.npz", "image_0001.npz"]
    for path in dumped.iterdir():
        with np.load(path) as tensors:
            assert list(tensors) == [
                f"{n}/{k}" for n in graph.tensors for k in ("rtl", "reference")
            ]
            for name in graph.tensors:
                np.testing.assert_array_equal(tensors[f"{name}/rtl"], tensors[f"{name}/reference"])


def check_bars(events: list[dict[str, Any]], cycles: int) -> None:
    """Simulated and predicted bars of every engine: as many, in order, close to each other."""
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    bars = {
        name: [e for e in events if e["ph"] == "X" and e["tid"] == tid]
        for name, tid in tracks.items()
    }
    for name in [name for name in bars if not name.endswith(" predicted")]:
        simulated, predicted = bars[name], bars[f"{name} predicted"]
        assert len(simulated) == len(predicted) > 0, name
        for track in (simulated, predicted):
            taken = [bar["args"]["taken_cycle"] for bar in track]
            completed = [bar["args"]["completed_cycle"] for bar in track]
            assert taken[0] > 0
            assert taken == sorted(taken)
            assert completed == sorted(completed)
            assert all(bar["dur"] > 0 for bar in track)
            assert completed[-1] < 1.1 * cycles
        for mine, theirs in zip(simulated, predicted, strict=True):
            assert (mine["name"], mine["cat"]) == (theirs["name"], theirs["cat"])
            for key in ("taken_cycle", "completed_cycle"):
                assert abs(mine["args"][key] - theirs["args"][key]) < 0.05 * cycles, mine


def test_a_simulation_leaves_what_run_measured(
    first_run: tuple[Path, dict[str, Any], str], hwgen: Command, design: Path
) -> None:
    """Accuracy is of all images, a simulation of those that it says; the report has both."""
    measured = {name: first_run[1][name] for name in ("top1", "top1_images", "top1_float")}
    assert measured["top1_images"] == 500
    _, _, images, labels = digits_dataset()
    np.savez(design.parent / "i.npz", images=images[:3], labels=(labels[:3] + 1) % 10)
    done = hwgen("simulate", design, "--images", "i.npz", "--memory-latency", "200", "--json")
    assert (done.json["top1"], done.json["top1_images"]) == (0, 3)  # of what was simulated
    report = hwgen("report", design, "--json").json
    assert {name: report[name] for name in measured} == measured
    assert report["top1_source"] == "digits"
    assert (report["images"], report["image_source"]) == (3, "i.npz")
    assert (report["cycles"], report["memory_latency"]) == (done.json["cycles"], 200)
    shown = hwgen("report", design).out
    rates = [rf"{100 * measured[name]:.1f} %" for name in ("top1", "top1_float")]
    assert re.search(
        rf"top-1 +{rates[0]} of 500 images of digits \(float model: {rates[1]}\)", shown
    )
    assert re.search(r"top-1, simulated +0\.0 % of 3 images", shown)
    # Of other files it says nothing.
    with (design / "labels.json").open("a") as stream:
        stream.write(" ")
    report = hwgen("report", design, "--json").json
    assert not {"top1", "cycles"} & set(report)


def test_slower_memory_takes_longer(hwgen: Command, design: Path) -> None:
    fast = hwgen("simulate", design, "--images", "1", "--json").json
    slow = hwgen(
        *("simulate", design, "--images", "1", "--json"),
        *("--memory-latency", "400", "--memory-bandwidth", "2.5"),
    ).json
    assert slow["matches_reference"] is True
    assert slow["cycles"] > 1.5 * fast["cycles"]
    assert (slow["memory_latency"], slow["memory_bandwidth"]) == (400, 2.5)


def test_a_changed_weight_is_said_and_found(hwgen: Command, design: Path) -> None:
    image = design / "program.bin"
    data = bytearray(image.read_bytes())
    instructions = json.loads((design / "manifest.json").read_text())["program"]["instructions"]
    # Beyond the instructions lie constants and weights; one bit of each of some bytes of them.
    for place in range(32 * instructions + 4096, len(data), 997):
        data[place] ^= 0x08
    image.write_bytes(data)
    done = hwgen("simulate", design, "--images", "1", "--json")
    assert done.status == 1
    assert "program.bin was changed" in done.err
    assert done.json["changed_files"] == ["program.bin"]
    difference = done.json["first_difference"]
    place = {"op", "tile", "lane", "index", "expected", "got", "image", "cycle"}
    assert set(difference) == place | {"differing", "elements", "largest_difference"}
    assert 0 < difference["differing"] < difference["elements"]
    assert difference["expected"] != difference["got"]
    assert difference["op"] in done.json["error"]


def test_a_changed_constant_in_the_verilog_is_found(hwgen: Command, design: Path) -> None:
    """The emitted text is what is simulated: without its rounding bit, requantise rounds down."""
    path = design / "digits_zcu102.v"
    text = path.read_text()
    rounding = "$signed({ addend, 1'h1 })"
    assert rounding in text
    path.write_text(text.replace(rounding, rounding.replace("1'h1", "1'h0")))
    assert hwgen("report", design, "--json").json["changed_files"] == [path.name]
    done = hwgen("simulate", design, "--images", "1", "--json")
    assert done.status == 1
    assert done.json["matches_reference"] is False
    difference = done.json["first_difference"]
    assert difference["op"] == "embedding"  # the first operation that rounds
    # Halves rounded down: at most 1 below the reference.
    assert difference["got"] == difference["expected"] - 1
    assert difference["largest_difference"] == 1
    assert "digits_zcu102.v was changed" in done.err
    assert not (design / "simulation.json").exists()  # what it said does not hold any more


def test_a_boundary_that_the_table_lacks_is_a_difference(hwgen: Command, design: Path) -> None:
    path = design / "boundaries.json"
    table = json.loads(path.read_text())
    kept = [t for t in table["tensors"] if t["name"] != "blocks.1.softmax"]
    assert len(kept) == len(table["tensors"]) - 1
    for tensors, missing in ((kept, "blocks.1.softmax"), ([], "image_codes")):
        path.write_text(json.dumps(table | {"tensors": tensors}))
        done = hwgen("simulate", design, "--images", "1", "--json")
        assert done.status == 1
        assert done.json["matches_reference"] is False
        assert done.json["first_difference"]["op"] == missing
        assert done.json["first_difference"]["got"] == "nothing"


def test_predictions_are_for_the_memory_that_was_simulated(hwgen: Command, design: Path) -> None:
    """A prediction never stands beside cycles of another memory."""
    before = hwgen("report", design, "--json").json
    assert before["predicted_cycles"] == pytest.approx(before["cycles"], rel=0.15)
    done = hwgen("simulate", design, "--images", "1", "--json", "--memory-bandwidth", "2")
    assert done.json["predicted_cycles"] > 1.5 * before["predicted_cycles"]
    assert done.json["predicted_cycles"] == pytest.approx(done.json["cycles"], rel=0.15)
    report = hwgen("report", design, "--json").json
    assert report["cycles"] == done.json["cycles"]
    assert report["memory_bandwidth"] == 2
    assert report["predicted_cycles"] == done.json["predicted_cycles"]
    done = hwgen("simulate", design, "--images", "1", "--json")
    assert done.json["predicted_cycles"] == before["predicted_cycles"]


def test_report(hwgen: Command, design: Path) -> None:
    done = hwgen("report", design, "--json")
    assert done.status == 0
    assert done.json["matches_reference"] is True
    assert done.json["assumed"]["activation"]["value"] == "gelu_erf"
    shown = hwgen("report", design).out
    assert "FPS" in shown
    assert "gelu_erf (model table)" in shown
    (design / "boundaries.json").write_text("{}")
    done = hwgen("report", design, "--json")
    assert done.json["changed_files"] == ["boundaries.json"]
    assert "matches_reference" not in done.json  # the result was for other files


def test_design_is_replaced_with_its_results(
    first_run: tuple[Path, dict[str, Any], str], hwgen: Command, design: Path
) -> None:
    assert (design / "simulation.json").is_file()
    (design / "digits_zcu102.v").write_text("// changed\n")
    graph = first_run[0] / "rtl_out" / "digits_zcu102" / "graph.safetensors"
    done = hwgen("generate", graph, "-o", design, "--json")
    assert done.status == 1
    assert "digits_zcu102.v was changed; give --force to replace it" in done.json["error"]
    assert (design / "digits_zcu102.v").read_text() == "// changed\n"
    assert (design / "simulation.json").is_file()
    done = hwgen("generate", graph, "-o", design, "--force")
    assert done.status == 0, done.err
    assert "// changed" not in (design / "digits_zcu102.v").read_text()
    assert not (design / "simulation.json").exists()
    (design / "mine.txt").write_text("dear")
    done = hwgen("generate", graph, "-o", design, "--json")
    assert done.status == 1
    assert "mine.txt" in done.json["error"]
    assert (design / "mine.txt").exists()


@pytest.mark.slow
def test_synth(hwgen: Command, design: Path) -> None:
    done = hwgen("synth", design, "--json")
    assert done.status == 0, done.err
    values = done.json
    assert {"lut", "ff", "dsp", "bram36", "logic_levels", "tool"} <= set(values)
    assert values["lut"] > 1000
    assert values["ff"] > 1000
    usage = values["board_usage"]["lut"]
    assert (usage["used"], usage["available"]) == (values["lut"], 274_080)
    assert usage["percent"] == pytest.approx(100 * values["lut"] / 274_080)
    assert values["overruns"] == []
    report = hwgen("report", design, "--json").json
    assert report["lut"] == values["lut"]
    assert report["board_usage"] == values["board_usage"]
    assert "of 274,080" in hwgen("report", design).out
    other = hwgen("synth", design, "--target", "ecp5", "--json").json
    assert "board_usage" not in other
    assert Path(other["result"]).name == "synthesis_other.json"
    assert hwgen("report", design, "--json").json["lut"] == values["lut"]


def test_images_of_the_user(hwgen: Command, design: Path, tmp_path: Path) -> None:
    _, _, images, labels = digits_dataset()
    np.savez(tmp_path / "i.npz", images=images[7:10], labels=labels[7:10])
    done = hwgen("simulate", design, "--images", "i.npz", "--json")
    assert done.status == 0, done.err
    assert (done.json["images"], done.json["image_source"]) == (3, "i.npz")
    np.savez(tmp_path / "i.npz", images=images[7:10, :, :7])
    done = hwgen("simulate", design, "--images", "i.npz", "--json")
    assert done.status == 1
    assert "[n, 8, 8, 1]" in done.json["error"]
    assert hwgen("simulate", design, "--images", "501", "--json").status == 2
    assert hwgen("simulate", design, "--images", "0", "--json").status == 2


def test_foreign_output_folder_is_left_alone(hwgen: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    done = hwgen("run", "--out", "mine", "--json")
    assert done.status == 1
    assert "mine" in done.json["error"]
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_what_does_not_fit_says_what_would(hwgen: Command) -> None:
    done = hwgen("run", "vit_base_patch16_384", "--checkpoint", "none.safetensors", "--json")
    assert done.status == 1
    values = done.json
    assert values["resource"] == "Block RAM for activations"
    assert values["demand"] > values["bound"] == 729
    assert "272 x 272" in values["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--board", "zcu103"),
        ("run", "--fps", "0"),
        ("run", "--weight-bits", "auto"),
        ("run", "--memory-latency", "0"),
        ("run", "--memory-bandwidth", "nan"),
        ("run", "--memory-bandwidth", "inf"),
        ("simulate", "x", "--memory-bandwidth", "-nan"),
        ("run", "--images", "-3"),
        ("run", "deit_tiny"),
        ("generate",),
        ("simulate",),
        ("simulate", "x", "--from-cycle", "1"),
        ("simulate", "x", "--wave", "w", "--from-cycle", "2", "--to-cycle", "1"),
        ("simulate", "x", "--wave", "w", "--to-cycle", "-1"),
        ("synth", "x", "--target", "xc7"),
        ("explore", "--fps", "30"),
    ],
)
def test_wrong_usage(hwgen: Command, arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = hwgen(*arguments, "--json")
    assert done.status == 2
    assert done.json["error"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["simulate", "synth", "report"])
def test_what_is_no_design_folder(hwgen: Command, tmp_path: Path, verb: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        done = hwgen(verb, name, "--json")
        assert done.status == 1
        assert "manifest.json" in done.json["error"]


def test_what_is_no_graph(hwgen: Command, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"nothing")
    done = hwgen("generate", "g", "--json")
    assert done.status == 1
    assert "g:" in done.json["error"]
    assert not (tmp_path / "rtl_out").exists()


def test_missing_compiler_is_said(hwgen: Command, design: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environment = {"PATH": str(tmp_path / "bin"), "CXX": ""}
    done = hwgen("simulate", design, "--images", "1", "--json", environment=environment)
    assert done.status == 1
    assert "C++ compiler" in done.json["error"]
    done = hwgen("doctor", "--json", environment=environment)
    assert done.status == 1
    assert done.json["ok"] is False


#: Starts Python anew with interrupts heeded: a shell's background jobs ignore them, and hand it on.
HEED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
HEEDING = (sys.executable, "-c", HEED)
#: A run in which the interrupt comes while a destructor runs.
INTERRUPTED_DESTRUCTOR = """
import os, signal, sys, time
from hwgen import flow
from hwgen.cli import main

class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            len("")

def run_all(*_):
    Freed()
    time.sleep(30)
    raise AssertionError("the interrupt is lost")

flow.run_all = run_all
sys.exit(main(["run", "--json"]))
"""


def test_interrupt_while_something_is_freed(tmp_path: Path) -> None:
    done = subprocess.run(
        [*HEEDING, "-c", INTERRUPTED_DESTRUCTOR],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 130, done.stderr
    assert json.loads(done.stdout)["error"] == "interrupted"


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_interrupt(tmp_path: Path, sent: signal.Signals, status: int, said: str) -> None:
    with subprocess.Popen(
        [*HEEDING, "-m", "hwgen", "run", "--images", "500", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        while "predicted" not in (line := process.stderr.readline()):
            assert line, "the command ended by itself"
        time.sleep(1)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert json.loads(out)["error"] == said
    left = list((tmp_path / "rtl_out").iterdir()) if (tmp_path / "rtl_out").exists() else []
    assert [path.name for path in left] in ([], ["digits_zcu102"])
