# SPDX-License-Identifier: Apache-2.0
"""Top level: connects the units, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from amaranth import (
    Cat,
    ClockDomain,
    ClockSignal,
    DomainRenamer,
    Elaboratable,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.hdl import ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import AcceleratorConfig
from hwgen.isa.banks import READERS, WRITERS
from hwgen.isa.build import build_identity
from hwgen.isa.instructions import WAITED_FOR, Engine
from hwgen.isa.registers import COUNTERS, Cause
from hwgen.rtl.activation_memory import ActivationMemory
from hwgen.rtl.axi import READ_CHANNELS, WRITE_CHANNELS, ReadMaster, WriteMaster
from hwgen.rtl.drain import DrainEngine
from hwgen.rtl.layernorm_engine import LayerNormEngine
from hwgen.rtl.load import ConstantFifo, LoadEngine
from hwgen.rtl.matmul_engine import MatmulEngine
from hwgen.rtl.pipeline import register
from hwgen.rtl.registers import AXIL_CHANNELS, Registers
from hwgen.rtl.sequencer import Sequencer
from hwgen.rtl.softmax_engine import SoftmaxEngine
from hwgen.rtl.stationary import StationaryEngine
from hwgen.rtl.store import STORE_BURST_BEATS, StoreEngine
from hwgen.rtl.systolic_array import SystolicArray
from hwgen.timings import FETCH_FIFO_BEATS


class ResetRegister(wiring.Component):
    """The reset of one unit of the core: a register of its own, so that none has a large load.

    A module, and marked, since tools merge equal registers.
    """

    i: In
    o: Out

    def __init__(self) -> None:
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        late = Signal(reset_less=True, name="late", attrs={"dont_touch": "true"})
        m.d.sync += late.eq(self.i)
        m.d.comb += self.o.eq(late)
        return m


class Accelerator(wiring.Component):
    """The complete accelerator of a configuration.

    Ports: ``s_axil_*`` (AXI4-Lite registers), ``m_axi<p>_*`` (128-bit AXI4 masters; port 0 also
    writes), ``interrupt``; with columns of blocks at twice the clock ``clk2x``, whose edges are
    aligned with ``clk``'s. Every unit of the core has a reset domain of its own, one cycle behind
    the masters and registers: a soft reset holds them in reset while the masters finish what is on
    the bus; what the host wrote survives. On-chip memory is never reset.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        ports: dict[str, object] = {
            f"s_axil_{name}": Out(bits) if direction == "out" else In(bits)
            for name, (direction, bits) in AXIL_CHANNELS.items()
        }
        for p in range(config.memory_ports):
            channels = READ_CHANNELS | (WRITE_CHANNELS if p == 0 else {})
            ports |= {
                f"m_axi{p}_{name}": Out(bits) if direction == "out" else In(bits)
                for name, (direction, bits) in channels.items()
            }
        ports["interrupt"] = Out(1)
        if config.clk2x:
            ports["clk2x"] = In(1)
        super().__init__(ports)
        self.memory = ActivationMemory(config)
        self.array = SystolicArray(
            rows=config.rows,
            groups=config.groups,
            lanes=config.requantise_lanes,
            tile_rows=config.tile_rows,
            slice_widths=config.slice_widths,
            unsigned_columns=config.unsigned_columns,
        )
        self.drain = DrainEngine(config)

    def leaves(self) -> dict[str, wiring.Component | str]:
        """Modules, or their Verilog, that are emitted once each and instantiated by name."""
        return self.array.leaves() | self.memory.leaves() | self.drain.leaves()

    def synthesis_leaves(self) -> dict[str, wiring.Component]:
        """Those of :meth:`leaves` that synthesis for DSP48E2 replaces by these."""
        return self.array.synthesis_leaves()

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        config = self.config

        # The core's domains: same clock, reset by a soft reset too, a cycle later. In that cycle
        # the core may still say what is of the past; nobody listens while it is `recovering`.
        resetting = Signal(name="resetting")
        reset = Signal(name="reset")
        core_reset = register(m, reset, "core_reset")
        recovering = Signal(name="recovering")
        m.d.comb += [reset.eq(ResetSignal() | resetting), recovering.eq(resetting | core_reset)]

        in_core = partial(self._in_core, m, reset)
        m.submodules.registers = registers = Registers(build_identity(config))
        sequencer = in_core("sequencer", Sequencer(config))
        memory = in_core("memory", self.memory)
        array = in_core("array", self.array)
        load = in_core("load", LoadEngine(config))
        stationary = in_core("stationary", StationaryEngine(config))
        matmul = in_core("matmul", MatmulEngine(config))
        drain = in_core("drain_engine", self.drain)
        softmax = in_core("softmax", SoftmaxEngine(config))
        layernorm = in_core("layernorm", LayerNormEngine(config))
        store = in_core("store", StoreEngine(config))
        constants = in_core("constant_fifo", ConstantFifo(config))

        # AXI.
        masters = []
        for p in range(config.memory_ports):
            master = ReadMaster(
                fifo_beats=config.read_fifo_beats,
                outstanding=config.outstanding,
                fetch_beats=FETCH_FIFO_BEATS if p == 0 else 0,
            )
            m.submodules[f"read_master_{p}"] = master
            masters.append(master)
            for name, (direction, _) in READ_CHANNELS.items():
                pin, port = getattr(self, f"m_axi{p}_{name}"), getattr(master, name)
                m.d.comb += pin.eq(port) if direction == "out" else port.eq(pin)
            m.d.comb += master.drain.eq(recovering)
            wiring.connect(m, getattr(load, f"o_burst{p}"), master.i_burst)
            wiring.connect(m, master.o_stream, getattr(load, f"i_beats{p}"))
        m.submodules.write_master = writer = WriteMaster(
            fifo_beats=2 * STORE_BURST_BEATS, outstanding=8
        )
        for name, (direction, _) in WRITE_CHANNELS.items():
            pin, port = getattr(self, f"m_axi0_{name}"), getattr(writer, name)
            m.d.comb += pin.eq(port) if direction == "out" else port.eq(pin)
        m.d.comb += writer.drain.eq(recovering)
        wiring.connect(m, store.o_burst, writer.i_burst)
        wiring.connect(m, store.o_stream, writer.i_stream)
        wiring.connect(m, sequencer.o_fetch, masters[0].i_fetch)
        wiring.connect(m, masters[0].o_fetch, sequencer.i_beats)

        # Registers.
        for name, (direction, _) in AXIL_CHANNELS.items():
            pin, port = getattr(self, f"s_axil_{name}"), getattr(registers, name)
            m.d.comb += pin.eq(port) if direction == "out" else port.eq(pin)
        m.d.comb += [
            self.interrupt.eq(registers.interrupt),
            registers.busy.eq(sequencer.running),
            registers.resetting.eq(recovering),
            registers.finished.eq(sequencer.finished & ~recovering),
            sequencer.start.eq(registers.start),
            sequencer.halt.eq(registers.failed),
            sequencer.image_base.eq(registers.first_base),
            sequencer.image_window.eq(registers.first_window),
            load.image_base.eq(registers.image_base),
            load.image_window.eq(registers.image_window),
            load.input_base.eq(registers.input_base),
            load.input_window.eq(registers.input_window),
            store.output_base.eq(registers.output_base),
            store.output_window.eq(registers.output_window),
            store.written.eq(writer.written),
        ]
        idle = Cat(master.idle for master in masters).all() & writer.idle
        with m.If(registers.soft_reset):
            m.d.sync += resetting.eq(1)
        with m.Elif(core_reset & idle):
            m.d.sync += resetting.eq(0)

        # Engines: commands, completion, memory ports.
        engines = {
            Engine.LOAD: load,
            Engine.STATIONARY: stationary,
            Engine.MATMUL: matmul,
            Engine.DRAIN: drain,
            Engine.SOFTMAX: softmax,
            Engine.LAYERNORM: layernorm,
            Engine.STORE: store,
        }
        for engine, unit in engines.items():
            queue = getattr(sequencer, f"o_{engine.name.lower()}")
            payload = unit.i_command.payload
            body = payload if engine == Engine.LOAD else payload.as_value()
            m.d.comb += [
                body.eq(queue.payload),
                unit.i_command.valid.eq(queue.valid),
                queue.ready.eq(unit.i_command.ready),
                sequencer.done[engine].eq(unit.done),
            ]
        for engine in READERS:
            wiring.connect(m, engines[engine].read, memory.port(engine, write=False))
        for engine in WRITERS:
            wiring.connect(m, engines[engine].write, memory.port(engine, write=True))

        # Weights and constants.
        wiring.connect(m, load.o_weights, stationary.weights)
        wiring.connect(m, load.o_constants, constants.i_stream)
        wiring.connect(m, constants.o_stream, drain.i_constants)
        m.d.comb += [
            layernorm.parameter_valid.eq(load.layernorm_valid),
            layernorm.parameter_slot.eq(load.layernorm_slot),
            layernorm.parameter_index.eq(load.layernorm_index),
            layernorm.parameter_data.eq(load.layernorm_data),
            *([drain.row_shifts.eq(softmax.row_shifts)] if config.softmax_fractional else []),
            drain.table_valid.eq(load.table_valid),
            drain.table_slot.eq(load.table_slot),
            drain.table_index.eq(load.table_index),
            drain.table_data.eq(load.table_data),
        ]

        # Array.
        m.d.comb += [
            array.activations.eq(matmul.activations),
            array.signed_codes.eq(matmul.signed_codes),
            array.swap.eq(matmul.swap),
            array.entry.eq(matmul.entry),
            *(
                getattr(array, port).eq(getattr(stationary, port.replace("weights", "weight_data")))
                for g in range(len(config.groups))
                for port in (f"weight_valid{g}", f"weight_row{g}", f"weights{g}")
            ),
            array.drain_bank.eq(drain.drain_bank),
            array.drain_row.eq(drain.drain_row),
            array.drain_segment.eq(drain.drain_segment),
            array.drain_offset.eq(drain.drain_offset),
            *([array.drain_pairs.eq(drain.drain_pairs)] if array.pairs else []),
            drain.drain_data.eq(array.drain_data),
            drain.bank_complete.eq(array.bank_complete),
            *([array.clk2x.eq(self.clk2x)] if config.clk2x else []),
            matmul.bank_release.eq(drain.bank_release),
            matmul.stationary_full.eq(stationary.full),
            matmul.stationary_from_memory.eq(stationary.from_memory),
            stationary.swapped.eq(matmul.swap),
        ]

        # Counters: every cycle of a frame has exactly one cause.
        frame = Signal(name="frame")
        with m.If(registers.start):
            m.d.sync += frame.eq(1)
        with m.Elif(sequencer.finished | recovering):
            m.d.sync += frame.eq(0)
        waiting = sequencer.waiting_for
        head = ~matmul.active & sequencer.matmul_queued
        events: dict[str, object] = {
            "CYCLES": 1,
            "ARRAY_BUSY": matmul.busy,
            "STALL_WEIGHTS": matmul.stall_weights,
            "STALL_STATIONARY": matmul.stall_stationary,
            "STALL_ACCUMULATOR": matmul.stall_accumulator,
            "STALL_BANK": matmul.stall_bank,
        }
        earlier = ~head
        for engine in WAITED_FOR:
            events[f"STALL_{engine.name}"] = ~earlier & waiting[engine]
            earlier = earlier | waiting[engine]
        others = Cat(waiting[engine] for engine in WAITED_FOR).any()
        events["STALL_IDLE"] = ~matmul.active & ~(head & others)
        for index, (name, _) in enumerate(COUNTERS):
            m.d.sync += registers.count[index].eq(Mux(frame, events[name], 0))

        # Watchdog and errors; the first is kept by the registers.
        quiet = Signal(32, name="quiet")
        progress = Signal(name="progress")
        m.d.sync += [
            progress.eq(sequencer.progress),
            quiet.eq(Mux(frame & ~progress, quiet + 1, 0)),
        ]
        expired = register(
            m, (registers.watchdog != 0) & (quiet >= registers.watchdog), "expired", reset=True
        )
        causes: list[tuple[ValueLike, ValueLike, ValueLike]] = [
            (frame & expired, Cause.WATCHDOG, sequencer.index),
            (memory.range_error, Cause.ADDRESS_RANGE, memory.range_address),
            (load.outside, Cause.WINDOW, load.outside_address),
            (store.outside, Cause.WINDOW, store.outside_address),
            (sequencer.fault, sequencer.fault_cause, sequencer.fault_address),
            (writer.error, Cause.WRITE_ERROR, writer.error_address),
            *((x.error, Cause.READ_ERROR, x.error_address) for x in masters),
        ]
        self._report(m, registers, causes, recovering)
        return m

    @staticmethod
    def _in_core(m: Module, reset: Value, name: str, unit: wiring.Component) -> wiring.Component:
        """Add a unit in a domain of its own, which is reset a cycle after ``reset``."""
        domain = ClockDomain(name, local=True)
        m.domains += domain
        m.submodules[f"{name}_reset"] = late = ResetRegister()
        m.d.comb += [late.i.eq(reset), domain.clk.eq(ClockSignal()), domain.rst.eq(late.o)]
        m.submodules[name] = DomainRenamer(name)(unit)
        return unit

    @staticmethod
    def _report(
        m: Module,
        registers: Registers,
        causes: Sequence[tuple[ValueLike, ValueLike, ValueLike]],
        recovering: Value,
    ) -> None:
        """Tell the registers of an event, its cause and address; the last of several at once."""
        error = Signal(name="error")
        error_cause = Signal.like(registers.error_cause, name="error_cause")
        error_address = Signal.like(registers.error_address, name="error_address")
        for event, cause, address in causes:
            with m.If(event):
                m.d.comb += [error.eq(1), error_cause.eq(cause), error_address.eq(address)]
        m.d.comb += [
            # What the core still says while it is being reset is of the past.
            registers.error.eq(register(m, error & ~recovering, "error_seen", reset=True)),
            registers.error_cause.eq(register(m, error_cause, "cause_seen")),
            registers.error_address.eq(register(m, error_address, "address_seen")),
        ]
