// Vec<16> with AVX-512 (F, BW, DQ, VL); shared by the FMA and the dot variant.
#pragma once
#include <immintrin.h>

#include "gemm_simd.h"

namespace fp8lm {

/// Subnormal magnitudes as bf16: e4m3 m * 2^-9, e5m2 m * 2^-16; the index is the code's low bits.
alignas(64) constexpr uint16_t kSmallE4m3[32] = {0x0000, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
alignas(64) constexpr uint16_t kSmallE5m2[32] = {0x0000, 0x3780, 0x3800, 0x3840};

struct Avx512 : Vec<16> {
  static FP8_INLINE F set1(float x) { return _mm512_set1_ps(x); }
  static FP8_INLINE F broadcast(const uint32_t* p) { return _mm512_set1_ps(get<float>(p)); }
  static FP8_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // In assembly so that the sum stays in its register: left to itself gcc 12 picks forms of the FMA that overwrite a
  // factor, runs out of registers in the unrolled loop and spills.
  static FP8_INLINE F mac(F acc, F a, F b) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
  }
  static FP8_INLINE U absMax(U amax, F v) {
    return (U)_mm512_max_epu32((__m512i)amax, (__m512i)((U)v & 0x7fffffffu));
  }
  static FP8_INLINE U widen(B b) { return (U)_mm512_cvtepu8_epi32((__m128i)b); }
  static FP8_INLINE F fromF16(H h) { return _mm512_cvtph_ps((__m256i)h); }
  static FP8_INLINE H toF16(F v) { return (H)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
    static FP8_INLINE U roundBits(F v) {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    return (U)_mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
  }
  static FP8_INLINE H toBf16(F v) { return (H)_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)roundBits(v), 16)); }
  static FP8_INLINE F roundBf16(F v) { return (F)(roundBits(v) & 0xffff0000u); }

  /// 32 codes, each in the top byte of its 16-bit word (the low byte is zero), to bf16. Normal codes need a shift and a
  /// new bias; subnormal ones come from a table; all ones (e5m2: all exponents ones) become the bf16 NaN or infinity.
  template <Kind kind> static FP8_INLINE __m512i wordsToBf16(__m512i t) {
    constexpr bool e4 = kind == kE4m3;
    const __m512i b = _mm512_and_si512(_mm512_srai_epi16(t, e4 ? 4 : 3), _mm512_set1_epi16(e4 ? short(0x87f0) : short(0x8fe0)));
    const __mmask32 small = _mm512_testn_epi16_mask(b, _mm512_set1_epi16(e4 ? 0x0780 : 0x0f80));
    const __m512i top = _mm512_set1_epi16(e4 ? 0x07f0 : 0x0f80);
    const __mmask32 special = _mm512_cmpeq_epi16_mask(_mm512_and_si512(b, top), top);
    __m512i c = _mm512_add_epi16(b, _mm512_set1_epi16(e4 ? 0x3c00 : 0x3800));
    c = _mm512_mask_permutexvar_epi16(c, small, _mm512_srli_epi16(b, e4 ? 4 : 5),
                                      _mm512_load_si512(e4 ? kSmallE4m3 : kSmallE5m2));
    c = _mm512_ternarylogic_epi32(c, b, _mm512_set1_epi16(short(0x8000)), 0xf8);  // c | (b & sign)
    return _mm512_mask_blend_epi16(special, c, _mm512_or_si512(c, _mm512_set1_epi16(e4 ? 0x7fc0 : 0x7f80)));
  }
  static FP8_INLINE F fromE4m3Top(U t) { return (F)wordsToBf16<kE4m3>((__m512i)t); }
  static FP8_INLINE F fromE5m2Top(U t) { return (F)wordsToBf16<kE5m2>((__m512i)t); }
  template <Kind kind> static FP8_INLINE void expandFp8(U u, F* out) {
    const __m512i x = (__m512i)u;
    const U even = (U)wordsToBf16<kind>(_mm512_slli_epi16(x, 8));
    const U odd = (U)wordsToBf16<kind>(_mm512_and_si512(x, _mm512_set1_epi16(short(0xff00))));
    out[0] = (F)(even << 16);
    out[1] = (F)(odd << 16);
    out[2] = (F)(even & 0xffff0000u);
    out[3] = (F)(odd & 0xffff0000u);
  }

  template <Kind kind> static FP8_INLINE void loadLineFp8(const void* p, F* out) {
    FP8_UNROLL for (int i = 0; i < 2; ++i) {
      const __m256i codes = _mm256_loadu_si256(static_cast<const __m256i*>(p) + i);
      const __m512i words = wordsToBf16<kind>(_mm512_slli_epi16(_mm512_cvtepu8_epi16(codes), 8));
      out[2 * i] = fromBf16((H)_mm512_castsi512_si256(words));
      out[2 * i + 1] = fromBf16((H)_mm512_extracti64x4_epi64(words, 1));
    }
  }

  static FP8_INLINE void storeHalves(uint32_t* low, uint32_t* high, F v) {
    _mm256_storeu_ps(reinterpret_cast<float*>(high), _mm512_extractf32x8_ps(v, 1));
    _mm256_storeu_ps(reinterpret_cast<float*>(low), _mm512_castps512_ps256(v));
  }
  static FP8_INLINE float sum(F v) { return _mm512_reduce_add_ps(v); }

  static FP8_INLINE void transpose(F* r) {
    F s[16];
    FP8_UNROLL for (int i = 0; i < 16; i += 4) {  // 4 x 4 inside each 128-bit lane
      const F a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
      const F c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
      s[i] = _mm512_shuffle_ps(a, c, 0x44);
      s[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
      s[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      s[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    FP8_UNROLL for (int i = 0; i < 4; ++i) {  // then 4 x 4 of lanes
      const F a = _mm512_shuffle_f32x4(s[i], s[i + 4], 0x88), b = _mm512_shuffle_f32x4(s[i], s[i + 4], 0xdd);
      const F c = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0x88), d = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0xdd);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }
};

}  // namespace fp8lm
