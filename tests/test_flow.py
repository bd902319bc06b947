# SPDX-License-Identifier: Apache-2.0
"""The flow: its stages fit, its artefacts survive their files, its accounts add up."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen import flow
from hwgen.boards import Board, get_board
from hwgen.columns import dense
from hwgen.errors import ConfigError, FormatError, MismatchError, SimulationError, UsageError
from hwgen.flow import STAGES, Evidence, Settings, Stage, run_flow
from hwgen.frontend.images import digits_dataset
from hwgen.frontend.models import MODELS
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run_boundaries
from hwgen.isa.instructions import Engine
from hwgen.isa.registers import COUNTERS
from hwgen.program.buffer_plan import preset_config
from hwgen.program.lower import lower
from hwgen.report import design as design_report
from hwgen.report.results import SimulationResult, SynthesisResult, design_digest
from hwgen.report.terminal import Reporter
from hwgen.sim.boundaries import Part
from hwgen.sim.frame import Memory, Window
from hwgen.sim.frame_results import Frame, FrameResults
from hwgen.stages import simulate as simulate_stage
from hwgen.stages.emit import DesignFolder
from hwgen.stages.inspection import Inspection
from hwgen.stages.load import Request, calibration_images, held_out_images
from hwgen.stages.simulate import account, expected_of, simulate
from hwgen.stages.synthesise import board_usage, save_synthesis, synthesise

from .emit.manifests import manifest

REPORTER = Reporter(quiet=True)


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    result = run_flow(Request.of("digits"), Settings(), REPORTER, until="quantise")
    assert isinstance(result, IntegerGraph)
    return result


def test_stages_fit_together() -> None:
    names = [stage.name for stage in STAGES]
    assert names == [
        "load",
        "quantise",
        "design",
        "lower",
        "emit",
        "simulate",
        "synthesise",
        "report",
    ]
    for before, after in itertools.pairwise(STAGES):
        assert before.makes is after.takes


def test_flow_starts_at_any_artefact_and_shows_each(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [type(f"K{i}", (), {}) for i in range(4)]
    stages = tuple(
        Stage(f"s{i}", kinds[i], kinds[i + 1], lambda a, s, r, make=kinds[i + 1]: make())
        for i in range(3)
    )
    monkeypatch.setattr(flow, "STAGES", stages)
    seen: list[str] = []

    def watch(name: str, artefact: object) -> None:
        seen.append(f"{name} {type(artefact).__name__}")

    assert type(run_flow(kinds[1](), Settings(), REPORTER, until="s2", watch=watch)) is kinds[3]
    assert seen == ["s1 K2", "s2 K3"]
    with pytest.raises(UsageError, match="must start from an earlier artefact, not K2"):
        run_flow(kinds[2](), Settings(), REPORTER, until="s1")
    with pytest.raises(UsageError, match="Stage must be one of s0, s1, s2, not 's9'"):
        run_flow(kinds[2](), Settings(), REPORTER, until="s9")


def test_watch_may_replace_an_artefact(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (Stage("double", int, int, lambda a, s, r: 2 * a),)
    monkeypatch.setattr(flow, "STAGES", stages)
    assert run_flow(4, Settings(), REPORTER, until="double", watch=lambda n, a: a + 1) == 9


def test_request_needs_a_checkpoint() -> None:
    with pytest.raises(UsageError, match="'deit_tiny' must be given with --checkpoint"):
        Request.of("deit_tiny")
    assert Request.of("digits").checkpoint.name == "digits.safetensors"


def test_images_are_held_out_and_distinct() -> None:
    spec = MODELS["digits"]
    images = held_out_images(spec, 20)
    assert images.source == "digits"
    assert images.labels is not None
    assert len(np.unique(images.images.reshape(20, -1), axis=0)) == 20
    train = {image.tobytes() for image in digits_dataset()[0]}
    assert not any(image.tobytes() in train for image in images.images)
    with pytest.raises(UsageError, match="at most the 500 held-out digits, not 501"):
        held_out_images(spec, 501)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        held_out_images(spec, 0)


def test_synthetic_images_are_not_those_of_the_calibration() -> None:
    spec = replace(MODELS["digits"], name="other")
    assert spec != MODELS["digits"]
    images = held_out_images(spec, 2)
    assert (images.source, images.labels) == ("synthetic", None)
    request = Request(spec=spec, checkpoint=Path("none"))
    given = calibration_images(request)
    assert given.source == "synthetic"
    assert not any((image == other).all() for image in images.images for other in given.images)


def frame(cycles: int, **counters: int) -> Frame:
    values = {name: 0 for name, _ in COUNTERS} | counters
    return Frame(np.zeros(2, np.uint8), cycles, values, {}, {}, {}, {}, 16)


def test_busy_and_stalls_are_the_cycles() -> None:
    busy, stalls = account(frame(103, CYCLES=101, ARRAY_BUSY=60, STALL_BANK=1, STALL_IDLE=40))
    assert busy == 60
    assert stalls["bank"] == 1
    assert stalls["idle"] == 42  # with the two cycles of the bus
    assert busy + sum(stalls.values()) == 103


@pytest.mark.parametrize("counters", [{"STALL_IDLE": 40}, {"STALL_IDLE": 42}, {"CYCLES": 200}])
def test_counters_that_do_not_add_up_are_refused(counters: dict[str, int]) -> None:
    good = {"CYCLES": 101, "ARRAY_BUSY": 60, "STALL_IDLE": 41}
    account(frame(103, **good))
    with pytest.raises(SimulationError, match="must add up"):
        account(frame(103, **good | counters))


RESULT = SimulationResult(
    design="d",
    matches_reference=True,
    layers_checked=40,
    images=20,
    cycles=40_000,
    frames_per_start=1,
    latency_cycles=40_000,
    clock_mhz=300,
    macs=2_380_928,
    weight_bytes=52_000,
    macs_per_cycle=256,
    busy_cycles=20_000,
    stall_cycles={"idle": 20_000},
    wall_seconds=2.5,
    memory_latency=100,
    memory_bandwidth=46.7,
    image_source="digits",
)


def test_result_keeps_the_contract(tmp_path: Path) -> None:
    values = RESULT.contract()
    wanted = {"matches_reference", "layers_checked", "images", "cycles", "clock_mhz", "fps", "macs"}
    wanted |= {"useful_macs_per_cycle", "array_utilisation", "stall_cycles", "wall_seconds"}
    assert wanted <= set(values)
    assert not {"top1", "predicted_cycles"} & set(values)
    assert values["fps"] == 300e6 / 40_000
    assert values["useful_macs_per_cycle"] == 2_380_928 / 40_000
    assert values["array_utilisation"] == 2_380_928 / 40_000 / 256
    assert replace(RESULT, top1=0.5, top1_images=20).contract()["top1"] == 0.5
    RESULT.save(tmp_path)
    assert SimulationResult.load(tmp_path) == RESULT
    assert SimulationResult.load(tmp_path / "none") is None
    (tmp_path / "simulation.json").write_text("{")
    with pytest.raises(FormatError, match="JSON"):
        SimulationResult.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cycles": 0}, "cycles must be at least 1, not 0"),
        ({"cycles": 1.5}, "cycles must be an integer, not 1.5"),
        ({"cycles": 10**30}, "Integers must be of 64 bits"),
        ({"macs_per_cycle": 0}, "macs_per_cycle must be at least 1"),
        ({"clock_mhz": float("inf")}, "Numbers must be finite, not Infinity"),
        ({"clock_mhz": 1e303}, "clock_mhz must be at most"),
        ({"wall_seconds": float("nan")}, "Numbers must be finite, not NaN"),
        ({"stall_cycles": {"idle": "x"}}, "stall_cycles.idle must be an integer, not 'x'"),
        ({"stall_cycles": [1]}, "stall_cycles must be a table, not a list"),
        ({"changed_files": [3]}, r"changed_files\[0\] must be a text, not 3"),
        ({"image_source": None}, "image_source must be a text, not null"),
        ({"predicted_cycles": -1}, "predicted_cycles must be at least 1, not -1"),
        ({"top1": 2}, "top1 must be at most 1.0, not 2"),
        ({"more\x1b[31m" + "x" * 5000: 1}, "must be a known key"),
    ],
)
def test_a_damaged_result_is_refused_in_one_line(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = RESULT.save(tmp_path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | change))
    with pytest.raises(FormatError, match=message) as caught:
        SimulationResult.load(tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < 1000
    path.write_text(json.dumps(values | {"schema_version": 0}))
    assert SimulationResult.load(tmp_path) is None  # of another version
    del values["macs"]
    path.write_text(json.dumps(values))
    with pytest.raises(FormatError, match="macs must be stated, and is missing"):
        SimulationResult.load(tmp_path)


def test_a_synthesis_keeps_its_figures(tmp_path: Path) -> None:
    path = SYNTHESIS.save(tmp_path)
    values = json.loads(path.read_text())
    for change, message in (
        ({"bram36": -1}, "bram36 must be at least 0"),
        ({"extra": {"lut": 1}}, "extra must have other keys than the result, not 'lut'"),
        ({"extra": [1]}, "extra must be a table"),
    ):
        path.write_text(json.dumps(values | change))
        with pytest.raises(FormatError, match=message):
            SynthesisResult.load(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FormatError, match="must be a regular one"):
        SynthesisResult.load(tmp_path)


def test_extra_figures_of_a_manifest_take_no_others_place(tmp_path: Path) -> None:
    opened = folder(tmp_path, name="y", macs=1, board="x")
    values = flow.describe_evidence(Evidence(folder=opened))
    assert (values["name"], values["macs"], values["board"]) == ("x", 1000, "zcu102")


def folder(path: Path, **extra: object) -> DesignFolder:
    """A manifest that no design belongs to: enough for what is said of it."""
    names = ("program.bin", "b.json", "g.safetensors", "x.v")
    facts = {"memory_latency": 100, "memory_bandwidth": 46.5, **extra}
    return DesignFolder(path=path, manifest=manifest(dict.fromkeys(names, ""), **facts))


def test_a_prediction_is_for_a_memory(tmp_path: Path, graph: IntegerGraph) -> None:
    # Two row blocks, where the rule would take one.
    config = preset_config(graph, rows=16, groups=dense(16), memory_ports=1, blocks=2)
    opened = folder(tmp_path)
    opened = replace(opened, manifest=replace(opened.manifest, config=config, row_blocks=2))
    assert expected_of(opened, Memory(100, 46.5)) == (500, 1 << 20)
    # Of another memory something is known only if the folder's program is sound.
    assert expected_of(opened, Memory(101, 46.5)) == (None, 1 << 20)
    image = lower(graph, config, blocks=2).image
    for damaged in (b"edited", image[:100] + b"x" + image[101:]):
        (tmp_path / "program.bin").write_bytes(damaged)
        assert expected_of(opened, Memory(101, 46.5)) == (None, 1 << 20)
    (tmp_path / "program.bin").write_bytes(image)
    fast, slow = (expected_of(opened, Memory(100, b))[0] for b in (46.0, 4.0))
    assert fast is not None
    assert slow is not None
    assert 1000 < fast < slow
    # The slowest memory that is legal needs a longer watchdog than any frame of the board's.
    cycles, watchdog = expected_of(opened, Memory(1_000_000, 46.5))
    assert cycles is not None
    assert 2 * 1_000_000 < watchdog < cycles
    values = flow.describe_evidence(Evidence(folder=opened))
    assert (values["predicted_cycles"], values["memory_bandwidth"]) == (500, 46.5)
    slow = replace(RESULT, memory_bandwidth=4.0)
    values = flow.describe_evidence(Evidence(folder=opened, simulation=slow))
    assert "predicted_cycles" not in values
    assert values["memory_bandwidth"] == 4.0
    own = replace(slow, predicted_cycles=70_000)
    values = flow.describe_evidence(Evidence(folder=opened, simulation=own))
    assert values["predicted_cycles"] == 70_000


SYNTHESIS = SynthesisResult(
    design="d",
    lut=137_040,
    ff=1000,
    dsp=2520,
    bram36=10.5,
    logic_levels=12,
    tool="Yosys",
    target="xcup",
    extra={"synthesis_seconds": 1.0},
)


def test_a_synthesis_is_reported_against_the_board(tmp_path: Path) -> None:
    opened = folder(tmp_path)
    values = flow.describe_evidence(Evidence(folder=opened, synthesis=SYNTHESIS))
    # The keys of the contract stay where they are.
    assert (values["lut"], values["ff"], values["dsp"], values["bram36"]) == (
        *(137_040, 1000),
        *(2520, 10.5),
    )
    assert (values["logic_levels"], values["tool"]) == (12, "Yosys")
    board = get_board("zcu102")
    usage = values["board_usage"]
    assert usage["lut"]["available"] == board.resources["lut"]
    assert usage["lut"]["percent"] == 50
    assert usage["lut"]["overrun"] is None
    assert usage["dsp"]["percent"] == 100
    assert usage["dsp"]["overrun"] == 2520 / board.limit("dsp") == 1.25
    assert values["overruns"] == ["dsp"]
    rows = dict(
        design_report.synthesis_rows(SYNTHESIS, board_usage(get_board("zcu102"), SYNTHESIS)),
    )
    assert rows["LUT"] == "137,040 of 274,080 (50.0 %)"
    assert rows["BRAM36"].startswith("10.5 of 912 (1.2 %)")
    assert rows["DSP"] == "2,520 of 2,520 (100.0 %): 1.25 times the limit of 2,016"


def test_the_manifests_board_counts_not_that_of_its_name(tmp_path: Path) -> None:
    values = get_board("zcu102").to_json()
    values["resources"]["dsp"] = 5040
    values |= {"part": "LFE5U-85F", "synthesis_target": "ecp5"}
    values |= {"dsp_primitive": "none", "dsp_column_heights": None}
    opened = folder(tmp_path)
    opened = replace(opened, manifest=replace(opened.manifest, board=Board.from_json(values)))
    assert board_usage(opened.manifest.board, SYNTHESIS) == []
    own = replace(SYNTHESIS, target="ecp5")
    described = flow.describe_evidence(Evidence(folder=opened, synthesis=own))
    assert described["board"] == "zcu102"
    assert described["board_usage"]["dsp"]["available"] == 5040
    assert save_synthesis(opened, own).name == "synthesis.json"


@pytest.mark.parametrize("change", [{"target": "ecp5"}, {"extra": {"area": 5.0}}])
def test_other_devices_do_not_replace_the_boards_synthesis(
    change: dict[str, object], tmp_path: Path
) -> None:
    opened = folder(tmp_path)
    save_synthesis(opened, SYNTHESIS)
    other = replace(SYNTHESIS, lut=7, **change)
    assert board_usage(get_board("zcu102"), other) == []
    assert save_synthesis(opened, other).name == "synthesis_other.json"
    assert SynthesisResult.load(tmp_path) == SYNTHESIS


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (MismatchError("x", expected=1, got=2), False),
        (SimulationError("x"), False),
        (KeyboardInterrupt(), True),
    ],
)
def test_a_failed_simulation_takes_the_older_result_with_it(
    error: BaseException, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = folder(tmp_path)
    RESULT.save(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(
        DesignFolder, "graph", lambda self: type("G", (), {"spec": MODELS["digits"]})
    )
    monkeypatch.setattr(flow, "simulate", fail)
    with pytest.raises(type(error)):
        flow.simulate_design(opened, Settings(images=1), REPORTER)
    assert (tmp_path / "simulation.json").exists() is left


@pytest.mark.parametrize(
    ("target", "liberty", "part"),
    [
        (None, None, "synthesis"),
        ("xcup", None, "synthesis"),
        ("ecp5", None, "simulation"),
        (None, Path("cells.lib"), "simulation"),
    ],
)
def test_only_xcup_gets_the_primitives(
    target: str | None,
    liberty: Path | None,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hwgen.synth import yosys

    opened = folder(tmp_path)
    files = {**opened.manifest.files, "twin.v": "", "dsp48e2.v": ""}
    lists = {"simulation": ("x.v", "twin.v"), "synthesis": ("x.v", "dsp48e2.v")}
    opened = replace(opened, manifest=replace(opened.manifest, files=files, **lists))

    def run(paths: list[Path], top: str, chosen: str, **_: object) -> None:
        assert chosen == (target or "xcup")
        assert [path.name for path in paths] == list(lists[part])
        raise NotImplementedError

    monkeypatch.setattr(yosys, "synthesise", run)
    with pytest.raises(NotImplementedError):
        synthesise(opened, REPORTER, target=target, liberty=liberty)


def test_an_edit_during_the_synthesis_does_not_get_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwgen.synth import yosys

    report = yosys.SynthesisReport(
        top="x",
        target="xcup",
        tool="Yosys",
        lut=1,
        ff=2,
        dsp=3,
        bram36=4,
        logic_levels=5,
        area=None,
        modules=(),
        wall_seconds=1.0,
    )
    opened = folder(tmp_path)
    (tmp_path / "x.v").write_text("before")
    before = design_digest(tmp_path, opened.manifest)

    def run(*_: object, **__: object) -> yosys.SynthesisReport:
        (tmp_path / "x.v").write_text("edited")
        return report

    monkeypatch.setattr(yosys, "synthesise", run)
    result = synthesise(opened, REPORTER)
    assert result.design == before != design_digest(tmp_path, opened.manifest)


def test_saturation_is_told_in_words() -> None:
    text = design_report.saturation_text
    assert text({}) == "none counted"
    assert text({"a": 0.0, "b": 0.0}) == "none in 2 layers"
    assert text({"a": 0.0, "b": 0.002}) == "0.1 %, at most 0.2 % (b)"


@pytest.mark.parametrize("lacking", [None, "blocks.2.softmax"])
def test_every_tensor_of_the_graph_is_compared(
    graph: IntegerGraph,
    lacking: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for the simulator returns the reference's tensors, and edits a file meanwhile."""
    opened = folder(tmp_path)
    (tmp_path / "x.v").write_text("before")
    before = design_digest(tmp_path, opened.manifest)
    asked: list[int | None] = []

    def frames(
        path: Path, images: np.ndarray, *, expected_cycles: int | None, **_: object
    ) -> FrameResults:
        asked.append(expected_cycles)
        tensors = run_boundaries(graph, images[0])
        output = tensors["head"].astype("<i2").view(np.uint8).reshape(-1)
        if lacking is not None:
            del tensors[lacking]
        (path / "x.v").write_text("edited")
        counters = {name: 0 for name, _ in COUNTERS} | {"CYCLES": 100, "ARRAY_BUSY": 100}
        return FrameResults((Frame(output, 101, counters, tensors, {}, {}, {}, 16),), 1.0)

    monkeypatch.setattr(DesignFolder, "graph", lambda self: graph)
    monkeypatch.setattr(simulate_stage, "simulate_frames", frames)
    images = held_out_images(graph.spec, 1)

    def run() -> SimulationResult:
        return simulate(opened, images, REPORTER, memory=Memory(100, 46.5))[0]

    if lacking is not None:
        with pytest.raises(MismatchError, match=f"{lacking}: expected a tensor .*got nothing"):
            run()
        return
    result = run()
    assert result.layers_checked == len(graph.tensors)
    assert result.predicted_cycles == 500
    assert asked == [500]
    # The result is of the files that were read, not of those that lie there now.
    assert result.design == before != design_digest(tmp_path, opened.manifest)


class StandIn:
    """In the simulator's place: the reference's tensors, one of which is wrong in some images."""

    def __init__(self, graph: IntegerGraph, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graph = graph
        self.count = 0  #: images simulated so far
        self.wrong: set[int] = set()
        self.fails: SimulationError | None = None
        self.full = False  #: no waveform can be written
        self.waves: list[tuple[int, Window, int]] = []
        monkeypatch.setattr(DesignFolder, "graph", lambda _: graph)
        monkeypatch.setattr(simulate_stage, "_BATCH_IMAGES", 2)
        monkeypatch.setattr(simulate_stage, "simulate_frames", self.frames)
        monkeypatch.setattr(simulate_stage, "write_wave", self.wave)
        monkeypatch.setattr(simulate_stage, "read_labels", lambda _: (("MATMUL", "head"),))

    def frames(self, path: Path, images: np.ndarray, **_: object) -> FrameResults:
        made = []
        for image in images:
            tensors = run_boundaries(self.graph, image)
            if self.count in self.wrong:
                tensors["head"] = tensors["head"] + np.array([[0, 3, 0, -4] + 6 * [0]], np.int16)
            self.count += 1
            output = tensors["head"].astype("<i2").view(np.uint8).reshape(-1)
            counters = {name: 0 for name, _ in COUNTERS} | {"CYCLES": 900, "ARRAY_BUSY": 900}
            part = Part(
                engine=Engine.DRAIN,
                count=1,
                base=0,
                stride=1,
                first_token=0,
                tokens=1,
                first_channel=0,
                channels=10,
            )
            # Two words of eight 16-bit elements, written in cycles 800 and 801.
            written = {"head": [(part, np.array([[800], [801]]))]}
            done, taken = ({Engine.MATMUL: np.array([cycle])} for cycle in (700, 600))
            made.append(Frame(output, 901, counters, tensors, done, taken, written, 16))
        if self.fails is not None and self.count > 2:
            raise self.fails
        return FrameResults(tuple(made), 1.0)

    def wave(self, path: Path, folder: Path, images: np.ndarray, window: Window, **more: object):
        if self.full:
            raise ConfigError("Waveform must be writable: no space")
        self.waves.append((len(images), window, more["number"]))

    def run(self, opened: DesignFolder, images: int, **wanted: object) -> tuple[object, dict]:
        return simulate(
            *(opened, held_out_images(self.graph.spec, images), REPORTER),
            memory=Memory(100, 46.5),
            inspection=Inspection(**wanted),
        )


def test_what_is_left_of_an_image_that_differs(
    graph: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = folder(tmp_path)
    bench = StandIn(graph, monkeypatch)
    bench.wrong = {3, 4}
    places = {name: tmp_path / name for name in ("dump", "wave", "trace")}
    with pytest.raises(MismatchError) as caught:
        bench.run(opened, 6, **places)
    error = caught.value
    difference = {"op": "head", "index": (0, 1), "image": 3, "cycle": 800}
    assert difference.items() <= error.first_difference.items()
    assert (error.differing, error.elements, error.largest_difference) == (2, 10, 4)
    # Images 2 and 3 followed one reset; the window is in the second of them.
    assert bench.waves == [(2, Window(1, 288, 864), 3)]
    assert error.views == {name: str(place) for name, place in places.items()} | {
        "wave_image": 3,
        "wave_cycles": [288, 864],
    }
    assert sorted(p.name for p in places["dump"].iterdir()) == [
        f"image_{image:04}.npz" for image in range(4)
    ]
    for image in range(4):
        with np.load(places["dump"] / f"image_{image:04}.npz") as tensors:
            assert list(tensors) == [
                f"{n}/{k}" for n in graph.tensors for k in ("rtl", "reference")
            ]
            difference = tensors["head/rtl"] - tensors["head/reference"]
        assert difference.tolist()[0][:4] == ([0, 3, 0, -4] if image == 3 else [0] * 4)
    bars = [e for e in json.loads(places["trace"].read_text())["traceEvents"] if e["ph"] == "X"]
    assert [(bar["name"], bar["args"]["taken_cycle"]) for bar in bars] == [("head", 600)]
    # What cannot be written does not hide the difference.
    bench.full = True
    bench.wrong = {0}
    for wanted in ({}, {"from_cycle": 902}):
        bench.count = 0
        with pytest.raises(MismatchError) as caught:
            bench.run(opened, 1, wave=tmp_path / "w", **wanted)
        assert caught.value.views == {}
    bench.wrong = set()
    with pytest.raises(ConfigError, match="no space"):
        bench.run(opened, 1, wave=tmp_path / "w")


def test_what_is_left_where_nothing_differs(
    graph: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = folder(tmp_path)
    bench = StandIn(graph, monkeypatch)
    _, views = bench.run(opened, 3, wave=tmp_path / "w")
    assert bench.waves == [(1, Window(0, 0, 576), 0)]
    assert views == {"wave": str(tmp_path / "w"), "wave_image": 0, "wave_cycles": [0, 576]}
    assert bench.run(opened, 1)[1] == {}
    with pytest.raises(ConfigError, match=r"not 902 .it ends in cycle 901.; nearest legal .* 901"):
        bench.run(opened, 1, wave=tmp_path / "w", from_cycle=902)
    assert len(bench.waves) == 1


def test_what_is_left_of_an_image_that_fails(
    graph: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = folder(tmp_path)
    bench = StandIn(graph, monkeypatch)
    bench.fails = SimulationError("It stopped", where="image 1", image=1, cycle=5000)
    with pytest.raises(SimulationError, match=r"^image 3: It stopped") as caught:
        bench.run(opened, 4, wave=tmp_path / "w", dump=tmp_path / "dump")
    assert bench.waves == [(2, Window(1, 4488, 5000), 3)]
    assert caught.value.views["wave_cycles"] == [4488, 5000]
    assert len(list((tmp_path / "dump").iterdir())) == 2  # what was compared before
    # Without a frame there is nothing to show.
    bench.fails = SimulationError("The build failed")
    with pytest.raises(SimulationError, match=r"^The build failed"):
        bench.run(opened, 4, wave=tmp_path / "w")
    assert len(bench.waves) == 1


@pytest.mark.parametrize("wrong", [None, 4])
def test_images_of_a_start(
    graph: IntegerGraph, wrong: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images by STARTs of three: the last one is filled up, and counted as five."""
    opened = folder(tmp_path)
    facts = opened.manifest.program
    facts = replace(facts, input_bytes=3 * facts.input_bytes, output_bytes=3 * facts.output_bytes)
    opened = replace(opened, manifest=replace(opened.manifest, frames_per_start=3, program=facts))
    asked: list[tuple[int, int | None]] = []

    def starts(
        path: Path, images: np.ndarray, *, expected_cycles: int | None, **_: object
    ) -> FrameResults:
        asked.append((len(images), expected_cycles))
        frames = []
        for first in range(0, len(images), 3):
            tensors = [run_boundaries(graph, image) for image in images[first : first + 3]]
            stacked = {name: np.stack([own[name] for own in tensors]) for name in tensors[0]}
            output = stacked["head"].astype("<i2").view(np.uint8).reshape(3, -1)
            output = np.pad(output, ((0, 0), (0, -output.shape[1] % 16))).reshape(-1)
            if wrong is not None and first == 3:
                stacked["head"][wrong - 3, 0, 2] += 1
            counters = {name: 0 for name, _ in COUNTERS} | {"CYCLES": 100 + first}
            counters |= {"ARRAY_BUSY": 97 + first, "STALL_LOAD": 2, "STALL_IDLE": 1}
            frames.append(Frame(output, 101 + first, counters, stacked, {}, {}, {"head": []}, 16))
        return FrameResults(tuple(frames), 1.0)

    monkeypatch.setattr(DesignFolder, "graph", lambda self: graph)
    monkeypatch.setattr(simulate_stage, "simulate_frames", starts)
    images = held_out_images(graph.spec, 5)
    if wrong is not None:
        with pytest.raises(MismatchError, match=r"image 4, .* head"):
            simulate(opened, images, REPORTER, memory=Memory(100, 46.5))
        return
    result = simulate(opened, images, REPORTER, memory=Memory(100, 46.5))[0]
    assert asked == [(6, 1500)]
    assert (result.images, result.frames_per_start) == (5, 3)
    assert (result.latency_cycles, result.cycles) == (104, 35)
    assert result.busy_cycles + sum(result.stall_cycles.values()) == 35


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
def test_cycles_of_a_frame_are_those_of_its_parts(frames: int) -> None:
    busy, stalls = 1001, {"idle": 3, "load": 17, "drain": 0}
    cycles = busy + sum(stalls.values())
    each, own, parts = simulate_stage.per_frame(cycles, busy, stalls, frames)
    assert each == -(-cycles // frames) == own + sum(parts.values())
    assert list(parts) == list(stalls)
    for name, value in {**stalls, "busy": busy}.items():
        found = own if name == "busy" else parts[name]
        assert abs(found - value / frames) <= (2 if name == "idle" else 1)
