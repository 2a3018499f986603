// The micro-kernel: one MR x (NV * W) tile of C stays in registers while k runs over an A panel and a B panel.
//
// Each step loads NV vectors of B, broadcasts MR values of A from memory and does MR * NV multiply-adds, so that the
// FMA units are the limit: AVX-512 8 x 48 is 24 accumulators, 3 vectors of B, 1 broadcast (11 loads for 24 FMAs, where
// two loads an FMA pair would be allowed); AVX2 4 x 24 uses 12 + 3 + 1 of 16 registers the same way.
// Unrolled by 4: the loop's scalar adds compete with FMAs for ports (measured 0.955 -> 0.97 of the FMA peak). Each round
// of 4 prefetches one line of what comes next (Ahead); spread out like this it costs nothing.
#pragma once
#include "gemm_simd.h"

namespace fp8lm {

template <class S, int MR, int NV>
void micro(int64_t dwords, const uint32_t* a, const uint32_t* b, const float* in, float* out,
           const Ahead& ahead) {
  using F = typename S::F;
  constexpr int W = S::width, NR = NV * W;
  F acc[MR][NV];
  FP8_UNROLL for (int i = 0; i < MR; ++i) {
    FP8_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = S::zero();
  }
  if (in) {
    FP8_UNROLL for (int i = 0; i < MR * NR; i += 16) __builtin_prefetch(in + i);
  }
  const auto step = [&](const uint32_t* pa, const uint32_t* pb) __attribute__((always_inline)) {
    F bv[NV];
    FP8_UNROLL for (int j = 0; j < NV; ++j) bv[j] = S::template get<F>(pb + j * W);
    FP8_UNROLL for (int i = 0; i < MR; ++i) {
      const F av = S::broadcast(pa + i);
      FP8_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = S::mac(acc[i][j], av, bv[j]);
    }
  };
  int64_t p = dwords;
  const char* next = ahead.base;
  const int64_t nextRow = ahead.row, nextGroup = ahead.group - 16 * ahead.row;
  for (int64_t line = 1; p >= 4; p -= 4, a += 4 * MR, b += 4 * NR, ++line) {
    __builtin_prefetch(next, 0, 2);
    next += nextRow + (line % 16 == 0 ? nextGroup : 0);
    FP8_UNROLL for (int u = 0; u < 4; ++u) step(a + u * MR, b + u * NR);
  }
  for (; p > 0; --p, a += MR, b += NR) step(a, b);
  FP8_UNROLL for (int i = 0; i < MR; ++i) {
    FP8_UNROLL for (int j = 0; j < NV; ++j) {
      const int at = i * NR + j * W;
      S::put(out + at, in ? S::add(acc[i][j], S::template get<F>(in + at)) : acc[i][j]);
    }
  }
}

}  // namespace fp8lm
