// One to four rows of A times B, without packing: every element of B is read once, decoded in registers and used for all
// rows, so that memory is the limit (token-by-token generation). The sums are float32 FMAs in every variant.
#pragma once
#include "gemm_simd.h"

namespace fp8lm {

template <class S, Kind kind> void decodeRow(const void* source, int64_t stride, int64_t count, float* out) {
  using F = typename S::F;
  constexpr int W = S::width;
  constexpr int64_t bytes = bytesOf(kind);
  const char* p = static_cast<const char*>(source);
  int64_t i = 0;
  if (stride == 1)
    for (; i + W <= count; i += W) S::put(out + i, loadElements<S, kind>(p + i * bytes));
  alignas(64) char corner[W * bytes] = {};
  for (; i < count; ++i) {
    memcpy(corner, p + i * stride * bytes, size_t(bytes));
    const F v = loadElements<S, kind>(corner);
    out[i] = v[0];
  }
}

/// B stored [n, k]: dot products along k, four partial sums a row, added in a fixed tree.
template <class S, Kind kind, int M> void skinnyAlongK(const Skinny& s, int64_t begin, int64_t end) {
  using F = typename S::F;
  constexpr int W = S::width, partial = M == 1 ? 4 : 2;
  constexpr int64_t bytes = bytesOf(kind);
  for (int64_t n = begin; n < end; ++n) {
    const char* b = static_cast<const char*>(s.b) + n * s.ld * bytes;
    F acc[M][partial];
    FP8_UNROLL for (int i = 0; i < M * partial; ++i) acc[i / partial][i % partial] = S::zero();
    int64_t k = 0;
    for (; k + partial * W <= s.k; k += partial * W) {
      FP8_UNROLL for (int u = 0; u < partial; ++u) {
        const F bv = loadElements<S, kind>(b + (k + u * W) * bytes);
        FP8_UNROLL for (int i = 0; i < M; ++i)
          acc[i][u] = S::fma(S::template get<F>(s.rows[i] + k + u * W), bv, acc[i][u]);
      }
    }
    for (; k < s.k; k += W) {
      const int64_t left = s.k - k < W ? s.k - k : W;
      alignas(64) char corner[W * bytes] = {};
      memcpy(corner, b + k * bytes, size_t(left * bytes));
      const F bv = loadElements<S, kind>(corner);
      for (int i = 0; i < M; ++i) {
        float av[W] = {};
        memcpy(av, s.rows[i] + k, size_t(left) * sizeof(float));
        acc[i][0] = S::fma(S::template get<F>(av), bv, acc[i][0]);
      }
    }
    FP8_UNROLL for (int i = 0; i < M; ++i) {
      F total = S::add(acc[i][0], acc[i][1]);
      if constexpr (partial == 4) total = S::add(total, S::add(acc[i][2], acc[i][3]));
      s.out[i][n] = S::sum(total);
    }
  }
}

/// B stored [k, n]: 4 vectors of columns at a time run down k.
template <class S, Kind kind, int M> void skinnyAlongN(const Skinny& s, int64_t begin, int64_t end) {
  using F = typename S::F;
  constexpr int W = S::width, NV = 4;
  constexpr int64_t bytes = bytesOf(kind);
  int64_t n = begin;
  const auto columns = [&](int64_t count, auto load) __attribute__((always_inline)) {
    F acc[M][NV];
    FP8_UNROLL for (int i = 0; i < M * NV; ++i) acc[i / NV][i % NV] = S::zero();
    const char* b = static_cast<const char*>(s.b) + n * bytes;
    for (int64_t k = 0; k < s.k; ++k, b += s.ld * bytes) {
      FP8_UNROLL for (int j = 0; j < NV; ++j) {
        const F bv = load(b, j);
        FP8_UNROLL for (int i = 0; i < M; ++i) acc[i][j] = S::fma(S::set1(s.rows[i][k]), bv, acc[i][j]);
      }
    }
    for (int i = 0; i < M; ++i) memcpy(s.out[i] + n, acc[i], size_t(count) * sizeof(float));
  };
  for (; n + NV * W <= end; n += NV * W)
    columns(NV * W, [](const char* b, int j) { return loadElements<S, kind>(b + j * W * bytes); });
  if (n < end) {
    alignas(64) char corner[NV * W * bytes] = {};
    const int64_t left = end - n;
    columns(left, [&](const char* b, int j) {
      if (j == 0) memcpy(corner, b, size_t(left * bytes));
      return loadElements<S, kind>(corner + j * W * bytes);
    });
  }
}

}  // namespace fp8lm
