// Sixteen floats at a time on every instruction set. A kernel body is written once against F32 and I32 and compiled three
// times; the compiler flags of the file that includes it choose the namespace and the registers behind a value:
//
//   avx512   one 16-float register      (F, BW, DQ, VL)
//   avx2     two 8-float registers      (AVX2, FMA, F16C)
//   generic  four 4-float registers     (the compiler's baseline, SSE2 on x86-64)
//
// A value has 16 lanes everywhere, so a reduction adds the same numbers in the same order on every instruction set, and
// kernels that avoid mulAdd, recip and exp give the same bits on all three. lanes.h has the arithmetic, formats.h loads and
// stores; here are loops over vectors, their tails, and reductions.
//
// Translation units with their own flags must not emit code that the linker could share with others: no standard
// library here, everything is always_inline, float8.h is static.
#pragma once
#include "../../fp8-kernels/native/float8.h"
#include "../../fp8-kernels/native/math.h"
#include "../../fp8-kernels/native/tensor.h"
#include "formats.h"

namespace fp8lm::FP8_VEC {

// --- tails: the first `count` (0..16) lanes ----------------------------------------------------------------------------
template <class T> FP8_INLINE F32 loadTail(const T* p, int64_t count) {
  T buffer[kLanes] = {};
  memcpy(static_cast<void*>(buffer), p, size_t(count) * sizeof(T));
  return load(buffer);
}

template <class T> FP8_INLINE void storeTail(T* p, F32 x, int64_t count) {
  T buffer[kLanes];
  store(buffer, x);
  memcpy(static_cast<void*>(p), buffer, size_t(count) * sizeof(T));
}

/// body(i, kLanes) for each full vector of [begin, end), then body(i, rest) once if a rest is left. Use with loadAt and
/// storeAt, whose partial forms the compiler drops where `count` is the constant kLanes.
template <class F> FP8_INLINE void forVectors(int64_t begin, int64_t end, F body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, int64_t(kLanes));
  if (i < end) body(i, end - i);
}

template <class T> FP8_INLINE F32 loadAt(const T* p, int64_t i, int64_t count) {
  return count == kLanes ? load(p + i) : loadTail(p + i, count);
}

template <class T> FP8_INLINE void storeAt(T* p, int64_t i, F32 x, int64_t count) {
  if (count == kLanes) store(p + i, x);
  else storeTail(p + i, x, count);
}

/// Zero in all lanes from `count` on.
FP8_INLINE F32 firstLanes(F32 x, int64_t count) {
  if (count == kLanes) return x;
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t i = count; i < kLanes; i++) lanes[i] = 0.0f;
  return load(lanes);
}

/// Asks for the line `bytes` ahead of p. The hardware's own prefetch stops at each 4 KiB, which halves the speed of a loop
/// over few streams.
FP8_INLINE void prefetch(const void* p, int64_t bytes = 2048) { __builtin_prefetch(static_cast<const char*>(p) + bytes); }

// --- reductions over the lanes, in one order on every instruction set ---------------------------------------------------
FP8_INLINE float sumLanes(F32 x) {
  float y[kLanes];
  store(y, x);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) y[i] += y[i + half];
  return y[0];
}

/// The largest lane; NaN anywhere may or may not win.
FP8_INLINE float maxLanes(F32 x) {
  float y[kLanes];
  store(y, x);
  for (int i = 1; i < kLanes; i++) y[0] = y[i] > y[0] ? y[i] : y[0];
  return y[0];
}

FP8_INLINE int32_t maxLanes(I32 x) {
  int32_t y[kLanes];
  store(y, x);
  for (int i = 1; i < kLanes; i++) y[0] = y[i] > y[0] ? y[i] : y[0];
  return y[0];
}

FP8_INLINE int64_t sumLanes(I32 x) {
  int32_t y[kLanes];
  store(y, x);
  int64_t sum = 0;
  for (int i = 0; i < kLanes; i++) sum += y[i];
  return sum;
}

/// Sixteen float64 accumulators.
struct F64 {
  vd v[kLanes * 2 / kWidth] = {};
};

namespace reg {
#if FP8_VEC_AVX512
FP8_INLINE vd lower(vf x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
FP8_INLINE vd upper(vf x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
#elif FP8_VEC_AVX2
FP8_INLINE vd lower(vf x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
FP8_INLINE vd upper(vf x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
#else
FP8_INLINE vd lower(vf x) { return vd{x[0], x[1]}; }
FP8_INLINE vd upper(vf x) { return vd{x[2], x[3]}; }
#endif
}  // namespace reg

FP8_INLINE F64 toDouble(F32 x) {
#if FP8_VEC_AVX512
  return {{reg::lower(x.a), reg::upper(x.a)}};
#elif FP8_VEC_AVX2
  return {{reg::lower(x.a), reg::upper(x.a), reg::lower(x.b), reg::upper(x.b)}};
#else
  return {{reg::lower(x.a), reg::upper(x.a), reg::lower(x.b), reg::upper(x.b), reg::lower(x.c), reg::upper(x.c),
           reg::lower(x.d), reg::upper(x.d)}};
#endif
}

FP8_INLINE F64 operator+(F64 x, F64 y) {
  F64 z;
  for (int i = 0; i < kLanes * 2 / kWidth; i++) z.v[i] = x.v[i] + y.v[i];
  return z;
}

FP8_INLINE F64 operator*(F64 x, F64 y) {
  F64 z;
  for (int i = 0; i < kLanes * 2 / kWidth; i++) z.v[i] = x.v[i] * y.v[i];
  return z;
}

FP8_INLINE double sumLanes(F64 x) {
  double y[kLanes];
  memcpy(y, &x, sizeof y);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) y[i] += y[i + half];
  return y[0];
}

}  // namespace fp8lm::FP8_VEC
