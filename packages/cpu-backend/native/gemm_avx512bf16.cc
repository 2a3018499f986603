// The AVX512_BF16 variant: panels of bf16 pairs, multiplied and summed by vdpbf16ps (which flushes subnormals to zero).
#include "gemm_simd_avx512.h"
#include "gemm_table.h"
#include "peak.h"
#include "peak_loop.h"

namespace fp8lm {
namespace {

struct Avx512Dot : Avx512 {
  static constexpr int kUnit = 2;
  static FP8_INLINE F mac(F acc, F a, F b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
};

}  // namespace

const GemmKernels& gemmAvx512Dot() {
  static const GemmKernels table = makeTable<Avx512Dot, 8, 3>("avx512dot");
  return table;
}

double peakAvx512Dot(long rounds) { return peakLoop<Avx512Dot, 12>(rounds); }

}  // namespace fp8lm
