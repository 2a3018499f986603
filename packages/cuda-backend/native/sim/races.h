// Race mode's memory of who touched what; used by sim.cc.
#pragma once
#include "sim.h"

namespace fp8lm::sim {

/// A launch begins: all before it is ordered before it.
void beginLaunch();
void beginBlock(int block);
/// The block passed a barrier.
void nextInterval();
/// The lanes of a warp met.
void nextWarpInterval(int warp);
/// See acquire() in sim.h.
void nextEpoch();
/// @param shared the address lies in the block's shared memory, which the next block has again
void recordAccess(const void* address, Access kind, const char* name, int64_t index, int thread, bool shared);

}  // namespace fp8lm::sim
