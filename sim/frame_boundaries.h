// SPDX-License-Identifier: Apache-2.0
// Layer boundaries of simulated frames: shadows of the watched banks, recorded when they are complete. Part of
// frame_harness.cpp.
#pragma once
#include "frame_memory.h"

namespace {

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

}  // namespace
