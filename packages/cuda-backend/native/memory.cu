// Device memory under a caching allocator: after the first training step no tensor costs a cudaMalloc. A block that is freed
// may be handed out at once, since all work goes through one stream: whoever uses it next comes later in that order.
//
// Scale blocks come in slabs; those given back are made new again many at a time, so that a tensor costs no launch.
//
// Host reads and writes go through pinned staging, so that a copy overlaps the host's next piece: two halves, each with an
// event that says when the device is done with it.
#include "../../fp8-kernels/native/memory.h"

#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "context.h"

namespace fp8lm::memory {
namespace {

constexpr size_t kStaging = size_t(4) << 20;
constexpr int kSlab = 1024;  // scale blocks

struct Pool {
  std::mutex mutex;
  std::unordered_map<size_t, std::vector<void*>> free;  // by rounded size
  /// Scale blocks: ready for use; given back, with whatever their last user left in them; where they lie.
  std::vector<float*> scales, returned, slabs;
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

/// Blocks of one slab that are to be as new: bit b of word w stands for block 32 w + b.
struct Returned {
  unsigned bits[kSlab / 32] = {};
};

static __global__ void scaleInitKernel(Ptr<float> slab, Returned returned) {
  for (int i = int(threadIdx.x); i < kSlab * kScaleBlock; i += int(blockDim.x)) {
    const int block = i / kScaleBlock, slot = i % kScaleBlock;
    if (returned.bits[block / 32] >> (block % 32) & 1u) slab[i] = slot == kScale || slot == kScaleInv ? 1.0f : 0.0f;
  }
}

/// Makes the blocks that were given back usable again, a slab a launch; a new slab where there are few of them.
static void refillScales(Pool& p) {
  if (p.returned.size() < kSlab / 4) {
    void* made = nullptr;
    const cudaError_t error = cudaMalloc(&made, kSlab * kScaleBlock * sizeof(float));
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw std::bad_alloc();
    }
    check(error, "cudaMalloc");
    p.slabs.push_back(static_cast<float*>(made));
    for (int i = 0; i < kSlab; i++) p.returned.push_back(p.slabs.back() + kScaleBlock * i);
  }
  std::map<float*, Returned> bySlab;
  for (float* const block : p.returned) {
    for (float* const slab : p.slabs) {
      const ptrdiff_t i = (block - slab) / kScaleBlock;
      if (block < slab || i >= kSlab) continue;
      bySlab[slab].bits[i / 32] |= 1u << (i % 32);
      break;
    }
  }
  for (const auto& [slab, blocks] : bySlab) launch("scale_init", scaleInitKernel, 1, 1024, rawPtr<float>(slab, kSlab * kScaleBlock, "scale blocks"), blocks);
  p.scales.swap(p.returned);
  p.returned.clear();
}

float* allocateScale() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  device();
  if (p.scales.empty()) refillScales(p);
  float* const block = p.scales.back();
  p.scales.pop_back();
  return block;
}

void releaseScale(float* block) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.returned.push_back(block);
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
