// Finds races by what orders two accesses, not by luck. For each element: its last write, and two of its reads since. Two
// accesses to it conflict when at least one is a plain write, or one is atomic and the other a plain write, they come from
// two threads, and nothing lies between: no barrier of the block, no meeting of the warp, no acquire of other blocks' work.
#include "races.h"

#include <unordered_map>

namespace fp8lm::sim {

namespace {

struct Stamp {
  int64_t epoch = -1, interval = 0, warpInterval = 0;
  int block = 0, thread = 0;
  bool atomic = false;
};

struct Cell {
  Stamp write, reads[2];
};

std::unordered_map<const void*, Cell> cells;
int64_t epoch = 0, interval = 0;
int64_t warpIntervals[32];
int currentBlock = 0;

/// True if nothing orders `before` before the access `now`.
bool unordered(const Stamp& before, const Stamp& now, bool shared) {
  if (before.epoch != now.epoch) return false;
  if (before.block != now.block) return !shared;
  if (before.thread == now.thread || before.interval != now.interval) return false;
  return before.thread / 32 != now.thread / 32 || before.warpInterval == now.warpInterval;
}

[[noreturn]] void race(const Stamp& before, const char* name, int64_t index, bool wrote, bool writes) {
  fail(std::string("race: ") + (writes ? "writes " : "reads ") + name + "[" + std::to_string(index) + "], which " +
       (before.block == currentBlock ? "thread " : "block " + std::to_string(before.block) + ", thread ") + std::to_string(before.thread) +
       (wrote ? " writes" : " reads") + " with no barrier between");
}

}  // namespace

void beginLaunch() {
  cells.clear();
  epoch++;
}
void beginBlock(int block) {
  currentBlock = block;
  interval++;
}
void nextInterval() { interval++; }
void nextWarpInterval(int warp) { warpIntervals[warp]++; }
void nextEpoch() { epoch++; }

void recordAccess(const void* address, Access kind, const char* name, int64_t index, int thread, bool shared) {
  Cell& c = cells[address];
  const Stamp now{epoch, interval, warpIntervals[thread / 32], currentBlock, thread, kind == Access::atomic};
  const bool writes = kind != Access::read;
  if (unordered(c.write, now, shared) && !(c.write.atomic && now.atomic)) race(c.write, name, index, true, writes);
  if (writes) {
    for (const Stamp& r : c.reads)
      if (unordered(r, now, shared) && !(r.atomic && now.atomic)) race(r, name, index, false, true);
    c.write = now;
  } else if (c.reads[0].epoch != now.epoch || c.reads[0].thread == thread || !unordered(c.reads[0], now, shared)) {
    c.reads[0] = now;
  } else {
    c.reads[1] = now;
  }
}

}  // namespace fp8lm::sim
