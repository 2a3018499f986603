// Host memory under a caching allocator. Blocks from 2 MiB on are huge-page aligned and ask for huge pages, which the GEMM's
// strided reads need. FP8_GUARD=1 puts a 64-byte guard after each tensor and checks it when the tensor is freed.
#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pool.h"
#include "tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fp8lm::memory {
namespace {

constexpr size_t kHuge = size_t(2) << 20, kMapped = size_t(256) << 10, kGuard = 64;
constexpr unsigned char kGuardByte = 0xa5;

bool guarded() {
  static const bool on = [] {
    const char* v = std::getenv("FP8_GUARD");
    return v && *v == '1';
  }();
  return on;
}

struct Host {
  static size_t rounded(size_t bytes) {
    const size_t step = bytes >= 65536 ? 4096 : 64;
    bytes += guarded() ? kGuard : 0;
    return bytes == 0 ? 64 : (bytes + step - 1) / step * step;
  }

  /// Blocks from kMapped on are mapped one by one, so that trim really returns them: malloc would keep what lies below a
  /// block still in use. From 2 MiB on they are huge-page aligned.
  static void* take(size_t size) {
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

  static void give(void* block, size_t size) {
#if defined(__linux__)
    if (size >= kMapped) {
      munmap(block, size);
      return;
    }
#endif
    std::free(block);
  }

  static void beforeGiving() {}

  /// A new size while much lies idle: another batch size, an evaluation.
  static bool isIdle(const Stats& s) {
    const int64_t idle = s.reserved - s.live;
    return idle > (int64_t(256) << 20) && idle > s.live / 2;
  }

  static void renew(std::vector<float*>& scales) {
    constexpr int count = 256;
    if (scales.size() < count / 4) {
      auto* slab = static_cast<float*>(std::aligned_alloc(64, count * kScaleBlock * sizeof(float)));
      if (!slab) throw std::bad_alloc();
      for (int i = 0; i < count; i++) scales.push_back(slab + kScaleBlock * i);
    }
    for (float* const block : scales) {
      block[kScaleInv] = block[kScale] = 1.0f;
      block[kAmax] = block[kSaturated] = 0.0f;
    }
  }
};

// Never destroyed: worker threads may free at exit.
Pool<Host>& pool() {
  static auto* p = new Pool<Host>;
  return *p;
}

}  // namespace

void* allocate(size_t bytes) {
  void* const data = pool().allocate(bytes);
  if (guarded()) std::memset(static_cast<char*>(data) + bytes, kGuardByte, kGuard);
  return data;
}

void release(void* data, size_t bytes) {
  bool intact = true;
  if (guarded()) {
    const auto* guard = static_cast<unsigned char*>(data) + bytes;
    for (size_t i = 0; i < kGuard; i++) intact = intact && guard[i] == kGuardByte;
  }
  pool().release(data, bytes);
  if (!intact) throw std::runtime_error("a kernel wrote beyond a tensor of " + std::to_string(bytes) + " bytes");
}

float* allocateScale() { return pool().allocateScale(); }
void releaseScale(float* block) { pool().releaseScale(block); }

void copyIn(void* device, const void* host, size_t bytes) { std::memcpy(device, host, bytes); }
void copyOut(void* host, const void* device, size_t bytes) { std::memcpy(host, device, bytes); }
void copy(void* to, const void* from, size_t bytes) { std::memmove(to, from, bytes); }
void synchronize() {}

Stats stats() { return pool().stats(); }
void resetPeak() { pool().resetPeak(); }
void trim() { pool().trim(); }

}  // namespace fp8lm::memory
