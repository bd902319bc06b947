// SPDX-License-Identifier: Apache-2.0
// Whole frames on the emitted top level: host (AXI4-Lite), external memory (AXI4), layer boundaries.
//
// One argument: a settings file of `key value` lines, written by frame.py. Files named there hold the memory
// image, the inputs and the table of boundaries; results go to the output folder named there. Each region of
// the memory ends where its window does. With `flips`, frame k runs with that bit of the memory image wrong,
// and an error is followed by a soft reset and the next frame. Built with tracing, it writes a window of one frame as
// a waveform and ends there. Standard output: lines `progress`, `frame`, `counters`, `completions`, `accepted`, and
// `stopped` before a failure within a frame. Exit status: 0 done, 3 protocol broken by the design, 4 no end in sight,
// 2 wrong settings. The status and cause registers are reported, not judged, here.
#include "frame_boundaries.h"
#include "frame_memory.h"

namespace {

class Bench {
 public:
  Bench(VerilatedContext& context, Vdut& dut, const Settings& settings, External& external)
      : context_(context),
        dut_(dut),
        memory_(dut, external, settings.number("latency"), settings.real("bandwidth")) {
    // Inputs hold random values at first, as everything does.
    dut_.s_axil_awvalid = dut_.s_axil_wvalid = dut_.s_axil_bready = 0;
    dut_.s_axil_arvalid = dut_.s_axil_rready = 0;
    dut_.clk = 0;
    dut_.rst = 1;
    // The host's inputs are defined before the reset ends; power-up content is random.
    dut_.s_axil_awvalid = dut_.s_axil_wvalid = dut_.s_axil_bready = 0;
    dut_.s_axil_arvalid = dut_.s_axil_rready = 0;
    for (int i = 0; i < 8; ++i) cycle();
    dut_.rst = 0;
    cycle();
  }

  void watch(Boundaries* boundaries) { boundaries_ = boundaries; }

#if VM_TRACE
  // Shows cycles first ... last of the frame that the next START begins; its cycle is the waveform's time 0.
  void show(VerilatedVcdC* vcd, uint64_t first, uint64_t last) {
    vcd_ = vcd;
    first_ = first;
    last_ = last;
    started_ = false;
  }

  bool shown() const { return vcd_ && started_ && now_ > origin_ + last_; }
#endif

  void cycle() {
    memory_.drive(now_);
#ifdef HWGEN_CLK2X  // rises with clk and half a cycle later
    dut_.clk2x = 0;
    dut_.eval();
    dut_.clk2x = 1;
#endif
    dut_.clk = 0;
    dut_.eval();
    axil_taken_ = (dut_.s_axil_awvalid && dut_.s_axil_awready ? 1 : 0) |
                  (dut_.s_axil_wvalid && dut_.s_axil_wready ? 2 : 0) |
                  (dut_.s_axil_bvalid && dut_.s_axil_bready ? 4 : 0) |
                  (dut_.s_axil_arvalid && dut_.s_axil_arready ? 8 : 0) |
                  (dut_.s_axil_rvalid && dut_.s_axil_rready ? 16 : 0);
#if VM_TRACE
    // START is the first write after show().
    if (vcd_ && !started_ && axil_taken_ & 2) {
      started_ = true;
      origin_ = now_;
    }
    dump(0);
#endif
    if (!dut_.rst) memory_.sample(now_);
    axil_data_ = dut_.s_axil_rdata;
    axil_response_ = axil_taken_ & 4 ? dut_.s_axil_bresp : dut_.s_axil_rresp;
    interrupt_ = dut_.__SYM__interrupt;  // "interrupt" is on Verilator's list of C++ words
    if (boundaries_) boundaries_->sample(now_);
#ifdef HWGEN_CLK2X
    dut_.clk2x = 0;
    dut_.eval();
    dut_.clk2x = 1;
#endif
    dut_.clk = 1;
    dut_.eval();
#if VM_TRACE
    dump(kHalfCycle);
#endif
    ++now_;
  }

  // Returns the cycle in which the design took the data.
  uint64_t write(unsigned offset, uint32_t value) {
    dut_.s_axil_awaddr = offset;
    dut_.s_axil_awprot = 0;
    dut_.s_axil_awvalid = 1;
    dut_.s_axil_wdata = value;
    dut_.s_axil_wstrb = 15;
    dut_.s_axil_wvalid = 1;
    dut_.s_axil_bready = 1;
    uint64_t taken = 0;
    for (int left = 1000; left > 0; --left) {
      const uint64_t here = now_;
      cycle();
      if (axil_taken_ & 1) dut_.s_axil_awvalid = 0;
      if (axil_taken_ & 2) {
        dut_.s_axil_wvalid = 0;
        taken = here;
      }
      if (axil_taken_ & 4) {
        dut_.s_axil_bready = 0;
        if (axil_response_) fail(3, "register 0x%x must accept a write; BRESP is %u", offset, axil_response_);
        return taken;
      }
    }
    fail(4, "register 0x%x must take a write within 1000 cycles", offset);
  }

  uint32_t read(unsigned offset) {
    dut_.s_axil_araddr = offset;
    dut_.s_axil_arprot = 0;
    dut_.s_axil_arvalid = 1;
    dut_.s_axil_rready = 1;
    for (int left = 1000; left > 0; --left) {
      cycle();
      if (axil_taken_ & 8) dut_.s_axil_arvalid = 0;
      if (axil_taken_ & 16) {
        dut_.s_axil_rready = 0;
        if (axil_response_) fail(3, "register 0x%x must be readable; RRESP is %u", offset, axil_response_);
        return axil_data_;
      }
    }
    fail(4, "register 0x%x must answer a read within 1000 cycles", offset);
  }

  bool interrupt() const { return interrupt_; }
  uint64_t now() const { return now_; }
  bool memory_idle() const { return memory_.idle(); }

 private:
  VerilatedContext& context_;
  Vdut& dut_;
  Memory memory_;
  Boundaries* boundaries_ = nullptr;
#if VM_TRACE
  // A cycle is a nanosecond of the waveform, in steps of 100 ps.
  static constexpr uint64_t kHalfCycle = 5;

  void dump(uint64_t within) {
    if (vcd_ && started_ && now_ >= origin_ + first_ && now_ <= origin_ + last_)
      vcd_->dump(2 * kHalfCycle * (now_ - origin_) + within);
  }

  VerilatedVcdC* vcd_ = nullptr;
  uint64_t first_ = 0, last_ = 0, origin_ = 0;
  bool started_ = false;
#endif
  uint64_t now_ = 0;
  unsigned axil_taken_ = 0, axil_response_ = 0;
  uint32_t axil_data_ = 0;
  bool interrupt_ = false;
};

void append(const std::string& path, const void* data, size_t bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::app);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  file.close();
  if (!file) fail(2, "file must be writable: %s", path.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) fail(2, "one argument: the settings file");
  const Settings settings(argv[1]);
  const uint64_t frames = settings.number("frames");
  const size_t input_bytes = settings.number("input_bytes");
  const size_t output_bytes = settings.number("output_bytes");
  const uint64_t max_cycles = settings.number("max_cycles");
  const uint64_t max_quiet_cycles = settings.number("max_quiet_cycles");
  std::vector<uint64_t> flips;
  std::istringstream bits(settings.text("flips"));
  for (uint64_t bit; bits >> bit;) flips.push_back(bit);
  const std::string out = settings.text("out");
  const std::vector<uint8_t> inputs = read_file(settings.text("inputs"));
  if (inputs.size() != frames * input_bytes) fail(2, "inputs must hold %zu bytes", frames * input_bytes);
  std::vector<unsigned> counters;
  std::istringstream offsets(settings.text("counter_offsets"));
  for (std::string offset; offsets >> offset;) counters.push_back(std::stoul(offset, nullptr, 0));

  auto context = std::make_unique<VerilatedContext>();
  context->randReset(2);  // no result may depend on what registers and memories hold at power-up
  context->randSeed(static_cast<int>(settings.number("seed") % 0x7fffffff) + 1);
#if VM_TRACE
  context->traceEverOn(true);
#endif
  auto dut = std::make_unique<Vdut>(context.get());
  External external;
  external.add("image", kImageBase, read_file(settings.text("image")), false);
  external.add("input", kInputBase, std::vector<uint8_t>(input_bytes), false);
  external.add("output", kOutputBase, std::vector<uint8_t>(output_bytes), true);
  for (const uint64_t bit : flips)
    if (bit / 8 >= external.regions[0].data.size()) fail(2, "the image has no bit %" PRIu64, bit);
  if (!flips.empty() && flips.size() != frames) fail(2, "flips must be one per frame");
  Bench bench(*context, *dut, settings, external);
  Boundaries boundaries(*context, settings);
#if VM_TRACE
  VerilatedVcdC vcd;
  dut->trace(&vcd, 99);
  vcd.set_time_unit("1ns");
  vcd.set_time_resolution("100ps");
  const uint64_t wave_frame = settings.number("wave_frame");
#endif

  // Register offsets come from the register table, by name.
  const auto reg = [&](const char* name) { return static_cast<unsigned>(settings.number(name)); };
  if (bench.read(reg("reg_IDENTITY")) != settings.number("identity"))
    fail(3, "IDENTITY must read 0x%" PRIx64, settings.number("identity"));
  const uint64_t build = bench.read(reg("reg_BUILD_LOW")) | uint64_t{bench.read(reg("reg_BUILD_HIGH"))} << 32;
  if (build != settings.number("build"))
    fail(3, "BUILD must read 0x%" PRIx64 ", not 0x%" PRIx64, settings.number("build"), build);
  bench.write(reg("reg_WATCHDOG"), settings.number("watchdog"));
  const char* const names[] = {"IMAGE", "INPUT", "OUTPUT"};
  for (size_t k = 0; k < external.regions.size(); ++k) {
    const Region& region = external.regions[k];
    const std::string name = std::string("reg_") + names[k];
    bench.write(reg((name + "_LOW").c_str()), static_cast<uint32_t>(region.base));
    bench.write(reg((name + "_HIGH").c_str()), static_cast<uint32_t>(region.base >> 32));
    bench.write(reg((name + "_SIZE").c_str()), static_cast<uint32_t>(region.data.size()));
  }
  bench.write(reg("reg_INTERRUPT_ENABLE"), 1);
  bench.watch(&boundaries);

  for (uint64_t frame = 0; frame < frames; ++frame) {
    const auto flip = [&] {
      if (!flips.empty()) external.regions[0].data[flips[frame] / 8] ^= 1 << flips[frame] % 8;
    };
    flip();
    std::memcpy(external.regions[1].data.data(), &inputs[frame * input_bytes], input_bytes);
    std::fill(external.regions[2].data.begin(), external.regions[2].data.end(), 0xa5);
    boundaries.start();
#if VM_TRACE
    if (frame == wave_frame) {
      vcd.open(settings.text("wave").c_str());
      bench.show(&vcd, settings.number("wave_first"), settings.number("wave_last"));
    }
#endif
    const uint64_t start = bench.write(reg("reg_CONTROL"), 1);
    at_failure = [&] {
      std::printf("stopped %" PRIu64 " %" PRIu64 "\n", frame, bench.now() - start);
#if VM_TRACE
      vcd.close();
#endif
    };
    uint64_t end = 0;
    while (!bench.interrupt()) {
      bench.cycle();
#if VM_TRACE
      if (bench.shown()) break;
#endif
      end = bench.now() - 1;
      const uint64_t cycles = end - start;
      if ((cycles & 0x3ffff) == 0) {
        std::printf("progress %" PRIu64 " %" PRIu64 "\n", frame, cycles);
        std::fflush(stdout);
      }
      if (cycles >= max_cycles) fail(4, "frame %" PRIu64 " must end within %" PRIu64 " cycles", frame, max_cycles);
      if (boundaries.has_counters() && end > std::max(boundaries.last_change(), start) + max_quiet_cycles)
        fail(4, "frame %" PRIu64 ": no instruction completed in %" PRIu64 " cycles (cycle %" PRIu64 ")", frame,
             max_quiet_cycles, cycles);
    }
#if VM_TRACE
    if (frame == wave_frame) break;  // the window ends with the frame at the latest
#endif
    const bool idle = bench.memory_idle();
    const uint32_t status = bench.read(reg("reg_STATUS"));
    const uint32_t cause = bench.read(reg("reg_CAUSE"));
    const uint64_t cause_address =
        bench.read(reg("reg_CAUSE_ADDRESS")) | uint64_t{bench.read(reg("reg_CAUSE_ADDRESS_HIGH"))} << 32;
    std::printf("frame %" PRIu64 " %" PRIu64 " %" PRIu64 " %u %u %" PRIu64 " %d\n", frame, start, end - start,
                status, cause, cause_address, idle);
    if (cause == 0) boundaries.finish();
    at_failure = nullptr;
    std::printf("counters");
    for (const unsigned offset : counters) std::printf(" %u", bench.read(offset));
    const auto print = [&](const char* name, const std::vector<std::vector<uint64_t>>& lists) {
      std::printf("\n%s", name);
      for (const auto& list : lists) {
        std::printf(" %zu", list.size());
        for (const uint64_t cycle : list) std::printf(" %" PRIu64, cycle - start);
      }
    };
    print("completions", boundaries.completions());
    print("accepted", boundaries.accepted());
    std::printf("\n");
    std::fflush(stdout);
    append(out + "/outputs", external.regions[2].data.data(), output_bytes);
    append(out + "/boundaries", boundaries.record().data(), boundaries.record().size());
    std::vector<uint64_t> written = boundaries.written();
    for (uint64_t& cycle : written) cycle -= std::min(cycle, start);
    append(out + "/written", written.data(), written.size() * sizeof(uint64_t));
    flip();
    if (cause != 0) {
      if (flips.empty()) break;
      bench.write(reg("reg_CONTROL"), 2);
      while (bench.read(reg("reg_STATUS")) & 8) {
      }
    }
    bench.write(reg("reg_INTERRUPT"), 1);
    if (bench.read(reg("reg_INTERRUPT")) & 1) fail(3, "INTERRUPT must clear when 1 is written");
  }
  at_failure = nullptr;
#if VM_TRACE
  vcd.close();
#endif
  dut->final();
  return 0;
}
