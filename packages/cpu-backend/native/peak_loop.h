// The register-only loop behind measurePeakGflops: independent chains of one multiply-add instruction.
#pragma once
#include "gemm_simd.h"

namespace fp8lm {

template <class S, int chains> FP8_INLINE double peakLoop(long rounds) {
  using F = typename S::F;
  F acc[chains];
  FP8_UNROLL for (int i = 0; i < chains; ++i) acc[i] = S::set1(float(i));
  F a = S::set1(0.5f), b = S::set1(1e-3f);
  asm volatile("" : "+x"(a), "+x"(b));
  for (long r = 0; r < rounds; ++r) {
    FP8_UNROLL for (int u = 0; u < 4; ++u) {
      FP8_UNROLL for (int i = 0; i < chains; ++i) acc[i] = S::mac(acc[i], a, b);
    }
  }
  float total = 0;
  for (int i = 0; i < chains; ++i) total += acc[i][0];
  volatile float sink = total;  // keeps the loop
  (void)sink;
  return double(rounds) * 4 * chains * S::width * S::kUnit * 2;
}

}  // namespace fp8lm
