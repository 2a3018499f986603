// From raw float sums to C: v = alpha * sum [+ bias] [+ C], rounded once to C's dtype, with max |C| as written.
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

template <class S, DType type>
void epilogueTyped(const Epilogue& e, const float* tile, int64_t stride, int64_t row, int64_t col, int rows, int64_t cols,
                   uint32_t* amax) {
  using F = typename S::F;
  using C = CType<S, type>;
  using T = typename C::T;
  constexpr int W = S::width;
  const F alpha = S::set1(e.alpha);
  typename S::U most{};
  const auto value = [&](const float* sums, const float* bias, const T* old) __attribute__((always_inline)) {
    F v = S::mul(S::template get<F>(sums), alpha);
    if (bias) v = S::add(v, S::template get<F>(bias));
    if (e.accumulate) v = S::add(v, C::load(old));
    return v;
  };
  for (int i = 0; i < rows; ++i) {
    const float* sums = tile + i * stride;
    T* c = static_cast<T*>(e.c) + (row + i) * e.ldc + col;
    int64_t j = 0;
    for (; j + W <= cols; j += W) {
      const F written = C::store(c + j, value(sums + j, e.bias ? e.bias + col + j : nullptr, c + j));
      if (amax) most = S::absMax(most, written);
    }
    if (j < cols) {  // ragged end by way of small zeroed copies
      const size_t left = size_t(cols - j);
      float s[W] = {}, bias[W] = {};
      T old[W] = {};
      memcpy(s, sums + j, left * sizeof(float));
      if (e.bias) memcpy(bias, e.bias + col + j, left * sizeof(float));
      if (e.accumulate) memcpy(old, c + j, left * sizeof(T));
      const F written = C::store(old, value(s, e.bias ? bias : nullptr, old));
      memcpy(c + j, old, left * sizeof(T));
      if (amax) most = S::absMax(most, written);
    }
  }
  if (amax) {
    uint32_t lanes[W];
    memcpy(lanes, &most, sizeof lanes);
    for (uint32_t bits : lanes) *amax = bits > *amax ? bits : *amax;
  }
}

template <class S>
void epilogue(const Epilogue& e, const float* tile, int64_t stride, int64_t row, int64_t col, int rows, int64_t cols,
              uint32_t* amax) {
  if (e.cType == DType::f32) epilogueTyped<S, DType::f32>(e, tile, stride, row, col, rows, cols, amax);
  else if (e.cType == DType::bf16) epilogueTyped<S, DType::bf16>(e, tile, stride, row, col, rows, cols, amax);
  else epilogueTyped<S, DType::f16>(e, tile, stride, row, col, rows, cols, amax);
}

}  // namespace fp8lm
