// Shared by the checks of kernels_bench.cc: tensors with guard bytes, random data, scalar views, comparison.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../../../fp8-kernels/native/float8.h"
#include "../../../fp8-kernels/native/kernels.gen.h"
#include "../../../fp8-kernels/native/tensor.h"
#include "../threads.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace check {
using namespace fp8lm;

inline int failures = 0;
inline std::string context;
inline const char* names[] = {"f32", "bf16", "f16", "e4m3", "e5m2", "i32", "u16", "u8"};
inline const DType allTypes[] = {DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2};
inline const int64_t sizes[] = {1, 15, 16, 17, 63, 64, 65, 1000, 4097, 40003};

inline void fail(const std::string& what) {
  if (failures++ < 20) printf("FAIL %s: %s\n", context.c_str(), what.c_str());
}

struct Random {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return uint32_t(state >> 33) ^ uint32_t(state >> 20);
  }
  float uniform() { return float(next() & 0xffffff) / 16777216.0f; }
  /// Roughly normal, with a few values far out and some zeros.
  float value(float spread = 1.0f) {
    const float v = (uniform() + uniform() + uniform() - 1.5f) * 2.0f * spread;
    const uint32_t kind = next() & 255;
    return kind == 0 ? v * 30.0f : kind == 1 ? 0.0f : kind == 2 ? v * 1e-6f : v;
  }
};

/// Puts vectors of 2 MiB and more on huge pages, as the backend's own tensors are.
template <class T> struct HugePages {
  using value_type = T;
  HugePages() = default;
  template <class U> HugePages(const HugePages<U>&) {}
  T* allocate(size_t n) {
    const size_t page = n * sizeof(T) >= (2u << 20) ? 2u << 20 : 64;
    void* const p = std::aligned_alloc(page, (n * sizeof(T) + page - 1) / page * page);
#if defined(__linux__)
    if (page > 64) madvise(p, n * sizeof(T), MADV_HUGEPAGE);
#endif
    return static_cast<T*>(p);
  }
  void deallocate(T* p, size_t) { std::free(p); }
  template <class U> bool operator==(const HugePages<U>&) const { return true; }
  template <class U> bool operator!=(const HugePages<U>&) const { return false; }
};
using Bytes = std::vector<uint8_t, HugePages<uint8_t>>;

/// A tensor with its bytes between guards, filled with 0xcd.
struct Box {
  static constexpr int kGuard = 64;
  Bytes bytes;
  float block[kScaleBlock] = {1, 1, 0, 0};
  Tensor t{nullptr, 0, DType::f32, nullptr};
  Box(DType type, int64_t n, int misalign = 0) {
    bytes.assign(size_t(n * bytesOf(type) + 2 * kGuard + misalign), 0xcd);
    t = Tensor{bytes.data() + kGuard + misalign, n, type, type >= DType::f16 && type <= DType::e5m2 ? block : nullptr};
    if (misalign) offset = misalign;
  }
  int offset = 0;
  Box(const Box& o) : bytes(o.bytes), t(o.t), offset(o.offset) {
    memcpy(block, o.block, sizeof block);
    t.data = bytes.data() + kGuard + offset;
    if (t.scale) t.scale = block;
  }
  Box& operator=(const Box&) = delete;
  bool guarded() const {
    for (int i = 0; i < kGuard; i++)
      if (bytes[size_t(i)] != 0xcd || bytes[bytes.size() - 1 - size_t(i)] != 0xcd) return false;
    return true;
  }
  float raw(int64_t i) const {
    switch (t.dtype) {
      case DType::bf16: return decodeBF16(t.as<uint16_t>()[i]);
      case DType::f16: return decodeF16(t.as<uint16_t>()[i]);
      case DType::e4m3: return decodeE4M3(t.as<uint8_t>()[i]);
      case DType::e5m2: return decodeE5M2(t.as<uint8_t>()[i]);
      default: return t.as<float>()[i];
    }
  }
  float value(int64_t i) const { return t.scale ? raw(i) * block[kScaleInv] : raw(i); }
  void setRaw(int64_t i, float x) {
    switch (t.dtype) {
      case DType::bf16: t.as<uint16_t>()[i] = encodeBF16(x); break;
      case DType::f16: t.as<uint16_t>()[i] = encodeF16(x, true); break;
      case DType::e4m3: t.as<uint8_t>()[i] = encodeE4M3(x); break;
      case DType::e5m2: t.as<uint8_t>()[i] = encodeE5M2(x); break;
      default: t.as<float>()[i] = x;
    }
  }
  void setScale(float s) { block[kScale] = s, block[kScaleInv] = 1.0f / s; }
  void fillRandom(Random& r, float spread = 1.0f) {
    if (t.scale) setScale(scaleFor(spread * 8, maxOf(t.dtype), 1.0f));
    for (int64_t i = 0; i < t.size; i++) setRaw(i, r.value(spread) * (t.scale ? block[kScale] : 1.0f));
  }
};

inline std::string hex(const uint8_t* p, int64_t n) {
  std::string s;
  char b[4];
  for (int64_t i = n - 1; i >= 0; i--) snprintf(b, sizeof b, "%02x", p[i]), s += b;
  return s;
}

/// Same bytes, same scale block, guards intact. Two NaNs are the same.
inline void same(const char* what, const Box& got, const Box& want) {
  if (!got.guarded()) return fail(std::string(what) + " wrote beyond its buffer");
  const int64_t b = bytesOf(got.t.dtype);
  for (int64_t i = 0; i < got.t.size; i++) {
    const uint8_t *g = got.t.as<uint8_t>() + i * b, *w = want.t.as<uint8_t>() + i * b;
    if (memcmp(g, w, size_t(b)) && !(std::isnan(got.raw(i)) && std::isnan(want.raw(i))))
      return fail(std::string(what) + "[" + std::to_string(i) + "] is " + hex(g, b) + ", expected " + hex(w, b));
  }
  if (got.t.scale && memcmp(got.block, want.block, sizeof got.block)) {
    char line[200];
    snprintf(line, sizeof line, "%s scale block {%g %g %g %g}, expected {%g %g %g %g}", what, got.block[0], got.block[1],
             got.block[2], got.block[3], want.block[0], want.block[1], want.block[2], want.block[3]);
    fail(line);
  }
}

/// |got - want| <= tolerance * (|want| + floor), the value being float64 and the box f32, bf16 or fp8.
inline void near(const char* what, const Box& got, const std::vector<double>& want, double tolerance, double floor) {
  if (!got.guarded()) return fail(std::string(what) + " wrote beyond its buffer");
  for (int64_t i = 0; i < got.t.size; i++) {
    const double g = got.value(i), w = want[size_t(i)];
    if (std::isnan(w) ? !std::isnan(g) : !(std::fabs(g - w) <= tolerance * (std::fabs(w) + floor))) {
      char line[160];
      snprintf(line, sizeof line, "%s[%lld] is %.9g, expected %.9g", what, (long long)i, g, w);
      return fail(line);
    }
  }
}

inline double rounding(DType t) {
  return t == DType::f32 ? 3e-6 : t == DType::bf16 ? 0.0041 : t == DType::e4m3 ? 0.0645 : t == DType::e5m2 ? 0.13 : 5e-4;
}

/// f with the whole pool and with one thread.
inline void forThreads(const std::function<void()>& f) {
  const int all = numThreads();
  for (int threads : {1, all > 1 ? all : 2}) {
    setNumThreads(threads);
    f();
  }
  setNumThreads(all);
}

void checkCasts();
void checkAllCasts();
void checkElementwise();
void checkNorms();
void checkOptimizer();
}  // namespace check
