// From raw float sums to C: v = alpha * sum [+ bias] [+ C], rounded once to C's dtype, with max |C| as written. Whole tiles go
// from the micro-kernel's registers (gemm_micro.h), ragged ones by way of a tile in memory: epilogue().
#pragma once
#include "gemm_simd.h"

namespace fp8lm {

template <class S, DType type> struct CType;
template <class S> struct CType<S, DType::f32> {
  using T = float;
  static FP8_INLINE typename S::F load(const T* p) { return S::template get<typename S::F>(p); }
  /// Stores v and returns the value that reading it back gives.
  static FP8_INLINE typename S::F store(T* p, typename S::F v) {
    S::put(p, v);
    return v;
  }
};
template <class S> struct CType<S, DType::bf16> {
  using T = uint16_t;
  static FP8_INLINE typename S::F load(const T* p) { return S::fromBf16(S::template get<typename S::H>(p)); }
  static FP8_INLINE typename S::F store(T* p, typename S::F v) {
    const typename S::H h = S::toBf16(v);
    S::put(p, h);
    return S::fromBf16(h);
  }
};
template <class S> struct CType<S, DType::f16> {
  using T = uint16_t;
  static FP8_INLINE typename S::F load(const T* p) { return S::fromF16(S::template get<typename S::H>(p)); }
  static FP8_INLINE typename S::F store(T* p, typename S::F v) {
    const typename S::H h = S::toF16(v);
    S::put(p, h);
    return S::fromF16(h);
  }
};

/// Writes C a vector at a time.
template <class S, DType type> struct Writer {
  using F = typename S::F;
  using T = typename CType<S, type>::T;
  const F alpha;
  const bool accumulate, wantsAmax;
  typename S::U most{};

  FP8_INLINE Writer(const Epilogue& e, bool amax) : alpha(S::set1(e.alpha)), accumulate(e.accumulate), wantsAmax(amax) {}

  /// c = alpha * sums [+ bias] [+ c]; bias may be null.
  FP8_INLINE void write(F sums, const float* bias, T* c) {
    F v = S::mul(sums, alpha);
    if (bias) v = S::add(v, S::template get<F>(bias));
    if (accumulate) v = S::add(v, CType<S, type>::load(c));
    const F written = CType<S, type>::store(c, v);
    if (wantsAmax) most = S::absMax(most, written);
  }

  /// Raises *amax to the bits of what was written.
  FP8_INLINE void report(uint32_t* amax) const {
    uint32_t lanes[S::width];
    memcpy(lanes, &most, sizeof lanes);
    for (uint32_t bits : lanes) *amax = bits > *amax ? bits : *amax;
  }
};

template <class S, DType type>
void epilogueTyped(const Epilogue& e, const float* tile, int64_t stride, int64_t row, int64_t col, int rows, int64_t cols,
                   uint32_t* amax) {
  using F = typename S::F;
  using T = typename CType<S, type>::T;
  constexpr int W = S::width;
  Writer<S, type> writer(e, amax);
  for (int i = 0; i < rows; ++i) {
    const float* sums = tile + i * stride;
    T* c = static_cast<T*>(e.c) + (row + i) * e.ldc + col;
    int64_t j = 0;
    for (; j + W <= cols; j += W) writer.write(S::template get<F>(sums + j), e.bias ? e.bias + col + j : nullptr, c + j);
    if (j < cols) {  // ragged end by way of small zeroed copies
      const size_t left = size_t(cols - j);
      float s[W] = {}, bias[W] = {};
      T old[W] = {};
      memcpy(s, sums + j, left * sizeof(float));
      if (e.bias) memcpy(bias, e.bias + col + j, left * sizeof(float));
      if (e.accumulate) memcpy(old, c + j, left * sizeof(T));
      writer.write(S::template get<F>(s), e.bias ? bias : nullptr, old);
      memcpy(c + j, old, left * sizeof(T));
    }
  }
  if (amax) writer.report(amax);
}

template <class S>
void epilogue(const Epilogue& e, const float* tile, int64_t stride, int64_t row, int64_t col, int rows, int64_t cols,
              uint32_t* amax) {
  if (e.cType == DType::f32) epilogueTyped<S, DType::f32>(e, tile, stride, row, col, rows, cols, amax);
  else if (e.cType == DType::bf16) epilogueTyped<S, DType::bf16>(e, tile, stride, row, col, rows, cols, amax);
  else epilogueTyped<S, DType::f16>(e, tile, stride, row, col, rows, cols, amax);
}

}  // namespace fp8lm
