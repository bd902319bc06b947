// SPDX-License-Identifier: Apache-2.0
// The external memory of simulated frames: settings, regions, an AXI4 slave on every port. Part of frame_harness.cpp.
#pragma once
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

}  // namespace
