# SPDX-License-Identifier: Apache-2.0
"""The unit bench: it passes a good unit and catches each way of breaking the stream contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import SimulationError
from hwgen.sim.unit_bench import HANDSHAKES, Handshake, run_unit

pytestmark = pytest.mark.verilator

# A register stage: adds `offset` to each of two 33-bit halves. `{condition}` breaks it.
UNIT = """
module stage(clk, rst, offset, i__payload, i__valid, i__ready, o__payload, o__valid, o__ready);
  input clk;
  input rst;
  input [7:0] offset;
  input [65:0] i__payload;
  input i__valid;
  output i__ready;
  output [65:0] o__payload;
  output o__valid;
  input o__ready;
  reg [65:0] word;
  reg full;
  reg [7:0] age;
  assign i__ready = !full | (o__valid & o__ready);
  assign o__payload = word {payload_fault};
  assign o__valid = full {valid_fault};
  always @(posedge clk) begin
    age <= age + 1;
    if (i__ready) begin
      full <= i__valid {surplus_fault};
      word <= {{i__payload[65:33] + {{25'd0, offset}}, i__payload[32:0] + {{25'd0, offset}}}};
    end
    if (rst) begin full <= 0; age <= 0; end
  end
endmodule
"""
GOOD = UNIT.format(payload_fault="", valid_fault="", surplus_fault="")
MASK = (1 << 33) - 1


def reference(words: list[int], offset: int) -> list[int]:
    return [((w >> 33) + offset & MASK) << 33 | ((w & MASK) + offset & MASK) for w in words]


def words(count: int = 200) -> list[int]:
    rng = np.random.default_rng(5)
    return [int.from_bytes(rng.bytes(9), "little") & (1 << 66) - 1 for _ in range(count)]


@pytest.mark.parametrize("name", HANDSHAKES)
def test_words_pass_in_every_mode(name: str) -> None:
    given = words()
    run = run_unit(
        GOOD, "stage", given, len(given), configuration={"offset": 7}, handshake=HANDSHAKES[name]
    )
    assert run.integers() == reference(given, 7)
    if name == "always":
        assert run.cycles == len(given) + 1
        assert run.first_output_cycle == 2


def test_bytes_are_words(tmp_path: Path) -> None:
    given = words(3)
    packed = np.frombuffer(b"".join(w.to_bytes(9, "little") for w in given), np.uint8).reshape(3, 9)
    file = tmp_path / "unit.v"
    file.write_text(GOOD)
    assert run_unit(file, "stage", packed, 3).integers() == reference(given, 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"valid_fault": "& age[0]"}, "withdrawn"),
        ({"payload_fault": "^ {65'd0, age[0]}"}, "changed"),
        ({"surplus_fault": "| 1'b1"}, "more than"),
    ],
)
def test_broken_contract_is_caught(fault: dict[str, str], message: str) -> None:
    text = UNIT.format(**{"payload_fault": "", "valid_fault": "", "surplus_fault": "", **fault})
    with pytest.raises(SimulationError, match=message):
        run_unit(text, "stage", words(), 200, handshake=Handshake(ready_percent=50, seed=9))


def test_waiting_for_ready_is_caught_by_the_consumer_that_waits_for_valid() -> None:
    text = UNIT.format(payload_fault="", valid_fault="& o__ready", surplus_fault="")
    given = words()
    assert run_unit(text, "stage", given, 200).integers() == reference(given, 0)
    with pytest.raises(SimulationError, match="must finish"):
        run_unit(
            text, "stage", given, 200, handshake=HANDSHAKES["ready after valid"], max_cycles=5000
        )


def test_missing_outputs_reach_the_ceiling() -> None:
    with pytest.raises(SimulationError, match="returned 200 of 201 outputs"):
        run_unit(GOOD, "stage", words(), 201, max_cycles=1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": "stages"}, "must define the module 'stages'"),
        ({"configuration": {"gain": 1}}, r"must name inputs of stage \(\['offset'\]\)"),
        ({"configuration": {"offset": 256}}, "must fit 8 bits"),
        ({"inputs": [1 << 66]}, "must be in 0..2"),
        ({"input_stream": "x"}, "must have a port x__valid"),
    ],
)
def test_wrong_use_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "verilog": GOOD,
        "top": "stage",
        "inputs": [1],
        "output_count": 1,
    }
    with pytest.raises(SimulationError, match=message):
        run_unit(**(arguments | change))  # type: ignore[arg-type]
