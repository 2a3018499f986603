// Host memory under a caching allocator: after the first training step every tensor comes from a free list of its own size,
// so a step calls neither malloc nor the kernel. Blocks from 2 MiB on are huge-page aligned and ask for huge pages, which
// the GEMM's strided reads need. FP8_GUARD=1 puts a 64-byte guard after each tensor and checks it when the tensor is freed.
#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fp8lm::memory {
namespace {

constexpr size_t kHuge = size_t(2) << 20, kMapped = size_t(256) << 10, kGuard = 64;
constexpr unsigned char kGuardByte = 0xa5;

struct Pool {
  std::mutex mutex;
  std::unordered_map<size_t, std::vector<void*>> free;  // by rounded size
  std::vector<float*> scales;
  Stats stats;
  const bool guard = [] {
    const char* v = std::getenv("FP8_GUARD");
    return v && *v == '1';
  }();
};

Pool& pool() {
  static Pool* p = new Pool;  // never destroyed: worker threads may free at exit
  return *p;
}

size_t rounded(size_t bytes) {
  const size_t step = bytes >= 65536 ? 4096 : 64;
  bytes += pool().guard ? kGuard : 0;
  return bytes == 0 ? 64 : (bytes + step - 1) / step * step;
}

/// Blocks from kMapped on are mapped one by one, so that trim really returns them: malloc would keep what lies below a
/// block still in use. From 2 MiB on they are huge-page aligned.
void* fromSystem(size_t size) {
#if defined(__linux__)
  if (size >= kMapped) {
    const size_t slack = size >= kHuge ? kHuge : 0;
    void* const base = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    char* data = static_cast<char*>(base);
    if (slack) {
      const size_t head = (kHuge - reinterpret_cast<uintptr_t>(data) % kHuge) % kHuge;
      if (head) munmap(data, head);
      data += head;
      if (slack - head) munmap(data + size, slack - head);
      madvise(data, size, MADV_HUGEPAGE);
    }
    return data;
  }
#endif
  return std::aligned_alloc(64, size);
}

void toSystem(void* data, size_t size) {
#if defined(__linux__)
  if (size >= kMapped) {
    munmap(data, size);
    return;
  }
#endif
  std::free(data);
}

void trimLocked(Pool& p) {
  for (auto& [size, blocks] : p.free) {
    p.stats.reserved -= int64_t(size * blocks.size());
    for (void* b : blocks) toSystem(b, size);
  }
  p.free.clear();
}

}  // namespace

void* allocate(size_t bytes) {
  Pool& p = pool();
  const size_t size = rounded(bytes);
  std::lock_guard<std::mutex> lock(p.mutex);
  void* data = nullptr;
  auto& blocks = p.free[size];
  if (!blocks.empty()) {
    data = blocks.back();
    blocks.pop_back();
  } else {
    // A new size while much lies idle (another batch size, an evaluation): give the idle blocks back first.
    const int64_t idle = p.stats.reserved - p.stats.live;
    if (idle > (int64_t(256) << 20) && idle > p.stats.live / 2) trimLocked(p);
    data = fromSystem(size);
    if (!data) {
      trimLocked(p);
      data = fromSystem(size);
    }
    if (!data) throw std::bad_alloc();
    p.stats.reserved += int64_t(size);
  }
  p.stats.live += int64_t(size);
  if (p.stats.live > p.stats.peak) p.stats.peak = p.stats.live;
  if (p.guard) std::memset(static_cast<char*>(data) + bytes, kGuardByte, kGuard);
  return data;
}

void release(void* data, size_t bytes) {
  Pool& p = pool();
  const size_t size = rounded(bytes);
  std::lock_guard<std::mutex> lock(p.mutex);
  bool intact = true;
  if (p.guard) {
    const auto* guard = static_cast<unsigned char*>(data) + bytes;
    for (size_t i = 0; i < kGuard; i++) intact = intact && guard[i] == kGuardByte;
  }
  p.free[size].push_back(data);
  p.stats.live -= int64_t(size);
  if (!intact) throw std::runtime_error("a kernel wrote beyond a tensor of " + std::to_string(bytes) + " bytes");
}

float* allocateScale() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  if (p.scales.empty()) {
    constexpr int count = 256;
    auto* slab = static_cast<float*>(std::aligned_alloc(64, count * 4 * sizeof(float)));
    if (!slab) throw std::bad_alloc();
    for (int i = count - 1; i >= 0; i--) p.scales.push_back(slab + 4 * i);
  }
  float* block = p.scales.back();
  p.scales.pop_back();
  block[0] = block[1] = 1.0f;
  block[2] = block[3] = 0.0f;
  return block;
}

void releaseScale(float* block) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.scales.push_back(block);
}

void copyIn(void* device, const void* host, size_t bytes) { std::memcpy(device, host, bytes); }
void copyOut(void* host, const void* device, size_t bytes) { std::memcpy(host, device, bytes); }
void copy(void* to, const void* from, size_t bytes) { std::memmove(to, from, bytes); }
void synchronize() {}

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
