# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from amaranth import Module, Signal, signed
from amaranth.back import verilog
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hwgen.errors import ConfigError
from hwgen.numerics.ailayernorm import ailayernorm
from hwgen.rtl.ailayernorm import (
    OUTPUT_DEPTH,
    AILayerNorm,
    parameters_layout,
)
from hwgen.sim.unit_bench import HANDSHAKES, Handshake, UnitRun, run_unit
from hwgen.timings import AILAYERNORM_STAGE_2, ailayernorm_stage_1

pytestmark = pytest.mark.verilator

#: The back end writes operands at their own widths; Verilog extends them as meant.
OPTIONS = ("-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC")
SETTINGS = ("zero_point", "gamma_shift", "beta_fraction_bits", "output_zero_point", "exact", "slot")
KIND_GROUP, KIND_SETTINGS, KIND_PARAMETERS = 0, 1, 2
MAX_CHANNELS = 1024


def settings_layout(max_channels: int) -> data.StructLayout:
    return data.StructLayout(
        {
            "channels": bits_for(max_channels),
            "zero_point": 8,
            "gamma_shift": 4,
            "beta_fraction_bits": 4,
            "output_zero_point": signed(8),
            "exact": 1,
            "slot": 1,
        }
    )


class Bench(wiring.Component):
    """The unit with settings and parameters in the stream.

    Settings wait until the unit is empty; so do parameters of the slot in use.
    """

    def __init__(self, lanes: int, max_channels: int) -> None:
        self.unit = AILayerNorm(lanes, max_channels)
        self.settings = settings_layout(max_channels)
        self.parameters = parameters_layout(lanes, max_channels)
        given = data.StructLayout({"kind": 8, "body": self.parameters.size})
        super().__init__(
            {
                "i_stream": In(stream.Signature(given)),
                "o_stream": Out(self.unit.o_stream.signature),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        offer = self.i_stream.payload
        settings = Signal(self.settings)
        inside, settle = Signal(16), Signal(3)
        given, returned, writable = Signal(), Signal(), Signal()
        for name in self.settings.members:
            m.d.comb += getattr(unit, name).eq(settings[name])
        is_group = offer.kind == KIND_GROUP
        m.d.comb += [
            unit.parameters.eq(offer.body),
            writable.eq((inside == 0) | (unit.parameters.slot != settings.slot)),
            unit.parameters_valid.eq(
                self.i_stream.valid & (offer.kind == KIND_PARAMETERS) & writable
            ),
            unit.i_stream.payload.eq(offer.body),
            unit.i_stream.valid.eq(self.i_stream.valid & is_group & (settle == 0)),
            given.eq(unit.i_stream.valid & unit.i_stream.ready),
            returned.eq(self.o_stream.valid & self.o_stream.ready),
        ]
        wiring.connect(m, wiring.flipped(self.o_stream), unit.o_stream)
        with m.Switch(offer.kind):
            with m.Case(KIND_GROUP):
                m.d.comb += self.i_stream.ready.eq(unit.i_stream.ready & (settle == 0))
            with m.Case(KIND_SETTINGS):
                m.d.comb += self.i_stream.ready.eq(inside == 0)
            with m.Default():
                m.d.comb += self.i_stream.ready.eq(writable)
        m.d.sync += inside.eq(inside + given - returned)
        with m.If(settle != 0):
            m.d.sync += settle.eq(settle - 1)
        with m.If(self.i_stream.valid & self.i_stream.ready & (offer.kind == KIND_SETTINGS)):
            m.d.sync += [settings.eq(offer.body), settle.eq(3)]
        return m


@cache
def _verilog(lanes: int, max_channels: int) -> str:
    return verilog.convert(Bench(lanes, max_channels), name="bench", emit_src=False)


@dataclass(frozen=True)
class Layer:
    """Rows of one layer and what it loads."""

    x: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.int64]
    gamma: npt.NDArray[np.int64]
    beta: npt.NDArray[np.int64]
    zero_point: int = 128
    gamma_shift: int = 6
    beta_fraction_bits: int = 8
    output_zero_point: int = 0
    exact: int = 0
    slot: int = 0

    @property
    def channels(self) -> int:
        return self.x.shape[1]

    def expected(self) -> npt.NDArray[np.int8]:
        settings: dict[str, Any] = {n: getattr(self, n) for n in SETTINGS[:4]}
        return ailayernorm(
            self.x,
            alpha=self.alpha,
            gamma=self.gamma,
            beta=self.beta,
            squares="exact" if self.exact else "compressed",
            max_channels=MAX_CHANNELS,
            **settings,
        )


def parameter_words(layer: Layer, lanes: int, max_channels: int) -> list[int]:
    layout = parameters_layout(lanes, max_channels)
    words = []
    for group in range(-(-layer.channels // lanes)):
        # The second half of a group is written first, with the first half in the other lanes
        # disabled.
        for half in (1, 0):
            members = range(half * lanes // 2, (half + 1) * lanes // 2)
            rows = [{"beta": 99, "gamma": 99, "alpha": 3} for _ in range(lanes)]
            for i in members:
                c = group * lanes + i
                if c < layer.channels:
                    rows[i] = {
                        "beta": int(layer.beta[c]),
                        "gamma": int(layer.gamma[c]),
                        "alpha": int(layer.alpha[c]),
                    }
            enable = sum(1 << i for i in members)
            body = layout.const(
                {"slot": layer.slot, "group": group, "enable": enable, "data": rows}
            )
            words.append(KIND_PARAMETERS | body.as_value().value << 8)
    return words


def layer_words(layer: Layer, lanes: int, max_channels: int) -> list[int]:
    settings = settings_layout(max_channels).const(
        {"channels": layer.channels, **{name: getattr(layer, name) for name in SETTINGS}}
    )
    words = [*parameter_words(layer, lanes, max_channels)]
    words.append(KIND_SETTINGS | settings.as_value().value << 8)
    groups = -(-layer.channels // lanes)
    for row in layer.x:
        padded = np.full(groups * lanes, 200, np.uint8)  # a masked lane may hold anything
        padded[: layer.channels] = row
        for group, values in enumerate(padded.reshape(groups, lanes)):
            body = int.from_bytes(values.tobytes(), "little")
            body |= (group == groups - 1) << 8 * lanes
            words.append(KIND_GROUP | body << 8)
    return words


def check(
    layers: list[Layer],
    *,
    lanes: int = 16,
    max_channels: int = MAX_CHANNELS,
    handshake: Handshake = HANDSHAKES["always"],
) -> UnitRun:
    words = [word for layer in layers for word in layer_words(layer, lanes, max_channels)]
    count = sum(len(layer.x) * -(-layer.channels // lanes) for layer in layers)
    run = run_unit(
        _verilog(lanes, max_channels),
        "bench",
        words,
        count,
        input_stream="i_stream",
        output_stream="o_stream",
        handshake=handshake,
        options=OPTIONS,
    )
    position = 0
    for index, layer in enumerate(layers):
        groups = -(-layer.channels // lanes)
        out = run.outputs[position : position + len(layer.x) * groups]
        position += len(out)
        last = out[:, lanes].reshape(-1, groups) & 1
        assert last[:, -1].all() and not last[:, :-1].any()
        got = out[:, :lanes].reshape(len(layer.x), groups * lanes).view(np.int8)
        assert not got[:, layer.channels :].any(), "masked lanes must return 0"
        expected = layer.expected()
        wrong = np.argwhere(got[:, : layer.channels] != expected)
        assert not len(wrong), (index, layer.channels, layer.exact, wrong[:5].tolist())
    return run


def random_layer(seed: int, rows: int, channels: int, **changes: int) -> Layer:
    """Scales at which about 1 % of the outputs clip."""
    rng = np.random.default_rng(seed)
    alpha = rng.integers(0, 4, channels)
    zero_point = int(rng.integers(100, 156))
    # Rows of very different spread; channels of a large alpha have small codes, as calibration
    # makes them.
    spread = rng.choice([0.3, 2, 8, 20, 60], (rows, 1)) * 2.0 ** -(alpha / 2)
    x = np.clip(np.round(rng.normal(zero_point + 3, spread, (rows, channels))), 0, 255)
    gamma = rng.integers(-127, 128, channels)
    gamma_shift = int(rng.integers(0, 3))
    beta_fraction_bits = int(rng.integers(0, 11))
    beta = rng.integers(-20, 21, channels) * (1 << beta_fraction_bits) + rng.integers(
        0, 1 << beta_fraction_bits, channels
    )
    layer = Layer(
        x.astype(np.uint8),
        alpha,
        gamma,
        beta,
        zero_point=zero_point,
        gamma_shift=gamma_shift + 2,
        beta_fraction_bits=beta_fraction_bits,
        output_zero_point=int(rng.integers(-20, 21)),
        exact=int(rng.integers(0, 2)),
        slot=int(rng.integers(0, 2)),
    )
    return replace(layer, **changes)


def extremes(channels: int, exact: int) -> list[Layer]:
    """Constant rows, one outlier, alternations and ramps at the largest weights."""
    index = np.arange(channels)
    patterns = [np.full(channels, v) for v in (0, 255, 128)]
    patterns += [np.where(index % 2, 255, 0), np.where(index == channels - 1, 255, 0)]
    patterns += [np.where(index == 0, 0, 255), index * 255 // (channels - 1), index % 4 + 126]
    x = np.array(patterns).astype(np.uint8)
    layers = []
    top = (1 << 23) - 1
    for zero_point, gamma_shift, fb, zo, alpha, gamma, beta in (
        (0, 0, 10, -128, 3, 127, top),
        (255, 0, 10, 127, 3, -127, -top - 1),
        (0, 15, 0, 0, 0, 127, 127),
        (128, 0, 0, 127, 3, 127, -top - 1),
        (128, 0, 10, -128, 0, -127, top),
        (1, 4, 8, 3, 2, 127, 77),
    ):

        def full(value: int) -> npt.NDArray[np.int64]:
            return np.full(channels, value)

        layers.append(
            Layer(
                x,
                full(alpha),
                full(gamma),
                full(beta),
                zero_point=zero_point,
                gamma_shift=gamma_shift,
                beta_fraction_bits=fb,
                output_zero_point=zo,
                exact=exact,
                slot=exact,
            )
        )
    return layers


CHANNELS = (64, 96, 192, 384, 768, 1024, 100, 8, 17, 15, 1023)


@pytest.mark.parametrize("mode", HANDSHAKES)
def test_random_layers_in_every_handshake(mode: str) -> None:
    layers = [random_layer(i, 7, channels) for i, channels in enumerate(CHANNELS)]
    clipped = np.mean([np.mean(np.abs(layer.expected().astype(int)) >= 127) for layer in layers])
    assert clipped < 0.3
    check(layers, handshake=HANDSHAKES[mode])


def test_many_layers_of_both_squares() -> None:
    layers = [
        random_layer(100 + i, 4, channels, exact=i % 2, slot=i // 2 % 2)
        for i, channels in enumerate((64, 96, 64, 100, 192, 64, 8, 9, 33, 384) * 6)
    ]
    check(layers)


@pytest.mark.parametrize("exact", [0, 1])
def test_extremes(exact: int) -> None:
    check([layer for channels in (8, 64, 1024) for layer in extremes(channels, exact)])


def test_every_code_and_zero_point() -> None:
    rng = np.random.default_rng(3)
    layers = []
    for zero_point in (0, 1, 127, 128, 255):
        x = np.stack([np.roll(np.arange(256), 5), np.arange(256)[::-1]]).astype(np.uint8)
        for exact in (0, 1):
            layer = random_layer(zero_point, 2, 256, zero_point=zero_point, exact=exact)
            layers.append(replace(layer, x=x, alpha=rng.integers(0, 2, 256)))
        # Rows of one distance: Ex2 is that distance's compressed square alone.
        distance = np.arange(256 - zero_point)[:, None] * np.where(np.arange(8) % 2, 1, 0)
        rows = (zero_point + distance).astype(np.uint8)
        layers.append(
            replace(random_layer(zero_point, 2, 8), x=rows, zero_point=zero_point, exact=0)
        )
    check(layers)


def test_parameters_of_the_other_slot_load_meanwhile() -> None:
    first = random_layer(1, 30, 64, slot=0)
    second = random_layer(2, 5, 64, slot=1)
    check([first, second, replace(first, slot=1), replace(second, slot=0)])


@pytest.mark.parametrize("channels", [8, 16, 17, 64, 192, 1024])
def test_one_group_per_cycle(channels: int) -> None:
    rows = 40
    layer = random_layer(5, rows, channels)
    run = check([layer])
    groups = -(-channels // 16)
    # The bench takes two words of parameters a group, one of settings, and settles for three
    # cycles.
    first = 2 * groups + 1 + 3 + groups + ailayernorm_stage_1(16) + AILAYERNORM_STAGE_2
    assert run.first_output_cycle == first
    assert run.cycles == first + rows * groups - 1


def test_other_lanes() -> None:
    layers = [random_layer(i, 6, channels) for i, channels in enumerate((64, 60, 8, 9, 33))]
    for mode in ("always", "random", "ready after valid"):
        check(layers, lanes=8, max_channels=64, handshake=HANDSHAKES[mode])


def test_output_queue_covers_its_round_trip() -> None:
    assert OUTPUT_DEPTH >= AILAYERNORM_STAGE_2


def test_lanes_must_be_a_power_of_two() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        parameters_layout(12, 64)
