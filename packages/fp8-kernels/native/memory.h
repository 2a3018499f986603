// Device memory, as the shared glue (addon.h) sees it: each backend implements these functions once.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fp8lm::memory {

struct Stats {
  int64_t live = 0;      // bytes handed out
  int64_t peak = 0;      // largest `live` since resetPeak
  int64_t reserved = 0;  // bytes held from the system, free blocks included
};

/// At least `bytes` bytes aligned to 64; throws std::bad_alloc when the device has no more.
void* allocate(size_t bytes);
void release(void* data, size_t bytes);
/// A scale block (four floats) in device memory, set to [1, 1, 0, 0].
float* allocateScale();
void releaseScale(float* block);

void copyIn(void* device, const void* host, size_t bytes);
void copyOut(void* host, const void* device, size_t bytes);
void copy(void* to, const void* from, size_t bytes);
void synchronize();

Stats stats();
void resetPeak();
/// Returns free cached blocks to the system.
void trim();

}  // namespace fp8lm::memory
