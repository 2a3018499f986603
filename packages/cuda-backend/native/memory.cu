// Device memory under a caching allocator: after the first training step no tensor costs a cudaMalloc. A block that is freed
// may be handed out at once, since all work goes through one stream: whoever uses it next comes later in that order.
//
// Host reads and writes go through pinned staging, so that a copy overlaps the host's next piece: two halves, each with an
// event that says when the device is done with it.
#include "../../fp8-kernels/native/memory.h"

#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "context.h"

namespace fp8lm::memory {
namespace {

constexpr size_t kStaging = size_t(4) << 20;

struct Pool {
  std::mutex mutex;
  std::unordered_map<size_t, std::vector<void*>> free;  // by rounded size
  std::vector<float*> scales;
  Stats stats;
};

Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

size_t rounded(size_t bytes) {
  const size_t step = bytes >= (size_t(1) << 20) ? size_t(64) << 10 : 256;
  return bytes == 0 ? 256 : (bytes + step - 1) / step * step;
}

void trimLocked(Pool& p) {
  flushGraph();
  (void)cudaStreamSynchronize(stream());
  for (auto& [size, blocks] : p.free) {
    p.stats.reserved -= int64_t(size * blocks.size());
    for (void* b : blocks) (void)cudaFree(b);
  }
  p.free.clear();
}

/// Half of the staging buffer, free for the host to fill or read.
struct Staging {
  char* half[2] = {};
  cudaEvent_t done[2] = {};
  int next = 0;
  Staging() {
    for (int i = 0; i < 2; i++) {
      void* data = nullptr;
      check(cudaHostAlloc(&data, kStaging, cudaHostAllocDefault), "cudaHostAlloc");
      half[i] = static_cast<char*>(data);
      check(cudaEventCreateWithFlags(&done[i], cudaEventDisableTiming), "cudaEventCreate");
    }
  }
};

Staging& staging() {
  static Staging* s = new Staging;
  return *s;
}

}  // namespace

void* allocate(size_t bytes) {
  Pool& p = pool();
  const size_t size = rounded(bytes);
  std::lock_guard<std::mutex> lock(p.mutex);
  device();
  void* data = nullptr;
  auto& blocks = p.free[size];
  if (!blocks.empty()) {
    data = blocks.back();
    blocks.pop_back();
  } else {
    cudaError_t error = cudaMalloc(&data, size);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      trimLocked(p);
      error = cudaMalloc(&data, size);
    }
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw std::bad_alloc();
    }
    check(error, "cudaMalloc");
    p.stats.reserved += int64_t(size);
  }
  p.stats.live += int64_t(size);
  if (p.stats.live > p.stats.peak) p.stats.peak = p.stats.live;
  return data;
}

void release(void* data, size_t bytes) {
  Pool& p = pool();
  const size_t size = rounded(bytes);
  std::lock_guard<std::mutex> lock(p.mutex);
  p.free[size].push_back(data);
  p.stats.live -= int64_t(size);
}

static __global__ void scaleInitKernel(Ptr<float> block) {
  const int i = int(threadIdx.x);
  if (i < kScaleBlock) block[i] = i < 2 ? 1.0f : 0.0f;
}

float* allocateScale() {
  Pool& p = pool();
  float* block = nullptr;
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    if (p.scales.empty()) {
      constexpr int count = 1024;
      void* slab = nullptr;
      const cudaError_t error = cudaMalloc(&slab, count * kScaleBlock * sizeof(float));
      if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
      check(error, "cudaMalloc");
      for (int i = count - 1; i >= 0; i--) p.scales.push_back(static_cast<float*>(slab) + kScaleBlock * i);
    }
    block = p.scales.back();
    p.scales.pop_back();
  }
  launch("scale_init", scaleInitKernel, 1, 32, rawPtr<float>(block, kScaleBlock, "scale block"));
  return block;
}

void releaseScale(float* block) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.scales.push_back(block);
}

void copyIn(void* device, const void* host, size_t bytes) {
  flushGraph();
  Staging& s = staging();
  for (size_t at = 0; at < bytes; at += kStaging) {
    const size_t count = bytes - at < kStaging ? bytes - at : kStaging;
    const int i = s.next;
    s.next ^= 1;
    check(cudaEventSynchronize(s.done[i]), "cudaEventSynchronize");
    std::memcpy(s.half[i], static_cast<const char*>(host) + at, count);
    check(cudaMemcpyAsync(static_cast<char*>(device) + at, s.half[i], count, cudaMemcpyHostToDevice, stream()), "copy to the device");
    check(cudaEventRecord(s.done[i], stream()), "cudaEventRecord");
  }
}

void copyOut(void* host, const void* device, size_t bytes) {
  flushGraph();
  Staging& s = staging();
  const auto countAt = [&](size_t at) { return bytes - at < kStaging ? bytes - at : kStaging; };
  // The device fills one half while the host empties the other.
  const auto begin = [&](size_t at, int i) {
    check(cudaEventSynchronize(s.done[i]), "cudaEventSynchronize");
    check(cudaMemcpyAsync(s.half[i], static_cast<const char*>(device) + at, countAt(at), cudaMemcpyDeviceToHost, stream()), "copy from the device");
    check(cudaEventRecord(s.done[i], stream()), "cudaEventRecord");
  };
  if (bytes) begin(0, 0);
  int i = 0;
  for (size_t at = 0; at < bytes; at += kStaging, i ^= 1) {
    if (at + kStaging < bytes) begin(at + kStaging, i ^ 1);
    check(cudaEventSynchronize(s.done[i]), "a kernel, or the copy from the device");
    std::memcpy(static_cast<char*>(host) + at, s.half[i], countAt(at));
  }
}

void copy(void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  flushGraph();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copy on the device");
}

void synchronize() {
  flushGraph();
  check(cudaStreamSynchronize(stream()), "a kernel");
}

Stats stats() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.stats;
}

void resetPeak() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.stats.peak = p.stats.live;
}

void trim() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  trimLocked(p);
}

}  // namespace fp8lm::memory
