// Counts what was checked and what differed, and keeps the first difference in words.
#pragma once
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

namespace oracle {

struct Tally {
  std::string name = {}, against = {};
  uint64_t checked = 0, differences = 0;
  std::string first = {};  // the first difference

  void compare(uint32_t input, uint32_t ours, uint32_t expected) {
    if (ours == expected) return;
    if (!differences++) {
      char text[96];
      snprintf(text, sizeof text, "input 0x%08x gave 0x%x, expected 0x%x", input, ours, expected);
      first = text;
    }
  }

  void add(const Tally& other) {
    if (first.empty()) first = other.first;
    checked += other.checked;
    differences += other.differences;
  }
};

}  // namespace oracle
