# SPDX-License-Identifier: Apache-2.0
"""Graph interpreter = program interpreter at every boundary, whatever the shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwgen.columns import dense, parse_groups
from hwgen.config import PARAMETERS, AcceleratorConfig
from hwgen.errors import ConfigError, DoesNotFitError, MismatchError, ProgramError
from hwgen.graph.graph import IntegerGraph
from hwgen.graph.interpreter import run_boundaries
from hwgen.graph.network import network_of
from hwgen.graph.ops import Linear
from hwgen.isa.build import begin
from hwgen.isa.instructions import DrainMode, Engine, Instruction, decode, encode
from hwgen.numerics.softmax import SoftmaxFunction
from hwgen.program.buffer_plan import bank_words_for, preset_config, row_blocks
from hwgen.program.cycle_model import MemoryModel, predict
from hwgen.program.interpreter import run_program
from hwgen.program.lower import lower, product
from hwgen.program.lower.context import Lowering
from hwgen.program.program import Program
from hwgen.sim.boundaries import parse
from hwgen.sim.compare import compare

from .graphs import random_graph, random_image, spec

MODELS = {
    "tiny": spec(),
    "odd": spec(width=40, heads=3, head_dim=10, mlp_hidden=52, classes=33, depth=1),
    "mean": spec(pooling="mean"),
    "mean without class token": spec(pooling="mean", class_token=False, width=24, depth=1),
    "colour": spec(image_size=12, patch=3, channels=3, width=48, depth=1),
    "wide head": spec(heads=1, head_dim=40, depth=1),
    "many heads": spec(heads=5, head_dim=4, width=16, depth=1),
    "long": spec(image_size=16, patch=2, depth=2),
}
#: rows, columns, row blocks
DESIGNS = [(16, 16, None), (16, 8, 2), (16, 32, 3), (32, 32, None), (32, 16, 2), (64, 64, 2)]


def check(graph, program: Program, seeds=(None,)) -> None:
    """Run the program and compare every boundary."""
    image = random_image(graph.spec, 3)
    expected = run_boundaries(graph, image)
    for seed in seeds:
        result = run_program(program, image, seed=seed)
        compare(expected, result.boundaries, where=f"order {seed}")
        compare({"output": expected[graph.output.name][0]}, {"output": result.logits})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("rows", "columns", "blocks"), DESIGNS)
def test_every_boundary_equals_the_graph_interpreters(
    model: str, rows: int, columns: int, blocks: int | None
) -> None:
    graph = random_graph(MODELS[model], 1)
    config = preset_config(graph, rows=rows, groups=dense(columns), blocks=blocks)
    check(graph, lower(graph, config, blocks=blocks), seeds=(None, 1))


@pytest.mark.parametrize("model", MODELS)
def test_every_boundary_with_row_shifts(model: str) -> None:
    function = SoftmaxFunction.fractional(len(model) % 4, 1 + len(model) % 5)
    graph = random_graph(MODELS[model], 1, softmax=function)
    for rows, columns, blocks in DESIGNS[:3]:
        config = preset_config(graph, rows=rows, groups=dense(columns), blocks=blocks)
        program = lower(graph, config, blocks=blocks)
        check(graph, program, seeds=(None, 1))
        modes = {i["mode"] for i in program.instructions if i.opcode == "DRAIN"}
        assert DrainMode.SHIFTED in modes


def test_row_shifts_are_waited_for() -> None:
    """A SOFTMAX must not overwrite a slot that a DRAIN still reads, nor DRAIN read it early."""
    graph = random_graph(spec(), 2, softmax=SoftmaxFunction.fractional())
    program = lower(graph, preset_config(graph, rows=16, groups=dense(32)))
    tracked = [
        (i, label)
        for i, label in zip(program.instructions, program.labels, strict=True)
        if i.opcode in ("SOFTMAX", "DRAIN")
    ]
    drains = softmaxes = 0
    used: dict[int, int] = {}
    written: dict[int, int] = {}
    for i, _ in tracked:
        if i.opcode == "SOFTMAX":
            softmaxes += 1
            written[i["slot"]] = softmaxes
            assert i.waits[Engine.DRAIN] >= used.get(i["slot"], 0)
        else:
            drains += 1
            if i["mode"] == DrainMode.SHIFTED:
                used[i["slot"]] = drains
                assert i.waits[Engine.SOFTMAX] >= written[i["slot"]]
    assert softmaxes == 4 and set(used) == {0, 1}


def test_position_words_come_before_tiles_that_wait_for_them() -> None:
    """More tiles a piece than accumulator banks: their load ends only when some are drained."""
    graph = random_graph(spec(width=400, heads=2, head_dim=16, depth=1), 1)
    config = preset_config(graph, rows=16, groups=dense(8))
    check(graph, lower(graph, config), seeds=(None, 1))


def test_graphs_under_test_are_alive() -> None:
    """Codes are spread; a constant graph would match anything."""
    for model in MODELS.values():
        graph = random_graph(model, 1)
        for name, tensor in run_boundaries(graph, random_image(model, 3)).items():
            least = 4 if "softmax" in name else 8
            if name.endswith(".shift"):
                least = 2
            assert len(np.unique(tensor)) >= min(least, tensor.size // 4), (model, name)
            if tensor.dtype == np.int8 and name != "image_codes" and tensor.size > 100:
                assert np.mean((tensor == -128) | (tensor == 127)) < 0.3, (model, name)


@pytest.mark.parametrize("bits", range(1, 9))
def test_narrow_weights_run_on_wide_columns(bits: int) -> None:
    graph = random_graph(spec(depth=1), 1, weight_bits=bits)
    check(graph, lower(graph, preset_config(graph, rows=16, groups=dense(16))))


@pytest.mark.parametrize("ports", [1, 2, 3, 4])
@pytest.mark.parametrize("columns", [16, 32])
def test_memory_ports(ports: int, columns: int) -> None:
    graph = random_graph(spec(depth=1), 1)
    config = preset_config(graph, rows=16, groups=dense(columns), memory_ports=ports)
    check(graph, lower(graph, config))


@pytest.mark.parametrize("vec", [8, 16, 64])
def test_softmax_slices(vec: int) -> None:
    graph = random_graph(spec(depth=1), 1, softmax=SoftmaxFunction.sole(vec))
    check(graph, lower(graph, preset_config(graph, rows=16, groups=dense(16))))


def test_accumulator_banks_shallower_than_the_tokens() -> None:
    graph = random_graph(MODELS["long"], 1)
    config = preset_config(graph, rows=16, groups=dense(16), tile_rows=20)
    program = lower(graph, config)
    assert max(i["rows"] for i in program.instructions if i.opcode == "MATMUL") <= 20
    check(graph, program, seeds=(None, 1))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("rows", "columns", "blocks"), DESIGNS)
def test_the_smallest_queues_and_fifos(
    model: str, rows: int, columns: int, blocks: int | None
) -> None:
    """No program waits for ever where every queue and FIFO has its least legal size."""
    graph = random_graph(MODELS[model], 1)
    config = preset_config(
        graph, rows=rows, groups=dense(columns), blocks=blocks, queue_depth=2, burst_beats=1,
        read_fifo_beats=2, outstanding=1,
    )  # fmt: skip
    least = max(2 * config.constant_beats, PARAMETERS["constant_fifo_beats"].low)
    config = config.replace(constant_fifo_beats=least)
    program = lower(graph, config, blocks=blocks)
    check(graph, program, seeds=(None, 1, 2))
    assert predict(program, MemoryModel(bytes_per_cycle=16, latency=20)).cycles > 0


def test_random_orders_of_events_agree() -> None:
    graph = random_graph(MODELS["long"], 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    check(graph, program, seeds=range(12))


def _with_instructions(program: Program, instructions: list[Instruction]) -> Program:
    code = b"".join(encode(item, index) for index, item in enumerate(instructions))
    return dataclasses.replace(
        program, instructions=tuple(instructions), image=code + program.image[len(code) :]
    )


def _with_wait(instruction: Instruction, engine: Engine, count: int) -> Instruction:
    waits = list(instruction.waits)
    waits[engine] = count
    return dataclasses.replace(instruction, waits=tuple(waits))


@pytest.mark.parametrize(
    ("operation", "engine"),
    [
        ("embedding", Engine.LOAD),  # RAW: position constants
        ("blocks.0.norm1", Engine.DRAIN),  # RAW: residual
        ("blocks.0.k", Engine.LAYERNORM),  # RAW: normalised
        ("blocks.0.softmax", Engine.DRAIN),  # RAW: logits
        ("blocks.0.attention", Engine.SOFTMAX),  # RAW: codes
        ("blocks.0.proj", Engine.DRAIN),  # RAW: attention
        ("blocks.1.fc1", Engine.LAYERNORM),  # RAW: normalised
        ("blocks.1.fc2", Engine.DRAIN),  # RAW: hidden
        ("head", Engine.LAYERNORM),  # RAW: row of the class token
        ("store", Engine.DRAIN),  # RAW: logits of the head
    ],
)
def test_missing_thresholds_are_found(operation: str, engine: Engine) -> None:
    """Drop the thresholds of one operation on one engine: some order of events goes wrong.

    (Not all are listed: those of the logits on q and k follow here from the two accumulator banks.)
    """
    graph = random_graph(spec(), 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(32)))
    broken = [
        _with_wait(i, engine, 0) if label == operation else i
        for i, label in zip(program.instructions, program.labels, strict=True)
    ]
    assert broken != list(program.instructions)
    with pytest.raises((MismatchError, ProgramError)):
        check(graph, _with_instructions(program, broken), seeds=range(60))


def test_a_missing_write_after_read_threshold_is_found() -> None:
    """Parameters of a later LayerNorm must not come before the earlier one has used the slot."""
    graph = random_graph(MODELS["long"], 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    instructions = list(program.instructions)
    loads = [n for n, i in enumerate(instructions) if i.opcode == "LOAD_LAYERNORM"]
    assert any(instructions[n].waits[Engine.LAYERNORM] for n in loads)
    # As early as the queues allow, and without its threshold.
    early = _with_wait(instructions.pop(loads[2]), Engine.LAYERNORM, 0)
    instructions.insert(loads[1], early)
    with pytest.raises((MismatchError, ProgramError)):
        check(graph, _with_instructions(program, instructions), seeds=range(20))


def test_deadlock_is_named() -> None:
    graph = random_graph(spec(depth=1), 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    instructions = list(program.instructions)
    number = next(n for n, i in enumerate(instructions) if i.opcode == "SOFTMAX")
    instructions[number] = _with_wait(instructions[number], Engine.DRAIN, 60_000)
    with pytest.raises(ProgramError, match=r"deadlock: .*SOFTMAX waits for DRAIN \d+ < 60000"):
        run_program(_with_instructions(program, instructions), random_image(graph.spec))


def test_a_matmul_that_waits_for_its_own_drain_deadlocks() -> None:
    graph = random_graph(spec(depth=1), 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    instructions = list(program.instructions)
    number = next(n for n, i in enumerate(instructions) if i.opcode == "MATMUL")
    own = 1 + sum(i.opcode == "DRAIN" for i in instructions[:number])
    instructions[number] = _with_wait(instructions[number], Engine.DRAIN, own)
    with pytest.raises(ProgramError, match=r"deadlock: .*MATMUL waits for DRAIN"):
        run_program(_with_instructions(program, instructions), random_image(graph.spec))


def test_loads_too_far_ahead_of_their_matmuls_deadlock() -> None:
    """More LOAD_TILES in front of their MATMUL than queues hold: found, not hung."""
    graph = random_graph(spec(), 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    first = [i for i in program.instructions if i.opcode == "LOAD_TILES"]
    rest = [i for i in program.instructions if i.opcode != "LOAD_TILES"]
    place = next(n for n, i in enumerate(rest) if i.opcode == "STATIONARY")
    with pytest.raises(ProgramError, match=r"deadlock: .*LOAD inside LOAD_TILES"):
        run_program(
            _with_instructions(program, rest[:place] + first + rest[place:]),
            random_image(graph.spec),
        )


def test_same_graph_same_bytes() -> None:
    graph = random_graph(spec(), 2)
    config = preset_config(graph, rows=16, groups=dense(16))
    first, second = lower(graph, config), lower(random_graph(spec(), 2), config)
    assert first == second
    assert first.boundaries_bytes() == second.boundaries_bytes()


def test_image_begins_with_the_instructions() -> None:
    graph = random_graph(spec(depth=1), 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    for number, instruction in enumerate(program.instructions):
        assert decode(program.image[32 * number : 32 * number + 32], number) == instruction
    assert program.instructions[0] == begin(program.config)
    assert len(program.image) % 4096 == 0


def test_the_interpreter_refuses_what_the_hardware_refuses() -> None:
    graph = random_graph(spec(depth=1), 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(16)))
    image = random_image(graph.spec)
    for bit in (3, 130, 32 * 8 + 200, 5 * 32 * 8 + 255):
        damaged = bytearray(program.image)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProgramError, match=f"instruction {bit // 256}: The check must be"):
            run_program(dataclasses.replace(program, image=bytes(damaged)), image)
    other = program.config.replace(queue_depth=4)
    with pytest.raises(ProgramError, match="A memory image must be for the build"):
        run_program(dataclasses.replace(program, config=other), image)
    with pytest.raises(ProgramError, match="must begin with BEGIN"):
        run_program(_with_instructions(program, list(program.instructions[1:])), image)
    twice = [program.instructions[0], *program.instructions]
    with pytest.raises(ProgramError, match="BEGIN must be the first instruction"):
        run_program(_with_instructions(program, twice), image)


def test_boundary_table_is_what_the_simulation_reads() -> None:
    graph = random_graph(MODELS["odd"], 2)
    program = lower(graph, preset_config(graph, rows=16, groups=dense(8), blocks=2), blocks=2)
    table = parse(program.boundaries_json())
    assert [b.name for b in table] == list(graph.tensors)


def test_skeleton_has_the_same_instructions() -> None:
    graph = random_graph(MODELS["odd"], 2)
    config = preset_config(graph, rows=16, groups=dense(16), memory_ports=2)
    full, skeleton = lower(graph, config), lower(graph, config, skeleton=True)
    assert [i.opcode for i in full.instructions] == [i.opcode for i in skeleton.instructions]
    assert [i.waits for i in full.instructions] == [i.waits for i in skeleton.instructions]
    shapes = lower(network_of(graph.spec), config, skeleton=True)
    assert [i.opcode for i in shapes.instructions] == [i.opcode for i in full.instructions]
    assert shapes.macs == full.macs == graph.macs()
    with pytest.raises(ProgramError, match="skeleton"):
        run_program(skeleton, random_image(graph.spec))


def test_presets_fit_exactly() -> None:
    """One word less in any bank does not fit."""
    graph = random_graph(MODELS["mean"], 2)
    config = preset_config(graph, rows=16, groups=dense(16))
    lower(graph, config)
    assert config.bank_words == bank_words_for(graph, 16)
    for bank, words in enumerate(config.bank_words):
        smaller = list(config.bank_words)
        smaller[bank] = words - 1
        with pytest.raises(DoesNotFitError, match="activation memory") as error:
            lower(graph, config.replace(bank_words=tuple(smaller)))
        assert (error.value.demand, error.value.bound) == (words, words - 1)
        assert error.value.unit == "words"


def test_a_large_model_is_refused_before_anything_is_packed(monkeypatch) -> None:
    large = spec(
        name="large", image_size=384, channels=3, patch=16, width=1024, depth=24, heads=16,
        head_dim=64, mlp_hidden=4096, classes=1000,
    )  # fmt: skip
    graph = network_of(large)
    config = preset_config(
        network_of(spec()), rows=64, groups=dense(64), max_row_length=1024, max_channels=1024
    )

    def fail(*arguments: object) -> None:
        raise AssertionError("packed")

    monkeypatch.setattr(product, "pack_tiles", fail)
    with pytest.raises(DoesNotFitError, match="residual must be at most"):
        lower(graph, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"softmax_vec": 16}, "softmax_vec must be the graph's 32, not 16"),
        ({"softmax_fractional": False}, "softmax_fractional must be the graph's true, not false"),
        ({"divider_bits": 5}, "divider_bits must be the graph's 4, not 5"),
        ({"exponent_fraction_bits": 0}, "exponent_fraction_bits must be the graph's 2, not 0"),
        ({"max_row_length": 16}, "max_row_length must be at least the model's 17 tokens, not 16"),
        ({"max_channels": 31}, "max_channels must be at least the model's width 32, not 31"),
    ],
)
def test_designs_that_cannot_run_the_model(changes: dict[str, int], message: str) -> None:
    function = SoftmaxFunction.sole() if "graph's 32" in message else SoftmaxFunction.fractional()
    graph = random_graph(spec(depth=1), 2, softmax=function)
    config = preset_config(graph, rows=16, groups=dense(16)).replace(**changes)
    with pytest.raises(ConfigError, match=message):
        lower(graph, config)


def _with_bias(graph: IntegerGraph, name: str, column: int, reach: int) -> IntegerGraph:
    """The graph with a bias by which a column's accumulators reach up to ``reach``."""
    ops = []
    for op in graph.ops:
        if op.name == name:
            assert isinstance(op, Linear)
            w = op.weights[:, column].astype(np.int64)
            bias = op.requantise.bias.copy()
            bias[column] = reach - 127 * w[w > 0].sum() + 128 * w[w < 0].sum()
            op = dataclasses.replace(op, requantise=dataclasses.replace(op.requantise, bias=bias))
        ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops))


def test_accumulators_fit_the_requantise_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proven for every input; what is not proven the program interpreter finds when it happens."""
    graph = random_graph(spec(depth=1), 2)
    config = preset_config(graph, rows=16, groups=dense(16))
    name, limit = "blocks.0.fc1", 1 << 26
    edge = _with_bias(graph, name, 3, limit - 1)
    check(edge, lower(edge, config))
    wrong = _with_bias(graph, name, 3, limit)
    message = r"accumulator \+ bias of column 3 must fit 27 bits .*, not reach 67108864"
    with pytest.raises(ConfigError, match=message):
        lower(wrong, config)
    monkeypatch.setattr(Lowering, "check_accumulators", lambda *_: None)
    far = _with_bias(graph, name, 3, 2 * limit)
    with pytest.raises(ProgramError, match="Accumulators with their bias must fit 27 bits"):
        run_program(lower(far, config), random_image(graph.spec))


def _with_sum(graph: IntegerGraph, channel: int, sign: int) -> IntegerGraph:
    """One-bit weights of one sign for a channel of fc2, all of whose activations are -128."""
    ops = []
    for op in graph.ops:
        if isinstance(op, Linear) and op.name == "blocks.0.fc1":
            op = dataclasses.replace(op, table=np.full(256, -128, np.int8))
        if isinstance(op, Linear) and op.name == "blocks.0.fc2":
            weights = op.weights.copy()
            weights[:, channel] = sign
            op = dataclasses.replace(op, weights=weights)
        ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops))


def test_sums_fit_the_accumulators_of_narrow_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 bits for one-bit weights: proven, and found in the program interpreter, as above."""
    graph = random_graph(spec(depth=1, mlp_hidden=4096), 2, weight_bits={"blocks.0.fc2": 1})
    config = preset_config(graph, rows=16, groups=parse_groups("dual:16:8,digits:16:1"))
    edge = _with_sum(graph, 20, 1)
    check(edge, lower(edge, config))  # down to -2^19
    lower(_with_sum(graph, 3, -1), config)  # on a column of 8 bits
    wrong = _with_sum(graph, 20, -1)
    message = r"channel 20 must fit the 20 bits .* not reach 524288 .*: groups dual:16:8$"
    with pytest.raises(ConfigError, match=message):
        lower(wrong, config)
    monkeypatch.setattr(Lowering, "check_narrow_accumulators", lambda *_: None)
    with pytest.raises(ProgramError, match="Sums of column 20 must fit 20 bits"):
        run_program(lower(wrong, config), random_image(graph.spec))


def test_uint8_stays_on_the_columns_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that V does not reach take int8 only."""
    graph = random_graph(spec(depth=1), 2, weight_bits=4)
    groups = parse_groups("dual:16:8,digits:8:8,digits:8:4")
    config = preset_config(graph, rows=16, groups=groups)
    assert (config.attention_columns, config.unsigned_columns) == (24, 16)
    program = lower(graph, config)
    instructions = list(program.instructions)
    number = next(
        n
        for n, i in enumerate(instructions)
        if i.opcode == "MATMUL" and program.labels[n] == "blocks.0.fc1"
    )
    given = instructions[number]
    instructions[number] = dataclasses.replace(given, fields={**given.fields, "signed": 0})
    message = "uint8 activations must stay on the first 16 columns, not 24"
    with pytest.raises(ProgramError, match=message):
        run_program(_with_instructions(program, instructions), random_image(graph.spec))
    monkeypatch.setattr(AcceleratorConfig, "unsigned_columns", 8)
    with pytest.raises(ProgramError, match="must stay on the first 8 columns, not 16"):
        lower(graph, config)


@pytest.mark.parametrize("vec", [8, 64])
def test_lanes_are_free_where_slices_are_no_part_of_the_function(vec: int) -> None:
    graph = random_graph(spec(depth=1), 1, softmax=SoftmaxFunction.fractional())
    check(graph, lower(graph, preset_config(graph, rows=16, groups=dense(16), softmax_vec=vec)))


def test_more_instructions_than_the_thresholds_count() -> None:
    """Refused before the schedule, whose time grows with the square of their number."""
    graph = network_of(spec(depth=22, heads=16, head_dim=2, image_size=20))
    config = preset_config(graph, rows=16, groups=dense(16), blocks=100)
    with pytest.raises(DoesNotFitError, match="instructions of LOAD must be at most 65,535, not"):
        lower(graph, config, skeleton=True, blocks=100)


def test_row_blocks() -> None:
    assert row_blocks(197, 64, 197) == ((0, 99), (99, 197))
    assert row_blocks(197, 128, 197) == ((0, 197),)
    assert row_blocks(17, 16, 17) == ((0, 17),)
    assert len(row_blocks(577, 32, 197)) == 3
    with pytest.raises(ConfigError, match=r"row_blocks must be in 2\.\.17 for 17 tokens, not 1"):
        row_blocks(17, 16, 9, 1)
