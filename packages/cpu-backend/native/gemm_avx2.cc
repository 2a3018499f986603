// The AVX2 + FMA + F16C variant.
#include <immintrin.h>

#include "gemm_table.h"
#include "peak.h"
#include "peak_loop.h"

namespace fp8lm {
namespace {

struct Avx2 : Vec<8> {
  static FP8_INLINE F set1(float x) { return _mm256_set1_ps(x); }
  static FP8_INLINE F broadcast(const uint32_t* p) { return _mm256_set1_ps(get<float>(p)); }
  static FP8_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static FP8_INLINE F mac(F acc, F a, F b) {  // in assembly for the reason given in gemm_simd_avx512.h
    asm("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
    return acc;
  }
  static FP8_INLINE U widen(B b) { return (U)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)b)); }
  static FP8_INLINE F fromF16(H h) { return _mm256_cvtph_ps((__m128i)h); }
  static FP8_INLINE H toF16(F v) { return (H)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static FP8_INLINE H toBf16(F v) {
    const __m256i words = _mm256_srli_epi32((__m256i)roundBits(v), 16);
    return (H)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08));
  }

  static FP8_INLINE void transpose(F* r) {
    F s[8];
    FP8_UNROLL for (int i = 0; i < 8; i += 4) {
      const F a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
      const F c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
      s[i] = _mm256_shuffle_ps(a, c, 0x44);
      s[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      s[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      s[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    FP8_UNROLL for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
    }
  }
};

}  // namespace

const GemmKernels& gemmAvx2() {
  static const GemmKernels table = makeTable<Avx2, 4, 3>("avx2");
  return table;
}

double peakAvx2(long rounds) { return peakLoop<Avx2, 12>(rounds); }

}  // namespace fp8lm
