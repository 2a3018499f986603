// What ranks on one machine see of each other: one block of shared memory a rank, written by that rank alone and mapped read
// only by the others, so that no rank can damage another's memory, whatever it does. Signals are counters that only grow; who
// sleeps on a rank says so in its own block, and the rank wakes it through a futex on a word of its block.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fp8lm::lane {

constexpr uint64_t kMagic = 0x31304e414c384600ull;  // "F8LAN01"
constexpr int kEntries = 8;                         // collectives of a group that may be announced at once
constexpr int kWindow = 4;                          // rounds of a large collective in flight
constexpr int kMaxScales = 4096;
constexpr int64_t kEagerBytes = 64 << 10, kPartBytes = 2 << 20, kResultBytes = 1 << 20;
constexpr int kMaxChannels = 64, kMaxMembers = 64;
constexpr int kHeadBytes = 28;

/// One announced collective: the head is a descriptor as engine/descriptor.ts writes it, the body scales and small data.
struct Entry {
  std::atomic<uint64_t> seq;  // written last
  uint64_t headCheck, bodyCheck;
  unsigned char head[kHeadBytes];
  alignas(64) char body[4 * kMaxScales + kEagerBytes];
};

/// A rank's side of one group. The counters count rounds over all collectives of the group.
struct ChannelBlock {
  alignas(64) std::atomic<uint64_t> done;     // collectives finished: their entries are read no more
  alignas(64) std::atomic<uint64_t> given;    // rounds of parts written for the others
  alignas(64) std::atomic<uint64_t> used;     // rounds of the others' parts read
  alignas(64) std::atomic<uint64_t> results;  // rounds of results written
  alignas(64) std::atomic<uint64_t> taken;    // rounds of the others' results read
  alignas(64) Entry entries[kEntries];
  alignas(4096) char parts[kPartBytes];
  alignas(4096) char outcome[kResultBytes];
};

struct Block {
  uint64_t magic;
  alignas(64) std::atomic<uint32_t> activity;         // changes with everything published here; others sleep on it
  /// By thread (caller, helper): bit r % 64 for each rank r slept on; and for those slept on until they finish something.
  alignas(64) std::atomic<uint64_t> sleepsOn[2], awaitsDone[2];
  alignas(4096) ChannelBlock channels[kMaxChannels];  // pages come into being when touched
};

/// Order-sensitive sum of bytes, eight lanes wide: finds torn, early and misplaced reads at memory speed.
inline uint64_t checkOf(const void* data, size_t bytes, uint64_t start = 0) {
  const char* p = static_cast<const char*>(data);
  uint64_t a[8] = {start, 1, 2, 3, 4, 5, 6, 7}, b[8] = {bytes};
  for (; bytes >= 64; bytes -= 64, p += 64) {
    uint64_t w[8];
    memcpy(w, p, 64);
    for (int l = 0; l < 8; l++) b[l] += a[l] += w[l];
  }
  uint64_t w[8] = {};
  memcpy(w, p, bytes);
  uint64_t sum = 0;
  for (int l = 0; l < 8; l++) {
    b[l] += a[l] += w[l];
    sum = (sum ^ a[l]) * 0x9e3779b97f4a7c15ull + b[l];
  }
  return sum;
}

}  // namespace fp8lm::lane
