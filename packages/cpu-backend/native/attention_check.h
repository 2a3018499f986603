// Shared by attention_bench.cc and the checks it includes: guarded buffers, comparison, timing.
#pragma once
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "isa.h"
#include "kernels.gen.h"
#include "philox.h"
#include "threads.h"

namespace fp8lm::check {

constexpr size_t kGuard = 128;

/// A tensor between guard bytes; values go in and out as float64. Aligned to the element only, as views into memory may
/// be.
struct Buffer {
  DType dtype;
  int64_t n;
  std::vector<unsigned char> bytes;
  float block[kScaleBlock] = {1, 1, 0, 0};

  Buffer(DType type, int64_t count) : dtype(type), n(count), bytes(size_t(count * bytesOf(type)) + 2 * kGuard, 0xa5) {}
  Buffer(DType type, int64_t count, uint64_t seed, double spread = 1.0) : Buffer(type, count) {
    const PhiloxKey key = philoxKey(seed);
    for (int64_t i = 0; i < n; i++) set(i, spread * philoxNormal(philox(key, uint64_t(i), 77)));
  }

  char* data() { return reinterpret_cast<char*>(bytes.data()) + kGuard; }
  const char* data() const { return reinterpret_cast<const char*>(bytes.data()) + kGuard; }
  template <class T> T at(int64_t i) const {
    T x;
    std::memcpy(&x, data() + i * int64_t(sizeof(T)), sizeof(T));
    return x;
  }
  template <class T> void put(int64_t i, T x) { std::memcpy(data() + i * int64_t(sizeof(T)), &x, sizeof(T)); }

  void set(int64_t i, double x) {
    const float f = float(x) * block[kScale];
    switch (dtype) {
      case DType::f32: return put(i, f);
      case DType::bf16: return put(i, encodeBF16(f));
      case DType::f16: return put(i, encodeF16(f, true));
      case DType::e4m3: return put(i, encodeE4M3(f));
      case DType::e5m2: return put(i, encodeE5M2(f));
      default: return put(i, int32_t(x));
    }
  }
  double get(int64_t i) const {
    switch (dtype) {
      case DType::f32: return double(at<float>(i));
      case DType::bf16: return double(decodeBF16(at<uint16_t>(i)));
      case DType::f16: return double(decodeF16(at<uint16_t>(i)) * block[kScaleInv]);
      case DType::e4m3: return double(decodeE4M3(at<uint8_t>(i)) * block[kScaleInv]);
      case DType::e5m2: return double(decodeE5M2(at<uint8_t>(i)) * block[kScaleInv]);
      default: return double(at<int32_t>(i));
    }
  }
  std::vector<double> values() const {
    std::vector<double> x(size_t(n), 0.0);
    for (int64_t i = 0; i < n; i++) x[size_t(i)] = get(i);
    return x;
  }
  bool intact() const {
    for (size_t i = 0; i < kGuard; i++)
      if (bytes[i] != 0xa5 || bytes[bytes.size() - 1 - i] != 0xa5) return false;
    return true;
  }
  Tensor tensor() {
    const bool scaled = dtype == DType::f16 || dtype == DType::e4m3 || dtype == DType::e5m2;
    return {data(), n, dtype, scaled ? block : nullptr};
  }
};

inline const Tensor kNone{nullptr, 0, DType::f32, nullptr};

struct Counter {
  int64_t checks = 0, failures = 0;
  double worst = 0;  // largest error / tolerance met
};
inline Counter counter;

inline void fact(bool ok, const std::string& what) {
  counter.checks++;
  if (ok) return;
  if (counter.failures++ < 20) std::printf("  FAIL %s (%s, %d threads)\n", what.c_str(), isaName(isa()), numThreads());
}

/// |got - want| <= tolerance * (|want| + size), where `size` is the typical magnitude (default: the largest |want|).
inline void close(const Buffer& got, const std::vector<double>& want, double tolerance, const std::string& what,
                  double size = 0) {
  for (double w : want)
    if (size == 0 || std::fabs(w) > size) size = std::isfinite(w) ? std::fabs(w) : size;
  double worst = 0;
  int64_t where = -1;
  for (int64_t i = 0; i < got.n; i++) {
    const double w = want[size_t(i)], g = got.get(i);
    if (std::isnan(w) && std::isnan(g)) continue;
    const double e = std::fabs(g - w) / (tolerance * (std::fabs(w) + size + 1e-30));
    if (!(e <= worst)) worst = e, where = i;
    if (std::isnan(e)) break;
  }
  if (worst > counter.worst) counter.worst = worst;
  char text[160] = "";
  if (!(worst <= 1))
    std::snprintf(text, sizeof text, ": element %lld is %.9g, expected %.9g (%.2f of the tolerance)",
                  static_cast<long long>(where), got.get(where), want[size_t(where)], worst);
  fact(worst <= 1, what + text);
  fact(got.intact(), what + ": guard bytes overwritten");
}

/// |got - want| <= error, element by element.
inline void within(const Buffer& got, const std::vector<double>& want, const std::vector<double>& error,
                   const std::string& what) {
  double worst = 0;
  int64_t where = -1;
  for (int64_t i = 0; i < got.n; i++) {
    const double e = std::fabs(got.get(i) - want[size_t(i)]) / (error[size_t(i)] + 1e-30);
    if (!(e <= worst)) worst = e, where = i;
    if (std::isnan(e)) break;
  }
  if (worst > counter.worst) counter.worst = worst;
  char text[160] = "";
  if (!(worst <= 1))
    std::snprintf(text, sizeof text, ": element %lld is %.9g, expected %.9g +- %.2g", static_cast<long long>(where),
                  got.get(where), want[size_t(where)], error[size_t(where)]);
  fact(worst <= 1, what + text);
  fact(got.intact(), what + ": guard bytes overwritten");
}

/// Now, in seconds: of CPU time on one thread (neighbours on a shared machine do not count), else of the clock.
inline double now() {
  if (numThreads() == 1) return double(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds of the fastest of at least 5 calls and 0.3 s.
template <class F> double seconds(F run) {
  double total = 0, best = 1e30;
  run();
  for (int i = 0; i < 5 || total < 0.3; i++) {
    const double start = now();
    run();
    const double t = now() - start;
    total += t;
    best = t < best ? t : best;
  }
  return best;
}

}  // namespace fp8lm::check
