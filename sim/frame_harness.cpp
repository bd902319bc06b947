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
#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "Vdut.h"
#include "verilated.h"
#include "verilated_sym_props.h"
#include "verilated_syms.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr uint64_t kImageBase = 0x1'0000'0000;  // above 4 GiB: the upper address bits count
constexpr uint64_t kInputBase = 0x2'4000'0000;
constexpr uint64_t kOutputBase = 0x3'8000'0000;
constexpr uint64_t kPage = 4096;
constexpr size_t kBeat = 16;
constexpr size_t kQueuedBursts = 64;

// What is left to do before a failure ends the process.
std::function<void()> at_failure;

[[noreturn]] void fail(int status, const char* format, ...) {
  if (const auto last = std::exchange(at_failure, nullptr)) last();
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::fflush(nullptr);
  std::_Exit(status);
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(2, "file must be readable: %s", path.c_str());
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Settings {
  std::map<std::string, std::string> values;
  explicit Settings(const char* path) {
    std::ifstream file(path);
    if (!file) fail(2, "settings must be readable: %s", path);
    std::string line;
    while (std::getline(file, line)) {
      const size_t space = line.find(' ');
      if (space != std::string::npos) values[line.substr(0, space)] = line.substr(space + 1);
    }
  }
  const std::string& text(const char* key) const {
    const auto found = values.find(key);
    if (found == values.end()) fail(2, "settings must name %s", key);
    return found->second;
  }
  uint64_t number(const char* key) const { return std::strtoull(text(key).c_str(), nullptr, 0); }
  double real(const char* key) const { return std::strtod(text(key).c_str(), nullptr); }
};

// --- External memory -----------------------------------------------------------------------------

struct Region {
  const char* name;
  uint64_t base;
  std::vector<uint8_t> data;  // all that may be touched, its window
  bool writable;
};

class External {
 public:
  std::vector<Region> regions;

  void add(const char* name, uint64_t base, std::vector<uint8_t> data, bool writable) {
    regions.push_back({name, base, std::move(data), writable});
  }

  uint8_t* find(uint64_t address, bool write, unsigned port) {
    for (Region& region : regions) {
      if (address >= region.base && address + kBeat <= region.base + region.data.size() &&
          (!write || region.writable))
        return &region.data[address - region.base];
    }
    fail(3, "port %u %s address 0x%" PRIx64 ", which is in no region of the memory", port,
         write ? "writes" : "reads", address);
  }
};

struct Burst {
  uint64_t address;
  unsigned beats;
  unsigned id;
  uint64_t ready;  // first cycle in which data may be on offer
};

struct ReadSignals {
  CData &arvalid, &arready, &arid;
  QData& araddr;
  CData &arlen, &arsize, &arburst;
  CData &rvalid, &rready, &rid;
  VlWide<4>& rdata;
  CData &rresp, &rlast;
};

#define HWGEN_READ_SIGNALS(dut, p)                                                          \
  ReadSignals {                                                                             \
    dut.m_axi##p##_arvalid, dut.m_axi##p##_arready, dut.m_axi##p##_arid,                    \
        dut.m_axi##p##_araddr, dut.m_axi##p##_arlen, dut.m_axi##p##_arsize,                 \
        dut.m_axi##p##_arburst, dut.m_axi##p##_rvalid, dut.m_axi##p##_rready,               \
        dut.m_axi##p##_rid, dut.m_axi##p##_rdata, dut.m_axi##p##_rresp, dut.m_axi##p##_rlast \
  }

void check_burst(const char* channel, unsigned port, uint64_t address, unsigned length, unsigned size,
                 unsigned burst) {
  const uint64_t bytes = (length + 1) * kBeat;
  if (size != 4 || burst != 1 || address % kBeat || address / kPage != (address + bytes - 1) / kPage)
    fail(3,
         "port %u %s must be an aligned incrementing burst of 16-byte beats within 4 KiB: address 0x%" PRIx64
         " length %u size %u burst %u",
         port, channel, address, length, size, burst);
}

// AXI4 slave on every port: latency from the accepted address to the first beat, bandwidth summed over ports and
// directions as a token bucket, several outstanding bursts per port, in order.
class Memory {
 public:
  Memory(Vdut& dut, External& external, uint64_t latency, double bandwidth)
      : dut_(dut), external_(external), latency_(latency), bandwidth_(bandwidth) {
    reads_.push_back(HWGEN_READ_SIGNALS(dut, 0));
#if HWGEN_PORTS > 1
    reads_.push_back(HWGEN_READ_SIGNALS(dut, 1));
#endif
#if HWGEN_PORTS > 2
    reads_.push_back(HWGEN_READ_SIGNALS(dut, 2));
#endif
#if HWGEN_PORTS > 3
    reads_.push_back(HWGEN_READ_SIGNALS(dut, 3));
#endif
#if HWGEN_PORTS > 4
    reads_.push_back(HWGEN_READ_SIGNALS(dut, 4));
#endif
#if HWGEN_PORTS > 5
    reads_.push_back(HWGEN_READ_SIGNALS(dut, 5));
#endif
    queues_.resize(reads_.size());
    last_address_.resize(reads_.size(), ~0ull);
    // Enough to pass one cycle's worth on, not enough to save up an idle time.
    bucket_ = bandwidth + kBeat * (reads_.size() + 1);
  }

  // Sets the inputs of the cycle `now`; they depend on the state only, never on the design's outputs.
  void drive(uint64_t now) {
    tokens_ = std::min(tokens_ + bandwidth_, bucket_);
    // The write channel first in every second cycle, so that neither direction starves.
    if (now & 1) drive_write();
    for (size_t k = 0; k < reads_.size(); ++k) drive_read((now + k) % reads_.size(), now);
    if (!(now & 1)) drive_write();
    dut_.m_axi0_awready = writes_.size() < kQueuedBursts;
    dut_.m_axi0_bvalid = !responses_.empty() && responses_.front().ready <= now;
    dut_.m_axi0_bid = responses_.empty() ? 0 : responses_.front().id;
    dut_.m_axi0_bresp = 0;
  }

  // Looks at the outputs of the cycle `now`, before its rising edge.
  void sample(uint64_t now) {
    for (size_t p = 0; p < reads_.size(); ++p) {
      ReadSignals& s = reads_[p];
      if (last_address_[p] != ~0ull && (!s.arvalid || s.araddr != last_address_[p]))
        fail(3, "port %zu withdrew or changed a read address before it was taken", p);
      last_address_[p] = s.arvalid && !s.arready ? s.araddr : ~0ull;
      if (s.arvalid && s.arready) {
        check_burst("AR", p, s.araddr, s.arlen, s.arsize, s.arburst);
        queues_[p].push_back({s.araddr, s.arlen + 1u, s.arid, now + latency_});
      }
      if (s.rvalid && s.rready) {
        offered_ &= ~(1u << p);
        Burst& burst = queues_[p].front();
        burst.address += kBeat;
        if (--burst.beats == 0) queues_[p].pop_front();
      }
    }
    if (dut_.m_axi0_wvalid && dut_.m_axi0_wready) {
      Burst& burst = writes_.front();
      uint8_t* target = external_.find(burst.address, true, 0);
      for (size_t i = 0; i < kBeat; ++i)
        if (dut_.m_axi0_wstrb >> i & 1) target[i] = byte_of(dut_.m_axi0_wdata, i);
      burst.address += kBeat;
      write_granted_ = false;
      if (--burst.beats == 0) {
        if (!dut_.m_axi0_wlast) fail(3, "port 0 must assert WLAST on the last beat of a burst");
        responses_.push_back({0, 0, burst.id, now + latency_});
        writes_.pop_front();
      } else if (dut_.m_axi0_wlast) {
        fail(3, "port 0 must assert WLAST on the last beat of a burst only");
      }
    }
    if (dut_.m_axi0_awvalid && dut_.m_axi0_awready) {
      check_burst("AW", 0, dut_.m_axi0_awaddr, dut_.m_axi0_awlen, dut_.m_axi0_awsize, dut_.m_axi0_awburst);
      writes_.push_back({dut_.m_axi0_awaddr, dut_.m_axi0_awlen + 1u, dut_.m_axi0_awid, 0});
    }
    if (dut_.m_axi0_bvalid && dut_.m_axi0_bready) responses_.pop_front();
  }

  bool idle() const {
    if (!writes_.empty() || !responses_.empty()) return false;
    for (const auto& queue : queues_)
      if (!queue.empty()) return false;
    return true;
  }

 private:
  static uint8_t byte_of(const VlWide<4>& word, size_t i) { return word[i / 4] >> (8 * (i % 4)) & 0xff; }

  void drive_read(size_t p, uint64_t now) {
    ReadSignals& s = reads_[p];
    s.arready = queues_[p].size() < kQueuedBursts;
    if (!(offered_ >> p & 1) && !queues_[p].empty() && queues_[p].front().ready <= now &&
        tokens_ >= kBeat) {
      tokens_ -= kBeat;
      offered_ |= 1u << p;
      const Burst& burst = queues_[p].front();
      std::memcpy(&s.rdata, external_.find(burst.address, false, p), kBeat);
      s.rid = burst.id;
      s.rresp = 0;
      s.rlast = burst.beats == 1;
    }
    s.rvalid = offered_ >> p & 1;
  }

  void drive_write() {
    if (!write_granted_ && !writes_.empty() && tokens_ >= kBeat) {
      tokens_ -= kBeat;
      write_granted_ = true;
    }
    dut_.m_axi0_wready = write_granted_;
  }

  Vdut& dut_;
  External& external_;
  const uint64_t latency_;
  const double bandwidth_;
  double tokens_ = 0, bucket_ = 0;
  std::vector<ReadSignals> reads_;
  std::vector<std::deque<Burst>> queues_;
  std::vector<uint64_t> last_address_;
  std::deque<Burst> writes_, responses_;
  uint32_t offered_ = 0;
  bool write_granted_ = false;
};

// --- Layer boundaries ----------------------------------------------------------------------------

// A signal made readable by the build's control file.
struct Probe {
  const uint8_t* data = nullptr;
  size_t bytes = 0;  // of the container, at most 8
  uint64_t value() const {
    uint64_t result = 0;
    std::memcpy(&result, data, bytes);
    return result;
  }
};

struct BankProbe {
  Probe enable, address, data;
  size_t bytes = 0;               // of a word
  std::vector<uint8_t> words;     // shadow of the bank
  std::vector<uint64_t> written;  // cycle in which each word was last written, 0 before
};

// One contiguous piece of a tensor and when it is complete.
struct Part {
  unsigned engine;
  uint64_t count;
  uint64_t base, stride, first, tokens, slices;
  size_t offset;  // into the frame's record
  size_t word;    // of its first among all words recorded
};

class Boundaries {
 public:
  Boundaries(VerilatedContext& context, const Settings& settings)
      : delay_(settings.number("snapshot_delay")) {
    std::vector<uint64_t> bank_words;
    std::istringstream sizes(settings.text("bank_words"));
    for (uint64_t words; sizes >> words;) bank_words.push_back(words);
    std::istringstream widths(settings.text("bank_bytes"));
    banks_.resize(bank_words.size());
    std::istringstream names(settings.text("counters"));
    for (std::string name; names >> name;) counters_.push_back(find(context, name, ~0u));
    std::istringstream offers(settings.text("offers"));
    for (std::string name; offers >> name;) offers_.push_back(find(context, name, ~0u));
    for (size_t b = 0; b < banks_.size(); ++b) {
      if (!(widths >> banks_[b].bytes)) fail(2, "bank %zu must have a width", b);
      banks_[b].words.assign(bank_words[b] * banks_[b].bytes, 0xa5);
      banks_[b].written.resize(bank_words[b]);
      banks_[b].enable = find(context, settings.text("bank_enable"), b);
      banks_[b].address = find(context, settings.text("bank_address"), b);
      banks_[b].data = find(context, settings.text("bank_data"), b);
    }
    parts_.resize(counters_.size());
    std::ifstream table(settings.text("parts"));
    for (Part part; table >> part.engine >> part.count >> part.base >> part.stride >> part.first >>
                    part.tokens >> part.slices;) {
      part.offset = record_bytes_;
      part.word = record_words_;
      record_words_ += part.tokens * part.slices;
      record_bytes_ += part.tokens * part.slices * bank_of(part.base + part.first).bytes;
      if (part.engine >= parts_.size()) fail(2, "boundary names engine %u, which has no counter", part.engine);
      parts_[part.engine].push_back(part);
    }
    for (auto& list : parts_)
      std::stable_sort(list.begin(), list.end(), [](const Part& a, const Part& b) { return a.count < b.count; });
    record_.resize(record_bytes_);
    written_.resize(record_words_);
    start();
  }

  void start() {
    next_.assign(counters_.size(), 0);
    last_.assign(counters_.size(), ~0ull);
    completions_.assign(counters_.size(), {});
    accepted_.assign(offers_.size(), {});
    offered_.assign(offers_.size(), false);
    for (BankProbe& bank : banks_) std::fill(bank.written.begin(), bank.written.end(), 0);
    std::fill(written_.begin(), written_.end(), 0);
    std::fill(record_.begin(), record_.end(), 0);
    due_.clear();
    last_change_ = 0;
    armed_.assign(counters_.size(), false);
  }

  // Before the rising edge of each cycle: writes first, then counters, so that a write and the completion that
  // becomes visible in the same cycle are both seen.
  void sample(uint64_t cycle) {
    for (BankProbe& bank : banks_) watch(bank, cycle);
    // An offer ends in the cycle after the engine has taken the instruction, and for no other reason.
    for (size_t e = 0; e < offers_.size(); ++e) {
      const bool offered = offers_[e].value() != 0;
      if (offered_[e] && !offered) accepted_[e].push_back(cycle - 1);
      offered_[e] = offered;
    }
    for (size_t e = 0; e < counters_.size(); ++e) {
      const uint64_t count = counters_[e].value();
      if (count == last_[e]) continue;
      if (!armed_[e]) {  // START clears the counters; until then they show the last frame
        if (count != 0) continue;
        armed_[e] = true;
        last_[e] = 0;
        continue;
      }
      for (uint64_t k = last_[e]; k < count; ++k) completions_[e].push_back(cycle);
      last_[e] = count;
      last_change_ = cycle;
      for (; next_[e] < parts_[e].size() && parts_[e][next_[e]].count <= count; ++next_[e])
        due_.push_back({cycle + delay_, &parts_[e][next_[e]]});
    }
    while (!due_.empty() && due_.front().first <= cycle) {
      copy(*due_.front().second);
      due_.pop_front();
    }
  }

  // What is still due when the frame has ended; parts whose count was never reached are an error.
  void finish() {
    for (auto& [when, part] : due_) copy(*part);
    due_.clear();
    for (size_t e = 0; e < parts_.size(); ++e)
      if (next_[e] != parts_[e].size())
        fail(3, "engine %zu completed %" PRIu64 " instructions; a layer boundary waits for %" PRIu64, e,
             last_[e], parts_[e][next_[e]].count);
  }

  bool has_counters() const { return !counters_.empty(); }
  uint64_t last_change() const { return last_change_; }
  const std::vector<uint8_t>& record() const { return record_; }
  const std::vector<uint64_t>& written() const { return written_; }
  const std::vector<std::vector<uint64_t>>& completions() const { return completions_; }
  const std::vector<std::vector<uint64_t>>& accepted() const { return accepted_; }

 private:
  // A variable by name; with a bank number, in the scope whose name ends with that number.
  static Probe find(VerilatedContext& context, const std::string& name, unsigned bank) {
    const VerilatedScopeNameMap* const scopes = context.scopeNameMap();
    for (const auto& [scope_name, scope] : *scopes) {
      const VerilatedVar* const variable = scope->varFind(name.c_str());
      if (!variable) continue;
      if (bank != ~0u) {
        const std::string path = scope_name;
        size_t digits = path.size();
        while (digits > 0 && std::isdigit(static_cast<unsigned char>(path[digits - 1]))) --digits;
        if (digits == path.size() || std::stoul(path.substr(digits)) != bank) continue;
      }
      return {static_cast<const uint8_t*>(variable->datap()), std::min<size_t>(variable->entSize(), 8)};
    }
    fail(2, "the design must have a signal %s%s%s", name.c_str(), bank == ~0u ? "" : " in bank ",
         bank == ~0u ? "" : std::to_string(bank).c_str());
  }

  void watch(BankProbe& bank, uint64_t cycle) {
    const uint8_t* const enable = bank.enable.data;
    const size_t groups = (bank.bytes + 7) / 8;
    bool any = false;
    for (size_t i = 0; i < groups; ++i) any |= enable[i] != 0;
    if (!any) return;
    const uint64_t address = bank.address.value();
    if ((address + 1) * bank.bytes > bank.words.size())
      fail(3, "bank word %" PRIu64 " is written, but the bank has %zu", address, bank.words.size() / bank.bytes);
    uint8_t* const word = &bank.words[address * bank.bytes];
    for (size_t i = 0; i < bank.bytes; ++i)
      if (enable[i / 8] >> (i % 8) & 1) word[i] = bank.data.data[i];
    bank.written[address] = cycle;
  }

  BankProbe& bank_of(uint64_t word) {
    if (word >> 17 >= banks_.size()) fail(2, "boundary word 0x%" PRIx64 " lies outside the banks", word);
    return banks_[word >> 17];
  }

  void copy(const Part& part) {
    uint8_t* target = &record_[part.offset];
    uint64_t* written = &written_[part.word];
    for (uint64_t slice = 0; slice < part.slices; ++slice) {
      for (uint64_t token = 0; token < part.tokens; ++token) {
        const uint64_t word = part.base + slice * part.stride + part.first + token;
        const uint64_t offset = word & 0x1ffff;
        const BankProbe& bank = bank_of(word);
        if ((offset + 1) * bank.bytes > bank.words.size())
          fail(2, "boundary word 0x%" PRIx64 " lies outside the banks", word);
        std::memcpy(target, &bank.words[offset * bank.bytes], bank.bytes);
        target += bank.bytes;
        *written++ = bank.written[offset];
      }
    }
  }

  uint64_t delay_;
  std::vector<Probe> counters_;  // completed instructions of each engine
  std::vector<Probe> offers_;    // an instruction is on offer to each engine
  std::vector<BankProbe> banks_;
  std::vector<std::vector<Part>> parts_;
  std::vector<size_t> next_;
  std::vector<uint64_t> last_;
  std::vector<std::vector<uint64_t>> completions_, accepted_;
  std::vector<bool> offered_;
  std::deque<std::pair<uint64_t, const Part*>> due_;
  std::vector<uint8_t> record_;
  std::vector<uint64_t> written_;  // of every word of the record
  size_t record_bytes_ = 0, record_words_ = 0;
  uint64_t last_change_ = 0;
  std::vector<bool> armed_;
};

// --- Host ----------------------------------------------------------------------------------------

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
