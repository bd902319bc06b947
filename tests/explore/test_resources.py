# SPDX-License-Identifier: Apache-2.0
"""The resource model against what Yosys counted, and what was counted against Yosys."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from hwgen.columns import KINDS, ColumnGroup, Groups, dense, parse_groups
from hwgen.config import AcceleratorConfig
from hwgen.errors import ConfigError, FormatError
from hwgen.explore.memories import block_ram, cheapest, lut_ram
from hwgen.explore.resources import (
    MEASURED,
    RESOURCES,
    Fit,
    ResourceEstimate,
    cascades,
    estimate_resources,
    measurements,
    model_error,
    unit_counts,
)
from hwgen.explore.space import legal_groups
from hwgen.explore.structure import UNITS
from hwgen.frontend.models import MODELS
from hwgen.program.buffer_plan import sized_config
from hwgen.rtl.columns import columns_of
from hwgen.synth.yosys import RECIPE, tool_version

pytestmark = pytest.mark.command

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_resources"
DOCUMENT = measurements()
DESIGNS = {run.name: run for run in DOCUMENT.validation}


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The measuring script as a module; its workers find it by its name."""
    loader = SourceFileLoader("measure_resources", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    yield module
    del sys.modules[loader.name]


def measured(name: str) -> dict[str, float]:
    units = DESIGNS[name].units.values()
    return {resource: sum(getattr(unit, resource) for unit in units) for resource in RESOURCES}


# The model against the measurements ---------------------------------------------------------------


@pytest.mark.parametrize("name", DESIGNS)
def test_complete_designs_outside_the_fit(name: str) -> None:
    estimate, counts = estimate_resources(DESIGNS[name].config), measured(name)
    assert (estimate.dsp, estimate.bram36) == (counts["dsp"], counts["bram36"])
    for resource in ("lut", "ff"):
        error = getattr(estimate, resource) / counts[resource] - 1
        assert abs(error) <= model_error()[resource]
    for unit, of_unit in DESIGNS[name].units.items():
        for resource in ("dsp", "bram36"):
            assert estimate.modules[unit][resource] == getattr(of_unit, resource), unit


def test_the_stated_error_is_the_worst_of_them() -> None:
    for resource in RESOURCES:
        errors = [
            abs(
                getattr(estimate_resources(DESIGNS[name].config), resource)
                / measured(name)[resource]
                - 1
            )
            for name in DESIGNS
        ]
        assert model_error()[resource] == ceil(max(errors) * 1e4 - 1e-9) / 1e4
    assert model_error()["dsp"] == model_error()["bram36"] == 0


def test_enough_different_designs() -> None:
    configs = [DESIGNS[name].config for name in DESIGNS]
    assert len(configs) >= 2
    for field in ("rows", "groups", "memory_ports", "max_channels", "max_row_length"):
        assert len({getattr(config, field) for config in configs}) >= 2, field


def test_units_alone_have_exact_blocks() -> None:
    for run in DOCUMENT.fit:
        counts = unit_counts(run.unit, run.parameters, DOCUMENT.coefficients)
        assert (counts["dsp"], counts["bram36"]) == (run.counts.dsp, run.counts.bram36), run
    assert {run.unit for run in DOCUMENT.fit} == set(UNITS)


def test_block_ram_and_luts_are_chosen_as_by_yosys() -> None:
    # Both choices occur among the measured memories: the rule is tested on either side.
    for unit in ("softmax", "layernorm", "constant_fifo", "read_masters"):
        assert {run.counts.bram36 > 0 for run in DOCUMENT.fit if run.unit == unit} == {False, True}
    # A word more than a block holds at its width, write enables that leave a block's ninth bits.
    assert block_ram(512, 72).bram36 == 1
    assert block_ram(512, 72, enables=9).bram36 == 1.5
    assert block_ram(512, 64, enables=8).bram36 == 1
    assert block_ram(513, 36).bram36 == 1
    assert lut_ram(64, 7).lut == 8
    # Three of 32 x 14 bits, half of each unused, are cheaper to Yosys than two of 64 x 7.
    assert lut_ram(65, 7).lut == 24
    assert cheapest(64, 7).bram36 == 0


# What an estimate is ------------------------------------------------------------------------------


def check_sums(estimate: ResourceEstimate) -> None:
    assert list(estimate.modules) == list(UNITS)
    for resource in RESOURCES:
        total = sum(counts[resource] for counts in estimate.modules.values())
        assert getattr(estimate, resource) == total
    assert all(type(n) is int for n in (estimate.lut, estimate.ff, estimate.dsp))
    assert 2 * estimate.bram36 % 1 == 0


def space() -> Iterator[AcceleratorConfig]:
    """Corners of the legal space, arrays beyond the measured ones included."""
    for model in ("digits", "deit_tiny", "vit_large"):
        for rows, most in ((16, 152), (32, 76), (64, 29), (128, 11)):
            for groups in legal_groups(rows, 16384, cascades=most, narrow=(1, 4), clk2x=True):
                for ports in (1, 5):
                    yield sized_config(MODELS[model], rows=rows, groups=groups, memory_ports=ports)


def test_every_legal_design_has_an_estimate() -> None:
    for config in space():
        estimate = estimate_resources(config)
        check_sums(estimate)
        assert estimate.dsp >= cascades(config) * config.rows
        assert estimate.lut > 20 * config.columns + 700 * config.rows
        assert estimate.ff > estimate.lut / 4


def test_cascades_are_the_array() -> None:
    config = sized_config(MODELS["deit_tiny"], rows=64, groups=dense(128))
    assert cascades(config) == 64
    assert estimate_resources(config).modules["columns"]["dsp"] == 64 * config.rows


@pytest.mark.parametrize("ports", [1, 2, 4])
def test_more_costs_more(ports: int) -> None:
    def counts(**changes: Any) -> tuple[float, ...]:
        shape = {"rows": 32, "columns": 64, "softmax_vec": 16} | changes
        spec = MODELS[shape.pop("model", "deit_tiny")]
        groups = dense(shape.pop("columns"))
        estimate = estimate_resources(
            sized_config(spec, memory_ports=ports, groups=groups, **shape)
        )
        return tuple(getattr(estimate, name) for name in RESOURCES)

    base = counts()
    for changes in (
        {"columns": 128},
        {"rows": 64},
        {"softmax_vec": 32},
        {"queue_depth": 64},
    ):
        more = counts(**changes)
        assert all(a <= b for a, b in zip(base[:3], more[:3], strict=True)), changes
    # Not LUTs nor flip-flops: constants of a longer LayerNorm go to block RAM.
    # Longer words need fewer of them: block RAM grows with the columns and the model only.
    assert counts(columns=128)[3] > base[3]
    assert counts(model="deit_base")[3] > base[3]


def test_columns_that_were_not_measured_are_refused() -> None:
    config = sized_config(
        MODELS["deit_tiny"], rows=128, groups=parse_groups("dual:64:8,digits:8:4")
    )
    with pytest.raises(ConfigError, match=r"groups must be of columns .*digits:8:4 with 128 rows"):
        estimate_resources(config)


def test_columns_at_twice_the_clock_cost_what_they_are() -> None:
    """Half of the DSPs of as many columns, fewer LUTs, more flip-flops."""

    def estimate(groups: str) -> ResourceEstimate:
        spec = MODELS["deit_base"]
        return estimate_resources(sized_config(spec, rows=64, groups=parse_groups(groups)))

    one, twice = estimate("dual:64:8"), estimate("pumped:64:8")
    check_sums(twice)
    assert twice.dsp == one.dsp - 16 * 64
    assert twice.bram36 == one.bram36
    assert twice.lut < one.lut and twice.ff > one.ff
    # The leaf, and the whole array without its accumulators' memories, a product and cycle.
    products = 64 * 112
    modules = estimate("pumped:112:8").modules
    assert modules["columns"]["lut"] / products <= 1 and modules["columns"]["ff"] / products <= 7.5
    whole = {n: (modules["columns"][n] + modules["array"][n]) / products for n in ("lut", "ff")}
    assert whole["lut"] <= 2.5 and whole["ff"] <= 9.5


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.dsp_share])
def test_the_skew_of_a_cascade_is_the_hardwares(kind: str) -> None:
    groups = Groups((ColumnGroup(kind, 16, 8),))
    columns = columns_of(kind, rows=16, weight_bits=8)
    assert columns.skew[-1] + 1 == AcceleratorConfig(rows=16, groups=groups).array_depth


@pytest.mark.parametrize("kind", KINDS)
def test_the_broadcast_of_weights_is_the_hardwares(kind: str) -> None:
    for bits in KINDS[kind].weight_bits:
        group = ColumnGroup(kind, 4, bits)
        columns = columns_of(kind, rows=16, weight_bits=bits, carry=group.takes_slices)
        assert columns.broadcast_rows == KINDS[kind].broadcast_rows
        per_column = columns.packed_bits / columns.width
        assert per_column == group.cell_bits + KINDS[kind].packing_bits


def test_narrow_columns_cost_what_they_are() -> None:
    def estimate(groups: str, **more: Any) -> ResourceEstimate:
        return estimate_resources(
            sized_config(
                MODELS["deit_base"], rows=64, groups=parse_groups(groups), memory_ports=4, **more
            )
        )

    base = estimate("dual:58:8")
    assert base.dsp - estimate("dual:32:8").dsp == 13 * 64
    previous = base.lut
    for bits in (1, 2, 3, 4, 8):
        groups = f"dual:58:8,digits:{64 if bits < 8 else 6}:{bits}"
        found = estimate(groups)
        check_sums(found)
        assert found.dsp == base.dsp
        if bits < 8:
            # Between half and one and a half of 10 LUTs a bit and product, the leaf's law.
            assert found.lut > previous
            assert found.lut - base.lut > 64 * 64 * 3 * bits
            previous = found.lut
    # Rotation: as many columns, none of them rotated, or in steps of two lanes.
    aligned, rotated = estimate("dual:64:8"), estimate("dual:58:8,digits:6:8")
    assert rotated.modules["drain"]["lut"] > aligned.modules["drain"]["lut"]


# The file -----------------------------------------------------------------------------------------


def test_the_file_is_of_this_tool_and_recipe() -> None:
    """Another recipe counts otherwise: scripts/measure_resources must run again."""
    assert (DOCUMENT.tool, DOCUMENT.recipe) == (tool_version(), RECIPE)


def test_the_file_is_what_the_script_writes(script: Any) -> None:
    assert script.file_text(DOCUMENT) == MEASURED.read_text(encoding="utf-8")
    alone, tops, whole = script.jobs()
    asked = [(job.unit, job.parameters) for job in alone]
    assert [(run.unit, run.parameters) for run in DOCUMENT.fit][: len(asked)] == asked
    assert len(DOCUMENT.fit) == len(alone) + len(tops)
    assert [(job.name, job.config) for job in whole] == [
        (run.name, run.config) for run in DOCUMENT.validation
    ]


def test_fitting_again_finds_the_same(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--check"])
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*DESIGNS, *UNITS))

    wrong = json.loads(MEASURED.read_text())
    wrong["coefficients"]["store"]["ff"]["rows"] *= 1.01
    wrong["error"]["lut"] /= 2
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(wrong))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--check", "-o", str(path)])
    assert script.main() == 1
    said = capsys.readouterr().err
    assert "store ff rows" in said and "error: {" in said


def test_other_units_than_those_asked_for_are_kept(script: Any) -> None:
    kept = script.kept_runs(["store", "top"], DOCUMENT)
    assert kept == {
        place: run for place, run in enumerate(DOCUMENT.fit) if run.unit not in ("store", "top")
    }
    with pytest.raises(ConfigError, match=r"--only must name units \(columns.*not gearbox, shop"):
        script.kept_runs(["store", "shop", "gearbox"], DOCUMENT)
    less = replace(DOCUMENT, fit=tuple(run for run in DOCUMENT.fit if run.unit != "load"))
    with pytest.raises(ConfigError, match=r"--only must name load, too .*'memory_ports': 1"):
        script.kept_runs(["store"], less)
    lacking = script.kept_runs(["store"], less, missing=True)
    assert {run.unit for run in lacking.values()} == set(UNITS) - {"store", "load"}
    assert script.kept_designs(DOCUMENT) == DESIGNS


def test_no_validation_design_is_fitted(script: Any) -> None:
    whole = script.fitted("", "", DOCUMENT.fit, DOCUMENT.validation)
    part = script.fitted("", "", DOCUMENT.fit, DOCUMENT.validation[:1])
    assert whole.coefficients == part.coefficients


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "JSON"),
        ("[" * 100_000, "deep"),
        ("[]", "must be"),
        ({"schema_version": 0}, "schema_version must be"),
        ({"coefficients": {}}, "coefficients must have the keys columns, array, accumulators"),
        (
            {"coefficients": {"store": {"lut": {"rows": "2"}, "ff": {}}}},
            r"store\.lut\.rows must be",
        ),
        ({"error": {"lut": 0.1}}, "error must have the keys lut, ff, dsp, bram36"),
        ({"error": {"lut": -1, "ff": 0, "dsp": 0, "bram36": 0}}, r"error\.lut must be"),
    ],
)
def test_a_missing_or_damaged_file(text: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    if isinstance(text, dict):
        document = json.loads(MEASURED.read_text())
        if "store" in text.get("coefficients", ()):
            text = {"coefficients": document["coefficients"] | text["coefficients"]}
        text = json.dumps(document | text)
    if text is not None:
        path.write_text(text)
    with pytest.raises(FormatError, match=said) as caught:
        measurements(path)
    assert str(path) in str(caught.value)
    assert "scripts/measure_resources writes the file" in str(caught.value)


def test_a_lacking_coefficient_is_named() -> None:
    without = {**DOCUMENT.coefficients, "store": Fit(lut={}, ff={})}
    with pytest.raises(FormatError, match=r"coefficients\.store\.lut must have the key 'constant'"):
        unit_counts("store", {"rows": 16}, without)


# The measurements against Yosys -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "parameters"),
    [
        ("store", {"rows": 64}),
        (
            "array",
            {"rows": 16, "groups": "dual:16:8", "tile_rows": 17, "requantise_lanes": 8},
        ),
        (
            "array",
            {"rows": 16, "groups": "pumped:8:8", "tile_rows": 197, "requantise_lanes": 8},
        ),
        ("columns", {"rows": 16, "groups": "digits:8:4"}),
        ("columns", {"rows": 16, "groups": "pumped:8:8"}),
        ("activation_banks", {"rows": 16, "bank_words": (1182,)}),
        ("stationary", {"rows": 16, "groups": "dual:48:8"}),
        ("weight_planes", {"rows": 16, "groups": "dual:16:8", "wide_beat_bits": 128}),
    ],
)
def test_yosys_counts_what_the_file_says(
    unit: str, parameters: dict[str, Any], script: Any
) -> None:
    (run,) = [run for run in DOCUMENT.fit if (run.unit, run.parameters) == (unit, parameters)]
    assert script.measure_unit(unit, parameters) == run.counts


@pytest.mark.slow
def test_yosys_counts_a_complete_design_as_the_file_says(script: Any) -> None:
    run = DOCUMENT.validation[0]
    assert script.measure_design(run.config) == run.units


# docs/modules.md: units of a large design --------------------------------------------------------


def test_the_page_of_modules_is_what_the_script_writes(script: Any) -> None:
    text = script.MODULES_PAGE.read_text()
    found = script.modules_found(text)
    assert found
    assert script.modules_page(found) == text
    with pytest.raises(ConfigError, match=r"--modules must name units \(.*not shop"):
        script.measure_modules(["store", "shop"], 1)


def check_module(script: Any, unit: str) -> None:
    stated = script.modules_found(script.MODULES_PAGE.read_text())[unit]
    counts = script.measure_module(unit)
    for resource in RESOURCES:
        now, then = getattr(counts, resource), getattr(stated, resource)
        assert now <= then, f"{unit} has grown to {now:g} {resource}, {then:g} on docs/modules.md"


@pytest.mark.parametrize("unit", ["store", "matmul"])
def test_a_small_module_has_not_grown(unit: str, script: Any) -> None:
    check_module(script, unit)


@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted({*UNITS} - {"array", "accumulators", "top"}))
def test_no_module_has_grown(unit: str, script: Any) -> None:
    check_module(script, unit)
