# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from hwgen.columns import dense
from hwgen.frontend.models import get_model
from hwgen.graph.network import network_of
from hwgen.isa.instructions import Engine
from hwgen.program.buffer_plan import preset_config
from hwgen.program.cycle_model import (
    CyclePrediction,
    MemoryModel,
    predict,
    predict_schedule,
)
from hwgen.program.lower import lower

from .graphs import spec

#: 14 GB/s at 300 MHz.
ZCU102 = MemoryModel(bytes_per_cycle=46.67, latency=100)


def prediction(model, rows: int, columns: int, memory=ZCU102, **options) -> CyclePrediction:
    graph = network_of(model)
    config = preset_config(graph, rows=rows, groups=dense(columns), **options)
    return predict(lower(graph, config, skeleton=True), memory)


def test_busy_and_stalls_are_the_cycles() -> None:
    result = prediction(spec(), 16, 16)
    assert result.array_busy + sum(result.stalls.values()) == result.cycles
    assert min(result.stalls.values()) >= 0
    assert all(busy <= result.cycles for busy in result.engine_busy.values())


def test_the_schedule_is_that_of_the_prediction() -> None:
    graph = network_of(spec())
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)), skeleton=True)
    result, schedule = predict(program, ZCU102), predict_schedule(program, ZCU102)
    for engine in Engine:
        spans = schedule[engine]
        assert len(spans) == sum(i.engine == engine for i in program.instructions)
        assert all(0 < taken < completed <= result.cycles for taken, completed in spans)
        assert spans == sorted(spans)
        # No instruction is taken before the last that it waits for is completed.
        waits = [i.waits for i in program.instructions if i.engine == engine]
        for (taken, _), thresholds in zip(spans, waits, strict=True):
            for other, count in zip(Engine, thresholds, strict=True):
                assert count == 0 or schedule[other][count - 1][1] < taken
    drain = schedule[Engine.DRAIN]
    assert sum(done - taken for taken, done in drain) == result.engine_busy[Engine.DRAIN]


def test_never_faster_than_the_array_or_the_memory() -> None:
    model = spec(image_size=32, width=64, depth=3)
    for bandwidth in (1.0, 4.0, 16.0):
        graph = network_of(model)
        config = preset_config(graph, rows=16, groups=dense(16))
        program = lower(graph, config, skeleton=True)
        result = predict(program, MemoryModel(bandwidth, 50))
        beats = sum(i.fields["beats"] for i in program.instructions if i.opcode == "LOAD_TILES")
        assert result.cycles > beats * 16 / bandwidth
        assert result.cycles * config.macs_per_cycle > model.depth and result.utilisation < 1


def test_slower_memory_is_not_faster() -> None:
    model = spec(image_size=16, depth=3)
    cycles = [
        prediction(model, 16, 16, MemoryModel(bandwidth, latency)).cycles
        for bandwidth, latency in ((16, 20), (16, 100), (16, 400), (4, 400), (2, 400))
    ]
    assert cycles == sorted(cycles)


@pytest.mark.parametrize(
    ("model", "rows", "columns", "ports", "least"),
    [
        ("deit_tiny", 32, 32, 1, 0.92),
        ("deit_tiny", 64, 64, 4, 0.77),
        ("deit_base", 64, 64, 4, 0.92),
    ],
)
def test_predicted_utilisation(model: str, rows: int, columns: int, ports: int, least: float):
    result = prediction(get_model(model), rows, columns, memory_ports=ports)
    assert result.utilisation >= least
    assert result.engine_busy[Engine.MATMUL] >= result.array_busy
