// Device memory under a caching allocator. A block that is freed may be handed out at once, since all work goes through one
// stream: whoever uses it next comes later in that order.
//
// Scale blocks come in slabs; those given back are made new again many at a time, so that a tensor costs no launch.
//
// Host reads and writes go through pinned staging, so that a copy overlaps the host's next piece: two halves, each with an
// event that says when the device is done with it.
#include "../../fp8-kernels/native/memory.h"

#include <cstring>
#include <map>

#include "../../fp8-kernels/native/pool.h"
#include "context.h"

namespace fp8lm::memory {
namespace {

constexpr size_t kStaging = size_t(4) << 20;
constexpr int kSlab = 1024;  // scale blocks

/// Blocks of one slab that are to be as new: bit b of word w stands for block 32 w + b.
struct Returned {
  unsigned bits[kSlab / 32] = {};
};

__global__ void scaleInitKernel(Ptr<float> slab, Returned returned) {
  beginKernel();
  for (int i = int(threadIdx.x); i < kSlab * kScaleBlock; i += int(blockDim.x)) {
    const int block = i / kScaleBlock, slot = i % kScaleBlock;
    if (returned.bits[block / 32] >> (block % 32) & 1u) slab[i] = slot == kScale || slot == kScaleInv ? 1.0f : 0.0f;
  }
}

struct Device {
  static size_t rounded(size_t bytes) {
    const size_t step = bytes >= (size_t(1) << 20) ? size_t(64) << 10 : 256;
    return bytes == 0 ? 256 : (bytes + step - 1) / step * step;
  }

  static void* take(size_t size) {
    device();
    void* block = nullptr;
    const cudaError_t error = cudaMalloc(&block, size);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      return nullptr;
    }
    check(error, "cudaMalloc");
    return block;
  }

  static void beforeGiving() {
    flushGraph();
    (void)cudaStreamSynchronize(stream());
  }

  static void give(void* block, size_t) { (void)cudaFree(block); }
  static bool isIdle(const Stats&) { return false; }

  /// A slab a launch.
  static void renew(std::vector<float*>& scales) {
    static auto& slabs = *new std::vector<float*>;
    if (scales.size() < kSlab / 4) {
      void* const slab = take(kSlab * kScaleBlock * sizeof(float));
      if (!slab) throw std::bad_alloc();
      slabs.push_back(static_cast<float*>(slab));
      for (int i = 0; i < kSlab; i++) scales.push_back(slabs.back() + kScaleBlock * i);
    }
    std::map<float*, Returned> bySlab;
    for (float* const block : scales) {
      for (float* const slab : slabs) {
        const ptrdiff_t i = (block - slab) / kScaleBlock;
        if (block < slab || i >= kSlab) continue;
        bySlab[slab].bits[i / 32] |= 1u << (i % 32);
        break;
      }
    }
    for (const auto& [slab, blocks] : bySlab) launch("scale_init", scaleInitKernel, 1, 1024, rawPtr<float>(slab, kSlab * kScaleBlock, "scale blocks"), blocks);
  }
};

Pool<Device>& pool() {
  static auto* p = new Pool<Device>;
  return *p;
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

void* allocate(size_t bytes) { return pool().allocate(bytes); }
void release(void* data, size_t bytes) { pool().release(data, bytes); }

float* allocateScale() { return pool().allocateScale(); }
void releaseScale(float* block) { pool().releaseScale(block); }

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

Stats stats() { return pool().stats(); }
void resetPeak() { pool().resetPeak(); }
void trim() { pool().trim(); }

}  // namespace fp8lm::memory
