# SPDX-License-Identifier: Apache-2.0
"""AXI4 masters of one memory port: read (AR, R) and write (AW, W, B).

Both live outside the soft reset: while ``drain`` is high they issue nothing new, finish what is on
the bus, throw the data away and report ``idle``. They rely on AXI4's order: responses of one ID
come in the order of its requests.
"""

from __future__ import annotations

from amaranth import Cat, Const, Elaboratable, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.rtl.pipeline import StreamBuffer
from hwgen.rtl.ram import SmallMemory

#: Bytes of a beat as AXI SIZE.
SIZE_16_BYTES = 4
#: AXI IDs of the two kinds of reads on port 0.
ID_LOAD = 0
ID_FETCH = 1

READ_CHANNELS: dict[str, tuple[str, int]] = {
    "arid": ("out", 2),
    "araddr": ("out", 64),
    "arlen": ("out", 8),
    "arsize": ("out", 3),
    "arburst": ("out", 2),
    "arcache": ("out", 4),
    "arprot": ("out", 3),
    "arvalid": ("out", 1),
    "arready": ("in", 1),
    "rid": ("in", 2),
    "rdata": ("in", 128),
    "rresp": ("in", 2),
    "rlast": ("in", 1),
    "rvalid": ("in", 1),
    "rready": ("out", 1),
}
WRITE_CHANNELS: dict[str, tuple[str, int]] = {
    "awid": ("out", 2),
    "awaddr": ("out", 64),
    "awlen": ("out", 8),
    "awsize": ("out", 3),
    "awburst": ("out", 2),
    "awcache": ("out", 4),
    "awprot": ("out", 3),
    "awvalid": ("out", 1),
    "awready": ("in", 1),
    "wdata": ("out", 128),
    "wstrb": ("out", 16),
    "wlast": ("out", 1),
    "wvalid": ("out", 1),
    "wready": ("in", 1),
    "bid": ("in", 2),
    "bresp": ("in", 2),
    "bvalid": ("in", 1),
    "bready": ("out", 1),
}

BURST = data.StructLayout({"address": 64, "length": 8})  #: length = beats - 1


def members(channels: dict[str, tuple[str, int]], prefix: str = "") -> dict[str, object]:
    """Signature members of channels, as the master drives them."""
    return {
        prefix + name: Out(bits) if direction == "out" else In(bits)
        for name, (direction, bits) in channels.items()
    }


class PrefetchFifo(wiring.Component):
    """Beats in block RAM, its output register the FIFO's; room is the writer's to know.

    Nothing is counted: a read reaches the clock enable of a pointer through one LUT, because the
    ready of all ports together comes late. A beat can be read two cycles after it was written; one
    a cycle.
    """

    def __init__(self, depth: int) -> None:
        """``depth``: a power of two."""
        self.depth = depth
        super().__init__(
            {
                "w_data": In(128),
                "w_en": In(1),
                "r_data": Out(128),
                "r_rdy": Out(1),
                "r_en": In(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        bits = exact_log2(self.depth)
        m.submodules.storage = storage = SmallMemory("storage", shape=128, depth=self.depth)
        write, read = storage.writer("write"), storage.reader("read")
        # One bit more than an address: a full FIFO is no empty one.
        produce, consume = Signal(bits + 1, name="produce"), Signal(bits + 1, name="consume")
        take = Signal(name="take")
        m.d.comb += [
            take.eq((produce != consume) & (self.r_en | ~self.r_rdy)),
            write.addr.eq(produce[:bits]),
            write.data.eq(self.w_data),
            write.en.eq(self.w_en),
            read.addr.eq(consume[:bits]),
            read.en.eq(take),
            self.r_data.eq(read.data),
        ]
        with m.If(self.w_en):
            m.d.sync += produce.eq(produce + 1)
        with m.If(take):
            m.d.sync += [consume.eq(consume + 1), self.r_rdy.eq(1)]
        with m.Elif(self.r_en):
            m.d.sync += self.r_rdy.eq(0)
        return m


class ReadMaster(wiring.Component):
    """Read half of a memory port: bursts in, beats out, for loads and (port 0) instruction fetch.

    A burst is issued only when its FIFO has room for all of it, so R is always ready.
    ``outstanding`` bounds the bursts in flight. ``error`` pulses with ``error_address`` (the
    burst's) on a response that is not OKAY; the beat is delivered all the same.
    """

    def __init__(self, *, fifo_beats: int, outstanding: int, fetch_beats: int = 0) -> None:
        self.fifo_beats = fifo_beats
        self.outstanding = outstanding
        self.fetch_beats = fetch_beats
        ports: dict[str, object] = {
            "i_burst": In(stream.Signature(BURST)),
            "o_stream": Out(stream.Signature(128)),
            "drain": In(1),
            "idle": Out(1),
            "error": Out(1),
            "error_address": Out(64),
            **members(READ_CHANNELS),
        }
        if fetch_beats:
            ports |= {
                "i_fetch": In(stream.Signature(BURST)),
                "o_fetch": Out(stream.Signature(128)),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        sources = [(ID_LOAD, self.i_burst, self.o_stream, self.fifo_beats)]
        if self.fetch_beats:
            # The fetch goes first: it is rare and everything waits for it.
            sources.insert(0, (ID_FETCH, self.i_fetch, self.o_fetch, self.fetch_beats))

        in_flight = Signal(range(2 * self.outstanding + 1), name="in_flight")
        m.d.comb += [
            self.arsize.eq(SIZE_16_BYTES),
            self.arburst.eq(1),
            self.arcache.eq(0b0011),
            self.rready.eq(1),
            self.idle.eq((in_flight == 0) & ~self.arvalid),
        ]
        issued = self.arvalid & self.arready
        ended = self.rvalid & self.rready & self.rlast
        m.d.sync += in_flight.eq(in_flight + issued - ended)
        with m.If(issued):
            m.d.sync += self.arvalid.eq(0)

        # A burst is looked at in one cycle and accepted in a later one: what it needs can only grow
        # in between, because no other is accepted meanwhile.
        can_issue = Signal(name="can_issue")
        m.d.comb += can_issue.eq((~self.arvalid | self.arready) & ~self.drain)
        any_accept = Signal(name="any_accept")
        room_in_flight = in_flight + self.arvalid < self.outstanding
        taken: Value = Const(0)
        accepts = []
        error_addresses = []
        for identifier, bursts, beats, depth in sources:
            fifo = PrefetchFifo(depth) if depth > 64 else SyncFIFO(width=128, depth=depth)
            name = "fetch" if identifier == ID_FETCH else "load"
            m.submodules[f"{name}_fifo"] = ResetInserter(self.drain)(fifo)
            free = Signal(range(depth + 1), init=depth, name=f"{name}_free")
            length = Signal(9, name=f"{name}_beats")
            accept = Signal(name=f"{name}_accept")
            fits = Signal(name=f"{name}_fits")
            # A load that fits was offered in the cycle before, and stays; END takes a fetch back.
            offered = bursts.valid if identifier == ID_FETCH else Const(1)
            m.d.comb += [
                length.eq(bursts.payload.length + 1),
                accept.eq(can_issue & fits & offered & ~taken),
                bursts.ready.eq(accept),
            ]
            # Long for a deep FIFO unless only as many bits are compared as a length has.
            room = free[8:].any() | (bursts.payload.length < free[:8])
            m.d.sync += fits.eq(bursts.valid & room & room_in_flight & ~any_accept & ~self.drain)
            taken = taken | accept
            accepts.append(accept)
            popped = beats.valid & beats.ready
            m.d.sync += free.eq(free - Mux(accept, length, 0) + popped)
            with m.If(self.drain):
                m.d.sync += free.eq(depth)
            with m.If(accept):
                m.d.sync += [
                    self.arvalid.eq(1),
                    self.arid.eq(identifier),
                    self.araddr.eq(bursts.payload.address),
                    self.arlen.eq(bursts.payload.length),
                ]
            mine = self.rvalid & (self.rid == identifier)
            m.d.comb += [
                fifo.w_data.eq(self.rdata),
                fifo.w_en.eq(mine & ~self.drain),
                beats.payload.eq(fifo.r_data),
                beats.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(beats.ready),
            ]
            # Addresses of the bursts in flight, for the error report.
            addresses = SyncFIFO(width=64, depth=self.outstanding + 1)
            m.submodules[f"{name}_addresses"] = addresses
            m.d.comb += [
                addresses.w_data.eq(bursts.payload.address),
                addresses.w_en.eq(accept),
                addresses.r_en.eq(mine & self.rlast),
            ]
            error_addresses.append((mine, addresses.r_data))
        m.d.comb += any_accept.eq(Cat(accepts).any())
        for mine, address in error_addresses:
            with m.If(mine & self.rresp[1]):
                m.d.comb += [self.error.eq(~self.drain), self.error_address.eq(address)]
        return m


class WriteMaster(wiring.Component):
    """Write half of port 0: takes whole bursts and finishes them whatever happens to the rest.

    A burst's beats must be in the FIFO before it is offered on ``i_burst`` (the engine does so), so
    W never waits for the core. ``written`` pulses per write response; ``error`` with
    ``error_address`` on one that is not OKAY.
    """

    def __init__(self, *, fifo_beats: int, outstanding: int) -> None:
        self.fifo_beats = fifo_beats
        self.outstanding = outstanding
        super().__init__(
            {
                "i_burst": In(stream.Signature(BURST)),
                "i_stream": In(stream.Signature(128)),
                "drain": In(1),
                "idle": Out(1),
                "written": Out(1),
                "error": Out(1),
                "error_address": Out(64),
                **members(WRITE_CHANNELS),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFO(width=128, depth=self.fifo_beats)
        m.submodules.lengths = lengths = SyncFIFO(width=8, depth=self.outstanding)
        m.submodules.current = current = StreamBuffer(8)  # length of the burst whose beats follow
        m.submodules.addresses = addresses = SyncFIFO(width=64, depth=self.outstanding + 1)
        in_flight = Signal(range(self.outstanding + 2), name="in_flight")
        beat = Signal(8, name="beat")

        m.d.comb += [
            self.awsize.eq(SIZE_16_BYTES),
            self.awburst.eq(1),
            self.awcache.eq(0b0011),
            self.wstrb.eq(0xFFFF),
            self.bready.eq(1),
            self.idle.eq((in_flight == 0) & ~fifo.r_rdy),
            fifo.w_data.eq(self.i_stream.payload),
            fifo.w_en.eq(self.i_stream.valid & ~self.drain),
            self.i_stream.ready.eq(fifo.w_rdy),
        ]

        # AW: one register; W follows from the FIFO in the order of the bursts.
        accept = self.i_burst.valid & self.i_burst.ready
        m.d.comb += self.i_burst.ready.eq(
            (~self.awvalid | self.awready)
            & ~self.drain
            & (in_flight < self.outstanding)
            & lengths.w_rdy
        )
        with m.If(self.awvalid & self.awready):
            m.d.sync += self.awvalid.eq(0)
        with m.If(accept):
            m.d.sync += [
                self.awvalid.eq(1),
                self.awaddr.eq(self.i_burst.payload.address),
                self.awlen.eq(self.i_burst.payload.length),
            ]
        m.d.comb += [
            lengths.w_data.eq(self.i_burst.payload.length),
            lengths.w_en.eq(accept),
            addresses.w_data.eq(self.i_burst.payload.address),
            addresses.w_en.eq(accept),
            addresses.r_en.eq(self.bvalid),
            current.i_stream.valid.eq(lengths.r_rdy),
            current.i_stream.payload.eq(lengths.r_data),
            lengths.r_en.eq(current.i_stream.ready),
            self.wvalid.eq(current.o_stream.valid),
            self.wdata.eq(fifo.r_data),
            self.wlast.eq(beat == current.o_stream.payload),
            current.o_stream.ready.eq(self.wready & self.wlast),
        ]
        with m.If(self.wvalid & self.wready):
            m.d.comb += fifo.r_en.eq(1)
            m.d.sync += beat.eq(Mux(self.wlast, 0, beat + 1))
        # Beats of bursts never offered are dropped once the bus is quiet.
        with m.If(self.drain & (in_flight == 0)):
            m.d.comb += fifo.r_en.eq(1)

        m.d.sync += in_flight.eq(in_flight + accept - self.bvalid)
        m.d.comb += [
            self.written.eq(self.bvalid),
            self.error.eq(self.bvalid & self.bresp[1] & ~self.drain),
            self.error_address.eq(addresses.r_data),
        ]
        return m


__all__ = [
    "BURST",
    "ID_FETCH",
    "ID_LOAD",
    "READ_CHANNELS",
    "WRITE_CHANNELS",
    "ReadMaster",
    "WriteMaster",
    "members",
]
