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
    for (; k + 4 * W <= s.k; k += 4 * W) {
      F bv[4];
      loadFour<S, kind>(b + k * bytes, bv);
      FP8_UNROLL for (int u = 0; u < 4; ++u) {
        FP8_UNROLL for (int i = 0; i < M; ++i)
          acc[i][u % partial] = S::fma(S::template get<F>(s.rows[i] + k + u * W), bv[u], acc[i][u % partial]);
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
      F bv[NV];
      load(b, bv);
      FP8_UNROLL for (int i = 0; i < M; ++i) {
        const F av = S::set1(s.rows[i][k]);
        FP8_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = S::fma(av, bv[j], acc[i][j]);
      }
    }
    for (int i = 0; i < M; ++i) memcpy(s.out[i] + n, acc[i], size_t(count) * sizeof(float));
  };
  for (; n + NV * W <= end; n += NV * W)
    columns(NV * W, [](const char* b, F* out) __attribute__((always_inline)) { loadFour<S, kind>(b, out); });
  if (n < end) {
    alignas(64) char corner[NV * W * bytes] = {};
    const int64_t left = end - n;
    columns(left, [&](const char* b, F* out) __attribute__((always_inline)) {
      memcpy(corner, b, size_t(left * bytes));
      loadFour<S, kind>(corner, out);
    });
  }
}

}  // namespace fp8lm
