# SPDX-License-Identifier: Apache-2.0
"""The emitted text: deterministic, prefixed, and good Verilog."""

# No postponed annotations here: Amaranth reads a component's ports from them.

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth import ClockSignal, Instance, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.emit.verilog import check_identifier, convert, convert_leaf, external_modules
from hwgen.errors import ConfigError
from hwgen.sim.unit_bench import run_unit
from hwgen.units.folder import VERILATOR_OPTIONS


class Cell(wiring.Component):
    a: In(8)
    y: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.y.eq(self.a + 1)
        return m


class Pair(wiring.Component):
    """Two named parts, one submodule, one primitive."""

    a: In(8)
    y: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cell = cell = Cell()
        middle, last = Signal(8), Signal(8)
        m.d.comb += cell.a.eq(self.a)
        for index, (source, sink) in enumerate([(cell.y, middle), (middle, last)]):
            m.submodules[f"part_{index}"] = Instance(
                "hwgen_cell", i_clk=ClockSignal(), i_a=source, o_y=sink
            )
        m.submodules.primitive = Instance("PRIMITIVE", p_MODE=3, i_I=last, o_O=self.y)
        return m


def emit() -> str:
    return convert(Pair(), "digits_zcu102", {"hwgen_cell": Cell()})


def test_modules_carry_the_name_of_the_design() -> None:
    text = emit()
    modules = re.findall(r"^module (\S+)\(", text, re.MULTILINE)
    # The submodule and the part are equal, so one module serves all three.
    assert modules == ["digits_zcu102", "digits_zcu102_cell"]
    assert len(re.findall(r"^  digits_zcu102_cell \S+ +\($", text, re.MULTILINE)) == 3
    assert external_modules(text) == {"PRIMITIVE"}


def test_unequal_modules_stay_apart() -> None:
    class Other(Cell):
        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.d.sync += self.y.eq(self.a + 2)
            return m

    text = convert(Pair(), "x", {"hwgen_cell": Other()})
    assert re.findall(r"^module (\S+)\(", text, re.MULTILINE) == ["x", "x_cell", "x_cell_2"]
    assert len(re.findall(r"^  x_cell \S+ +\($", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^  x_cell_2 \S+ +\($", text, re.MULTILINE)) == 2


def test_a_part_in_its_own_file_keeps_one_name() -> None:
    class Other(Cell):
        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.d.sync += self.y.eq(self.a + 2)
            return m

    text = convert(Pair(), "x", {}, {"hwgen_part"})
    assert external_modules(text) == {"hwgen_cell", "PRIMITIVE"}
    text = convert(Pair(), "x", {}, {"hwgen_cell"})
    [leaf] = external_modules(text) - {"PRIMITIVE"}
    for kind in (Cell, Other):
        names = re.findall(
            r"^module (\S+)\(", convert_leaf(kind(), "x", "hwgen_cell"), re.MULTILINE
        )
        assert names == [leaf]
    # The submodule of the same stem stays apart.
    assert leaf not in re.findall(r"^module (\S+)\(", text, re.MULTILINE)


def test_elements_are_no_bits() -> None:
    class Elements(wiring.Component):
        y: Out(data.ArrayLayout(4, 3))

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.d.sync += self.y[1].eq(self.y[0] + 1)
            return m

    text = convert(Elements(), "x")
    assert r"\y.1 " in text
    assert r"\y[1] " not in text


class Memories(wiring.Component):
    """Memories of words that are equal and of words that are not."""

    at: In(3)
    y: Out(18)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for place, init in enumerate(([0] * 8, [*range(1, 8), 0], [9] * 5)):
            words = memory.Memory(shape=6, depth=len(init), init=init)
            m.submodules[f"words_{place}"] = words
            port = words.read_port(domain="comb")
            write = words.write_port()
            m.d.comb += [
                port.addr.eq(self.at),
                self.y[6 * place :][:6].eq(port.data),
                write.addr.eq(self.at),
                write.en.eq(self.at == 7),
            ]
        return m


def test_equal_words_are_filled_by_a_loop() -> None:
    text = convert(Memories(), "x")
    loops = re.findall(r"initial for \(\\\S+ = 0; \S+ < (\d)'d(\d); .*\n.* = 6'h(\w\w);", text)
    assert loops == [("4", "8", "00"), ("3", "5", "09")]
    assert len(re.findall(r"\[\d\] = 6'h\w\w;", text)) == 8


@pytest.mark.verilator
def test_initial_words_are_there_at_the_beginning() -> None:
    class Bench(wiring.Component):
        i: In(stream.Signature(3))
        o: Out(stream.Signature(18))

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.memories = memories = Memories()
            m.d.comb += [
                memories.at.eq(Mux(self.i.valid, self.i.payload, 0)),
                self.o.payload.eq(memories.y),
                self.o.valid.eq(self.i.valid),
                self.i.ready.eq(self.o.ready),
            ]
            return m

    run = run_unit(convert(Bench(), "x"), "x", range(5), 5, options=VERILATOR_OPTIONS)
    assert run.integers() == [(at + 1) << 6 | 9 << 12 for at in range(5)]


def test_text_says_nothing_about_its_maker() -> None:
    text = emit()
    assert text.startswith("// digits_zcu102: generated by hwgen")
    assert "Yosys" not in text
    assert "(* src" not in text
    assert "(* top" not in text


def test_text_is_the_same_for_any_folder_and_hash_seed(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_verilog as t; print(t.emit())"
    )
    texts = set()
    for seed in ("0", "1", "77"):
        folder = tmp_path / seed
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        texts.add(done.stdout)
    assert texts == {emit() + "\n"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("8bit", "design_8bit"), ("a b", "a_b"), ("../x", "___x"), ("", "design_")],
)
def test_name_must_be_an_identifier(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_identifier(name)
    assert caught.value.nearest == nearest
